"""Steady speed and memory of one arm, by phase: a few real steps, no tracking, no evaluation, nothing kept.

FLOPs are the model's (`harness.measure.flops`), counted from the shapes that were run; what they are measured against
is a large matrix product timed in the same process, in the type the model computes in.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any

import psutil
import torch
from rich.console import Group
from rich.table import Table

from harness.config.tables import RunSpec
from harness.measure.machine_state import gemm_seconds
from harness.model.weights import DTYPES
from harness.run.assemble import assemble
from harness.run.job import Job
from harness.run.loop import Run
from reports.record.names import COMPONENTS, PHASES
from reports.text import clock

WARM_UP_STEPS = 1
GEMM_SIZE = 2048
GEMM_REPEATS = 12


def profile(job: Job, steps: int) -> dict[str, Any]:
    """Medians over `steps` steps after a warm-up step. The critic's own warm-up is skipped: it is not steady."""
    spec = job.spec.model_copy(update={"critic": job.spec.critic.model_copy(update={"warmup_steps": 0})})
    run = Run(assemble(job._replace(spec=spec)))
    try:
        before = gemm_peak(run.parts.models.policy.device, spec)
        measured = [measured_step(run) for _ in range(WARM_UP_STEPS + steps)][WARM_UP_STEPS:]
        memory = run.tracked_step().by_phase()
        peak = max(before, gemm_peak(run.parts.models.policy.device, spec))
    finally:
        run.meter.close()
        run.parts.engine.close()
    return {**summary(spec, measured, peak), "memory": memory}


def measured_step(run: Run) -> dict[str, Any]:
    record = run.step()
    meter = run.meter
    phases = {
        name: {
            "s": meter.seconds[name], "tokens": meter.tokens[name], "flops": meter.flops[name],
            "executed_flops": meter.executed_flops[name],
        }
        for name in PHASES if name in meter.seconds
    }  # fmt: skip
    return {"record": record, "phases": phases, "peak_bytes": meter.peak_bytes()}


def summary(spec: RunSpec, measured: list[dict[str, Any]], gemm_peak_flops: float) -> dict[str, Any]:
    def of_record(name: str) -> float:
        return median(step["record"][name] for step in measured)

    def of_phase(phase: str, name: str) -> float:
        return median(step["phases"][phase][name] for step in measured)

    step_s, flops = of_record("time/step_s"), 0.0
    phases: dict[str, dict[str, float | None]] = {}
    for name in measured[0]["phases"]:
        seconds, tokens, work, executed = (of_phase(name, key) for key in ("s", "tokens", "flops", "executed_flops"))
        phases[name] = {
            "s": seconds,
            "tokens_per_s": tokens / seconds if tokens and seconds > 0 else None,
            "flops": work,
            "executed_flops": executed,
        }
        flops += work
    return {
        "suite": spec.suite.name, "arm": spec.arm, "steps": len(measured), "step_s": step_s,
        "samples_per_s": of_record("throughput/samples_per_s"),
        "tokens_per_s": of_record("throughput/tokens_per_s"),
        "phases": phases, "peak_bytes": max(step["peak_bytes"] for step in measured),
        "gemm_peak_flops_per_s": gemm_peak_flops, "flop_utilisation": flops / step_s / gemm_peak_flops,
    }  # fmt: skip


def gemm_peak(device: torch.device, spec: RunSpec) -> float:
    """FLOP/s of the fastest of a few large square products, in the type that forwards compute in."""
    return 2.0 * GEMM_SIZE**3 / min(gemm_seconds(device, DTYPES[spec.model.dtype], GEMM_SIZE, GEMM_REPEATS))


def render(result: dict[str, Any]) -> Group:
    return Group(speed_table(result), "", memory_table(result["memory"]))


def speed_table(result: dict[str, Any]) -> Table:
    table = Table(
        title=f"{result['suite']} · {result['arm']} · median of {result['steps']} steps", title_justify="left"
    )
    for name, justify in (("phase", "left"), ("time", "right"), ("share", "right"), ("tokens/s", "right"),
                          ("GFLOP", "right"), ("as run", "right"), ("GFLOP/s", "right")):  # fmt: skip
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    step_s = result["step_s"]
    for name, phase in result["phases"].items():
        work = phase["flops"], phase["executed_flops"]
        row(table, name.replace("_", " "), phase["s"], step_s, phase["tokens_per_s"], *work)
    between = step_s - sum(phase["s"] for phase in result["phases"].values())
    row(table, "between phases", between, step_s, None, 0.0, 0.0)
    table.add_section()
    total, executed = (sum(phase[key] for phase in result["phases"].values()) for key in ("flops", "executed_flops"))
    row(table, "step", step_s, step_s, result["tokens_per_s"], total, executed)
    peak, memory = result["gemm_peak_flops_per_s"], psutil.virtual_memory().total
    table.caption = (
        f"{result['samples_per_s']:.2f} samples/s; {total / step_s / 1e9:,.0f} of {peak / 1e9:,.0f} GFLOP/s measured as"
        f" this machine's peak ({result['flop_utilisation']:.0%}); "
        f"peak memory {result['peak_bytes'] / 2**30:.2f} GiB of {memory / 2**30:.0f} GiB"
    )
    return table


def memory_table(memory: Mapping[str, Mapping[str, float]]) -> Table:
    """Components as rows, phases as columns; in each the moment when that phase held most."""
    phases = [name for name in PHASES if name in memory]
    components = [name for name in (*COMPONENTS, "tracked") if any(name in memory[phase] for phase in phases)]
    table = Table(title="tensors at each phase's peak, MiB", title_justify="left")
    table.add_column("component")
    for phase in phases:
        table.add_column(phase.replace("_", " "), justify="right")
    for component in components:
        if component == "tracked":
            table.add_section()
        cells = [memory[phase].get(component, 0) / 2**20 for phase in phases]
        label = "all tensors" if component == "tracked" else component.replace("_", " ")
        table.add_row(label, *(f"{cell:,.0f}" if cell >= 10 else f"{cell:,.1f}" if cell else "" for cell in cells))
    return table


def row(
    table: Table, name: str, seconds: float, step_s: float, tokens_per_s: float | None, flops: float, executed: float
) -> None:
    table.add_row(
        name, clock(seconds) if seconds >= 60 else f"{seconds:.3g} s", f"{seconds / step_s:.0%}",
        f"{tokens_per_s:,.0f}" if tokens_per_s else "", f"{flops / 1e9:,.0f}" if flops else "",
        f"{executed / 1e9:,.0f}" if executed else "", f"{flops / seconds / 1e9:,.0f}" if flops else "",
    )  # fmt: skip
