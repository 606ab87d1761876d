"""Read what a benchmark left: one folder, whether it was written here or fetched from a tracking server.

    bench.json                         the resolved benchmark, its audit, its runs
    base/evals/base-<task>.json        the policy before training
    <arm>-seed<k>/steps.jsonl          one flat object a step
    <arm>-seed<k>/evals/*.json         downstream accuracy, with every answer
    <arm>-seed<k>/samples.jsonl        a few training completions

A file that cannot be read is an error naming the file and the line: a report that skips what it cannot parse shows
only what went well. Runs that did not finish are records like any other; what to do with them is decided later.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from harness.types import EvidenceError

SCHEMA_VERSION = 1
# A run whose timed work took this much longer than the quickest of its benchmark was slowed by something.
SLOWED = 0.15
_REQUIRED = ("schema_version", "bench_id", "suite", "arms", "runs", "budget", "matching")


@dataclass(frozen=True)
class Evaluation:
    """One policy on one task. label: "base", "step-000030" or "final"."""

    task: str
    label: str
    step: int
    spent: Mapping[str, float | None]
    questions: int
    metrics: Mapping[str, float | None]
    samples: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class Run:
    """One arm with one seed. evaluations: in the order of their steps, "final" last."""

    arm: str
    seed: int
    status: str
    reason: str | None
    order: int
    mlflow_run_id: str | None
    steps: int
    spent: Mapping[str, float | None]
    seconds: float | None
    history: pd.DataFrame
    evaluations: tuple[Evaluation, ...] = ()
    samples: tuple[Mapping[str, Any], ...] = ()
    out_of_memory_in: Mapping[str, str] | None = None
    conditions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    resumed: tuple[int, ...] = ()
    """The steps after which it went on from a checkpoint."""
    hung: tuple[str, ...] = ()
    """Where it hung, each time that it was started again for that."""

    @property
    def finished(self) -> bool:
        return self.status == "finished"

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
    def compared(self) -> tuple[str, ...]:
        """The arms whose difference is judged, the first minus the second; one that did not fit has none."""
        return () if self.unfit else self.arms[:2]

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
    bench = _object(path)
    for key in _REQUIRED:
        if key not in bench:
            raise EvidenceError(f"{path}: the key {key!r} is missing")
    if bench["schema_version"] != SCHEMA_VERSION:
        raise EvidenceError(f"{path}: schema_version {bench['schema_version']!r}; this program reads {SCHEMA_VERSION}")
    for arm in bench["arms"]:
        if not arm or any(character in arm for character in "/\\\0") or arm in (".", ".."):
            raise EvidenceError(f"{path}: {arm!r} cannot be the name of an arm")
    runs = tuple(_run(folder, row, path) for row in bench["runs"])
    seen = set()
    for run in runs:
        if run.arm not in bench["arms"]:
            raise EvidenceError(f"{path}: a run of {run.arm!r}, which is not one of the arms")
        if (run.arm, run.seed) in seen:
            raise EvidenceError(f"{path}: two runs of {run.arm!r} with seed {run.seed}")
        seen.add((run.arm, run.seed))
    base = {evaluation.task: evaluation for evaluation in _evaluations(folder / "base" / "evals")}
    return Records(bench, runs, base)


def _run(folder: Path, row: Mapping[str, Any], path: Path) -> Run:
    try:
        arm, seed, status = str(row["arm"]), int(row["seed"]), str(row["status"])
    except (KeyError, TypeError, ValueError) as error:
        raise EvidenceError(f"{path}: a run without a usable arm, seed or status ({error!r})") from None
    own = folder / f"{arm}-seed{seed}"
    # A killed run may leave half a line at the end of its journals; a finished one may not.
    lines = list(_lines(own / "steps.jsonl", torn_end_allowed=status != "finished"))
    history = pd.DataFrame([line for _, line in lines])
    for number, line in lines:
        if not isinstance(line.get("step"), int):
            raise EvidenceError(f"{own / 'steps.jsonl'}, line {number}: no step number")
    if not history.empty:
        # A resumed run writes the steps after its checkpoint again; the later line is the one that counted.
        history = history.apply(pd.to_numeric, errors="coerce")
        history = history.drop_duplicates("step", keep="last").sort_values("step", ignore_index=True)
    samples = tuple(line for _, line in _lines(own / "samples.jsonl", torn_end_allowed=status != "finished"))
    return Run(
        arm=arm,
        seed=seed,
        status=status,
        reason=row.get("reason"),
        order=int(row.get("order") or 0),
        mlflow_run_id=row.get("mlflow_run_id"),
        steps=int(row.get("steps") or 0),
        spent=row.get("spent") or {},
        seconds=row.get("seconds"),
        history=history,
        evaluations=tuple(_evaluations(own / "evals")),
        samples=samples,
        out_of_memory_in=row.get("out_of_memory_in"),
        conditions=row.get("conditions") or {},
        resumed=tuple(row.get("resumed") or ()),
        hung=tuple(row.get("hung") or ()),
    )


def _evaluations(folder: Path) -> list[Evaluation]:
    found = [_evaluation(path) for path in sorted(folder.glob("*.json"))]
    return sorted(found, key=lambda e: (e.task, e.label == "final", e.step))


def _evaluation(path: Path) -> Evaluation:
    raw = _object(path)
    try:
        evaluation = Evaluation(
            task=str(raw["task"]),
            label=str(raw["label"]),
            step=int(raw.get("step") or 0),
            spent=raw.get("spent") or {},
            questions=int(raw["questions"]),
            metrics=raw["metrics"],
            samples=tuple(raw.get("samples") or ()),
        )
        ids = [sample["id"] for sample in evaluation.samples]
    except (KeyError, TypeError, ValueError) as error:
        raise EvidenceError(f"{path}: not an evaluation ({error!r})") from None
    if len(set(ids)) != len(ids):
        raise EvidenceError(f"{path}: a question appears twice")
    stated = evaluation.metrics.get("accuracy")
    if stated is not None and math.isfinite(stated) and not 0 <= stated <= 1:
        raise EvidenceError(f"{path}: an accuracy of {stated} is not between 0 and 1")
    verdicts = [sample.get("correct") for sample in evaluation.samples]
    if stated is not None and len(ids) == evaluation.questions and ids and None not in verdicts:
        counted = sum(map(bool, verdicts)) / len(ids)
        if abs(counted - stated) > 1e-3:
            raise EvidenceError(f"{path}: accuracy is given as {stated:.4f}, but its answers give {counted:.4f}")
    return evaluation


def _object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise EvidenceError(f"{path}: there is no such file") from None
    except UnicodeDecodeError as error:
        raise EvidenceError(f"{path}: not UTF-8 ({error.reason} at byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise EvidenceError(f"{path}, line {error.lineno}: not JSON ({error.msg})") from None
    if not isinstance(value, dict):
        raise EvidenceError(f"{path}: not a JSON object")
    return value


def _lines(path: Path, *, torn_end_allowed: bool) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) for every line of a journal; a journal that was never begun has none."""
    if not path.exists():
        return
    # Split at the line feed alone: str.splitlines would also cut at separators inside a completion.
    pieces = path.read_bytes().split(b"\n")
    for number, piece in enumerate(pieces, start=1):
        if not piece.strip():
            continue
        try:
            value = json.loads(piece.decode("utf-8"))
        except ValueError as error:
            if torn_end_allowed and number == len(pieces):
                return
            raise EvidenceError(f"{path}, line {number}: not JSON ({error})") from None
        if not isinstance(value, dict):
            raise EvidenceError(f"{path}, line {number}: not a JSON object")
        yield number, value
