"""The rows of a comparison: one quantity each, its value in every arm, and the judged difference.

A difference is the first arm of a pair minus the second. Only runs that finished enter; a value that is absent or not
finite makes the row "invalid", because which runs lack a value is seldom chance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from reports.compare import curves
from reports.compare.pairs import Pair, Terms
from reports.compare.tabulate import ByRun, Finals, Reading, Tables, marks, stated
from reports.record.reader import Run
from reports.stats import estimates
from reports.stats.estimates import Better, Estimate
from reports.stats.verdict import Verdict, leads

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
    """First arm minus second: the estimate, which has the intervals, the verdict, and Welch's estimate beside it."""

    estimate: Estimate
    verdict: Verdict
    beside: Estimate | None = None


Differences = Mapping[Pair, Difference | None]
"""Every pair that was to be compared, in their order; None for one that is not judged."""


@dataclass(frozen=True)
class Metric:
    """One quantity over all arms. better: "higher", "lower", or None where the budget fixes it.

    task, quantity: of which task it is a share, and of what there ("accuracy"); None for a number of the runs.
    """

    name: str
    title: str
    unit: str
    better: Better
    arms: Mapping[str, ArmValue]
    differences: Differences = field(default_factory=dict)
    task: str | None = None
    quantity: str | None = None

    @property
    def difference(self) -> Difference | None:
        """Of the first pair."""
        return next(iter(self.differences.values()), None)

    @property
    def judged(self) -> bool:
        return any(self.differences.values())

    def between(self, pair: Pair) -> Difference | None:
        return self.differences.get(pair)


def run_metrics(tables: Tables, terms: Terms) -> list[Metric]:
    """What is one number per run: reward, speed, what was spent, memory."""

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
        values = tables.of(measure)
        if all(value is None for own in values.values() for value in own.values()):
            continue  # nobody recorded it; recorded but never finite is another matter, and is shown
        arms = {arm: arm_value(estimates.mean_interval(own.values()), own) for arm, own in values.items()}
        better = None if name == f"budget/{tables.currency}" else better
        differences = {pair: judge(pair, values, None, better, terms.problems[pair]) for pair in terms.fitting}
        metrics.append(Metric(name, title, unit, better, arms, of_all(terms, differences)))
    return metrics


def share(
    name: str,
    title: str,
    evaluations: Finals,
    terms: Terms,
    *,
    task: str,
    quantity: str,
    reading: Reading,
    better: Better = "higher",
    margin: float | None = None,
    values: ByRun[float | None] | None = None,
    fault: str | None = None,
) -> Metric:
    """A share of a task's questions, which their answers, where they were all kept, give question by question.

    reading: the share of one question. values: the shares as the evaluations state them, if they do; else those of the
    answers. better: None where the share is described and not judged. fault: why no pair can be judged, if so.
    """
    tables, unlike = marks(evaluations, reading)
    values = stated(evaluations, quantity) if values is None else values
    arms = {}
    for arm, own in values.items():
        by_seed = estimates.mean_interval(own.values())
        arms[arm] = arm_value(estimates.crossed(tables[arm]) if tables and by_seed.n[0] > 1 else by_seed, own)
    differences = {}
    for pair in terms.fitting if better else ():
        of_pair = tables
        if of_pair is None:  # perhaps for the sake of another arm
            of_pair, unlike = marks({arm: evaluations[arm] for arm in pair}, reading)
        answers = (of_pair[pair.first], of_pair[pair.second]) if of_pair else None
        problem = terms.problems[pair] or fault or unlike
        differences[pair] = judge(pair, values, margin, better, problem, answers)
    return Metric(name, title, "fraction", better, arms, of_all(terms, differences), task, quantity)


def of_all(terms: Terms, differences: Mapping[Pair, Difference]) -> Differences:
    return {pair: differences.get(pair) for pair in terms.pairs}


def judge(
    pair: Pair,
    values: ByRun[float | None],
    margin: float | None,
    better: Better,
    problem: str | None,
    answers: tuple[estimates.Array, estimates.Array] | None = None,
) -> Difference:
    """The first arm minus the second, by seed, or by seed and question where `answers` [S, Q] of both are given."""
    by_seed = estimates.welch(values[pair.first].values(), values[pair.second].values())
    estimate = estimates.crossed(*answers) if answers else by_seed
    if not problem and by_seed.missing:
        problem = f"{by_seed.missing} finished runs have no finite value"
    judged = estimates.verdict(estimate, arms=pair, better=better, margin=margin, problem=problem)
    return Difference(estimate, judged, by_seed if answers else None)


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
        "alone": leads(judged.alone) if judged.alone else None,
        "method": found.estimate.method,
        "n": list(found.estimate.n),
        "missing": found.estimate.missing,
        "welch": list(beside) if beside else None,
    }
