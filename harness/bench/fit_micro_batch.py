"""The micro-batch of an arm under `same_gpu`, found on the device: a child process takes steps with each size tried."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from harness.config.tables import BenchSpec
from harness.launch.launcher import Launcher, needed_events
from harness.plan.micro_batch_search import bounds, largest_that_fits
from harness.registry import Registry
from harness.run.events import Peak
from harness.run.job import Job

# Micro-batches are fitted to this share of the cap: over many steps an allocator comes to hold more than in the first.
FITTED_SHARE = 0.92


def fit(
    launcher: Launcher, bench: BenchSpec, arm: str, registry: Registry, folder: Path, log: Callable[[str], None]
) -> dict[str, Any]:
    """The most tokens that fit the benchmark's cap, None where not even one sequence does; and every size tried.

    folder: the benchmark's. Raises a UserError where a try ends for another reason than memory.
    """
    assert bench.budget.memory_gib is not None
    cap = int(bench.budget.memory_gib * 2**30)
    smallest, whole = bounds(bench.run_spec(arm))

    def peak(tokens: int) -> int | None:
        spec = bench.run_spec(arm).with_micro_batch(tokens).with_memory_share(FITTED_SHARE)
        job = Job("fit", spec, bench.seeds[0], folder / f"{arm}-fit" / str(tokens), registry)
        size = peak_of(launcher, job, f"arms.{arm}: trying micro-batches of {tokens} tokens", log)
        log(f"{arm}: micro-batches of {tokens:,} tokens: {f'{size / 2**30:.2f} GiB' if size else 'no room'}")
        return size

    best, tries = largest_that_fits(peak, int(FITTED_SHARE * cap), smallest=smallest, whole=whole)
    tokens = best.tokens if best else None
    log(f"{arm}: {f'{tokens:,} tokens of {whole:,} fit' if tokens else 'not even one sequence fits'}")
    return {
        "cap_bytes": cap, "tokens": tokens, "smallest": smallest, "whole": whole,
        "tries": [vars(each) for each in tries],
    }  # fmt: skip


def peak_of(launcher: Launcher, job: Job, what: str, log: Callable[[str], None]) -> int | None:
    """The peak memory of an arm's steps with micro-batches of a size, or None where it does not fit."""
    with closing(needed_events(launcher, job, what, log, accepted=("finished", "out_of_memory"))) as events:
        peaks = [event.bytes for event in events if isinstance(event, Peak)]
    return peaks[-1] if peaks else None
