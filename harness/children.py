"""Child processes of a benchmark: one a job, its events as they come, and how it ended."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from harness.worker import Job
from harness.worker import main as worker_main

# Imported once in the server that children are forked from, so that a run does not pay seconds for imports.
PRELOAD = ["harness.worker", "harness.training", "lm_eval.models.huggingface", "datasets"]
# A child that is told to end finishes its step and keeps a checkpoint, if that takes no longer.
CHILD_PATIENCE_S = 6.0


class Interrupted(Exception):
    """Ctrl-C or SIGTERM."""


@dataclass(frozen=True)
class Ended:
    status: str
    reason: str | None
    exit_code: int
    where: dict[str, str] | None = None


def child_events(job: Job) -> Iterator[dict[str, Any] | Ended]:
    """The events of a child process, then how it ended. Closing the iterator early ends the child."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=worker_main, args=(job, sender), name=job.folder.name)
    process.start()
    sender.close()
    ended: Ended | None = None
    try:
        while (event := receive(receiver)) is not None:
            if event["event"] == "end":
                ended = Ended(event["status"], event["reason"], event["exit_code"], event["where"])
            else:
                yield event
        process.join()
        yield ended or Ended("failed", died(process.exitcode, job.folder), 1)
    finally:
        if process.is_alive():
            process.terminate()
            process.join(CHILD_PATIENCE_S)
            process.kill()
        process.join()
        receiver.close()


def receive(connection: Connection) -> dict[str, Any] | None:
    """The next event, or None when the child's end is closed."""
    try:
        return connection.recv()
    except EOFError:
        return None


def died(exit_code: int | None, folder: Path) -> str:
    """Why a child ended without a word: by the system's memory killer, most likely, where it was SIGKILL."""
    if exit_code is not None and exit_code < 0:
        name = signal.Signals(-exit_code).name
        hint = ", perhaps for lack of memory" if name == "SIGKILL" else ""
        return f"its process was ended by {name}{hint}; see {folder / 'worker.log'}"
    return f"its process ended with status {exit_code}; see {folder / 'worker.log'}"


@contextmanager
def interrupts() -> Iterator[None]:
    """Ctrl-C and SIGTERM raise Interrupted, once."""

    def interrupt(number: int, _: object) -> None:
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_IGN)
        raise Interrupted(signal.Signals(number).name)

    before = {each: signal.signal(each, interrupt) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
