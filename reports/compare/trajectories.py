"""The way of every run from start to end, as paths: one run's curve of one quantity on one axis.

Nothing is thinned, and for accuracy every answer is behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from reports.compare import curves, tabulate
from reports.compare.tabulate import Tables
from reports.record.names import AXES
from reports.record.reader import Run
from reports.stats.paths import Path, Paths, path

# With nothing between the base policy and the final one there is no way to speak of.
FEWEST_MARKS = 3


def accuracy_paths(tables: Tables, task: str) -> dict[str, Paths]:
    """axis → the way of the accuracy on a task; empty where no run was evaluated on its way."""
    found = tables.of(lambda run: curves.evaluations(tables, run, task))
    every = [evaluation for own in found.values() for marks in own.values() for evaluation in marks]
    if not any(len(marks) >= FEWEST_MARKS for own in found.values() for marks in own.values()):
        return {}
    ids, fault = tabulate.questions(every)
    runs: dict[str, dict[str, dict[int, Path | None]]] = {axis: {} for axis in AXES}
    for arm, own in found.items():
        for axis in AXES:
            runs[axis][arm] = {}
        for seed, marks in own.items():
            accuracy = [evaluation.metrics.get("accuracy") for evaluation in marks]
            scores = np.array([tabulate.scores(evaluation, ids) for evaluation in marks]) if ids else None
            for axis in AXES:
                spent = [curves.spent_at(evaluation, axis) for evaluation in marks]
                runs[axis][arm][seed] = path(spent, accuracy, scores)
    return _recorded({axis: Paths(by_arm, fault) for axis, by_arm in runs.items()})


def reward_paths(tables: Tables, window: int = 1) -> dict[str, Paths]:
    """axis → the way of the mean training reward, as a trailing mean over `window` steps, from the first full one."""

    def along(axis: str) -> Callable[[Run], Path | None]:
        return lambda run: path(
            curves.axis_values(run, axis).iloc[window - 1 :],
            curves.column(run, "reward/mean").rolling(window).mean().iloc[window - 1 :],
        )

    return _recorded({axis: Paths(tables.of(along(axis))) for axis in AXES})


def _recorded(found: Mapping[str, Paths]) -> dict[str, Paths]:
    return {axis: paths for axis, paths in found.items() if paths.usable}
