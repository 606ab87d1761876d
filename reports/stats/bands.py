"""How sure a mean curve is, point by point: the interval that the same arm would have if training had ended there.

For accuracy that is the crossed interval over seeds and questions, for the reward Student's t over seeds; so at the end
of training a band is as wide as the interval in the table. Beside it, on training steps, stands the hierarchical
bootstrap (seeds drawn with replacement, then questions). It is the better known band and the worse one here: with three
seeds it is far too wide where seeds agree and too narrow where they do not (the slow tests measure both).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.interpolate import make_interp_spline

from reports.stats import estimates as stats
from reports.stats.estimates import Array
from reports.stats.paths import Path, Paths

GRID_POINTS = 60
DRAWS = 1000


@dataclass(frozen=True)
class Band:
    """One arm's mean over the stretch that all of its runs cover, with 95 % intervals at single points.

    resampled: (low, high) of the hierarchical bootstrap; empty where it was not taken.
    """

    x: tuple[float, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    resampled: tuple[tuple[float, float], ...] = ()


Bands = Mapping[str, Mapping[str, Band]]


def bands(by_axis: Mapping[str, Paths], rng: np.random.Generator) -> dict[str, dict[str, Band]]:
    """axis → arm → band; an arm with one run has none. rng: for the bootstrap, where there are answers to draw from."""
    return {axis: _by_arm(paths, rng if axis == "steps" else None) for axis, paths in by_axis.items()}


def hierarchical_bootstrap(
    scores: Array, rng: np.random.Generator, draws: int = DRAWS, level: float = stats.LEVEL
) -> tuple[Array, Array]:
    """(low, high), each [points], of the mean of scores [seeds, questions, points] over seeds and questions.

    Every draw takes as many seeds as there are, with replacement, and as many questions. All seeds answered the same
    questions, so a draw has the same for all of them (Owen and Eckles, Annals of Applied Statistics 6, 2012).
    """
    seeds, questions, points = scores.shape
    seed_weights = rng.multinomial(seeds, np.full(seeds, 1 / seeds), draws) / seeds
    question_weights = rng.multinomial(questions, np.full(questions, 1 / questions), draws) / questions
    means = [((seed_weights @ scores[:, :, k]) * question_weights).sum(axis=1) for k in range(points)]
    low, high = np.quantile(means, (0.5 - level / 2, 0.5 + level / 2), axis=1)
    return low, high


def to_json(bands: Bands) -> dict[str, Any]:
    return {axis: {arm: asdict(band) for arm, band in by_arm.items()} for axis, by_arm in bands.items()}


def _by_arm(paths: Paths, rng: np.random.Generator | None) -> dict[str, Band]:
    found = {arm: _band([path for path in own.values() if path], rng) for arm, own in paths.runs.items()}
    return {arm: band for arm, band in found.items() if band}


def _band(paths: list[Path], rng: np.random.Generator | None) -> Band | None:
    if len(paths) < 2:
        return None
    start, stop = max(path.x[0] for path in paths), min(path.x[-1] for path in paths)
    if stop < start:
        return None
    marks = np.unique(np.concatenate([path.x for path in paths]))
    marks = marks[(marks >= start) & (marks <= stop)]
    grid = marks if len(marks) <= GRID_POINTS else np.linspace(start, stop, GRID_POINTS)
    scores = _scores(paths, grid)
    if scores is not None and np.isfinite(scores).all():
        means = scores.mean(axis=(0, 1))
        estimates = [stats.crossed(scores[:, :, k]) for k in range(len(grid))]
        resampled = list(zip(*hierarchical_bootstrap(scores, rng), strict=True)) if rng else []
    else:
        ys = np.array([np.interp(grid, path.x, path.y) for path in paths])
        means, resampled = ys.mean(axis=0), []
        estimates = [stats.mean_interval(ys[:, k]) for k in range(len(grid))]
    # Where nothing varied at all there is no interval, and the band is the line.
    ends = [e.interval() or (mean, mean) for e, mean in zip(estimates, means.tolist(), strict=True)]
    return Band(
        x=tuple(grid.tolist()),
        mean=tuple(means.tolist()),
        low=tuple(low for low, _ in ends),
        high=tuple(high for _, high in ends),
        resampled=tuple((float(low), float(high)) for low, high in resampled),
    )


def _scores(paths: list[Path], grid: Array) -> Array | None:
    """[seeds, questions, points] on the straight lines between evaluations; None where answers are lacking."""
    rows = []
    for path in paths:
        if path.scores is None:
            return None
        rows.append(make_interp_spline(path.x, path.scores, k=1, check_finite=False)(grid).T)
    return np.array(rows)
