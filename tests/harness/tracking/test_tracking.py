"""Tracking against a real SQLite store and a real server: complete, quiet, and never in the way of training."""

from __future__ import annotations

import contextlib
import gc
import json
import math
import os
import re
import resource
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mlflow_server import Server, wait_for
from synthetic_history import SUITE, past, store

from harness.options import benchmark_folder
from harness.tracking import fetch as tracking_fetch
from harness.tracking import outbox, process_id
from harness.tracking import tracker as tracking
from harness.tracking.client import children, connect, search, tracking_uri
from harness.tracking.fetch import fetch, find_benchmark, past_benchmarks
from harness.tracking.naming import flatten, sanitise
from harness.tracking.redact import cause, redact
from harness.tracking.security import server_warnings
from harness.tracking.tracker import Tracker
from reports.record.errors import EvidenceError, InfrastructureError, UserError
from reports.trend.read import FILES, MOST_BYTES


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    # The tracker tries again by itself; waiting inside every request only makes the tests longer.
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


@pytest.fixture
def folder(tmp_path: Path, empty_store: Path) -> Path:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return tmp_path


def open_tracker(uri: str | None, bench_id: str, folder: Path, **params: Any) -> tuple[Tracker, list[str]]:
    lines: list[str] = []
    tracker = Tracker(uri, "arithmetic", bench_id, fallback=folder, warn=lines.append)
    tracker.start_benchmark({"regime": "same_batch", **params}, {"git": "abc"})
    return tracker, lines


def history(uri: str, run_id: str | None, name: str) -> list[tuple[int, float]]:
    return sorted((m.step, m.value) for m in connect(uri).get_metric_history(run_id, name))


def write_run_folder(root: Path) -> Path:
    """What a finished benchmark looks like on disk, small."""
    files = {
        "bench.json": "{}",
        "report.html": "<html>ü</html>",
        "base/evals/heldout.json": '{"accuracy": 0.3}',
        "ppo-seed0/steps.jsonl": '{"step": 0}\n',
        "ppo-seed0/evals/heldout.json": "{}",
        "grpo-seed0/steps.jsonl": '{"step": 1}\n',
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def log_whole_benchmark(uri: str | None, bench_id: str, folder: Path) -> tuple[Tracker, list[str], Path]:
    runs = write_run_folder(folder / "original")
    tracker, lines = open_tracker(uri, bench_id, folder, nested={"lr": 1e-4, "seeds": [0, 1]}, prompt="x" * 9000)
    for arm in ("ppo", "grpo"):
        run = tracker.start_run(arm, 0, {"arm": arm}, {"host": "h"})
        for step in range(30):
            tracker.log_step(run, step, {f"m/{k}": step + k / 100 for k in range(40)})
        tracker.log_eval(run, "gsm8k", 29, {"exact_match,strict-match": 0.5})
        tracker.log_folder(run, runs / run, ["*.jsonl", "evals/*.json"])
        tracker.end_run(run, "FINISHED")
    tracker.log_folder(None, runs, ["bench.json", "report.html", "base/evals/*.json"])
    tracker.end_benchmark("FINISHED")
    return tracker, lines, runs


def assert_whole_benchmark(uri: str, tracker: Tracker) -> None:
    client = connect(uri)
    parent = client.get_run(tracker.run_id(None))
    assert parent.info.run_name == tracker.bench_id
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["paribus.kind"] == "benchmark"
    assert parent.data.tags["git"] == "abc"
    assert parent.data.params["nested.lr"] == "0.0001"
    assert parent.data.params["nested.seeds"] == "[0, 1]"
    assert len(parent.data.params["prompt"]) == 6000
    assert parent.data.params["prompt"].endswith("[truncated, 9000 characters]")
    runs = children(client, parent.info.experiment_id, parent.info.run_id)
    assert sorted(child.info.run_name for child in runs) == ["grpo-seed0", "ppo-seed0"]
    for child in runs:
        assert child.info.status == "FINISHED"
        assert child.data.tags["paribus.seed"] == "0"
        assert child.data.tags["paribus.arm"] == child.data.params["arm"]
        assert child.data.tags["paribus.nonfinite_dropped"] == "0"
        assert child.data.metrics["eval/gsm8k/exact_match_strict-match"] == 0.5
        for k in (0, 39):
            assert history(uri, child.info.run_id, f"m/{k}") == [(step, step + k / 100) for step in range(30)]


def test_benchmark_in_sqlite_is_complete_and_comes_back_as_the_same_folder(folder: Path) -> None:
    tracker, lines, original = log_whole_benchmark(None, "b-1", folder)
    assert tracker.close() == 0
    assert lines == []
    assert tracker.uri == f"sqlite:///{folder}/mlflow.db"
    assert_whole_benchmark(tracker.uri, tracker)
    assert find_benchmark(tracker.uri, "latest") == ("b-1", tracker.run_id(None))
    assert contents(fetch(tracker.uri, "b-1", folder / "elsewhere")) == contents(original)
    assert (folder / "mlartifacts").is_dir()


def test_benchmark_on_a_server_is_complete_and_comes_back_as_the_same_folder(
    server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    address = server.uri.replace("//", "//user:hunter2@")
    tracker, lines, original = log_whole_benchmark(address, "b-server", tmp_path)
    assert tracker.close() == 0
    assert lines == []
    assert_whole_benchmark(server.uri, tracker)
    got = fetch(server.uri, "latest", tmp_path / "elsewhere")
    assert got == tmp_path / "elsewhere" / "b-server"
    assert contents(got) == contents(original)
    assert capfd.readouterr() == ("", "")


HISTORY = {"last": 50, "profile": None, "most_bytes": MOST_BYTES}


def test_a_suites_history_is_read_over_http(server: Server) -> None:
    store(server.uri, every := [past(1), past(2)])
    assert list(past_benchmarks(server.uri, SUITE, FILES, **HISTORY)) == every[::-1]


@pytest.mark.slow
def test_a_server_that_dies_while_a_history_is_read_is_one_line(server: Server) -> None:
    store(server.uri, [past(1), past(2)])
    reading = past_benchmarks(server.uri, SUITE, FILES, **HISTORY)
    next(reading)
    server.kill()
    with pytest.raises(InfrastructureError, match=f"MLflow at {server.uri}: Connection refused"):
        next(reading)
    server.start()


def test_a_server_as_it_is_started_by_default_is_open_to_all_and_warned_of(server: Server) -> None:
    (line,) = server_warnings(server.uri, {})
    assert line == f"tracking server {server.uri} answers without authentication: anybody may change runs"


def test_server_that_dies_is_reported_once_and_gets_everything_when_it_is_back(server: Server, tmp_path: Path) -> None:
    tracker, lines = open_tracker(server.uri, "b-crash", tmp_path)
    run = tracker.start_run("ppo", 0, {})
    tracker.log_step(run, 0, {"reward/mean": 0.0})
    assert wait_for(lambda: tracker.run_id(run) and history(server.uri, tracker.run_id(run), "reward/mean"), 20)
    server.kill()
    before = time.monotonic()
    for step in range(1, 1500):
        tracker.log_step(run, step, {"reward/mean": step / 2})
    other = tracker.start_run("grpo", 0, {"k": 1})
    tracker.log_step(other, 0, {"reward/mean": 7.0})
    assert time.monotonic() - before < 1
    assert wait_for(lambda: lines, 20)
    server.start()
    tracker.end_run(run, "FINISHED")
    tracker.end_run(other, "KILLED")
    tracker.end_benchmark("FAILED")
    assert tracker.close(60) == 0
    # A request that was under way is cut, one made after is refused.
    assert [re.sub("refused|aborted", "…", line) for line in lines] == [
        f"MLflow at {server.uri}: Connection …; training goes on, the local journal keeps every record"
    ]
    assert history(server.uri, tracker.run_id(run), "reward/mean") == [(step, step / 2) for step in range(1500)]
    assert history(server.uri, tracker.run_id(other), "reward/mean") == [(0, 7.0)]
    client = connect(server.uri)
    assert [client.get_run(tracker.run_id(name)).info.status for name in (run, other, None)] == [
        "FINISHED", "KILLED", "FAILED",
    ]  # fmt: skip


def test_dead_server_costs_one_warning_without_its_password(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        uri = f"http://user:hunter2@127.0.0.1:{probe.getsockname()[1]}"
    tracker, lines = open_tracker(uri, "b-dead", tmp_path)
    run = tracker.start_run("ppo", 0, {})
    tracker.log_step(run, 0, {"a": 1.0, "b": 2.0})
    assert not tracker.ready(30)
    before = time.monotonic()
    # The parent, the child, one param, two metric values, two statuses.
    assert tracker.close(20) == 7
    assert time.monotonic() - before < 20
    assert tracker.run_id(run) is None
    assert len(lines) == 1
    assert "hunter2" not in lines[0]
    assert "127.0.0.1" in lines[0]
    with pytest.raises(InfrastructureError, match="Connection refused") as caught:
        find_benchmark(uri, "latest")
    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "API request to http://h:1/api failed with exception HTTPConnectionPool(host='h', port=1): Max retries "
            "exceeded (Caused by NewConnectionError('<c object>: [Errno 111] Connection refused'))",
            "Connection refused",
        ),
        (
            "API request to http://h:1/api failed with exception HTTPConnectionPool(host='h', port=1): Max retries "
            "exceeded with url: /api/2.0/mlflow/runs/log-batch (Caused by ProtocolError('Connection aborted.', "
            "RemoteDisconnected('Remote end closed connection without response')))",
            "Connection aborted",
        ),
        ("HTTPConnectionPool(host='h', port=1): Read timed out. (ReadTimeout)", "no answer in time"),
        ("INVALID_PARAMETER_VALUE: no\nsecond line", "INVALID_PARAMETER_VALUE: no"),
        (
            "(raised as a result of autoflush)\n(sqlite3.OperationalError) database or disk is full\n[SQL: INSERT",
            "database or disk is full",
        ),
    ],
)
def test_a_fault_of_the_server_is_named_by_its_root(text: str, said: str) -> None:
    assert cause(RuntimeError(text)) == said


def test_hanging_server_does_not_hold_up_the_caller(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        before = time.monotonic()
        tracker, _ = open_tracker(f"http://127.0.0.1:{silent.getsockname()[1]}", "b-hang", tmp_path)
        run = tracker.start_run("ppo", 0, {})
        tracker.log_step(run, 0, {"a": 1.0})
        assert tracker.close(0.5) > 0
        assert time.monotonic() - before < 5


def test_nonfinite_values_are_dropped_and_counted(folder: Path) -> None:
    tracker, lines = open_tracker(None, "b-nan", folder)
    run = tracker.start_run("ppo", 0, {})
    tracker.log_step(run, 0, {"a": math.nan, "b": math.inf, "c": None, "d": 1.5, "e": 10**400})
    tracker.log_step(run, 1, {"a": 2.0})
    tracker.end_run(run, "FINISHED")
    assert tracker.close() == 0
    data = connect(tracker.uri).get_run(tracker.run_id(run)).data
    assert data.metrics == {"a": 2.0, "d": 1.5}
    assert data.tags["paribus.nonfinite_dropped"] == "4"
    assert lines == []


def test_names_that_become_equal_do_not_overwrite_each_other(folder: Path) -> None:
    tracker, _ = open_tracker(None, "b-names", folder)
    run = tracker.start_run("ppo", 0, {"a,b": 1, "a@b": 2, "x": {"y": 1}, "x.y": 2})
    tracker.log_step(run, 0, {"acc,none": 1.0, "acc@none": 2.0})
    tracker.close()
    data = connect(tracker.uri).get_run(tracker.run_id(run)).data
    assert data.metrics == {"acc_none": 1.0, "acc_none_2": 2.0}
    assert data.params == {"a_b": "1", "a_b_2": "2", "x.y": "1", "x.y_2": "2"}


@pytest.mark.parametrize("status", ["FINISHED", "FAILED", "KILLED"])
def test_children_nobody_ended_are_never_left_running(folder: Path, status: Any) -> None:
    tracker, _ = open_tracker(None, "b-status", folder)
    run = tracker.start_run("ppo", 0, {})
    tracker.end_benchmark(status)
    tracker.end_run(run, "FINISHED")
    tracker.close()
    client = connect(tracker.uri)
    assert client.get_run(tracker.run_id(None)).info.status == status
    assert client.get_run(tracker.run_id(run)).info.status == ("KILLED" if status == "KILLED" else "FAILED")


def test_benchmark_nobody_ended_has_failed(folder: Path) -> None:
    tracker, _ = open_tracker(None, "b-open", folder)
    tracker.close()
    assert connect(tracker.uri).get_run(tracker.run_id(None)).info.status == "FAILED"


def test_resumed_benchmark_keeps_its_parent_and_the_newest_attempt_of_a_run_wins(folder: Path) -> None:
    first, _ = open_tracker(None, "b-resume", folder, lr=1)
    for arm in ("ppo", "grpo"):
        first.log_artifact(first.start_run(arm, 0, {"lr": 1}), _file(folder / "steps.jsonl", "first"))
    assert wait_for(lambda: not first.outbox.records and not first.outbox.files, 20)
    # The process is gone without a word: the runs are still RUNNING.
    second, lines = open_tracker(None, "b-resume", folder, lr=2)
    assert second.ready(20)
    assert second.run_id(None) == first.run_id(None)
    assert second.run_id("grpo-seed0") == first.run_id("grpo-seed0")
    time.sleep(0.002)
    run = second.start_run("ppo", 0, {"lr": 2})
    second.log_artifact(run, _file(folder / "again" / "steps.jsonl", "second"))
    second.end_run(run, "FINISHED")
    second.end_benchmark("FINISHED")
    assert second.close() == 0
    assert lines == []
    client = connect(second.uri)
    assert client.get_run(second.run_id(None)).data.params["lr"] == "1"
    assert client.get_run(first.run_id("ppo-seed0")).info.status == "KILLED"
    assert second.run_id("ppo-seed0") != first.run_id("ppo-seed0")
    got = contents(fetch(second.uri, "b-resume", folder / "out"))
    assert got == {"ppo-seed0/steps.jsonl": b"second", "grpo-seed0/steps.jsonl": b"first"}
    first.close()


def _file(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def test_what_can_never_be_sent_is_counted_and_does_not_hold_up_the_rest(folder: Path) -> None:
    tracker, lines = open_tracker(None, "b-reject", folder)
    run = tracker.start_run("ppo", 0, {})
    tracker.log_artifact(run, folder / "missing.json")
    tracker.log_step("nobody-seed9", 0, {"a": 1.0, "b": 1.0})
    tracker.log_step(run, 2**70, {"a": 1.0})
    tracker.log_step(None, 0, {"base": 1.0})
    tracker.end_run(run, "FINISHED")
    assert tracker.close() == 4
    assert len(lines) == 1
    client = connect(tracker.uri)
    assert client.get_run(tracker.run_id(run)).info.status == "FINISHED"
    assert client.get_run(tracker.run_id(None)).data.metrics == {"base": 1.0}


def test_a_database_that_another_program_has_locked_for_seconds_gets_everything_afterwards(folder: Path) -> None:
    tracker, lines = open_tracker(None, "b-locked", folder)
    run = tracker.start_run("ppo", 0, {})
    assert wait_for(lambda: tracker.run_id(run) and not tracker.outbox.records, 20)
    with contextlib.closing(sqlite3.connect(folder / "mlflow.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        tracker.log_step(run, 0, {"a": 1.0})
        tracker.end_run(run, "FINISHED")
        time.sleep(2)
        assert tracker.outbox.records
    assert tracker.close() == 0
    assert lines == []
    assert history(tracker.uri, tracker.run_id(run), "a") == [(0, 1.0)]
    assert connect(tracker.uri).get_run(tracker.run_id(run)).info.status == "FINISHED"


KILLED_BENCHMARK = """
import sys, time
from pathlib import Path
from harness.tracking.tracker import Tracker
tracker = Tracker(sys.argv[1], "arithmetic", "b-dead", fallback=Path("."))
tracker.start_benchmark({})
tracker.start_run("ppo", 0, {})
while tracker.run_id("ppo-seed0") is None:
    time.sleep(0.05)
print("running", flush=True)
time.sleep(600)
"""


def test_runs_of_a_process_that_was_killed_are_closed_by_the_next_benchmark_and_no_others(folder: Path) -> None:
    uri = f"sqlite:///{folder}/mlflow.db"
    with subprocess.Popen([sys.executable, "-c", KILLED_BENCHMARK, uri], stdout=subprocess.PIPE) as killed:
        assert killed.stdout is not None
        assert killed.stdout.readline() == b"running\n"
        client = connect(uri)
        # Like the one that will be killed, but: of a process that lives; of another machine; said by nobody.
        alive, _ = open_tracker(None, "b-alive", folder)
        assert wait_for(lambda: alive.run_id(None), 20)
        own = "tags.`paribus.bench_id` = 'b-dead'"
        (dead,) = search(client, [alive._experiment], f"{own} and tags.`paribus.arm` = 'ppo'")
        names = ("host", "pid", "process_began")
        tags = {f"paribus.{name}": dead.data.tags[f"paribus.{name}"] for name in names}
        others = [tags | {"paribus.host": "elsewhere"}, {}, tags | {"paribus.pid": "1; DROP"}]
        kept = [client.create_run(alive._experiment, tags=each).info.run_id for each in others]
        kept.append(str(alive.run_id(None)))
        early, _ = open_tracker(None, "b-early", folder)
        early.close()
        assert client.get_run(dead.info.run_id).info.status == "RUNNING"
        killed.kill()
    late, lines = open_tracker(None, "b-late", folder)
    late.close()
    assert lines == []
    assert {run.info.status for run in search(client, [alive._experiment], own)} == {"KILLED"}
    assert {client.get_run(run).info.status for run in kept} == {"RUNNING"}
    alive.close()


def test_a_number_given_again_is_another_process() -> None:
    mine = process_id.began(os.getpid())
    assert mine is not None
    assert not process_id.has_ended(os.getpid(), mine)
    assert process_id.has_ended(os.getpid(), mine[:-1])
    gone = subprocess.Popen([sys.executable, "-c", ""])
    when = process_id.began(gone.pid)
    assert when not in (None, mine)
    gone.wait()
    assert process_id.has_ended(gone.pid, str(when))


def test_the_newest_attempt_is_the_last_to_begin_also_after_the_clock_was_set_back(folder: Path) -> None:
    future, _ = open_tracker(None, "b-back", folder)
    run = future.start_run("ppo", 0, {})
    assert wait_for(lambda: future.run_id(run) and not future.outbox.records, 20)
    # As if the first attempt had begun in an hour, by a clock that has been set back since.
    with sqlite3.connect(folder / "mlflow.db") as database:
        database.execute("UPDATE runs SET start_time = start_time + 3600000")
    second, _ = open_tracker(None, "b-back", folder)
    again = second.start_run("ppo", 0, {})
    second.log_artifact(again, _file(folder / "again" / "steps.jsonl", "second"))
    second.end_run(again, "FINISHED")
    assert second.close() == 0
    assert contents(fetch(second.uri, "b-back", folder / "out")) == {"ppo-seed0/steps.jsonl": b"second"}
    future.close()


class Lossy:
    """A client whose every method does its work and then, the first time, loses the answer."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.lost: list[str] = []

    def __getattr__(self, method: str) -> Callable[..., Any]:
        def send(*args: Any, **kwargs: Any) -> Any:
            result = getattr(self._client, method)(*args, **kwargs)
            if (call := " ".join((method, *sorted(kwargs)))) not in self.lost:
                self.lost.append(call)
                raise ConnectionResetError(104, "Connection reset by peer")
            return result

        return send


def test_answer_lost_on_the_way_back_makes_no_twins(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = connect(f"sqlite:///{folder}/mlflow.db")
    lossy = Lossy(client)
    monkeypatch.setattr(tracking, "connect", lambda uri: lossy)
    monkeypatch.setattr(outbox, "FIRST_PAUSE_S", 0.01)
    tracker, lines = open_tracker(None, "b-lossy", folder)
    run = tracker.start_run("ppo", 0, {"lr": 1})
    for step in range(3):
        tracker.log_step(run, step, {"a": step})
    tracker.log_artifact(run, _file(folder / "x" / "steps.jsonl", "text"))
    tracker.end_run(run, "FINISHED")
    assert wait_for(lambda: not tracker.outbox.records and not tracker.outbox.files, 30)
    assert tracker.close() == 0
    monkeypatch.undo()
    batches = {"log_batch params synchronous", "log_batch metrics synchronous"}
    assert {call for call in lossy.lost if "batch" in call} == batches
    assert lines == [
        f"MLflow at {tracker.uri}: Connection reset by peer; training goes on, the local journal keeps every record"
    ]
    (parent,) = search(client, [tracker._experiment], "tags.`paribus.kind` = 'benchmark'")
    assert parent.data.params == {"regime": "same_batch"}
    (child,) = children(client, tracker._experiment, parent.info.run_id)
    assert child.data.params == {"lr": "1"}
    assert history(tracker.uri, child.info.run_id, "a") == [(0, 0.0), (1, 1.0), (2, 2.0)]


def test_memory_is_bounded_while_nothing_can_be_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "MAX_PENDING", 100)
    tracker = Tracker(None, "s", "b", fallback=tmp_path, warn=print)
    for step in range(70):
        tracker.log_step(None, step, {"a": 1.0, "b": 2.0})
    assert tracker.undelivered == 40
    assert tracker.close() == 140


def test_deleted_experiment_is_restored(folder: Path) -> None:
    tracker, _ = open_tracker(None, "b-del", folder)
    tracker.close()
    client = connect(tracker.uri)
    client.delete_experiment(client.get_experiment_by_name("arithmetic").experiment_id)
    again, lines = open_tracker(None, "b-del2", folder)
    assert again.ready(20)
    again.close()
    assert lines == []


def test_warning_callback_that_raises_does_not_stop_tracking(folder: Path) -> None:
    tracker = Tracker(None, "s", "b", fallback=folder, warn=lambda line: 1 / 0)
    tracker.start_benchmark({})
    tracker.log_artifact(None, folder / "missing")
    tracker.log_step(None, 0, {"a": 1.0})
    assert tracker.close() == 1


def test_unknown_benchmark_is_a_user_error_and_creates_nothing(folder: Path) -> None:
    with pytest.raises(UserError, match="no benchmark"):
        find_benchmark(f"sqlite:///{folder}/other.db", "latest")
    assert not (folder / "other.db").exists()
    with pytest.raises(UserError, match="no benchmark 'b-9' of suite 's'"):
        fetch(f"sqlite:///{folder}/mlflow.db", "b-9", folder / "out", suite="s")


@pytest.mark.parametrize("bench_id", ["../x", "/etc", "", "a' or '1", ".hidden", "a" * 200])
def test_benchmark_id_that_is_no_folder_name_is_refused(tmp_path: Path, bench_id: str) -> None:
    with pytest.raises(UserError, match="benchmark id"):
        Tracker(None, "s", bench_id, fallback=tmp_path)
    with pytest.raises(UserError, match="benchmark id"):
        fetch(f"sqlite:///{tmp_path}/x.db", bench_id, tmp_path)


class HostileClient:
    """Answers like MLflow's client and its store of files, with names chosen by an attacker."""

    def __init__(self, bench_id: str = "b", arm: str = "ppo", file: str = "bench.json", size: int = 1) -> None:
        self.bench_id, self.arm, self.file, self.size = bench_id, arm, file, size

    def search_experiments(self) -> list[Any]:
        return [SimpleNamespace(experiment_id="1", name="s")]

    def search_runs(self, *_: Any, **__: Any) -> Any:
        class Page(list):  # type: ignore[type-arg]
            token = None

        tags = {"paribus.bench_id": self.bench_id, "paribus.arm": self.arm, "paribus.seed": "0"}
        info = SimpleNamespace(run_id="r", experiment_id="1")
        return Page([SimpleNamespace(info=info, data=SimpleNamespace(tags=tags))])

    def list_artifacts(self, path: str | None) -> list[Any]:
        is_dir = self.file == "loop"
        name = f"{path}/loop" if is_dir and path else self.file
        return [SimpleNamespace(path=name, is_dir=is_dir, file_size=self.size)]

    def download_artifacts(self, path: str, dst: str) -> str:
        (Path(dst) / "got").write_text("x")
        return str(Path(dst) / "got")


@pytest.mark.parametrize(
    "hostile",
    [
        {"bench_id": "../out"},
        {"bench_id": "/tmp/x"},
        {"arm": "../../out"},
        {"arm": "/tmp/x"},
        {"file": "../../escaped"},
        {"file": "/tmp/escaped"},
        {"file": "evals/../../../escaped"},
        {"file": "evals\\..\\x"},
        {"file": "a\x00b"},
        {"file": "link/escaped"},
        {"file": "loop"},
        {"size": 3 << 30},
    ],
    ids=str,
)
def test_name_from_a_server_never_leaves_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hostile: dict[str, Any]
) -> None:
    client = HostileClient(**hostile)
    monkeypatch.setattr(tracking_fetch, "connect", lambda uri: client)
    monkeypatch.setattr(tracking_fetch, "artifacts", lambda run, uri: client)
    dest = tmp_path / "in"
    (dest / "b").mkdir(parents=True)
    (dest / "b" / "link").symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(EvidenceError):
        fetch("http://hostile", "latest", dest)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("name", "clean"),
    [
        ("exact_match,strict-match", "exact_match_strict-match"),
        ("pass@1", "pass_1"),
        ("a//b/./../c/", "a/b/c"),
        ("/lead", "lead"),
        ("é", "_"),
        ("", "_"),
        ("..", "_"),
        ("time/rollout s: x.y-z", "time/rollout s: x.y-z"),
    ],
)
def test_metric_name_becomes_one_mlflow_accepts(name: str, clean: str) -> None:
    assert sanitise(name) == clean
    assert len(sanitise(name * 300)) <= 250


def test_flat_params_are_strings_under_dotted_names() -> None:
    nested = {"a": {"b": 1, "c": {}}, "d": None, "e": True, "f": "text", "g": [1, {"h": 2}]}
    assert flatten(nested) == {"a.b": "1", "a.c": "{}", "d": "null", "e": "true", "f": "text", "g": '[1, {"h": 2}]'}


@pytest.mark.parametrize(
    "text",
    [
        "http://user:hunter2@host:5000/x failed",
        "http://user:hun/hunter2@host",
        "http://user:p@hunter2@host",
        "postgresql://u:hunter2@db/mlflow",
        "mysql://db/x?password=hunter2&ssl=1",
    ],
)
def test_credentials_are_redacted_and_the_host_is_not(text: str) -> None:
    assert "hunter2" not in redact(text)
    assert "host" in redact(text) or "db" in redact(text)


def test_importing_the_modules_does_not_import_mlflow() -> None:
    code = "import sys, harness.tracking.tracker, harness.tracking.fetch; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


SECRETS = [
    "http://u:hun'hunter2@host/",
    'x("http://u:hun"hunter2@host/")',
    "http://u:hunter2#hunter2/hunter2@host/x",
    "mysql://db/x?password=hunter@hunter2",
    "postgresql://u:hunter2token=x@db/mlflow",
    "host access_token=hunter2",
    "host sslpassword=hunter2",
    "host AWS_SECRET_ACCESS_KEY=hunter2",
    "host client_secret=hunter2",
    "host API-KEY=hunter2",
    "host apikey=hunter2 api_key=hunter2",
    "host access_key=hunter2",
    "host passwd=hunter2 pwd=hunter2 passphrase=hunter2 token=hunter2",
    "host?X-Amz-Signature=hunter2&x=1",
    "host?sig=hunter2&x=1",
    "host?odbc_connect=a%3Db%26PWD%3Dhunter2",
    "host password='x hunter2'",
    'host password="x hunter2"',
    r'host "password=\"x hunter2\""',
    "host a.password = 'hunter2'",
    "host password=hun'hunter2",
    "host access_tokens=1.hunter2",
]


@pytest.mark.parametrize("text", SECRETS)
def test_secrets_in_settings_and_in_odd_addresses_are_masked(text: str) -> None:
    shown = redact(text)
    assert "hunter2" not in shown
    assert "***" in shown
    assert "host" in shown or not text.startswith(("http", "host"))
    assert redact(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "rollout.max_prompt_tokens=256",
        "budget.generated_tokens=1e6",
        "update.micro_batch_tokens = 16384, x",
        "tokenizer=./folder",
        "design=5 assignature=1",
        "http://host:5000/a?b=c a@b",
        "update.aggregation=token_mean",
    ],
)
def test_what_is_no_secret_is_left_as_it_is(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize(
    "part", ["://", "http://u:p@", "password", "password=", "pwd", "token", "tokens=1.", "password='x", "\\'", "sig"]
)
def test_masking_a_long_text_comes_to_an_end(part: str) -> None:
    """In time that grew with the square of the length this would take hours."""
    assert len(redact(part * (3_000_000 // len(part)))) <= 3_100_000


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("http://user:hunter2#x@host", "an '@' outside its host part"),
        ("http://user:hunter2/x@host", "an '@' outside its host part"),
        ("HTTPS://user:hunter2?x@host", "an '@' outside its host part"),
        ("http://user:hunter2", "its port is no number"),
        ("http://hunter2:99999", "its port is no number"),
        ("http://[hunter2", "its host part cannot be read"),
        ("http://user:hunter2@", "no host"),
        ("http:/hunter2", "no host"),
        ("http://host/#hunter2", "a fragment"),
        ("http://user:hunter2 @host", "whitespace, quotes or control"),
        ("http://user:hunter2'@host", "whitespace, quotes or control"),
        ("\thttp://hunter2", "whitespace, quotes or control"),
        ("http://host/\x1bhunter2", "whitespace, quotes or control"),
        ("postgresql://user:hunter2 @db/x", "in its user or password"),
        ('mysql+pymysql://user:hunter2"@db/x', "in its user or password"),
    ],
)
def test_an_address_that_is_none_is_refused_and_not_repeated(tmp_path: Path, uri: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        Tracker(uri, "s", "b", fallback=tmp_path)
    assert said in str(caught.value)
    assert "percent-encoded (%23 for #" in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "uri",
    [
        "http://user:p%23x@host:5000/mlflow", "https://host", "http://[::1]:5000", "sqlite:////a b/it's@x.db",
        "file:///a b@c", "postgresql://u:p@db/x?options='a b'", "mlruns folder", "databricks",
    ],
)  # fmt: skip
def test_an_address_that_is_one_is_taken_as_it_is(tmp_path: Path, uri: str) -> None:
    assert tracking_uri(uri, tmp_path) == uri


class Endless(HostileClient):
    """Claims a byte and writes until it is stopped."""

    def download_artifacts(self, path: str, dst: str) -> str:
        with (Path(dst) / "got").open("wb", buffering=0) as got:
            for _ in range(1 << 10):
                got.write(b"x" * (64 << 10))
        return str(Path(dst) / "got")


@pytest.fixture
def hostile(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[HostileClient], None]]:
    def answer(client: HostileClient) -> None:
        monkeypatch.setattr(tracking_fetch, "connect", lambda uri: client)
        monkeypatch.setattr(tracking_fetch, "artifacts", lambda run, uri: client)

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield answer
    assert resource.getrlimit(resource.RLIMIT_FSIZE) == before


def test_a_download_that_does_not_end_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hostile: Callable[[HostileClient], None]
) -> None:
    hostile(client := Endless())
    monkeypatch.setattr(tracking_fetch, "MAX_BYTES", 1 << 20)
    with pytest.raises(EvidenceError, match=r"^http://host: more than 20000 files or 1048576 bytes$"):
        fetch("http://host", "latest", tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    with pytest.raises(EvidenceError, match=r"^larger than 1 MiB$"):
        tracking_fetch._content(client, "x", {"x": 1}, tmp_path, 1 << 20)
    assert (tmp_path / "got").stat().st_size == (1 << 20) + 1


def test_every_download_has_what_the_others_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hostile: Callable[[HostileClient], None]
) -> None:
    # The child's file and the parent's have a byte each, and are said to have none.
    hostile(HostileClient(size=0))
    monkeypatch.setattr(tracking_fetch, "MAX_BYTES", 2)
    assert len(contents(fetch("http://host", "latest", tmp_path / "whole"))) == 2
    monkeypatch.setattr(tracking_fetch, "MAX_BYTES", 1)
    with pytest.raises(EvidenceError, match="more than"):
        fetch("http://host", "latest", tmp_path / "part")
    assert list(contents(tmp_path / "part" / "b")) == ["ppo-seed0/bench.json"]


# MLflow does not close the connection of a download that fails.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_server_that_streams_without_end_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow's own client of files, which writes in a thread of its own."""
    sent: list[int] = []
    listed: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            place, _, query = self.path.partition("?")
            self.send_response(200)
            self.end_headers()
            if query:
                # Once the child and the parent have been listed, it is a folder in a folder without an end.
                listed.append({"path": "bench.json", "is_dir": len(listed) > 1, "file_size": 10})
                self.wfile.write(json.dumps({"files": listed[-1:]}).encode())
            elif place.endswith("/bench.json"):
                with contextlib.suppress(OSError):
                    while sum(sent) < 64 << 20:
                        sent.append(self.wfile.write(b"x" * (64 << 10)))

        def log_message(self, *_: object) -> None:
            pass

    client = HostileClient()
    # Another test's tracker may still be importing MLflow in its thread: this waits for it.
    connect("http://127.0.0.1:9")
    runs = client.search_runs()
    runs[0].info.artifact_uri = "mlflow-artifacts:/1/r/artifacts"
    monkeypatch.setattr(client, "search_runs", lambda *_, **__: runs, raising=False)
    monkeypatch.setattr(tracking_fetch, "connect", lambda uri: client)
    monkeypatch.setattr(tracking_fetch, "MAX_BYTES", 1 << 20)
    monkeypatch.setenv("MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD", "false")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        try:
            with pytest.raises(EvidenceError, match="more than 20000 files or 1048576 bytes"):
                fetch(f"http://127.0.0.1:{listening.server_port}", "latest", tmp_path)
        finally:
            listening.shutdown()
            thread.join()
    gc.collect()
    assert sum(sent) < 64 << 20
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("kind", ["link", "folder", "pipe", "device"])
def test_only_regular_files_of_a_store_on_this_machine_are_taken(folder: Path, kind: str) -> None:
    tracker, _, _ = log_whole_benchmark(None, "b-odd", folder)
    assert tracker.close() == 0
    (report,) = (folder / "mlartifacts").glob("*/artifacts/report.html")
    report.unlink()
    (folder / "secret").mkdir()
    (folder / "secret" / "file").write_text("secret")
    if kind == "pipe":
        os.mkfifo(report)
    else:
        targets = {"link": folder / "secret" / "file", "folder": report.parent / "base", "device": Path("/dev/zero")}
        report.symlink_to(targets[kind])
    with pytest.raises(EvidenceError, match="is no regular file"):
        fetch(tracker.uri, "b-odd", folder / "out")
    assert b"secret" not in contents(folder / "out").values()


def test_a_fetch_that_breaks_off_is_not_taken_for_a_whole_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker, _, original = log_whole_benchmark(None, "b-part", folder)
    assert tracker.close() == 0
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracker.uri)
    whole = contents(original)
    download = tracking_fetch._downloaded
    for last in range(len(whole) + 1):
        left = iter(range(last))

        def breaks(*given: Any, left: Iterator[int] = left) -> Any:
            if next(left, None) is None:
                raise ConnectionResetError(104, "Connection reset by peer")
            return download(*given)

        out = folder / f"out-{last}"
        monkeypatch.setattr(tracking_fetch, "_downloaded", breaks)
        if last < len(whole):
            with pytest.raises(InfrastructureError, match="Connection reset by peer"):
                benchmark_folder("b-part", out)
            assert len(contents(out / "b-part")) == last
        monkeypatch.setattr(tracking_fetch, "_downloaded", download)
        assert contents(benchmark_folder("b-part", out)) == whole
