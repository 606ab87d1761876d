"""A curve of one run as numbers to measure rather than a line to draw."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import make_interp_spline

from reports.stats.estimates import Array


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
    def standing(self) -> Mapping[str, Mapping[int, Path | None]]:
        """The arms that have runs, where there are two to hold against each other; else all."""
        ran = {arm: own for arm, own in self.runs.items() if own}
        return ran if len(ran) > 1 else self.runs

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
