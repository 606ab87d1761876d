"""Writes a benchmark folder with made-up numbers, for tests of what reads such folders: by the models of the record.

Nothing here is a measurement: rewards rise along a curve, answers are drawn from a seeded generator, and every path is
marked with the suite name "synthetic" unless a test asks for another.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from reports.record.models import Bench, Evaluation, RunRecord, Sample, Step
from reports.stats.pass_at_k import pass_at, sizes

TASKS = ("synthetic_heldout", "synthetic_transfer")
PHASES = {
    "rollout": 0.21,
    "reward": 0.002,
    "logprobs": 0.03,
    "values": 0.03,
    "policy_update": 0.12,
    "critic_update": 0.09,
    "weight_sync": 0.001,
}
SAMPLES_PER_STEP = 128
MIB = 2**20


def write_bench(
    folder: Path,
    *,
    seeds: tuple[int, ...] = (0, 1, 2),
    steps: int | Mapping[str, int] = 60,
    questions: int = 200,
    effect: float = 0.04,
    seed_sd: float = 0.013,
    arms: tuple[str, ...] = ("ppo", "grpo"),
    failures: Mapping[tuple[str, int], str] | None = None,
    evaluate: bool = True,
    margin: float | None = 0.01,
    completions: Mapping[int, str] | None = None,
    suite: str = "synthetic",
    nan_metric: str | None = None,
    tasks: tuple[str, ...] = TASKS,
    sampled: int = 0,
    **top: Any,
) -> Path:
    """A benchmark where the first arm ends `effect` above the second in accuracy.

    failures: (arm, seed) → status, for runs that end half way. completions: question number → text that replaces the
    completion of every policy. nan_metric: a journal column that is null throughout. sampled: how many answers to each
    question are drawn beside the greedy one. top: overrides of bench.json.
    """
    failures = failures or {}
    per_arm = dict(steps) if isinstance(steps, Mapping) else dict.fromkeys(arms, steps)
    difficulty = np.random.default_rng(7).normal(0, 0.8, questions)
    runs, order = [], 0
    if evaluate:
        for task in tasks:
            _evaluation(folder / "base", task, "base", 0, {}, _answers(0.41, difficulty, 99), completions, sampled)
    for seed in seeds:
        for arm in arms if seed % 2 == 0 else arms[::-1]:
            status = failures.get((arm, seed), "finished")
            count = per_arm[arm] if status == "finished" else max(1, per_arm[arm] // 2)
            own = folder / f"{arm}-seed{seed}"
            noise = np.random.default_rng([seed, arms.index(arm)])
            end = 0.60 + effect * (arm == arms[0]) + noise.normal(0, seed_sd)
            spent = _journal(own, arm, count, end, noise, critic=arm == arms[0], nan_metric=nan_metric)
            if evaluate and status == "finished":
                for index, task in enumerate(tasks):
                    target = max(0.1, end - 0.15 * index)
                    for label, step, share in ((f"step-{count // 2:06d}", count // 2, 0.6), ("final", count, 1.0)):
                        accuracy = 0.41 + share * (target - 0.41)
                        answers = _answers(accuracy, difficulty, hash_of(seed, arms.index(arm), index, step))
                        part = {axis: value * step / count for axis, value in spent.items()}
                        _evaluation(own, task, label, step, part, answers, completions, sampled)
            where = {"phase": "critic_update", "component": "critic_optimizer"} if status == "out_of_memory" else None
            runs.append(
                RunRecord(
                    arm=arm, seed=seed, order=order, status=status, steps=count, spent=spent,
                    reason=None if status == "finished" else f"made up: {status} at step {count}",
                    seconds=spent["device_seconds"] + 11.5, out_of_memory_in=where,
                    conditions={"before": {"gemm_s": 0.02}, "after": {"gemm_s": 0.021}},
                )
            )  # fmt: skip
            order += 1
    bench = {
        "schema_version": 1,
        "bench_id": f"{suite}-20261122-204501-3fa9",
        "suite": suite,
        "regime": "same_batch",
        "profile": "cpu",
        "command": f"paribus bench {suite} --profile cpu",
        "created": "2026-11-22T20:45:01Z",
        "finished": "2026-11-22T20:51:40Z",
        "status": "finished",
        "primary": "accuracy",
        "margin": margin,
        "budget": {"currency": "samples", "limit": SAMPLES_PER_STEP * min(per_arm.values())},
        "spec": {"model": {"name": "made-up-model", "dtype": "float32"}, "rollout": {"prompts_per_step": 16}},
        "arms": {arm: _config(arm) for arm in arms},
        "eval_tasks": list(tasks) if evaluate else [],
        "matching": _matching(arms, seeds),
        "environment": {
            "python": "3.11.9",
            "platform": "Linux-6.1-x86_64",
            "cpu": "made-up CPU",
            "cores": 2,
            "device": "cpu",
            "packages": {"torch": "2.13.0", "transformers": "5.16.1"},
            "git_commit": None,
        },
        "runs": runs,
    }
    write_json(folder / "bench.json", Bench.model_validate(bench | top).dump() | top)
    return folder


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def hash_of(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


def _config(arm: str) -> dict[str, Any]:
    return {
        "algorithm": arm,
        "rollout": {"engine": "torch", "prompts_per_step": 16, "completions_per_prompt": 8, "temperature": 1.0},
        "update": {"learning_rate": 3e-4, "clip_low": 0.2, "clip_high": 0.2},
        "kl": {"coefficient": 0.0, "placement": "none"},
    }


def _matching(arms: tuple[str, ...], seeds: tuple[int, ...]) -> dict[str, Any]:
    def digests(what: str, seed: int) -> dict[str, str]:
        return dict.fromkeys(arms, f"{hash_of(seed, len(what)):08x}" * 8)

    return {
        "verdict": "matched",
        "shared": [
            {"key": "rollout.prompts_per_step", "value": 16},
            {"key": "rollout.completions_per_prompt", "value": 8},
            {"key": "update.learning_rate", "value": 3e-4},
            {"key": "kl.placement", "value": "none"},
        ],
        "declared": [
            {"key": "algorithm", "values": {arm: arm for arm in arms}, "why": "what is compared"},
            {
                "key": "critic.learning_rate",
                "values": {arm: 1e-3 if arm == arms[0] else None for arm in arms},
                "why": "only the first arm has a critic",
            },
        ],
        "undeclared": [],
        "evidence": [
            {
                "seed": seed,
                **{what: digests(what, seed) for what in ("weights", "prompts", "first_rollout")},
                "equal": True,
            }
            for seed in seeds
        ],
    }


def _journal(
    own: Path, arm: str, steps: int, end: float, noise: np.random.Generator, *, critic: bool, nan_metric: str | None
) -> dict[str, float]:
    lines, samples = [], []
    total = dict.fromkeys(("steps", "prompts", "samples", "generated_tokens", "trained_tokens"), 0)
    seconds, flops = 0.0, 0.0
    for step in range(1, steps + 1):
        progress = 1 - math.exp(-3 * step / steps)
        length = 22 - 4 * progress + noise.normal(0, 0.3)
        tokens = int(length * SAMPLES_PER_STEP)
        times = {f"time/{p}_s": s * noise.uniform(0.95, 1.1) * (3 if step == 1 else 1) for p, s in PHASES.items()}
        if not critic:
            times = {name: value for name, value in times.items() if "critic" not in name and "values" not in name}
        step_s = sum(times.values())
        seconds, flops = seconds + step_s, flops + tokens * (9e6 if critic else 6e6)
        for axis, amount in (("steps", 1), ("prompts", 16), ("samples", SAMPLES_PER_STEP)):
            total[axis] += amount
        total["generated_tokens"] += tokens
        total["trained_tokens"] += tokens
        line = {
            "step": step,
            "reward/mean": 0.41 + (end - 0.41) * progress + noise.normal(0, 0.03),
            "reward/std": 0.48,
            "policy/loss": noise.normal(0, 0.01),
            "policy/approx_kl": abs(noise.normal(0.004, 0.002)),
            "policy/clip_fraction": abs(noise.normal(0.05, 0.02)),
            "policy/entropy": 0.5 - 0.3 * progress + noise.normal(0, 0.01),
            "policy/grad_norm": 0.6 + abs(noise.normal(0, 0.1)),
            "group/zero_variance_fraction": min(1.0, 0.2 + 0.3 * progress + noise.normal(0, 0.05)),
            "rollout/length_mean": length,
            "rollout/truncated_fraction": max(0.0, 0.1 * (1 - progress) + noise.normal(0, 0.01)),
            "rollout/engine_logprob_gap": 1e-6,
            **times,
            "time/step_s": step_s,
            **{f"flops/{p}/useful": 1e6 * tokens for p in PHASES if critic or p not in ("values", "critic_update")},
            **{f"flops/{p}/executed": 1.2e6 * tokens for p in PHASES if critic or p not in ("values", "critic_update")},
            "throughput/mfu": 0.3,
            "throughput/samples_per_s": SAMPLES_PER_STEP / step_s,
            "throughput/tokens_per_s": tokens / step_s,
            "throughput/rollout_tokens_per_s": tokens / times["time/rollout_s"],
            "memory/rollout/peak_bytes": 310 * MIB + 1000 * step,
            "memory/policy_update/peak_bytes": (520 if critic else 410) * MIB,
            "memory/policy_update/weights_bytes": 40 * MIB,
            "memory/policy_update/tracked_bytes": (200 if critic else 160) * MIB,
            "memory/policy_update/gradients_bytes": 40 * MIB,
            "memory/policy_update/optimizer_bytes": 80 * MIB,
            "budget/device_seconds": seconds,
            "budget/flops": flops,
            **{f"budget/{axis}": value for axis, value in total.items()},
        }
        if critic:
            line |= {
                "critic/loss": 0.2 * (1 - progress) + 0.02,
                "critic/explained_variance": 0.6 * progress - 0.05 + noise.normal(0, 0.03),
                "critic/clip_fraction": 0.02,
                "critic/grad_norm": 0.4,
                "memory/critic_update/peak_bytes": 480 * MIB,
                "memory/policy_update/critic_bytes": 40 * MIB,
            }
        if nan_metric:
            line[nan_metric] = None
        lines.append(json.dumps(Step.made(line).dump()))
        if step % 20 == 0:
            sample = {"step": step, "prompt_id": "p0", "sample": 0, "prompt": "1+1=", "answer": "2", "completion": "2"}
            sample |= {"reward": 1.0, "correct": True, "extracted": "2", "truncated": False}
            samples.append(json.dumps(Sample.made(sample).dump()))
    own.mkdir(parents=True, exist_ok=True)
    (own / "steps.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    (own / "samples.jsonl").write_text("".join(f"{line}\n" for line in samples), encoding="utf-8")
    return total | {"device_seconds": seconds, "flops": flops}


def _answers(accuracy: float, difficulty: np.ndarray, seed: int) -> np.ndarray:
    """Right or wrong for every question: some are hard for every policy, and the mean lies near `accuracy`."""
    logits = math.log(accuracy / (1 - accuracy)) * 1.15 - difficulty
    return np.random.default_rng(seed).random(len(difficulty)) < 1 / (1 + np.exp(-logits))


def _evaluation(
    own: Path,
    task: str,
    label: str,
    step: int,
    spent: Mapping[str, float],
    correct: np.ndarray,
    completions: Mapping[int, str] | None,
    sampled: int,
) -> None:
    # Questions answered rightly are answered rightly more often than not.
    rights = np.random.default_rng([step, len(correct)]).binomial(sampled, np.where(correct, 0.8, 0.2)).tolist()
    samples = []
    for index, right in enumerate(correct.tolist()):
        a, b, c = 12 + index % 70, 7 + index % 31, 3 + index % 11
        gold = a + b + c
        said = gold if right else gold + 1 + index % 9
        completion = f"{a}+{b}={a + b}\n{a + b}+{c}={said}\n#### {said}"
        samples.append(
            {
                "id": f"q{index}",
                "prompt": f"{a}+{b}+{c}=",
                "answer": str(gold),
                "completion": (completions or {}).get(index, completion),
                "correct": right,
                "extracted": str(said),
                "truncated": index % 40 == 39,
                "strict": float(right),
                "flexible": float(right),
                **(
                    {"sampled_correct": rights[index], "majority_correct": 2 * rights[index] > sampled}
                    if sampled
                    else {}
                ),
            }
        )
    drawn = (
        {f"pass_at_{k}": np.mean([pass_at(k, sampled, c) for c in rights]) for k in sizes(sampled)} if sampled else {}
    )
    if sampled:
        drawn[f"majority_at_{sampled}"] = np.mean([2 * c > sampled for c in rights])
    mean = float(correct.mean())
    evaluation = {
        "task": task,
        "label": label,
        "step": step,
        "spent": dict(spent),
        "questions": len(samples),
        "metrics": {
            "accuracy": mean,
            "exact_match_strict": mean,
            "exact_match_flexible": mean,
            "truncated_fraction": sum(s["truncated"] for s in samples) / len(samples),
            "no_answer_fraction": 0.01,
            **{name: float(value) for name, value in drawn.items()},
        },
        "samples": samples,
    }
    write_json(own / "evals" / f"{label}-{task}.json", Evaluation.made(evaluation).dump())
