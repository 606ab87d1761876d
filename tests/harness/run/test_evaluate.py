"""Downstream evaluation through lm-eval: the verifier's accuracy, the two extractions, and what stays as it was."""

import random
import re
import socket
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch

from harness.config.tables import EvalTable
from harness.engines.base import Request, Sampling
from harness.engines.torch_engine import TorchEngine
from harness.measure.budget import Spent
from harness.run.evaluate import FLEXIBLE_PATTERN, cut_at, evaluate
from reports.record.errors import UserError
from suites.task import Prompt, Reward, Task

CAP = 8
STRICT = r"^([0-9a-f])"
QUESTIONS = [f"{i}{'abcdef'[i % 6] * (i % 4)}+?" for i in range(24)]
SPENT = Spent(steps=3, samples=36, flops=1e6)


def verify(completion, answer):
    """Right where the completion begins with the answer; an empty one has no answer."""
    return Reward(float(completion.startswith(answer)), completion.startswith(answer), completion[:1] or None)


@pytest.fixture(scope="module")
def policy():
    return tiny.policy()


@pytest.fixture(scope="module")
def greedy(policy):
    engine = TorchEngine(policy, batch_size=64)
    wanted = [Request(tuple(policy.tokenizer.encode(text)), 0) for text in QUESTIONS]
    return [c.text for c in engine.generate(wanted, Sampling(0.0, CAP))]


def task_for(greedy, texts=QUESTIONS):
    """Every third answer is what the greedy completion begins with."""
    prompts = [
        Prompt(str(i), text, (said[:1] or "9") if i % 3 == 0 else "nothing")
        for i, (text, said) in enumerate(zip(texts, greedy, strict=True))
    ]
    return Task("tiny", lambda: prompts, lambda: {"held": prompts, "few": prompts[:4]}, verify, STRICT)


@pytest.fixture(scope="module")
def outcome(policy, greedy):
    """An evaluation with the network shut, and the global state before and after it."""

    def refuse(*_):
        raise AssertionError("the network was asked for")

    def state():
        return (
            torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate(),  # noqa: NPY002
            policy.weights_sha256(), policy.model.training, [p.requires_grad for p in policy.model.parameters()],
            torch.is_grad_enabled(), torch.get_num_threads(), policy.pad_id, policy.tokenizer.pad_token_id,
        )  # fmt: skip

    table = EvalTable(tasks=("held", "few"), questions=20)
    engine = TorchEngine(policy, batch_size=64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        torch.manual_seed(11)
        np.random.seed(12)  # noqa: NPY002
        random.seed(13)
        before = state()
        results = evaluate(policy, engine, task_for(greedy), table, label="final", step=3, spent=SPENT, cap=CAP)
        return results, before, state()


def test_global_random_state_and_weights_stay_as_they_were(outcome):
    _, before, after = outcome
    assert after == before


def test_there_is_a_result_per_task_with_what_was_spent(outcome):
    results, _, _ = outcome
    assert [(r["task"], r["questions"]) for r in results] == [("held", 20), ("few", 4)]
    for result in results:
        assert (result["label"], result["step"]) == ("final", 3)
        assert result["spent"]["samples"] == 36
        assert len(result["samples"]) == result["questions"]
        assert set(result["metrics"]) == {
            "accuracy", "exact_match_strict", "exact_match_flexible", "no_answer_fraction", "truncated_fraction",
        }  # fmt: skip


def test_accuracy_is_the_verifiers_over_greedy_completions(outcome, greedy):
    (result, _), _, _ = outcome
    prompts = task_for(greedy).heldout()["held"][:20]
    assert [s["completion"] for s in result["samples"]] == greedy[:20]
    rewards = [verify(said, prompt.answer) for said, prompt in zip(greedy, prompts, strict=False)]
    assert [s["correct"] for s in result["samples"]] == [r.correct for r in rewards]
    assert result["metrics"]["accuracy"] == sum(r.value for r in rewards) / 20
    assert 0 < result["metrics"]["accuracy"] < 1
    assert result["metrics"]["no_answer_fraction"] == sum(not said for said in greedy[:20]) / 20
    assert [(s["id"], s["prompt"]) for s in result["samples"]] == [(p.id, p.text) for p in prompts]


def test_strict_and_flexible_extractions_stand_beside_it(outcome):
    (result, _), _, _ = outcome
    for sample in result["samples"]:
        strict = re.search(STRICT, sample["completion"])
        assert sample["strict"] == float(strict is not None and strict.group(1) == sample["answer"])
        found = [next(filter(None, m)) for m in re.findall(FLEXIBLE_PATTERN, sample["completion"])]
        tidy = re.sub(r",|\$|\.$", "", found[-1]) if found else "[invalid]"
        assert sample["flexible"] == float(tidy == sample["answer"])
    assert 0 < result["metrics"]["exact_match_strict"] < 1
    assert result["metrics"]["exact_match_strict"] == sum(s["strict"] for s in result["samples"]) / 20


def test_evaluating_twice_gives_the_same_result(outcome, policy, greedy):
    (_, first), _, _ = outcome
    engine = TorchEngine(policy, batch_size=2)
    table = EvalTable(tasks=("few",), questions=20)
    assert evaluate(policy, engine, task_for(greedy), table, label="final", step=3, spent=SPENT, cap=CAP) == [first]


def test_a_task_nobody_knows_is_named(policy, greedy, monkeypatch):
    # Reading lm-eval's own index takes a quarter of a minute.
    monkeypatch.setattr("lm_eval.tasks.TaskManager", lambda **_: SimpleNamespace(all_tasks=["gsm8k"]))
    table = EvalTable(tasks=("no_such_task",))
    with pytest.raises(UserError, match=r"'no_such_task' is neither a held-out set .* nor a task of lm-eval"):
        evaluate(policy, TorchEngine(policy, batch_size=4), task_for(greedy), table, label="", step=0, spent=SPENT,
                 cap=CAP)  # fmt: skip


def test_a_completion_is_cut_at_the_first_stop():
    assert cut_at("1;2#3", [";", "#"]) == "1"
    assert cut_at("1;2#3", ["#", ";"]) == "1"
    assert cut_at("1;2#3", ["", "Q:"]) == "1;2#3"
