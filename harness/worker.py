"""What a child process does: evaluate the base policy, or train one run and evaluate what came of it.

Each run has a process of its own, so that one run's memory, random state or crash is no other's. The child keeps
the local journal and sends the same records to its parent, which alone displays them and talks to MLflow. What the
child or its libraries print goes to `worker.log` in the run's folder.
"""

from __future__ import annotations

import os
import pkgutil
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from harness.journal import Journal, write_json
from harness.spec import RunSpec
from harness.types import UserError, stable_hash


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
    """One child's work. Without an arm's training (`train` false) it evaluates the base policy."""

    spec: RunSpec
    seed: int
    train: bool
    folder: Path
    registry: Registry


Emit = Callable[[dict[str, Any]], None]


def main(job: Job, connection: Connection) -> None:
    """Entry point of the child. The last event is `end` with a status; none means the process died."""
    job.folder.mkdir(parents=True, exist_ok=True)
    log = os.open(job.folder / "worker.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, sys.stdout.fileno())
    os.dup2(log, sys.stderr.fileno())

    def end(status: str, reason: str | None = None, exit_code: int = 0) -> None:
        connection.send({"event": "end", "status": status, "reason": reason, "exit_code": exit_code})

    try:
        (train if job.train else evaluate_base)(job, connection.send)
        end("finished")
    except UserError as error:
        end("failed", str(error), error.exit_code)
    except Exception as error:
        traceback.print_exc()
        status, reason = judge(error)
        end(status, reason, 1)
    finally:
        connection.close()


def judge(error: Exception) -> tuple[str, str]:
    """A run's status from what ended it, and the reason in one line."""
    import torch

    from harness.update import Diverged

    reason = f"{type(error).__name__}: {error}".splitlines()[0][:300]
    if isinstance(error, Diverged):
        return "diverged", str(error)
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return "out_of_memory", reason
    return "failed", reason


def assemble(job: Job) -> Any:
    """Load the weights and put the run's parts together; nothing is loaded that no setting asks for."""
    import torch

    from harness.loop import Parts
    from harness.policy import Critic, Policy

    spec, registry = job.spec, job.registry
    torch.manual_seed(stable_hash(spec.suite.name, job.seed))
    task = registry.resolve("tasks", spec.suite.task, "suite.task")
    algorithm = registry.resolve("algorithms", spec.algorithm, f"arms.{spec.arm}.algorithm")(spec)
    policy = Policy.load(
        spec.model, temperature=spec.rollout.temperature, gradient_checkpointing=spec.update.gradient_checkpointing
    )
    engine = registry.resolve("engines", spec.rollout.engine, "rollout.engine")(policy, spec)
    critic = Critic(policy, spec.critic) if job.train and algorithm.needs_critic else None
    reference = policy.frozen_copy() if job.train and spec.kl.placement != "none" else None
    return Parts(spec, job.seed, task, algorithm, policy, engine, critic, reference)


def evaluate_base(job: Job, emit: Emit) -> None:
    from harness.budget import Spent
    from harness.environment import describe

    parts = assemble(job)
    emit({"event": "environment", "environment": describe()})
    run_evaluation(parts, job.folder, "base", Spent(), emit)
    parts.engine.close()


def train(job: Job, emit: Emit) -> None:
    """Train until the budget is spent, evaluating on the way where the suite asks for it, and at the end."""
    from harness.checkpoint import save_policy
    from harness.loop import Run

    parts = assemble(job)
    run, spec = Run(parts), job.spec
    evaluations = 0
    with Journal(job.folder / "steps.jsonl") as steps, Journal(job.folder / "samples.jsonl") as samples:
        while not run.spent.exhausted(spec.budget):
            record = run.step()
            steps.append(record)
            for sample in run.samples:
                samples.append(sample)
            if record["step"] == 1:
                emit({"event": "evidence", "evidence": run.evidence})
            emit({"event": "step", "record": record, "fraction": run.spent.fraction(spec.budget)})
            if spec.eval.every is None or run.spent.exhausted(spec.budget):
                continue
            due = int(run.spent.fraction(spec.budget) / spec.eval.every)
            if due > evaluations:
                evaluations = due
                run_evaluation(parts, job.folder, f"step-{record['step']:06d}", run.spent, emit)
    run.meter.close()
    run_evaluation(parts, job.folder, "final", run.spent, emit)
    if spec.checkpoint.final:
        save_policy(parts.policy, job.folder / "final")
    parts.engine.close()


def run_evaluation(parts: Any, folder: Path, label: str, spent: Any, emit: Emit) -> None:
    """Evaluate, keep every question's sample in the run's folder, and send the figures on."""
    from harness.evaluate import evaluate

    table = parts.spec.eval
    cap = table.max_completion_tokens or parts.spec.rollout.max_completion_tokens
    emit({"event": "evaluating", "label": label})
    results = evaluate(
        parts.policy, parts.engine, parts.task, table, label=label, step=spent.steps, spent=spent, cap=cap
    )
    for result in results:
        write_json(folder / "evals" / f"{label}-{result['task']}.json", result)
        emit(
            {"event": "eval", "label": label, "task": result["task"], "step": spent.steps, "metrics": result["metrics"]}
        )
    assert all(result["spent"] == asdict(spent) for result in results)
