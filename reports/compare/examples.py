"""Completions to read side by side: the same held-out question, answered by the base policy and by every arm.

They are chosen by rule, so that nobody picks the ones that suit: one seed (the lowest that finished in every arm), the
questions in the order of the evaluation, those that one arm got right and another wrong first and taking turns
between the arms, then those all got wrong, then those all got right. Their number, their length and what they weigh
in the page all together are bounded, because a completion may hold anything.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Any

from reports import text
from reports.compare.tabulate import Tables
from reports.record.models import Evaluation

MOST_FLIPS = 24
MOST_ALIKE = 8
MOST_CHARACTERS = 2_000
# An answer or a name that is longer than this is not one.
MOST_SHORT = 200
# A hostile character takes up to a dozen bytes once it is made visible, so the whole is bounded in bytes of the page.
MOST_BYTES = 1_000_000


@dataclass(frozen=True)
class Answer:
    """One completion; `cut` is its full length in characters when only the beginning is kept."""

    who: str
    completion: str
    correct: bool | None
    extracted: str | None
    truncated: bool
    cut: int | None


@dataclass(frozen=True)
class Example:
    """One question; `prompt_cut` is its full length in characters when only the end is kept, where the question is."""

    id: str
    prompt: str
    prompt_cut: int | None
    gold: str
    kind: str
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class Examples:
    """counts: how many questions fall in each kind, flips first, over all that were asked of this seed."""

    task: str
    seed: int | None
    counts: Mapping[str, int]
    chosen: tuple[Example, ...]


def choose(tables: Tables, task: str) -> Examples:
    """The examples of a task; empty when no seed finished in every arm with its answers kept."""
    arms, finals = tables.standing, tables.finals(task)
    seeds = [{seed for seed, final in finals[arm].items() if final and final.samples} for arm in arms]
    common = sorted(set.intersection(*seeds)) if seeds else []
    if not common:
        return Examples(task, None, {}, ())
    seed = common[0]
    by_arm = {arm: _by_id(finals[arm][seed]) for arm in arms}
    base = _by_id(tables.base.get(task))
    kinds: dict[str, list[Example]] = {}
    flips: dict[str, list[int]] = {}
    for key, first in by_arm[arms[0]].items():
        if not all(key in by_arm[arm] for arm in arms):
            continue
        right = [arm for arm in arms if by_arm[arm][key].get("correct")]
        kind = "all right" if len(right) == len(arms) else "all wrong" if not right else f"only {' and '.join(right)}"
        if 0 < len(right) < len(arms):
            flips[kind] = [arms.index(arm) for arm in right]
        rows = ([("base", base[key])] if key in base else []) + [(arm, by_arm[arm][key]) for arm in arms]
        answers = tuple(_answer(who, sample) for who, sample in rows)
        prompt, cut = _shorten(first.get("prompt"), keep_end=True)
        gold = _shorten(first.get("answer"), MOST_SHORT)[0]
        kinds.setdefault(kind, []).append(Example(_shorten(key, MOST_SHORT)[0], prompt, cut, gold, kind, answers))
    ordered = sorted(flips, key=lambda kind: flips[kind])
    turns = [one for one in chain.from_iterable(zip_longest(*(kinds[kind] for kind in ordered))) if one is not None]
    alike = [kind for kind in ("all wrong", "all right") if kind in kinds]
    chosen = turns[:MOST_FLIPS] + [example for kind in alike for example in kinds[kind][:MOST_ALIKE]]
    return Examples(task, seed, {kind: len(kinds[kind]) for kind in (*ordered, *alike)}, _within(chosen))


def _within(ordered: Iterable[Example]) -> tuple[Example, ...]:
    """Those that MOST_BYTES has room for, in their order; one too heavy gives way to lighter ones behind it."""
    left, kept = MOST_BYTES, []
    for example in ordered:
        texts = (example.prompt, example.gold, *(t for a in example.answers for t in (a.completion, a.extracted or "")))
        weight = sum(len(html.escape(text.visible(value)).encode()) for value in texts)
        if weight <= left:
            left -= weight
            kept.append(example)
    return tuple(kept)


def _by_id(evaluation: Evaluation | None) -> dict[Any, Mapping[str, Any]]:
    return {sample["id"]: sample for sample in evaluation.samples} if evaluation else {}


def _answer(who: str, sample: Mapping[str, Any]) -> Answer:
    completion, cut = _shorten(sample.get("completion"))
    correct, extracted = sample.get("correct"), sample.get("extracted")
    return Answer(
        who,
        completion,
        None if correct is None else bool(correct),
        None if extracted is None else _shorten(extracted, MOST_SHORT)[0],
        bool(sample.get("truncated")),
        cut,
    )


def _shorten(value: Any, most: int = MOST_CHARACTERS, *, keep_end: bool = False) -> tuple[str, int | None]:
    """At most that many characters of it, and its full length where that is less than all."""
    whole = "" if value is None else str(value)
    if len(whole) <= most:
        return whole, None
    return whole[-most:] if keep_end else whole[:most], len(whole)
