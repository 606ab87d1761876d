"""Who leads on the way, and how soon each arm gets there, on every axis that a run can be charged for.

Equal steps are not equal samples, and equal samples are not equal seconds: an arm can lead per step and trail per
second. So the same two questions are asked of every axis:

- **Area under the curve**, as the mean height of a run's curve over the stretch of the axis that all runs cover. It is
  in the unit of the curve, so the margin declared for the accuracy applies to it, and it is linear in the answers: for
  accuracy every question has an area of its own, and the crossed interval is taken over seeds and those.
- **Time to a target.** The goals are the accuracy that the suite declared, if it did, and half and nine tenths of the
  way from the start to the level that at least half of the runs of *each* arm reached. Which arm is called the first
  does not enter into that, so the rule favours none. A run that never gets there is counted as such: nobody knows how
  long it would have taken.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from reports import text
from reports.compare import metrics
from reports.compare.metrics import Difference, Differences, Metric
from reports.compare.multiple_tasks import over_pairs
from reports.compare.pairs import Pair, Terms
from reports.record.names import AXES
from reports.stats import estimates
from reports.stats.estimates import Array, Estimate
from reports.stats.paths import Paths, arrival, mean_height
from reports.stats.verdict import Verdict, VerdictKind

ByAxis = Mapping[str, Paths]
GOALS: Mapping[str, float] = {"half of the way": 0.5, "nine tenths of the way": 0.9}


@dataclass(frozen=True)
class Area:
    """One quantity on one axis: its mean height from `start` to `stop` in every arm, and the judged difference."""

    quantity: str
    axis: str
    start: float
    stop: float
    metric: Metric


@dataclass(frozen=True)
class Arrival:
    """When an arm's runs reached a level. median: None where half or more of them did not."""

    per_seed: Mapping[int, float | None]
    median: float | None

    @property
    def runs(self) -> int:
        return len(self.per_seed)

    @property
    def reached(self) -> int:
        return sum(time is not None for time in self.per_seed.values())


@dataclass(frozen=True)
class Race:
    """Time to one target on one axis.

    log_ratios: of the time of a pair's first arm to its second's, where every run arrived.
    """

    quantity: str
    axis: str
    goal: str
    level: float
    arms: Mapping[str, Arrival]
    log_ratios: Differences

    @property
    def log_ratio(self) -> Difference | None:
        """Of the first pair."""
        return next(iter(self.log_ratios.values()), None)

    @property
    def ratio(self) -> tuple[float | None, float | None, float | None]:
        """Of the first pair."""
        return as_ratio(self.log_ratio)


def as_ratio(log_ratio: Difference | None) -> tuple[float | None, float | None, float | None]:
    """One time over another, a geometric mean, and its 95 % interval."""
    estimate = log_ratio.estimate if log_ratio else None
    if estimate is None or estimate.mean is None:
        return None, None, None
    interval = estimate.interval()
    low, high = map(_exp, interval) if interval else (None, None)
    return _exp(estimate.mean), low, high


def _exp(power: float) -> float:
    """As far as floats go: what was recorded may be anybody's."""
    return math.exp(min(power, math.log(sys.float_info.max)))


def areas(accuracy: ByAxis, reward: ByAxis, terms: Terms) -> tuple[Area, ...]:
    """Of the accuracy, which the margin is about, and of the training reward, on every axis with a common stretch."""
    found = [_area("accuracy", "fraction", axis, paths, terms, terms.margin) for axis, paths in accuracy.items()]
    found += [_area("reward", "", axis, paths, terms, None) for axis, paths in reward.items()]
    return tuple(area for area in found if area)


def races(accuracy: ByAxis, reward: ByAxis, terms: Terms, declared: float | None) -> tuple[Race, ...]:
    """Time to each goal; none of ours where half of the runs of an arm never rose above where they started.

    declared: an accuracy that the suite named before the runs.
    """
    goals: list[tuple[str, ByAxis, str, Callable[[Paths], float | None]]] = []
    if declared is not None:
        goals.append(("accuracy", accuracy, "declared by the suite", lambda _: declared))
    for quantity, by_axis in (("accuracy", accuracy), ("reward", reward)):
        goals += [(quantity, by_axis, goal, partial(target, share=share)) for goal, share in GOALS.items()]
    return tuple(
        _race(quantity, axis, goal, level, paths, terms)
        for quantity, by_axis, goal, level_of in goals
        for axis, paths in by_axis.items()
        if (level := level_of(paths)) is not None
    )


def target(paths: Paths, share: float) -> float | None:
    """`share` of the way from the mean start up to the lower of the arms' medians over runs of the highest value."""
    by_arm = [[path for path in own.values() if path] for own in paths.standing.values()]
    if not all(by_arm):
        return None
    start = float(np.mean([np.mean([path.y[0] for path in own]) for own in by_arm]))
    top = min(float(np.median([path.y.max() for path in own])) for own in by_arm)
    return start + share * (top - start) if top > start else None


def area_to_json(area: Area) -> dict[str, Any]:
    place = {"quantity": area.quantity, "axis": area.axis, "from": area.start, "to": area.stop}
    return place | metrics.to_json(area.metric)


def race_to_json(race: Race) -> dict[str, Any]:
    arms = {
        arm: {
            "reached": own.reached,
            "n": own.runs,
            "median": own.median,
            "per_seed": {str(seed): time for seed, time in own.per_seed.items()},
        }
        for arm, own in race.arms.items()
    }
    return {
        **{key: getattr(race, key) for key in ("quantity", "axis", "goal", "level")},
        "arms": arms,
        **ratio_to_json(race.log_ratio),
    }


def ratio_to_json(log_ratio: Difference | None) -> dict[str, Any]:
    ratio, low, high = as_ratio(log_ratio)
    judged = log_ratio.verdict if log_ratio else None
    return {
        "ratio": ratio,
        "low": low,
        "high": high,
        "verdict": judged.label if judged else None,
        "reason": judged.reason if judged else None,
    }


def _area(quantity: str, unit: str, axis: str, paths: Paths, terms: Terms, margin: float | None) -> Area | None:
    if paths.common is None:
        return None
    start, stop = paths.common
    heights = {
        arm: {seed: float(mean_height(p.x, p.y, start, stop)) if p else None for seed, p in own.items()}
        for arm, own in paths.runs.items()
    }
    tables = _question_heights(paths, start, stop)
    arms = {}
    for arm, values in heights.items():
        by_seed = estimates.mean_interval(values.values())
        crossed = tables is not None and arm in tables and by_seed.n[0] > 1
        arms[arm] = metrics.arm_value(estimates.crossed(tables[arm]) if tables and crossed else by_seed, values)
    differences = {}
    for pair in terms.fitting:
        answers = (tables[pair.first], tables[pair.second]) if tables and set(pair) <= tables.keys() else None
        problem = terms.problems[pair] or _objection(paths, pair)
        differences[pair] = metrics.judge(pair, heights, margin, "higher", problem, answers)
    title = f"{quantity.capitalize()}, mean over {AXES[axis][0].lower()}"
    name = f"area/{quantity}/{axis}"
    metric = Metric(name, title, unit, "higher", arms, over_pairs(metrics.of_all(terms, differences)))
    return Area(quantity, axis, start, stop, metric)


def _question_heights(paths: Paths, start: float, stop: float) -> dict[str, Array] | None:
    """arm → [seeds, questions]: the mean height of every question's own curve; None where answers are lacking."""
    found = {}
    for arm, own in paths.standing.items():
        rows = [mean_height(p.x, p.scores, start, stop) for p in own.values() if p and p.scores is not None]
        if not rows or len(rows) < len(own):
            return None
        found[arm] = np.array(rows)
    return found


def _race(quantity: str, axis: str, goal: str, level: float, paths: Paths, terms: Terms) -> Race:
    arms = {}
    for arm, own in paths.runs.items():
        times = {seed: arrival(path, level) if path else None for seed, path in own.items()}
        # A run that never arrives took longer than any that did; an arm without runs has no median at all.
        median = float(np.median([math.inf if time is None else time for time in times.values()] or [math.inf]))
        arms[arm] = Arrival(times, median if math.isfinite(median) else None)
    ratios = {pair: _log_ratio(pair, arms, terms.problems[pair] or _objection(paths, pair)) for pair in terms.fitting}
    return Race(quantity, axis, goal, level, arms, over_pairs(metrics.of_all(terms, ratios)))


def _log_ratio(pair: Pair, arms: Mapping[str, Arrival], problem: str | None) -> Difference:
    """Welch on the logarithms of the times, so that twice as long is as far from equal as half as long."""
    own = {arm: arms[arm] for arm in pair}
    late = [
        f"{one.runs - one.reached} of {one.runs} runs of {text.arm_name(arm)} never got there"
        for arm, one in own.items()
        if one.reached < one.runs
    ]
    if late:
        note = text.listed(late)
        verdict = Verdict(VerdictKind.INVALID, problem) if problem else Verdict(VerdictKind.NO_VERDICT, note)
        n = tuple(one.reached for one in own.values())
        return Difference(Estimate(None, None, None, n, "Welch on log times", note=note), verdict)
    logs = {
        arm: {seed: math.log(time) if time else None for seed, time in one.per_seed.items()} for arm, one in own.items()
    }
    return metrics.judge(pair, logs, None, "lower", problem)


def _objection(paths: Paths, pair: Pair) -> str | None:
    if paths.fault:
        return paths.fault
    of_pair = Paths({arm: paths.runs[arm] for arm in pair})
    if lost := sum(path is None for own in of_pair.runs.values() for path in own.values()):
        return f"{text.plural(lost, 'finished run')} did not record this axis"
    return f"the curves lack {text.plural(of_pair.missing, 'finite value')}" if of_pair.missing else None
