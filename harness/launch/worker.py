"""What a child process does: evaluate the base policy, or train one run and evaluate what came of it.

Each run has a process of its own, so that one run's memory, random state or crash is no other's. The child keeps
the local journal and sends the same records to its parent, which alone displays them and talks to MLflow. What the
child or its libraries print goes to `worker.log` in the run's folder.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

from harness.config.tables import RunSpec
from harness.launch.heartbeat import Heartbeat
from harness.launch.signals import ENDING, WHERE
from harness.model.loading import cache_folder, device
from harness.run.assemble import assemble
from harness.run.disk import is_full
from harness.run.events import Alive, Conditions, Emit, Ended, Environment, Event, Peak, Warned
from harness.run.interrupt import Stopped
from harness.run.job import Job
from reports.record.errors import InfrastructureError, UserError, printable
from reports.record.folder import locked
from suites.task import DataError


def main(job: Job, connection: Connection, beat_s: float) -> None:
    """Entry point of the child. The last event is Ended; none means the process died.

    beat_s: seconds between the signs of life.
    """
    # The parent decides what a Ctrl-C on the whole group of processes means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
    sending = threading.Lock()

    def emit(event: Event) -> None:
        with sending:
            connection.send(event)

    with Heartbeat(lambda: emit(Alive()), beat_s):
        try:
            log_into(job.folder)
            # A child whose parent was killed lives on until it next has something to say.
            with locked(job.folder, wait=True):
                {"base": evaluate_base, "fit": fit, "train": train}[job.kind](job, emit)
            emit(Ended("finished", None, 0))
        except Stopped:
            emit(Ended("interrupted", "stopped; it can be resumed", 0))
        except (UserError, DataError) as error:
            emit(Ended("failed", printable(str(error)), error.exit_code))
        except Exception as error:
            with suppress(OSError):
                traceback.print_exc()
            emit(ended_by(error))
    connection.close()


def log_into(folder: Path) -> None:
    """From here on, what this process and its libraries print goes into the folder's `worker.log`."""
    folder.mkdir(parents=True, exist_ok=True)
    log = os.open(folder / "worker.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, sys.stdout.fileno())
    os.dup2(log, sys.stderr.fileno())
    # Where the process stood when it crashed, or when its parent asks because it hangs.
    faulthandler.enable()
    faulthandler.register(WHERE)


def ended_by(error: Exception) -> Ended:
    """The end of the work that an exception means: its status, the reason in one line, the exit code."""
    from harness.learn.optimizer import Diverged
    from harness.measure.memory_cap import DoesNotFit

    if isinstance(error, Diverged):
        return Ended("diverged", str(error), 1)
    if isinstance(error, DoesNotFit):
        where = {"phase": error.phase, "component": error.component}
        return Ended("out_of_memory", str(error), 1, where)
    if is_full(error):
        return Ended("failed", in_one_line(error), InfrastructureError.exit_code)
    return Ended("failed", in_one_line(error), 1)


def in_one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]


def evaluate_base(job: Job, emit: Emit) -> None:
    from harness.engines.cached import RememberingEngine
    from harness.measure.budget import Spent
    from harness.measure.environment import describe
    from harness.run.train import run_evaluation

    parts = assemble(job)
    memory = cache_folder() / "completions"
    engine = RememberingEngine(parts.engine, parts.models.policy, memory, lambda line: emit(Warned(line)))
    parts = replace(parts, engine=engine)
    parameters = sum(parameter.numel() for parameter in parts.models.policy.model.parameters())
    emit(Environment(describe(), parameters))
    run_evaluation(parts, job.folder, "base", Spent(), emit)
    parts.engine.close()


def fit(job: Job, emit: Emit) -> None:
    """Whether steps with this micro-batch stay under the memory cap; as the event Peak, the most that they took.

    Completions are sampled to their cap, so that no step of a run needs more, and there are two steps, since the
    optimizers make their state at the end of the first. A process tries one size: what the allocator keeps of a try
    that failed would be charged to the next. Raises DoesNotFit.
    """
    from harness.run.loop import Run

    longest = job.spec.rollout.model_copy(update={"ignore_eos": True})
    steady = job.spec.critic.model_copy(update={"warmup_steps": 0})
    job = job._replace(spec=job.spec.model_copy(update={"rollout": longest, "critic": steady}))

    with under_the_cap(job.spec):
        run, peaks = Run(assemble(job)), []
        for _ in range(2):
            run.step()
            peaks.append(run.meter.peak_bytes())
        emit(Peak(max(peaks)))


def train(job: Job, emit: Emit) -> None:
    """Train under the memory cap, with the machine's condition told before and after. Raises DoesNotFit."""
    from harness.measure.machine_state import conditions
    from harness.model.cpu_kernels import bound_caches
    from harness.model.weights import DTYPES
    from harness.run.train import train_to_the_end

    dtype = DTYPES[job.spec.model.dtype]
    bound_caches()
    before = conditions(device(), dtype)
    emit(Conditions("before", before))
    peak = before["gemm_flops_per_s"]
    with under_the_cap(job.spec):
        train_to_the_end(assemble(job), job.folder, emit, peak_flops=peak)
    emit(Conditions("after", conditions(device(), dtype)))


@contextmanager
def under_the_cap(spec: RunSpec) -> Iterator[None]:
    """Inside, the process takes at most the memory that the budget gives. Raises DoesNotFit where it needs more."""
    from harness.measure.memory_cap import capped, room_for

    cap = spec.budget.memory_gib
    with capped(int(cap * 2**30) if cap else None, device()), room_for("training", "temporaries"):
        yield
