"""A run's record as its events make it: one reducer, whatever else the events are shown to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.run.events import Conditions, Ended, Event, Hung, Resumed, Stepped
from reports.record.errors import InfrastructureError
from reports.record.models import RunRecord


def after(record: RunRecord, event: Event) -> RunRecord:
    """The record of a run once this event has come."""
    match event:
        case Conditions(when=when, conditions=conditions):
            return record.replaced(conditions={**record.conditions, when: dict(conditions)})
        case Resumed(step=step, spent=spent):
            return record.replaced(resumed=[*record.resumed, step], steps=step, spent=dict(spent))
        case Stepped(record=line):
            return record.replaced(steps=line["step"], spent=spent_in(line))
        case Hung(line=line):
            return record.replaced(hung=[*record.hung, line])
        case Ended(status=status, reason=reason, exit_code=exit_code, where=where, hung=hung):
            outside = exit_code == InfrastructureError.exit_code and not hung
            memory = dict(where) if where else None
            return record.replaced(status=status, reason=reason, out_of_memory_in=memory, try_again=outside)
    return record


def spent_in(line: Mapping[str, Any]) -> dict[str, float]:
    """What the run has spent, by axis, as a line of its journal has it."""
    return {name.removeprefix("budget/"): value for name, value in line.items() if name.startswith("budget/")}
