"""Answers to the same questions as arrays: what lets seeds and arms be compared question by question.

An evaluation keeps every answer with its question's id, and files may list them in any order. Policies that were not
asked the same questions, or whose answers were not all kept, cannot be compared this way, and that is said.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations, product
from typing import Any

import numpy as np

from reports.record.models import Evaluation
from reports.record.reader import Records
from reports.stats.estimates import Array
from reports.stats.mcnemar import Flips, disagreement, flips, majority

# One answer as a number: 1 or 0 for yes or no, None where the record does not say.
Reading = Callable[[Mapping[str, Any]], float | None]


def right(sample: Mapping[str, Any]) -> float | None:
    """Whether the verifier that gives the training reward took the answer for right."""
    return as_share(sample.get("correct"))


def as_share(value: Any) -> float | None:
    return None if value is None else float(value)


def questions(evaluations: Iterable[Evaluation]) -> tuple[tuple[Any, ...] | None, str | None]:
    """The ids of the questions that all of these evaluations asked, in the order of the first.

    None where answers were not all kept. The second value is why they cannot be compared: they asked different ones.
    """
    found = list(evaluations)
    if not found or any(len(e.samples) != e.questions or not e.samples for e in found):
        return None, None
    asked = _asked(found[0])
    if any(_asked(evaluation) != asked for evaluation in found[1:]):
        return None, f"not every run was asked the same questions of {found[0].task}"
    return tuple(asked), None


def scores(evaluation: Evaluation, ids: Sequence[Any], reading: Reading = right) -> Array:
    """[questions], in the order of `ids`; NaN where an answer has no such reading."""
    values = {sample["id"]: reading(sample) for sample in evaluation.samples}
    return np.array([math.nan if (value := values[key]) is None else value for key in ids], dtype=np.float64)


def tables(
    finals: Mapping[str, Mapping[int, Evaluation | None]], reading: Reading = right
) -> tuple[dict[str, Array] | None, str | None]:
    """arm → [seeds, questions], or why there are none (see `questions`); a seed that was not evaluated has no row."""
    found = {arm: [e for e in runs.values() if e is not None] for arm, runs in finals.items()}
    ids, fault = questions(e for own in found.values() for e in own)
    if ids is None:
        return None, fault
    return {
        arm: np.array([scores(e, ids, reading) for e in own], dtype=np.float64).reshape(len(own), len(ids))
        for arm, own in found.items()
    }, None


def _asked(evaluation: Evaluation) -> dict[Any, tuple[Any, Any]]:
    return {sample["id"]: (sample.get("prompt"), sample.get("answer")) for sample in evaluation.samples}


@dataclass(frozen=True)
class Pairing:
    """One task, question by question.

    within: arm → share of the questions on which two of its seeds disagree, a mean over pairs of seeds. between: the
    same over pairs of one run from each arm. None where there is no such pair.
    """

    task: str
    flips: tuple[Flips, ...]
    within: Mapping[str, float | None]
    between: float | None


def pairing(records: Records, task: str) -> Pairing | None:
    """Every seed that finished in both compared arms, then the majorities; None unless all answers were kept."""
    finals = {arm: {run.seed: run.final(task) for run in records.of(arm)} for arm in records.compared}
    answered, _ = tables(finals)
    if len(records.compared) < 2 or answered is None or not all(len(table) for table in answered.values()):
        return None
    seeds = {arm: [seed for seed, final in runs.items() if final] for arm, runs in finals.items()}
    first, second = records.compared
    rows = [
        flips(f"seed {seed}", answered[first][seeds[first].index(seed)], answered[second][seeds[second].index(seed)])
        for seed in seeds[first]
        if seed in seeds[second]
    ]
    if min(len(own) for own in seeds.values()) > 2:
        rows.append(flips("majority of seeds", majority(answered[first]), majority(answered[second])))
    within = {arm: disagreement(list(combinations(table, 2))) for arm, table in answered.items()}
    between = disagreement(list(product(answered[first], answered[second])))
    return Pairing(task, tuple(rows), within, between)


def to_json(found: Pairing) -> dict[str, Any]:
    return asdict(found)
