"""Loads the weights and puts a run's parts together."""

from __future__ import annotations

from typing import Any

from harness.run.job import Job
from suites.task import stable_hash


def assemble(job: Job) -> Any:
    """Load the weights and put the run's parts together; nothing is loaded that no setting asks for.

    Raises DoesNotFit where there is no room for them.
    """
    from harness.measure.memory_cap import room_for

    with room_for("loading", "weights"):
        return _assemble(job)


def _assemble(job: Job) -> Any:
    import torch

    from harness.model.policy import Policy
    from harness.model.run_models import RunModels
    from harness.run.parts import Parts

    spec, registry = job.spec, job.registry
    torch.manual_seed(stable_hash(spec.suite.name, job.seed))
    task = registry.resolve("tasks", spec.suite.task, "suite.task")
    algorithm = registry.algorithm(spec)
    policy = Policy.load(
        spec.model, temperature=spec.rollout.temperature, gradient_checkpointing=spec.update.gradient_checkpointing,
        # Evaluating the base policy came first.
        cached=job.kind != "base",
    )  # fmt: skip
    engine = registry.resolve("engines", spec.rollout.engine, "rollout.engine").build(policy, spec)
    trains = job.kind != "base"
    models = RunModels.of(policy, spec, needs_critic=algorithm.needs_critic) if trains else RunModels(policy)
    return Parts(spec, job.seed, task, algorithm, models, engine)
