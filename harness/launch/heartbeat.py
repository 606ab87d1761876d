"""A sign of life from a process that works, none from one that hangs.

While its main thread moves, a child process says so. At every beat the place where the thread stands, in all of its
frames, is held against the last one seen. Loading, compiling and a long evaluation move from place to place; a lock
that nobody gives back, a device that does not answer and a stopped process do not. So slow is told from hung without
a limit on any piece of work, and the work itself need not call anything.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from types import CodeType, TracebackType

Place = tuple[tuple[CodeType, int], ...]


class Heartbeat:
    """While it is entered, calls `beat` every `every_s` seconds in which the entering thread has moved.

    beat: called from another thread. Where it finds nobody listening any more (OSError), or another process has become
    this one's parent, its own is lost and it is ended at once, also if it hangs; what is on the disk is whole at every
    moment.
    """

    def __init__(self, beat: Callable[[], None], every_s: float) -> None:
        self.beat, self.every_s = beat, every_s
        self._left, self._parent = threading.Event(), os.getppid()

    def __enter__(self) -> Heartbeat:
        watched = threading.get_ident()
        self._thread = threading.Thread(target=self._watch, args=(watched,), name="heartbeat", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left.set()
        self._thread.join()

    def _watch(self, thread: int) -> None:
        last: Place = ()
        while not self._left.wait(self.every_s):
            if os.getppid() != self._parent:
                os._exit(1)
            now = place_of(thread)
            if now != last:
                try:
                    self.beat()
                except OSError:
                    os._exit(1)
            last = now


def place_of(thread: int) -> Place:
    """Where a thread stands: the code and the instruction of each of its frames, the innermost first."""
    frame = sys._current_frames().get(thread)
    found = []
    while frame is not None:
        found.append((frame.f_code, frame.f_lasti))
        frame = frame.f_back
    return tuple(found)
