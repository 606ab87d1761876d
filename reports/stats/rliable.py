"""Several tasks and seeds in one number: interquartile mean, probability of improvement, performance profile.

After Agarwal et al., Deep Reinforcement Learning at the Edge of the Statistical Precipice (NeurIPS 2021). The intervals
resample the seeds within every task. Three seeds give such a resampling little to draw from, and its intervals are too
short then: they describe, the crossed interval judges.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats as sps

from reports.stats import estimates
from reports.stats.estimates import Array

DRAWS = 2000


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % bootstrap interval; None where a task has fewer than two runs."""

    value: float
    low: float | None
    high: float | None


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
        tasks,
        statistic,
        n_resamples=draws,
        vectorized=True,
        method="percentile",
        confidence_level=estimates.LEVEL,
        rng=rng,
    ).confidence_interval
    return Interval(value, float(found.low), float(found.high))
