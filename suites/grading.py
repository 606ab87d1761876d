r"""Find the answer in a completion of a math word problem and compare it, exactly, with the gold answer.

One verifier serves the reward of training and the accuracy of evaluation, so the two cannot disagree.

    >>> grade("She sells 9 eggs at $2.\n#### $18.00", "9 * 2 = <<9*2=18>>18\n#### 18")
    Graded(correct=True, extracted='18.00', rule='hash')

**Where the answer is looked for.** The first of these markers that occurs in the completion decides, by its last
occurrence: `#### N`; `\boxed{N}`; "answer is N" or "answer: N" (in any case; "the" and "final" may precede); `A: N` at
the start of a line. Only a completion without any marker falls back to its last number, and only where `fallback`
allows it. A marker without a number is no answer: neither an earlier marker nor a number elsewhere is consulted, so
"#### apples" cannot win by a number that happens to stand nearby.

**What is read there.** The rest of the marker's line (or, if it has no letter or digit, the next line that has), from
the line's last `=` on if it has one; and there the first number. "#### 18 apples in 2024" is 18, "#### 5 + 3 = 8" is 8,
and "#### 1 2 3 4" is 1: listing guesses buys one guess. If that number is malformed, there is no answer.

**What is a number.** ASCII digits with an optional sign that touches them, groups of three after commas, a decimal
part, an exponent within ±30 (`1e3`), or a fraction (`3/4`, `\frac{3}{4}`; by value, so 2/4 is 1/2) or mixed number
(`1 1/2`) of whole numbers; at most 40 digits a part. Currency signs, Markdown and LaTeX dress are ignored. Units are
dropped and never change the value: 50% is 50, "2 million" is 2. `!` is punctuation. Not numbers: digits of other
scripts, digits inside a word (B12), `1,23`, `1.2.3`, `3/0`, times and ratios (3:30), dates, ranges, and expressions
(`5 + 3`, `2^10`, `9**9**9`). Nothing is ever evaluated.

Any text is graded without an exception, in time linear in its length.
"""

import re
import unicodedata
from fractions import Fraction
from typing import NamedTuple

_MAX_DIGITS = 40
_MAX_EXPONENT = 30
# What reaches further back than this from the last digit of a text has too many digits to be a number.
_FALLBACK_WINDOW = 4096
# How far around a number its context is judged.
_CONTEXT = 24


class GoldAnswerError(ValueError):
    """The gold answer of a question is not a number: an error in the data, which no reward may hide."""


class Extracted(NamedTuple):
    """An answer: the number as written (in ASCII, without currency and unit), its exact value, the rule that found it.

    The rule is one of "hash", "boxed", "answer_is", "a_colon", "last_number", or "marker" from `extract_after`.
    """

    text: str
    value: Fraction
    rule: str


class Graded(NamedTuple):
    """A verdict; `extracted` and `rule` are None where the completion gives no answer."""

    correct: bool
    extracted: str | None
    rule: str | None


# Quantifiers are possessive and prefixes bounded, so that no scan reads a character more than a few times.
# Models write the hyphens, the figure dash, the en dash and the minus sign for a minus.
_DASHES = "-\u2010\u2011\u2012\u2013\u2212"
_OPS = rf"/^×÷·±+\{_DASHES}"
_SIGN = rf"[+\{_DASHES}]"
_CURRENCY = r"\\?[$€£¥₹]"
_MORE_DIGITS = r"(?:[.,][0-9]++)*+"
_EXPONENT = rf"(?:[eE]{_SIGN}?[0-9]++)?+"
# A star is an operator only between operands spaced alike; otherwise it is Markdown, as in "**18** 5-litre cans".
_OPERATOR = (
    rf"(?:[ \t]*+(?:[{_OPS}]|\\(?:times|cdot|div|pm)(?![A-Za-z]))[ \t]*+"
    r"|\*\*?|:|[ \t]++(?:\*\*?|x)[ \t]++)"
)
_NUMBER = (
    rf"(?P<sign>(?<![A-Za-z0-9_)+\{_DASHES}]){_SIGN})?(?:{_CURRENCY}[ \t]{{0,2}}+(?P<inner_sign>{_SIGN})?)?"
    rf"(?P<whole>(?:(?<![.0-9A-Za-z_])\.)?[0-9]++{_MORE_DIGITS})(?P<exponent>{_EXPONENT})"
    rf"(?:[ \t]++(?P<numerator>[0-9]++)/(?P<part>[0-9]++)|/(?P<denominator>[0-9]++{_MORE_DIGITS}))?+"
    rf"(?P<expression>(?:{_OPERATOR}{_SIGN}?(?:{_CURRENCY})?{_SIGN}?\.?[0-9]++{_MORE_DIGITS}{_EXPONENT})*+)"
)
# A word, or a digit of another script, takes the digits glued to it: B12, v1.5, x_2.
_WORD = rf"(?:[A-Za-z_]|[^\D0-9])[A-Za-z0-9_]*+(?:(?<=[0-9]){_MORE_DIGITS})?+"
_WORD_OR_NUMBER = re.compile(rf"{_WORD}|{_NUMBER}")
_NUMBER_ALONE = re.compile(rf"{_NUMBER}\.?+(?:{_CURRENCY})?+")
_PLAIN = re.compile(r"(?:[0-9]{1,3}(?:,[0-9]{3})++|[0-9]++)?(?:\.[0-9]++)?")

# What stands just before or after a number that is only a part of something unevaluated: sqrt(16), (3+4)*2, 2\pi.
_PART_BEFORE = re.compile(
    rf"(?:[A-Za-z^{_OPS}]\(|\^\{{?|√|\}}\{{|\\[A-Za-z]+\{{|\\(?:[a-z]?frac|sqrt)[^ \t]*"
    rf"|\)[ \t]?[{_OPS}][ \t]?|[0-9)][ \t]?[{_OPS}][ \t]?\(+|\)\*\*?|[0-9)]\*\*?\(+|{_SIGN}{{2}})\Z"
)
_PART_AFTER = re.compile(
    rf"[.,]?[0-9]|[A-Za-z_]++[0-9]|\*{{0,2}}\([0-9]|[ \t]*+(?:[π√]|\\(?:[a-z]?frac|sqrt|pi))"
    rf"|[ \t]*+(?:[{_OPS}]|\\(?:times|cdot|div))[ \t]*+(?:[({{]+{_SIGN}?[0-9]|[π√]|\\(?:[a-z]?frac|sqrt|pi))"
)

_BOXED_OPENS = re.compile(r"[ \t]{0,4}\{")
_BRACE = re.compile(r"\\[{}\\]|[{}]")
_DRESS = re.compile(
    r"\\(?:left|right|displaystyle)(?![A-Za-z])|\\!"
    r"|\\(?:text(?:bf|it|rm)?|math(?:bf|it|rm)|mbox|fbox|boxed|underline|emph)[ \t]?\{"
)
_FRAC = re.compile(
    rf"\\[dtc]?frac(?: ?\{{ ?({_SIGN}?[0-9,]{{1,60}}+) ?\}} ?\{{ ?([0-9,]{{1,60}}+) ?\}}| ?([0-9])([0-9]))"
)

_ANSWER_IS = re.compile(r"(?<![A-Za-z])answer\*{0,3}[ \t]{0,4}(?:is(?![A-Za-z])|[:=])", re.IGNORECASE | re.ASCII)
_A_COLON = re.compile(r"^[ \t]*+\*{0,2}A\*{0,2}:", re.MULTILINE)
_TEXT = re.compile(r"[^\W_]")
_LINE_END = re.compile(r"[\n\r]")
_AFTER_MARKER = re.compile(r"(-?)([0-9]++(?:\.[0-9]++)?+)(?=\s|\Z)")


def _plain(text: str) -> Fraction | None:
    """The value of unsigned digits with groups of three and a decimal part; None for anything else."""
    if len(text) > 2 * _MAX_DIGITS or not _PLAIN.fullmatch(text):
        return None
    whole, _, decimals = text.replace(",", "").partition(".")
    if not 0 < len(whole) + len(decimals) <= _MAX_DIGITS:
        return None
    return Fraction(int(whole + decimals), 10 ** len(decimals))


def _number(match: re.Match[str]) -> tuple[str, Fraction] | None:
    """The number that a match of `_NUMBER` stands for, as (text, value); None if it is malformed or an expression."""
    text, exponent, denominator, numerator = match.group("whole", "exponent", "denominator", "numerator")
    signs = (match["sign"] or "") + (match["inner_sign"] or "")
    value = _plain(text)
    if value is None or match["expression"] or len(signs) > 1:
        return None
    if exponent and (denominator or numerator):
        return None
    if (denominator or numerator) and "." in text:
        return None
    if exponent:
        digits = exponent[1:].lstrip("+" + _DASHES)
        if len(digits) > 2 or int(digits) > _MAX_EXPONENT:
            return None
        power = -int(digits) if exponent[1] in _DASHES else int(digits)
        value *= Fraction(10) ** power
        text += f"e{power}"
    elif denominator:
        below = _plain(denominator)
        if not below or "." in denominator:
            return None
        value /= below
        text += f"/{denominator}"
    elif numerator:
        above, below = _plain(numerator), _plain(match["part"])
        if above is None or not below or above >= below:
            return None
        value += above / below
        text += f" {numerator}/{match['part']}"
    return (f"-{text}", -value) if signs and signs != "+" else (text, value)


def parse_number(text: str) -> Fraction | None:
    """The value of a text that is one number and nothing else, apart from currency signs; None for any other text.

    `1,234` is a number and `1,23` is none; no unit is accepted, not even `%`. Never raises.
    """
    match = _NUMBER_ALONE.fullmatch(text.strip())
    number = _number(match) if match else None
    return number[1] if number else None


def _undressed(text: str) -> str:
    r"""The text without LaTeX layout, with `\frac{a}{b}` as a/b and the commas of groups as plain commas."""
    if "\\" not in text and "{,}" not in text:
        return text
    text = _DRESS.sub("", text.replace("{,}", ",").replace("\\,", ","))

    def slashed(match: re.Match[str]) -> str:
        above, below = (match[1], match[2]) if match[1] else (match[3], match[4])
        # A space keeps the digits of a mixed number, 1\frac{1}{2}, apart.
        return f"{' ' if text[match.start() - 1 : match.start()].isdigit() else ''}{above}/{below}"

    return _FRAC.sub(slashed, text)


def _is_part(text: str, match: re.Match[str]) -> bool:
    """Whether the number is only a part of an expression, or of a numeral with digits that are not ASCII (10², 1½)."""
    before = text[max(0, match.start() - _CONTEXT) : match.start()]
    after = text[match.end() : match.end() + _CONTEXT]
    if any(unicodedata.category(neighbour) in ("Nd", "No", "Nl") for neighbour in before[-1:] + after[:1]):
        return True
    return bool(_PART_BEFORE.search(before) or _PART_AFTER.match(after))


def _pick(text: str, rule: str, *, last: bool) -> Extracted | None:
    """The first or the last number of the text; None if there is none or that one is malformed."""
    picked = None
    for match in _WORD_OR_NUMBER.finditer(text):
        if match["whole"]:
            picked = match
            if not last:
                break
    number = _number(picked) if picked and not _is_part(text, picked) else None
    return Extracted(*number, rule) if number else None


def _pick_behind(text: str, start: int, rule: str) -> Extracted | None:
    """The number behind a marker that ends at `start`."""
    content = _TEXT.search(text, start)
    if not content:
        return None
    # The line may begin with a sign or currency, which is no text of its own.
    start = max(start, 1 + text.rfind("\n", start, content.start()), 1 + text.rfind("\r", start, content.start()))
    end = _LINE_END.search(text, content.start())
    line = text[start : end.start() if end else None]
    return _pick(_undressed(line[line.rfind("=") + 1 :]), rule, last=False)


def _boxed(text: str, start: int) -> Extracted | None:
    r"""The number of the `\boxed` that ends at `start`; None if its braces never close."""
    opening = _BOXED_OPENS.match(text, start)
    if not opening:
        return _pick_behind(text, start, "boxed")
    depth = 1
    for brace in _BRACE.finditer(text, opening.end()):
        if brace[0] == "{":
            depth += 1
        elif brace[0] == "}":
            depth -= 1
        if depth == 0:
            return _pick_behind(text[: brace.start()], opening.end(), "boxed")
    return None


def extract(completion: str, *, fallback: bool = True) -> Extracted | None:
    """The answer that a completion gives, found as the head of this module describes; None if it gives none.

    `fallback=False` accepts only marked answers. With it, the last number within the 4,096 characters up to the text's
    last digit decides.
    """
    if (start := completion.rfind("####")) >= 0:
        return _pick_behind(completion, start + len("####"), "hash")
    if (start := completion.rfind("\\boxed")) >= 0:
        return _boxed(completion, start + len("\\boxed"))
    for pattern, rule in ((_ANSWER_IS, "answer_is"), (_A_COLON, "a_colon")):
        if markers := list(pattern.finditer(completion)):
            return _pick_behind(completion, markers[-1].end(), rule)
    if not fallback:
        return None
    end = 1 + max(completion.rfind(digit) for digit in "0123456789")
    window = completion[max(0, end - _FALLBACK_WINDOW) : end + _CONTEXT]
    return _pick(_undressed(window), "last_number", last=True)


def extract_after(completion: str, marker: str) -> Extracted | None:
    """The number right after the last occurrence of a short marker, for suites whose format ends in, say, `#24`.

    Only an integer or decimal of ASCII digits that touches the marker and is followed by white space or the end of the
    text counts: no comma, currency, fraction or unit. An empty marker raises ValueError.
    """
    if not marker:
        raise ValueError("the marker is empty")
    _, found, rest = completion.rpartition(marker)
    match = _AFTER_MARKER.match(rest) if found else None
    value = _plain(match[2]) if match else None
    if match is None or value is None:
        return None
    return Extracted(match[1] + match[2], -value if match[1] else value, "marker")


def gold(answer: str) -> Fraction:
    """The value of a gold answer: a GSM8K solution that ends in `#### N`, or a bare number.

    Raises GoldAnswerError for anything else: an answer that cannot be read must stop the run, never earn a reward.
    """
    number = answer.rpartition("####")[2].strip()
    value = parse_number(number)
    if value is None:
        raise GoldAnswerError(f"the gold answer is not a number: {number[:60]!r}")
    return value


def grade(completion: str, answer: str, *, fallback: bool = True) -> Graded:
    """Judge a completion against the gold answer: correct if the two numbers are equal as fractions, exactly.

    Raises GoldAnswerError if the gold answer cannot be read, whatever the completion.
    """
    expected = gold(answer)
    found = extract(completion, fallback=fallback)
    if found is None:
        return Graded(False, None, None)
    return Graded(found.value == expected, found.text, found.rule)


def is_correct(completion: str, answer: str, *, fallback: bool = True) -> bool:
    """Whether the completion gives the gold answer; see `grade`."""
    return grade(completion, answer, fallback=fallback).correct
