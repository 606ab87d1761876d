"""What bench.json says of a benchmark's runs, and how it is read back; and the lock on its folder."""

from __future__ import annotations

import datetime
import fcntl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.spec import BenchSpec
from harness.types import UserError

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
    """The machine "before" and "after" (`harness.conditions`)."""
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


def run_order(bench: BenchSpec) -> list[tuple[str, int]]:
    """Arms of a seed next to each other, in alternating order, so that no arm always goes first."""
    arms = list(bench.arms)
    return [(arm, seed) for place, seed in enumerate(bench.seeds) for arm in (arms if place % 2 == 0 else arms[::-1])]


def evidence_of(record: Mapping[str, Any]) -> dict[tuple[str, int], Mapping[str, str]]:
    """The evidence that bench.json holds by seed and kind, by run again."""
    found: dict[tuple[str, int], dict[str, str]] = {}
    for row in (record.get("matching") or {}).get("evidence") or []:
        for kind, by_arm in row.items():
            if isinstance(by_arm, Mapping):
                for arm, digest in by_arm.items():
                    found.setdefault((arm, row["seed"]), {})[kind] = digest
    return dict(found)


@contextmanager
def locked(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """The folder for this process alone; where another has it, UserError, or waiting until it ends.

    The lock ends with the process, however that ends.
    """
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise UserError(f"{folder}: another process is running this benchmark") from None
        yield


def stamp() -> str:
    return f"{datetime.datetime.now(datetime.UTC):%Y-%m-%dT%H:%M:%SZ}"
