"""How often the intervals and verdicts are right, on answers drawn from known truths.

Every question has a difficulty of its own, drawn from a beta distribution; every seed is better or worse by a normal
deviate; in some cells each arm also finds some questions easier than the other arm does. The truth is the mean over all
seeds and questions that might have been drawn, so it is known exactly.
"""

import math

import numpy as np
import pytest

from reports.stats import bands, estimates

QUESTIONS = 1319  # as GSM8K has
REPEATS = 1500
# Three standard errors of a rate near 5 % over that many repeats.
SLACK = 3 * math.sqrt(0.05 * 0.95 / REPEATS)
ARMS = ("ppo", "grpo")
TRUTH = 0.2 + 0.6 * 1.4 / (1.4 + 0.8)  # the mean chance of an arm whose effect is 0

cells = pytest.mark.parametrize("taste", [0.0, 0.1], ids=["same questions hard", "other questions hard"])
seeds = pytest.mark.parametrize("count", [3, 5])
spread = pytest.mark.parametrize("seed_sd", [0.0, 0.013, 0.018])


def answers(rng, *, count, seed_sd, taste, effect=0.0, questions=QUESTIONS, arms=2):
    """Per arm [seeds, questions] of 1 and 0; no probability leaves [0, 1], so the first arm is `effect` better."""
    difficulty = 0.2 + 0.6 * rng.beta(1.4, 0.8, questions)
    for arm in range(arms):
        chance = difficulty + rng.uniform(-taste, taste, questions) + rng.normal(0, seed_sd, (count, 1))
        yield (rng.random((count, questions)) < chance + (effect if arm == 0 else 0.0)).astype(float)


@pytest.mark.slow
@cells
@seeds
@spread
def test_the_primary_interval_covers_the_truth_as_often_as_it_says(taste, count, seed_sd):
    rng = np.random.default_rng([1, count, int(1e4 * seed_sd), int(10 * taste)])
    covered = better = 0
    for _ in range(REPEATS):
        estimate = estimates.crossed(*answers(rng, count=count, seed_sd=seed_sd, taste=taste))
        low, high = estimate.interval()
        covered += low <= 0 <= high
        better += estimates.verdict(estimate, arms=ARMS, better="higher", margin=0.01).label.endswith("better")
    assert 0.93 <= covered / REPEATS <= 0.98
    assert better / REPEATS <= 0.05 + SLACK


@pytest.mark.slow
@seeds
@spread
def test_the_interval_of_one_arm_covers_its_accuracy_as_often_as_it_says(count, seed_sd):
    rng = np.random.default_rng([4, count, int(1e4 * seed_sd)])
    covered = 0
    for _ in range(REPEATS // 2):
        (one,) = answers(rng, count=count, seed_sd=seed_sd, taste=0.0, arms=1)
        low, high = estimates.crossed(one).interval()
        covered += low <= TRUTH <= high
    assert 0.93 <= covered / (REPEATS // 2) <= 0.98


@pytest.mark.slow
@pytest.mark.parametrize("margin", [0.01, 0.05])
@seeds
@spread
def test_a_true_difference_on_the_margin_is_seldom_called_equivalent(margin, count, seed_sd):
    rng = np.random.default_rng([2, count, int(1e4 * seed_sd), int(100 * margin)])
    called = 0
    for _ in range(REPEATS // 3):
        estimate = estimates.crossed(*answers(rng, count=count, seed_sd=seed_sd, taste=0.1, effect=margin))
        called += estimates.verdict(estimate, arms=ARMS, better="higher", margin=margin).label == "equivalent"
    assert called / (REPEATS // 3) <= 0.05 + math.sqrt(3) * SLACK


@pytest.mark.slow
def test_a_band_covers_where_the_bootstrap_is_too_wide_or_too_narrow():
    covered = {0.0: np.zeros(2), 0.05: np.zeros(2)}
    repeats = 600
    for seed_sd, counts in covered.items():
        rng = np.random.default_rng([3, int(100 * seed_sd)])
        for _ in range(repeats):
            (one,) = answers(rng, count=3, seed_sd=seed_sd, taste=0.0, questions=400, arms=1)
            crossed = estimates.crossed(one).interval()
            low, high = bands.hierarchical_bootstrap(one[:, :, None], rng, draws=300)
            counts += (crossed[0] <= TRUTH <= crossed[1], low[0] <= TRUTH <= high[0])
    assert all(0.92 <= counts[0] / repeats <= 0.98 for counts in covered.values())
    assert covered[0.0][1] / repeats > 0.97
    assert covered[0.05][1] / repeats < 0.93
