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

from harness.bench.fit_micro_batch import fit
from harness.bench.preflight import audited, check_data
from harness.bench.progress import Display
from harness.bench.run_order import run_order
from harness.config import matching
from harness.config.file import recorded
from harness.config.tables import SCHEMA_VERSION, BenchSpec
from harness.launch.local import Ended, Interrupted, child_events, interrupts, needed_events
from harness.measure.environment import git_commit, installed
from harness.registry import Registry
from harness.run.disk import require_room
from harness.run.job import Job
from harness.tracking.redact import redact
from harness.tracking.tracker import Status, Tracker
from reports.record.errors import EvidenceError, InfrastructureError, UserError
from reports.record.folder import locked, stamp
from reports.record.journal import read_json, read_lines, write_json
from reports.record.models import CONCLUDED, RunRow, evidence_of
from reports.text import clock

BASE = "base"
REPORTED = ("bench.json", "report.html", "summary.md", "comparison.json", "junit.xml")
TRACKED = ("steps.jsonl", "samples.jsonl", "evals/*.json", "worker.log")
MLFLOW_STATUS: Mapping[str, Status] = {"finished": "FINISHED", "interrupted": "KILLED"}
TRACKING_PATIENCE_S, ID_PATIENCE_S = 60.0, 5.0

Report = TypeVar("Report")


class Benchmark:
    def __init__(
        self, bench: BenchSpec, registry: Registry, *, out: Path, source: str, profile: str | None, command: str
    ) -> None:
        self.bench, self.registry = bench, registry
        self.audit = audited(bench, registry, source)
        check_data(bench, registry, source)
        now = datetime.datetime.now(datetime.UTC)
        self.bench_id = f"{bench.suite.name}-{now:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        self.out, self.folder, self.resuming = out, out / self.bench_id, False
        self.read: Any = None
        self.rows = [RunRow(arm, seed, order) for order, (arm, seed) in enumerate(run_order(bench))]
        self.evidence: dict[tuple[str, int], Mapping[str, str]] = {}
        self.record: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION, "bench_id": self.bench_id, "suite": bench.suite.name,
            "regime": bench.regime, "profile": profile, "command": command, "created": stamp(), "finished": None,
            "status": "running", "primary": bench.suite.primary, "margin": bench.suite.margin,
            "budget": {"currency": bench.budget.currency, "limit": bench.budget.limit},
            "spec": bench.model_dump(mode="json"),
            "chosen": bench.model_dump(mode="json", exclude_defaults=True),
            "arms": self._arms(),
            "eval_tasks": list(bench.eval.tasks), "environment": {}, "parameters": 0,
        }  # fmt: skip

    @classmethod
    def resume(cls, folder: Path, registry: Registry, command: str) -> Benchmark:
        """The benchmark of a folder, to go on with. Raises UserError where there is nothing to go on with."""
        path = folder / "bench.json"
        if not path.is_file():
            raise UserError(f"--resume {folder.name}: {path} is not there")
        record = read_json(path)
        try:
            spec, rows = recorded(record["spec"]), [RunRow(**row) for row in record["runs"]]
            known = {key: record[key] for key in ("status", "profile", "command", "created", "environment")}
            known["parameters"] = int(record.get("parameters", 0))
        except (KeyError, TypeError, ValueError) as error:
            raise EvidenceError(f"{path}: not a benchmark's record ({str(error).splitlines()[0][:200]})") from None
        benchmark = cls(
            spec, registry, out=folder.parent, source=str(path), profile=known["profile"], command=known["command"]
        )
        if [(row.arm, row.seed) for row in rows] != run_order(spec):
            raise EvidenceError(f"{path}: its runs are not those of its spec")
        benchmark.bench_id, benchmark.folder, benchmark.resuming, benchmark.read = folder.name, folder, True, record
        benchmark.rows = [row if row.status in CONCLUDED else RunRow.again(row) for row in rows]
        benchmark.evidence = evidence_of(record)
        again = [*(record.get("resumed") or []), {"at": stamp(), "command": command, "git_commit": git_commit()}]
        benchmark.record |= {
            **known, "bench_id": folder.name, "status": "running", "resumed": again,
            **({"fit": record["fit"]} if "fit" in record else {}),
        }  # fmt: skip
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
        with Display(title, [row.arm for row in self.rows]) as display:
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
                for row in self.rows:
                    if row.status in ("running", "not started"):
                        row.status, row.reason = "interrupted", row.reason or "the benchmark was interrupted"
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
        return {key: self.record[key] for key in ("suite", "regime", "profile", "command", "margin", "budget", "spec")}

    def _write(self) -> None:
        self.record["runs"] = [{**vars(row)} for row in self.rows]
        self.audit = replace(self.audit, evidence=matching.evidence_rows(self.evidence, self.bench.seeds))
        self.record["matching"] = self.audit.to_json()
        write_json(self.folder / "bench.json", self.record)

    def _all_runs(self, tracker: Tracker, display: Display) -> str:
        self._evaluate_base(tracker, display)
        if self.bench.regime == "same_gpu":
            self._fit(display)
        for number, row in enumerate(self.rows, start=1):
            if row.status in CONCLUDED:
                self._keep(row, tracker, display)
                continue
            display.start_run(number, row.arm, row.seed)
            self._one_run(row, tracker, display)
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
        with closing(needed_events(job, "evaluating the base policy", display.log)) as events:
            for event in events:
                if event["event"] == "environment":
                    self.record["environment"], self.record["parameters"] = event["environment"], event["parameters"]
                    self._write()
                    self._require_room()
                elif event["event"] == "eval":
                    tracker.log_eval(None, event["task"], 0, event["metrics"])
                    display.log(f"base policy on {event['task']}: {event['metrics']['accuracy']:.1%}")
        tracker.log_folder(None, self.folder, [f"{BASE}/evals/*.json"])

    def _require_room(self) -> None:
        """Ask for the disk that the runs still to be run will need, before hours are spent on what cannot be kept."""
        pending = [self.bench.run_spec(row.arm) for row in self.rows if row.status not in CONCLUDED]
        algorithms = [self.registry.algorithm(spec) for spec in pending]
        runs = [(spec, found.needs_critic) for spec, found in zip(pending, algorithms, strict=True)]
        require_room(self.folder, self.record["parameters"], runs)

    def _fit(self, display: Display) -> None:
        """Give each arm the largest micro-batch that fits the cap, as measured; no budget is charged for it."""
        found: dict[str, dict[str, Any]] = self.record.get("fit") or {}
        for arm in (arm for arm in self.bench.arms if arm not in found):
            found[arm] = fit(self.bench, arm, self.registry, self.folder, display.log)
        # An arm with no room for a sequence shows as much when it runs.
        self.bench = self.bench.fitted({arm: each["tokens"] or each["smallest"] for arm, each in found.items()})
        self.audit = matching.audit(self.bench)
        self.record |= {"fit": found, "arms": self._arms()}
        self._write()

    def _one_run(self, row: RunRow, tracker: Tracker, display: Display) -> None:
        spec = self.bench.run_spec(row.arm)
        run = tracker.start_run(row.arm, row.seed, matching.flatten(spec))
        row.status, started = "running", time.monotonic()
        status: Status = "KILLED"
        accuracy = ""
        events = child_events(Job("train", spec, row.seed, self.folder / row.folder, self.registry))
        try:
            for event in events:
                if isinstance(event, Ended):
                    row.status, row.reason, row.out_of_memory_in = event.status, event.reason, event.where
                    row.try_again = event.exit_code == InfrastructureError.exit_code and not event.hung
                    status = "FINISHED" if event.status == "finished" else "FAILED"
                elif event["event"] == "evidence":
                    self.evidence[row.arm, row.seed] = event["evidence"]
                elif event["event"] == "conditions":
                    row.conditions[event["when"]] = event["conditions"]
                elif event["event"] == "resumed":
                    self.evidence[row.arm, row.seed] = event["evidence"]
                    row.resumed.append(event["step"])
                    self._replay(row, run, tracker)
                    display.log(f"{row.arm} seed {row.seed}: goes on after step {event['step']}")
                elif event["event"] == "warning":
                    display.log(f"{row.arm} seed {row.seed}: {event['line']}")
                elif event["event"] == "hung":
                    # What follows repeats what came since the last checkpoint: a history of its own, each step once.
                    row.hung.append(event["line"])
                    display.log(f"{row.arm} seed {row.seed}: {event['line']}")
                    tracker.end_run(run, status)
                    run = tracker.start_run(row.arm, row.seed, matching.flatten(spec))
                elif event["event"] == "step":
                    self._note_step(row, event["record"])
                    tracker.log_step(run, row.steps, {k: v for k, v in event["record"].items() if k != "step"})
                    display.step(event["record"], event["fraction"])
                elif event["event"] == "evaluating":
                    display.evaluating(event["label"])
                elif event["event"] == "eval":
                    tracker.log_eval(run, event["task"], event["step"], event["metrics"])
                    if event["task"] == self.bench.eval.tasks[0]:
                        accuracy = f", {event['metrics']['accuracy']:.1%} on {event['task']}"
        finally:
            events.close()
            row.seconds += time.monotonic() - started
            tracker.log_folder(run, self.folder / row.folder, TRACKED)
            tracker.end_run(run, status)
            self._write()
        self._forget_checkpoints(row)
        reason = f" ({row.reason})" if row.reason else ""
        display.end_run(row.status, f"{reason} after {row.steps} steps, {clock(row.seconds)}{accuracy}")

    def _keep(self, row: RunRow, tracker: Tracker, display: Display) -> None:
        """A run that came to its end before. MLflow gets it again where it had not heard of that end."""
        display.log(f"{row.arm} seed {row.seed}: {row.status.replace('_', ' ')} before, kept")
        if not tracker.ended_before(row.folder):
            run = tracker.start_run(row.arm, row.seed, matching.flatten(self.bench.run_spec(row.arm)))
            self._replay(row, run, tracker)
            tracker.log_folder(run, self.folder / row.folder, TRACKED)
            tracker.end_run(run, "FINISHED" if row.status == "finished" else "FAILED")
        else:
            # Files follow records, and its process may have ended between the two.
            tracker.log_folder(row.folder, self.folder / row.folder, TRACKED)
        self._forget_checkpoints(row)

    def _forget_checkpoints(self, row: RunRow) -> None:
        """Once it is written down that a run finished, it need not be able to go on."""
        if row.status == "finished":
            shutil.rmtree(self.folder / row.folder / "checkpoints", ignore_errors=True)

    def _replay(self, row: RunRow, run: str, tracker: Tracker) -> None:
        """What a run recorded before, for its new child in MLflow: a history with each step once."""
        folder = self.folder / row.folder
        for record in read_lines(folder / "steps.jsonl"):
            self._note_step(row, record)
            tracker.log_step(run, row.steps, {k: v for k, v in record.items() if k != "step"})
        for path in sorted((folder / "evals").glob("*.json")):
            evaluation = read_json(path)
            tracker.log_eval(run, evaluation["task"], evaluation["step"], evaluation["metrics"])

    def _kept_base(self) -> list[dict[str, Any]]:
        """The base policy's evaluations, where they were all made before the benchmark was ended."""
        paths = [self.folder / BASE / "evals" / f"base-{task}.json" for task in self.bench.eval.tasks]
        return [read_json(path) for path in paths] if self.resuming and all(p.is_file() for p in paths) else []

    def _note_changes(self, display: Display) -> None:
        """A run that goes on with other libraries is not the run that it would have been."""
        before, now = (self.record["environment"].get("packages") or {}), installed()
        changed = [f"{name} {before[name]} is now {now.get(name)}" for name in before if before[name] != now.get(name)]
        if changed:
            display.log(f"since this benchmark was begun: {', '.join(changed)}")

    @staticmethod
    def _note_step(row: RunRow, record: Mapping[str, Any]) -> None:
        row.steps = record["step"]
        row.spent = {k.removeprefix("budget/"): v for k, v in record.items() if k.startswith("budget/")}

    def _conclude(self, tracker: Tracker, status: str, report: Callable[[Path], Report]) -> Report:
        self.record["status"], self.record["finished"] = status, stamp()
        # Runs that were only told again may still be on their way.
        tracker.wait_for_ids(ID_PATIENCE_S)
        for row in self.rows:
            row.mlflow_run_id = tracker.run_id(row.folder) if row.steps else None
        try:
            self._write()
            return report(self.folder)
        finally:
            tracker.log_folder(None, self.folder, REPORTED)
            tracker.end_benchmark(MLFLOW_STATUS.get(status, "FAILED"))
            tracker.close()
