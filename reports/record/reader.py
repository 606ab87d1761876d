"""Read what a benchmark left: one folder, whether it was written here or fetched from a tracking server.

A file that cannot be read is an error naming the file and the line: a report that skips what it cannot parse shows
only what went well. The files may be anybody's, so they are checked before they are handed on
(`reports.record.models`). Runs that did not finish are records like any other; what to do with them is decided later.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import ConfigDict

from reports.record.errors import EvidenceError
from reports.record.journal import numbered_lines, parse
from reports.record.models import Bench, Evaluation, RunRecord, Sample, Step, upgrade
from reports.record.values import MOST_COLUMNS

# A run whose timed work took this much longer than the quickest of its benchmark was slowed by something.
SLOWED = 0.15
_REQUIRED = ("schema_version", "bench_id", "suite", "arms", "runs", "budget", "matching")


class Run(RunRecord):
    """A run's record with what its folder holds. evaluations: in the order of their steps, "final" last."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    history: pd.DataFrame
    """The steps, a row each; of a step that was made again the later one."""
    evaluations: tuple[Evaluation, ...] = ()
    samples: tuple[Mapping[str, Any], ...] = ()

    def final(self, task: str) -> Evaluation | None:
        return next((e for e in self.evaluations if e.task == task and e.label == "final"), None)


@dataclass(frozen=True)
class Records:
    """A benchmark as it was recorded. `bench` is bench.json; `base` is by task."""

    bench: Mapping[str, Any]
    runs: tuple[Run, ...]
    base: Mapping[str, Evaluation] = field(default_factory=dict)

    @property
    def arms(self) -> tuple[str, ...]:
        return tuple(self.bench["arms"])

    def of(self, arm: str, *, finished: bool = True) -> tuple[Run, ...]:
        """The runs of an arm by seed; with `finished` only those that used up their budget."""
        chosen = (run for run in self.runs if run.arm == arm and (run.finished or not finished))
        return tuple(sorted(chosen, key=lambda run: run.seed))

    @property
    def unfit(self) -> dict[str, Run]:
        """Arms none of whose runs had memory enough, each with the first of them, where some other arm had."""
        found = {}
        for arm in self.arms:
            own = self.of(arm, finished=False)
            if own and all(run.status == "out_of_memory" for run in own):
                found[arm] = own[0]
        return found if any(self.of(arm) for arm in self.arms) else {}

    @property
    def slowed(self) -> dict[tuple[str, int], float]:
        """Runs at whose edges a fixed piece of work took much longer than at its quickest, and by what share."""
        times = {
            (run.arm, run.seed): [
                float(state["gemm_s"]) for state in run.conditions.values() if is_positive(state.get("gemm_s"))
            ]
            for run in self.runs
        }
        quickest = min((time for own in times.values() for time in own), default=math.inf)
        shares = {key: max(own) / quickest - 1 for key, own in times.items() if own}
        return {key: share for key, share in shares.items() if share > SLOWED}

    @property
    def tasks(self) -> tuple[str, ...]:
        """The declared evaluation tasks in their order (the first is the primary one), then any other that was run."""
        declared = list(self.bench.get("eval_tasks") or ())
        found = [e.task for run in self.runs for e in run.evaluations] + list(self.base)
        return tuple(dict.fromkeys(declared + found))


def is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and value > 0


def load(folder: Path) -> Records:
    """Read the folder of a benchmark. EvidenceError names the file and line of whatever is broken."""
    path = folder / "bench.json"
    raw = _object(path)
    for key in _REQUIRED:
        if key not in raw:
            raise EvidenceError(f"{path}: the key {key!r} is missing")
    record = upgrade(raw, str(path))
    bench = Bench.read(record, str(path))
    for arm in bench.arms:
        if any(character in arm for character in "/\\") or arm in (".", ".."):
            raise EvidenceError(f"{path}: {arm!r} cannot be the name of an arm")
    runs = tuple(_run(folder, record) for record in bench.runs)
    seen = set()
    for run in runs:
        if run.arm not in bench.arms:
            raise EvidenceError(f"{path}: a run of {run.arm!r}, which is not one of the arms")
        if (run.arm, run.seed) in seen:
            raise EvidenceError(f"{path}: two runs of {run.arm!r} with seed {run.seed}")
        seen.add((run.arm, run.seed))
    base = {evaluation.task: evaluation for evaluation in _evaluations(folder / "base" / "evals")}
    return Records(record, runs, base)


def _run(folder: Path, record: RunRecord) -> Run:
    own = folder / record.folder
    # A killed run may leave half a line at the end of its journals; a finished one may not.
    torn = not record.finished
    return Run(
        **dict(record), history=_history(own / "steps.jsonl", torn_end_allowed=torn),
        evaluations=tuple(_evaluations(own / "evals")),
        samples=tuple(_samples(own / "samples.jsonl", torn_end_allowed=torn)),
    )  # fmt: skip


def _history(path: Path, *, torn_end_allowed: bool) -> pd.DataFrame:
    lines, columns = [], set[str]()
    for number, line in numbered_lines(path, torn_end_allowed=torn_end_allowed, or_none=True):
        where = f"{path}, line {number}"
        lines.append(Step.read(line, where).dump())
        columns.update(line)
        if len(columns) > MOST_COLUMNS:
            raise EvidenceError(f"{where}: more than {MOST_COLUMNS:,} columns in all")
    history = pd.DataFrame(lines)
    if not history.empty:
        # A resumed run writes the steps after its checkpoint again; the later line is the one that counted.
        history = history.apply(pd.to_numeric, errors="coerce")
        history = history.drop_duplicates("step", keep="last").sort_values("step", ignore_index=True)
    return history


def _samples(path: Path, *, torn_end_allowed: bool) -> Iterator[dict[str, Any]]:
    for number, line in numbered_lines(path, torn_end_allowed=torn_end_allowed, or_none=True):
        Sample.read(line, f"{path}, line {number}")
        yield line


def _evaluations(folder: Path) -> list[Evaluation]:
    try:
        paths = sorted(folder.glob("*.json"))
    except OSError as error:
        raise EvidenceError(f"{folder}: cannot be read ({error.strerror})") from None
    found = [_evaluation(path) for path in paths]
    return sorted(found, key=lambda e: (e.task, e.label == "final", e.step))


def _evaluation(path: Path) -> Evaluation:
    raw = _object(path)
    evaluation = Evaluation.read(raw, str(path))
    ids = [sample["id"] for sample in evaluation.samples]
    if len(set(ids)) != len(ids):
        raise EvidenceError(f"{path}: a question appears twice")
    stated = evaluation.metrics.get("accuracy")
    if stated is not None and not 0 <= stated <= 1:
        raise EvidenceError(f"{path}: an accuracy of {stated} is not between 0 and 1")
    verdicts = [sample.get("correct") for sample in evaluation.samples]
    if stated is not None and len(ids) == evaluation.questions and ids and None not in verdicts:
        counted = sum(map(bool, verdicts)) / len(ids)
        if abs(counted - stated) > 1e-3:
            raise EvidenceError(f"{path}: accuracy is given as {stated:.4f}, but its answers give {counted:.4f}")
    return evaluation


def _object(path: Path) -> dict[str, Any]:
    try:
        value = parse(path.read_bytes())
    except FileNotFoundError:
        raise EvidenceError(f"{path}: there is no such file") from None
    except OSError as error:
        raise EvidenceError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise EvidenceError(f"{path}: {error}") from None
    if not isinstance(value, dict):
        raise EvidenceError(f"{path}: not a JSON object")
    return value
