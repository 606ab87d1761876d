"""The finished runs of a benchmark, tabulated once: arm → seed → value, and question by question.

An evaluation keeps every answer with its question's id, and files may list them in any order. Policies that were not
asked the same questions, or whose answers were not all kept, cannot be compared question by question, and that is said.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from reports.record.models import Evaluation
from reports.record.reader import Records, Run
from reports.stats.estimates import Array

Value = TypeVar("Value")
ByRun = Mapping[str, Mapping[int, Value]]
"""arm → seed → value, for every finished run."""
Finals = ByRun[Evaluation | None]
"""None for a run without an evaluation."""
# One answer as a number: 1 or 0 for yes or no, None where the record does not say.
Reading = Callable[[Mapping[str, Any]], float | None]


@dataclass(frozen=True)
class Tables:
    """A benchmark's runs by arm and seed.

    runs: all of them, whatever became of them. base: task → the policy before training. settings: arm → its resolved
    settings. target: the accuracy that the suite declared as one to reach.
    """

    runs: tuple[Run, ...]
    finished: ByRun[Run]
    tasks: tuple[str, ...]
    base: Mapping[str, Evaluation]
    settings: Mapping[str, Mapping[str, Any]]
    currency: str
    target: float | None

    @property
    def arms(self) -> tuple[str, ...]:
        return tuple(self.finished)

    @property
    def standing(self) -> tuple[str, ...]:
        """The arms that have finished runs, where there are two to hold against each other; else all."""
        ran = tuple(arm for arm, own in self.finished.items() if own)
        return ran if len(ran) > 1 else self.arms

    def of(self, read: Callable[[Run], Value]) -> dict[str, dict[int, Value]]:
        return {arm: {seed: read(run) for seed, run in own.items()} for arm, own in self.finished.items()}

    def finals(self, task: str) -> dict[str, dict[int, Evaluation | None]]:
        return self.of(lambda run: run.final(task))

    def base_accuracy(self, task: str) -> float | None:
        return self.base[task].metrics.get("accuracy") if task in self.base else None


def tabulate(records: Records) -> Tables:
    bench = records.bench
    return Tables(
        runs=records.runs,
        finished={arm: {run.seed: run for run in records.of(arm)} for arm in records.arms},
        tasks=records.tasks,
        base=records.base,
        settings=bench["arms"],
        currency=str((bench.get("budget") or {}).get("currency")),
        target=((bench.get("spec") or {}).get("suite") or {}).get("target"),
    )


def stated(evaluations: Finals, name: str) -> dict[str, dict[int, float | None]]:
    """A metric of the evaluations."""
    return {
        arm: {seed: e.metrics.get(name) if e else None for seed, e in own.items()} for arm, own in evaluations.items()
    }


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


def marks(evaluations: Finals, reading: Reading = right) -> tuple[dict[str, Array] | None, str | None]:
    """arm → [seeds, questions], or why there are none (see `questions`); a seed that was not evaluated has no row."""
    found = {arm: [e for e in own.values() if e is not None] for arm, own in evaluations.items()}
    ids, fault = questions(e for own in found.values() for e in own)
    if ids is None:
        return None, fault
    return {
        arm: np.array([scores(e, ids, reading) for e in own], dtype=np.float64).reshape(len(own), len(ids))
        for arm, own in found.items()
    }, None


def _asked(evaluation: Evaluation) -> dict[Any, tuple[Any, Any]]:
    return {sample["id"]: (sample.get("prompt"), sample.get("answer")) for sample in evaluation.samples}
