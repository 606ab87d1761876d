"""Completions to read side by side: the same held-out question, answered by the base policy and by every arm.

They are chosen by rule, so that nobody picks the ones that suit: one seed (the lowest that finished in every arm), the
questions in the order of the evaluation, those that one arm got right and another wrong first and taking turns
between the arms, then those all got wrong, then those all got right.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Any

from reports.records import Records

MOST_EXAMPLES = 12
MOST_CHARACTERS = 2_000


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
    id: str
    prompt: str
    gold: str
    kind: str
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class Examples:
    """counts: how many questions fall in each kind, over all that were asked of this seed."""

    task: str
    seed: int | None
    counts: Mapping[str, int]
    chosen: tuple[Example, ...]


def choose(records: Records, task: str) -> Examples:
    """The examples of a task; empty when no seed finished in every arm with its answers kept."""
    arms = records.arms
    seeds = [{run.seed for run in records.of(arm) if (e := run.final(task)) and e.samples} for arm in arms]
    common = sorted(set.intersection(*seeds)) if seeds else []
    if not common:
        return Examples(task, None, {}, ())
    seed = common[0]
    by_arm = {arm: _by_id(records, arm, seed, task) for arm in arms}
    base = {s["id"]: s for s in records.base[task].samples} if task in records.base else {}
    kinds: dict[str, list[Example]] = {}
    for key, first in by_arm[arms[0]].items():
        if not all(key in by_arm[arm] for arm in arms):
            continue
        right = [arm for arm in arms if by_arm[arm][key].get("correct")]
        kind = "all right" if len(right) == len(arms) else "all wrong" if not right else f"only {' and '.join(right)}"
        rows = ([("base", base[key])] if key in base else []) + [(arm, by_arm[arm][key]) for arm in arms]
        answers = tuple(_answer(who, sample) for who, sample in rows)
        prompt, _ = _shorten(first.get("prompt"))
        kinds.setdefault(kind, []).append(Example(str(key), prompt, str(first.get("answer", "")), kind, answers))
    flips = [kinds[kind] for kind in kinds if kind.startswith("only ")]
    turns = [example for example in chain.from_iterable(zip_longest(*flips)) if example is not None]
    ordered = turns[: MOST_EXAMPLES - 4] + kinds.get("all wrong", [])[:2] + kinds.get("all right", [])[:2]
    return Examples(task, seed, {kind: len(found) for kind, found in kinds.items()}, tuple(ordered))


def _by_id(records: Records, arm: str, seed: int, task: str) -> dict[Any, Mapping[str, Any]]:
    run = next(run for run in records.of(arm) if run.seed == seed)
    final = run.final(task)
    return {sample["id"]: sample for sample in final.samples} if final else {}


def _answer(who: str, sample: Mapping[str, Any]) -> Answer:
    completion, cut = _shorten(sample.get("completion"))
    correct, extracted = sample.get("correct"), sample.get("extracted")
    return Answer(
        who,
        completion,
        None if correct is None else bool(correct),
        None if extracted is None else _shorten(extracted)[0],
        bool(sample.get("truncated")),
        cut,
    )


def _shorten(text: Any) -> tuple[str, int | None]:
    text = "" if text is None else str(text)
    return (text, None) if len(text) <= MOST_CHARACTERS else (text[:MOST_CHARACTERS], len(text))
