"""What a child process does: evaluate the base policy, or train one run and evaluate what came of it.

Each run has a process of its own, so that one run's memory, random state or crash is no other's. The child keeps
the local journal and sends the same records to its parent, which alone displays them and talks to MLflow. What the
child or its libraries print goes to `worker.log` in the run's folder.
"""

from __future__ import annotations

import faulthandler
import os
import pkgutil
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, NamedTuple

from harness.bench_record import locked
from harness.disk import is_full
from harness.heartbeat import Heartbeat
from harness.models import cache_folder, device
from harness.spec import RunSpec
from harness.stopping import Stopped
from harness.types import InfrastructureError, UserError, stable_hash


class Registry(NamedTuple):
    """What a configuration can name, as "module:attribute"."""

    algorithms: Mapping[str, str]
    tasks: Mapping[str, str]
    engines: Mapping[str, str]

    def resolve(self, kind: str, name: str, key: str) -> Any:
        """The object behind a name. Raises UserError for a name that is not registered."""
        known: Mapping[str, str] = getattr(self, kind)
        if name not in known:
            raise UserError(f"{key} = {name!r}: accepted: {', '.join(sorted(known))}")
        return pkgutil.resolve_name(known[name])


class Job(NamedTuple):
    """One child's work: evaluate the base policy, find the largest micro-batch that fits, or train a run."""

    kind: Literal["base", "fit", "train"]
    spec: RunSpec
    seed: int
    folder: Path
    registry: Registry


# What asks a process to end.
ENDING = (signal.SIGINT, signal.SIGTERM)
# What makes a child write into its log where it stands.
WHERE = signal.SIGUSR1

Emit = Callable[[dict[str, Any]], None]


def main(job: Job, connection: Connection, beat_s: float) -> None:
    """Entry point of the child. The last event is `end` with a status; none means the process died.

    beat_s: seconds between the signs of life, the event `alive`.
    """
    # The parent decides what a Ctrl-C on the whole group of processes means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
    sending = threading.Lock()

    def emit(event: dict[str, Any]) -> None:
        with sending:
            connection.send(event)

    def end(status: str, reason: str | None = None, exit_code: int = 0, where: dict[str, str] | None = None) -> None:
        emit({"event": "end", "status": status, "reason": reason, "exit_code": exit_code, "where": where})

    with Heartbeat(lambda: emit({"event": "alive"}), beat_s):
        try:
            log_into(job.folder)
            # A child whose parent was killed lives on until it next has something to say.
            with locked(job.folder, wait=True):
                {"base": evaluate_base, "fit": fit, "train": train}[job.kind](job, emit)
            end("finished")
        except Stopped:
            end("interrupted", "stopped; it can be resumed")
        except UserError as error:
            end("failed", str(error), error.exit_code)
        except Exception as error:
            with suppress(OSError):
                traceback.print_exc()
            end(*judge(error))
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


def judge(error: Exception) -> tuple[str, str, int, dict[str, str] | None]:
    """What ended a run: its status, the reason in one line, the exit code, and where memory ran out if it did."""
    from harness.memory_cap import DoesNotFit
    from harness.update import Diverged

    if isinstance(error, Diverged):
        return "diverged", str(error), 1, None
    if isinstance(error, DoesNotFit):
        return "out_of_memory", str(error), 1, {"phase": error.phase, "component": error.component}
    if is_full(error):
        return "failed", in_one_line(error), InfrastructureError.exit_code, None
    return "failed", in_one_line(error), 1, None


def in_one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]


def assemble(job: Job) -> Any:
    """Load the weights and put the run's parts together; nothing is loaded that no setting asks for.

    Raises DoesNotFit where there is no room for them.
    """
    from harness.memory_cap import room_for

    with room_for("loading", "weights"):
        return _assemble(job)


def _assemble(job: Job) -> Any:
    import torch

    from harness.loop import Parts
    from harness.policy import Critic, Policy

    spec, registry = job.spec, job.registry
    torch.manual_seed(stable_hash(spec.suite.name, job.seed))
    task = registry.resolve("tasks", spec.suite.task, "suite.task")
    algorithm = registry.resolve("algorithms", spec.algorithm, f"arms.{spec.arm}.algorithm")(spec)
    policy = Policy.load(
        spec.model, temperature=spec.rollout.temperature, gradient_checkpointing=spec.update.gradient_checkpointing,
        # Evaluating the base policy came first.
        cached=job.kind != "base",
    )  # fmt: skip
    engine = registry.resolve("engines", spec.rollout.engine, "rollout.engine")(policy, spec)
    critic = Critic(policy, spec.critic) if job.kind != "base" and algorithm.needs_critic else None
    reference = policy.frozen_copy() if job.kind != "base" and spec.kl.placement != "none" else None
    return Parts(spec, job.seed, task, algorithm, policy, engine, critic, reference)


def evaluate_base(job: Job, emit: Emit) -> None:
    from harness.budget import Spent
    from harness.engines.remembering import RememberingEngine
    from harness.environment import describe
    from harness.training import run_evaluation

    parts = assemble(job)
    memory = cache_folder() / "completions"
    engine = RememberingEngine(
        parts.engine, parts.policy, memory, lambda line: emit({"event": "warning", "line": line})
    )
    parts = replace(parts, engine=engine)
    parameters = sum(parameter.numel() for parameter in parts.policy.model.parameters())
    emit({"event": "environment", "environment": describe(), "parameters": parameters})
    run_evaluation(parts, job.folder, "base", Spent(), emit)
    parts.engine.close()


def fit(job: Job, emit: Emit) -> None:
    """Whether steps with this micro-batch stay under the memory cap; as the event "peak", the most that they took.

    Completions are sampled to their cap, so that no step of a run needs more, and there are two steps, since the
    optimizers make their state at the end of the first. A process tries one size: what the allocator keeps of a try
    that failed would be charged to the next. Raises DoesNotFit.
    """
    from harness.loop import Run

    longest = job.spec.rollout.model_copy(update={"ignore_eos": True})
    steady = job.spec.critic.model_copy(update={"warmup_steps": 0})
    job = job._replace(spec=job.spec.model_copy(update={"rollout": longest, "critic": steady}))

    with under_the_cap(job.spec):
        run, peaks = Run(assemble(job)), []
        for _ in range(2):
            run.step()
            peaks.append(run.meter.peak_bytes())
        emit({"event": "peak", "bytes": max(peaks)})


def train(job: Job, emit: Emit) -> None:
    """Train under the memory cap, with the machine's condition told before and after. Raises DoesNotFit."""
    from harness.conditions import conditions
    from harness.policy import DTYPES
    from harness.training import train_to_the_end

    dtype = DTYPES[job.spec.model.dtype]
    before = conditions(device(), dtype)
    emit({"event": "conditions", "when": "before", "conditions": before})
    peak = before["gemm_flops_per_s"]
    with under_the_cap(job.spec):
        train_to_the_end(assemble(job), job.folder, emit, peak_flops=peak)
    emit({"event": "conditions", "when": "after", "conditions": conditions(device(), dtype)})


@contextmanager
def under_the_cap(spec: RunSpec) -> Iterator[None]:
    """Inside, the process takes at most the memory that the budget gives. Raises DoesNotFit where it needs more."""
    from harness.memory_cap import capped, room_for

    cap = spec.budget.memory_gib
    with capped(int(cap * 2**30) if cap else None, device()), room_for("training", "temporaries"):
        yield
