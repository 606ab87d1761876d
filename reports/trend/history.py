"""The past benchmarks of a suite in the order in which they were begun, as data: what each found, which of them may be
held against each other, and what changed from one to the next.

Only like is joined with like. Benchmarks form a group where their settings, arms, seeds, initial weights and prompts
are the same; accuracy is followed within a group, time and memory within a group on one device. What is not sound
evidence (no comparison, runs that failed, "invalid") keeps its place and its reason, and is part of no line.

Nothing is tested over the history. Among many benchmarks some differ by chance, and whoever looks for the odd one out
finds it; `paribus regress` is the gate.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from reports import text
from reports.record.errors import EvidenceError
from reports.record.faults import brief
from reports.record.identity import MEMORY, STEP_TIME, sha256_of
from reports.trend.past import Past
from reports.trend.read import (
    BENCH,
    COMPARISON,
    Found,
    InFull,
    Judged,
    Ran,
    Value,
    as_recorded,
    read_bench,
    read_comparison,
)

UNKNOWN = "unknown"
MOST_NAMED, MOST_CHARS = 6, 80
MOST_SHOWN = 8
# Of the year 9999: a server may send any number.
LAST_SECOND = 253_402_300_799
# Kinds of change, in the order in which they are shown.
SETTINGS, DEVICE, VERSIONS, CODE = "settings", "device", "versions", "code"
KINDS = (SETTINGS, DEVICE, VERSIONS, CODE)
# MLflow's word for a benchmark that left no comparison, as a reader understands it.
STATES = {"RUNNING": "running, or killed unheard", "FAILED": "failed", "KILLED": "interrupted"}


@dataclass(frozen=True)
class Entry:
    """One benchmark.

    number: its place, 1 for the oldest. found: None where there is no comparison to read. why: why its figures are not
    counted, or None. group: a letter for those that may be joined, or None. changes: what is different from the last
    benchmark before it that is known, in words, by kind.
    """

    number: int
    bench_id: str
    began: str
    status: str
    why: str | None
    found: Found | None
    ran: Ran | None
    group: str | None
    changes: Mapping[str, tuple[str, ...]]

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(sorted({run.seed for run in self.found.runs})) if self.found else ()

    @property
    def device(self) -> str:
        return self.ran.device.name if self.ran else UNKNOWN

    @property
    def difference(self) -> Judged | None:
        """Of the primary metric; None where it is not counted."""
        return self.found.primary.difference if self.group and self.found and self.found.primary else None

    def accuracy(self, arm: str) -> Value | None:
        return self._value(arm, self.found.primary if self.found else None)

    def step_time(self, arm: str) -> Value | None:
        return self._value(arm, self.found.row(STEP_TIME) if self.found else None)

    def memory(self, arm: str) -> Value | None:
        return self._value(arm, self.found.row(MEMORY) if self.found else None)

    def _value(self, arm: str, row: Any) -> Value | None:
        value = row.arms.get(arm) if row and self.group else None
        return value if value and value.mean is not None else None


@dataclass(frozen=True)
class History:
    """The benchmarks of a suite.

    suite: its name, as the page is titled. entries: oldest first. arms: of all that are counted, in the order of the
    newest, at most MOST_SHOWN. pair: what the newest difference is of; a benchmark of other arms has none here.
    """

    suite: str
    entries: tuple[Entry, ...]
    arms: tuple[str, ...]
    pair: tuple[str, str] | None

    @property
    def counted(self) -> tuple[Entry, ...]:
        return tuple(entry for entry in self.entries if entry.group)

    def difference(self, entry: Entry) -> Judged | None:
        """The entry's difference, where it is of the arms that are shown and has a value."""
        judged = entry.difference
        shown = entry.found and _pair(entry.found) == self.pair
        return judged if judged and judged.mean is not None and shown else None

    def lines(self, *, on_one_device: bool = False) -> list[list[Entry]]:
        """The counted entries that may be joined by a line, each oldest first."""
        joined: dict[Any, list[Entry]] = {}
        for entry in self.counted:
            device = sha256_of(vars(entry.ran.device)) if on_one_device and entry.ran else None
            joined.setdefault((entry.group, device), []).append(entry)
        return list(joined.values())


def history(suite: str, past: Iterable[Past], in_full: InFull = as_recorded) -> History:
    """Read and order what MLflow has. A benchmark that cannot be read is an entry that says so.

    in_full: completes the settings of older benchmarks (`reports.trend.read.InFull`).
    """
    entries: list[Entry] = []
    letters: dict[str, str] = {}
    before: Entry | None = None
    read = sorted((_entry(each, in_full) for each in past), key=lambda entry: (entry.began, entry.bench_id))
    for number, entry in enumerate(read, start=1):
        key = _likeness(entry)
        group = letters.setdefault(key, _letter(len(letters))) if key else None
        entry = replace(entry, number=number, group=group, changes=_changes(before, entry) if before else {})
        before = entry if entry.ran else before
        entries.append(entry)
    counted = [entry.found for entry in entries[::-1] if entry.group and entry.found]
    pair = next((_pair(found) for found in counted if found.primary and found.primary.difference), None)
    arms = dict.fromkeys((*(pair or ()), *(arm for found in counted for arm in _arms(found))))
    return History(suite, tuple(entries), tuple(arms)[:MOST_SHOWN], pair)


def _entry(past: Past, in_full: InFull) -> Entry:
    """The entry without its place in the history."""
    found, no_comparison = _parsed(read_comparison, past, COMPARISON)
    ran, _ = _parsed(partial(read_bench, in_full=in_full), past, BENCH)
    if found is None and COMPARISON not in past.files and past.state in STATES:
        status = STATES[past.state]
    else:
        status = (found.status or UNKNOWN) if found else "cannot be read"
    why = _unsound(found) if found else f"{COMPARISON}: {no_comparison}"
    seconds = min(max(0, past.began // 1000), LAST_SECOND)
    began = datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return Entry(0, past.bench_id, began, status, why, found, ran, None, {})


def _parsed(read: Callable[[bytes, str], Any], past: Past, name: str) -> tuple[Any, str]:
    if name not in past.files:
        return None, past.faults.get(name, "not there")
    try:
        return read(past.files[name], past.bench_id), ""
    except EvidenceError as error:
        return None, str(error)


def _unsound(found: Found) -> str | None:
    """Why a benchmark's figures are no evidence, as its own comparison says."""
    if found.verdict == "invalid" or found.problem:
        return found.problem or "its own verdict is invalid"
    if found.status in ("running", "interrupted"):
        return f"the benchmark was {found.status} when this was recorded"
    return None if found.primary else "no evaluation was recorded"


def _likeness(entry: Entry) -> str | None:
    """What is equal between benchmarks that may be joined; None where the figures are not counted."""
    if entry.found is None or entry.why:
        return None
    if entry.ran is None:
        return f"alone {entry.began} {entry.bench_id}"
    starts = {f"start {seed} {k}": digest for seed, start in entry.ran.starts.items() for k, digest in start}
    return sha256_of({**entry.ran.settings, **starts, "seeds": entry.seeds, "arms": _arms(entry.found)})


def _arms(found: Found) -> tuple[str, ...]:
    """The arms, those of the difference first, in its order."""
    return tuple(dict.fromkeys((*found.difference_of, *(run.arm for run in found.runs))))


def _pair(found: Found) -> tuple[str, str] | None:
    return (found.difference_of[0], found.difference_of[1]) if len(found.difference_of) == 2 else None


def _letter(index: int) -> str:
    """A, B, …, Z, AA, AB, …"""
    return (_letter(index // 26 - 1) if index >= 26 else "") + chr(ord("A") + index % 26)


def _changes(before: Entry, entry: Entry) -> dict[str, tuple[str, ...]]:
    """What is different from the last benchmark before it, in words, by kind."""
    if entry.ran is None or before.ran is None:
        return {}
    old, new = before.ran, entry.ran
    found = {
        SETTINGS: [*_differing(old.settings, new.settings), *_other_start(before, entry)],
        DEVICE: _differing(vars(old.device), vars(new.device), "not recorded"),
        VERSIONS: _differing(old.stack, new.stack, "none"),
        CODE: _other_code(old.commit, new.commit),
    }
    return {kind: tuple(phrases) for kind, phrases in ((k, list(v)) for k, v in found.items()) if phrases}


def _other_start(before: Entry, entry: Entry) -> Iterator[str]:
    """Seeds, and what each began from."""
    if before.found and entry.found and before.seeds != entry.seeds:
        yield f"seeds {listed(before.seeds)} → {listed(entry.seeds)}"
    if before.ran and entry.ran:
        old, new = before.ran.starts, entry.ran.starts
        for kind, what in (("weights", "initial weights"), ("prompts", "prompts, or their order")):
            other = [seed for seed in old if seed in new and getattr(old[seed], kind) != getattr(new[seed], kind)]
            if other:
                yield f"other {what} (seed {listed(other)})"


def _other_code(old: str | None, new: str | None) -> Iterator[str]:
    if old != new:
        yield f"{old or UNKNOWN} → {new or UNKNOWN}"
    elif new is None:
        yield "unknown, so it may have changed"
    elif "+" in new:
        yield f"{new}: files differed from the commit, so it may have changed"


def _differing(old: Mapping[str, Any], new: Mapping[str, Any], nothing: str = "not set") -> Iterator[str]:
    """A phrase for each name whose values differ, or that only one side has."""

    def shown(value: Any) -> str:
        return nothing if value is None else brief(list(value) if isinstance(value, tuple) else value)

    for name in dict.fromkeys((*old, *new)):
        if old.get(name) != new.get(name):
            yield f"{name[:MOST_CHARS]} {shown(old.get(name))} → {shown(new.get(name))}"


def listed(numbers: Sequence[int]) -> str:
    shown = [str(number) for number in numbers[:MOST_NAMED]]
    return text.listed([*shown, "more"] if len(numbers) > MOST_NAMED else shown) or "none"
