"""Bands of curves: as wide as the tables' intervals, and the bootstrap as it is written down."""

from itertools import product

import numpy as np
import pytest
from synthetic_bench import write_bench

from reports.compare.comparison import compare, load
from reports.stats import bands
from reports.stats.bands import GRID_POINTS

ACCURACY = "eval/synthetic_heldout/accuracy"


def test_at_the_end_of_training_a_band_is_the_arms_own_interval(tmp_path):
    result = compare(load(write_bench(tmp_path, steps=20)))
    for arm in ("ppo", "grpo"):
        band, value = result.findings.bands[ACCURACY]["steps"][arm], result.metric(ACCURACY).arms[arm]
        assert (band.mean[-1], band.low[-1], band.high[-1]) == pytest.approx((value.mean, value.low, value.high))


def test_a_band_spans_what_all_runs_of_its_arm_cover(tmp_path):
    found = compare(load(write_bench(tmp_path, steps={"ppo": 20, "grpo": 30}))).findings.bands["reward/mean"]
    assert found["steps"]["ppo"].x[-1] == 20
    assert found["steps"]["grpo"].x[-1] == 30
    assert len(found["steps"]["grpo"].x) <= GRID_POINTS


def test_one_seed_has_no_band(tmp_path):
    found = compare(load(write_bench(tmp_path, steps=20, seeds=(0,)))).findings.bands
    assert found["reward/mean"]["steps"] == found[ACCURACY]["steps"] == {}


def test_the_hierarchical_bootstrap_is_that_of_all_draws_of_seeds_and_questions():
    scores = np.random.default_rng(0).random((2, 3))
    every = [
        scores[np.ix_(seeds, asked)].mean()
        for seeds in product(range(2), repeat=2)
        for asked in product(range(3), repeat=3)
    ]
    low, high = bands.hierarchical_bootstrap(scores[:, :, None], np.random.default_rng(1), draws=60_000, level=0.8)
    assert (low[0], high[0]) == pytest.approx(tuple(np.quantile(every, (0.1, 0.9), method="inverted_cdf")))


def test_the_same_generator_gives_the_same_band():
    scores = np.random.default_rng(0).random((3, 20, 4))
    first, second = (bands.hierarchical_bootstrap(scores, np.random.default_rng(5)) for _ in range(2))
    assert np.array_equal(first, second)
