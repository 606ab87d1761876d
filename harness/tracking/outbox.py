"""What is meant for a server that may be slow, gone or broken, sent by one background thread.

Adding a delivery returns at once. What fails stays queued, within a bound, and is tried again; what the server
will never accept is lost and counted, and nothing is raised into the caller.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from harness.tracking.client import UNABLE

COLLECT_SECONDS = 2.0
MAX_PENDING = 200_000
FIRST_PAUSE_S, LONGEST_PAUSE_S, PROBE_AFTER = 1.0, 30.0, 3

# The server understood these requests and will never accept them: trying again is pointless.
REJECTIONS = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_ALREADY_EXISTS", "RESOURCE_DOES_NOT_EXIST"}


class Rejected(Exception):
    """Nothing can make this delivery succeed."""


@dataclass(frozen=True, slots=True, eq=False)
class Delivery:
    """One thing to send. `metrics` is how many values it carries; `creates` marks what all later ones need.

    send may be called again after it failed half-way.
    """

    send: Callable[[], None]
    metrics: int = 0
    creates: bool = False

    @property
    def weight(self) -> int:
        """What it counts as when it is lost."""
        return self.metrics or 1


class Outbox:
    """Records in order, and files when no record waits: a broken store of files must not hold up records.

    collect: called every few seconds and at the end, to add what has gathered; it holds `lock`.
    failed: gets each error, from the thread. answers: whether the server is alive, so that a record it keeps failing
    on is itself at fault.
    """

    def __init__(
        self, *, collect: Callable[[], None], failed: Callable[[Exception], None], answers: Callable[[], bool]
    ) -> None:
        # Reentrant. Notified whenever something was added or sent.
        self.lock = threading.Condition()
        self.records: deque[Delivery] = deque()
        self.files: deque[Delivery] = deque()
        self._collect, self._failed, self._answers = collect, failed, answers
        self._files_after = 0.0
        self._pending = self._lost = 0
        self._closing = False
        self._thread: threading.Thread | None = None

    @property
    def started(self) -> bool:
        return self._thread is not None

    def start(self, name: str) -> None:
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)
        self._thread.start()

    def reserve(self) -> bool:
        """Room for one more metric value; False counts it as lost. The caller holds the lock."""
        if self._pending >= MAX_PENDING:
            self._lost += 1
            return False
        self._pending += 1
        return True

    def add(self, delivery: Delivery, *, file: bool = False) -> None:
        with self.lock:
            (self.files if file else self.records).append(delivery)
            self.lock.notify()

    def close(self, timeout: float) -> None:
        """Try a last time to send everything."""
        with self.lock:
            self._collect()
            self._closing = True
            self.lock.notify_all()
        if self._thread is not None:
            self._thread.join(timeout)

    @property
    def undelivered(self) -> int:
        """Metric values and other deliveries lost so far; once closed, also what waits."""
        with self.lock:
            waiting = sum(delivery.weight for delivery in (*self.records, *self.files)) if self._closing else 0
            return self._lost + waiting

    def _loop(self) -> None:
        """Until closed and empty, or closed and the server does not answer."""
        pause, tries, collected = FIRST_PAUSE_S, 0, time.monotonic()
        while True:
            with self.lock:
                if not self._closing and not self._next():
                    self.lock.wait(COLLECT_SECONDS)
                if time.monotonic() - collected >= COLLECT_SECONDS:
                    collected = time.monotonic()
                    self._collect()
                queue, last_try = self._next(), self._closing
                if not queue:
                    if last_try:
                        return
                    continue
                delivery = queue[0]
            try:
                delivery.send()
            except Exception as error:
                self._failed(error)
                tries += 1
                is_file = queue is self.files
                blameless = is_file or UNABLE.search(str(error))
                answers = not blameless and (last_try or tries >= PROBE_AFTER) and self._answers()
                if last_try and not is_file and not answers:
                    return
                if last_try or ((answers or is_final(error)) and not delivery.creates):
                    tries = 0
                    self._done(queue, delivery, lost=True)
                    continue
                self._wait(pause, is_file)
                pause = min(2 * pause, LONGEST_PAUSE_S)
            else:
                pause, tries = FIRST_PAUSE_S, 0
                self._done(queue, delivery, lost=False)

    def _next(self) -> deque[Delivery]:
        """The queue to serve: files where no record waits and no pause after a failed file is running."""
        files_may = self._closing or time.monotonic() >= self._files_after
        return self.files if not self.records and files_may else self.records

    def _wait(self, pause: float, is_file: bool) -> None:
        """After a failure: records wait for the one that failed, files for their next turn."""
        with self.lock:
            if is_file:
                self.files.rotate(-1)
                self._files_after = time.monotonic() + pause
            else:
                self.lock.wait_for(lambda: self._closing, pause)

    def _done(self, queue: deque[Delivery], delivery: Delivery, *, lost: bool) -> None:
        with self.lock:
            queue.remove(delivery)
            self._pending -= delivery.metrics
            self._lost += delivery.weight * lost
            self.lock.notify_all()


def is_final(error: Exception) -> bool:
    return isinstance(error, (Rejected, FileNotFoundError)) or getattr(error, "error_code", None) in REJECTIONS
