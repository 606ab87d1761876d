"""Which policy early stopping keeps, and what the report then says of it."""

import json

import numpy as np
import pytest
from synthetic_bench import TASKS, read_json, write_bench, write_json

from reports.build import build
from reports.compare import early_stopping
from reports.compare.comparison import compare, load
from reports.compare.tabulate import tabulate
from reports.pages import markdown, tables
from reports.stats import estimates

TASK = TASKS[0]
ROW = f"eval/{TASK}/accuracy_at_best_reward"
STEPS, MIDDLE = 20, 10


@pytest.fixture
def folder(tmp_path):
    return write_bench(tmp_path, steps=STEPS, questions=60, tasks=TASKS[:1])


def reward(folder, value, runs="*-seed*"):
    """Give every step of the runs the reward `value(step)`."""
    for path in folder.glob(f"{runs}/steps.jsonl"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps(line | {"reward/mean": value(line["step"])}) + "\n" for line in lines))


def kept(folder, arm="ppo", seed=0):
    return next(stop for stop in early_stopping.stops(tabulate(load(folder))) if (stop.arm, stop.seed) == (arm, seed))


def test_the_policy_with_the_highest_reward_before_it_is_kept_whatever_its_accuracy(folder):
    reward(folder, lambda step: 0.9 if step <= MIDDLE else 0.4, runs="ppo-seed0")
    stop = kept(folder)
    middle, final = (read_json(folder / f"ppo-seed0/evals/{label}-{TASK}.json") for label in ("step-000010", "final"))
    assert (stop.step, stop.at_end, stop.reward) == (MIDDLE, False, pytest.approx(0.9))
    assert stop.accuracy == middle["metrics"]["accuracy"]
    assert stop.final == final["metrics"]["accuracy"] > stop.accuracy


def test_only_the_steps_since_the_evaluation_before_speak_for_a_policy(folder):
    reward(folder, lambda step: 0.5 if step <= MIDDLE else 0.51)
    assert kept(folder).step == STEPS
    reward(folder, lambda step: 0.5 if step <= MIDDLE else 0.49)
    assert kept(folder).step == MIDDLE


def test_of_equal_rewards_the_earliest_policy_is_kept(folder):
    reward(folder, lambda step: 0.5)
    assert kept(folder).step == MIDDLE


def test_a_policy_that_was_evaluated_again_at_the_end_is_the_final_one(folder):
    again = read_json(folder / f"ppo-seed0/evals/final-{TASK}.json") | {"label": f"step-{STEPS:06d}"}
    write_json(folder / f"ppo-seed0/evals/step-{STEPS:06d}-{TASK}.json", again)
    reward(folder, lambda step: step)
    assert kept(folder).at_end


def test_the_row_has_the_crossed_interval_over_the_answers_of_the_policies_kept(folder):
    reward(folder, lambda step: -step, runs="ppo-seed*")
    reward(folder, lambda step: step, runs="grpo-seed*")
    scores = []
    for arm, label in (("ppo", "step-000010"), ("grpo", "final")):
        answers = [read_json(folder / f"{arm}-seed{seed}/evals/{label}-{TASK}.json")["samples"] for seed in (0, 1, 2)]
        scores.append(np.array([[float(answer["correct"]) for answer in own] for own in answers]))
    found = compare(load(folder)).metric(ROW)
    assert found.difference.estimate == estimates.crossed(*scores)
    assert found.arms["ppo"].mean == pytest.approx(scores[0].mean())


def test_a_step_without_a_finite_reward_leaves_its_run_without_a_choice_and_the_row_invalid(folder):
    reward(folder, lambda step: None if step == 3 else 0.5, runs="ppo-seed1")
    found = compare(load(folder))
    assert found.metric(ROW).arms["ppo"].missing == 1
    assert found.metric(ROW).difference.verdict.label == "invalid"
    assert kept(folder, seed=1).step is None


def test_where_only_final_policies_were_evaluated_there_is_no_row_and_the_page_says_why(folder):
    for path in folder.glob("*-seed*/evals/step-*.json"):
        path.unlink()
    found = build(folder)
    assert found.metric(ROW) is None
    assert found.findings.stops == ()
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "There is no accuracy at the best training reward" in page


def test_the_table_and_the_summary_show_it_beside_the_base_and_the_final_policy(folder):
    reward(folder, lambda step: -step)
    found = compare(load(folder))
    assert [row[0] for row in tables.accuracy(found).rows] == [
        f"{TASK}\nafter training",
        f"{TASK}\nat the best training reward",
    ]
    assert "| Accuracy at the best training reward, synthetic" in markdown.render(found)
