"""What a benchmark shows of itself to be held against a baseline, or to become one.

Everything is read off its comparison (`reports.compare.comparison`) and its identity (`reports.record.identity`): the
settings and versions that decide the numbers, the step at which a reward was reached, and digests of what a run
determines.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, median
from typing import Any

from pydantic import ValidationError

from reports.compare import curves as series
from reports.compare.comparison import Comparison
from reports.record.errors import EvidenceError
from reports.record.faults import one_line
from reports.record.identity import (
    MEMORY,
    MOST,
    REWARD,
    STEP_TIME,
    device,
    is_accuracy,
    repeats_to_the_bit,
    settings,
    sha256_of,
    stack,
    starts,
)
from reports.record.journal import MEASURED, NONFINITE
from reports.record.reader import Run
from reports.regress.baseline import MOST_STEPS, SHOWN, Arm, Baseline, Curve, Key, Measure, Provenance, Target, keys_at

# The level of time-to-target: this much of the way from the baseline's first reward to its last.
TARGET_SHARE = 0.5
# A step's reward is a mean over few prompts; over this share of a run it no longer leaps.
TARGET_WINDOW = 0.2


def make(comparison: Comparison) -> Baseline:
    """The baseline of a benchmark. EvidenceError where it is no sound evidence itself: a run or a value is missing."""
    bench = comparison.bench
    if comparison.problem:
        raise EvidenceError(f"{bench['bench_id']} cannot be a baseline: {comparison.problem}")
    lost = [run for run in comparison.runs if not run.finished]
    if lost:
        raise EvidenceError(
            f"{bench['bench_id']} cannot be a baseline: {lost[0].arm} seed {lost[0].seed} {lost[0].status}"
        )
    config = settings(bench)
    try:
        return Baseline(
            schema_version=1,
            key=key_of(bench, config),
            config=config,
            margin=float(bench.get("margin") or 0.0),
            gemm_s=gemm_seconds(comparison),
            starts=starts(bench),
            untrained=untrained(comparison),
            arms={arm: _arm(comparison, arm) for arm in comparison.arms},
            provenance=Provenance(
                bench_id=str(bench["bench_id"]), created=str(bench.get("created")),
                profile=bench.get("profile"),
                git_commit=(bench.get("environment") or {}).get("git_commit"),
            ),
        )  # fmt: skip
    except ValidationError as error:
        raise EvidenceError(f"{bench['bench_id']} cannot be a baseline: {one_line(error, keys_at)}") from None


def key_of(bench: Mapping[str, Any], config: Mapping[str, Any]) -> Key:
    return Key(suite=str(bench["suite"]), config_sha256=sha256_of(config), stack=stack(bench), device=device(bench))


def gemm_seconds(comparison: Comparison) -> float | None:
    """Median over the runs' edges of the time that the fixed piece of work took."""
    times = [state.get("gemm_s") for run in comparison.runs for state in run.conditions.values()]
    known = [float(time) for time in times if isinstance(time, int | float) and math.isfinite(time) and time > 0]
    return median(known) if known else None


def _arm(comparison: Comparison, arm: str) -> Arm:
    runs = [run for run in comparison.runs if run.arm == arm]
    metrics = {}
    for metric in comparison.metrics:
        if kept(metric.name):
            values = metric.arms[arm].per_seed
            if without := lacking(values, values):
                raise EvidenceError(f"{metric.name} of {arm} has no finite value for seed {without[0]}")
            metrics[metric.name] = Measure.of(metric.unit, {s: v for s, v in values.items() if v is not None})
    columns = sorted({name for run in runs for name in series.columns(run) if determined(name)})
    exact = repeats_to_the_bit(comparison.bench)
    curves = {run.seed: curve(run, columns) for run in runs} if exact else {}
    return Arm(
        metrics=metrics,
        target=_target(runs),
        columns=tuple(columns),
        curves=curves,
        disturbed=disturbed(comparison, arm),
        peaks=tuple(sorted({name for run in runs for name in series.peaks(run)})),
    )


def untrained(comparison: Comparison) -> dict[str, float]:
    """Accuracy before training, by task, where it was evaluated."""
    found = {result.task: result.base.metrics.get("accuracy") for result in comparison.tasks if result.base}
    return {task: float(accuracy) for task, accuracy in found.items() if accuracy is not None}


def disturbed(comparison: Comparison, arm: str) -> tuple[int, ...]:
    """The seeds of an arm whose run was slowed by something else on the machine."""
    return tuple(sorted(seed for own, seed in comparison.slowed if own == arm))


def kept(name: str) -> bool:
    """Whether a gate asks for this row of the comparison."""
    return name in (REWARD, STEP_TIME, MEMORY) or is_accuracy(name)


def lacking(seeds: Iterable[int], values: Mapping[int, float | None]) -> list[int]:
    """The seeds without a finite value."""
    return [seed for seed in seeds if (value := values.get(seed)) is None or not math.isfinite(value)]


def determined(column: str) -> bool:
    """Whether a journal's column repeats with the run; what was not a number is null in its own column."""
    return not column.startswith((*MEASURED, NONFINITE))


def curve(run: Run, columns: Sequence[str]) -> Curve:
    """The digests of a run's columns: the numbers' bits, in the columns' order, step by step; NaN where missing."""
    table = [series.column(run, name).tolist() for name in columns]
    whole, digests = hashlib.sha256(), []
    for row in zip(*table, strict=True):
        # One NaN for all: which of its bit patterns a missing value has is chance.
        packed = struct.pack(f"<{len(row)}d", *(math.nan if math.isnan(value) else value for value in row))
        whole.update(packed)
        digests.append(hashlib.sha256(packed).hexdigest()[:16])
    values = {name: series.column(run, name).tolist()[:MOST_STEPS] for name in SHOWN if name in columns}
    return Curve(
        sha256=whole.hexdigest(), steps=len(run.history), digests=tuple(digests[:MOST_STEPS]),
        # The digests cover what exploded as well; to be shown, it is no value.
        values={name: tuple(v if abs(v) <= MOST else None for v in column) for name, column in values.items()},
    )  # fmt: skip


def _target(runs: list[Run]) -> Target | None:
    """The level that the seeds' mean reward reached near its end, and when each did; None where nothing was learnt."""
    length = min(len(run.history) for run in runs)
    window = max(1, round(TARGET_WINDOW * length))
    rewards = [series.column(run, REWARD) for run in runs]
    first = fmean(float(reward.iloc[:window].mean()) for reward in rewards)
    last = fmean(float(reward.iloc[-window:].mean()) for reward in rewards)
    if not last > first:
        return None
    level = first + TARGET_SHARE * (last - first)
    return Target(level=level, window=window, steps={run.seed: steps_to(run, level, window) for run in runs})


def steps_to(run: Run, level: float, window: int) -> int | None:
    """The first step whose trailing mean reward over `window` steps is at least `level`; None: it never was."""
    reached = series.column(run, REWARD).rolling(window).mean() >= level
    steps = run.history.loc[reached, "step"].tolist()
    return int(steps[0]) if steps else None
