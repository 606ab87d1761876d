"""Questions that changed hands, against tables and probabilities counted by hand."""

import math

import numpy as np
import pytest
from synthetic_bench import read_json, write_bench

from reports.compare import per_question
from reports.compare.comparison import compare
from reports.compare.pairs import Pair
from reports.compare.tabulate import tabulate
from reports.record.reader import load
from reports.stats import mcnemar


@pytest.mark.parametrize(("one", "other"), [(1, 5), (0, 8), (12, 3), (7, 7)])
def test_mcnemar_is_twice_the_binomial_tail(one, other):
    n, least = one + other, min(one, other)
    tail = sum(math.comb(n, k) for k in range(least + 1)) / 2**n
    assert mcnemar.mcnemar(one, other) == pytest.approx(min(1.0, 2 * tail))
    assert mcnemar.mcnemar(one, other) == mcnemar.mcnemar(other, one)


def test_where_nothing_changed_hands_the_p_value_is_one():
    assert mcnemar.mcnemar(0, 0) == 1.0


def test_every_question_is_in_one_cell_of_the_table_or_counted_as_missing():
    first, second = np.array([1, 1, 0, 0, 1, math.nan]), np.array([1, 0, 1, 0, 0, 1])
    found = mcnemar.flips("seed 0", first, second)
    assert (found.both, found.first_only, found.second_only, found.neither, found.missing) == (1, 2, 1, 1, 1)


def test_a_majority_is_more_than_half():
    answers = np.array([[1, 1, 0, math.nan], [1, 0, 0, 1], [0, 0, 0, 1], [1, 1, 1, 1.0]])
    assert mcnemar.majority(answers)[:3].tolist() == [1.0, 0.0, 0.0]
    assert math.isnan(mcnemar.majority(answers)[3])


def test_disagreement_is_a_mean_over_pairs_of_the_questions_both_answered():
    a, b, c = np.array([1.0, 0.0, 1.0, 0.0]), np.array([1.0, 1.0, 1.0, 0.0]), np.array([math.nan, 1.0, 0.0, 1.0])
    assert mcnemar.disagreement([(a, b), (a, c)]) == pytest.approx((1 / 4 + 3 / 3) / 2)
    assert mcnemar.disagreement([]) is None
    assert mcnemar.disagreement([(a, np.full(4, math.nan))]) is None


def test_the_cells_of_a_seed_are_those_of_the_answers_on_disk(tmp_path):
    records = load(write_bench(tmp_path, steps=20, failures={("grpo", 2): "diverged"}))
    found = per_question.pairing(tabulate(records), "synthetic_heldout", Pair("ppo", "grpo"))
    assert [one.who for one in found.flips] == ["seed 0", "seed 1"]  # seed 2 has no partner, and two make no majority
    right = {}
    for arm in ("ppo", "grpo"):
        samples = read_json(tmp_path / f"{arm}-seed1" / "evals" / "final-synthetic_heldout.json")["samples"]
        right[arm] = {sample["id"] for sample in samples if sample["correct"]}
    assert found.flips[1].first_only == len(right["ppo"] - right["grpo"])
    assert found.flips[1].second_only == len(right["grpo"] - right["ppo"])
    assert found.flips[1].both == len(right["grpo"] & right["ppo"])
    assert 0 < found.within["ppo"] < 1
    assert found.within["grpo"] is not None


def test_one_arm_alone_changes_hands_with_nobody(tmp_path):
    assert compare(load(write_bench(tmp_path, steps=20, arms=("ppo",)))).findings.pairings == {}
