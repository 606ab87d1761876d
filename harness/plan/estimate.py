"""What each arm of a benchmark needs, foretold: memory by component and phase, FLOPs, time, and whether it fits.

Nothing is run (`harness.plan.forecast`). Needs are held against a named GPU, a given memory, or this machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from rich.console import Group
from rich.table import Table
from rich.text import Text

from harness.config.tables import BenchSpec, RunSpec
from harness.measure.environment import device_memory
from harness.model.loading import load_config, load_tokenizer
from harness.plan.forecast import Forecast, forecast
from harness.plan.gpus import CONTEXT_BYTES, named
from harness.plan.micro_batch_search import bounds, largest_that_fits
from harness.registry import Registry
from harness.run.prompts import PromptStream
from reports.record.errors import UserError
from reports.record.names import COMPONENTS, CRITIC_PARTS, PHASES
from reports.text import clock
from suites.task import DataError, Prompt, Task

GIB = 2**30


class Target(NamedTuple):
    """What the needs are held against. capacity: bytes that tensors may take; peak_flops: per second, or None."""

    name: str
    capacity: int
    peak_flops: float | None
    on_gpu: bool

    @classmethod
    def of(
        cls, spec: BenchSpec, device: str | None, memory_gib: float | None, peak_tflops: float | None, *, has_gpu: bool
    ) -> Target:
        """A named GPU, a given memory, the suite's cap, or this machine. Raises UserError for an unknown GPU."""
        flops = peak_tflops * 1e12 if peak_tflops else None
        memory_gib = memory_gib or spec.budget.memory_gib
        if device is not None:
            card = named(device)
            capacity = int(memory_gib * 2**30) if memory_gib else card.memory_bytes - CONTEXT_BYTES
            return cls(device, capacity, flops or card.peak_flops(spec.model.dtype), on_gpu=True)
        capacity = int(memory_gib * 2**30) if memory_gib else device_memory()
        name = f"{memory_gib:g} GiB" if memory_gib else "this machine"
        return cls(name, capacity, flops, on_gpu=has_gpu or spec.model.dtype != "float32")


@dataclass(frozen=True)
class Need:
    """One arm's. largest: the most tokens of a micro-batch that fit the target, None where not even one sequence does.

    whole: a minibatch's tokens, more than which no micro-batch has.
    """

    spec: RunSpec
    forecast: Forecast
    fits: bool
    largest: int | None
    whole: int


class Words(NamedTuple):
    """The step's prompts and what makes tokens of them, where they can be had."""

    tokenizer: Any
    prompts: Sequence[Prompt]


def words_of(spec: RunSpec, task: Task) -> Words | None:
    """None where the data or the tokenizer cannot be reached: a plan then takes prompts to be at their limit."""
    try:
        stream = PromptStream(task.train(), (spec.suite.name, 0))
        return Words(load_tokenizer(spec.model.name), stream.take(1, spec.rollout.prompts_per_step))
    except (UserError, DataError):
        return None


def need(spec: RunSpec, algorithm: Any, config: Any, words: Words | None, target: Target) -> Need:
    tokenizer, prompts = words or (None, ())

    def at(tokens: int) -> Forecast:
        resized = spec.with_micro_batch(tokens)
        return forecast(resized, algorithm, config, on_gpu=target.on_gpu, tokenizer=tokenizer, prompts=prompts)

    smallest, whole = bounds(spec)
    first = spec.update.micro_batch_tokens
    found = at(first)
    best, _ = largest_that_fits(
        lambda tokens: found.peak_bytes if tokens == first else at(tokens).peak_bytes, target.capacity,
        smallest=smallest, whole=whole, first=first,
    )  # fmt: skip
    fits = found.peak_bytes <= target.capacity
    return Need(spec, found, fits, best.tokens if best else None, whole)


def needs(bench: BenchSpec, registry: Registry, task: Task, target: Target) -> tuple[dict[str, Need], Words | None]:
    """By arm. Raises UserError or InfrastructureError where the model's shape is not to be had."""
    config = load_config(bench.model.name)
    words = words_of(bench.run_spec(next(iter(bench.arms))), task)
    specs = {arm: bench.run_spec(arm) for arm in bench.arms}
    return {arm: need(spec, registry.algorithm(spec), config, words, target) for arm, spec in specs.items()}, words


def steps_of(need: Need) -> int | None:
    """Steps that the budget buys, where its currency says so beforehand."""
    budget = need.spec.budget
    limit, per_step = budget.limit, {"steps": 1, "samples": need.forecast.samples}.get(budget.currency)
    return math.ceil(limit / per_step) if per_step else None


def to_json(found: Mapping[str, Need], target: Target, utilisation: float) -> dict[str, Any]:
    return {
        "target": target._asdict(),
        "arms": {
            arm: {
                "parameters": need.forecast.parameters, "memory": need.forecast.memory, "flops": need.forecast.flops,
                "peak_bytes": need.forecast.peak_bytes, "peak_phase": need.forecast.peak_phase, "fits": need.fits,
                "micro_batch_tokens": need.spec.update.micro_batch_tokens, "largest_micro_batch_tokens": need.largest,
                "step_s": step_seconds(need, target, utilisation),
            }
            for arm, need in found.items()
        },
    }  # fmt: skip


def step_seconds(need: Need, target: Target, utilisation: float) -> float | None:
    return sum(need.forecast.flops.values()) / (target.peak_flops * utilisation) if target.peak_flops else None


def render(found: Mapping[str, Need], target: Target, words: Words | None, utilisation: float) -> Group:
    arms = list(found)
    table = Table(title=f"what a step needs, foretold for {target.name}", title_justify="left")
    table.add_column("")
    for arm in arms:
        table.add_column(arm, justify="right")
    paired = len(arms) == 2
    if paired:
        table.add_column(f"{arms[0]} : {arms[1]}", justify="right")

    def row(name: str, values: Sequence[float | None], show: Callable[[float], str], *, ratio: bool = True) -> None:
        cells = ["" if value is None else show(value) for value in values]
        if paired:
            first, second = values
            cells.append(f"{first / second:.2f}" if ratio and first and second else "")
        table.add_row(name, *cells)

    forecasts = [need.forecast for need in found.values()]
    row("parameters of the policy", [f.parameters for f in forecasts], lambda n: f"{n / 1e6:,.1f} M", ratio=False)
    table.add_section()
    for phase in PHASES:
        totals = [sum(f.memory[phase].values()) if phase in f.memory else None for f in forecasts]
        if any(totals):
            row(f"peak memory, {phase.replace('_', ' ')}", totals, gib)
    table.add_section()
    for component in COMPONENTS:
        sizes = [f.memory[f.peak_phase][component] or None for f in forecasts]
        if any(sizes):
            row(f"  at the highest peak: {component.replace('_', ' ')}", sizes, gib)
    table.add_section()
    row("highest peak", [f.peak_bytes for f in forecasts], gib)
    critic = [sum(f.memory[f.peak_phase][name] for name in CRITIC_PARTS) for f in forecasts]
    row("  held for the critic alone", [size or None for size in critic], gib, ratio=False)
    verdicts = ["[green]yes[/]" if need.fits else "[red]no[/]" for need in found.values()]
    table.add_row(f"fits in {gib(target.capacity)}", *verdicts, *[""] * paired)
    row("micro-batch, tokens", [need.spec.update.micro_batch_tokens for need in found.values()], count, ratio=False)
    table.add_row("  the largest that fits", *map(largest, found.values()), *[""] * paired)
    table.add_section()
    for phase in PHASES:
        if any(phase in f.flops for f in forecasts):
            row(f"FLOPs of {phase.replace('_', ' ')}", [f.flops.get(phase) for f in forecasts], tera)
    row("FLOPs of a step", [sum(f.flops.values()) for f in forecasts], tera)
    seconds = [step_seconds(need, target, utilisation) for need in found.values()]
    if all(seconds):
        row(f"time of a step at {utilisation:.0%} of the peak", seconds, span)
        runs = [steps_of(need) for need in found.values()]
        if all(runs):
            row("time of a run", [s * n for s, n in zip(seconds, runs, strict=True) if s and n], span)
    return Group(table, Text(footnote(words, target)))


def largest(need: Need) -> str:
    if need.largest is None:
        return "none"
    return f"{count(need.largest)}{' (all)' if need.largest == need.whole else ''}"


def footnote(words: Words | None, target: Target) -> str:
    prompts = "prompts as the first step's" if words else "prompts at rollout.max_prompt_tokens (the data is not here)"
    context = "; the CUDA context and the allocator's rounding come on top" if target.on_gpu else ""
    return f"Completions at their cap, {prompts}. Memory is what tensors take{context}."


def gib(size: float) -> str:
    return f"{size / GIB:,.2f} GiB" if size >= GIB / 10 else f"{size / 2**20:,.1f} MiB"


def tera(flops: float) -> str:
    return f"{flops / 1e12:,.2f} T" if flops >= 1e11 else f"{flops / 1e9:,.2f} G"


def span(seconds: float) -> str:
    return clock(seconds) if seconds >= 60 else f"{seconds:.3g} s"


def count(number: float) -> str:
    return f"{number:,.0f}"
