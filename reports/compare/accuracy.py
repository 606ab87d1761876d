"""The rows of a comparison that are shares of held-out questions: what the policies can do, task by task.

Accuracy after training is what the verdict is about. Beside it stand what was gained over the policy before training,
the accuracy of the policy that early stopping would have kept, and, where several answers to a question were sampled,
pass@k and majority@k.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from reports.compare import early_stopping, metrics, per_question
from reports.compare.metrics import Metric
from reports.compare.per_question import Reading
from reports.record.models import Evaluation
from reports.record.reader import Records
from reports.stats import estimates
from reports.stats.pass_at_k import MOST_SAMPLES, pass_at, sizes

Chosen = Mapping[str, Mapping[int, Evaluation | None]]
AT_BEST_REWARD = "accuracy_at_best_reward"
_MAJORITY = re.compile(r"majority_at_([1-9]\d{0,3})")


def accuracy_metrics(records: Records, problem: str | None) -> list[Metric]:
    found = []
    for task in records.tasks:
        finals = {arm: {run.seed: run.final(task) for run in records.of(arm)} for arm in records.arms}
        if not any(e for runs in finals.values() for e in runs.values()) and task not in records.base:
            continue
        final = _share(
            records, f"eval/{task}/accuracy", f"Accuracy, {task}", finals, "accuracy", per_question.right, problem
        )
        found.append(final)
        base = records.base[task].metrics.get("accuracy") if task in records.base else None
        if base is not None:
            found.append(_gain(task, final, base))
        if kept := early_stopping.kept_by_run(records, task):
            chosen = {
                arm: {s: one.evaluation if one else None for s, one in runs.items()} for arm, runs in kept.items()
            }
            name, title = f"eval/{task}/{AT_BEST_REWARD}", f"Accuracy at the best training reward, {task}"
            found.append(_share(records, name, title, chosen, "accuracy", per_question.right, problem))
    return found


def sampled_metrics(records: Records, problem: str | None) -> list[Metric]:
    """pass@k for k = 1, 2, 4, … and majority@n of the final policies, on tasks where n answers each were sampled."""
    found = []
    for task in records.tasks:
        finals = {arm: {run.seed: run.final(task) for run in records.of(arm)} for arm in records.arms}
        counts = sorted({n for runs in finals.values() for e in runs.values() if e for n in sample_counts(e.metrics)})
        fault = None if len(counts) < 2 else f"not every run was asked for as many answers to a question of {task}"
        for count in counts[-1:]:
            for key, reading in sampled_readings(count).items():
                title = f"{sampled_title(key)}, {task}"
                found.append(_share(records, f"eval/{task}/{key}", title, finals, key, reading, problem or fault))
    return found


def sample_counts(stated: Mapping[str, Any]) -> list[int]:
    """How many answers to a question an evaluation's metrics say were sampled: one number, or none."""
    found = [int(match[1]) for name in stated if (match := _MAJORITY.fullmatch(name))]
    return [count for count in found if count <= MOST_SAMPLES]


def sampled_readings(count: int) -> dict[str, Reading]:
    """Name of a metric → its value for one question, whose record says how many of its `count` answers are right."""

    def passing(k: int) -> Reading:
        rates = [pass_at(k, count, right) for right in range(count + 1)]

        def read(sample: Mapping[str, Any]) -> float | None:
            right = sample.get("sampled_correct")
            return rates[right] if isinstance(right, int) and 0 <= right <= count else None

        return read

    def most(sample: Mapping[str, Any]) -> float | None:
        return per_question.as_share(sample.get("majority_correct"))

    return {**{f"pass_at_{k}": passing(k) for k in sizes(count)}, f"majority_at_{count}": most}


def sampled_title(key: str) -> str:
    """'pass_at_4' → 'pass@4'."""
    return key.replace("_at_", "@")


def _share(
    records: Records, name: str, title: str, chosen: Chosen, stated: str, reading: Reading, problem: str | None
) -> Metric:
    """A share that evaluations state, and that their answers, where they were all kept, give question by question."""
    values = {
        arm: {seed: e.metrics.get(stated) if e else None for seed, e in runs.items()} for arm, runs in chosen.items()
    }
    tables, fault = per_question.tables(chosen, reading)
    return metrics.share(
        name, title, values, tables, "higher", records.compared, records.bench.get("margin"), problem or fault
    )


def _gain(task: str, final: Metric, base: float) -> Metric:
    """Both arms start from the same base, so the difference of the gains is the difference of the accuracies."""
    arms = {}
    for arm, value in final.arms.items():
        gains = {seed: None if share is None else share - base for seed, share in value.per_seed.items()}
        arms[arm] = metrics.arm_value(estimates.mean_interval(gains.values()), gains)
    return Metric(f"eval/{task}/gain", f"Gain over base, {task}", "fraction", "higher", arms, final.difference)
