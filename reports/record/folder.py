"""The lock on a benchmark's folder, and the time as its files say it."""

from __future__ import annotations

import datetime
import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reports.record.errors import UserError


@contextmanager
def locked(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """The folder for this process alone; where another has it, UserError, or waiting until it ends.

    The lock ends with the process, however that ends.
    """
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise UserError(f"{folder}: another process is running this benchmark") from None
        yield


def stamp() -> str:
    return f"{datetime.datetime.now(datetime.UTC):%Y-%m-%dT%H:%M:%SZ}"
