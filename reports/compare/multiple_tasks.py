"""Several tasks at once: what is left of a verdict, and all tasks and seeds in one number.

Each task is a chance to find a difference where there is none. The first task was named before the runs as the one that
decides, so its verdict stands as it is; on any other a lead is only called one where it outlasts Holm's correction.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from reports.compare.metrics import Metric
from reports.stats import estimates
from reports.stats.estimates import Array, Verdict
from reports.stats.holm import holm
from reports.stats.rliable import (
    Interval,
    interquartile_mean,
    performance_profile,
    probability_of_improvement,
    stratified_bootstrap,
)

ALPHA = 1 - estimates.LEVEL
# Rows of which there is one for every task: "eval/<task>/<what>", "answers/<task>/<rule>".
KINDS = ("eval", "answers")


def corrected(rows: Sequence[Metric], primary: str) -> list[Metric]:
    """The rows in their order, those of the same quantity on several tasks corrected for being several.

    primary: the task that keeps its verdict.
    """
    families: dict[tuple[str, str], dict[int, float]] = {}
    for index, metric in enumerate(rows):
        kind, _, rest = metric.name.partition("/")
        p = metric.difference.estimate.p_value if metric.difference and kind in KINDS else None
        if p is not None and math.isfinite(p):
            families.setdefault((kind, rest.rpartition("/")[2]), {})[index] = p
    made = list(rows)
    for (kind, quantity), family in families.items():
        for index, p in zip(family, holm(list(family.values())), strict=True) if len(family) > 1 else ():
            keeps = rows[index].name == f"{kind}/{primary}/{quantity}"
            made[index] = _told(rows[index], p, len(family), keeps=keeps)
    return made


def _told(metric: Metric, p: float, tasks: int, *, keeps: bool) -> Metric:
    """The row, with the corrected p-value and, unless it `keeps` its verdict, what that leaves of a lead."""
    assert metric.difference
    judged = metric.difference.verdict
    told = replace(judged, p_holm=p)
    if not keeps and p >= ALPHA and judged.label.endswith(" better"):
        told = Verdict(
            "equivalent" if judged.within_margin else "inconclusive",
            f"the 95 % interval of the difference excludes zero, but not after Holm’s correction for {tasks} tasks",
            within_margin=judged.within_margin,
            mde=judged.mde,
            seeds_needed=judged.seeds_needed,
            p_holm=p,
            alone=judged.label,
        )
    return replace(metric, difference=replace(metric.difference, verdict=told))


PROFILE_LEVELS = 11


@dataclass(frozen=True)
class Aggregate:
    """Final accuracies of all tasks and seeds together. tasks: those that every arm has values on.

    improvement: how likely a run of the first arm is to end above one of the second on the same task, a tie counting
        half. profile: arm → share of runs above each of `levels`, a mean over tasks.
    """

    tasks: tuple[str, ...]
    missing: int
    iqm: Mapping[str, Interval]
    improvement: Interval | None
    levels: tuple[float, ...]
    profile: Mapping[str, tuple[float, ...]]


def aggregate(accuracies: Mapping[str, Metric], compared: Sequence[str], rng: np.random.Generator) -> Aggregate | None:
    """All tasks' final accuracies together; None where no task has a value in every arm."""
    scores: dict[str, list[Array]] = {}
    tasks, missing = [], 0
    for task, metric in accuracies.items():
        own = {arm: estimates.finite(value.per_seed.values()) for arm, value in metric.arms.items()}
        missing += sum(lost for _, lost in own.values())
        if all(kept.size for kept, _ in own.values()):
            tasks.append(task)
            for arm, (kept, _) in own.items():
                scores.setdefault(arm, []).append(kept)
    if not tasks:
        return None
    improvement = None
    if len(compared) == 2:
        pair = [*scores[compared[0]], *scores[compared[1]]]
        improvement = stratified_bootstrap(probability_of_improvement, pair, rng)
    every = np.concatenate([kept for own in scores.values() for kept in own])
    levels = np.linspace(float(every.min()), float(every.max()), PROFILE_LEVELS)
    return Aggregate(
        tasks=tuple(tasks),
        missing=missing,
        iqm={arm: stratified_bootstrap(interquartile_mean, own, rng) for arm, own in scores.items()},
        improvement=improvement,
        levels=tuple(levels.tolist()),
        profile={arm: tuple(performance_profile(own, levels).tolist()) for arm, own in scores.items()},
    )


def to_json(found: Aggregate) -> dict[str, Any]:
    return asdict(found)
