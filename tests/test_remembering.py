"""Completions are sampled once for all that they follow from, and again for anything else."""

import json

import pytest
import tiny
import torch

from harness.engines import remembering
from harness.engines.base import Request, Sampling
from harness.engines.remembering import RememberingEngine
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


def ask(folder, requests=REQUESTS, sampling=SAMPLING, policy=None):
    """(completions, how many of them were sampled)."""
    policy = policy or tiny.policy()
    engine = Counting(policy)
    return RememberingEngine(engine, policy, folder).generate(requests, sampling), engine.asked


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
    remembering_one = RememberingEngine(engine, policy, tmp_path)
    remembering_one.generate(REQUESTS, SAMPLING)
    with torch.no_grad():
        next(policy.model.parameters()).add_(0.5)
    remembering_one.sync()
    remembering_one.generate(REQUESTS, SAMPLING)
    assert engine.asked == 14


NOT_COMPLETIONS = [
    "", "{", "[]", "7", "null", '[["a"]]', '[[[1], [0.5], 3, false]]', '[[[1], [], "a", false]]',
    '[["1", "2", "a", 0]]', '[[[[]], [0.5], "a", true]]',
]  # fmt: skip


@pytest.mark.parametrize("content", NOT_COMPLETIONS)
def test_a_file_that_holds_something_else_is_sampled_again_and_mended(tmp_path, content):
    first, _ = ask(tmp_path, REQUESTS[:1])
    (path,) = tmp_path.iterdir()
    path.write_text(content)
    again, sampled = ask(tmp_path, REQUESTS[:1])
    assert (again, sampled) == (first, 1)
    assert json.loads(path.read_text())[0][2] == first[0].text


def test_what_was_broken_off_goes_on_where_it_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(remembering, "CHUNK", 3)
    ask(tmp_path, REQUESTS[:3])
    found, sampled = ask(tmp_path)
    assert sampled == 4
    assert len(found) == 7


def test_a_folder_that_cannot_be_written_costs_nothing_but_time(tmp_path):
    (tmp_path / "file").write_text("in the way")
    found, sampled = ask(tmp_path / "file" / "folder")
    assert (len(found), sampled) == (7, 7)
