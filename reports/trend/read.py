"""What a trend needs of one past benchmark: its comparison.json and bench.json, read as anybody's files.

They come from a tracking server, perhaps written by other machines and older versions. Only what is shown is read, with
a bound on every size; a file that does not hold it is refused in one line, which then stands where its figures would.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from reports.record.errors import EvidenceError
from reports.record.faults import one_line
from reports.record.identity import (
    MEMORY,
    MOST_ARMS,
    MOST_NAMES,
    MOST_SEEDS,
    STEP_TIME,
    Device,
    Finite,
    Start,
    device,
    is_accuracy,
    settings,
    stack,
    starts,
)
from reports.record.journal import parse_object
from reports.record.models import Bench, upgrade
from reports.record.names import Text, Whole

FILES = COMPARISON, BENCH = "comparison.json", "bench.json"
MOST_BYTES = 8 * 2**20
MOST_RUNS = MOST_ARMS * MOST_SEEDS
# Resolved settings with those that are newer than the benchmark at their defaults, which is what it ran with. Without
# them, every setting that is added to the program would part all that came before it from what follows.
InFull = Callable[[Mapping[str, Any]], Mapping[str, Any]]
Sentence = Annotated[str, Field(max_length=4000)]
ArmName = Annotated[str, Field(min_length=1, max_length=64)]


class _Read(BaseModel):
    """Other versions may write more than is read here."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)


class Value(_Read):
    """One arm's mean over its seeds, with its 95 % interval where there is one."""

    mean: Finite | None
    low: Finite | None = None
    high: Finite | None = None
    n: Whole = 0


class Judged(_Read):
    """The first arm minus the second, with its 95 % and 90 % intervals, and what the benchmark itself said of it."""

    mean: Finite | None
    low: Finite | None = None
    high: Finite | None = None
    low90: Finite | None = None
    high90: Finite | None = None
    verdict: Text
    reason: Sentence = ""
    beyond_margin: bool | None = None


class Row(_Read):
    """A metric of every arm."""

    name: Text
    arms: Annotated[dict[ArmName, Value], Field(max_length=MOST_ARMS)]
    difference: Judged | None = None

    @model_validator(mode="after")
    def _is_possible(self) -> Row:
        means = [value.mean for value in self.arms.values() if value.mean is not None]
        if is_accuracy(self.name):
            apart = self.difference.mean if self.difference else None
            if not all(0 <= mean <= 1 for mean in means) or (apart is not None and abs(apart) > 1):
                raise ValueError(f"{self.name}: expected an accuracy between 0 and 1")
        if self.name in (STEP_TIME, MEMORY) and not all(mean > 0 for mean in means):
            raise ValueError(f"{self.name}: expected numbers above 0")
        return self


class RunRow(_Read):
    arm: ArmName
    seed: Whole
    status: Text


class Found(_Read):
    """comparison.json, as far as a trend shows it."""

    schema_version: Literal[1]
    bench_id: Text
    profile: Text | None = None
    status: Text | None = None
    margin: Annotated[float, Field(gt=0, lt=1)] | None = None
    difference_of: Annotated[tuple[ArmName, ...], Field(min_length=1, max_length=2)]
    verdict: Text
    problem: Sentence | None = None
    sentence: Sentence = ""
    runs: Annotated[tuple[RunRow, ...], Field(max_length=MOST_RUNS)]
    metrics: Annotated[tuple[Row, ...], Field(max_length=MOST_NAMES)]

    @property
    def primary(self) -> Row | None:
        """The metric that the verdict is about: accuracy on the first task."""
        return next((row for row in self.metrics if is_accuracy(row.name)), None)

    def row(self, name: str) -> Row | None:
        return next((row for row in self.metrics if row.name == name), None)

    @property
    def base(self) -> float | None:
        """Accuracy before training: what was reached less what was gained; the same for every arm."""
        reached = self.primary
        gained = self.row(reached.name.removesuffix("accuracy") + "gain") if reached else None
        if reached and gained:
            for arm, value in reached.arms.items():
                gain = gained.arms.get(arm)
                if value.mean is not None and gain and gain.mean is not None:
                    return value.mean - gain.mean
        return None


@dataclass(frozen=True)
class Ran:
    """What a benchmark ran with and on, from its bench.json.

    settings: by dotted key; one that an older version did not have stands at its default. commit: of a benchmark that
    was resumed with other code, all of them. gemm: seconds that a fixed piece of work took around the runs: the
    quickest, the median, the slowest.
    """

    settings: Mapping[str, Any]
    stack: Mapping[str, str]
    device: Device
    starts: Mapping[int, Start]
    commit: str | None
    gemm: tuple[float, float, float] | None


def read_comparison(content: bytes, bench_id: str) -> Found:
    """Raises EvidenceError, one line, for anything that is not the comparison of that benchmark."""
    found = _validated(Found, content)
    if found.bench_id != bench_id:
        raise EvidenceError("it is of another benchmark")
    return found


def as_recorded(spec: Mapping[str, Any]) -> Mapping[str, Any]:
    return spec


def read_bench(content: bytes, bench_id: str, in_full: InFull = as_recorded) -> Ran:
    """Raises EvidenceError, one line, for anything that is not the record of that benchmark."""
    try:
        raw = parse_object(content)
    except ValueError as error:
        raise EvidenceError(str(error)) from None
    bench = Bench.read(upgrade(raw, BENCH), BENCH)
    if bench.bench_id != bench_id:
        raise EvidenceError("it is of another benchmark")
    record = bench.dump()
    times = [state.get("gemm_s") for run in bench.runs for state in run.conditions.values()]
    known = [time for time in times if time is not None and time > 0]
    commits = [each.get("git_commit") for each in (record["environment"] or {}, *(bench.resumed or []))]
    try:
        return Ran(
            settings=settings({"spec": in_full(bench.spec or {})}), stack=stack(record), device=device(record),
            starts=starts(record), commit=" then ".join(dict.fromkeys(filter(None, commits))) or None,
            gemm=(min(known), median(known), max(known)) if known else None,
        )  # fmt: skip
    except ValidationError as error:
        raise EvidenceError(one_line(error, lambda _: ())) from None


Model = TypeVar("Model", bound=_Read)


def _validated(model: type[Model], content: bytes) -> Model:
    try:
        return model.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        # Its "input" would be the whole file.
        said = first["msg"] if first["type"] == "json_invalid" else one_line(error, lambda _: ())
        raise EvidenceError(said) from None
