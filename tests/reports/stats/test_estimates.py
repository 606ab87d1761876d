"""Intervals and verdicts against values worked out elsewhere: by hand, by scipy's tests, or in print."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as sps

from reports.stats import estimates
from reports.stats.estimates import Estimate
from reports.stats.verdict import Verdict

ARMS = ("ppo", "grpo")


def judged(mean: float, se: float, df: float = 10.0, *, margin: float | None = 0.01, better="higher") -> Verdict:
    estimate = Estimate(mean, se, df, (6, 6), "made up", seed_variances=(6 * se**2 / 2, 6 * se**2 / 2))
    return estimates.verdict(estimate, arms=ARMS, better=better, margin=margin)


def test_the_crossed_variance_of_one_arm_is_the_one_worked_out_by_hand():
    # Seed means ½ and 1, question means 1 and ½, four residuals of ±¼: V_a = V_q = V_res = 1/16, so V = V_a, df = 1.
    estimate = estimates.crossed(np.array([[1.0, 0.0], [1.0, 1.0]]))
    assert estimate.mean == 0.75
    assert estimate.se == pytest.approx(0.25)
    assert estimate.df == pytest.approx(1.0)


def test_the_crossed_variance_of_a_difference_is_the_one_worked_out_by_hand():
    # V_a = V_b = 1/16; both questions differ by ½, so V_q = 0; V_res = 1/8; V = max(0, 1/8, 0); df = 2.
    a, b = np.array([[1.0, 0.0], [1.0, 1.0]]), np.array([[0.0, 0.0], [1.0, 0.0]])
    estimate = estimates.crossed(a, b)
    assert estimate.mean == 0.5
    assert estimate.se == pytest.approx(math.sqrt(1 / 8))
    assert estimate.df == pytest.approx(2.0)
    half = 4.30265 * math.sqrt(1 / 8)  # t(.975, 2) from the printed tables
    assert estimate.interval() == pytest.approx((0.5 - half, 0.5 + half), abs=1e-4)


def test_the_crossed_variance_is_that_of_shrout_and_fleiss_mean_squares():
    # Shrout and Fleiss, Psychological Bulletin 86 (1979), tables 2 and 3: six targets rated by four judges, with mean
    # squares of 11.24 between targets, 32.49 between judges, and 1.02 left over. V = (11.24 + 32.49 - 1.02) / 24.
    ratings = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], float)
    estimate = estimates.crossed(ratings)
    assert estimate.se**2 == pytest.approx((11.24 + 32.49 - 1.02) / 24, abs=1e-3)
    assert estimates.crossed(ratings.T).se == pytest.approx(estimate.se)


def test_seeds_and_questions_keep_their_own_degrees_of_freedom():
    # Cochran's t for halves of 2 and of 60 degrees of freedom: the mean of 4.303 and 2.000 in the printed tables.
    estimate = Estimate(0.0, 0.02, 2.0, (2, 2), "made up", question_variance=0.0002, questions=61)
    assert estimate.interval()[1] == pytest.approx(0.02 * (4.30265 + 2.00030) / 2, abs=1e-6)


@pytest.mark.parametrize("level", [0.5, 0.9, 0.999])
def test_the_p_value_is_the_level_at_which_the_interval_touches_zero(level):
    estimate = Estimate(0.05, 0.02, 2.0, (2, 2), "made up", question_variance=0.0003, questions=61)
    touching = replace(estimate, mean=estimate.interval(level)[1] - 0.05)
    assert touching.p_value == pytest.approx(1 - level)
    assert touching.interval(level)[0] == pytest.approx(0.0, abs=1e-12)


def test_seed_means_that_happen_to_be_equal_leave_the_answers_to_measure_the_spread():
    a = np.array([[1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 1.0, 0.0]])
    assert estimates.crossed(a, np.zeros((2, 4))).se > 0


def test_what_differs_by_rounding_only_is_not_called_better():
    tenth = [0.1 + 0.2, 0.3, 0.3]
    assert estimates.welch(tenth, [0.3, 0.3, 0.3]).interval() == (0.0, 0.0)
    assert estimates.crossed(np.full((3, 40), 0.1), np.full((3, 40), 0.3) / 3).interval() is None


def test_arms_with_different_numbers_of_seeds_are_compared():
    rng = np.random.default_rng(1)
    estimate = estimates.crossed(rng.random((5, 40)), rng.random((3, 40)))
    assert estimate.n == (5, 3)
    assert estimate.interval() is not None


def test_one_seed_has_a_mean_and_no_interval():
    estimate = estimates.crossed(np.array([[1.0, 0.0, 1.0]]), np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 1.0]]))
    assert estimate.mean == pytest.approx(2 / 3 - 0.5)
    assert estimate.se is None
    assert estimate.interval() is None


def test_a_ceiling_is_not_taken_for_precision():
    estimate = estimates.crossed(np.ones((3, 20)), np.ones((3, 20)))
    assert estimate.mean == 0.0
    assert estimate.interval() is None
    assert estimates.verdict(estimate, arms=ARMS, better="higher", margin=0.01).label == "no verdict"


def test_a_question_that_one_run_lacks_is_left_out_of_all_and_counted():
    rng = np.random.default_rng(2)
    a, b = rng.random((3, 10)), rng.random((3, 10))
    holed = a.copy()
    holed[1, 4] = math.nan
    keep = [i for i in range(10) if i != 4]
    assert estimates.crossed(holed, b).mean == pytest.approx(a[:, keep].mean() - b[:, keep].mean())
    assert estimates.crossed(holed, b).missing == 1


def test_nothing_answered_by_all_gives_no_mean():
    assert estimates.crossed(np.full((2, 3), math.nan), np.ones((2, 3))).mean is None
    assert estimates.crossed(np.empty((0, 3)), np.ones((2, 3))).mean is None


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 5), st.integers(2, 5), st.integers(2, 30), st.integers(0, 2**32))
def test_swapping_the_arms_mirrors_the_interval(s_a, s_b, questions, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.random((s_a, questions)), rng.random((s_b, questions))
    low, high = estimates.crossed(a, b).interval()
    assert estimates.crossed(b, a).interval() == pytest.approx((-high, -low))


def test_the_crossed_interval_covers_the_truth_about_as_often_as_it_says():
    # Seeds with an SD of 1.8 points, questions of uneven difficulty; the true difference is zero.
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(400):
        difficulty = rng.normal(0.6, 0.25, 300)
        arms = []
        for _ in range(2):
            share = np.clip(difficulty + rng.normal(0, 0.018, (3, 1)), 0, 1)
            arms.append((rng.random((3, 300)) < share).astype(float))
        low, high = estimates.crossed(*arms).interval()
        covered += low <= 0 <= high
    assert 0.92 <= covered / 400 <= 0.99


def test_welch_agrees_with_scipy():
    a, b = [0.61, 0.64, 0.60, 0.66], [0.58, 0.57, 0.63]
    theirs = sps.ttest_ind(a, b, equal_var=False)
    interval = theirs.confidence_interval(0.95)
    ours = estimates.welch(a, b)
    assert ours.df == pytest.approx(theirs.df)
    assert ours.interval() == pytest.approx((interval.low, interval.high))
    assert ours.p_value == pytest.approx(theirs.pvalue)


def test_without_a_standard_error_there_is_no_p_value():
    assert estimates.welch([0.6], [0.5, 0.4]).p_value is None
    assert estimates.welch([1.0, 1.0], [1.0, 1.0]).p_value is None


def test_the_interval_of_one_arm_agrees_with_scipy():
    x = [0.61, 0.64, 0.60]
    interval = sps.ttest_1samp(x, 0).confidence_interval(0.9)
    assert estimates.mean_interval(x).interval(0.9) == pytest.approx((interval.low, interval.high))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, None])
def test_a_value_that_is_not_finite_is_counted_and_not_averaged(bad):
    estimate = estimates.mean_interval([0.5, bad, 0.7])
    assert estimate.mean == pytest.approx(0.6)
    assert (estimate.n, estimate.missing) == ((2,), 1)
    assert estimates.welch([0.5, bad, 0.7], [0.1, 0.2]).missing == 1


def test_no_value_at_all_is_no_mean_rather_than_zero():
    assert estimates.mean_interval([math.nan, None]).mean is None
    assert estimates.welch([], [1.0]).mean is None


def test_wilson_agrees_with_newcombe_1998():
    # Newcombe, Statistics in Medicine 17 (1998), table I: 81 of 263 gives .2553 to .3662.
    assert estimates.wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert estimates.wilson(0, 0) is None


def test_the_minimum_detectable_effect_uses_both_quantiles():
    # t(.975, 4) = 2.776 and t(.80, 4) = 0.941 in the printed tables.
    assert estimates.minimum_detectable_effect(Estimate(0.0, 0.01, 4.0, (3, 3), "made up")) == pytest.approx(
        0.01 * (2.776 + 0.941), abs=1e-5
    )


@pytest.mark.parametrize("df", [4, 10, 40])
def test_the_minimum_detectable_effect_is_found_four_times_out_of_five(df):
    # Power by the noncentral t, in units of the standard error.
    effect = estimates.minimum_detectable_effect(Estimate(0.0, 1.0, df, (6, 6), "made up"))
    assert sps.nct.sf(sps.t.ppf(0.975, df), df, effect) == pytest.approx(0.80, abs=0.01)


def test_the_seeds_needed_would_do_and_one_fewer_would_not():
    estimate = estimates.welch([0.60, 0.64, 0.62], [0.58, 0.61, 0.63])
    needed = estimates.seeds_needed(estimate, 0.01)

    def reachable(seeds: int) -> float:
        se = math.sqrt(sum(estimate.seed_variances) / seeds)
        a, b = (v / seeds for v in estimate.seed_variances)
        df = (a + b) ** 2 / (a**2 / (seeds - 1) + b**2 / (seeds - 1))
        return estimates.minimum_detectable_effect(Estimate(0.0, se, df, (seeds, seeds), "made up"))

    assert reachable(needed) <= 0.01 < reachable(needed - 1)


def test_when_the_questions_are_the_limit_no_number_of_seeds_is_promised():
    rng = np.random.default_rng(4)
    taste = rng.integers(0, 2, 30).astype(float)  # each arm always solves the questions the other never does
    noise = rng.random((3, 30)) < 0.02
    estimate = estimates.crossed(np.abs(taste - noise), np.abs(1 - taste - noise[::-1]))
    assert estimates.seeds_needed(estimate, 0.01) is None


@pytest.mark.parametrize(
    ("mean", "se", "label", "beyond", "within"),
    [
        (0.05, 0.01, "ppo better", True, False),
        (-0.05, 0.01, "grpo better", True, False),
        (0.03, 0.011, "ppo better", False, False),
        (0.004, 0.001, "ppo better", False, True),
        (0.0, 0.004, "equivalent", None, True),
        (0.01, 0.02, "inconclusive", None, False),
    ],
)
def test_the_ladder(mean, se, label, beyond, within):
    verdict = judged(mean, se)
    assert (verdict.label, verdict.beyond_margin, verdict.within_margin) == (label, beyond, within)


def test_lower_is_better_where_the_metric_says_so():
    assert judged(0.05, 0.01, better="lower").label == "grpo better"


def test_without_a_margin_nothing_is_called_equivalent():
    assert judged(0.0, 0.0001, margin=None).label == "inconclusive"


def test_an_inconclusive_verdict_says_what_it_would_take():
    verdict = judged(0.01, 0.02)
    assert verdict.mde > 0.01
    assert verdict.seeds_needed > 6


def test_a_failed_audit_overrules_a_clear_difference():
    estimate = Estimate(0.5, 0.001, 10.0, (3, 3), "made up")
    verdict = estimates.verdict(estimate, arms=ARMS, better="higher", margin=0.01, problem="not matched")
    assert (verdict.label, verdict.reason) == ("invalid", "not matched")


def test_what_the_budget_fixes_is_not_judged():
    assert judged(5.0, 0.1, better=None).label == "no verdict"


def test_what_never_varies_has_a_point_for_an_interval():
    estimate = estimates.welch([7680.0] * 3, [7680.0] * 3)
    assert estimate.interval() == (0.0, 0.0)
    assert estimates.verdict(estimate, arms=ARMS, better="lower").label == "equivalent"
