"""Completions are sampled once for all that they follow from, and again for anything else."""

import json

import pytest
import tiny
import torch

from harness.engines import cached
from harness.engines.base import Request, Sampling
from harness.engines.cached import RememberingEngine
from harness.engines.torch_engine import TorchEngine

REQUESTS = [Request((3, 4, 5 + i % 3), i) for i in range(7)]
SAMPLING = Sampling(1.0, 6)


class Counting(TorchEngine):
    """Really samples, and counts what it was asked for."""

    def __init__(self, policy):
        super().__init__(policy, batch_size=64)
        self.asked = 0

    def generate(self, requests, sampling):
        self.asked += len(requests)
        return super().generate(requests, sampling)


def ask(folder, requests=REQUESTS, sampling=SAMPLING, policy=None, warnings=None):
    """(completions, how many of them were sampled). Lines of warning are put in `warnings`."""
    policy = policy or tiny.policy()
    engine = Counting(policy)
    warn = (warnings if warnings is not None else []).append
    return RememberingEngine(engine, policy, folder, warn).generate(requests, sampling), engine.asked


def test_what_was_sampled_once_is_read_the_second_time(tmp_path):
    first, sampled = ask(tmp_path)
    again, resampled = ask(tmp_path)
    assert again == first
    assert (sampled, resampled) == (7, 0)


@pytest.mark.parametrize("other", ["weights", "seed", "prompt", "temperature", "cap"])
def test_anything_that_completions_follow_from_is_told_apart(tmp_path, other):
    ask(tmp_path)
    policy = tiny.policy(seed=1) if other == "weights" else tiny.policy()
    requests = list(REQUESTS)
    if other == "seed":
        requests[2] = requests[2]._replace(seed=99)
    if other == "prompt":
        requests[2] = requests[2]._replace(prompt_ids=(3, 4))
    sampling = {"temperature": Sampling(0.5, 6), "cap": Sampling(1.0, 5)}.get(other, SAMPLING)
    found, sampled = ask(tmp_path, requests, sampling, policy)
    assert sampled == 7
    assert found == TorchEngine(policy, batch_size=64).generate(requests, sampling)


def test_weights_that_moved_are_hashed_again_after_the_engine_took_them_over(tmp_path):
    policy = tiny.policy()
    engine = Counting(policy)
    remembering_one = RememberingEngine(engine, policy, tmp_path, print)
    remembering_one.generate(REQUESTS, SAMPLING)
    with torch.no_grad():
        next(policy.model.parameters()).add_(0.5)
    remembering_one.sync()
    remembering_one.generate(REQUESTS, SAMPLING)
    assert engine.asked == 14


def rewritten(change):
    """A damage that leaves a file of completions in good form."""

    def damage(text):
        content = json.loads(text)
        change(content)
        return json.dumps(content)

    return damage


DAMAGE = {
    "nothing": lambda text: "",
    "half": lambda text: text[: len(text) // 2],
    "a list": lambda text: "[]",
    "a number": lambda text: "7",
    "no completions": lambda text: "{}",
    "a row too short": rewritten(lambda content: content.update(completions=[["a"]])),
    "another kind of text": rewritten(lambda content: content["completions"][0].__setitem__(2, 3)),
    "another token": rewritten(lambda content: content["completions"][0][0].__setitem__(0, 9)),
    "another log-probability": rewritten(lambda content: content["completions"][0][1].__setitem__(0, -0.5)),
    "another hash": rewritten(lambda content: content.update(sha256="0")),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_named_sampled_again_and_mended(tmp_path, damage):
    first, _ = ask(tmp_path, REQUESTS[:1])
    (path,) = tmp_path.iterdir()
    whole = path.read_text()
    path.write_text(DAMAGE[damage](whole))
    lines = []
    assert ask(tmp_path, REQUESTS[:1], warnings=lines) == (first, 1)
    assert lines == [f"{path}: damaged, its completions are sampled again"]
    assert path.read_text() == whole


def test_what_was_broken_off_goes_on_where_it_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(cached, "CHUNK", 3)
    ask(tmp_path, REQUESTS[:3])
    found, sampled = ask(tmp_path)
    assert sampled == 4
    assert len(found) == 7


def test_a_folder_that_cannot_be_written_costs_nothing_but_time(tmp_path):
    (tmp_path / "file").write_text("in the way")
    found, sampled = ask(tmp_path / "file" / "folder")
    assert (len(found), sampled) == (7, 7)
