"""Several tasks and seeds in one number: interquartile mean, probability of improvement, performance profile.

After Agarwal et al., Deep Reinforcement Learning at the Edge of the Statistical Precipice (NeurIPS 2021). The intervals
resample the seeds within every task. Three seeds give such a resampling little to draw from, and its intervals are too
short then: they describe, the crossed interval judges.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats as sps

from reports import stats
from reports.metrics import Metric
from reports.stats import Array

DRAWS = 2000
PROFILE_LEVELS = 11


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % bootstrap interval; None where a task has fewer than two runs."""

    value: float
    low: float | None
    high: float | None


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


def interquartile_mean(*tasks: Array, axis: int = -1) -> Array:
    """Mean of the middle half of all runs of all tasks: a quarter of the values is cut at each end, rounded down."""
    return np.asarray(sps.trim_mean(np.concatenate(tasks, axis=axis), 0.25, axis=axis))


def probability_of_improvement(*tasks: Array, axis: int = -1) -> Array:
    """P(X > Y) + ½ P(X = Y), a mean over tasks; the first half of `tasks` are one arm's, the second the other's.

    Mann and Whitney's U over the number of pairs.
    """
    half = len(tasks) // 2
    found = []
    for x, y in zip(tasks[:half], tasks[half:], strict=True):
        a, b = np.moveaxis(x, axis, -1)[..., :, None], np.moveaxis(y, axis, -1)[..., None, :]
        found.append(((a > b) + 0.5 * (a == b)).mean(axis=(-2, -1)))
    return np.mean(found, axis=0)


def performance_profile(tasks: Sequence[Array], levels: Array) -> Array:
    """[levels]: the share of runs whose score lies above each level, a mean over tasks."""
    return np.mean([(scores[:, None] > levels).mean(axis=0) for scores in tasks], axis=0)


def stratified_bootstrap(
    statistic: Callable[..., Array], tasks: Sequence[Array], rng: np.random.Generator, draws: int = DRAWS
) -> Interval:
    """The statistic with the percentile interval of `draws` resamplings of the runs within every task."""
    value = float(statistic(*tasks))
    if min(scores.size for scores in tasks) < 2:
        return Interval(value, None, None)
    found = sps.bootstrap(
        tasks, statistic, n_resamples=draws, vectorized=True, method="percentile", confidence_level=stats.LEVEL, rng=rng
    ).confidence_interval
    return Interval(value, float(found.low), float(found.high))


def aggregate(accuracies: Mapping[str, Metric], compared: Sequence[str], rng: np.random.Generator) -> Aggregate | None:
    """All tasks' final accuracies together; None where no task has a value in every arm."""
    scores: dict[str, list[Array]] = {}
    tasks, missing = [], 0
    for task, metric in accuracies.items():
        own = {arm: stats.finite(value.per_seed.values()) for arm, value in metric.arms.items()}
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
