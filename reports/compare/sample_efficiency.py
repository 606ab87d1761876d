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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from reports import text
from reports.compare import metrics
from reports.compare.metrics import Difference, Metric
from reports.record.names import AXES
from reports.stats import estimates
from reports.stats.estimates import Array, Estimate, Verdict
from reports.stats.paths import Paths, arrival, mean_height

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
    """Time to one target on one axis. log_ratio: of the first arm's time to the second's, where every run arrived."""

    quantity: str
    axis: str
    goal: str
    level: float
    arms: Mapping[str, Arrival]
    log_ratio: Difference | None

    @property
    def ratio(self) -> tuple[float | None, float | None, float | None]:
        """First arm's time over the second's, a geometric mean, and its 95 % interval."""
        estimate = self.log_ratio.estimate if self.log_ratio else None
        if estimate is None or estimate.mean is None:
            return None, None, None
        interval = estimate.interval()
        low, high = map(_exp, interval) if interval else (None, None)
        return _exp(estimate.mean), low, high


def _exp(power: float) -> float:
    """As far as floats go: what was recorded may be anybody's."""
    return math.exp(min(power, math.log(sys.float_info.max)))


def areas(
    accuracy: ByAxis, reward: ByAxis, compared: Sequence[str], margin: float | None, problem: str | None
) -> tuple[Area, ...]:
    """Of the accuracy, which the margin is about, and of the training reward, on every axis with a common stretch."""
    found = [_area("accuracy", "fraction", axis, paths, compared, margin, problem) for axis, paths in accuracy.items()]
    found += [_area("reward", "", axis, paths, compared, None, problem) for axis, paths in reward.items()]
    return tuple(area for area in found if area)


def races(
    accuracy: ByAxis, reward: ByAxis, compared: Sequence[str], declared: float | None, problem: str | None
) -> tuple[Race, ...]:
    """Time to each goal; none of ours where half of the runs of an arm never rose above where they started.

    declared: an accuracy that the suite named before the runs.
    """
    goals: list[tuple[str, ByAxis, str, Callable[[Paths], float | None]]] = []
    if declared is not None:
        goals.append(("accuracy", accuracy, "declared by the suite", lambda _: declared))
    for quantity, by_axis in (("accuracy", accuracy), ("reward", reward)):
        goals += [(quantity, by_axis, goal, partial(target, share=share)) for goal, share in GOALS.items()]
    return tuple(
        _race(quantity, axis, goal, level, paths, compared, problem)
        for quantity, by_axis, goal, level_of in goals
        for axis, paths in by_axis.items()
        if (level := level_of(paths)) is not None
    )


def target(paths: Paths, share: float) -> float | None:
    """`share` of the way from the mean start up to the lower of the arms' medians over runs of the highest value."""
    by_arm = [[path for path in own.values() if path] for own in paths.runs.values()]
    if not all(by_arm):
        return None
    start = float(np.mean([np.mean([path.y[0] for path in own]) for own in by_arm]))
    top = min(float(np.median([path.y.max() for path in own])) for own in by_arm)
    return start + share * (top - start) if top > start else None


def area_to_json(area: Area) -> dict[str, Any]:
    place = {"quantity": area.quantity, "axis": area.axis, "from": area.start, "to": area.stop}
    return place | metrics.to_json(area.metric)


def race_to_json(race: Race) -> dict[str, Any]:
    ratio, low, high = race.ratio
    arms = {
        arm: {
            "reached": own.reached,
            "n": own.runs,
            "median": own.median,
            "per_seed": {str(seed): time for seed, time in own.per_seed.items()},
        }
        for arm, own in race.arms.items()
    }
    judged = race.log_ratio.verdict if race.log_ratio else None
    return {
        **{key: getattr(race, key) for key in ("quantity", "axis", "goal", "level")},
        "arms": arms,
        "ratio": ratio,
        "low": low,
        "high": high,
        "verdict": judged.label if judged else None,
        "reason": judged.reason if judged else None,
    }


def _area(
    quantity: str,
    unit: str,
    axis: str,
    paths: Paths,
    compared: Sequence[str],
    margin: float | None,
    problem: str | None,
) -> Area | None:
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
        estimate = estimates.crossed(tables[arm]) if tables and by_seed.n[0] > 1 else by_seed
        arms[arm] = metrics.arm_value(estimate, values)
    pair = [tables[arm] for arm in compared] if tables else None
    difference = metrics.judge(compared, heights, margin, "higher", problem or _objection(paths), pair)
    title = f"{quantity.capitalize()}, mean over {AXES[axis][0].lower()}"
    return Area(quantity, axis, start, stop, Metric(f"area/{quantity}/{axis}", title, unit, "higher", arms, difference))


def _question_heights(paths: Paths, start: float, stop: float) -> dict[str, Array] | None:
    """arm → [seeds, questions]: the mean height of every question's own curve; None where answers are lacking."""
    if any(path is None or path.scores is None for own in paths.runs.values() for path in own.values()):
        return None
    found = {}
    for arm, own in paths.runs.items():
        rows = [mean_height(p.x, p.scores, start, stop) for p in own.values() if p and p.scores is not None]
        if not rows:
            return None
        found[arm] = np.array(rows)
    return found


def _race(
    quantity: str, axis: str, goal: str, level: float, paths: Paths, compared: Sequence[str], problem: str | None
) -> Race:
    arms = {}
    for arm, own in paths.runs.items():
        times = {seed: arrival(path, level) if path else None for seed, path in own.items()}
        # A run that never arrives took longer than any that did; an arm without runs has no median at all.
        median = float(np.median([math.inf if time is None else time for time in times.values()] or [math.inf]))
        arms[arm] = Arrival(times, median if math.isfinite(median) else None)
    pair = {arm: arms[arm] for arm in compared}
    return Race(quantity, axis, goal, level, arms, _log_ratio(pair, problem or _objection(paths)))


def _log_ratio(pair: Mapping[str, Arrival], problem: str | None) -> Difference | None:
    """Welch on the logarithms of the times, so that twice as long is as far from equal as half as long."""
    late = [
        f"{own.runs - own.reached} of {own.runs} runs of {text.arm_name(arm)} never got there"
        for arm, own in pair.items()
        if own.reached < own.runs
    ]
    if late and len(pair) == 2:
        note = text.listed(late)
        verdict = Verdict("invalid", problem) if problem else Verdict("no verdict", note)
        n = tuple(own.reached for own in pair.values())
        return Difference(Estimate(None, None, None, n, "Welch on log times", note=note), verdict)
    logs = {
        arm: {seed: math.log(time) if time else None for seed, time in own.per_seed.items()}
        for arm, own in pair.items()
    }
    return metrics.judge(tuple(pair), logs, None, "lower", problem)


def _objection(paths: Paths) -> str | None:
    if paths.fault:
        return paths.fault
    if lost := sum(path is None for own in paths.runs.values() for path in own.values()):
        return f"{text.plural(lost, 'finished run')} did not record this axis"
    return f"the curves lack {text.plural(paths.missing, 'finite value')}" if paths.missing else None
