"""Numbers and names as people read them: a unit on every number, and no more digits than it deserves."""

from __future__ import annotations

import math
import re
from typing import TypeGuard

MINUS = "−"
NONE = "—"
LARGE = ((18, "E"), (15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k"))
_BIDI = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
_UNITS = "points?|[mµ]?s|min|h|[KMGT]iB|B|FLOP|[kMGTPE]|tokens|samples|seeds?"
_BEFORE_UNIT = re.compile(rf"(?<=\d) (?=%|(?:{_UNITS})\b)|(?<=[−=✓✗≠]) |(?<=^\?) | (?=[−=] )")
_UNSAFE = re.compile(f"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff{_BIDI}]")


def visible(text: str) -> str:
    """Control characters, direction overrides and broken surrogates as something that can be seen and does nothing."""

    def show(match: re.Match[str]) -> str:
        code = ord(match.group())
        if code < 0x20:
            return chr(0x2400 + code)
        return "␡" if code == 0x7F else f"⟨U+{code:04X}⟩"

    return _UNSAFE.sub(show, text)


def arm_name(arm: str) -> str:
    """Short plain names are acronyms (PPO, GRPO); anything else is left as its author wrote it."""
    return arm.upper() if arm.isalpha() and arm.isascii() and len(arm) <= 5 else arm


def significant(value: float, digits: int = 3) -> str:
    """`digits` significant digits, thousands separated, never in scientific notation below a billion."""
    if value == 0:
        return "0"
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    rounded = round(value, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{rounded:,.{places}f}".replace("-", MINUS)


def percent(value: float | None, places: int = 1) -> str:
    return NONE if not _is_number(value) else f"{100 * value:.{places}f} %".replace("-", MINUS)


def points(value: float | None, *, signed: bool = True) -> str:
    """A difference of two shares in percentage points."""
    if not _is_number(value):
        return NONE
    text = f"{100 * value:+.1f}" if signed else f"{100 * value:.1f}"
    return f"{'0.0' if text in ('-0.0', '+0.0') else text} points".replace("-", MINUS)


def quantity(value: float | None, unit: str, *, signed: bool = False) -> str:
    """A value in the unit its metric declares: "fraction", "B", "s", "count", "FLOP", or anything with "/s"."""
    if not _is_number(value):
        return NONE
    if unit == "fraction":
        return points(value) if signed else percent(value)
    sign = "+" if signed and value > 0 else ""
    if unit == "B":
        return sign + data_size(value)
    if unit == "s":
        return sign + duration(value)
    if unit in ("FLOP", "count", "tokens", "samples", "prompts", "steps"):
        return f"{sign}{large(value)}{'' if unit == 'count' else ' ' + unit}"
    return f"{sign}{significant(value)}{' ' + unit if unit else ''}"


def span(low: float, high: float, unit: str, *, signed: bool = False) -> str:
    """'−0.4 to +2.1 points': a range with its unit once, where both ends have the same."""
    ends = [points(v) if unit == "points" else quantity(v, unit, signed=signed) for v in (low, high)]
    (first, own), (_, other) = ((end.partition(" ")[0], end.partition(" ")[2]) for end in ends)
    return f"{first if own == other else ends[0]} to {ends[1]}"


def tight(value: str) -> str:
    """The text with no line break between a number and its unit, or a sign and what it is of."""
    return _BEFORE_UNIT.sub("\u00a0", value)


def large(value: float) -> str:
    """Whole numbers in full up to a hundred thousand, then with k, M, G, T, P, E."""
    if abs(value) < 100_000:
        return f"{value:,.0f}".replace("-", MINUS) if float(value).is_integer() else significant(value)
    for power, suffix in LARGE:
        if abs(value) >= 10**power:
            return f"{significant(value / 10**power)} {suffix}"
    return significant(value)


def data_size(value: float) -> str:
    for power, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if abs(value) >= 2**power:
            return f"{significant(value / 2**power)} {unit}"
    return f"{value:,.0f} B".replace("-", MINUS)


def duration(value: float) -> str:
    size = abs(value)
    if size >= 7200:
        return f"{significant(value / 3600)} h"
    if size >= 300:
        return f"{significant(value / 60)} min"
    if size >= 1 or size == 0:
        return f"{significant(value)} s"
    if size >= 1e-3:
        return f"{significant(value * 1e3)} ms"
    return f"{significant(value * 1e6)} µs"


def clock(seconds: float) -> str:
    """A duration as a clock counts it, for what is running: '1 h 05 min', '2 min 03 s', '7 s'."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def moment(stamp: str) -> str:
    """An ISO moment in UTC as '2026-11-22 20:45 UTC'; anything else as it came."""
    match = re.fullmatch(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d)(?::\d\d(?:\.\d+)?)?(?:Z|\+00:00)", stamp)
    return f"{match[1]} {match[2]} UTC" if match else stamp


def ratio(first: float | None, second: float | None) -> str:
    if not _is_number(first) or not _is_number(second) or second == 0:
        return NONE
    return f"×{first / second:.2f}"


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def listed(items: list[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}" if items else ""


def _is_number(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)
