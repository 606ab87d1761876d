"""What a run's events are shown to, beside its record: each takes of them what it is for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from harness.run.events import Ended, Evaluated, Event, Evidence, Hung, Resumed, Stepped
from harness.tracking.tracker import Status, Tracker
from reports.record.journal import read_json, read_lines

MLFLOW_STATUS: Mapping[str, Status] = {"finished": "FINISHED", "interrupted": "KILLED"}
TRACKED = ("steps.jsonl", "samples.jsonl", "evals/*.json", "worker.log")


class Sink(Protocol):
    def on(self, event: Event) -> None: ...


class GatheredEvidence:
    """The hashes of every run, for the matching audit."""

    def __init__(self, arm: str, seed: int, by_run: dict[tuple[str, int], Mapping[str, str]]) -> None:
        self.run, self.by_run = (arm, seed), by_run

    def on(self, event: Event) -> None:
        if isinstance(event, Evidence | Resumed):
            self.by_run[self.run] = event.hashes


class TrackedRun:
    """A run as MLflow has it: a child of the benchmark's run whose history has each step once.

    folder: the run's own. A run that hung is another child from there on, since what follows repeats what came since
    the last checkpoint; what came before that is told to it from the journals.
    """

    def __init__(self, tracker: Tracker, arm: str, seed: int, params: Mapping[str, Any], folder: Path) -> None:
        self.tracker, self.arm, self.seed, self.params, self.folder = tracker, arm, seed, params, folder
        self.name = tracker.start_run(arm, seed, params)
        self.status: Status = "KILLED"

    def on(self, event: Event) -> None:
        match event:
            case Stepped(record=line):
                self._log_step(line)
            case Evaluated(task=task, step=step, metrics=metrics):
                self.tracker.log_eval(self.name, task, step, metrics)
            case Resumed():
                self.replay()
            case Hung():
                self.tracker.end_run(self.name, self.status)
                self.name = self.tracker.start_run(self.arm, self.seed, self.params)
            case Ended(status=status):
                self.status = ended_as(status)

    def replay(self) -> None:
        """Tell what the run recorded before."""
        for line in read_lines(self.folder / "steps.jsonl"):
            self._log_step(line)
        for path in sorted((self.folder / "evals").glob("*.json")):
            evaluation = read_json(path)
            self.tracker.log_eval(self.name, evaluation["task"], evaluation["step"], evaluation["metrics"])

    def end(self) -> None:
        """Send its files, and how it ended."""
        self.tracker.log_folder(self.name, self.folder, TRACKED)
        self.tracker.end_run(self.name, self.status)

    def _log_step(self, line: Mapping[str, Any]) -> None:
        self.tracker.log_step(self.name, line["step"], {name: value for name, value in line.items() if name != "step"})


def ended_as(status: str) -> Status:
    """How a run that came to an end of its own has ended, in MLflow's words."""
    return "FINISHED" if status == "finished" else "FAILED"
