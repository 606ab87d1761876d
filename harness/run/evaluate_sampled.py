"""pass@k and majority@k: what several sampled answers to a question hold, beside the one greedy answer.

Accuracy tells what a policy says first; these tell whether the right answer is among what it may say. Reinforcement
learning can raise the one and lower the other. Every draw is keyed by question and sample, so all policies draw from
the same random numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.config.tables import EvalTable
from harness.engines.base import Engine, Request, Sampling
from harness.model.policy import Policy
from reports.stats.pass_at_k import majority, pass_at, sizes
from suites.task import Prompt, Task, stable_hash


def sampled(
    policy: Policy, engine: Engine, task: Task, prompts: Sequence[Prompt], table: EvalTable, *, cap: int
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """(metrics, one record per question) of `table.samples` sampled answers each; nothing where none are asked for."""
    count = table.samples
    if not count:
        return {}, [{} for _ in prompts]
    requests = [
        Request(tuple(policy.encode_text(policy.render(prompt), chat=prompt.chat)), stable_hash("eval", prompt.id, k))
        for prompt in prompts
        for k in range(count)
    ]
    made = engine.generate(requests, Sampling(table.temperature, cap))
    verdicts = [
        [task.verify(completion.text, prompt.answer) for completion in made[row * count : (row + 1) * count]]
        for row, prompt in enumerate(prompts)
    ]
    right = [sum(verdict.correct for verdict in own) for own in verdicts]
    majorities = [majority(own) for own in verdicts]
    metrics = {f"pass_at_{k}": sum(pass_at(k, count, c) for c in right) / len(right) for k in sizes(count)}
    metrics[f"majority_at_{count}"] = sum(majorities) / len(majorities)
    rows = [{"sampled_correct": c, "majority_correct": m} for c, m in zip(right, majorities, strict=True)]
    return metrics, rows
