"""Ending a run on request between two of its steps, so that it can go on from there."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


class Stopped(BaseException):
    """SIGTERM: whoever started this process wants it to end. No library's `except Exception` may swallow that."""


class Stopping:
    """While it is entered, SIGTERM raises Stopped; a step that has begun is finished first."""

    def __init__(self) -> None:
        self._in_step = self._asked = False

    def __enter__(self) -> Stopping:
        self._before = signal.signal(signal.SIGTERM, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGTERM, self._before)

    def _handle(self, *_: object) -> None:
        # A whole group of processes may be told, and this one by its parent again: once is enough.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self._asked = True
        if not self._in_step:
            raise Stopped

    @contextmanager
    def a_step(self) -> Iterator[None]:
        self._in_step = True
        try:
            yield
        finally:
            self._in_step = False
        if self._asked:
            raise Stopped
