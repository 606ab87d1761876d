"""Finding benchmarks in MLflow and fetching them: a folder as a report needs it, rebuilt on any machine, or a few files
of many benchmarks, which a suite's history is read from.

What a server says is not trusted: names and sizes are checked before anything is written, and no download may write
more than is still to come.
"""

from __future__ import annotations

import errno
import os
import re
import resource
import stat
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.tracking.client import artifacts, benchmark_filter, children, connect, folder_name, search, sqlite_file
from harness.tracking.naming import BENCH_IDS, check_bench_id
from harness.tracking.redact import cause, redact
from reports.record.errors import EvidenceError, InfrastructureError, UserError
from reports.trend.past import Past

# What a download may bring, whatever the server says.
MAX_FILES, MAX_BYTES, MAX_DEPTH = 20_000, 2 << 30, 8
PROFILE = re.compile(r"[A-Za-z0-9._-]{1,64}")
FILE_NAME = re.compile(r"(?!\.{1,2}$)[^\x00-\x1f\x7f/\\:]{1,200}")
# The file by which a benchmark's folder is known.
RECORD = "bench.json"


def find_benchmark(uri: str, wanted: str, suite: str | None = None) -> tuple[str, str]:
    """(benchmark id, id of its parent run), for an id or "latest".

    Raises:
        UserError: there is no such benchmark. InfrastructureError: the server does not answer.
    """
    with _reported(uri):
        _, run = _find(uri, wanted, suite)
        return run.data.tags["paribus.bench_id"], run.info.run_id


def fetch(uri: str, wanted: str, dest: Path, suite: str | None = None) -> Path:
    """Rebuild a benchmark's folder in `dest` from MLflow alone; returns `dest/<bench_id>`.

    The parent's files lie at the top, each child's in `<arm>-seed<k>/`; of a repeated run, the newest. Files there
    already are replaced one by one, others stay. The parent's bench.json is put in place last of all, so that a folder
    that has it is whole. What a server says is not trusted: a name that would leave the folder is refused, as is more
    than MAX_FILES files or MAX_BYTES bytes, and what is no regular file.

    Raises:
        UserError, InfrastructureError: as `find_benchmark`. EvidenceError: a refused name or size.
    """
    with _reported(uri):
        client, parent = _find(uri, wanted, suite)
        root = _inside(dest, parent.data.tags["paribus.bench_id"])
        runs: dict[tuple[str, ...], Any] = {(): parent}
        for child in reversed(children(client, parent.info.experiment_id, parent.info.run_id)):
            runs[(_inside(root, folder_name(child)).name,)] = child
        refusal = f"{redact(uri)}: more than {MAX_FILES} files or {MAX_BYTES} bytes"
        planned: dict[Path, tuple[Any, str]] = {}
        files = claimed_bytes = 0
        for folder, run in runs.items():
            repository = artifacts(run, uri)
            for path, claimed in _listed(repository, run.info.run_id):
                planned[_inside(root, *folder, *path.split("/"))] = repository, path
                files, claimed_bytes = files + 1, claimed_bytes + claimed
                if files > MAX_FILES or claimed_bytes > MAX_BYTES:
                    raise EvidenceError(refusal)
        root.mkdir(parents=True, exist_ok=True)
        bytes_ = 0
        with tempfile.TemporaryDirectory(dir=root, prefix=".fetch-") as scratch:
            for target in sorted(planned, key=lambda each: each == root / RECORD):
                got, size = _downloaded(*planned[target], scratch, MAX_BYTES - bytes_, refusal)
                bytes_ += size
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(got, target)
        return root


def past_benchmarks(
    uri: str, suite: str, names: Sequence[str], *, last: int, profile: str | None, most_bytes: int
) -> Iterator[Past]:
    """The newest benchmarks of a suite, newest first, at most `last`, each with its files of these names.

    A file that is missing, cannot be had or is larger than `most_bytes` costs that file, not the others.

    Raises:
        UserError: there is no such benchmark. InfrastructureError: the server does not answer.
    """
    if profile is not None and not PROFILE.fullmatch(profile):
        raise UserError(f"--profile {profile!r}: letters, digits, '.', '_' and '-' only")
    with _reported(uri), tempfile.TemporaryDirectory(prefix="paribus-") as scratch:
        client = _client(uri)
        experiment = client.get_experiment_by_name(suite) if client else None
        only = f" and params.profile = '{profile}'" if profile else ""
        runs = experiment and search(client, [experiment.experiment_id], benchmark_filter(None) + only, limit=last)
        if not runs:
            which = f" with the profile {profile!r}" if profile else ""
            raise UserError(f"MLflow at {redact(uri)}: no benchmark of suite {suite!r}{which}")
        for run in runs:
            files, faults = _few(client, run, uri, names, Path(scratch), most_bytes)
            bench_id = run.data.tags.get("paribus.bench_id", "")
            if not BENCH_IDS.fullmatch(bench_id):
                bench_id, files = f"run {run.info.run_id}", {}
                faults = dict.fromkeys(names, "MLflow has no valid benchmark id of it")
            yield Past(bench_id, run.info.status, int(run.info.start_time or 0), files, faults)


def _few(
    client: Any, run: Any, uri: str, names: Sequence[str], scratch: Path, most_bytes: int
) -> tuple[dict[str, bytes], dict[str, str]]:
    """(content by name, fault by name) of files at the top of a run's artifacts."""
    files, faults = {}, {}
    sizes: dict[str, int] = {}
    for name in names:
        try:
            if not sizes:
                repository = artifacts(run, uri)
                sizes = {each.path: each.file_size or 0 for each in repository.list_artifacts() if not each.is_dir}
            files[name] = _content(repository, name, sizes, scratch, most_bytes)
        except UserError as error:
            faults[name] = str(error)
        except Exception as error:
            # Is it this file or the server? One that is gone raises here, too.
            client.get_run(run.info.run_id)
            faults[name] = cause(error)
    return files, faults


def _content(repository: Any, name: str, sizes: Mapping[str, int], scratch: Path, most_bytes: int) -> bytes:
    """Raises EvidenceError where the file is missing or too large."""
    if name not in sizes:
        raise EvidenceError("MLflow does not have it")
    refusal = f"larger than {most_bytes // 2**20} MiB"
    if sizes[name] > most_bytes:
        raise EvidenceError(refusal)
    # What a server claims of a size is not always what it sends.
    got, size = _downloaded(repository, name, str(scratch), most_bytes + 1, refusal)
    if size > most_bytes:
        raise EvidenceError(refusal)
    return got.read_bytes()


def _downloaded(repository: Any, path: str, scratch: str, most: int, refusal: str) -> tuple[Path, int]:
    """A file in the scratch folder, and its size. Raises EvidenceError: it is no regular one, or larger than `most`."""
    # A store of files on this machine gives what it has, which may be a link to anything.
    if folder := getattr(repository, "artifact_dir", None):
        place = Path(folder)
        for part in path.split("/"):
            place /= part
            if place.is_symlink() or (place.exists() and not (place.is_file() or place.is_dir())):
                raise EvidenceError(f"{path!r} is no regular file")
    with _bounded(most, refusal):
        got = Path(repository.download_artifacts(path, scratch))
    found = got.lstat()
    if not stat.S_ISREG(found.st_mode):
        raise EvidenceError(f"{path!r} is no regular file")
    if found.st_size > most:
        raise EvidenceError(refusal)
    return got, found.st_size


@contextmanager
def _bounded(most: int, refusal: str) -> Iterator[None]:
    """Meanwhile this process writes no file beyond `most` bytes; EvidenceError(refusal) where it would have.

    Python ignores SIGXFSZ, so that the write itself fails, in whichever thread of MLflow it is.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    own = soft == resource.RLIM_INFINITY or most < soft
    resource.setrlimit(resource.RLIMIT_FSIZE, (most if own else soft, hard))
    try:
        yield
    except Exception as error:
        if own and (getattr(error, "errno", None) == errno.EFBIG or f"[Errno {errno.EFBIG}]" in str(error)):
            raise EvidenceError(refusal) from None
        raise
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _client(uri: str) -> Any:
    """A client, or None where there is no store: connecting would create the file."""
    file = sqlite_file(uri)
    return connect(uri) if file is None or file.exists() else None


def _find(uri: str, wanted: str, suite: str | None) -> tuple[Any, Any]:
    """(client, parent run): the newest that fits."""
    bench_id = None if wanted == "latest" else wanted
    if bench_id is not None:
        check_bench_id(bench_id)
    if client := _client(uri):
        experiments = [e.experiment_id for e in client.search_experiments() if suite in (None, e.name)]
        for run in experiments and search(client, experiments, benchmark_filter(bench_id), limit=1):
            if not BENCH_IDS.fullmatch(run.data.tags.get("paribus.bench_id", "")):
                raise EvidenceError(f"MLflow at {redact(uri)}: run {run.info.run_id} has no valid benchmark id")
            return client, run
    which = (f" {bench_id!r}" if bench_id else "") + (f" of suite {suite!r}" if suite else "")
    raise UserError(f"MLflow at {redact(uri)}: no benchmark{which}")


def _listed(repository: Any, run_id: str) -> Iterator[tuple[str, int]]:
    """(path, size the server claims) of every file of a run; names are checked by whoever writes them."""
    folders, listed = [""], 0
    while folders:
        folder = folders.pop()
        for entry in repository.list_artifacts(folder or None):
            listed += 1
            if listed > MAX_FILES or entry.path.count("/") > MAX_DEPTH:
                raise EvidenceError(f"run {run_id}: too many artifacts, or nested too deep")
            if entry.is_dir:
                folders.append(entry.path)
            else:
                yield entry.path, entry.file_size or 0


def _inside(root: Path, *parts: str) -> Path:
    """`root` joined with names from a server, if that stays below `root`, also through symbolic links."""
    target = root.joinpath(*parts)
    if not all(FILE_NAME.fullmatch(part) for part in parts) or not target.resolve().is_relative_to(root.resolve()):
        raise EvidenceError(f"refused to write {'/'.join(parts)!r}: the name leaves the folder")
    return target


@contextmanager
def _reported(uri: str) -> Iterator[None]:
    """Turn whatever MLflow raises into one line without credentials."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise InfrastructureError(f"MLflow at {redact(uri)}: {cause(error)}") from None
