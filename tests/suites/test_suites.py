"""The suites' data and verdicts, and the order in which a run reads its prompts."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.run.prompts import PromptStream
from suites import arithmetic, gsm8k
from suites.grading import GoldAnswerError
from suites.task import DataError, DataUnreachable, Prompt

ROOT = Path(__file__).parents[2]


# --- arithmetic -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sets() -> dict[str, list[Prompt]]:
    return {"train": list(arithmetic.train()), **{name: list(found) for name, found in arithmetic.heldout().items()}}


def test_arithmetic_sets_have_their_sizes_and_no_question_twice(sets: dict[str, list[Prompt]]) -> None:
    assert {name: len(prompts) for name, prompts in sets.items()} == {
        "train": 8_000, "arithmetic_heldout": 400, "arithmetic_transfer": 400,
    }  # fmt: skip
    for prompts in sets.values():
        assert len({prompt.id for prompt in prompts}) == len({prompt.text for prompt in prompts}) == len(prompts)


def test_no_held_out_question_is_in_the_training_set(sets: dict[str, list[Prompt]]) -> None:
    trained = {prompt.text for prompt in sets["train"]}
    assert not any(arithmetic.is_heldout(text) for text in trained)
    for name in ("arithmetic_heldout", "arithmetic_transfer"):
        asked = {prompt.text for prompt in sets[name]}
        assert all(arithmetic.is_heldout(text) for text in asked)
        assert not asked & trained


def test_every_arithmetic_answer_is_the_sum(sets: dict[str, list[Prompt]]) -> None:
    for name, prompts in sets.items():
        for prompt in prompts:
            terms = [int(term) for term in prompt.text.removesuffix("?").split("+")]
            assert prompt.text == arithmetic.question(terms)
            kinds = arithmetic.TRANSFER_KINDS if name == "arithmetic_transfer" else arithmetic.TRAIN_KINDS
            assert any(
                len(terms) == kind.terms and all(kind.smallest <= term <= kind.largest for term in terms)
                for kind in kinds
            )
            assert prompt.answer == str(sum(terms))
            assert not prompt.chat


def test_kinds_of_questions_come_in_their_declared_shares(sets: dict[str, list[Prompt]]) -> None:
    for kind in arithmetic.TRAIN_KINDS:
        of_kind = [p for p in sets["train"] if p.text.count("+") == kind.terms - 1]
        of_kind = [p for p in of_kind if kind.smallest <= int(p.text.split("+")[0]) <= kind.largest]
        assert len(of_kind) / len(sets["train"]) == pytest.approx(kind.share, abs=0.02)


def test_arithmetic_sets_do_not_depend_on_the_process() -> None:
    script = "from suites import arithmetic as a; print([p.text for p in [*a.train()[:50], *a.heldout()['{}'][:5]]])"
    script = script.format("arithmetic_heldout")
    found = {
        subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    here = [prompt.text for prompt in [*arithmetic.train()[:50], *arithmetic.heldout()["arithmetic_heldout"][:5]]]
    assert found == {f"{here}\n"}


def test_drawing_arithmetic_leaves_the_global_random_state_alone() -> None:
    random.seed(5)
    state = random.getstate()
    arithmetic.heldout()
    assert random.getstate() == state


@given(st.lists(st.integers(0, 99), min_size=2, max_size=6))
def test_a_worked_solution_is_right_and_in_the_format_asked_for(terms: list[int]) -> None:
    text = arithmetic.solution(terms)
    answer = str(sum(terms))
    verdict = arithmetic.verify(text, answer)
    assert (verdict.value, verdict.correct, verdict.extracted) == (1.0, True, answer)
    strict = re.search(arithmetic.TASK.strict_pattern, text)
    assert strict is not None
    assert strict[1] == answer
    for step in text.split("#")[0].split(";"):
        left, right = step.split("=")
        assert sum(map(int, left.split("+"))) == int(right)


@pytest.mark.parametrize(
    ("completion", "correct", "extracted"),
    [
        ("12+70=82;82+35=117#117", True, "117"),
        ("nonsense#117", True, "117"),
        ("#117", True, "117"),
        ("#1#117", True, "117"),
        ("#117#1", False, "1"),
        ("12+70=82;82+35=117", False, None),
        ("117", False, None),
        ("", False, None),
        ("#", False, None),
        ("#118", False, "118"),
        ("#-117", False, "-117"),
        ("#117x", False, None),
        ("# 117", False, None),
        ("#١١٧", False, None),
        ("#" + "9" * 100_000, False, None),
        ("#" * 100_000, False, None),
        ("#9**9**9", False, None),
    ],
)
def test_arithmetic_grades_the_number_after_the_last_hash(
    completion: str, correct: bool, extracted: str | None
) -> None:
    verdict = arithmetic.verify(completion, "117")
    assert (verdict.value, verdict.correct, verdict.extracted) == (float(correct), correct, extracted)


@pytest.mark.parametrize("answer", ["", "twelve", "#", "1+1", "nan"])
@pytest.mark.parametrize("verify", [arithmetic.verify, gsm8k.verify])
def test_an_answer_that_cannot_be_read_is_an_error_not_a_reward(verify: Any, answer: str) -> None:
    with pytest.raises(GoldAnswerError):
        verify("#1", answer)


@given(st.text(max_size=60), st.integers(-(10**6), 10**6))
def test_a_reward_is_one_or_zero_and_agrees_with_correct(completion: str, answer: int) -> None:
    for verify in (arithmetic.verify, gsm8k.verify):
        verdict = verify(completion, str(answer))
        assert verdict.value == float(verdict.correct)
        assert verdict.value in (0.0, 1.0)


# --- gsm8k ------------------------------------------------------------------------------------------------------

ROWS = [
    {
        "question": "Natalia sold clips to 48 friends in April, and half as many in May. How many altogether?",
        "answer": "In May she sold 48/2 = <<48/2=24>>24 clips.\nAltogether 48+24 = <<48+24=72>>72.\n#### 72",
    },
    {"question": "A line\u2028separator, a \x85 and “quotes”: how much?", "answer": "It is $1,250.\n#### 1,250"},
    {"question": "Colder by 3 than 0?", "answer": "#### -3"},
]


@pytest.fixture(autouse=True)
def _no_cache(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(gsm8k.FOLDER_VARIABLE, raising=False)
    gsm8k.load.cache_clear()
    yield
    gsm8k.load.cache_clear()


def published(folder: Path, rows: list[Any], monkeypatch: pytest.MonkeyPatch, split: str = "train") -> Path:
    """Rows as they are published: UTF-8, nothing escaped that need not be."""
    path = folder / f"{split}.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    monkeypatch.setenv(gsm8k.FOLDER_VARIABLE, str(folder))
    return path


def test_published_rows_become_chat_prompts_with_the_final_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published(tmp_path, ROWS, monkeypatch)
    published(tmp_path, ROWS[:1], monkeypatch, "test")
    train = gsm8k.train()
    assert [(prompt.id, prompt.answer) for prompt in train] == [
        ("train-0", "72"), ("train-1", "1,250"), ("train-2", "-3"),
    ]  # fmt: skip
    assert all(prompt.chat for prompt in train)
    assert [prompt.text for prompt in train] == [f"{row['question']}\n\n{gsm8k.INSTRUCTION}" for row in ROWS]
    assert "####" in gsm8k.INSTRUCTION
    assert gsm8k.heldout() == {"gsm8k_test": (dataclasses.replace(train[0], id="test-0"),)}


def test_the_published_solution_itself_earns_the_reward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published(tmp_path, ROWS, monkeypatch)
    for row, prompt in zip(ROWS, gsm8k.train(), strict=True):
        assert gsm8k.verify(row["answer"], prompt.answer).value == 1.0
        assert gsm8k.verify("#### 999", prompt.answer).value == 0.0
        strict = re.search(gsm8k.TASK.strict_pattern, row["answer"])
        assert strict is not None
        assert strict[1] == prompt.answer


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ('{"question": "q", "answer"', "not JSON: "),
        ("", "not JSON: "),
        ("nonsense", "not JSON: Expecting value at column 1"),
        ("[" * 100_000, "nested too deep"),
        (f'{{"question": {"1" * 5000}, "answer": "#### 1"}}', "a number too large"),
        ('{"question": "q"}', "expected an object"),
        ('{"answer": "#### 1"}', "expected an object"),
        ('{"question": 3, "answer": "#### 1"}', "expected an object"),
        ('{"question": null, "answer": "#### 1"}', "expected an object"),
        ('{"question": "q", "answer": 1}', "expected an object"),
        ('["question", "answer"]', "expected an object"),
        ("null", "expected an object"),
        ('"question"', "expected an object"),
        ('{"question": "q", "answer": "no number"}', "the gold answer is not a number: 'no number'"),
        ('{"question": "q", "answer": "3\\n#### three"}', "the gold answer is not a number: 'three'"),
        ('{"question": "q", "answer": ""}', "the gold answer is not a number: ''"),
        ('{"question": "\\ud800", "answer": "#### 1"}', "not valid Unicode"),
    ],
)
def test_a_broken_row_is_named_by_file_and_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, part: str
) -> None:
    path = published(tmp_path, ROWS, monkeypatch)
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{line}\n{json.dumps(ROWS[0])}\n")
    with pytest.raises(DataError) as caught:
        gsm8k.train()
    message = str(caught.value)
    assert message.startswith(f"{path}:4: ")
    assert part in message
    assert "\n" not in message
    assert len(message) < 400
    assert caught.value.exit_code == 2


def test_a_missing_folder_and_an_empty_file_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(gsm8k.FOLDER_VARIABLE, str(tmp_path / "none"))
    with pytest.raises(DataError, match=r"PARIBUS_GSM8K_DIR: .*none/train\.jsonl: cannot be read \(No such file"):
        gsm8k.train()
    published(tmp_path, [], monkeypatch)
    with pytest.raises(DataError, match="the train split is empty"):
        gsm8k.train()
    (tmp_path / "test.jsonl").write_bytes(b'{"question": "\xff"}')
    with pytest.raises(DataError, match=r"test\.jsonl: cannot be read"):
        gsm8k.heldout()


def test_without_a_folder_rows_come_from_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(*args: Any, **options: Any) -> list[dict[str, str]]:
        asked.append((args, options))
        return ROWS

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    assert [prompt.answer for prompt in gsm8k.train()] == ["72", "1,250", "-3"]
    assert asked == [((gsm8k.HUB_DATASET, "main"), {"split": "train"})]


@pytest.mark.parametrize("error", [ConnectionError("a\nb"), OSError(28, "full"), ValueError("x"), ImportError("y")])
def test_a_hub_that_fails_is_an_infrastructure_error_that_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def load_dataset(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(DataUnreachable) as caught:
        gsm8k.train()
    assert "set PARIBUS_GSM8K_DIR to a folder with train.jsonl and test.jsonl" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 5


# --- the order of prompts ---------------------------------------------------------------------------------------


def prompts(count: int) -> list[Prompt]:
    return [Prompt(id=str(number), text=f"q{number}", answer="1") for number in range(count)]


@given(st.integers(1, 30), st.integers(1, 40), st.integers(1, 8))
def test_every_prompt_is_read_once_an_epoch_across_the_steps(size: int, count: int, steps: int) -> None:
    stream = PromptStream(prompts(size), ("s", 0))
    read = [prompt.id for step in range(1, steps + 1) for prompt in stream.take(step, count)]
    assert len(read) == count * steps
    for start in range(0, len(read), size):
        epoch = read[start : start + size]
        assert max(Counter(epoch).values()) == 1
        assert len(epoch) < size or set(epoch) == {prompt.id for prompt in prompts(size)}


@given(st.integers(1, 20), st.integers(1, 7), st.lists(st.integers(1, 12), min_size=1, max_size=8))
def test_what_a_step_reads_does_not_depend_on_what_was_read_before(size: int, count: int, steps: list[int]) -> None:
    stream = PromptStream(prompts(size), ("s", 3))
    for step in steps:
        assert stream.take(step, count) == PromptStream(prompts(size), ("s", 3)).take(step, count)


def test_the_order_depends_on_suite_seed_and_epoch() -> None:
    first = PromptStream(prompts(50), ("s", 0))
    orders = [tuple(first.order(0)), tuple(first.order(1))]
    orders += [tuple(PromptStream(prompts(50), key).order(0)) for key in (("s", 1), ("t", 0), ("s1", ""))]
    assert len(set(orders)) == len(orders)
    assert orders[0] != tuple(range(50))
    assert tuple(PromptStream(prompts(50), ("s", 0)).order(0)) == orders[0]


def test_a_step_that_crosses_the_epoch_takes_the_rest_and_then_the_next_order() -> None:
    stream = PromptStream(prompts(5), ("s", 0))
    expected = [*stream.order(0), *stream.order(1)]
    assert [int(prompt.id) for prompt in stream.take(2, 3)] == expected[3:6]
    assert [int(prompt.id) for step in (1, 2, 3) for prompt in stream.take(step, 3)] == expected[:9]


def test_the_hash_of_a_stream_tells_texts_and_orders_apart() -> None:
    base = prompts(10)
    other = [*base[:9], dataclasses.replace(base[9], text="another")]
    hashes = [PromptStream(base, ("s", 0)).sha256(), PromptStream(base, ("s", 1)).sha256()]
    hashes.append(PromptStream(other, ("s", 0)).sha256())
    assert len(set(hashes)) == 3
    used = PromptStream(base, ("s", 0))
    used.take(9, 4)
    assert used.sha256() == hashes[0]
