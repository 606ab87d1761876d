"""Answers to the same questions as arrays: what lets seeds and arms be compared question by question.

An evaluation keeps every answer with its question's id, and files may list them in any order. Policies that were not
asked the same questions, or whose answers were not all kept, cannot be compared this way, and that is said.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from reports.records import Evaluation
from reports.stats import Array

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
