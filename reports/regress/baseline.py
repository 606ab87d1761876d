"""A baseline: what a benchmark measured once, small enough for a repository, for later ones to be held against.

`paribus baseline` writes one, `paribus regress` reads it (`reports.regress.judge`). It holds the value of every seed,
not only means: with a handful of seeds the gates need them all. Its key says what it may be held against: the suite,
the settings, the weights and prompts that each seed started from, the library versions, and the device.

A baseline is read as anybody's file: bounded in size, strict in its types, and refused in one line where its numbers
contradict each other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from reports.record.errors import UserError
from reports.record.faults import one_line
from reports.record.identity import (
    MEMORY,
    MOST_ARMS,
    MOST_NAMES,
    MOST_SEEDS,
    REWARD,
    STEP_TIME,
    Device,
    Digest,
    Finite,
    Setting,
    ShortDigest,
    Start,
    sha256_of,
)
from reports.record.journal import write_json
from reports.record.names import Count, Name, NonNegative, Positive, Table, Text, Whole

MOST_BYTES = 4 * 2**20
# Steps whose digests and main values are kept, to name where a curve leaves the baseline's.
MOST_STEPS = 500
# Values named where a curve differs; the digest covers every other determined column as well.
SHOWN = (REWARD, "policy/loss", "policy/grad_norm", "critic/loss")

Share = Annotated[float, Field(ge=0, le=1)]
Seed = Whole


class Measure(Table):
    """One number of each seed's run."""

    unit: Text
    n: Count
    mean: Finite
    sd: NonNegative | None
    """None with one seed."""
    per_seed: Annotated[dict[Seed, Finite], Field(min_length=1, max_length=MOST_SEEDS)]

    @classmethod
    def of(cls, unit: str, per_seed: Mapping[int, float]) -> Measure:
        values = list(per_seed.values())
        sd = stdev(values) if len(values) > 1 else None
        return cls(unit=unit, n=len(values), mean=fmean(values), sd=sd, per_seed=dict(per_seed))

    @model_validator(mode="after")
    def _adds_up(self) -> Measure:
        values = list(self.per_seed.values())
        sd = stdev(values) if len(values) > 1 else None
        stated, found = (self.n, self.mean, self.sd or 0.0), (len(values), fmean(values), sd or 0.0)
        if (self.sd is None) != (sd is None) or not all(
            math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-12) for a, b in zip(stated, found, strict=True)
        ):
            raise ValueError("n, mean and sd do not follow from the values per seed")
        return self


class Target(Table):
    """When each seed's reward, as a trailing mean over `window` steps, first reached `level`; None: never."""

    level: Finite
    window: Count
    steps: Annotated[dict[Seed, Count | None], Field(min_length=1, max_length=MOST_SEEDS)]


class Curve(Table):
    """A run's determined columns: a digest of all steps, and of each step with its main values, up to MOST_STEPS."""

    sha256: Digest
    steps: Count
    digests: Annotated[tuple[ShortDigest, ...], Field(max_length=MOST_STEPS)]
    values: Annotated[
        dict[Text, Annotated[tuple[Finite | None, ...], Field(max_length=MOST_STEPS)]], Field(max_length=len(SHOWN))
    ]

    @model_validator(mode="after")
    def _as_long_as_it_says(self) -> Curve:
        kept = min(self.steps, MOST_STEPS)
        if not self.values.keys() <= set(SHOWN):
            raise ValueError(f"values: accepted: {', '.join(SHOWN)}")
        if any(len(column) != kept for column in (self.digests, *self.values.values())):
            raise ValueError(f"steps = {self.steps}: expected {kept} digests, and as many of each value")
        return self


class Arm(Table):
    metrics: Annotated[dict[Text, Measure], Field(min_length=1, max_length=MOST_NAMES)]
    target: Target | None
    columns: Annotated[tuple[Text, ...], Field(max_length=MOST_NAMES)]
    """The determined columns, which the digests cover."""
    curves: Annotated[dict[Seed, Curve], Field(max_length=MOST_SEEDS)]
    """Empty where runs do not repeat to the bit."""
    disturbed: Annotated[tuple[Seed, ...], Field(max_length=MOST_SEEDS)] = ()
    """Seeds whose run something else on the machine slowed: their times are no measure."""
    peaks: Annotated[tuple[Text, ...], Field(max_length=MOST_NAMES)] = ()
    """The columns that the peak of memory is the highest of, a phase each."""

    @model_validator(mode="after")
    def _costs_something(self) -> Arm:
        for name in (STEP_TIME, MEMORY):
            if name in self.metrics and min(self.metrics[name].per_seed.values()) <= 0:
                raise ValueError(f"{name}: expected numbers above 0")
        if self.curves and not self.columns:
            raise ValueError("columns: curves cover some")
        return self


class Key(Table):
    suite: Name
    config_sha256: Digest
    stack: Annotated[dict[Text, Text], Field(max_length=MOST_NAMES)]
    device: Device


class Provenance(Table):
    """Where the numbers come from; nothing is judged by it."""

    bench_id: Text
    created: Text
    profile: Text | None
    git_commit: Text | None


class Baseline(Table):
    schema_version: Literal[1]
    key: Key
    config: Annotated[dict[Text, Setting], Field(max_length=MOST_NAMES)]
    """The settings by dotted key, so that a mismatch can be named."""
    margin: Positive
    """A loss of quality smaller than this does not matter; declared by the suite."""
    gemm_s: Positive | None
    """Median time of a fixed piece of work around the runs; tells a slow machine from slow code."""
    starts: Annotated[dict[Seed, Start], Field(min_length=1, max_length=MOST_SEEDS)]
    untrained: Annotated[dict[Text, Share], Field(max_length=MOST_NAMES)]
    """Accuracy by task before training: the same weights on the same questions, so what moves it is the grading."""
    arms: Annotated[dict[Name, Arm], Field(min_length=1, max_length=MOST_ARMS)]
    provenance: Provenance

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Baseline:
        if self.key.config_sha256 != sha256_of(self.config):
            raise ValueError("key.config_sha256 is not the hash of config")
        for name, arm in self.arms.items():
            seeds = [set(measure.per_seed) for measure in arm.metrics.values()]
            seeds += [set(table) for table in (arm.target.steps if arm.target else {}, arm.curves) if table]
            if any(each != set(self.starts) for each in seeds):
                raise ValueError(f"arms.{name}: not every table has the seeds {', '.join(map(str, self.starts))}")
        return self

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(self.starts)


def write(path: Path, baseline: Baseline) -> None:
    """Whole or not at all."""
    write_json(path, baseline.model_dump(mode="json"))


def read(path: Path) -> Baseline:
    """Raises UserError, one line, for anything that is not a baseline of this version."""
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    if len(data) > MOST_BYTES:
        raise UserError(f"{path}: larger than {MOST_BYTES // 2**20} MiB, so not a baseline")
    try:
        return Baseline.model_validate_json(data)
    except ValidationError as error:
        raise UserError(f"{path}: not a baseline: {one_line(error, keys_at)}") from None


def keys_at(location: Sequence[int | str]) -> list[str]:
    """The keys of the table that a fault lies in, as far as it has fixed ones."""
    tables: dict[str, type[Table]] = {
        "key": Key, "device": Device, "starts": Start, "arms": Arm, "metrics": Measure, "target": Target,
        "curves": Curve, "provenance": Provenance,
    }  # fmt: skip
    inside = [tables[str(part)] for part in location if str(part) in tables]
    return list((inside or [Baseline])[-1].model_fields)
