"""What the reports read of a benchmark's files, with a type and a bound on each: they may be anybody's.

The models only check; `reports.record.reader` hands on what was read as it stands. Other versions may write more, which
is left alone as long as it is no deeper and no larger than what a report could show.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, model_validator

from reports.record.names import BENCH_ID, Text, Whole

# float32 ends below it, and its fourth power, which the square of a variance comes to, is still a float.
MOST = 1e40
MOST_STEPS = 10**9
MOST_ARMS, MOST_NAMES, MOST_ROWS, MOST_COLUMNS = 16, 512, 4096, 4096
MOST_DEPTH, MOST_VALUES = 16, 200_000
LONG, LONGEST = 20_000, 2_000_000


def _written(most: int) -> AfterValidator:
    """A string that is escaped wherever it is shown. What a model wrote may hold lone surrogates, so `str` won't do."""

    def check(value: Any) -> Any:
        if not isinstance(value, str) or len(value) > most:
            raise ValueError(f"expected a string of at most {most:,} characters")
        return value

    return AfterValidator(check)


def _nan_as_null(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


def _share(value: Any) -> Any:
    if value is not None and not (isinstance(value, bool | int | float) and 0 <= value <= 1):
        raise ValueError("expected true, false, or a number from 0 to 1")
    return value


def _id(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | str) or (isinstance(value, str) and len(value) > LONG):
        raise ValueError("expected a string or a whole number")
    return value


def _bounded(bench: Any) -> Any:
    """Settings and the like are shown whatever they are, by code that goes into every table."""
    level = [("", bench)]
    for depth in range(MOST_DEPTH + 1):
        below = []
        for place, value in level:
            if isinstance(value, dict | list):
                if depth == MOST_DEPTH:
                    raise ValueError(f"{place}: nested too deep")
                items = value.items() if isinstance(value, dict) else enumerate(value)
                below += [(f"{place}.{str(key)[:80]}" if place else str(key)[:80], item) for key, item in items]
            elif isinstance(value, str) and len(value) > LONG:
                raise ValueError(f"{place}: expected at most {LONG:,} characters")
            elif isinstance(value, int | float) and abs(value) > MOST:
                raise ValueError(f"{place}: expected a number of at most {MOST:g}")
        if len(below) > MOST_VALUES:
            raise ValueError(f"{below[-1][0]}: more than {MOST_VALUES:,} values")
        level = below
    return bench


Finite = Annotated[float, Field(ge=-MOST, le=MOST, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, le=MOST, allow_inf_nan=False)]
Step = Annotated[int, Field(ge=0, le=MOST_STEPS)]
ArmName = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^\P{Cc}*$")]
BenchId = Annotated[str, Field(pattern=f"^{BENCH_ID}$")]
Sentence = Annotated[Any, _written(LONG)]
Completion = Annotated[Any, _written(LONGEST)]
Share = Annotated[Any, AfterValidator(_share)]
# NaN is a value that is missing, as null is.
Amount = Annotated[NonNegative | None, BeforeValidator(_nan_as_null)]
Spent = Annotated[dict[Text, Amount], Field(max_length=MOST_NAMES)]


class _Read(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)


class _Rollout(_Read):
    engine: Text | None = None


class _Critic(_Read):
    kind: Text | None = None
    warmup_steps: Step | None = None


class _Arm(_Read):
    rollout: _Rollout | None = None
    critic: _Critic | None = None


class _Budget(_Read):
    currency: Text | None = None
    limit: NonNegative | None = None


_Pair = Annotated[list[ArmName], Field(min_length=2, max_length=2)]


class _SpecSuite(_Read):
    target: Annotated[float, Field(ge=0, le=1)] | None = None
    contrasts: Annotated[list[_Pair], Field(max_length=MOST_ROWS)] | None = None


class _SpecModel(_Read):
    name: Annotated[str, Field(max_length=2000, pattern=r"^\P{Cc}*$")] | None = None


class _SpecBudget(_Read):
    memory_gib: NonNegative | None = None


class _Spec(_Read):
    suite: _SpecSuite | None = None
    model: _SpecModel | None = None
    budget: _SpecBudget | None = None


class _Setting(_Read):
    key: Text | None = None
    values: Annotated[dict[ArmName, Any], Field(max_length=MOST_ARMS)] | None = None
    why: Sentence | None = None


class _Evidence(_Read):
    seed: Whole
    weights: Annotated[dict[ArmName, Text | None], Field(max_length=MOST_ARMS)] | None = None
    prompts: Annotated[dict[ArmName, Text | None], Field(max_length=MOST_ARMS)] | None = None
    first_rollout: Annotated[dict[ArmName, Text | None], Field(max_length=MOST_ARMS)] | None = None
    equal: bool | None = None


class _Matching(_Read):
    verdict: Text | None = None
    shared: Annotated[list[_Setting], Field(max_length=MOST_ROWS)] | None = None
    declared: Annotated[list[_Setting], Field(max_length=MOST_ROWS)] | None = None
    undeclared: Annotated[list[_Setting], Field(max_length=MOST_ROWS)] | None = None
    evidence: Annotated[list[_Evidence], Field(max_length=MOST_ROWS)] | None = None


class _Environment(_Read):
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


class _Edge(_Read):
    gemm_s: Finite | None = None


class _Where(_Read):
    phase: Text
    component: Text


class _Run(_Read):
    arm: ArmName
    seed: Whole
    status: Text
    reason: Sentence | None = None
    order: Whole | None = None
    mlflow_run_id: Text | None = None
    steps: Step | None = None
    spent: Spent | None = None
    seconds: Finite | None = None
    out_of_memory_in: _Where | None = None
    conditions: Annotated[dict[Text, _Edge], Field(max_length=MOST_NAMES)] | None = None
    resumed: Annotated[list[Step], Field(max_length=MOST_ROWS)] | None = None
    hung: Annotated[list[Sentence], Field(max_length=MOST_ROWS)] | None = None
    try_again: bool | None = None


class _Fit(_Read):
    tokens: Whole | None = None
    whole: Whole | None = None
    cap_bytes: NonNegative | None = None


class _Part(_Read):
    device: Text | None = None


class _Resumed(_Read):
    git_commit: Text | None = None


class Bench(_Read):
    """bench.json. What has no default is written by every version, and the page asks for it."""

    schema_version: Literal[1]
    bench_id: BenchId
    suite: Text
    regime: Text | None
    profile: Text | None
    command: Sentence | None
    created: Text | None
    finished: Text | None
    status: Text | None
    margin: Annotated[float, Field(ge=0, le=1)] | None = None
    budget: _Budget
    spec: _Spec | None = None
    arms: Annotated[dict[ArmName, _Arm], Field(min_length=1, max_length=MOST_ARMS)]
    eval_tasks: Annotated[list[Text], Field(max_length=MOST_NAMES)] | None = None
    matching: _Matching
    environment: _Environment | None = None
    runs: Annotated[list[_Run], Field(max_length=MOST_ROWS)]
    fit: Annotated[dict[ArmName, _Fit], Field(max_length=MOST_ARMS)] | None = None
    combined: Annotated[list[_Part], Field(max_length=MOST_ROWS)] | None = None
    resumed: Annotated[list[_Resumed], Field(max_length=MOST_ROWS)] | None = None

    _is_bounded = model_validator(mode="before")(_bounded)


class _Sample(_Read):
    """One question with its answer. How many sampled answers were right is no fault here: what is no count is none."""

    id: Annotated[Any, AfterValidator(_id)]
    prompt: Completion | None = None
    answer: Completion | None = None
    completion: Completion | None = None
    extracted: Completion | None = None
    correct: Share = None
    truncated: Share = None
    strict: Share = None
    flexible: Share = None
    majority_correct: Share = None


class Evaluated(_Read):
    """A file of evals/."""

    task: Text
    label: Text
    step: Step | None = None
    spent: Spent | None = None
    questions: Step
    metrics: Annotated[dict[Text, Finite | None], Field(max_length=MOST_NAMES)]
    samples: list[_Sample] | None = None


class Sampled(_Read):
    """A line of samples.jsonl."""

    step: Step
    prompt: Completion | None = None
    answer: Completion | None = None
    completion: Completion | None = None
    extracted: Completion | None = None
    reward: Finite | None = None
    correct: Share = None
    truncated: Share = None


class Stepped(_Read):
    """A line of steps.jsonl, beside its numbers. nonfinite: the names of those that were no number and are null."""

    step: Step
    nonfinite: Annotated[list[Text], Field(max_length=MOST_COLUMNS)] | None = None


def _spends_nothing_below_zero(numbers: dict[str, float | None]) -> dict[str, float | None]:
    for name, value in numbers.items():
        if value is not None and value < 0 and name.startswith("budget/"):
            raise ValueError(f"{name} = {value:g}: expected a number of at least 0")
    return numbers


Numbers: TypeAdapter[dict[str, float | None]] = TypeAdapter(
    Annotated[
        dict[Text, Finite | None], Field(max_length=MOST_COLUMNS), AfterValidator(_spends_nothing_below_zero)
    ],
    config=ConfigDict(strict=True),
)  # fmt: skip
"""The numbers of a step by name."""


# How a run can end so that running it again would end the same.
CONCLUDED = ("finished", "out_of_memory", "diverged")


@dataclass
class RunRow:
    """A run as bench.json lists it."""

    arm: str
    seed: int
    order: int
    status: str = "not started"
    reason: str | None = None
    mlflow_run_id: str | None = None
    steps: int = 0
    spent: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    out_of_memory_in: dict[str, str] | None = None
    """Phase and component, where that is what ended it."""
    conditions: dict[str, Any] = field(default_factory=dict)
    """The machine "before" and "after" (`harness.measure.machine_state`)."""
    resumed: list[int] = field(default_factory=list)
    """The steps after which it went on from a checkpoint."""
    hung: list[str] = field(default_factory=list)
    """Where it hung, each time that it was started again for that."""
    try_again: bool = False
    """Something outside the benchmark made it fail, as a full disk does."""

    @property
    def folder(self) -> str:
        return f"{self.arm}-seed{self.seed}"

    @classmethod
    def again(cls, row: RunRow) -> RunRow:
        """A run that did not come to its end, about to go on."""
        return cls(row.arm, row.seed, row.order, seconds=row.seconds, resumed=row.resumed, hung=row.hung)


def evidence_of(record: Mapping[str, Any]) -> dict[tuple[str, int], Mapping[str, str]]:
    """The evidence that bench.json holds by seed and kind, by run again."""
    found: dict[tuple[str, int], dict[str, str]] = {}
    for row in (record.get("matching") or {}).get("evidence") or []:
        for kind, by_arm in row.items():
            if isinstance(by_arm, Mapping):
                for arm, digest in by_arm.items():
                    found.setdefault((arm, row["seed"]), {})[kind] = digest
    return dict(found)
