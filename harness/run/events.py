"""What a child process says of its work, one class an event; they are sent as they are to the process that asked.

A run's events are, in order: Conditions before, Resumed where it goes on from a checkpoint, Evidence with the first
step, a Stepped for every step, Evaluating and then an Evaluated for every task whenever it is evaluated, Conditions
after, Ended. Alive and Warned come at any time. Hung is the launcher's word, and begins the events anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from reports.record.names import Status


@dataclass(frozen=True, slots=True)
class Alive:
    """The work has moved since the last sign of life."""


@dataclass(frozen=True, slots=True)
class Environment:
    """The machine and its libraries (`harness.measure.environment`), and the number of the policy's parameters."""

    environment: Mapping[str, Any]
    parameters: int


@dataclass(frozen=True, slots=True)
class Conditions:
    """The machine's condition (`harness.measure.machine_state`) before or after the training."""

    when: Literal["before", "after"]
    conditions: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Evidence:
    """Hashes of what the run began with, by kind (`reports.record.names.EVIDENCE`)."""

    hashes: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Resumed:
    """The run goes on after `step`; its journals and evaluations hold what came until then.

    spent: by axis, after that step. hashes: as in Evidence.
    """

    step: int
    spent: Mapping[str, float]
    hashes: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Stepped:
    """A line of the run's journal, and the share of the budget that is spent with it."""

    record: Mapping[str, Any]
    fraction: float


@dataclass(frozen=True, slots=True)
class Evaluating:
    """An evaluation begins. label: "base", "step-000030" or "final"."""

    label: str


@dataclass(frozen=True, slots=True)
class Evaluated:
    """The figures of a policy on one task."""

    label: str
    task: str
    step: int
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Peak:
    """The most memory that the tried steps took."""

    bytes: int


@dataclass(frozen=True, slots=True)
class Warned:
    """One line for people; the work goes on."""

    line: str


@dataclass(frozen=True, slots=True)
class Hung:
    """Why the child was taken for hung. Another one does its work from here on, and may repeat what was sent."""

    line: str


@dataclass(frozen=True, slots=True)
class Ended:
    """How the work ended; the last event.

    where: the phase and the component for which memory ran out, if it did. hung: the child that took a hung one's place
    hung too.
    """

    status: Status
    reason: str | None
    exit_code: int
    where: Mapping[str, str] | None = None
    hung: bool = False


Event = (
    Alive | Environment | Conditions | Evidence | Resumed | Stepped
    | Evaluating | Evaluated | Peak | Warned | Hung | Ended
)  # fmt: skip
Emit = Callable[[Event], None]
