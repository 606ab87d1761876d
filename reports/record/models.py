"""The record of a benchmark: the classes by which its files are written, read and checked.

    bench.json                         Bench, a RunRecord a run
    base/evals/base-<task>.json        Evaluation: the policy before training
    <arm>-seed<k>/evals/*.json         Evaluation: downstream accuracy, with every answer
    <arm>-seed<k>/steps.jsonl          a Step a line
    <arm>-seed<k>/samples.jsonl        a Sample a line: a few training completions

Whoever writes a file builds its model first, so that what is written can be read. What is read may be anybody's and of
another version: `upgrade` takes an older one as if it were written today, keys that are not known here are left alone,
and a fault is one line that names the file and the key.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from reports.record.errors import EvidenceError
from reports.record.faults import brief
from reports.record.names import LONGEST_NAME, Text, Whole
from reports.record.parts import (
    Arm,
    Budget,
    CombinedPart,
    Environment,
    Fit,
    MachineState,
    Matching,
    OutOfMemoryIn,
    Record,
    Resumption,
    Spec,
)
from reports.record.values import (
    MOST,
    MOST_ARMS,
    MOST_COLUMNS,
    MOST_NAMES,
    MOST_ROWS,
    ArmName,
    BenchId,
    Completion,
    FiniteOrNull,
    Fraction,
    QuestionId,
    Sentence,
    Share,
    Spent,
    StepNumber,
    bounded,
    checked_as,
)

SCHEMA_VERSION = 1


def without_nulls(raw: Any) -> Any:
    """A table without the keys that are null, which stand for what was not recorded."""
    return {key: value for key, value in raw.items() if value is not None} if isinstance(raw, dict) else raw


def as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


class RunRecord(Record):
    """A run as bench.json lists it. A key that is null is one that was not recorded, and stands at its default."""

    arm: ArmName
    seed: Whole
    order: Whole = 0
    status: Text
    reason: Sentence | None = None
    mlflow_run_id: Text | None = None
    steps: StepNumber = 0
    spent: Spent = {}
    seconds: FiniteOrNull = None
    """Wall-clock seconds of its process, over all its attempts."""
    out_of_memory_in: Annotated[dict[str, Any] | None, checked_as(OutOfMemoryIn | None)] = None
    """Phase and component, where that is what ended it."""
    conditions: Annotated[dict[Text, Annotated[Any, checked_as(MachineState)]], Field(max_length=MOST_NAMES)] = {}
    """The machine "before" and "after" (`harness.measure.machine_state`)."""
    resumed: Annotated[list[StepNumber], Field(max_length=MOST_ROWS)] = []
    """The steps after which it went on from a checkpoint."""
    hung: Annotated[list[Sentence], Field(max_length=MOST_ROWS)] = []
    """Where it hung, each time that it was started again for that."""
    try_again: bool = False
    """Something outside the benchmark made it fail, as a full disk does, so it is worth another try."""

    @model_validator(mode="before")
    @classmethod
    def _null_is_not_recorded(cls, raw: Any) -> Any:
        return without_nulls(raw)

    @classmethod
    def planned(cls, arm: str, seed: int, order: int, **known: Any) -> RunRecord:
        """A run that is still to begin."""
        return cls(arm=arm, seed=seed, order=order, status="not started", **{"seconds": 0.0, **known})

    def again(self) -> RunRecord:
        """A run that did not come to its end, about to go on."""
        return RunRecord.planned(
            self.arm, self.seed, self.order, seconds=self.seconds or 0.0, resumed=self.resumed, hung=self.hung
        )

    @property
    def title(self) -> str:
        return f"{self.arm} seed {self.seed}"

    @property
    def folder(self) -> str:
        return f"{self.arm}-seed{self.seed}"

    @property
    def finished(self) -> bool:
        return self.status == "finished"


class Bench(Record):
    """bench.json. What has no default is written by every version, and the page asks for it."""

    # Not there where there is nothing to say.
    OPTIONAL: ClassVar[tuple[str, ...]] = ("chosen", "resumed", "fit", "combined")

    schema_version: Literal[1]
    bench_id: BenchId
    suite: Text
    regime: Text | None
    profile: Text | None
    command: Sentence | None
    created: Text | None
    finished: Text | None
    status: Text | None
    primary: Text | None = None
    margin: Fraction | None = None
    budget: Annotated[Any, checked_as(Budget)]
    spec: Annotated[Any, checked_as(Spec | None)] = None
    """The benchmark's settings, resolved."""
    chosen: dict[str, Any] | None = None
    """Those of them that are not the defaults."""
    arms: Annotated[dict[ArmName, Annotated[Any, checked_as(Arm)]], Field(min_length=1, max_length=MOST_ARMS)]
    """Every arm as it is run."""
    eval_tasks: Annotated[list[Text], Field(max_length=MOST_NAMES)] | None = None
    environment: Annotated[Any, checked_as(Environment | None)] = None
    parameters: Whole = 0
    """The policy's."""
    resumed: Annotated[list[Annotated[Any, checked_as(Resumption)]], Field(max_length=MOST_ROWS)] | None = None
    fit: Annotated[dict[ArmName, Annotated[Any, checked_as(Fit)]], Field(max_length=MOST_ARMS)] | None = None
    """Under `same_gpu`, what was found of each arm's largest micro-batch."""
    combined: Annotated[list[Annotated[Any, checked_as(CombinedPart)]], Field(max_length=MOST_ROWS)] | None = None
    runs: Annotated[list[RunRecord], Field(max_length=MOST_ROWS)]
    matching: Annotated[Any, checked_as(Matching)]

    _is_bounded = model_validator(mode="before")(bounded)

    @property
    def title(self) -> str:
        return self.bench_id

    def dump(self) -> dict[str, Any]:
        return {key: value for key, value in self.model_dump().items() if not (value is None and key in self.OPTIONAL)}


def upgrade(raw: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """A bench.json of any version that is known as one of this version. EvidenceError for an unknown version.

    There is one version so far. What its later writers added has a default, which is what older ones ran with.
    """
    version = raw.get("schema_version")
    if version != SCHEMA_VERSION:
        raise EvidenceError(f"{where}: schema_version {brief(version)}; this program reads {SCHEMA_VERSION}")
    return raw


class _Answer(Record):
    """One question with its answer. How many sampled answers were right is no fault here: what is no count is none."""

    id: QuestionId
    prompt: Completion | None = None
    answer: Completion | None = None
    completion: Completion | None = None
    extracted: Completion | None = None
    correct: Share = None
    truncated: Share = None
    strict: Share = None
    flexible: Share = None
    majority_correct: Share = None


class Evaluation(Record):
    """One policy on one task. label: "base", "step-000030" or "final"."""

    task: Text
    questions: StepNumber
    metrics: Annotated[dict[Text, FiniteOrNull], Field(max_length=MOST_NAMES)]
    samples: Annotated[tuple[Annotated[Any, checked_as(_Answer)], ...], BeforeValidator(as_tuple)] = ()
    label: Text
    step: StepNumber = 0
    spent: Spent = {}

    @model_validator(mode="before")
    @classmethod
    def _null_is_not_recorded(cls, raw: Any) -> Any:
        return without_nulls(raw)

    @classmethod
    def made(cls, measured: Mapping[str, Any]) -> Self:
        """Of what was measured: a metric that is no number is null."""
        metrics = {
            name: value if value is not None and abs(value) <= MOST else None
            for name, value in measured["metrics"].items()
        }
        return cls.model_validate({**measured, "metrics": metrics})


class Line(Record):
    """A line of a journal. nonfinite: the names of its numbers that are null because they were none."""

    nonfinite: Annotated[list[Text], Field(max_length=MOST_COLUMNS)] | None = None

    @classmethod
    def made(cls, line: Mapping[str, Any]) -> Self:
        """Of what was measured: a number that is none, or larger than a report could show, is null and named."""
        lost = [name for name, value in line.items() if isinstance(value, int | float) and not abs(value) <= MOST]
        return cls.model_validate({**line, **dict.fromkeys(lost), "nonfinite": sorted(lost) or None})

    def dump(self) -> dict[str, Any]:
        line = self.model_dump()
        nonfinite = line.pop("nonfinite")
        return line if nonfinite is None else {**line, "nonfinite": nonfinite}


class Sample(Line):
    """A line of samples.jsonl: a completion that was trained on, with its reward."""

    step: StepNumber
    prompt_id: QuestionId | None = None
    sample: Whole | None = None
    prompt: Completion | None = None
    answer: Completion | None = None
    completion: Completion | None = None
    reward: FiniteOrNull = None
    correct: Share = None
    extracted: Completion | None = None
    truncated: Share = None


class Step(Line):
    """A line of steps.jsonl: a step's numbers by name."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, FiniteOrNull]

    step: StepNumber

    @model_validator(mode="after")
    def _has_sound_columns(self) -> Self:
        columns = self.model_extra or {}
        if len(columns) > MOST_COLUMNS:
            raise ValueError(f"more than {MOST_COLUMNS:,} columns")
        for name, value in columns.items():
            if len(name) > LONGEST_NAME or any(unicodedata.category(char) == "Cc" for char in name):
                raise ValueError(f"{brief(name)}: expected a name of at most {LONGEST_NAME} printed characters")
            if value is not None and value < 0 and name.startswith("budget/"):
                raise ValueError(f"{name} = {value:g}: expected a number of at least 0")
        return self


def evidence_of(record: Mapping[str, Any]) -> dict[tuple[str, int], Mapping[str, str]]:
    """The evidence that bench.json holds by seed and kind, by run again."""
    found: dict[tuple[str, int], dict[str, str]] = {}
    for row in (record.get("matching") or {}).get("evidence") or []:
        for kind, by_arm in row.items():
            if isinstance(by_arm, Mapping):
                for arm, digest in by_arm.items():
                    found.setdefault((arm, row["seed"]), {})[kind] = digest
    return dict(found)
