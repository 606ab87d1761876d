"""One arm on SmolLM2, in a process of its own: what it is foretold to hold, what it holds, and what the system sees.

Usage: python smollm2_memory.py ARM CRITIC_KIND MICRO_BATCH_TOKENS; prints one JSON object.
"""

import json
import sys
from pathlib import Path

import psutil
import torch

from harness.cli import REGISTRY
from harness.config.file import load_bench
from harness.model.loading import load_config, load_tokenizer
from harness.plan.forecast import forecast
from harness.run.assemble import assemble
from harness.run.job import Job
from harness.run.loop import Run
from harness.run.prompts import PromptStream

SUITE = Path(__file__).parents[2] / "suites" / "sums.toml"
SHAPE = ("prompts_per_step=4", "completions_per_prompt=6", "max_completion_tokens=24", "ignore_eos=true")


def main(arm: str, kind: str, tokens: str) -> None:
    sets = [*(f"rollout.{each}" for each in SHAPE), f"critic.kind={kind}", "critic.warmup_steps=0"]
    kl = ["kl.coefficient=0.04", "kl.placement=loss"]
    bench = load_bench(SUITE, overrides=[*sets, *kl, f"update.micro_batch_tokens={tokens}", "update.minibatches=1"])
    spec = bench.run_spec(arm)
    torch.ones(8) @ torch.ones(8)
    before = psutil.Process().memory_info().rss
    run = Run(assemble(Job("train", spec, 0, Path(), REGISTRY)))
    run.step()
    run.step()
    seen = run.meter.peak_bytes() - before
    measured = run.tracked_step().by_phase()
    flops = dict(run.meter.flops)
    prompts = PromptStream(run.parts.task.train(), (spec.suite.name, 0)).take(3, spec.rollout.prompts_per_step)
    tokenizer, config = load_tokenizer(spec.model.name), load_config(spec.model.name)
    found = forecast(spec, run.parts.algorithm, config, on_gpu=False, tokenizer=tokenizer, prompts=prompts)
    foretold = {phase: sum(parts.values()) for phase, parts in found.memory.items()}
    print(json.dumps({
        "resident_growth": seen, "measured": measured, "foretold": foretold, "flops": flops,
        "foretold_flops": dict(found.flops),
    }))  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
