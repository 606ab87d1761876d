"""The sums suite: its questions and their split, its verdicts, and its benchmark file."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.cli import SUITES
from harness.config.file import load_bench
from harness.config.matching import audit
from harness.config.tables import BenchSpec
from harness.model.loading import load_model
from suites import sums
from suites.grading import GoldAnswerError
from suites.task import Prompt


@pytest.fixture(scope="module")
def bench() -> BenchSpec:
    return load_bench(SUITES / "sums.toml")


def terms(prompt: Prompt) -> tuple[int, int]:
    """The two terms of the sum that a prompt asks for, read off its last line."""
    asked = re.fullmatch(r"(\d+) \+ (\d+) =", prompt.text.splitlines()[-1])
    assert asked is not None
    return int(asked[1]), int(asked[2])


# --- questions --------------------------------------------------------------------------------------------------


def test_no_held_out_sum_is_trained_on_in_either_order() -> None:
    trained = {terms(prompt) for prompt in sums.train()}
    held = {terms(prompt) for prompt in sums.heldout()["sums_heldout"]}
    assert not trained & held
    assert not {(b, a) for a, b in trained} & held
    # And so it is closed under swapping: no twin is missing from its own side.
    assert {(b, a) for a, b in held} == held


def test_the_two_sets_are_all_sums_up_to_twenty_but_the_worked_ones() -> None:
    everything = [*sums.train(), *sums.heldout()["sums_heldout"]]
    shown = {*sums.WORKED, *((b, a) for a, b in sums.WORKED)}
    expected = {(a, b) for a in range(21) for b in range(21)} - shown
    assert {terms(prompt) for prompt in everything} == expected
    assert len(everything) == len({prompt.id for prompt in everything}) == len(expected)
    assert 0.2 < len(sums.heldout()["sums_heldout"]) / len(everything) < 0.3


def test_every_answer_is_the_sum_and_the_worked_sums_are_right() -> None:
    for prompt in [*sums.train(), *sums.heldout()["sums_heldout"]]:
        assert prompt.answer == str(sum(terms(prompt)))
        assert not prompt.chat
        *worked, _ = prompt.text.splitlines()
        assert len(worked) == len(sums.WORKED)
        for line in worked:
            left, right = line.split(" = ")
            assert sum(map(int, left.split(" + "))) == int(right)


# --- verdicts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("completion", "correct", "extracted"),
    [
        (" 24", True, "24"),
        ("24", True, "24"),
        (" 24\n3 + 5 = 8", True, "24"),
        (" 24\n\nThe sum", True, "24"),
        (" 24 \r\n7", True, "24"),
        (" 23\n24", False, "23"),
        (" 8\n16 + 8 = 24", False, "8"),
        ("\n24", False, None),
        ("", False, None),
        (" ", False, None),
        (" 2", False, "2"),
        (" 242", False, "242"),
        (" -24", False, "-24"),
        (" 24 + 0", False, None),
        (" 16 + 8", False, None),
        (" 24 25", False, None),
        (" = 24", False, None),
        (" 24 apples", False, None),
        (" twenty-four", False, None),
        (" ٢٤", False, None),
        ("2" * 100_000, False, None),
    ],
)
def test_the_first_line_has_to_be_the_number_and_nothing_else(
    completion: str, correct: bool, extracted: str | None
) -> None:
    verdict = sums.verify(completion, "24")
    assert (verdict.value, verdict.correct, verdict.extracted) == (float(correct), correct, extracted)


@given(st.text(max_size=60), st.integers(0, 40), st.text(max_size=60))
def test_what_follows_the_first_line_never_changes_the_verdict(line: str, answer: int, rest: str) -> None:
    first = line.replace("\n", " ")
    verdict = sums.verify(first, str(answer))
    assert sums.verify(f"{first}\n{rest}", str(answer)) == verdict
    assert verdict.value == float(verdict.correct)


@pytest.mark.parametrize("answer", ["", "twelve", "1+1", "nan"])
def test_an_answer_that_cannot_be_read_is_an_error_not_a_reward(answer: str) -> None:
    with pytest.raises(GoldAnswerError):
        sums.verify(" 24", answer)


@pytest.mark.parametrize(
    ("completion", "strict"), [(" 24\n3 + 5 = 8", "24"), (" 24", "24"), ("24\n", None), (" 24 apples", None)]
)
def test_the_strict_pattern_asks_for_the_worked_format(completion: str, strict: str | None) -> None:
    found = re.findall(sums.TASK.strict_pattern, completion)
    assert found == ([] if strict is None else [strict])


# --- the benchmark ----------------------------------------------------------------------------------------------


def test_both_arms_are_matched(bench: BenchSpec) -> None:
    assert list(bench.arms) == ["ppo", "grpo"]
    assert audit(bench).undeclared == []


def test_the_whole_held_out_set_is_evaluated_and_nothing_else(bench: BenchSpec) -> None:
    assert list(bench.eval.tasks) == list(sums.heldout())
    assert len(sums.heldout()["sums_heldout"]) == bench.eval.questions


@pytest.mark.slow
def test_prompts_and_answers_fit_the_benchmark_in_the_models_own_tokens(bench: BenchSpec) -> None:
    _, tokenizer = load_model(bench.model.name)
    lengths = [len(tokenizer.encode(p.text)) for p in [*sums.train(), *sums.heldout()["sums_heldout"]]]
    assert (min(lengths), max(lengths)) == (33, 35)
    assert max(lengths) <= bench.rollout.max_prompt_tokens
    assert len(tokenizer.encode(f" {2 * sums.LARGEST}\n")) <= bench.rollout.max_completion_tokens
