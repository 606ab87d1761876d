"""pass@k and majority@k, against counting by hand and against every subset."""

from itertools import combinations

import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from harness.config.tables import EvalTable
from harness.engines.torch_engine import TorchEngine
from harness.measure.budget import Spent
from harness.run.evaluate import evaluate
from harness.run.evaluate_sampled import sampled
from reports.stats.pass_at_k import majority, pass_at, sizes
from suites.task import Reward


def verdicts(*answers, right="7"):
    return [Reward(float(a == right), a == right, a) for a in answers]


@given(st.integers(1, 7), st.data())
def test_pass_at_k_is_the_share_of_all_k_subsets_that_hold_a_right_answer(count, data):
    right, k = data.draw(st.integers(0, count)), data.draw(st.integers(1, count))
    answers = [i < right for i in range(count)]
    subsets = list(combinations(answers, k))
    assert pass_at(k, count, right) == pytest.approx(sum(map(any, subsets)) / len(subsets))


@pytest.mark.parametrize(
    ("given_answers", "expected"),
    [
        (("7", "7", "3"), True),
        (("3", "7", "3"), False),
        (("7", "3"), True),
        (("3", "7"), False),
        ((None, None, "7"), True),
        ((None, None), False),
        (("3", None, None, None), False),
    ],
)
def test_the_majority_is_the_answer_given_most_often_and_of_equals_the_first(given_answers, expected):
    assert majority(verdicts(*given_answers)) is expected


@pytest.mark.parametrize(("count", "expected"), [(1, [1]), (4, [1, 2, 4]), (6, [1, 2, 4, 6])])
def test_pass_rates_are_given_at_powers_of_two_and_at_all(count, expected):
    assert sizes(count) == expected


def test_an_evaluation_with_samples_has_them_beside_the_greedy_answer():
    policy, task = tiny.policy(), tiny.TASK
    engine = TorchEngine(policy, batch_size=16)
    found = []
    for table in (
        EvalTable(tasks=("tiny_heldout",), questions=4),
        EvalTable(tasks=("tiny_heldout",), questions=4, samples=3),
    ):
        (result,) = evaluate(policy, engine, task, table, label="final", step=1, spent=Spent(), cap=6)
        found.append(result)
    plain, more = found
    assert plain["metrics"].items() <= more["metrics"].items()
    assert set(more["metrics"]) - set(plain["metrics"]) == {"pass_at_1", "pass_at_2", "pass_at_3", "majority_at_3"}
    shares = [sample["sampled_correct"] / 3 for sample in more["samples"]]
    assert more["metrics"]["pass_at_1"] == pytest.approx(sum(shares) / 4)
    assert all("sampled_correct" not in sample for sample in plain["samples"])


def test_samples_depend_on_the_question_and_not_on_its_neighbours():
    policy, table = tiny.policy(), EvalTable(tasks=("tiny_heldout",), samples=5)
    prompts = tiny.TASK.heldout()["tiny_heldout"]
    task = tiny.task(tiny.starts_low)
    whole = sampled(policy, TorchEngine(policy, batch_size=64), task, prompts, table, cap=6)[1]
    one = sampled(policy, TorchEngine(policy, batch_size=2), task, prompts[2:3], table, cap=6)[1]
    assert one == whole[2:3]
    assert len({row["sampled_correct"] for row in whole}) > 1
