"""The same answers under several rules of extraction."""

import pytest
from synthetic_bench import read_json, write_bench, write_json

from reports.compare import answer_parsers
from reports.compare.pairs import terms
from reports.compare.tabulate import tabulate
from reports.record.reader import load

TASK = "synthetic_heldout"


def change_answers(folder, change, *, runs="*-seed*"):
    """Apply `change(index, sample)` to every final answer, keeping the stated accuracy true."""
    for path in folder.glob(f"{runs}/evals/final-{TASK}.json"):
        evaluation = read_json(path)
        for index, sample in enumerate(evaluation["samples"]):
            change(index, sample)
        evaluation["metrics"]["accuracy"] = sum(s["correct"] for s in evaluation["samples"]) / evaluation["questions"]
        write_json(path, evaluation)


def rows(folder):
    found = next(
        one for one in answer_parsers.readings(tabulate(load(folder)), terms(load(folder))) if one.task == TASK
    )
    return {metric.name.rpartition("/")[2]: metric for metric in found.rows}


def test_right_wrong_and_unread_are_all_answers(tmp_path):
    write_bench(tmp_path, steps=20)

    def lose(index, sample):
        if index % 10 == 0:
            sample |= {"correct": False, "extracted": None, "truncated": index % 20 == 0}

    change_answers(tmp_path, lose)
    found = rows(tmp_path)
    for arm in ("ppo", "grpo"):
        shares = {key: found[key].arms[arm].mean for key in ("right", "wrong", "unread", "unread_and_cut")}
        assert shares["right"] + shares["wrong"] + shares["unread"] == pytest.approx(1.0)
        assert shares["unread"] == pytest.approx(0.1)
        assert shares["unread_and_cut"] == pytest.approx(0.05)


def test_a_lead_that_is_only_format_disappears_under_flexible_extraction(tmp_path):
    write_bench(tmp_path, steps=20, effect=0.0, questions=400, seed_sd=0.001)

    def misformat(index, sample):
        sample["correct"] = sample["correct"] and index % 3 > 0  # `flexible` still reads the number

    change_answers(tmp_path, misformat, runs="grpo-seed*")
    found = rows(tmp_path)
    assert found["right"].difference.verdict.label == "ppo better"
    assert found["flexible"].difference.verdict.label != "ppo better"
    assert found["reward_or_flexible"].arms["grpo"].mean > 0.1
    assert found["reward_or_flexible"].arms["ppo"].mean == 0.0


def test_disagreement_is_described_and_not_judged(tmp_path):
    write_bench(tmp_path, steps=20)
    assert rows(tmp_path)["strict_or_flexible"].difference is None


def test_a_rule_that_no_answer_was_read_by_is_no_row(tmp_path):
    write_bench(tmp_path, steps=20)
    change_answers(tmp_path, lambda index, sample: sample.update(strict=None))
    assert {"strict", "reward_or_strict", "strict_or_flexible"}.isdisjoint(rows(tmp_path))


def test_a_rule_that_some_answers_lack_is_invalid_rather_than_averaged_over_the_rest(tmp_path):
    write_bench(tmp_path, steps=20)
    change_answers(
        tmp_path, lambda index, sample: sample.update(flexible=None) if index == 3 else None, runs="ppo-seed1"
    )
    found = rows(tmp_path)["flexible"]
    assert found.difference.verdict.label == "invalid"
    assert found.arms["ppo"].missing == 1


def test_the_policy_before_training_is_read_by_the_same_rules(tmp_path):
    write_bench(tmp_path, steps=20)
    base = read_json(tmp_path / "base" / "evals" / f"base-{TASK}.json")
    found = next(
        one for one in answer_parsers.readings(tabulate(load(tmp_path)), terms(load(tmp_path))) if one.task == TASK
    )
    assert found.base["right"] == pytest.approx(base["metrics"]["accuracy"])
    assert found.base["cut"] == pytest.approx(base["metrics"]["truncated_fraction"])
