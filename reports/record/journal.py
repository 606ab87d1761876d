"""The local record of a run: JSON lines that survive a crash, and JSON files that are never seen half-written.

A run appends one flat dict per step and flushes it, so a killed process loses at most the line it was writing.
Such a torn tail has no line end; it is tolerated on reading and cut off when the journal is opened again. Any
other broken line means somebody changed the evidence, and is an error that names file and line.

JSON has no NaN: a non-finite number is written as null and its name is kept under "nonfinite", so that a loss
that exploded stays visible instead of turning into a missing value.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NoReturn

from reports.record.errors import EvidenceError, InfrastructureError

NONFINITE = "nonfinite"
# Columns of a step's record that are measured. All others are determined by configuration, seed and arithmetic, and
# repeat to the bit on the same machine.
MEASURED = ("time/", "throughput/", "memory/", "budget/device_seconds", "budget/energy_joules")
TAIL_BLOCK = 1 << 16


def _finite(value: Any, name: str, dropped: list[str]) -> Any:
    """A copy of `value` with null for every non-finite number; their dotted names are added to `dropped`."""
    if isinstance(value, float) and not math.isfinite(value):
        dropped.append(name)
        return None
    if isinstance(value, Mapping):
        return {key: _finite(item, f"{name}.{key}" if name else str(key), dropped) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item, f"{name}.{index}", dropped) for index, item in enumerate(value)]
    return value


def encode_line(record: Mapping[str, Any]) -> bytes:
    """`record` as one JSON line. ASCII only, so that no text a model produced (lone surrogates) can break it."""
    dropped: list[str] = []
    clean = _finite(record, "", dropped)
    if dropped:
        clean[NONFINITE] = sorted({*(record.get(NONFINITE) or ()), *dropped})
    return json.dumps(clean, allow_nan=False, separators=(",", ":")).encode("ascii") + b"\n"


def append_line(path: Path, record: Mapping[str, Any]) -> None:
    """Append one record and close the file again; for what happens rarely. Use `Journal` for every step."""
    with Journal(path) as journal:
        journal.append(record)


class Journal:
    """An append-only file of JSON lines, flushed after each.

    Opening creates the folder and the file, and cuts off the torn line that a crash may have left: appending
    behind it would turn a tolerable torn tail into a broken line in the middle.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _mend_tail(path)
            self._file: IO[bytes] = path.open("ab")
        except OSError as error:
            _disk_failed(path, error)

    def append(self, record: Mapping[str, Any]) -> None:
        line = encode_line(record)
        try:
            self._file.write(line)
            self._file.flush()
        except OSError as error:
            _disk_failed(self.path, error)

    def close(self) -> None:
        """Force the lines to disk and close. Closing twice is harmless."""
        if self._file.closed:
            return
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            _disk_failed(self.path, error)
        finally:
            # A full disk makes the flush inside close fail as well; the error above has said so already.
            with suppress(OSError):
                self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def keep_steps(path: Path, last: int) -> None:
    """Drop a journal's records of steps after `last`, if it was begun: they are about to be made again."""
    if not path.is_file():
        return
    kept = b"".join(encode_line(record) for record in read_lines(path) if int(record["step"]) <= last)
    replace_file(path, kept)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a journal, in order. A torn last line is left out.

    Raises:
        EvidenceError: the file is missing, or a line is no JSON object; the message names file and line.
    """
    return [record for _, record in numbered_lines(path, torn_end_allowed=True)]


def numbered_lines(
    path: Path, *, torn_end_allowed: bool, or_none: bool = False
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) for every line of a journal. `or_none`: one that was never begun has no lines.

    A torn last line is left out or refused: a killed run may leave half a line, a finished one may not. Raises
    EvidenceError as `read_lines` does.
    """
    try:
        pieces = path.read_bytes().split(b"\n")
    except OSError as error:
        if or_none and isinstance(error, FileNotFoundError):
            return
        raise EvidenceError(f"{path}: cannot be read ({error.strerror})") from error
    for number, piece in enumerate(pieces, 1):
        last = number == len(pieces)
        if last and (not piece or (torn_end_allowed and not _is_complete(piece))):
            return
        try:
            yield number, parse_object(piece)
        except ValueError as error:
            raise EvidenceError(f"{path}, line {number}: {error}") from None


def write_json(path: Path, obj: Any) -> None:
    """Write `obj` so that a reader sees the old file or the new one, never a part. Non-finite numbers become null."""
    text = json.dumps(_finite(obj, "", []), allow_nan=False, indent=2) + "\n"
    replace_file(path, text.encode("ascii"))


def replace_file(path: Path, content: bytes) -> None:
    """Through a temporary file beside it: a reader sees the old file or the new one, never half of either."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        _disk_failed(path, error)


def read_json(path: Path) -> Any:
    """The content of a JSON file; EvidenceError in one line where it is missing or broken."""
    try:
        value = parse(path.read_bytes())
    except OSError as error:
        raise EvidenceError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise EvidenceError(f"{path}: {error}") from None
    try:
        require_finite(value)
    except ValueError as error:
        raise EvidenceError(f"{path}: not valid JSON ({error})") from None
    return value


def parse(data: bytes) -> Any:
    """A JSON text, as Python reads it. Raises ValueError, which says in one line why it is none."""
    try:
        return json.loads(data.decode("utf-8"))
    except RecursionError:
        reason = "nested too deep"
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        reason = str(error)
    # What Python says of its own limits is no help to whoever wrote the file.
    except ValueError:
        reason = "a number of thousands of digits"
    raise ValueError(f"not valid JSON ({reason})")


def require_finite(value: Any) -> None:
    """Python reads NaN and Infinity, which JSON has not. Raises ValueError naming the place of one."""
    left = [("", value)]
    while left:
        name, value = left.pop()
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{name} = {value}: JSON has no such number")
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        left += [(f"{name}.{key}" if name else str(key), item) for key, item in items]


def parse_object(data: bytes) -> dict[str, Any]:
    value = parse(data)
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    require_finite(value)
    return value


def _is_complete(tail: bytes) -> bool:
    """Whether a line without its line end is whole: no proper prefix of a JSON object parses as one."""
    try:
        parse_object(tail)
    except ValueError:
        return False
    return True


def _mend_tail(path: Path) -> None:
    """Make an existing journal end in a line end: finish a whole last line, cut off a torn one."""
    if not path.exists() or not path.stat().st_size:
        return
    with path.open("r+b") as file:
        end = file.seek(0, os.SEEK_END)
        tail = b""
        start = end
        while start and b"\n" not in tail:
            step = min(TAIL_BLOCK, start)
            start -= step
            file.seek(start)
            tail = file.read(step) + tail
        tail = tail.rpartition(b"\n")[2]
        if not tail:
            return
        if _is_complete(tail):
            file.seek(end)
            file.write(b"\n")
        else:
            file.truncate(end - len(tail))


def _disk_failed(path: Path, error: OSError) -> NoReturn:
    raise InfrastructureError(f"{path}: cannot be written ({error.strerror})") from error
