"""What a record is made of, and the tables of bench.json of which the reports read some keys; they are kept whole."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from reports.record.errors import EvidenceError
from reports.record.faults import one_line
from reports.record.names import Text, Whole
from reports.record.values import (
    MOST_ARMS,
    MOST_NAMES,
    MOST_ROWS,
    ArmName,
    Finite,
    Fraction,
    NonNegative,
    Sentence,
    StepNumber,
)

# A refusal shows the value at fault, which may be a table of tables.
MOST_SAID = 500


class Record(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    @classmethod
    def read(cls, raw: Any, where: str) -> Self:
        """The record that a file holds. EvidenceError names `where` and the key of the first fault."""
        try:
            return cls.model_validate(raw)
        except ValidationError as error:
            said = one_line(error, lambda _: ())
            raise EvidenceError(f"{where}: {said if len(said) <= MOST_SAID else said[:MOST_SAID] + '…'}") from None

    @property
    def title(self) -> str:
        """What a fault of the record is said of."""
        return type(self).__name__

    def replaced(self, **changes: Any) -> Self:
        """The record with these fields instead. EvidenceError where they are no part of a record."""
        return self.read({**dict(self), **changes}, self.title)

    def dump(self) -> dict[str, Any]:
        """The record as its file has it."""
        return self.model_dump()


class Rollout(Record):
    engine: Text | None = None


class Critic(Record):
    kind: Text | None = None
    warmup_steps: StepNumber | None = None


class Arm(Record):
    rollout: Rollout | None = None
    critic: Critic | None = None


class Budget(Record):
    currency: Text | None = None
    limit: NonNegative | None = None


ArmPair = Annotated[list[ArmName], Field(min_length=2, max_length=2)]


class SpecSuite(Record):
    target: Fraction | None = None
    contrasts: Annotated[list[ArmPair], Field(max_length=MOST_ROWS)] | None = None


class SpecModel(Record):
    name: Annotated[str, Field(max_length=2000, pattern=r"^\P{Cc}*$")] | None = None


class SpecBudget(Record):
    memory_gib: NonNegative | None = None


class Spec(Record):
    suite: SpecSuite | None = None
    model: SpecModel | None = None
    budget: SpecBudget | None = None


class Setting(Record):
    key: Text | None = None
    values: Annotated[dict[ArmName, Any], Field(max_length=MOST_ARMS)] | None = None
    why: Sentence | None = None


class SeedEvidence(Record):
    seed: Whole
    weights: Annotated[dict[ArmName, Text | None], Field(max_length=MOST_ARMS)] | None = None
    prompts: Annotated[dict[ArmName, Text | None], Field(max_length=MOST_ARMS)] | None = None
    first_rollout: Annotated[dict[ArmName, Text | None], Field(max_length=MOST_ARMS)] | None = None
    equal: bool | None = None


class Matching(Record):
    verdict: Text | None = None
    shared: Annotated[list[Setting], Field(max_length=MOST_ROWS)] | None = None
    declared: Annotated[list[Setting], Field(max_length=MOST_ROWS)] | None = None
    undeclared: Annotated[list[Setting], Field(max_length=MOST_ROWS)] | None = None
    evidence: Annotated[list[SeedEvidence], Field(max_length=MOST_ROWS)] | None = None


class Environment(Record):
    python: Text | None = None
    platform: Text | None = None
    device: Text | None = None
    cpu: Text | None = None
    cpu_identity: Text | None = None
    cores: Whole | None = None
    torch_threads: Whole | None = None
    cuda: Text | None = None
    packages: Annotated[dict[Text, Text], Field(max_length=MOST_NAMES)] | None = None
    git_commit: Text | None = None


class MachineState(Record):
    gemm_s: Finite | None = None


class OutOfMemoryIn(Record):
    phase: Text
    component: Text


class Fit(Record):
    tokens: Whole | None = None
    whole: Whole | None = None
    cap_bytes: NonNegative | None = None


class CombinedPart(Record):
    device: Text | None = None


class Resumption(Record):
    git_commit: Text | None = None
