"""Several tasks in one number, against scipy, against exhaustive resampling, and against print."""

from itertools import product

import numpy as np
import pytest
from scipy import stats as sps
from synthetic_bench import write_bench

from reports.compare.comparison import compare, load
from reports.stats import rliable


def test_the_interquartile_mean_is_the_mean_of_the_middle_half():
    # Eight runs of two tasks: 1, 2 and 7, 100 are cut.
    assert rliable.interquartile_mean(np.array([1.0, 5, 100, 3]), np.array([2.0, 4, 6, 7])) == pytest.approx(4.5)


def test_the_probability_of_improvement_is_mann_and_whitneys():
    rng = np.random.default_rng(0)
    tasks = [rng.integers(0, 6, size) / 5 for size in (5, 4, 3, 4)]  # with ties
    expected = [sps.mannwhitneyu(x, y).statistic / (x.size * y.size) for x, y in zip(tasks[:2], tasks[2:], strict=True)]
    assert rliable.probability_of_improvement(*tasks) == pytest.approx(np.mean(expected))


def test_the_performance_profile_is_the_mean_survival_function():
    rng = np.random.default_rng(1)
    tasks, levels = [rng.random(5), rng.random(3)], np.linspace(0, 1, 7)
    expected = np.mean([sps.ecdf(scores).sf.evaluate(levels) for scores in tasks], axis=0)
    assert rliable.performance_profile(tasks, levels) == pytest.approx(expected)


def test_the_bootstrap_interval_is_that_of_all_resamplings_of_seeds_within_tasks():
    tasks = [np.array([0.50, 0.53, 0.61]), np.array([0.20, 0.26, 0.22])]
    found = rliable.stratified_bootstrap(_grand_mean, tasks, np.random.default_rng(2), draws=40_000)
    every = [
        np.mean([*first, *second]) for first in product(tasks[0], repeat=3) for second in product(tasks[1], repeat=3)
    ]
    assert found.value == pytest.approx(np.mean(tasks))
    assert (found.low, found.high) == pytest.approx(np.quantile(every, (0.025, 0.975)), abs=2e-3)


def _grand_mean(*tasks, axis=-1):
    return np.concatenate(tasks, axis=axis).mean(axis=axis)


def test_one_run_of_a_task_has_nothing_to_resample():
    found = rliable.stratified_bootstrap(_grand_mean, [np.array([0.5]), np.array([0.5, 0.6])], np.random.default_rng(0))
    assert (found.low, found.high) == (None, None)


def test_the_same_generator_gives_the_same_interval():
    tasks = [np.array([0.50, 0.53, 0.61])]
    first, second = (
        rliable.stratified_bootstrap(rliable.interquartile_mean, tasks, np.random.default_rng(3)) for _ in range(2)
    )
    assert first == second


def test_tasks_that_an_arm_has_no_value_on_are_left_out_and_counted(tmp_path):
    write_bench(tmp_path, steps=20)
    for seed in (0, 1, 2):
        (tmp_path / f"ppo-seed{seed}" / "evals" / "final-synthetic_transfer.json").unlink()
    found = compare(load(tmp_path)).findings.aggregate
    assert found.tasks == ("synthetic_heldout",)
    assert found.missing == 3
