"""What has to be true of a benchmark before anything of it is run: matched arms, known names, readable data."""

from __future__ import annotations

from harness.config import matching
from harness.config.tables import BenchSpec
from harness.model.loading import locate
from harness.registry import Registry
from reports.record.errors import UserError
from suites.task import Task


def audited(bench: BenchSpec, registry: Registry, source: str) -> matching.Audit:
    """The matching audit of arms that can run. Raises UserError naming `source` for any that cannot."""
    audit = matching.audit(bench)
    matching.require_matched(audit, source)
    try:
        locate(bench.model.name)
        registry.resolve("tasks", bench.suite.task, "suite.task")
        for arm in bench.arms:
            spec = bench.run_spec(arm)
            registry.resolve("engines", spec.rollout.engine, "rollout.engine").require()
            registry.algorithm(spec)
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
    return audit


def check_data(bench: BenchSpec, registry: Registry, source: str) -> None:
    """Read every prompt and gold answer. Raises UserError, or InfrastructureError where the hub cannot be reached."""
    task: Task = registry.resolve("tasks", bench.suite.task, "suite.task")
    for prompt in (*task.train(), *(prompt for prompts in task.heldout().values() for prompt in prompts)):
        try:
            task.verify("", prompt.answer)
        except ValueError as error:
            raise UserError(f"{source}: prompt {prompt.id!r}: {error}") from None
