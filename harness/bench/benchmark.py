"""A benchmark: arms × seeds → runs, one child process each, tracked, audited and reported.

The parent trains nothing. It resolves and audits the arms, starts the children in alternating order, shows and
tracks what they send, checks the run-time evidence and builds the report. A run that fails is a row in the result; the
others go on. Ctrl-C or SIGTERM ends the current child, marks what is unfinished and reports what there is. A benchmark
that was ended, by whatever, can be resumed: what is finished is kept, and what is not goes on from its checkpoints.
"""

from __future__ import annotations

import datetime
import os
import secrets
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from harness.bench.fit_micro_batch import fit
from harness.bench.preflight import audited, check_data
from harness.bench.progress import Display
from harness.bench.run_order import run_order
from harness.bench.run_record import after
from harness.bench.sinks import MLFLOW_STATUS, TRACKED, GatheredEvidence, Sink, TrackedRun, ended_as
from harness.config import matching
from harness.config.file import recorded
from harness.config.tables import BenchSpec
from harness.launch.launcher import Launcher, needed_events
from harness.launch.local import Interrupted, LocalLauncher, interrupts
from harness.measure.environment import git_commit, installed
from harness.registry import Registry
from harness.run.disk import require_room
from harness.run.events import Environment, Evaluated
from harness.run.job import Job
from harness.tracking.redact import redact
from harness.tracking.tracker import Tracker
from reports.record.errors import EvidenceError, InfrastructureError, UserError
from reports.record.faults import one_line
from reports.record.folder import locked, stamp
from reports.record.journal import read_json, write_json
from reports.record.models import SCHEMA_VERSION, Bench, RunRecord, evidence_of, upgrade
from reports.record.names import CONCLUDED
from reports.text import clock

BASE = "base"
REPORTED = ("bench.json", "report.html", "summary.md", "comparison.json", "junit.xml")
TRACKING_PATIENCE_S, ID_PATIENCE_S = 60.0, 5.0

Report = TypeVar("Report")


class Benchmark:
    def __init__(
        self, bench: BenchSpec, registry: Registry, *, out: Path, source: str, profile: str | None, command: str,
        launcher: Launcher | None = None,
    ) -> None:  # fmt: skip
        self.bench, self.registry, self.launcher = bench, registry, launcher or LocalLauncher()
        self.audit = audited(bench, registry, source)
        check_data(bench, registry, source)
        now = datetime.datetime.now(datetime.UTC)
        self.bench_id = f"{bench.suite.name}-{now:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        self.out, self.folder, self.resuming = out, out / self.bench_id, False
        self.read: Any = None
        self.rows = [RunRecord.planned(arm, seed, order) for order, (arm, seed) in enumerate(run_order(bench))]
        self.evidence: dict[tuple[str, int], Mapping[str, str]] = {}
        self.record = Bench.read({
            "schema_version": SCHEMA_VERSION, "bench_id": self.bench_id, "suite": bench.suite.name,
            "regime": bench.regime, "profile": profile, "command": command, "created": stamp(), "finished": None,
            "status": "running", "primary": bench.suite.primary, "margin": bench.suite.margin,
            "budget": {"currency": bench.budget.currency, "limit": bench.budget.limit},
            "spec": bench.model_dump(mode="json"),
            "chosen": bench.model_dump(mode="json", exclude_defaults=True),
            "arms": self._arms(), "eval_tasks": list(bench.eval.tasks), "environment": {}, "parameters": 0,
            "runs": self.rows, "matching": self.audit.to_json(),
        }, self.bench_id)  # fmt: skip

    @classmethod
    def resume(cls, folder: Path, registry: Registry, command: str) -> Benchmark:
        """The benchmark of a folder, to go on with. Raises UserError where there is nothing to go on with."""
        path = folder / "bench.json"
        if not path.is_file():
            raise UserError(f"--resume {folder.name}: {path} is not there")
        raw = read_json(path)
        if not isinstance(raw, dict):
            raise EvidenceError(f"{path}: not a benchmark's record (not a JSON object)")
        record = Bench.read(upgrade(raw, str(path)), str(path))
        try:
            spec = recorded(record.spec or {})
        except ValidationError as error:
            raise EvidenceError(f"{path}: not a benchmark's record (spec: {one_line(error, lambda _: ())})") from None
        benchmark = cls(
            spec, registry, out=folder.parent, source=str(path), profile=record.profile, command=record.command or "",
        )  # fmt: skip
        if [(row.arm, row.seed) for row in record.runs] != run_order(spec):
            raise EvidenceError(f"{path}: its runs are not those of its spec")
        benchmark.bench_id, benchmark.folder, benchmark.resuming, benchmark.read = folder.name, folder, True, raw
        benchmark.rows = [row if row.status in CONCLUDED else row.again() for row in record.runs]
        benchmark.evidence = evidence_of(raw)
        again = [*(record.resumed or []), {"at": stamp(), "command": command, "git_commit": git_commit()}]
        benchmark.record = benchmark.record.replaced(
            bench_id=folder.name, created=record.created, environment=record.environment or {},
            parameters=record.parameters, resumed=again, fit=record.fit,
        )  # fmt: skip
        return benchmark

    def execute(self, report: Callable[[Path], Report]) -> tuple[str, Report]:
        """Run everything and report: (the benchmark's status, what `report` returned).

        report: builds the report files in the folder it is given; they are tracked with the rest. The folder is
        complete whatever happens.
        """
        self._prepare_folder()
        with locked(self.folder):
            if self.resuming and read_json(self.folder / "bench.json") != self.read:
                raise InfrastructureError(f"{self.folder}: another process went on with it until now; resume it again")
            return self._execute(report)

    def _execute(self, report: Callable[[Path], Report]) -> tuple[str, Report]:
        bench = self.bench
        title = f"{self.bench_id} · {bench.budget.limit:g} {bench.budget.currency.replace('_', ' ')} a run"
        with Display(title, [row.arm for row in self.rows], primary=bench.eval.tasks[0]) as display:
            begun = "resumed" if self.resuming else f"{len(self.rows)} runs into {self.folder}"
            display.log(f"benchmark {self.bench_id}: {begun}")
            self._note_changes(display)
            tracker = Tracker(None, bench.suite.name, self.bench_id, fallback=self.out, warn=display.log)
            try:
                with interrupts():
                    tracker.start_benchmark(self._params())
                    # Creating a store takes seconds of CPU, which must not fall into the first measurements.
                    tracker.ready(TRACKING_PATIENCE_S)
                    status = self._all_runs(tracker, display)
            except Interrupted:
                status = "interrupted"
                self.rows = [interrupted(row) for row in self.rows]
            except UserError as error:
                self._conclude(tracker, "failed", lambda folder: None)
                raise error from None
            made = self._conclude(tracker, status, report)
            if tracker.undelivered:
                display.log(f"tracking: {tracker.undelivered} records did not reach {redact(tracker.uri)}")
        return status, made

    def _prepare_folder(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=self.resuming)
            if not self.resuming:
                self._write()
            link = self.out / f".latest.{os.getpid()}"
            link.symlink_to(self.bench_id)
            os.replace(link, self.out / "latest")
        except OSError as error:
            raise InfrastructureError(f"{self.folder}: cannot be written ({error.strerror})") from None

    def _arms(self) -> dict[str, Any]:
        """Every arm as it is run."""
        return {arm: self.bench.run_spec(arm).model_dump(mode="json") for arm in self.bench.arms}

    def _params(self) -> dict[str, Any]:
        names = ("suite", "regime", "profile", "command", "margin", "budget", "spec")
        return {name: getattr(self.record, name) for name in names}

    def _write(self) -> None:
        self.audit = replace(self.audit, evidence=matching.evidence_rows(self.evidence, self.bench.seeds))
        self.record = self.record.replaced(runs=self.rows, matching=self.audit.to_json())
        write_json(self.folder / "bench.json", self.record.dump())

    def _all_runs(self, tracker: Tracker, display: Display) -> str:
        self._evaluate_base(tracker, display)
        if self.bench.regime == "same_gpu":
            self._fit(display)
        for number, row in enumerate(self.rows):
            if row.status in CONCLUDED:
                self._keep(row, tracker, display)
            else:
                self._one_run(number, tracker, display)
        # What an arm needs is part of the question: not to fit is a result, where there is another to hold against it.
        statuses = {row.status for row in self.rows}
        return "finished" if "finished" in statuses and statuses <= {"finished", "out_of_memory"} else "failed"

    def _evaluate_base(self, tracker: Tracker, display: Display) -> None:
        """What the policy can do before training. A fault here would meet every run, so it ends the benchmark."""
        display.start_base()
        if kept := self._kept_base():
            for evaluation in kept:
                tracker.log_eval(None, evaluation["task"], 0, evaluation["metrics"])
            tracker.log_folder(None, self.folder, [f"{BASE}/evals/*.json"])
            self._require_room()
            return
        spec = self.bench.run_spec(next(iter(self.bench.arms)))
        job = Job("base", spec, self.bench.seeds[0], self.folder / BASE, self.registry)
        with closing(needed_events(self.launcher, job, "evaluating the base policy", display.log)) as events:
            for event in events:
                match event:
                    case Environment(environment=environment, parameters=parameters):
                        self.record = self.record.replaced(environment=environment, parameters=parameters)
                        self._write()
                        self._require_room()
                    case Evaluated(task=task, metrics=metrics):
                        tracker.log_eval(None, task, 0, metrics)
                        display.log(f"base policy on {task}: {metrics['accuracy']:.1%}")
        tracker.log_folder(None, self.folder, [f"{BASE}/evals/*.json"])

    def _require_room(self) -> None:
        """Ask for the disk that the runs still to be run will need, before hours are spent on what cannot be kept."""
        pending = [self.bench.run_spec(row.arm) for row in self.rows if row.status not in CONCLUDED]
        algorithms = [self.registry.algorithm(spec) for spec in pending]
        runs = [(spec, found.needs_critic) for spec, found in zip(pending, algorithms, strict=True)]
        require_room(self.folder, self.record.parameters, runs)

    def _fit(self, display: Display) -> None:
        """Give each arm the largest micro-batch that fits the cap, as measured; no budget is charged for it."""
        found: dict[str, dict[str, Any]] = dict(self.record.fit or {})
        for arm in (arm for arm in self.bench.arms if arm not in found):
            found[arm] = fit(self.launcher, self.bench, arm, self.registry, self.folder, display.log)
        # An arm with no room for a sequence shows as much when it runs.
        self.bench = self.bench.fitted({arm: each["tokens"] or each["smallest"] for arm, each in found.items()})
        self.audit = matching.audit(self.bench)
        self.record = self.record.replaced(fit=found, arms=self._arms())
        self._write()

    def _one_run(self, number: int, tracker: Tracker, display: Display) -> None:
        row = self.rows[number].replaced(status="running")
        spec, folder = self.bench.run_spec(row.arm), self.folder / row.folder
        tracked = TrackedRun(tracker, row.arm, row.seed, matching.flatten(spec), folder)
        sinks: tuple[Sink, ...] = (GatheredEvidence(row.arm, row.seed, self.evidence), tracked, display)
        self.rows[number], started = row, time.monotonic()
        display.start_run(number + 1, row.arm, row.seed)
        events = self.launcher.run(Job("train", spec, row.seed, folder, self.registry))
        try:
            for event in events:
                row = after(row, event)
                for sink in sinks:
                    sink.on(event)
        finally:
            events.close()
            self.rows[number] = row = row.replaced(seconds=row.seconds + time.monotonic() - started)
            tracked.end()
            self._write()
        self._forget_checkpoints(row)
        reason = f" ({row.reason})" if row.reason else ""
        display.end_run(row.status, f"{reason} after {row.steps} steps, {clock(row.seconds)}")

    def _keep(self, row: RunRecord, tracker: Tracker, display: Display) -> None:
        """A run that came to its end before. MLflow gets it again where it had not heard of that end."""
        display.log(f"{row.arm} seed {row.seed}: {row.status.replace('_', ' ')} before, kept")
        folder = self.folder / row.folder
        if not tracker.ended_before(row.folder):
            tracked = TrackedRun(tracker, row.arm, row.seed, matching.flatten(self.bench.run_spec(row.arm)), folder)
            tracked.replay()
            tracked.status = ended_as(row.status)
            tracked.end()
        else:
            # Files follow records, and its process may have ended between the two.
            tracker.log_folder(row.folder, folder, TRACKED)
        self._forget_checkpoints(row)

    def _forget_checkpoints(self, row: RunRecord) -> None:
        """Once it is written down that a run finished, it need not be able to go on."""
        if row.status == "finished":
            shutil.rmtree(self.folder / row.folder / "checkpoints", ignore_errors=True)

    def _kept_base(self) -> list[dict[str, Any]]:
        """The base policy's evaluations, where they were all made before the benchmark was ended."""
        paths = [self.folder / BASE / "evals" / f"base-{task}.json" for task in self.bench.eval.tasks]
        return [read_json(path) for path in paths] if self.resuming and all(p.is_file() for p in paths) else []

    def _note_changes(self, display: Display) -> None:
        """A run that goes on with other libraries is not the run that it would have been."""
        before, now = (self.record.environment.get("packages") or {}), installed()
        changed = [f"{name} {before[name]} is now {now.get(name)}" for name in before if before[name] != now.get(name)]
        if changed:
            display.log(f"since this benchmark was begun: {', '.join(changed)}")

    def _conclude(self, tracker: Tracker, status: str, report: Callable[[Path], Report]) -> Report:
        self.record = self.record.replaced(status=status, finished=stamp())
        # Runs that were only told again may still be on their way.
        tracker.wait_for_ids(ID_PATIENCE_S)
        self.rows = [row.replaced(mlflow_run_id=tracker.run_id(row.folder) if row.steps else None) for row in self.rows]
        try:
            self._write()
            return report(self.folder)
        finally:
            tracker.log_folder(None, self.folder, REPORTED)
            tracker.end_benchmark(MLFLOW_STATUS.get(status, "FAILED"))
            tracker.close()


def interrupted(row: RunRecord) -> RunRecord:
    """A run's record once the benchmark has been ended from outside."""
    if row.status not in ("running", "not started"):
        return row
    return row.replaced(status="interrupted", reason=row.reason or "the benchmark was interrupted")
