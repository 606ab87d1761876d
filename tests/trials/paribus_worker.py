"""paribus's side of the comparison: one training run, stepped by the driver.

    python paribus_worker.py WORKLOAD MODEL_FOLDER        (see protocol.py for what it reads and writes)

Runs what `paribus bench` and `paribus profile` run, `harness.run.loop.Run` on the parts that
`harness.run.assemble.assemble` loads. Only the task is this folder's own.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from protocol import Channel
from workloads import CLIP, COMPLETIONS_PER_PROMPT, LEARNING_RATE, MAX_GRAD_NORM, SHAPES, WORKLOADS, Workload, reward

from harness.cli import REGISTRY
from harness.config.tables import BenchSpec, RunSpec
from harness.plan.profile import gemm_peak
from harness.run.assemble import assemble
from harness.run.job import Job
from harness.run.loop import Run
from suites.task import Prompt, Reward, Task


def task(model: str) -> Task:
    prompts = [Prompt(id=str(n), text=text, answer="") for n, text in enumerate(SHAPES[model].prompts)]

    def train() -> Sequence[Prompt]:
        return prompts

    def heldout() -> Mapping[str, Sequence[Prompt]]:
        return {}

    def verify(completion: str, answer: str) -> Reward:
        return Reward(value=reward(completion), correct=False, extracted=None)

    return Task(model, train, heldout, verify, strict_pattern="()")


TASKS = SimpleNamespace(**{model: task(model) for model in SHAPES})


def run_spec(workload: Workload, folder: str) -> RunSpec:
    shape, beta = workload.shape, workload.kl_coefficient
    in_loss = workload.algorithm == "grpo"
    placement, estimator = ("loss", "k3") if in_loss else ("reward", "k1")
    tables: dict[str, Any] = {
        "suite": {"name": "compare-trl", "task": workload.model},
        "model": {"name": folder, "dtype": "float32"},
        "rollout": {
            "prompts_per_step": len(shape.prompts), "completions_per_prompt": COMPLETIONS_PER_PROMPT,
            "max_completion_tokens": shape.completion_tokens, "temperature": 1.0, "ignore_eos": True,
        },
        "update": {
            "learning_rate": LEARNING_RATE, "clip_low": CLIP, "clip_high": CLIP, "max_grad_norm": MAX_GRAD_NORM,
            "epochs": 1, "minibatches": 1,
        },
        "kl": {"coefficient": beta, "placement": placement if beta else "none", "estimator": estimator},
        # TRL's PPO always whitens its advantages.
        "advantage": {"whiten": workload.algorithm == "ppo", "group_std": True},
        "critic": {
            "kind": "separate", "learning_rate": LEARNING_RATE, "value_clip": CLIP, "warmup_steps": 0,
            "max_grad_norm": MAX_GRAD_NORM, "gamma": 1.0, "lam": 1.0,
        },
        "budget": {"steps": 1}, "eval": {"tasks": ("none",)}, "arms": {"arm": {"algorithm": workload.algorithm}},
    }  # fmt: skip
    return BenchSpec.model_validate(tables).run_spec("arm")


def main() -> None:
    channel = Channel()
    name, folder = sys.argv[1:]
    spec = run_spec(WORKLOADS[name], folder)
    registry = REGISTRY._replace(tasks={model: f"{__name__}:TASKS.{model}" for model in SHAPES})
    run = Run(assemble(Job("train", spec, 0, Path(), registry)))
    limit = spec.rollout.max_prompt_tokens
    prompt_tokens = [len(run.parts.models.policy.encode(prompt, limit=limit)) for prompt in run.parts.task.train()]
    peak = gemm_peak(run.parts.models.policy.device, spec)
    channel.answer(prompt_tokens=prompt_tokens)
    # Its meter resets the process's own mark at every phase, so the driver cannot read the largest off it.
    peak_bytes = 0
    while channel.wait():
        record = run.step()
        peak_bytes = max(peak_bytes, run.meter.peak_bytes())
        tokens = round(record["rollout/length_mean"] * spec.step_samples)
        channel.answer(tokens=tokens, flops=sum(run.meter.flops.values()), peak_bytes=peak_bytes)
    run.meter.close()
    channel.answer(gemm_peak=max(peak, gemm_peak(run.parts.models.policy.device, spec)))


if __name__ == "__main__":
    main()
