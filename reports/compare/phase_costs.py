"""What the phases of a step cost, as data: seconds, tokens per second, peak memory, and of what the memory was made.

One number per arm and phase, for bars that stand side by side. What only the critic needs is told apart here, because
what it costs is the question that the benchmark asks.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass

from reports.compare.curves import columns, highest, is_number, steady_median
from reports.compare.tabulate import Tables
from reports.record.names import MEMORY_PARTS, PHASES
from reports.record.reader import Run


@dataclass(frozen=True)
class Bars:
    """One number per arm and phase (or component); None where no run recorded it."""

    phases: tuple[str, ...]
    values: Mapping[str, Mapping[str, float | None]]

    def total(self, arm: str) -> float:
        """The sum over all phases; what was not recorded adds nothing."""
        return sum(value for value in self.values[arm].values() if value is not None)

    def share(self, arm: str, of: Container[str]) -> float | None:
        """The part of the total that `of` makes up, 0 to 1; None where none of it was recorded."""
        found = [v for phase, v in self.values[arm].items() if phase in of and v is not None]
        return sum(found) / self.total(arm) if found and self.total(arm) > 0 else None

    def without(self, left_out: Container[str]) -> Bars:
        """The same bars but those."""
        kept = tuple(phase for phase in self.phases if phase not in left_out)
        return Bars(kept, {arm: {phase: own[phase] for phase in kept} for arm, own in self.values.items()})


def title(phase: str) -> str:
    """A phase's name as people read it; one that is not known here keeps its own."""
    return PHASES.get(phase, phase.replace("_", " "))


def part_title(part: str) -> str:
    """The same for a component of memory."""
    return MEMORY_PARTS.get(part, part.replace("_", " "))


def phase_seconds(tables: Tables) -> Bars:
    """Seconds a step spends in each phase: the median over a run's steps but the first, averaged over seeds."""
    found = _phases(tables, "time/", "_s", skip=("step",))
    return _bars(tables, {phase: f"time/{phase}_s" for phase in found}, steady_median)


def phase_rates(tables: Tables) -> Bars:
    """Tokens per second within each phase that recorded it, reduced like the seconds."""
    found = _phases(tables, "throughput/", "_tokens_per_s")
    return _bars(tables, {phase: f"throughput/{phase}_tokens_per_s" for phase in found}, steady_median)


def phase_flops(tables: Tables, kind: str) -> Bars:
    """FLOPs of a step by phase, "useful" or "executed" (as asked for, or as run), reduced like the seconds."""
    found = _phases(tables, "flops/", f"/{kind}")
    return _bars(tables, {phase: f"flops/{phase}/{kind}" for phase in found}, steady_median)


def memory_peaks(tables: Tables) -> Bars:
    """The highest memory each phase ever held, over all steps and seeds."""
    names = {phase: f"memory/{phase}/peak_bytes" for phase in _phases(tables, "memory/", "/peak_bytes")}
    return _bars(tables, names, highest, max)


def memory_components(tables: Tables) -> dict[str, Bars]:
    """phase → what the peak was made of (weights, critic, gradients, optimizer, …), each at its own highest."""
    found = {}
    for phase in _phases(tables, "memory/", "/peak_bytes"):
        prefix = f"memory/{phase}/"
        names = {c for run in tables.runs for c in columns(run) if c.startswith(prefix) and c.endswith("_bytes")}
        found_parts = {c.removeprefix(prefix).removesuffix("_bytes") for c in names} - {"peak"}
        ordered = [part for part in MEMORY_PARTS if part in found_parts] + sorted(found_parts - set(MEMORY_PARTS))
        parts = {part: f"{prefix}{part}_bytes" for part in ordered}
        if parts:
            found[phase] = _bars(tables, parts, highest, max)
    return found


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _bars(
    tables: Tables,
    names: Mapping[str, str],
    measure: Callable[[Run, str], float | None],
    combine: Callable[[list[float]], float] = _mean,
) -> Bars:
    values: dict[str, dict[str, float | None]] = {}
    for arm in tables.arms:
        values[arm] = {}
        for phase, name in names.items():
            seen = [v for v in (measure(run, name) for run in tables.finished[arm].values()) if is_number(v)]
            values[arm][phase] = combine(seen) if seen else None
    kept = tuple(phase for phase in names if any(values[arm][phase] is not None for arm in tables.arms))
    return Bars(kept, {arm: {phase: values[arm][phase] for phase in kept} for arm in tables.arms})


def _phases(tables: Tables, prefix: str, suffix: str, skip: tuple[str, ...] = ()) -> list[str]:
    """The phases that any run recorded: the known ones in the order they happen, then any other."""
    found = {c for run in tables.runs for c in columns(run) if c.startswith(prefix) and c.endswith(suffix)}
    names = {c.removeprefix(prefix).removesuffix(suffix) for c in found} - set(skip)
    return [phase for phase in PHASES if phase in names] + sorted(names - set(PHASES))
