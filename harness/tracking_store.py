"""What recording in MLflow and reading from it share: the connection, the store, searches, and accepted names.

Importing mlflow takes seconds, so it happens inside functions, here and in the other tracking modules. No module
but these imports it.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from harness.processes import began, has_ended, host
from harness.spec import BENCH_ID
from harness.types import UserError

# MLflow's own limits.
PARAMS_PER_BATCH, PARAM_CHARS, NAME_CHARS = 100, 6000, 250
# A request may have 1 MB, and JSON writes a character with up to six.
PARAM_BATCH_CHARS = 100_000
# No benchmark has as many: a server that never stops sending pages is not followed for ever.
MAX_RUNS = 20_000

# What a database says of itself: it will take later what it does not take now. (MLflow waits 20 s for a lock.)
UNABLE = re.compile(r"is locked|disk is full|disk I/O error|readonly database|unable to open database")

RAM_FOLDER = Path("/dev/shm")
# What no address holds as it is.
UNWRITTEN = re.compile(r"[\s'\"\x00-\x1f\x7f-\x9f]")

# A setting's number of tokens is no secret, nor is the tokenizer's name.
SECRET_NAME = (
    r"password|passwd|passphrase|pwd|secret|api[_-]?key|access[_-]?key|(?:\b|(?<=%26)|(?<=%3F))sig(?:nature)?(?![\w.-])"
    r"|token(?!izer|s[ \t]{0,4}=[ \t]{0,4}[0-9][0-9_.e+]{0,20}+(?:[&\s,;)\]}'\"]|$))"
)
# The quoted part of a value is taken whole. The possessive quantifier never goes back, so the time is linear.
SECRET = re.compile(
    rf"(?i)(?P<name>(?:{SECRET_NAME})[\w.-]{{0,64}}+[\"']?[ \t]{{0,4}}(?:=|%3D)[ \t]{{0,4}})"
    r"(?P<value>(?:(?P<quote>\\{0,4}[\"'])[^\n]{0,1024}?(?P=quote))?[^&\s]*)"
)

BENCH_IDS = re.compile(BENCH_ID)


def check_bench_id(bench_id: str, what: str = "benchmark id") -> None:
    """Raises UserError where `bench_id` could not name a folder and stand in a search condition. what: it is."""
    if not BENCH_IDS.fullmatch(bench_id):
        raise UserError(f"{what} {bench_id!r}: letters, digits, '.', '_' and '-' only")


def tracking_uri(uri: str | None, fallback: Path) -> str:
    """The given URI, else $MLFLOW_TRACKING_URI, else a SQLite file in `fallback`. Raises UserError where it is none."""
    given = uri or os.environ.get("MLFLOW_TRACKING_URI")
    if given and (fault := address_fault(given)):
        raise UserError(f"{'tracking address' if uri else 'MLFLOW_TRACKING_URI'}: {fault}")
    return given or f"sqlite:///{fallback.resolve() / 'mlflow.db'}"


def address_fault(uri: str) -> str | None:
    """Why a tracking address is none, without its parts: a library that misreads it prints what it took for a port."""
    scheme, found, rest = uri.partition("://")
    kind = uri.strip().partition(":")[0].lower()
    if kind in ("http", "https"):
        fault = "whitespace, quotes or control characters in it" if UNWRITTEN.search(uri) else _web_address_fault(uri)
    elif found and not scheme.lower().startswith(("sqlite", "file")) and UNWRITTEN.search(rest.rpartition("@")[0]):
        fault = "whitespace, quotes or control characters in its user or password"
    else:
        return None
    return fault and f"{fault}; in a password such characters are percent-encoded (%23 for #, %2F for /, %3F for ?)"


def _web_address_fault(uri: str) -> str | None:
    try:
        parts = urlsplit(uri)
        if any("@" in part for part in (parts.path, parts.query, parts.fragment)):
            return "an '@' outside its host part"
        if "#" in uri:
            return "a fragment ('#') in it"
        if not parts.hostname:
            return "no host in it"
        try:
            _ = parts.port
        except ValueError:
            return "its port is no number from 0 to 65535"
    except ValueError:
        return "its host part cannot be read"
    return None


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


@lru_cache(4096)
def sanitise(name: str) -> str:
    """The name MLflow accepts for a metric, param or tag that is closest to `name`."""
    name = re.sub(r"[^A-Za-z0-9_\-. :/]", "_", name)
    parts = [part for part in name.split("/") if part not in ("", ".", "..")]
    return "/".join(parts)[:NAME_CHARS].rstrip("/") or "_"


def distinct(name: str, seen: set[str]) -> str:
    """`name`, numbered where another name has been sanitised to the same; nothing is overwritten silently."""
    number, candidate = 1, name
    while candidate in seen:
        number += 1
        candidate = f"{name[: NAME_CHARS - 8]}_{number}"
    seen.add(candidate)
    return candidate


def flatten(params: Mapping[str, Any]) -> dict[str, str]:
    """Nested params as one level of dotted names and strings; lists as JSON; too long values end in a marker."""
    flat: dict[str, str] = {}
    seen: set[str] = set()
    for key, value in _leaves(params, ""):
        text = redact(value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False))
        if len(text) > PARAM_CHARS:
            marker = f" … [truncated, {len(text)} characters]"
            text = text[: PARAM_CHARS - len(marker)] + marker
        flat[distinct(sanitise(key), seen)] = text
    return flat


def _leaves(params: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in params.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def param_batches(flat: Mapping[str, str]) -> Iterator[list[tuple[str, str]]]:
    batch: list[tuple[str, str]] = []
    size = 0
    for key, value in flat.items():
        if batch and (len(batch) == PARAMS_PER_BATCH or size + len(value) > PARAM_BATCH_CHARS):
            yield batch
            batch, size = [], 0
        batch.append((key, value))
        size += len(value) + len(key)
    if batch:
        yield batch


def redact(text: str) -> str:
    """`text` without the credentials that URIs and settings in it may carry, in time that is linear in its length."""
    return re.sub(r"\S+", _without_userinfo, SECRET.sub(_without_value, text))


def _without_value(found: re.Match[str]) -> str:
    # An '@' in it may be the one that ends a password: what is before it must still be seen to be one.
    return f"{found['name']}***{'@***' if '@' in found['value'] else ''}"


def _without_userinfo(word: re.Match[str]) -> str:
    """A password may hold quotes and more: everything up to the last '@' is taken for one."""
    scheme, _, rest = word[0].partition("://")
    _, at, host = rest.rpartition("@")
    return f"{scheme}://***@{host}" if at else word[0]


def cause(error: Exception) -> str:
    """What went wrong, in one line: MLflow wraps "connection refused" in four layers of class names."""
    text = redact(str(error)) or type(error).__name__
    if system := re.search(r"\[Errno -?\d+\] ([\w ,]+)", text):
        return system.group(1) + (f" ({error.filename})" if isinstance(error, OSError) and error.filename else "")
    if database := re.search(r"\([A-Za-z0-9_]+\.[\w.]*Error\) ([^\n]{1,240})", text):
        return database.group(1)
    if "timeout" in text.lower():
        return "no answer in time"
    if wrapped := re.search(r"Caused by \w{1,60}\(['\"]([^'\"]{1,120})", text):
        return wrapped.group(1).rstrip(".")
    return text.splitlines()[0][:240]
