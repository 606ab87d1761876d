"""Statistics for a handful of seeds: intervals, the smallest effect that could have been seen, and the verdict.

A run's accuracy is a mean over questions, and a comparison's is a mean over seeds of such means. Both are samples:
other seeds and other questions would have given another number. Treating the questions of all seeds as one pool
forgets the seeds, and a bootstrap over three seeds has three values to draw from; both give intervals that are too
short. The crossed estimator below keeps the two apart, and is the primary one wherever answers per question exist.

Everything here is a pure function of numbers. Missing and non-finite values are counted, never averaged away.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats as sps
from scipy.optimize import brentq

from reports.stats.verdict import Verdict, VerdictKind

Array = NDArray[np.float64]
Better = Literal["higher", "lower"] | None

LEVEL = 0.95
# Two one-sided tests at 5 % are the 90 % interval lying inside the margin.
EQUIVALENCE_LEVEL = 0.90
POWER = 0.80
MOST_SEEDS = 1000
# Values this close, relative to the largest of them, differ by the rounding of their sums and by nothing else.
ROUNDING = 1e-12
SMALLEST_TAIL = 1e-100


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean, or a difference of means, and how far to trust it.

    mean: None when there was nothing to average.
    se, df: standard error, and the degrees of freedom of what the seeds add to it; None when the data cannot give them.
    n: runs that entered, one count per arm. missing: values left out because they were absent or not finite.
    seed_variances: variance between single seeds, per arm. question_variance: the part of se² that more seeds would
        not remove, because every seed answered the same `questions` questions; it has questions − 1 degrees of freedom.
    note: why there is no interval, in words.
    """

    mean: float | None
    se: float | None
    df: float | None
    n: tuple[int, ...]
    method: str
    missing: int = 0
    seed_variances: tuple[float, ...] = ()
    question_variance: float = 0.0
    questions: int = 0
    note: str = ""

    @property
    def p_value(self) -> float | None:
        """Two-sided, for a true value of zero; None without a standard error above zero."""
        if self.mean is None or not self.se or self.df is None:
            return None
        size = abs(self.mean)

        def beyond(log_tail: float) -> float:
            return self.deviation(math.exp(log_tail)) - size

        smallest, largest = math.log(SMALLEST_TAIL), math.log(0.5)
        tail = smallest if beyond(smallest) <= 0 else brentq(beyond, smallest, largest, xtol=1e-12)
        return 2 * math.exp(tail)

    def deviation(self, tail: float) -> float:
        """t·se: how far above the truth an estimate lies with probability `tail`.

        t is the mean of two quantiles, that of the seeds' degrees of freedom and that of the questions', weighted by
        what each adds to se² (Cochran, Biometrics 20, 1964). Only for an estimate that has a standard error.
        """
        assert self.se is not None
        assert self.df is not None
        if self.se == 0:
            return 0.0
        share = self.question_variance / self.se**2
        t = (1 - share) * float(sps.t.isf(tail, self.df))
        return self.se * (t + share * float(sps.t.isf(tail, self.questions - 1)) if share else t)

    def interval(self, level: float = LEVEL) -> tuple[float, float] | None:
        """mean ± t·se, or None when there is no standard error."""
        if self.mean is None or self.se is None or self.df is None:
            return None
        half = self.deviation((1 - level) / 2)
        return self.mean - half, self.mean + half


def finite(values: Iterable[Any]) -> tuple[Array, int]:
    """The finite numbers among `values`, and how many were not."""
    array = np.array([math.nan if value is None else float(value) for value in values], dtype=np.float64)
    kept = array[np.isfinite(array)]
    return kept, int(array.size - kept.size)


def mean_interval(values: Iterable[Any]) -> Estimate:
    """Student's t on one value per seed."""
    x, missing = finite(values)
    method = "t on seeds"
    if x.size == 0:
        return Estimate(None, None, None, (0,), method, missing, note="no finite value")
    if x.size == 1:
        return Estimate(float(x[0]), None, None, (1,), method, missing, note="one seed, no interval")
    variance = _variance(x)
    se = math.sqrt(variance / x.size)
    return Estimate(float(x.mean()), se, float(x.size - 1), (x.size,), method, missing, (variance,))


def welch(a: Iterable[Any], b: Iterable[Any]) -> Estimate:
    """mean(a) − mean(b) with unequal variances: V = s_a²/n_a + s_b²/n_b, df after Welch and Satterthwaite.

    Where neither arm varies at all (a count fixed by the batch shape, say) the interval is the point itself.
    """
    x, missing_a = finite(a)
    y, missing_b = finite(b)
    n, missing, method = (int(x.size), int(y.size)), missing_a + missing_b, "Welch on seeds"
    if min(n) == 0:
        return Estimate(None, None, None, n, method, missing, note="an arm has no finite value")
    mean = _minus(float(x.mean()), float(y.mean()))
    if min(n) == 1:
        return Estimate(mean, None, None, n, method, missing, note="one seed in an arm, no interval")
    variances = (_variance(x), _variance(y))
    parts = [variance / size for variance, size in zip(variances, n, strict=True)]
    return Estimate(mean, math.sqrt(sum(parts)), _satterthwaite(parts, n), n, method, missing, variances)


def crossed(*arms: Array) -> Estimate:
    """Mean of one arm, or difference of two, over seeds × questions; `arms` are [S_a, Q], columns the same questions.

    With x[a, s, q] and D the (difference of) grand mean(s):

        V_a   = variance of arm a's seed means / S_a
        V_q   = variance over questions of the seed-averaged (difference) / Q
        V_res = Σ_a MS_res,a / (S_a·Q), the two-way residual, which V_a and V_q both contain
        V     = ΣV_a + max(V_q − V_res, 0)
        df    = (ΣV_a)² / Σ(V_a²/(S_a−1)) for the seeds' part, Q − 1 for the questions' part

    The two-way random-effects variance of a mean (Brennan, Generalizability Theory, 2001, §3); the maximum guards
    against V_res, itself an estimate, taking away more than there is. The parts keep their own degrees of freedom (see
    `Estimate.deviation`), because few seeds can look alike by chance: one df for the sum would then be that of the many
    questions, and the interval too short. Holding V up at V_q instead covers 98 to 99 % where seeds do not differ. With
    three and five seeds this covers 95 to 97 %, for an arm and for a difference (the slow tests measure it).

    A question that any run lacks (NaN) is left out for all of them and counted. One seed in an arm: no interval. When
    nothing varies at all (everything right, or everything wrong) there is none either: a ceiling is not precision.
    """
    if not 1 <= len(arms) <= 2:
        raise ValueError(f"one arm or two, not {len(arms)}")
    if len({x.shape[1] for x in arms}) != 1:
        raise ValueError("the arms have different numbers of questions")
    n, method = tuple(int(x.shape[0]) for x in arms), "crossed seeds × questions"
    complete = np.all(np.isfinite(np.concatenate(arms)), axis=0)
    missing = int((~complete).sum())
    kept = [x[:, complete] for x in arms]
    questions = int(complete.sum())
    if questions == 0 or min(n) == 0:
        return Estimate(None, None, None, n, method, missing, note="no question answered by every run")
    mean = _minus(*(float(x.mean()) for x in kept))
    if min(n) == 1 or questions == 1:
        what = "one seed in an arm" if min(n) == 1 else "one question"
        return Estimate(mean, None, None, n, method, missing, questions=questions, note=f"{what}, no interval")
    per_question = kept[0].mean(axis=0) - (kept[1].mean(axis=0) if len(kept) == 2 else 0.0)
    v_q = _variance(per_question) / questions
    seed_variances = tuple(_variance(x.mean(axis=1)) for x in kept)
    v_arms = [variance / size for variance, size in zip(seed_variances, n, strict=True)]
    v_res = sum(_residual_mean_square(x) / x.size for x in kept)
    floor = max(v_q - v_res, 0.0)
    # Seed means that happen to be equal do not measure how far seeds lie apart; the answers still do.
    total = sum(v_arms) + floor or v_q
    if total <= 0:
        note = "no answer differs between seeds or questions, so nothing measures the spread"
        return Estimate(mean, None, None, n, method, missing, seed_variances, floor, questions, note)
    df = _satterthwaite(v_arms, n)
    return Estimate(mean, math.sqrt(total), df, n, method, missing, seed_variances, floor, questions)


def wilson(correct: int, questions: int, level: float = LEVEL) -> tuple[float, float] | None:
    """Wilson's score interval for a share: what the questions alone leave open about one model."""
    if questions == 0:
        return None
    interval = sps.binomtest(correct, questions).proportion_ci(level, method="wilson")
    return float(interval.low), float(interval.high)


def minimum_detectable_effect(estimate: Estimate, *, power: float = POWER, level: float = LEVEL) -> float:
    """(t(½ + level/2) + t(power))·se: a true difference this large is found with probability `power`."""
    return estimate.deviation((1 - level) / 2) + estimate.deviation(1 - power)


def seeds_needed(estimate: Estimate, target: float) -> int | None:
    """Seeds per arm that bring the minimum detectable effect to `target`, the questions staying as they are.

    Extrapolated from the variances seen, so with few seeds it is a rough guide. None when the questions alone leave
    more doubt than that, or more than 1,000 seeds would be needed.
    """
    if not estimate.seed_variances or estimate.se is None or target <= 0:
        return None

    def reaches(seeds: int) -> bool:
        parts = [variance / seeds for variance in estimate.seed_variances]
        se = math.sqrt(sum(parts) + estimate.question_variance)
        planned = replace(estimate, se=se, df=_satterthwaite(parts, [seeds] * len(parts)))
        return minimum_detectable_effect(planned) <= target

    # More seeds never make the effect larger, so the first that reaches can be found by halving.
    seeds = 2 + bisect.bisect_left(range(2, MOST_SEEDS + 1), True, key=reaches)
    return seeds if seeds <= MOST_SEEDS else None


def verdict(
    estimate: Estimate,
    *,
    arms: tuple[str, str],
    better: Better,
    margin: float | None = None,
    problem: str | None = None,
) -> Verdict:
    """Judge first arm minus second arm, from the strongest objection to the strongest claim.

    problem: why the evidence itself does not hold (audit failed, runs missing); it overrules every number.
    better: which direction is good; None for a quantity that the budget fixes, which is not judged.
    margin: the difference that would not matter, declared before the runs; without one nothing is "equivalent",
        except what never differed at all.
    """
    if problem:
        return Verdict(VerdictKind.INVALID, problem)
    if estimate.mean is None:
        return Verdict(VerdictKind.INVALID, estimate.note)
    if better is None:
        return Verdict(VerdictKind.NO_VERDICT, "fixed by the budget, so not judged")
    wide = estimate.interval(LEVEL)
    narrow = estimate.interval(EQUIVALENCE_LEVEL)
    if wide is None or narrow is None:
        return Verdict(VerdictKind.NO_VERDICT, estimate.note)
    mde = minimum_detectable_effect(estimate)
    seeds = seeds_needed(estimate, margin) if margin else None
    within = None if margin is None else bool(-margin < narrow[0] and narrow[1] < margin)
    low, high = wide
    if low > 0 or high < 0:
        first_leads = (low > 0) == (better == "higher")
        beyond = None if margin is None else bool(low > margin or high < -margin)
        return Verdict(
            VerdictKind.BETTER,
            "the 95 % interval of the difference excludes zero",
            winner=arms[0] if first_leads else arms[1],
            beyond_margin=beyond,
            within_margin=within,
            mde=mde,
            seeds_needed=seeds,
        )
    if within or low == high == 0:
        kind, within, reason = VerdictKind.EQUIVALENT, True, "the 90 % interval lies inside the margin"
    else:
        kind, reason = VerdictKind.INCONCLUSIVE, "the 95 % interval of the difference includes zero"
    return Verdict(kind, reason, within_margin=within, mde=mde, seeds_needed=seeds)


def _variance(x: Array) -> float:
    """Unbiased; exactly zero where the values differ by rounding only, which must not pass for a very sure result."""
    return 0.0 if float(np.ptp(x)) <= ROUNDING * float(np.abs(x).max()) else float(x.var(ddof=1))


def _minus(a: float, b: float = 0.0) -> float:
    return 0.0 if abs(a - b) <= ROUNDING * max(abs(a), abs(b)) else a - b


def _residual_mean_square(x: Array) -> float:
    """Two-way analysis of variance without replication: what neither the seed nor the question explains."""
    rows, columns = x.mean(axis=1, keepdims=True), x.mean(axis=0, keepdims=True)
    residual = x - rows - columns + x.mean()
    return float((residual**2).sum()) / ((x.shape[0] - 1) * (x.shape[1] - 1))


def _satterthwaite(parts: Sequence[float], seeds: Sequence[int]) -> float:
    """Degrees of freedom of a sum of independent parts, each from that many seeds; pooled where all parts are zero."""
    below = sum(part**2 / (n - 1) for part, n in zip(parts, seeds, strict=True))
    return sum(parts) ** 2 / below if below > 0 else float(sum(seeds) - len(seeds))
