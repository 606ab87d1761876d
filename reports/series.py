"""What the figures draw, as data: curves on every budget axis, seconds and memory by phase, signs of instability.

Which arm leads can depend on what the other axis is: per step, per sample, per token or per second. So every curve is
made for each of them, from the cumulative budget that a run records with every step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeGuard

import numpy as np
import pandas as pd

from reports.records import Records, Run

# axis → (name, unit); the column of a journal is "budget/<axis>".
AXES: Mapping[str, tuple[str, str]] = {
    "steps": ("Training steps", "steps"),
    "samples": ("Samples drawn", "samples"),
    "generated_tokens": ("Tokens generated", "tokens"),
    "device_seconds": ("Device time", "s"),
    "flops": ("Arithmetic", "FLOP"),
}
PHASES: Mapping[str, str] = {
    "rollout": "rollout",
    "reward": "reward",
    "logprobs": "old log-probs",
    "reference": "reference",
    "values": "values (critic)",
    "policy_update": "policy update",
    "critic_update": "critic update",
    "weight_sync": "weight sync",
}
# component → title, in the order in which they are read: what stays, what comes and goes, and all of it.
MEMORY_PARTS: Mapping[str, str] = {
    "weights": "weights",
    "critic": "critic",
    "reference": "reference",
    "engine": "the sampler's weights",
    "optimizer": "optimizer",
    "critic_optimizer": "optimizer, critic",
    "gradients": "gradients",
    "critic_gradients": "gradients, critic",
    "kv_cache": "keys and values",
    "activations": "activations",
    "temporaries": "temporaries",
    "other": "other",
    "tracked": "all tensors",
    "reserved": "reserved by the allocator",
    "device": "the whole device",
}
# column → (title, unit of the axis)
STABILITY: Mapping[str, tuple[str, str]] = {
    "policy/approx_kl": ("KL, new to old policy", "nats per token"),
    "policy/entropy": ("Entropy", "nats per token"),
    "policy/clip_fraction": ("Clipped tokens", "%"),
    "policy/grad_norm": ("Gradient norm, policy", "norm"),
    "rollout/length_mean": ("Completion length", "tokens"),
    "rollout/truncated_fraction": ("Cut by the length cap", "%"),
    "group/zero_variance_fraction": ("Groups of equal reward", "%"),
    "critic/explained_variance": ("Explained variance, critic", "share"),
    "kl/reference": ("KL to the reference", "nats per token"),
    "rollout/engine_logprob_gap": ("Engine log-prob gap", "nats"),
}
MOST_POINTS = 120
GRID_POINTS = 60


@dataclass(frozen=True)
class Line:
    """One run's curve. counted: the run finished, so it is part of its arm's mean."""

    arm: str
    seed: int
    counted: bool
    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclass(frozen=True)
class Curves:
    """The curves of one quantity on one axis, and each arm's mean where all of its counted runs have values."""

    quantity: str
    axis: str
    lines: tuple[Line, ...]
    means: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]]
    smoothing: str


@dataclass(frozen=True)
class Bars:
    """One number per arm and phase; None where no run recorded it."""

    phases: tuple[str, ...]
    values: Mapping[str, Mapping[str, float | None]]


def column(run: Run, name: str) -> pd.Series:
    """A column of the journal as numbers; all missing when the run never wrote it."""
    if name in run.history:
        return run.history[name].astype(float)
    return pd.Series(np.nan, index=run.history.index, dtype=float)


def columns(run: Run) -> list[str]:
    """The names that the run's journal knows."""
    return [str(name) for name in run.history.columns]


def reward_curves(records: Records) -> dict[str, Curves]:
    """Mean training reward, a trailing mean over a twentieth of the run, on every axis that was recorded."""
    longest = max((len(run.history) for run in records.runs), default=0)
    window = max(1, round(longest / 20))
    smoothing = f"trailing mean over {window} steps" if window > 1 else "not smoothed"
    found = {}
    for axis in AXES:
        lines = []
        for run in records.runs:
            y = column(run, "reward/mean").rolling(window, min_periods=1).mean()
            lines.append(_line(run, _axis_values(run, axis), y))
        found[axis] = _curves("reward", axis, lines, smoothing)
    return {axis: curves for axis, curves in found.items() if curves.lines}


def accuracy_curves(records: Records, task: str) -> dict[str, Curves]:
    """Accuracy on a task at every evaluation, from the base policy at nothing spent to the end."""
    base = records.base.get(task)
    found = {}
    for axis in AXES:
        lines = []
        for run in records.runs:
            marks: list[tuple[float | None, float | None]] = [(0.0, base.metrics.get("accuracy"))] if base else []
            for evaluation in run.evaluations:
                if evaluation.task == task:
                    spent = evaluation.step if axis == "steps" else evaluation.spent.get(axis)
                    marks.append((spent, evaluation.metrics.get("accuracy")))
            if len(marks) > (1 if base else 0):
                xs, ys = ([_number(value) for value in side] for side in zip(*marks, strict=True))
                lines.append(_line(run, pd.Series(xs), pd.Series(ys)))
        found[axis] = _curves("accuracy", axis, lines, "not smoothed")
    return {axis: curves for axis, curves in found.items() if curves.lines}


def stability_curves(records: Records) -> dict[str, Curves]:
    """The quantities that show a run going wrong, against steps; only those that some run recorded."""
    found = {}
    for name in STABILITY:
        lines = [_line(run, _axis_values(run, "steps"), column(run, name)) for run in records.runs]
        curves = _curves(name, "steps", lines, "not smoothed")
        if curves.lines:
            found[name] = curves
    return found


def phase_seconds(records: Records) -> Bars:
    """Seconds a step spends in each phase: the median over a run's steps but the first, averaged over seeds."""
    return _bars(
        records, {phase: f"time/{phase}_s" for phase in _phases(records, "time/", "_s", skip=("step",))}, steady_median
    )


def memory_peaks(records: Records) -> Bars:
    """The highest memory each phase ever held, over all steps and seeds."""
    names = {phase: f"memory/{phase}/peak_bytes" for phase in _phases(records, "memory/", "/peak_bytes")}
    return _bars(records, names, highest, max)


def memory_components(records: Records) -> dict[str, Bars]:
    """phase → what the peak was made of (weights, critic, gradients, optimizer, …), each at its own highest."""
    found = {}
    for phase in _phases(records, "memory/", "/peak_bytes"):
        prefix = f"memory/{phase}/"
        names = {c for run in records.runs for c in columns(run) if c.startswith(prefix) and c.endswith("_bytes")}
        found_parts = {c.removeprefix(prefix).removesuffix("_bytes") for c in names} - {"peak"}
        ordered = [part for part in MEMORY_PARTS if part in found_parts] + sorted(found_parts - set(MEMORY_PARTS))
        parts = {part: f"{prefix}{part}_bytes" for part in ordered}
        if parts:
            found[phase] = _bars(records, parts, highest, max)
    return found


def steady_median(run: Run, name: str) -> float | None:
    """Median over the steps but the first, which pays for warm-up; a run of one step has only that.

    None when the run never recorded it, NaN when it did and no value is finite; so for all three below.
    """
    values = column(run, name)
    return _reduce(run, name, values.iloc[1:] if len(values) > 1 else values, "median")


def last_tenth(run: Run, name: str) -> float | None:
    """Mean over the last tenth of the steps, at least one."""
    return _reduce(run, name, column(run, name).iloc[-max(1, math.ceil(len(run.history) / 10)) :], "mean")


def highest(run: Run, name: str) -> float | None:
    return _reduce(run, name, column(run, name), "max")


def peak_memory(run: Run) -> float | None:
    """The most memory held in any phase of any step."""
    peaks = [highest(run, c) for c in columns(run) if c.startswith("memory/") and c.endswith("/peak_bytes")]
    return max((peak for peak in peaks if is_number(peak)), default=math.nan) if peaks else None


def is_number(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)


def _reduce(run: Run, name: str, values: pd.Series, how: str) -> float | None:
    if name not in run.history:
        return None
    kept = values[np.isfinite(values)]
    return float(getattr(kept, how)()) if len(kept) else math.nan


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _bars(
    records: Records,
    names: Mapping[str, str],
    measure: Callable[[Run, str], float | None],
    combine: Callable[[list[float]], float] = _mean,
) -> Bars:
    values: dict[str, dict[str, float | None]] = {}
    for arm in records.arms:
        values[arm] = {}
        for phase, name in names.items():
            seen = [v for v in (measure(run, name) for run in records.of(arm)) if is_number(v)]
            values[arm][phase] = combine(seen) if seen else None
    kept = tuple(phase for phase in names if any(values[arm][phase] is not None for arm in records.arms))
    return Bars(kept, {arm: {phase: values[arm][phase] for phase in kept} for arm in records.arms})


def _phases(records: Records, prefix: str, suffix: str, skip: tuple[str, ...] = ()) -> list[str]:
    """The phases that any run recorded: the known ones in the order they happen, then any other."""
    found = {c for run in records.runs for c in columns(run) if c.startswith(prefix) and c.endswith(suffix)}
    names = {c.removeprefix(prefix).removesuffix(suffix) for c in found} - set(skip)
    return [phase for phase in PHASES if phase in names] + sorted(names - set(PHASES))


def _axis_values(run: Run, axis: str) -> pd.Series:
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


def _curves(quantity: str, axis: str, lines: list[Line], smoothing: str) -> Curves:
    lines = [line for line in lines if line.x]
    means = {}
    for arm in dict.fromkeys(line.arm for line in lines):
        own = [line for line in lines if line.arm == arm and line.counted]
        if own:
            # No run is extended beyond what it recorded: the mean spans what all of them cover.
            start, stop = max(line.x[0] for line in own), min(line.x[-1] for line in own)
            if stop >= start:
                marks = sorted({x for line in own for x in line.x if start <= x <= stop} | {start, stop})
                grid = np.array(marks) if len(marks) <= GRID_POINTS else np.linspace(start, stop, GRID_POINTS)
                mean = np.mean([np.interp(grid, line.x, line.y) for line in own], axis=0)
                means[arm] = (tuple(grid.tolist()), tuple(mean.tolist()))
    return Curves(quantity, axis, tuple(_thin(line) for line in lines), means, smoothing)


def _thin(line: Line) -> Line:
    """At most MOST_POINTS points, evenly spaced, the ends kept: more cannot be seen and makes the page heavy."""
    if len(line.x) <= MOST_POINTS:
        return line
    keep = np.unique(np.linspace(0, len(line.x) - 1, MOST_POINTS).round().astype(int))
    return Line(line.arm, line.seed, line.counted, tuple(line.x[i] for i in keep), tuple(line.y[i] for i in keep))
