"""vLLM for real: the trainer's distribution before and after updates, keyed randomness, endings, a clean end."""

from __future__ import annotations

import multiprocessing
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from harness.engines.base import Completion, Request, Sampling
from harness.engines.torch_engine import TorchEngine
from harness.engines.vllm_engine import VllmEngine
from harness.learn.batching import collate
from harness.learn.policy_trainer import logprob_gap, policy_logprobs
from harness.learn.rollout import Rollout
from harness.model.policy import Policy
from reports.record.errors import UserError
from reports.record.journal import read_json, read_lines
from suites.task import Prompt, Reward

TEMPERATURE = 0.8
CAP = 12
LONGEST_PROMPT = 40
# The smallest head that vLLM's attention knows on a CPU.
HEAD_DIM = 32
SAMPLED = Sampling(TEMPERATURE, CAP)
GREEDY = Sampling(0.0, CAP)
# How far kernels of another library are from the trainer's, in nats.
CLOSE = 1e-3


def requests() -> list[Request]:
    """Four samples each of prompts shorter and longer than one block of vLLM's cache."""
    rng = random.Random(0)
    made = []
    for number, length in enumerate((1, 9, 20, 33, LONGEST_PROMPT)):
        ids = tuple(rng.randrange(2, tiny.VOCABULARY) for _ in range(length))
        made += [Request(ids, 2**62 + 1000 * number + sample) for sample in range(4)]
    return made


def engine_for(policy: Policy, folder: Path) -> VllmEngine:
    """The folder names an architecture; its weights are others than the policy's."""
    tiny.policy(seed=9, tied=policy.model.config.tie_word_embeddings, head_dim=HEAD_DIM).save(folder)
    context = LONGEST_PROMPT + CAP
    return VllmEngine(policy, str(folder), dtype="float32", context=context, batch_size=16, memory_gib=0.05)


def process_state() -> dict[str, Any]:
    return {
        "python": random.getstate(), "torch": torch.get_rng_state().tolist(), "threads": torch.get_num_threads(),
        "set_num_threads": torch.set_num_threads, "excepthook": sys.excepthook, "LD_PRELOAD": os.getenv("LD_PRELOAD"),
    }  # fmt: skip


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmEngine]:
    """One for all tests here; they train its policy on. Tied weights are the harder case to keep up with."""
    policy = tiny.policy(temperature=TEMPERATURE, tied=True, head_dim=HEAD_DIM)
    before = process_state()
    made = engine_for(policy, tmp_path_factory.mktemp("architecture"))
    assert process_state() == before
    yield made
    made.close()


def gap(engine: VllmEngine, completions: list[Completion]) -> float:
    """Between the engine's log-probabilities of what it sampled and the trainer's."""
    rollouts = [
        Rollout(Prompt(str(row), "", ""), request.prompt_ids, row, completion, Reward(0.0, False, None))
        for row, (request, completion) in enumerate(zip(requests(), completions, strict=True))
    ]
    batch = collate(engine.policy, rollouts, mask_truncated=False)
    with torch.no_grad():
        return logprob_gap(policy_logprobs(engine.policy, batch), batch)


def change_weights(policy: Policy) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in policy.model.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=generator))


def test_logprobs_are_the_trainers_before_and_after_an_update_and_not_without_a_sync(engine: VllmEngine) -> None:
    first = engine.generate(requests(), SAMPLED)
    assert gap(engine, first) < CLOSE
    change_weights(engine.policy)
    stale = engine.generate(requests(), SAMPLED)
    assert [c.logprobs for c in stale] == [c.logprobs for c in first]
    assert gap(engine, stale) > 100 * CLOSE
    engine.release()
    engine.sync()
    synced = engine.generate(requests(), SAMPLED)
    assert gap(engine, synced) < CLOSE
    assert [c.token_ids for c in synced] != [c.token_ids for c in first]


def test_a_completion_depends_on_its_own_seed_and_prompt_alone(engine: VllmEngine) -> None:
    wanted = requests()
    together = [c.token_ids for c in engine.generate(wanted, SAMPLED)]
    assert [c.token_ids for c in engine.generate(wanted, SAMPLED)] == together
    assert [c.token_ids for c in engine.generate(wanted[::-1], SAMPLED)][::-1] == together
    assert [engine.generate([request], SAMPLED)[0].token_ids for request in wanted[:3]] == together[:3]
    others = [request._replace(seed=request.seed + 1) for request in wanted]
    assert [c.token_ids for c in engine.generate(others, SAMPLED)] != together
    for row in range(0, len(wanted), 4):
        assert len(set(together[row : row + 4])) > 1, "samples of a prompt are alike"


def test_generating_leaves_the_global_random_state_as_it_was(engine: VllmEngine) -> None:
    before = process_state()
    engine.generate(requests(), SAMPLED)
    assert process_state() == before


def test_greedy_completions_are_the_torch_engines(engine: VllmEngine) -> None:
    ours = engine.generate(requests(), GREEDY)
    theirs = TorchEngine(engine.policy, batch_size=64).generate(requests(), GREEDY)
    for one, other in zip(ours, theirs, strict=True):
        assert (one.token_ids, one.text, one.truncated) == (other.token_ids, other.text, other.truncated)
        assert one.logprobs == pytest.approx(other.logprobs, abs=CLOSE)


def test_a_completion_ends_with_its_end_token_or_at_the_cap(engine: VllmEngine) -> None:
    completions = engine.generate(requests(), SAMPLED)
    assert {c.truncated for c in completions} == {True, False}
    for completion in completions:
        assert tiny.EOS not in completion.token_ids[:-1]
        assert (completion.token_ids[-1] != tiny.EOS) == completion.truncated
        assert len(completion.token_ids) == CAP or not completion.truncated
        assert completion.text == engine.policy.decode(completion.token_ids)
    fixed = engine.generate(requests(), SAMPLED._replace(ignore_eos=True))
    assert {len(c.token_ids) for c in fixed} == {CAP}
    assert any(tiny.EOS in c.token_ids[:-1] for c in fixed)
    assert all(c.truncated for c in fixed)


def test_a_prompt_without_room_for_its_completion_is_refused_by_name(engine: VllmEngine) -> None:
    with pytest.raises(UserError, match=r"a prompt of 41 tokens and a completion of 12 exceed the engine's 52; raise"):
        engine.generate([Request((2,) * (LONGEST_PROMPT + 1), 0)], SAMPLED)


@pytest.mark.parametrize(
    ("algorithm", "tables"),
    [
        ("grpo", {}),
        ("grpo", {"update": {"epochs": 2}}),
        ("grpo", {"kl": {"coefficient": 0.1, "placement": "reward", "estimator": "k1"}}),
        ("ppo", {"critic": {"warmup_steps": 1}}),
        ("ppo", {"critic": {"kind": "shared"}, "update": {"minibatches": 2}}),
    ],
)
def test_every_training_step_holds_the_engine_against_the_trainer(
    engine: VllmEngine, algorithm: str, tables: dict[str, Any]
) -> None:
    update = {"learning_rate": 1e-2, "importance_cap": 2.0, **tables.get("update", {})}
    rollout = {"max_completion_tokens": CAP, "temperature": TEMPERATURE}
    settings = tiny.spec(algorithm, **{**tables, "update": update, "rollout": rollout})
    before = engine.policy.weights_sha256()
    with tiny.training(settings, start=engine.policy, engine=engine) as run:
        records = [run.step() for _ in range(2)]
    assert engine.policy.weights_sha256() != before
    assert all(record["rollout/engine_logprob_gap"] < CLOSE for record in records)
    # The correction for an engine that is off weighs nothing where it is not.
    weights = [record["policy/importance_weight"] for record in records if "policy/importance_weight" in record]
    assert weights == pytest.approx([1.0] * len(weights), abs=CLOSE)
    assert weights


def refused_then_run_then_closed(folder: Path, sender: Any) -> None:
    """In a child such as a benchmark's: a model that vLLM cannot run, then one that it can, then the end."""
    import psutil

    try:
        small_heads = tiny.policy()
        small_heads.save(folder / "small")
        VllmEngine(small_heads, str(folder / "small"), dtype="float32", context=52, batch_size=16, memory_gib=0.05)
        refusal = None
    except UserError as error:
        refusal = str(error)
    before = process_state()
    engine = engine_for(tiny.policy(head_dim=HEAD_DIM), folder / "good")
    completions = engine.generate(requests(), GREEDY)
    engine.close()
    engine.close()
    theirs = TorchEngine(engine.policy, batch_size=64).generate(requests(), GREEDY)
    sender.send({
        "refusal": refusal, "right": [c.token_ids for c in completions] == [c.token_ids for c in theirs],
        "children": [child.name() for child in psutil.Process().children(recursive=True)],
        "group": torch.distributed.is_initialized(), "as before": process_state() == before,
    })  # fmt: skip


def test_closing_leaves_no_process_and_no_process_group(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=refused_then_run_then_closed, args=(tmp_path, sender))
    child.start()
    sender.close()
    found = receiver.recv()
    child.join(60)
    assert child.exitcode == 0
    refusal = found.pop("refusal")
    assert refusal.startswith("rollout.engine = 'vllm': vLLM cannot run ")
    assert "head_dim=8" in refusal
    assert "\n" not in refusal
    assert found == {"right": True, "children": [], "group": False, "as before": True}


def paribus(*arguments: str, folder: Path, before: str = "pass") -> subprocess.CompletedProcess[str]:
    """The command line in a folder of its own. before: statements of Python to run first."""
    code = f"import sys; {before}; sys.argv[1:] = {list(arguments)}; from harness.cli import main; main()"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, timeout=600)


def test_where_vllm_is_missing_asking_for_it_is_one_line_and_nothing_runs(tmp_path: Path) -> None:
    absent = "sys.modules['vllm'] = None"
    done = paribus("bench", "arithmetic", "--set", "rollout.engine=vllm", folder=tmp_path, before=absent)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.endswith("rollout.engine = 'vllm': vLLM is not installed; install it with: make vllm")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_benchmark_runs_with_vllm_and_its_first_step_is_the_torch_engines_within_noise(tmp_path: Path) -> None:
    first_rewards = {}
    for engine in ("vllm", "torch"):
        sets = [f"rollout.engine={engine}", "rollout.prompts_per_step=32", "budget.samples=512", "eval.questions=12"]
        options = [option for each in sets for option in ("--set", each)]
        done = paribus("bench", "arithmetic", "--seeds", "0", "--out", engine, *options, folder=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        folder = tmp_path / engine / "latest"
        matching = read_json(folder / "bench.json")["matching"]
        assert [row["equal"] for row in matching["evidence"]] == [True]
        for arm in ("ppo", "grpo"):
            steps = read_lines(folder / f"{arm}-seed0" / "steps.jsonl")
            assert all(step["rollout/engine_logprob_gap"] < CLOSE for step in steps)
            first_rewards[engine, arm] = steps[0]["reward/mean"]
    assert first_rewards["vllm", "ppo"] == first_rewards["vllm", "grpo"]
    # Two means over 256 completions of the same 32 prompts: three standard errors of their difference.
    assert first_rewards["vllm", "ppo"] == pytest.approx(first_rewards["torch", "ppo"], abs=3 * (2 * 0.25 / 256) ** 0.5)
