"""The way of every run from start to end, as numbers to measure rather than lines to draw.

A path is one run's curve of one quantity on one axis: nothing thinned, and for accuracy with every answer behind it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import make_interp_spline

from reports import answers, series
from reports.records import Records
from reports.stats import Array

# With nothing between the base policy and the final one there is no way to speak of.
FEWEST_MARKS = 3


@dataclass(frozen=True)
class Path:
    """x, y are [points], x rising; scores [points, questions] where every answer was kept.

    missing: points left out because the axis or the value was not finite.
    """

    x: Array
    y: Array
    scores: Array | None
    missing: int


@dataclass(frozen=True)
class Paths:
    """arm → seed → path, for every finished run; None for a run with fewer than two usable points.

    fault: why accuracies cannot be held against each other, if so.
    """

    runs: Mapping[str, Mapping[int, Path | None]]
    fault: str | None = None

    @property
    def usable(self) -> list[Path]:
        return [path for own in self.runs.values() for path in own.values() if path]

    @property
    def missing(self) -> int:
        return sum(path.missing for path in self.usable)

    @property
    def common(self) -> tuple[float, float] | None:
        """The stretch of the axis that all usable runs cover; None where there is none."""
        start = max((float(path.x[0]) for path in self.usable), default=0.0)
        stop = min((float(path.x[-1]) for path in self.usable), default=0.0)
        return (start, stop) if stop > start else None


def accuracy_paths(records: Records, task: str) -> dict[str, Paths]:
    """axis → the way of the accuracy on a task; empty where no run was evaluated on its way."""
    found = {arm: {run.seed: series.marks(records, run, task) for run in records.of(arm)} for arm in records.arms}
    every = [evaluation for own in found.values() for marks in own.values() for evaluation in marks]
    if not any(len(marks) >= FEWEST_MARKS for own in found.values() for marks in own.values()):
        return {}
    ids, fault = answers.questions(every)
    runs: dict[str, dict[str, dict[int, Path | None]]] = {axis: {} for axis in series.AXES}
    for arm, own in found.items():
        for axis in series.AXES:
            runs[axis][arm] = {}
        for seed, marks in own.items():
            accuracy = [evaluation.metrics.get("accuracy") for evaluation in marks]
            scores = np.array([answers.scores(evaluation, ids) for evaluation in marks]) if ids else None
            for axis in series.AXES:
                spent = [series.spent_at(evaluation, axis) for evaluation in marks]
                runs[axis][arm][seed] = path(spent, accuracy, scores)
    return _recorded({axis: Paths(by_arm, fault) for axis, by_arm in runs.items()})


def reward_paths(records: Records, window: int = 1) -> dict[str, Paths]:
    """axis → the way of the mean training reward, as a trailing mean over `window` steps, from the first full one."""
    found = {}
    for axis in series.AXES:
        by_arm = {}
        for arm in records.arms:
            by_arm[arm] = {
                run.seed: path(
                    series.axis_values(run, axis).iloc[window - 1 :],
                    series.column(run, "reward/mean").rolling(window).mean().iloc[window - 1 :],
                )
                for run in records.of(arm)
            }
        found[axis] = Paths(by_arm)
    return _recorded(found)


def path(xs: Iterable[float | None], ys: Iterable[float | None], scores: Array | None = None) -> Path | None:
    """The finite points, of several at one place the last; None for fewer than two places."""
    x, y = np.array(list(xs), dtype=np.float64), np.array(list(ys), dtype=np.float64)
    good = np.isfinite(x) & np.isfinite(y)
    kept = np.flatnonzero(good)
    # np.unique keeps the first of equals, so it is shown them from the end.
    places, back = np.unique(x[kept][::-1], return_index=True)
    if places.size < 2:
        return None
    order = kept[::-1][back]
    return Path(places, y[order], None if scores is None else scores[order], int((~good).sum()))


def mean_height(x: Array, y: Array, start: float, stop: float) -> Array:
    """Area under the straight lines through (x, y) from start to stop, over its width. y: [points, ...] → [...]."""
    grid = np.concatenate([[start], x[(x > start) & (x < stop)], [stop]])
    values = make_interp_spline(x, y, k=1, check_finite=False)(grid)
    return np.asarray(np.trapezoid(values, grid, axis=0) / (stop - start), dtype=np.float64)


def arrival(path: Path, level: float) -> float | None:
    """Where the straight lines through the points first reach `level`; None if they never do."""
    above = np.flatnonzero(path.y >= level)
    if not above.size:
        return None
    i = int(above[0])
    if i == 0:
        return float(path.x[0])
    return float(np.interp(level, path.y[i - 1 : i + 1], path.x[i - 1 : i + 1]))


def _recorded(found: Mapping[str, Paths]) -> dict[str, Paths]:
    return {axis: paths for axis, paths in found.items() if paths.usable}
