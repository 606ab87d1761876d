"""What recording in MLflow and reading from it share: the connection, the store and searches.

Importing mlflow takes seconds, so it happens inside functions, here and in the other tracking modules. No module
but these imports it.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from harness.tracking.process_id import began, has_ended, host
from harness.tracking.redact import address_fault
from reports.record.errors import UserError

# No benchmark has as many: a server that never stops sending pages is not followed for ever.
MAX_RUNS = 20_000

# What a database says of itself: it will take later what it does not take now. (MLflow waits 20 s for a lock.)
UNABLE = re.compile(r"is locked|disk is full|disk I/O error|readonly database|unable to open database")

RAM_FOLDER = Path("/dev/shm")


def tracking_uri(uri: str | None, fallback: Path) -> str:
    """The given URI, else $MLFLOW_TRACKING_URI, else a SQLite file in `fallback`. Raises UserError where it is none."""
    given = uri or os.environ.get("MLFLOW_TRACKING_URI")
    if given and (fault := address_fault(given)):
        raise UserError(f"{'tracking address' if uri else 'MLFLOW_TRACKING_URI'}: {fault}")
    return given or f"sqlite:///{fallback.resolve() / 'mlflow.db'}"


def connect(uri: str) -> Any:
    """A client that is quiet, sends no telemetry and gives up on a dead server within seconds."""
    for name, value in {
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
        "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
        "MLFLOW_LOGGING_LEVEL": "CRITICAL",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        # Parts that a server asks to have fetched side by side are whole in memory, whatever their size.
        "MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
    }.items():
        os.environ.setdefault(name, value)
    # Not a default: the address MLflow would print may carry a password.
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    import mlflow

    # Migrations announce themselves, urllib3 reports each retry, and MLflow the traceback of every fault of a database;
    # all would tear up the progress display, and what cannot be sent is said by whoever sends it.
    for name in ("mlflow", "alembic", "urllib3.connectionpool"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if file := sqlite_file(uri):
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.exists() and RAM_FOLDER.is_dir():
            with suppress(OSError):
                _create_store(file, mlflow.MlflowClient)
    return mlflow.MlflowClient(tracking_uri=uri)


def _create_store(file: Path, client: Callable[..., Any]) -> None:
    """Create a SQLite store in memory and put it in place whole.

    MLflow's migrations wait for the disk at every step (8.7 s on one machine, 2.2 s in memory). Where this fails,
    MLflow creates the file itself, slowly.
    """
    with tempfile.TemporaryDirectory(dir=RAM_FOLDER) as memory, tempfile.TemporaryDirectory(dir=file.parent) as beside:
        client(tracking_uri=f"sqlite:///{memory}/mlflow.db").search_experiments()
        # A link fails where another process has put its store in place meanwhile: theirs is kept.
        os.link(shutil.copyfile(f"{memory}/mlflow.db", f"{beside}/mlflow.db"), file)


def sqlite_file(uri: str) -> Path | None:
    return Path(uri.removeprefix("sqlite:///").partition("?")[0]) if uri.startswith("sqlite:///") else None


def ensure_experiment(client: Any, name: str, uri: str) -> str:
    """The id of the experiment `name`: created where missing, restored where deleted."""
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        # MLflow's own default is a folder in whatever directory the process happens to be in.
        file = sqlite_file(uri)
        location = (file.resolve().parent / "mlartifacts").as_uri() if file else None
        try:
            return client.create_experiment(name, artifact_location=location)
        except Exception:
            # Another machine may have been faster.
            experiment = client.get_experiment_by_name(name)
            if experiment is None:
                raise
    if experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment.experiment_id)
    return experiment.experiment_id


def benchmark_filter(bench_id: str | None) -> str:
    only = f" and tags.`paribus.bench_id` = '{bench_id}'" if bench_id else ""
    return f"tags.`paribus.kind` = 'benchmark'{only}"


def search(client: Any, experiments: list[str], condition: str, limit: int | None = None) -> list[Any]:
    """Runs, newest first."""
    runs: list[Any] = []
    token = None
    while True:
        page = client.search_runs(
            experiments, condition, max_results=limit or 1000, order_by=["attributes.start_time DESC"], page_token=token
        )
        runs += page
        token = page.token
        if not token or limit or len(runs) > MAX_RUNS:
            return runs


def children(client: Any, experiment: str, parent: str) -> list[Any]:
    return search(client, [experiment], f"tags.`mlflow.parentRunId` = '{parent}' and tags.`paribus.kind` = 'run'")


def own_process() -> dict[str, str]:
    """As tags, so that another process on this host can tell later whether this one has ended."""
    tags = {"paribus.host": host(), "paribus.pid": str(os.getpid())}
    return {**tags, "paribus.process_began": when} if (when := began(os.getpid())) else tags


def abandoned(client: Any, experiment: str) -> Iterator[str]:
    """Ids of runs that are marked as running and whose process, on this host, has ended without a word."""
    mine = f"tags.`paribus.host` = '{host()}' and attributes.status = 'RUNNING'"
    for run in search(client, [experiment], mine):
        pid, when = (run.data.tags.get(f"paribus.{key}", "") for key in ("pid", "process_began"))
        if re.fullmatch(r"[0-9]{1,10}", pid) and when and has_ended(int(pid), when):
            yield run.info.run_id


def artifacts(run: Any, uri: str) -> Any:
    """The store of a run's files, to list and download them.

    The client's own methods look the run up again for every file, and ask whether a model of that name was logged: five
    requests more a file on a server, and half a second for a benchmark of ten runs in a local database.
    """
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    repository = get_artifact_repository(run.info.artifact_uri, tracking_uri=uri)
    # What was listed as a file is downloaded as one: asked again, a server may call it a folder without an end.
    repository._is_directory = lambda path: False
    return repository


def folder_name(child: Any) -> str:
    return f"{child.data.tags.get('paribus.arm')}-seed{child.data.tags.get('paribus.seed')}"
