"""Child processes of a benchmark: one a job, its events as they come, and how it ended.

A child that gives no sign of life for long (`harness.launch.heartbeat`) hangs: it is ended, with whatever it has
started, and started again once.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil

from harness.launch.signals import ENDING, WHERE
from harness.launch.worker import main as worker_main
from harness.run.events import Alive, Ended, Evaluating, Event, Hung, Stepped
from harness.run.job import Job
from reports.record.errors import InfrastructureError, UserError
from reports.text import clock

# Imported once in the server that children are forked from, so that a run does not pay seconds for imports.
PRELOAD = ["harness.launch.worker", "harness.run.train", "lm_eval.models.huggingface", "datasets"]
# A child that is told to end finishes its step and keeps a checkpoint, if that takes no longer.
CHILD_PATIENCE_S = 6.0
# A child that hangs writes into its log where it stands, if it still can.
LAST_WORDS_S = 1.0
# A child that has said how it ended has nothing more to do than to go.
EXIT_PATIENCE_S = 60.0
# Longer than any single call that does not come back to Python: the download of a large model, most likely.
HANG_VARIABLE, HANG_S = "PARIBUS_HANG_SECONDS", 1800.0
BEAT_S, BEATS = 5.0, 4


class Interrupted(Exception):
    """Ctrl-C or SIGTERM."""


class LocalLauncher:
    """Runs each job in a child process of this one (`harness.launch.launcher.Launcher`)."""

    def run(self, job: Job) -> Generator[Event, None, None]:
        """A child that hangs is started again once: Hung stands between the events of the two."""
        ended = yield from one_child(job)
        if ended.hung:
            yield Hung(f"{ended.reason}; it is started again")
            ended = yield from one_child(job)
        yield ended


def one_child(job: Job) -> Generator[Event, None, Ended]:
    """The events of one child but for the signs of life; returns how it ended."""
    silence_s = longest_silence()
    context = forking()
    receiver, sender = context.Pipe(duplex=False)
    beat_s = min(BEAT_S, silence_s / BEATS)
    process = context.Process(target=worker_main, args=(job, sender, beat_s), name=job.folder.name)
    process.start()
    sender.close()
    ended: Ended | None = None
    doing = "while loading"
    try:
        while (event := receive(receiver, silence_s)) is not None:
            if isinstance(event, Ended):
                ended = event
            elif not isinstance(event, Alive):
                doing = doing_after(event) or doing
                yield event
        process.join(EXIT_PATIENCE_S)
        return ended or Ended("failed", died(process.exitcode, job.folder), 1)
    except TimeoutError:
        end(process, WHERE, LAST_WORDS_S)
        reason = f"it hung {doing}: no sign of life for {clock(silence_s)}; see {job.folder / 'worker.log'}"
        return ended or Ended("failed", reason, InfrastructureError.exit_code, hung=True)
    finally:
        if process.is_alive():
            end(process, signal.SIGTERM, CHILD_PATIENCE_S)
        process.join()
        receiver.close()


def forking() -> ForkServerContext:
    """What children are forked by: a server that is asked for each, and through which the parent sees them end.

    What ends a whole group of processes must not end it, or the parent would take every child for dead and not wait for
    its checkpoint. A blocked signal stays blocked in all that comes of it, from its start on; a child lifts that.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    # It unblocks the signals itself where it is started by the server's start.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context


def longest_silence() -> float:
    """Seconds without a sign of life after which a child hangs. Raises UserError for what is no number of them."""
    text = os.environ.get(HANG_VARIABLE, str(HANG_S))
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise UserError(f"{HANG_VARIABLE}={text}: expected a number of seconds above 0")
    return seconds


def receive(connection: Connection, silence_s: float) -> Event | None:
    """The next event, or None when the child's end is closed. Raises TimeoutError where nothing comes for long.

    The wait has several parts, because a person who stops this process (Ctrl-Z) stops its child too: the part in which
    that happens is over when both go on, and the others are still to come.
    """
    if not any(connection.poll(silence_s / BEATS) for _ in range(BEATS)):
        raise TimeoutError
    try:
        event: Event = connection.recv()
    except EOFError:
        return None
    return event


def doing_after(event: Event) -> str | None:
    """What a child does once it has sent an event, where the event tells."""
    match event:
        case Stepped(record=record):
            return f"after step {record['step']}"
        case Evaluating(label=label):
            return f"in the evaluation {label!r}"
    return None


def end(process: BaseProcess, first: signal.Signals, patience_s: float) -> None:
    """Signal a child, and after a while kill what is left of it and of the processes that it has started."""
    assert process.pid is not None
    try:
        started = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        started = []
    with suppress(ProcessLookupError):
        os.kill(process.pid, first)
    process.join(patience_s)
    for each in started:
        with suppress(psutil.NoSuchProcess):
            each.kill()
    process.kill()
    process.join()


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
        for each in ENDING:
            signal.signal(each, signal.SIG_IGN)
        raise Interrupted(signal.Signals(number).name)

    before = {each: signal.signal(each, interrupt) for each in ENDING}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
