"""Curves, as data: reward and accuracy on every budget axis, the signs of instability, and a run's columns reduced.

Which arm leads can depend on what the other axis is: per step, per sample, per token or per second. So every curve is
made for each of them, from the cumulative budget that a run tables with every step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeGuard

import numpy as np
import pandas as pd

from reports.compare.tabulate import Tables
from reports.record.models import Evaluation
from reports.record.names import AXES
from reports.record.reader import Run
from reports.stats.bands import GRID_POINTS


class Sign(NamedTuple):
    """A quantity that shows a run going wrong, and what to look for in it."""

    title: str
    unit: str
    look_for: str


STABILITY: Mapping[str, Sign] = {
    "policy/approx_kl": Sign(
        "KL, new to old policy", "nats per token", "how far one update moves the policy; spikes are steps too large"
    ),
    "policy/entropy": Sign(
        "Entropy", "nats per token", "how varied the answers are; a fall to zero is a policy that says one thing only"
    ),
    "policy/clip_fraction": Sign(
        "Clipped tokens", "%", "tokens whose update hit the clip; a rise means that updates outgrow the trust region"
    ),
    "policy/grad_norm": Sign("Gradient norm, policy", "norm", "before clipping; a rise without end is a run diverging"),
    "rollout/length_mean": Sign(
        "Completion length", "tokens", "answers that grow or shrink without gain are a policy gaming its reward"
    ),
    "rollout/truncated_fraction": Sign(
        "Cut by the length cap", "%", "answers that had no room to end; a high share hides what was learnt"
    ),
    "group/zero_variance_fraction": Sign(
        "Groups of equal reward", "%", "prompts whose completions all scored alike, which teach GRPO nothing"
    ),
    "critic/explained_variance": Sign(
        "Explained variance, critic", "share", "1 is a perfect critic, 0 one no better than a constant, below 0 worse"
    ),
    "kl/reference": Sign("KL to the reference", "nats per token", "how far the policy has gone from where it began"),
    "rollout/engine_logprob_gap": Sign(
        "Engine log-prob gap", "nats", "the sampler against the trainer; near zero while both hold the same weights"
    ),
}
MOST_POINTS = 120


@dataclass(frozen=True)
class Line:
    """One run's curve. counted: the run finished, so it is part of its arm's mean."""

    arm: str
    seed: int
    counted: bool
    x: tuple[float, ...]
    y: tuple[float, ...]


class Mean(NamedTuple):
    """An arm's mean over its counted runs."""

    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclass(frozen=True)
class Curves:
    """The curves of one quantity on one axis, and each arm's mean where all of its counted runs have values."""

    quantity: str
    axis: str
    lines: tuple[Line, ...]
    means: Mapping[str, Mean]
    smoothing: str


def column(run: Run, name: str) -> pd.Series:
    """A column of the journal as numbers; all missing when the run never wrote it."""
    if name in run.history:
        return run.history[name].astype(float)
    return pd.Series(np.nan, index=run.history.index, dtype=float)


def columns(run: Run) -> list[str]:
    """The names that the run's journal knows."""
    return [str(name) for name in run.history.columns]


def smoothing_window(tables: Tables) -> int:
    """Steps in a trailing mean of what is noisy from step to step: a twentieth of the longest run."""
    return max(1, round(max((len(run.history) for run in tables.runs), default=0) / 20))


def reward_curves(tables: Tables) -> dict[str, Curves]:
    """Mean training reward, a trailing mean over a twentieth of the run, on every axis that was recorded."""
    window, smoothing = smoothing_window(tables), _smoothing(tables)
    found = {}
    for axis in AXES:
        lines = [_smooth_line(run, axis, "reward/mean", window) for run in tables.runs]
        found[axis] = _curves("reward", axis, lines, lines, smoothing)
    return {axis: curves for axis, curves in found.items() if curves.lines}


def evaluations(tables: Tables, run: Run, task: str) -> list[Evaluation]:
    """Every evaluation of a run on a task, from the base policy to the end."""
    base = [tables.base[task]] if task in tables.base else []
    return base + [evaluation for evaluation in run.evaluations if evaluation.task == task]


def spent_at(evaluation: Evaluation, axis: str) -> float:
    """What had been spent when a policy was evaluated; NaN where that was not recorded."""
    if evaluation.label == "base":
        return 0.0
    return _number(evaluation.step if axis == "steps" else evaluation.spent.get(axis))


def accuracy_curves(tables: Tables, task: str) -> dict[str, Curves]:
    """Accuracy on a task at every evaluation, from the base policy at nothing spent to the end."""
    found = {}
    for axis in AXES:
        lines = []
        for run in tables.runs:
            points = evaluations(tables, run, task)
            if any(e.label != "base" and math.isfinite(spent_at(e, axis)) for e in points):
                xs = pd.Series([spent_at(evaluation, axis) for evaluation in points])
                ys = pd.Series([_number(evaluation.metrics.get("accuracy")) for evaluation in points])
                lines.append(_line(run, xs, ys))
        found[axis] = _curves("accuracy", axis, lines, lines, "not smoothed")
    return {axis: curves for axis, curves in found.items() if curves.lines}


def stability_curves(tables: Tables) -> dict[str, Curves]:
    """The quantities that show a run going wrong, against steps; only those that some run recorded.

    Single seeds are left as they were recorded, so that no spike is smoothed away; their mean is smoothed.
    """
    window, smoothing = smoothing_window(tables), _smoothing(tables)
    found = {}
    for name in STABILITY:
        lines = [_line(run, axis_values(run, "steps"), column(run, name)) for run in tables.runs]
        smooth = [_smooth_line(run, "steps", name, window) for run in tables.runs]
        curves = _curves(name, "steps", lines, smooth, smoothing)
        if curves.lines:
            found[name] = curves
    return found


def steady_median(run: Run, name: str) -> float | None:
    """Median over the steps but the first, which pays for warm-up; a run of one step has only that.

    None when the run never recorded it, NaN when it did and no value is finite; so for all three below.
    """
    values = column(run, name)
    return _reduce(run, name, values.iloc[1:] if len(values) > 1 else values, "median")


def last_tenth(run: Run, name: str) -> float | None:
    """Mean over the last tenth of the steps, at least one; NaN where one of them has no finite value.

    Which steps lack a value is seldom chance, so the others do not stand for them.
    """
    if name not in run.history:
        return None
    tail = column(run, name).iloc[-max(1, math.ceil(len(run.history) / 10)) :]
    return float(tail.mean()) if np.isfinite(tail).all() else math.nan


def highest(run: Run, name: str) -> float | None:
    return _reduce(run, name, column(run, name), "max")


def peak_memory(run: Run) -> float | None:
    """The most memory held in any phase of any step."""
    found = [highest(run, name) for name in peaks(run)]
    return max((peak for peak in found if is_number(peak)), default=math.nan) if found else None


def peaks(run: Run) -> list[str]:
    """The columns that hold a phase's peak of memory."""
    return [name for name in columns(run) if name.startswith("memory/") and name.endswith("/peak_bytes")]


def is_number(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)


def _reduce(run: Run, name: str, values: pd.Series, how: str) -> float | None:
    if name not in run.history:
        return None
    kept = values[np.isfinite(values)]
    return float(getattr(kept, how)()) if len(kept) else math.nan


def axis_values(run: Run, axis: str) -> pd.Series:
    """What a run had spent after each of its steps; all missing when it never recorded that axis."""
    name = f"budget/{axis}"
    if axis == "steps" and name not in run.history and "step" in run.history:
        name = "step"
    return column(run, name)


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _line(run: Run, x: pd.Series, y: pd.Series) -> Line:
    xs, ys = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    good = np.isfinite(xs) & np.isfinite(ys)
    return Line(run.arm, run.seed, run.finished, tuple(xs[good].tolist()), tuple(ys[good].tolist()))


def _smoothing(tables: Tables) -> str:
    """How the smoothing is said."""
    window = smoothing_window(tables)
    return f"trailing mean over {window} steps, fewer at the start" if window > 1 else "not smoothed"


def _smooth_line(run: Run, axis: str, name: str, window: int) -> Line:
    return _line(run, axis_values(run, axis), column(run, name).rolling(window, min_periods=1).mean())


def _curves(quantity: str, axis: str, lines: list[Line], averaged: list[Line], smoothing: str) -> Curves:
    """lines: what is drawn of single runs. averaged: the lines, perhaps smoother, whose mean is taken."""
    arms = dict.fromkeys(line.arm for line in lines)
    own = {arm: [line for line in averaged if line.arm == arm and line.counted and line.x] for arm in arms}
    means = {arm: mean for arm, found in own.items() if (mean := _mean(found))}
    return Curves(quantity, axis, tuple(_thin(line) for line in lines if line.x), means, smoothing)


def _mean(lines: list[Line]) -> Mean | None:
    """The mean of the lines over what all of them cover: no run is extended beyond what it recorded."""
    start, stop = max((line.x[0] for line in lines), default=1), min((line.x[-1] for line in lines), default=0)
    if stop < start:
        return None
    marks = sorted({x for line in lines for x in line.x if start <= x <= stop} | {start, stop})
    grid = np.array(marks) if len(marks) <= GRID_POINTS else np.linspace(start, stop, GRID_POINTS)
    return Mean(
        tuple(grid.tolist()), tuple(np.mean([np.interp(grid, line.x, line.y) for line in lines], axis=0).tolist())
    )


def _thin(line: Line) -> Line:
    """At most MOST_POINTS points: the ends, and of every stretch the lowest and the highest, so no spike is lost."""
    if len(line.x) <= MOST_POINTS:
        return line
    stretches = np.array_split(np.arange(len(line.x)), MOST_POINTS // 2 - 1)
    y = np.array(line.y)
    extremes = [int(part[pick(y[part])]) for part in stretches for pick in (np.argmin, np.argmax)]
    keep = sorted({0, len(line.x) - 1, *extremes})
    return Line(line.arm, line.seed, line.counted, tuple(line.x[i] for i in keep), tuple(line.y[i] for i in keep))
