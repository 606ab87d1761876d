"""Several comparisons at once: what is left of a verdict, and all tasks and seeds in one number.

Each contrast on each task is a chance to find a difference where there is none. With one contrast, its first task was
named before the runs as the one that decides, so its verdict stands as it is, and on any other a lead is only called
one where it outlasts Holm's correction for the tasks. With several contrasts none was named as the one that decides:
every lead has to outlast the correction for all of them, on all tasks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from reports.compare.metrics import Difference, Differences, Metric
from reports.compare.pairs import Pair
from reports.stats import estimates
from reports.stats.estimates import Array
from reports.stats.holm import holm
from reports.stats.rliable import (
    Interval,
    interquartile_mean,
    performance_profile,
    probability_of_improvement,
    stratified_bootstrap,
)
from reports.stats.verdict import Verdict, VerdictKind

ALPHA = 1 - estimates.LEVEL


def corrected(rows: Sequence[Metric], primary: str) -> list[Metric]:
    """The rows in their order. A family is one quantity over all tasks that have it, and over all pairs.

    primary: the task that keeps its verdict, where there is one pair.
    """
    families: dict[str, dict[tuple[int, Pair], float]] = {}
    for index, metric in enumerate(rows):
        for pair, difference in metric.differences.items():
            if difference and (p := difference.estimate.p_value) is not None and math.isfinite(p):
                families.setdefault(metric.quantity or metric.name, {})[index, pair] = p
    made = list(rows)
    for family in families.values():
        adjusted = holm(list(family.values())) if len(family) > 1 else ()
        for (index, pair), p in zip(family, adjusted, strict=bool(adjusted)):
            metric, difference = made[index], made[index].between(pair)
            assert difference
            several = len(metric.differences) > 1
            scope = f"{len(family)} {'comparisons' if several else 'tasks'}"
            told = _told(difference, p, scope, keeps=not several and metric.task == primary)
            made[index] = replace(metric, differences={**metric.differences, pair: told})
    return made


def over_pairs(differences: Differences) -> Differences:
    """The same for a single quantity."""
    return corrected([Metric("", "", "", None, {}, differences)], "")[0].differences


def _told(difference: Difference, p: float, scope: str, *, keeps: bool) -> Difference:
    """The difference with the corrected p-value and, unless it `keeps` its verdict, what that leaves of a lead."""
    judged = difference.verdict
    if keeps or p < ALPHA or judged.kind is not VerdictKind.BETTER:
        return replace(difference, verdict=replace(judged, p_holm=p))
    lost = Verdict(
        VerdictKind.EQUIVALENT if judged.within_margin else VerdictKind.INCONCLUSIVE,
        f"the 95 % interval of the difference excludes zero, but not after Holm’s correction for {scope}",
        within_margin=judged.within_margin,
        mde=judged.mde,
        seeds_needed=judged.seeds_needed,
        p_holm=p,
        alone=judged.winner,
    )
    return replace(difference, verdict=lost)


PROFILE_LEVELS = 11


@dataclass(frozen=True)
class Aggregate:
    """Final accuracies of all tasks and seeds together. tasks: those that every arm has values on.

    improvements: how likely a run of the pair's first arm is to end above one of its second on the same task, a tie
        counting half. profile: arm → share of runs above each of `levels`, a mean over tasks.
    """

    tasks: tuple[str, ...]
    missing: int
    iqm: Mapping[str, Interval]
    improvements: Mapping[Pair, Interval]
    levels: tuple[float, ...]
    profile: Mapping[str, tuple[float, ...]]


def aggregate(
    accuracies: Mapping[str, Metric], arms: Sequence[str], pairs: Sequence[Pair], rng: np.random.Generator
) -> Aggregate | None:
    """All tasks' final accuracies together; None where no task has a value in every one of these arms."""
    scores: dict[str, list[Array]] = {}
    tasks, missing = [], 0
    for task, metric in accuracies.items():
        own = {arm: estimates.finite(metric.arms[arm].per_seed.values()) for arm in arms}
        missing += sum(lost for _, lost in own.values())
        if all(kept.size for kept, _ in own.values()):
            tasks.append(task)
            for arm, (kept, _) in own.items():
                scores.setdefault(arm, []).append(kept)
    if not tasks:
        return None
    improvements = {
        pair: stratified_bootstrap(probability_of_improvement, [*scores[pair.first], *scores[pair.second]], rng)
        for pair in pairs
        if set(pair) <= scores.keys()
    }
    every = np.concatenate([kept for own in scores.values() for kept in own])
    levels = np.linspace(float(every.min()), float(every.max()), PROFILE_LEVELS)
    return Aggregate(
        tasks=tuple(tasks),
        missing=missing,
        iqm={arm: stratified_bootstrap(interquartile_mean, own, rng) for arm, own in scores.items()},
        improvements=improvements,
        levels=tuple(levels.tolist()),
        profile={arm: tuple(performance_profile(own, levels).tolist()) for arm, own in scores.items()},
    )


def to_json(found: Aggregate, pair: Pair | None) -> dict[str, Any]:
    """pair: the one whose improvement stands there."""
    improvement = found.improvements.get(pair) if pair else None
    return {
        "tasks": found.tasks,
        "missing": found.missing,
        "iqm": {arm: vars(interval) for arm, interval in found.iqm.items()},
        "improvement": vars(improvement) if improvement else None,
        "levels": found.levels,
        "profile": found.profile,
    }
