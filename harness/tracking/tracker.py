"""MLflow, kept off the critical path: what a benchmark records, sent by one background thread.

Every method of `Tracker` puts a piece of work in a queue and returns at once; a thread sends it. A slow or dead
server therefore costs the training nothing, and nothing here raises into the caller: the first failure is one
warning line, the work stays queued (within a bound) and is tried again. The local journal is the record that
counts; MLflow is the copy that machines share, from which `harness.tracking.fetch` rebuilds the folder a report
is made of.

Departures from MLflow's usual API: no `mlflow.start_run()` and no active run, because they are process-wide
state and mark a run FINISHED when its process dies of an exception. Statuses are set explicitly. Metric values
that are not finite are dropped and counted, because MLflow returns inf as 1.8e308. Sending a batch twice is safe:
the store ignores a metric equal in name, step, time and value.
"""

from __future__ import annotations

import math
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from harness.tracking.client import (
    abandoned,
    benchmark_filter,
    children,
    connect,
    ensure_experiment,
    folder_name,
    own_process,
    search,
    tracking_uri,
)
from harness.tracking.naming import check_bench_id, distinct, flatten, param_batches, sanitise
from harness.tracking.outbox import Delivery, Outbox, Rejected
from harness.tracking.redact import cause, redact

Status = Literal["FINISHED", "FAILED", "KILLED"]
MetricRow = tuple[str, float, int, int]  # name, value, time in ms, step
PARENT = "parent"

# MLflow's own limits.
METRICS_PER_BATCH, TAG_CHARS = 1000, 5000
FLUSH_METRICS = 500
EPOCH_NS = time.time_ns() - time.monotonic_ns()


class Tracker:
    """One benchmark in MLflow: a parent run with a child per arm and seed.

    Runs are named by the caller's side: `start_run` returns "<arm>-seed<k>", the name of the run's folder, which
    every method takes; None is the parent. The name is known at once, MLflow's id (`run_id`) only when the server
    has answered. `warn` gets one line, from the background thread. Do not fork while a tracker is open.

    uri: where to, else $MLFLOW_TRACKING_URI, else a SQLite file in the folder `fallback`.
    """

    def __init__(
        self,
        uri: str | None,
        suite: str,
        bench_id: str,
        *,
        fallback: Path,
        warn: Callable[[str], None] | None = None,
    ) -> None:
        check_bench_id(bench_id)
        self.uri = tracking_uri(uri, fallback)
        self.suite, self.bench_id = suite, bench_id
        self._warn = warn or (lambda line: print(line, file=sys.stderr))
        self.outbox = Outbox(collect=self._flush_all, failed=self._complain, answers=self._answers)
        # Run names may come again (a repeated run), so everything below is kept under a key unique to the attempt.
        self._keys: dict[str | None, str] = {None: PARENT}
        self._attempt = uuid.uuid4().hex
        self._ids: dict[str, str] = {}
        self._open: dict[str, None] = {}
        self._buffer: dict[str, list[MetricRow]] = {}
        self._nonfinite: dict[str, int] = {}
        self._settled = threading.Event()
        self._known: set[str] = set()
        self._ended: set[str] = set()
        self._resumed = self._warned = False
        self._client: Any = None
        self._experiment = ""
        # The newest attempt of a run is the one that began last, also where the clock has been set back in between.
        self._began_last = 0

    # What the caller uses: only `ready` and `close` wait for the server.

    def start_benchmark(self, params: Mapping[str, Any], tags: Mapping[str, str] | None = None) -> None:
        """Open the parent run. A benchmark that is resumed under its id gets its parent back, params untouched."""
        assert not self.outbox.started, "one tracker, one benchmark"
        self._open[PARENT] = None
        self.outbox.add(Delivery(partial(self._send_benchmark, dict(tags or {}), _now_ms()), creates=True))
        self._add_params(PARENT, params)
        self.outbox.start("mlflow-tracking")

    def ready(self, timeout: float) -> bool:
        """Wait until the parent run exists or the first attempt has failed; whether it exists.

        Creating a SQLite store takes seconds of CPU. Waiting here keeps that out of a measured training run.
        """
        self._settled.wait(timeout)
        return PARENT in self._ids

    def wait_for_ids(self, timeout: float) -> None:
        """Wait until MLflow has given every run its id, unless something could not be sent."""
        with self.outbox.lock:
            self.outbox.lock.wait_for(
                lambda: self._warned or all(key in self._ids for key in self._keys.values()), timeout
            )

    def ended_before(self, run: str) -> bool:
        """Whether a resumed benchmark's newest run of this name was ended, so that MLflow has all of its metrics."""
        return run in self._ended

    def start_run(self, arm: str, seed: int, params: Mapping[str, Any], tags: Mapping[str, str] | None = None) -> str:
        """Open a child run and return its name. Started again (a repeated run), the name means the new child."""
        run, key = f"{arm}-seed{seed}", uuid.uuid4().hex
        # The key as a tag: creating again after a lost answer finds the child instead of making a twin.
        own = {"paribus.arm": arm, "paribus.seed": str(seed), "paribus.attempt": key}
        with self.outbox.lock:
            self._keys[run] = key
            self._open[key] = None
        self.outbox.add(Delivery(partial(self._send_run, key, run, {**(tags or {}), **own}, _now_ms()), creates=True))
        self._add_params(key, params)
        return run

    def log_step(self, run: str | None, step: int, metrics: Mapping[str, float | None]) -> None:
        """Buffer the metrics of one step. Null and non-finite values are dropped and counted."""
        now = _now_ms()
        with self.outbox.lock:
            key = self._key(run)
            rows = self._buffer.setdefault(key, [])
            seen: set[str] = set()
            for name, value in metrics.items():
                number = _number(value)
                if number is None:
                    self._nonfinite[key] = self._nonfinite.get(key, 0) + 1
                elif self.outbox.reserve():
                    rows.append((distinct(sanitise(name), seen), number, now, int(step)))
            if len(rows) >= FLUSH_METRICS:
                self._flush(key)

    def log_eval(self, run: str | None, task: str, step: int, metrics: Mapping[str, float | None]) -> None:
        """Log an evaluation as `eval/<task>/<metric>`."""
        self.log_step(run, step, {f"eval/{task}/{name}": value for name, value in metrics.items()})

    def log_artifact(self, run: str | None, path: Path, artifact_path: str | None = None) -> None:
        """Upload a file into the folder `artifact_path`. It is read later: leave it unchanged until `close`."""
        self.outbox.add(Delivery(partial(self._send_file, self._key(run), path, artifact_path)), file=True)

    def log_folder(self, run: str | None, folder: Path, patterns: Iterable[str]) -> None:
        """Upload the files of `folder` that match a glob, under the same relative paths."""
        for path in sorted({found for pattern in patterns for found in folder.glob(pattern) if found.is_file()}):
            parent = path.parent.relative_to(folder).as_posix()
            self.log_artifact(run, path, None if parent == "." else parent)

    def end_run(self, run: str | None, status: Status) -> None:
        """Send what is buffered and set the final status. Ending a run twice keeps the first status."""
        self._end(self._key(run), status)

    def end_benchmark(self, status: Status) -> None:
        """End the parent run. Children still open did not finish, whatever the benchmark did."""
        for key in [key for key in self._open if key != PARENT]:
            self._end(key, "KILLED" if status == "KILLED" else "FAILED")
        self._end(PARENT, status)

    def close(self, timeout: float = 30.0) -> int:
        """Try a last time to send everything; returns `undelivered`. A benchmark nobody ended is FAILED."""
        self.end_benchmark("FAILED")
        self.outbox.close(timeout)
        return self.undelivered

    @property
    def undelivered(self) -> int:
        """Metric values and other records (params, statuses, files) lost so far; once closed, also what waits."""
        return self.outbox.undelivered

    def run_id(self, run: str | None) -> str | None:
        """MLflow's id of a run, None while the server has not created it."""
        return self._ids.get(self._key(run))

    # What is queued.

    def _key(self, run: str | None) -> str:
        """The attempt a name stands for; a name not started here may be a child of a resumed benchmark."""
        return self._keys.get(run) or str(run)

    def _add_params(self, key: str, params: Mapping[str, Any]) -> None:
        for batch in param_batches(flatten(params)):
            self.outbox.add(Delivery(partial(self._send_params, key, batch)))

    def _flush(self, key: str) -> None:
        """Move a run's buffered metrics to the queue. The caller holds the lock."""
        rows = iter(self._buffer.pop(key, ()))
        while batch := list(islice(rows, METRICS_PER_BATCH)):
            self.outbox.add(Delivery(partial(self._send_metrics, key, batch), metrics=len(batch)))

    def _end(self, key: str, status: Status) -> None:
        ended = _now_ms()
        with self.outbox.lock:
            if key not in self._open:
                return
            del self._open[key]
            self._flush(key)
            dropped = self._nonfinite.get(key, 0)
        self.outbox.add(Delivery(partial(self._send_end, key, status, dropped, ended)))

    def _flush_all(self) -> None:
        for key in list(self._buffer):
            self._flush(key)

    def _answers(self) -> bool:
        """Whether the server is alive, so that a record it keeps failing on is itself at fault."""
        try:
            self._client.get_experiment(self._experiment)
        except Exception:
            return False
        return True

    def _complain(self, error: Exception) -> None:
        self._settled.set()
        if not self._warned:
            self._warned = True
            line = (
                f"MLflow at {redact(self.uri)}: {cause(error)}; training goes on, the local journal keeps every record"
            )
            # A display that fails must not end the thread.
            with suppress(Exception):
                self._warn(line)

    # What the thread sends. Each may be called again after it failed half-way.

    def _id(self, key: str) -> str:
        if key not in self._ids:
            raise Rejected(f"run {key!r} was never started")
        return self._ids[key]

    def _send_benchmark(self, tags: Mapping[str, str], started: int) -> None:
        self._client = client = connect(self.uri)
        self._experiment = ensure_experiment(client, self.suite, self.uri)
        found = search(client, [self._experiment], benchmark_filter(self.bench_id), limit=1)
        if found:
            parent = found[0].info.run_id
            self._known = set(found[0].data.metrics)
            self._resumed = found[0].data.tags.get("paribus.attempt") != self._attempt
            for child in children(client, self._experiment, parent):
                # KILLED is what others call a run whose process is gone, whatever that had still to send.
                if folder_name(child) not in self._ids and child.info.status in ("FINISHED", "FAILED"):
                    self._ended.add(folder_name(child))
                self._ids.setdefault(folder_name(child), child.info.run_id)
                self._began_last = max(self._began_last, child.info.start_time)
                # Nothing of a process that was killed is running any more.
                if child.info.status == "RUNNING":
                    client.set_terminated(child.info.run_id, status="KILLED")
            # First whose it is now: what runs and belongs to a process that has ended may be closed by others.
            for key, value in own_process().items():
                client.set_tag(parent, key, value)
            client.update_run(parent, status="RUNNING")
        else:
            parent = self._create(
                self.bench_id, {**tags, "paribus.kind": "benchmark", "paribus.attempt": self._attempt}, started
            )
        self._ids[PARENT] = parent
        self._settled.set()
        # What a server does not let this benchmark close, another one may.
        with suppress(Exception):
            for run_id in abandoned(client, self._experiment):
                client.set_terminated(run_id, status="KILLED")

    def _send_run(self, key: str, run: str, tags: Mapping[str, str], started: int) -> None:
        found = search(self._client, [self._experiment], f"tags.`paribus.attempt` = '{key}'", limit=1)
        if found:
            self._ids[key] = found[0].info.run_id
        else:
            own = {"paribus.kind": "run", "mlflow.parentRunId": self._id(PARENT)}
            self._ids[key] = self._create(run, {**tags, **own}, started)

    def _create(self, name: str, tags: Mapping[str, str], started: int) -> str:
        own = {"paribus.suite": self.suite, "paribus.bench_id": self.bench_id}
        every = {"mlflow.source.name": "paribus", "mlflow.source.type": "LOCAL", **tags, **own, **own_process()}
        clean = {sanitise(key): redact(str(value))[:TAG_CHARS] for key, value in every.items()}
        began = max(started, self._began_last + 1)
        run = self._client.create_run(self._experiment, start_time=began, tags=clean, run_name=name)
        self._began_last = began
        return run.info.run_id

    def _send_params(self, key: str, batch: list[tuple[str, str]]) -> None:
        from mlflow.entities import Param

        # MLflow refuses to change a param, and what a resumed benchmark was started with is what counts.
        if not (key == PARENT and self._resumed):
            self._client.log_batch(self._id(key), params=[Param(*pair) for pair in batch], synchronous=True)

    def _send_metrics(self, key: str, rows: list[MetricRow]) -> None:
        from mlflow.entities import Metric

        # A resumed benchmark says again what it may have said of the base policy.
        rows = [row for row in rows if not (key == PARENT and self._resumed and row[0] in self._known)]
        self._client.log_batch(self._id(key), metrics=[Metric(*row) for row in rows], synchronous=True)

    def _send_file(self, key: str, path: Path, artifact_path: str | None) -> None:
        self._client.log_artifact(self._id(key), str(path), artifact_path)

    def _send_end(self, key: str, status: Status, dropped: int, ended: int) -> None:
        run_id = self._id(key)
        self._client.set_tag(run_id, "paribus.nonfinite_dropped", str(dropped))
        self._client.set_terminated(run_id, status=status, end_time=ended)


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _now_ms() -> int:
    """The time, as of when this process began to count: a clock that is set back meanwhile turns no history around."""
    return (EPOCH_NS + time.monotonic_ns()) // 1_000_000
