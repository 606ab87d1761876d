"""pass@k and majority@k as rows of a report, judged like the accuracy."""

import numpy as np
import pytest
from synthetic_bench import TASKS, read_json, write_bench, write_json

from reports.compare.comparison import compare, load
from reports.pages import tables
from reports.stats import estimates

TASK = TASKS[0]
SAMPLED = 4
KEYS = ["pass_at_1", "pass_at_2", "pass_at_4", "majority_at_4"]


@pytest.fixture
def folder(tmp_path):
    return write_bench(tmp_path, steps=20, questions=60, tasks=TASKS[:1], sampled=SAMPLED)


def rows(folder):
    return {
        m.name.rpartition("/")[2]: m for m in compare(load(folder)).metrics if "_at_" in m.name and "best" not in m.name
    }


def change(folder, edit, runs="*-seed*"):
    for path in folder.glob(f"{runs}/evals/final-{TASK}.json"):
        evaluation = read_json(path)
        edit(evaluation)
        write_json(path, evaluation)


def finals(folder, arm):
    return [read_json(folder / f"{arm}-seed{seed}/evals/final-{TASK}.json") for seed in (0, 1, 2)]


def test_the_interval_is_the_crossed_one_over_the_rates_of_single_questions(folder):
    found = rows(folder)
    assert list(found) == KEYS
    # Two of four answers, c of them right: both are wrong with probability (4 − c)(3 − c) / 12.
    scores = [
        np.array(
            [
                [1 - (4 - c) * (3 - c) / 12 for c in (s["sampled_correct"] for s in e["samples"])]
                for e in finals(folder, arm)
            ]
        )
        for arm in ("ppo", "grpo")
    ]
    estimate = found["pass_at_2"].difference.estimate
    assert estimate.method == estimates.crossed(*scores).method
    assert estimate.interval() == pytest.approx(estimates.crossed(*scores).interval())
    majorities = [s["majority_correct"] for s in finals(folder, "ppo")[0]["samples"]]
    assert found["majority_at_4"].arms["ppo"].per_seed[0] == pytest.approx(np.mean(majorities))


def test_the_table_shows_them_beside_the_base_policy(folder):
    base = read_json(folder / "base" / "evals" / f"base-{TASK}.json")["metrics"]["pass_at_4"]
    found = {row[0].partition("\n")[2]: row for row in tables.accuracy(compare(load(folder))).rows}
    assert found["after training, pass@4"][1] == f"{100 * base:.1f} %"


def test_without_the_answers_the_rates_that_were_stated_are_compared_by_seed(folder):
    change(folder, lambda evaluation: evaluation.update(samples=[]))
    found = rows(folder)["pass_at_4"]
    assert found.difference.estimate.method == "Welch on seeds"
    assert found.arms["ppo"].mean == pytest.approx(np.mean([e["metrics"]["pass_at_4"] for e in finals(folder, "ppo")]))


def test_a_run_without_samples_makes_the_rows_invalid(folder):
    change(folder, lambda evaluation: [evaluation["metrics"].pop(key) for key in KEYS], runs="grpo-seed1")
    found = rows(folder)
    assert {metric.difference.verdict.label for metric in found.values()} == {"invalid"}
    assert found["pass_at_1"].arms["grpo"].missing == 1


def test_runs_with_different_numbers_of_samples_are_not_judged(folder):
    change(folder, lambda e: e["metrics"].update(majority_at_2=e["metrics"].pop("majority_at_4")), runs="grpo-seed1")
    assert "as many answers" in rows(folder)["pass_at_1"].difference.verdict.reason


@pytest.mark.parametrize("right", [-1, 5, "4", None, 2.5])
def test_a_count_that_cannot_be_is_a_missing_value(folder, right):
    change(folder, lambda evaluation: evaluation["samples"][7].update(sampled_correct=right), runs="ppo-seed0")
    assert rows(folder)["pass_at_4"].difference.estimate.missing == 1


@pytest.mark.parametrize("name", ["majority_at_0", "majority_at_99999999", "majority_at_x", "pass_at_4"])
def test_a_metric_whose_name_makes_no_sense_makes_no_row(folder, name):
    change(folder, lambda e: e["metrics"].update({name: 0.5}) or e["metrics"].pop("majority_at_4"))
    assert rows(folder) == {}
