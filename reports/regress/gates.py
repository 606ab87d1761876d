"""The gates: each holds one quantity of one arm against the baseline, and says in words what follows.

Pure functions of numbers. Quality is judged by non-inferiority (Piaggio et al., JAMA 308, 2012). With d the change,
counted so that more is better, and its 95 % bounds, each one-sided (the ends of d's 90 % interval):

    lower bound > +margin     better: the least that the seeds allow is a gain that matters
    lower bound > −margin     pass: the most that can have been lost does not matter
    upper bound < −margin     regression: the least that can have been lost matters
    otherwise                 cannot tell: the seeds allow both

A true loss as large as the margin is so called a regression at most once in twenty, and no change at all far more
seldom. Bounds come from the values of the seeds. A few seeds can lie close together by luck and would then promise a
precision that nobody has, so the spread is taken to be at least FLOOR_SHARE of the margin: of the baseline's values
(Welch), or of the differences where each seed is held against itself (paired; the same seed draws the same prompts
and, with the in-process sampler, the same random numbers, so most of the luck is common and drops out). Where every
seed gives the baseline's value to the last digit there is nothing to be unsure about.

Time and memory hardly vary with the seed, and are held against fixed limits instead.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from statistics import median

from reports import text
from reports.regress.baseline import Curve, Target
from reports.regress.fingerprint import lacking
from reports.stats import estimates
from reports.stats.estimates import Estimate

FLOOR_SHARE = 0.25
# What may be lost: of the steps to the target, of the time per step, of the peak memory.
TARGET_MARGIN = 0.25
TIME_LIMIT, TIME_SPREADS = 0.05, 3
MEMORY_LIMIT = 0.02
ONE_SIDED = 0.90
# Shares that differ by the margin itself do so to the last bits of a float only.
ROUNDING = 1e-9
CURVES = "curves, to the bit"


class Outcome(StrEnum):
    """From the best to the gravest."""

    BETTER = "better"
    PASS = "pass"
    NOT_COMPARED = "not compared"
    UNDECIDED = "cannot tell"
    INCOMPLETE = "incomplete"
    REGRESSION = "regression"


@dataclass(frozen=True, slots=True)
class Gate:
    """One judgement. base, new: what was held against what; None where it is no single number."""

    arm: str
    name: str
    outcome: Outcome
    sentence: str
    base: float | None = None
    new: float | None = None
    unit: str = ""


PerSeed = Mapping[int, float | None]


def quality(
    arm: str, name: str, base: Mapping[int, float], new: PerSeed, *, margin: float, paired: bool, unit: str = ""
) -> Gate:
    """A share of right answers, or a reward: higher is better. base, new: by seed, new having all of base's."""
    if without := lacking(base, new):
        return incomplete(arm, name, without)
    values = {seed: value for seed, value in new.items() if value is not None and math.isfinite(value)}
    change = difference(base, values, FLOOR_SHARE * margin, paired=paired)
    outcome = non_inferior(change, margin) if any(values[seed] != base[seed] for seed in base) else Outcome.PASS
    before, after = mean(base), mean(values)
    span = change.interval(ONE_SIDED)
    amount = text.points(change.mean)
    likely = f"the seeds allow {text.span(*span, 'points')}" if span else "one seed, so luck cannot be told from change"
    allowed = f"a loss of up to {text.points(margin, signed=False)} is allowed"
    sentence = f"{amount}, {likely}; {allowed}" if change.mean else f"unchanged; {allowed}"
    return Gate(arm, name, outcome, sentence, before, after, unit)


def grading(task: str, base: float, new: float | None, *, margin: float, same_device: bool = True) -> Gate:
    """Accuracy before training. The weights and the questions are the baseline's, so a change in either direction is
    one of how answers are sampled or graded: a verifier that accepts too much makes every other figure look better.

    Another device rounds in another way, which turns an answer here and there: up to twice the margin tells nothing.
    """
    name = f"eval/{task}/accuracy before training"
    if new is None or not math.isfinite(new):
        return Gate("", name, Outcome.INCOMPLETE, "no value, and the baseline has one")
    apart = abs(new - base) - ROUNDING
    outcome = Outcome.PASS if apart <= margin else Outcome.REGRESSION
    if outcome is Outcome.REGRESSION and not same_device and apart <= 2 * margin:
        outcome = Outcome.UNDECIDED
    allowed = f"up to {text.points(margin, signed=False)} either way is allowed"
    sentence = f"{text.points(new - base)} for the same weights; {allowed}" if new != base else f"unchanged; {allowed}"
    return Gate("", name, outcome, sentence, base, new, "fraction")


def time_to_target(arm: str, target: Target, new: Mapping[int, int | None], lengths: PerSeed, *, paired: bool) -> Gate:
    """Steps until the reward reached the baseline's level: fewer is better. A run that never did counts as one step
    more than it had, which is the least it can have needed, so such a run can show a loss and never a pass. Steps
    vary so much between seeds that bounds can be wide where no seed took longer than itself before; that is a pass.

    new, lengths: by seed, the step that reached it and the number of steps.
    """
    name = f"steps to a reward of {target.level:.3g}"
    if without := [seed for seed in target.steps if seed not in new]:
        return incomplete(arm, name, without)
    new = {seed: new[seed] for seed in target.steps}
    longest = max(int(length or 0) for length in lengths.values()) + 1
    base = {seed: float(step or longest) for seed, step in target.steps.items()}
    values = {seed: float(step or longest) for seed, step in new.items()}
    before, after = mean(base), mean(values)
    margin = TARGET_MARGIN * before
    never = [seed for seed in target.steps if new[seed] is None]
    # Counted so that more is better.
    change = difference(negated(base), negated(values), FLOOR_SHARE * margin, paired=paired)
    outcome = Outcome.PASS if target.steps == new else non_inferior(change, margin)
    if never and outcome in (Outcome.PASS, Outcome.BETTER) and target.steps != new:
        outcome = Outcome.UNDECIDED
    if outcome is Outcome.UNDECIDED and paired and not never and all(values[seed] <= base[seed] for seed in base):
        outcome = Outcome.PASS
    sentence = f"{after:.3g} steps, {before:.3g} in the baseline; a quarter more is allowed"
    if never:
        sentence += f"; never reached by seed {', '.join(map(str, never))}"
    return Gate(arm, name, outcome, sentence, before, after, "steps")


def step_time(
    arm: str,
    name: str,
    base: Mapping[int, float],
    new: PerSeed,
    *,
    machine: float | None,
    disturbed: tuple[Sequence[int], Sequence[int]] = ((), ()),
) -> Gate:
    """Seconds per step, the median of the seeds' medians: at most 5 % more, or three times the median distance of the
    baseline's seeds from their median, whichever is larger.

    machine: this machine's time for a fixed piece of work over the baseline's. It counts twice, because what slows one
        large product slows many small ones more: slower by no more than that, and nobody can tell. Nor where some seed
        is not slower at all, because code slows all of them and a neighbour only some; nor where a machine that became
        faster should have made every seed faster than the limit, and did not. disturbed: the baseline's and this
        benchmark's seeds whose run something else on the machine slowed; they are left out, and a single one that is
        left convicts nobody. Faster is held to the same.
    """
    if without := lacking(base, new):
        return incomplete(arm, name, without)
    was = [value for seed, value in base.items() if seed not in disturbed[0]]
    now = [value for seed in base if (value := new[seed]) is not None and seed not in disturbed[1]]
    if not was or not now:
        whose = "here" if was else "of the baseline: make one on a quiet machine"
        sentence = f"something else on the machine slowed every run {whose}"
        return Gate(arm, name, Outcome.UNDECIDED, sentence, unit="s")
    before, after, pace = median(was), median(now), machine or 1.0
    left_out = 2 * len(base) - len(was) - len(now)
    alone = left_out > 0 and min(len(was), len(now)) == 1
    limit = max(TIME_LIMIT * before, TIME_SPREADS * median(abs(value - before) for value in was))
    if after > before + limit:
        slower = min(now) / max(pace, 1.0) ** 2 > before + limit
        outcome = Outcome.REGRESSION if slower and not alone else Outcome.UNDECIDED
    elif min(now) / min(pace, 1.0) > before + limit:
        outcome = Outcome.UNDECIDED
    else:
        faster = max(now) / min(pace, 1.0) ** 2 < before - limit
        outcome = Outcome.BETTER if faster and not alone else Outcome.PASS
    sentence = f"{relative(after, before)}; up to {text.percent(limit / before, 0)} more is allowed"
    if machine and abs(machine - 1) > TIME_LIMIT:
        direction = "slower" if machine > 1 else "faster"
        change = text.percent(abs(machine - 1), 0)
        sentence += f"; the machine itself was {change} {direction} at a fixed piece of work"
    if outcome is Outcome.UNDECIDED and min(now) <= before + limit < after:
        sentence += "; not every measurement was slower"
    if left_out:
        sentence += f"; {text.plural(left_out, 'run')} left out, slowed by something else on the machine"
    return Gate(arm, name, outcome, sentence, before, after, "s")


def memory(arm: str, name: str, base: Mapping[int, float], new: PerSeed) -> Gate:
    """Peak bytes, the highest of the seeds: at most 2 % more."""
    if without := lacking(base, new):
        return incomplete(arm, name, without)
    before, after = max(base.values()), max(value for seed in base if (value := new[seed]) is not None)
    limit = MEMORY_LIMIT * before
    outcome = Outcome.REGRESSION if after > before + limit else Outcome.PASS
    outcome = Outcome.BETTER if after < before - limit else outcome
    return Gate(arm, name, outcome, f"{relative(after, before)}; up to 2 % more is allowed", before, after, "B")


def curves(arm: str, base: Mapping[int, Curve], new: Mapping[int, Curve]) -> Gate:
    """Everything that a run determines, bit for bit: the first step where a seed's run leaves the baseline's."""
    if without := [seed for seed in base if seed not in new]:
        return incomplete(arm, CURVES, without)
    for seed in sorted(base):
        if base[seed].sha256 != new[seed].sha256:
            return Gate(arm, CURVES, Outcome.REGRESSION, f"seed {seed}: {first_change(base[seed], new[seed])}")
    steps = sum(curve.steps for curve in base.values())
    return Gate(arm, CURVES, Outcome.PASS, f"all {steps} steps of {text.plural(len(base), 'seed')} are the same")


def first_change(base: Curve, new: Curve) -> str:
    """Where and in what two curves part, as far as the kept values show it."""
    for index, (was, now) in enumerate(zip(base.digests, new.digests, strict=False)):
        if was != now:
            for name in (name for name in base.values if name in new.values):
                before, after = base.values[name][index], new.values[name][index]
                if before != after:
                    return f"from step {index + 1} on, {name} is {after!r} and was {before!r}"
            return f"from step {index + 1} on, in a column whose values the baseline does not keep"
    if base.steps != new.steps:
        return f"{new.steps} steps instead of {base.steps}"
    return f"after step {len(base.digests)}, the last one that the baseline keeps"


def incomplete(arm: str, name: str, seeds: list[int]) -> Gate:
    sentence = f"no value for seed {', '.join(map(str, seeds))}, which the baseline has"
    return Gate(arm, name, Outcome.INCOMPLETE, sentence)


def difference(base: Mapping[int, float], new: Mapping[int, float], floor: float, *, paired: bool) -> Estimate:
    """new − base with the spread of single seeds taken to be at least `floor` (see the module's docstring)."""
    if paired:
        change = estimates.mean_interval(new[seed] - base[seed] for seed in base)
    else:
        change = estimates.welch(new.values(), base.values())
    if change.se is None:
        return change
    # The last variance is the baseline's, or that of the differences.
    variance, n = change.seed_variances[-1], change.n[-1]
    return replace(change, se=math.sqrt(change.se**2 + max(floor**2 - variance, 0.0) / n))


def non_inferior(change: Estimate, margin: float) -> Outcome:
    """What a change says whose more is better; a single seed says nothing."""
    bounds = change.interval(ONE_SIDED)
    if bounds is None:
        return Outcome.UNDECIDED
    low, high = bounds
    if low > margin:
        return Outcome.BETTER
    if low > -margin:
        return Outcome.PASS
    return Outcome.REGRESSION if high < -margin else Outcome.UNDECIDED


def mean(values: Mapping[int, float]) -> float:
    return sum(values.values()) / len(values)


def negated(values: Mapping[int, float]) -> dict[int, float]:
    return {seed: -value for seed, value in values.items()}


def relative(new: float, base: float) -> str:
    if new == base:
        return "no change"
    return f"{text.percent(abs(new / base - 1))} {'more' if new > base else 'less'}"
