"""The rows of a comparison: one quantity each, its value in every arm, and the judged difference.

The difference is the first arm minus the second. Only runs that finished enter; a value that is absent or not finite
makes the row "invalid", because which runs lack a value is seldom chance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from reports.compare import curves
from reports.record.reader import Records, Run
from reports.stats import estimates
from reports.stats.estimates import Better, Estimate, Verdict

_SAMPLE_RATE, _TOKEN_RATE = "throughput/samples_per_s", "throughput/tokens_per_s"


@dataclass(frozen=True)
class ArmValue:
    """One arm's mean with its 95 % interval; n runs entered, `missing` finished runs had no finite value."""

    mean: float | None
    low: float | None
    high: float | None
    n: int
    per_seed: Mapping[int, float | None]
    missing: int
    method: str


@dataclass(frozen=True)
class Difference:
    """First arm minus second: estimate, its 95 % and 90 % intervals, the verdict, and Welch's interval beside it."""

    estimate: Estimate
    verdict: Verdict
    beside: Estimate | None = None


@dataclass(frozen=True)
class Metric:
    """One quantity over all arms. better: "higher", "lower", or None where the budget fixes it."""

    name: str
    title: str
    unit: str
    better: Better
    arms: Mapping[str, ArmValue]
    difference: Difference | None


def run_metrics(records: Records, problem: str | None) -> list[Metric]:
    """What is one number per run: reward, speed, what was spent, memory."""
    currency = str(records.bench["budget"].get("currency"))

    def spent(axis: str) -> Callable[[Run], float | None]:
        return lambda run: run.spent.get(axis)

    def steady(name: str) -> Callable[[Run], float | None]:
        return lambda run: curves.steady_median(run, name)

    rows: list[tuple[str, str, str, Better, Callable[[Run], float | None]]] = [
        (
            "reward/mean",
            "Training reward, last tenth of the steps",
            "",
            "higher",
            lambda run: curves.last_tenth(run, "reward/mean"),
        ),
        ("time/step_s", "Time per step", "s", "lower", steady("time/step_s")),
        (_SAMPLE_RATE, "Completions per second", "samples/s", "higher", steady(_SAMPLE_RATE)),
        (_TOKEN_RATE, "Tokens per second", "tokens/s", "higher", steady(_TOKEN_RATE)),
        ("throughput/mfu", "Share of the measured peak FLOP/s", "fraction", "higher", steady("throughput/mfu")),
        ("memory/peak_bytes", "Peak memory, any phase", "B", "lower", curves.peak_memory),
        ("budget/samples", "Samples drawn", "samples", None, spent("samples")),
        ("budget/device_seconds", "Device time spent", "s", "lower", spent("device_seconds")),
        ("budget/generated_tokens", "Tokens generated", "tokens", "lower", spent("generated_tokens")),
        ("budget/flops", "Arithmetic spent", "FLOP", "lower", spent("flops")),
    ]
    metrics = []
    for name, title, unit, better, measure in rows:
        values = {arm: {run.seed: measure(run) for run in records.of(arm)} for arm in records.arms}
        arms = {arm: arm_value(estimates.mean_interval(own.values()), own) for arm, own in values.items()}
        if all(value is None for own in values.values() for value in own.values()):
            continue  # nobody recorded it; recorded but never finite is another matter, and is shown
        better = None if name == f"budget/{currency}" else better
        metrics.append(Metric(name, title, unit, better, arms, judge(records.compared, values, None, better, problem)))
    return metrics


def share(
    name: str,
    title: str,
    values: Mapping[str, Mapping[int, float | None]],
    tables: Mapping[str, estimates.Array] | None,
    better: Better,
    compared: Sequence[str],
    margin: float | None,
    problem: str | None,
) -> Metric:
    """A share of questions. values: arm → seed → the share. tables: arm → [seeds, questions], where all were kept.

    better: None where the share is described and not judged.
    """
    arms = {}
    for arm, own in values.items():
        by_seed = estimates.mean_interval(own.values())
        arms[arm] = arm_value(estimates.crossed(tables[arm]) if tables and by_seed.n[0] > 1 else by_seed, own)
    pair = [tables[arm] for arm in compared] if tables else None
    difference = judge(compared, values, margin, better, problem, pair) if better else None
    return Metric(name, title, "fraction", better, arms, difference)


def judge(
    arms: Sequence[str],
    values: Mapping[str, Mapping[int, float | None]],
    margin: float | None,
    better: Better,
    problem: str | None,
    tables: Sequence[estimates.Array] | None = None,
) -> Difference | None:
    """The first arm minus the second, by seed, or by seed and question where `tables` [S, Q] of both are given."""
    if len(arms) < 2:
        return None
    first, second = arms[0], arms[1]
    by_seed = estimates.welch(values[first].values(), values[second].values())
    estimate = estimates.crossed(*tables) if tables else by_seed
    if not problem and by_seed.missing:
        problem = f"{by_seed.missing} finished runs have no finite value"
    judged = estimates.verdict(estimate, arms=(first, second), better=better, margin=margin, problem=problem)
    return Difference(estimate, judged, by_seed if tables else None)


def arm_value(estimate: Estimate, per_seed: Mapping[int, float | None]) -> ArmValue:
    """An arm's estimate with its 95 % interval, beside the runs it came from."""
    low, high = estimate.interval() or (None, None)
    missing = sum(value is None or not math.isfinite(value) for value in per_seed.values())
    return ArmValue(estimate.mean, low, high, estimate.n[0], dict(per_seed), missing, estimate.method)


def to_json(metric: Metric) -> dict[str, Any]:
    arms = {
        arm: {**asdict(value), "per_seed": {str(s): v for s, v in value.per_seed.items()}}
        for arm, value in metric.arms.items()
    }
    keys = ("name", "title", "unit", "better")
    difference = difference_to_json(metric.difference) if metric.difference else None
    return {**{key: getattr(metric, key) for key in keys}, "arms": arms, "difference": difference}


def difference_to_json(found: Difference) -> dict[str, Any]:
    low, high = found.estimate.interval() or (None, None)
    low90, high90 = found.estimate.interval(estimates.EQUIVALENCE_LEVEL) or (None, None)
    beside = found.beside.interval() if found.beside else None
    judged = found.verdict
    return {
        "mean": found.estimate.mean,
        "low": low,
        "high": high,
        "low90": low90,
        "high90": high90,
        "verdict": judged.label,
        "reason": judged.reason,
        "beyond_margin": judged.beyond_margin,
        "within_margin": judged.within_margin,
        "mde": judged.mde,
        "seeds_needed": judged.seeds_needed,
        "p_holm": judged.p_holm,
        "alone": judged.alone,
        "method": found.estimate.method,
        "n": list(found.estimate.n),
        "missing": found.estimate.missing,
        "welch": list(beside) if beside else None,
    }
