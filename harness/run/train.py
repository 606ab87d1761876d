"""A training run from its first or its next step to its final policy: journals, evaluations, checkpoints.

What is random is keyed and what is kept is whole, so a run that was ended at any moment goes on from its last
checkpoint and leaves the same journals as one that was not.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path

from safetensors import SafetensorError

from harness.measure.budget import Spent
from harness.measure.memory_cap import room_for
from harness.run.checkpoint import Progress, restore, save_policy, save_run
from harness.run.evaluate import evaluate
from harness.run.events import Emit, Evaluated, Evaluating, Evidence, Resumed, Stepped, Warned
from harness.run.interrupt import Stopped, Stopping
from harness.run.loop import Run
from harness.run.parts import Parts
from reports.record.errors import UserError
from reports.record.journal import Journal, keep_steps, read_json, write_json
from reports.record.models import Evaluation, Sample, Step


def train_to_the_end(parts: Parts, folder: Path, emit: Emit, *, peak_flops: float) -> None:
    """Train until the budget is spent, evaluating on the way where the suite asks for it, and at the end.

    peak_flops: what the device was measured to do in a second; utilisation is held against it. Raises Stopped, after a
    checkpoint, when the process is told to end. Checkpoints stay, the last one from the end of training: whoever has
    noted that the run finished may remove them.
    """
    run, spec, kept = Run(parts), parts.spec, folder / "checkpoints"
    progress = restore(run, kept, warn=lambda line: emit(Warned(line)))
    forget_after(folder, run.spent.steps, evaluated=evaluations_due(run) <= progress.evaluations)
    if run.spent.steps:
        emit(Resumed(run.spent.steps, run.spent.amounts(), run.evidence))
    with (
        Stopping() as stopping,
        Journal(folder / "steps.jsonl") as steps,
        Journal(folder / "samples.jsonl") as samples,
    ):
        saved, saved_after = time.monotonic(), run.spent.steps
        try:
            while not run.spent.exhausted(spec.budget):
                evaluate_if_due(run, progress, folder, emit)
                with stopping.a_step():
                    take_step(run, progress, steps, samples, emit, peak_flops)
                if time.monotonic() - saved >= spec.checkpoint.every_s:
                    save(run, progress, kept, emit)
                    saved, saved_after = time.monotonic(), run.spent.steps
            run.meter.close()
            if run.spent.steps > saved_after:
                save(run, progress, kept, emit)
            run_evaluation(parts, folder, "final", run.spent, emit)
        except Stopped:
            save(run, progress, kept, emit)
            raise
    if spec.checkpoint.final:
        save_policy(parts.models.policy, folder / "final")
    parts.engine.close()


def evaluate_if_due(run: Run, progress: Progress, folder: Path, emit: Emit) -> None:
    due = evaluations_due(run)
    if due > progress.evaluations:
        run_evaluation(run.parts, folder, f"step-{run.spent.steps:06d}", run.spent, emit)
        progress.evaluations = due


def evaluations_due(run: Run) -> int:
    """How many evaluations on the way should have been made by now."""
    every = run.spec.eval.every
    return int(run.spent.fraction(run.spec.budget) / every) if every else 0


def take_step(run: Run, progress: Progress, steps: Journal, samples: Journal, emit: Emit, peak_flops: float) -> None:
    """One step, in the journals and sent on."""
    spec = run.spec
    record = run.step()
    record["throughput/mfu"] = record["throughput/flops_per_s"] / peak_flops
    # Once the optimizers have their state, which they make with their first step.
    if not progress.measured and (record["step"] > spec.critic.warmup_steps or run.spent.exhausted(spec.budget)):
        record.update(run.tracked_step().metrics())
        progress.measured = True
    for sample in run.samples:
        samples.append(Sample.made(sample).dump())
    steps.append(Step.made(record).dump())
    if record["step"] == 1:
        emit(Evidence(run.evidence))
    emit(Stepped(record, run.spent.fraction(spec.budget)))


def save(run: Run, progress: Progress, folder: Path, emit: Emit) -> None:
    """A checkpoint. A disk without room for it costs what it would have saved, not the run."""
    try:
        save_run(run, progress, folder)
    except (OSError, SafetensorError, UserError) as error:
        line = str(error).splitlines()[0][:200]
        emit(Warned(f"no checkpoint at step {run.spent.steps}: {line}"))


def forget_after(folder: Path, step: int, *, evaluated: bool) -> None:
    """Journals and evaluations of later steps come again; and those after this step, unless they were all made."""
    for name in ("steps.jsonl", "samples.jsonl"):
        keep_steps(folder / name, step)
    for path in (folder / "evals").glob("*.json"):
        made = int(read_json(path)["step"])
        if path.name.startswith("final-") or made > step or (made == step and not evaluated):
            path.unlink()


def run_evaluation(parts: Parts, folder: Path, label: str, spent: Spent, emit: Emit) -> None:
    """Evaluate, keep every question's sample in the run's folder, and send the figures on."""
    table = parts.spec.eval
    cap = table.max_completion_tokens or parts.spec.rollout.max_completion_tokens
    emit(Evaluating(label))
    with room_for("evaluation", "temporaries"):
        results = evaluate(
            parts.models.policy, parts.engine, parts.task, table, label=label, step=spent.steps, spent=spent, cap=cap
        )
    for result in map(Evaluation.made, results):
        write_json(folder / "evals" / f"{label}-{result.task}.json", result.dump())
        emit(Evaluated(label, result.task, spent.steps, result.metrics))
    assert all(result["spent"] == asdict(spent) for result in results)
