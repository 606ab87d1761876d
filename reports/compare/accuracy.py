"""The rows of a comparison that are shares of held-out questions: what the policies can do, task by task.

Accuracy after training is what the verdict is about. Beside it stand what was gained over the policy before training,
the accuracy of the policy that early stopping would have kept, and, where several answers to a question were sampled,
pass@k and majority@k.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from reports.compare import early_stopping, metrics, tabulate
from reports.compare.metrics import Metric
from reports.compare.pairs import Terms
from reports.compare.tabulate import Reading, Tables
from reports.stats import estimates
from reports.stats.pass_at_k import MOST_SAMPLES, pass_at, sizes

ACCURACY, GAIN, AT_BEST_REWARD = "accuracy", "gain", "accuracy_at_best_reward"
_MAJORITY = re.compile(r"majority_at_([1-9]\d{0,3})")


def accuracy_metrics(tables: Tables, terms: Terms) -> list[Metric]:
    rows = []
    for task in tables.tasks:
        finals = tables.finals(task)
        if not any(e for own in finals.values() for e in own.values()) and task not in tables.base:
            continue
        final = metrics.share(
            f"eval/{task}/{ACCURACY}",
            f"Accuracy, {task}",
            finals,
            terms,
            task=task,
            quantity=ACCURACY,
            reading=tabulate.right,
            margin=terms.margin,
        )
        rows.append(final)
        if (base := tables.base_accuracy(task)) is not None:
            rows.append(_gain(final, base))
        if kept := early_stopping.kept_by_run(tables, task):
            chosen = {arm: {s: one.evaluation if one else None for s, one in own.items()} for arm, own in kept.items()}
            rows.append(
                metrics.share(
                    f"eval/{task}/{AT_BEST_REWARD}",
                    f"Accuracy at the best training reward, {task}",
                    chosen,
                    terms,
                    task=task,
                    quantity=AT_BEST_REWARD,
                    reading=tabulate.right,
                    margin=terms.margin,
                    values=tabulate.stated(chosen, ACCURACY),
                )
            )
    return rows


def sampled_metrics(tables: Tables, terms: Terms) -> list[Metric]:
    """pass@k for k = 1, 2, 4, … and majority@n of the final policies, on tasks where n answers each were sampled."""
    rows = []
    for task in tables.tasks:
        finals = tables.finals(task)
        counts = sorted({n for own in finals.values() for e in own.values() if e for n in sample_counts(e.metrics)})
        fault = None if len(counts) < 2 else f"not every run was asked for as many answers to a question of {task}"
        for count in counts[-1:]:
            for key, reading in sampled_readings(count).items():
                rows.append(
                    metrics.share(
                        f"eval/{task}/{key}",
                        f"{sampled_title(key)}, {task}",
                        finals,
                        terms,
                        task=task,
                        quantity=key,
                        reading=reading,
                        margin=terms.margin,
                        fault=fault,
                    )
                )
    return rows


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
        return tabulate.as_share(sample.get("majority_correct"))

    return {**{f"pass_at_{k}": passing(k) for k in sizes(count)}, f"majority_at_{count}": most}


def sampled_title(key: str) -> str:
    """'pass_at_4' → 'pass@4'."""
    return key.replace("_at_", "@")


def _gain(final: Metric, base: float) -> Metric:
    """Both arms start from the same base, so the difference of the gains is the difference of the accuracies."""
    arms = {}
    for arm, value in final.arms.items():
        gains = {seed: None if share is None else share - base for seed, share in value.per_seed.items()}
        arms[arm] = metrics.arm_value(estimates.mean_interval(gains.values()), gains)
    name, title = f"eval/{final.task}/{GAIN}", f"Gain over base, {final.task}"
    return Metric(name, title, "fraction", "higher", arms, final.differences, final.task, GAIN)
