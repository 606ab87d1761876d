"""Answer extraction and exact grading: the cases of cases/grading.json, properties, and hostile text."""

import json
import re
import signal
import string
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from suites.grading import (
    Extracted,
    GoldAnswerError,
    Graded,
    extract,
    extract_after,
    gold,
    grade,
    is_correct,
    parse_number,
)

CASES = json.loads((Path(__file__).parents[1] / "cases" / "grading.json").read_text(encoding="utf-8"))
LONG = 200_000

WRAPPERS = {
    "hash": "We add them up.\n#### {}",
    "hash, dollars": "#### ${} in 7 days",
    "hash, equation": "#### 1 + 1 = {}",
    "hash, bold": "#### **{}** (of 31)",
    "boxed": "$\\boxed{{{}}}$ and 3 more",
    "boxed, text": "\\boxed{{\\text{{{} apples}}}}",
    "answer is": "The answer is {}.",
    "answer is, latex": "the ANSWER IS: $ {}$ for 12 people",
    "final answer": "**Final Answer:** {}\nI am 100 sure",
    "A": "Q: what?\nA: {} of 9",
    "last number": "There were 5, and now {}.",
}
# Characters that make up numbers, markers and their dress, so that random text comes close to both.
NEARLY_NUMBERS = st.text(alphabet="0123456789.,/-+−–*^=#$%€\\{}()eExA: \n١８²½_", max_size=60)
FRAGMENTS = st.sampled_from(
    [
        "####",
        "\\boxed{",
        "\\boxed",
        "}",
        "{",
        "answer is",
        "answer:",
        "\nA:",
        "\\frac{",
        "\\text{",
        "1",
        "18",
        "1,234",
        "-",
        " ",
        "\n",
        ".",
        ",",
        "/",
        "0",
        "=",
        "**",
        "$",
        "e9",
        "\x00",
        "\ud800",
        "x",
        "½",
        "９",
    ]
)
HOSTILE = st.one_of(st.text(), NEARLY_NUMBERS, st.lists(FRAGMENTS, max_size=25).map("".join))
INTEGERS = st.integers(min_value=-(10**30), max_value=10**30)


@contextmanager
def an_alarm(seconds: int) -> Iterator[None]:
    """Interrupt what runs longer; a scan that is not linear needs far longer for a long text."""

    def ring(signum: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_case_is_graded_as_written(case: dict[str, Any]) -> None:
    graded = grade(case["completion"], case["answer"], fallback=case.get("fallback", True))
    assert graded == Graded(case["correct"], case["extracted"], case["rule"])


def test_cases_have_names_of_their_own_and_cover_every_rule() -> None:
    assert len({case["name"] for case in CASES}) == len(CASES) >= 90
    assert {case["rule"] for case in CASES} == {"hash", "boxed", "answer_is", "a_colon", "last_number", None}
    assert {case["correct"] for case in CASES} == {True, False}


@given(HOSTILE, st.booleans())
@example("#### \ud800", True)
@example("#### 1e", True)
@example("-", True)
def test_any_text_is_graded_and_an_extracted_text_is_the_number_it_claims(text: str, fallback: bool) -> None:
    found = extract(text, fallback=fallback)
    assert grade(text, "18", fallback=fallback).correct == (found is not None and found.value == 18)
    if found:
        assert found.text.isascii()
        assert parse_number(found.text) == found.value
        assert fallback or found.rule != "last_number"


@given(HOSTILE)
def test_parse_number_and_extract_after_take_any_text(text: str) -> None:
    value = parse_number(text)
    assert value is None or re.search("[0-9]", text)
    found = extract_after(text, "#")
    assert found is None or parse_number(found.text) == found.value


@given(HOSTILE)
def test_gold_gives_the_value_or_one_line_of_error(text: str) -> None:
    value = parse_number(text.rpartition("####")[2])
    if value is not None:
        assert gold(text) == value
        return
    with pytest.raises(GoldAnswerError) as raised:
        gold(text)
    assert len(str(raised.value).splitlines()) == 1
    assert str(raised.value).encode()


@pytest.mark.parametrize("wrapper", WRAPPERS.values(), ids=WRAPPERS.keys())
@given(n=INTEGERS)
@example(n=0)
@example(n=-1)
def test_an_integer_is_extracted_from_every_format(wrapper: str, n: int) -> None:
    found = extract(wrapper.format(n))
    assert found is not None
    assert found.value == n
    assert is_correct(wrapper.format(n), str(n))


@pytest.mark.parametrize("wrapper", WRAPPERS.values(), ids=WRAPPERS.keys())
@given(n=INTEGERS, other=st.one_of(INTEGERS, st.sampled_from([1, 3, 5, 7, 9, 12, 31, 100])))
def test_a_wrong_integer_is_never_correct(wrapper: str, n: int, other: int) -> None:
    assert is_correct(wrapper.format(n), str(other)) == (n == other)


@given(n=INTEGERS)
def test_a_neighbour_or_the_opposite_is_never_correct(n: int) -> None:
    for wrapper in WRAPPERS.values():
        for wrong in {n + 1, n - 1, 10 * n + 1, -n} - {n}:
            assert not is_correct(wrapper.format(wrong), str(n))


@given(text=HOSTILE, space=st.text(alphabet=" \t\n\r", max_size=20))
def test_appended_white_space_changes_nothing(text: str, space: str) -> None:
    assert grade(text + space, "18") == grade(text, "18")
    assert extract_after(text + space, "#") == extract_after(text, "#")


@pytest.mark.parametrize(
    "written",
    [
        "{:,}",
        "{}.00",
        "{}.",
        "${:,}",
        "{:,}€",
        "\\${}",
        "£{}",
        "{} %",
        "**{:,}**",
        "${}$",
        "{} dollars",
        "{}e0",
        "{}/1",
    ],
)
@given(n=INTEGERS)
def test_formatting_keeps_the_value(written: str, n: int) -> None:
    assert is_correct(f"#### {written.format(n)}", str(n))
    assert not is_correct(f"#### {written.format(n)}", str(n + 1))


@given(n=INTEGERS, minus=st.sampled_from("-\u2212\u2013\u2010\u2011"))
def test_every_minus_is_a_sign(n: int, minus: str) -> None:
    assert is_correct(f"#### {minus}{abs(n)}", str(-abs(n)))


@given(st.decimals(min_value=-(10**12), max_value=10**12, places=6))
def test_a_decimal_is_exact(decimal: Any) -> None:
    written = f"{decimal:f}"
    assert gold(written) == Fraction(decimal)
    assert is_correct(f"#### {written}0", written)


@given(st.integers(0, 10**9), st.integers(1, 10**9), st.integers(0, 10**6))
def test_fractions_and_mixed_numbers_are_exact(above: int, below: int, whole: int) -> None:
    assert parse_number(f"{above}/{below}") == Fraction(above, below)
    found = extract(f"\\boxed{{-\\frac{{{above}}}{{{below}}}}}")
    assert found is not None
    assert found.value == -Fraction(above, below)
    if above < below:
        assert parse_number(f"{whole} {above}/{below}") == whole + Fraction(above, below)


@given(st.integers(0, 999), st.integers(0, 999), st.sampled_from(["+", "*", "**", "^", "×", "·", "÷", " - ", " / "]))
def test_an_expression_is_never_a_number(left: int, right: int, operator: str) -> None:
    for wrapper in ("#### {}", "\\boxed{{{}}}", "The answer is {}", "A: {}", "I get {}"):
        assert extract(wrapper.format(f"{left}{operator}{right}")) is None
    assert parse_number(f"{left}{operator}{right}") is None


PARSED = {"18": 18, " -18\n": -18, "$1,234.50": Fraction(2469, 2), "-$5": -5, "$-5": -5, "18€": 18, "$5$": 5, ".5": 0.5}
PARSED |= {"5.": 5, "+5": 5, "\u22125": -5, "3/4": 0.75, "1 1/2": 1.5, "1e-2": Fraction(1, 100), "0.125": 0.125}


@pytest.mark.parametrize(("text", "value"), PARSED.items())
def test_one_number_is_parsed(text: str, value: Fraction | float) -> None:
    assert parse_number(text) == value


NOT_PARSED = [
    "",
    "-",
    ".",
    ",",
    "$",
    "e5",
    "1,23",
    ",1",
    "1,",
    "12 13",
    "18 apples",
    "18%",
    "--5",
    "- 5",
    "-$-5",
    "3/0",
]
NOT_PARSED += [
    "1 1/0",
    "1.2.3",
    "1e31",
    "1e",
    "9" * 41,
    "0." + "0" * 40,
    "１",
    "1_0",
    "0x1",
    "nan",
    "inf",
    "1/2/3",
    "x",
]


@pytest.mark.parametrize("text", NOT_PARSED)
def test_anything_else_is_not_parsed(text: str) -> None:
    assert parse_number(text) is None


def test_gold_reads_a_gsm8k_answer_and_a_bare_number() -> None:
    assert gold("She makes 9 * 2 = $<<9*2=18>>18 every day.\n#### 18") == 18
    assert gold("#### 5\n#### 2,125\n") == 2125
    assert gold(" -0.50 ") == Fraction(-1, 2)


@pytest.mark.parametrize(
    "answer", ["", "apples", "18\n####", "#### 18 apples", "#### ", "5 6", "#### 3/0", "x\ud800\ny"]
)
@pytest.mark.parametrize("completion", ["#### 18", "", "#### apples"])
def test_an_unreadable_gold_answer_is_an_error_whatever_the_completion(completion: str, answer: str) -> None:
    with pytest.raises(GoldAnswerError, match=r"^the gold answer is not a number: '.*'\Z"):
        grade(completion, answer)
    with pytest.raises(ValueError, match="gold answer"):
        is_correct(completion, answer)


def test_a_long_gold_answer_is_cut_in_its_error() -> None:
    with pytest.raises(GoldAnswerError) as raised:
        gold("y" * 10_000)
    assert str(raised.value).endswith(f": {'y' * 60!r}")


AFTER_MARKER = {
    "12+7=19;19+5=24#24": "24",
    "#24#25": "25",
    "#24\n": "24",
    "#24 and 5": "24",
    "#-5": "-5",
    "#2.5": "2.5",
}
NOTHING_AFTER = [
    "#",
    "",
    "24",
    "#24abc",
    "# 24",
    "#24#",
    "#24.",
    "#1,000",
    "#$5",
    "#1/2",
    "#--5",
    "#３",
    "#" + "1" * 41,
]


@pytest.mark.parametrize(("completion", "text"), [*AFTER_MARKER.items(), *((text, None) for text in NOTHING_AFTER)])
def test_the_number_right_after_the_last_marker_is_extracted(completion: str, text: str | None) -> None:
    expected = Extracted(text, Fraction(text), "marker") if text else None
    assert extract_after(completion, "#") == expected
    assert extract_after(completion.replace("#", "=>"), "=>") == expected


def test_an_empty_marker_is_refused() -> None:
    with pytest.raises(ValueError, match="marker is empty"):
        extract_after("24", "")


def test_the_fallback_sees_4096_characters_up_to_the_last_digit() -> None:
    near, far = "18 " + "x" * 4000 + "B1" + "x" * LONG, "18 " + "x" * 5000 + "B1"
    assert is_correct(near, "18")
    assert extract(far) is None


UNITS = [
    "7",
    "1,",
    "1.",
    "1 ",
    "1/",
    "1+",
    "1 1/1 ",
    "1*",
    "1e",
    "1:",
    "-",
    "- ",
    "$",
    "$ -",
    "*",
    "#",
    "####",
    " ",
    "\t",
]
UNITS += [
    "\n",
    "\r",
    "{",
    "}",
    "\\",
    "\\{",
    "\\boxed",
    "\\boxed{",
    "\\frac{",
    "\\frac{1}{",
    "\\frac12",
    "\\text{",
    "{,}",
]
UNITS += ["\\,", "=", "(", "(1", "(1)", "5+(", "the answer is ", "answer", "answer   ", "answer is 5 ", "\nA:", "\n   "]
UNITS += [
    "a",
    "a1",
    "a1.",
    "_",
    "1a",
    ".",
    ".5",
    "\0",
    "\u200f",
    "\ud800",
    "１",
    "1１",
    "½",
    "π",
    "−5",
    "\u2028",
    "\xa0",
]
PREFIXES = {"alone": "", "hash": "####", "hash 1": "#### 1", "boxed": "\\boxed{", "answer": "answer is ", "A": "A:"}


@pytest.mark.parametrize("prefix", PREFIXES.values(), ids=PREFIXES.keys())
def test_a_long_text_of_anything_is_searched_in_linear_time(prefix: str) -> None:
    for unit in UNITS:
        text = prefix + unit * (LONG // len(unit))
        with an_alarm(5):
            extract(text)
            extract(text + "5}")


def test_a_long_text_of_anything_is_parsed_in_linear_time() -> None:
    for unit in UNITS:
        text = "1" + unit * (LONG // len(unit)) + "x"
        with an_alarm(5):
            assert parse_number(text) is None
            assert extract_after("#" + text + "#x", "#") is None


def test_deeply_nested_braces_are_matched() -> None:
    depth = 100_000
    with an_alarm(5):
        assert is_correct("\\boxed" + "{" * depth + "18" + "}" * depth, "18")
        assert extract("\\boxed" + "{" * depth + "18" + "}" * (depth - 1)) is None


@pytest.mark.parametrize("digits", [41, 4301, 100_000])
def test_digits_beyond_bounds_are_no_number(digits: int) -> None:
    for text in ("9" * digits, f"#### {'9' * digits}", f"#### 0.{'9' * digits}", f"#### 1/{'9' * digits}"):
        assert extract(text) is None
    assert extract(f"#### 1e{'9' * digits}") is None
    assert extract(f"#### 1 1/{'9' * digits}") is None
    with pytest.raises(GoldAnswerError):
        gold("9" * digits)


def test_only_ascii_digits_are_digits() -> None:
    others = [chr(code) for code in range(128, 0x11000) if chr(code).isdigit()]
    assert len(others) > 400
    for digit in others:
        for text in (digit, f"1{digit}", f"{digit}1"):
            assert extract(f"#### {text}") is None, ascii(digit)
            assert parse_number(text) is None, ascii(digit)


def test_enumerating_guesses_pays_only_for_the_first() -> None:
    guesses = " ".join(str(guess) for guess in range(1, 1000))
    for wrapper in ("#### {}", "\\boxed{{{}}}", "The answer is {}", "A: {}"):
        paid = [n for n in range(1, 1000) if is_correct(wrapper.format(guesses), str(n))]
        assert paid == [1], wrapper
    lines = "\n".join(f"#### {guess}" for guess in range(1, 100))
    assert [n for n in range(1, 100) if is_correct(lines, str(n))] == [99]


def test_every_printable_character_may_surround_an_answer() -> None:
    for character in set(string.printable) - set(string.digits):
        for text in (f"{character}####", f"#### {character}", f"\\boxed{{{character}}}", character * 5):
            assert extract(text) is None, text
