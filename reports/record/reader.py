"""Read what a benchmark left: one folder, whether it was written here or fetched from a tracking server.

    bench.json                         the resolved benchmark, its audit, its runs
    base/evals/base-<task>.json        the policy before training
    <arm>-seed<k>/steps.jsonl          one flat object a step
    <arm>-seed<k>/evals/*.json         downstream accuracy, with every answer
    <arm>-seed<k>/samples.jsonl        a few training completions

A file that cannot be read is an error naming the file and the line: a report that skips what it cannot parse shows
only what went well. The files may be anybody's, so they are checked before they are handed on
(`reports.record.models`). Runs that did not finish are records like any other; what to do with them is decided later.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import BaseModel, ValidationError

from reports.record.errors import EvidenceError
from reports.record.faults import brief, one_line
from reports.record.models import MOST_COLUMNS, Bench, Evaluated, Numbers, Sampled, Stepped

SCHEMA_VERSION = 1
# A run whose timed work took this much longer than the quickest of its benchmark was slowed by something.
SLOWED = 0.15
# A refusal shows the value at fault, which may be a table of tables.
_MOST_SAID = 500
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
    try_again: bool = False
    """Something outside made it fail, so it is worth another try."""

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
        raise EvidenceError(
            f"{path}: schema_version {brief(bench['schema_version'])}; this program reads {SCHEMA_VERSION}"
        )
    _check(Bench, bench, str(path))
    for arm in bench["arms"]:
        if any(character in arm for character in "/\\") or arm in (".", ".."):
            raise EvidenceError(f"{path}: {arm!r} cannot be the name of an arm")
    runs = tuple(_run(folder, row) for row in bench["runs"])
    seen = set()
    for run in runs:
        if run.arm not in bench["arms"]:
            raise EvidenceError(f"{path}: a run of {run.arm!r}, which is not one of the arms")
        if (run.arm, run.seed) in seen:
            raise EvidenceError(f"{path}: two runs of {run.arm!r} with seed {run.seed}")
        seen.add((run.arm, run.seed))
    base = {evaluation.task: evaluation for evaluation in _evaluations(folder / "base" / "evals")}
    return Records(bench, runs, base)


def _run(folder: Path, row: Mapping[str, Any]) -> Run:
    arm, seed, status = row["arm"], row["seed"], row["status"]
    own = folder / f"{arm}-seed{seed}"
    # A killed run may leave half a line at the end of its journals; a finished one may not.
    torn = status != "finished"
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
        history=_history(own / "steps.jsonl", torn_end_allowed=torn),
        evaluations=tuple(_evaluations(own / "evals")),
        samples=tuple(_samples(own / "samples.jsonl", torn_end_allowed=torn)),
        out_of_memory_in=row.get("out_of_memory_in"),
        conditions=row.get("conditions") or {},
        resumed=tuple(row.get("resumed") or ()),
        hung=tuple(row.get("hung") or ()),
        try_again=bool(row.get("try_again")),
    )


def _history(path: Path, *, torn_end_allowed: bool) -> pd.DataFrame:
    lines, columns = [], set[str]()
    for number, line in _lines(path, torn_end_allowed=torn_end_allowed):
        where = f"{path}, line {number}"
        if type(line.get("step")) is not int:
            raise EvidenceError(f"{where}: no step number")
        _check(Stepped, line, where)
        try:
            Numbers.validate_python({name: value for name, value in line.items() if name not in Stepped.model_fields})
        except ValidationError as error:
            raise EvidenceError(_refusal(where, error)) from None
        columns.update(line)
        if len(columns) > MOST_COLUMNS:
            raise EvidenceError(f"{where}: more than {MOST_COLUMNS:,} columns in all")
        lines.append(line)
    history = pd.DataFrame(lines)
    if not history.empty:
        # A resumed run writes the steps after its checkpoint again; the later line is the one that counted.
        history = history.apply(pd.to_numeric, errors="coerce")
        history = history.drop_duplicates("step", keep="last").sort_values("step", ignore_index=True)
    return history


def _samples(path: Path, *, torn_end_allowed: bool) -> Iterator[dict[str, Any]]:
    for number, line in _lines(path, torn_end_allowed=torn_end_allowed):
        _check(Sampled, line, f"{path}, line {number}")
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
    _check(Evaluated, raw, str(path))
    evaluation = Evaluation(
        task=raw["task"],
        label=raw["label"],
        step=raw.get("step") or 0,
        spent=raw.get("spent") or {},
        questions=raw["questions"],
        metrics=raw["metrics"],
        samples=tuple(raw.get("samples") or ()),
    )
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


def _check(model: type[BaseModel], value: Any, where: str) -> None:
    """EvidenceError naming the place and the key of the first fault."""
    try:
        model.model_validate(value)
    except ValidationError as error:
        raise EvidenceError(_refusal(where, error)) from None


def _refusal(where: str, error: ValidationError) -> str:
    said = one_line(error, lambda _: ())
    return f"{where}: {said if len(said) <= _MOST_SAID else said[:_MOST_SAID] + '…'}"


def _object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise EvidenceError(f"{path}: there is no such file") from None
    except UnicodeDecodeError as error:
        raise EvidenceError(f"{path}: not UTF-8 ({error.reason} at byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise EvidenceError(f"{path}, line {error.lineno}: not JSON ({error.msg})") from None
    except OSError as error:
        raise EvidenceError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise EvidenceError(f"{path}: not JSON ({_beyond(error)})") from None
    if not isinstance(value, dict):
        raise EvidenceError(f"{path}: not a JSON object")
    return value


def _lines(path: Path, *, torn_end_allowed: bool) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) for every line of a journal; a journal that was never begun has none."""
    # Split at the line feed alone: str.splitlines would also cut at separators inside a completion.
    try:
        pieces = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return
    except OSError as error:
        raise EvidenceError(f"{path}: cannot be read ({error.strerror})") from None
    for number, piece in enumerate(pieces, start=1):
        if not piece.strip():
            continue
        try:
            value = json.loads(piece.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            if torn_end_allowed and number == len(pieces):
                return
            raise EvidenceError(f"{path}, line {number}: not JSON ({_beyond(error)})") from None
        if not isinstance(value, dict):
            raise EvidenceError(f"{path}, line {number}: not a JSON object")
        yield number, value


def _beyond(error: ValueError | RecursionError) -> str:
    """Why JSON could not be read. What Python says of its own limits is no help to whoever wrote the file."""
    if isinstance(error, RecursionError):
        return "nested too deep"
    syntax = isinstance(error, json.JSONDecodeError | UnicodeDecodeError)
    return str(error) if syntax else "a number of thousands of digits"
