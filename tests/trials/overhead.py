"""What metering, journals and tracking add to a step of the embedded suite's tiny model, where they weigh the most.

Steps alternate in one process: one measured by phase, written to real journals and logged in a real MLflow store, as
`paribus bench` does; one bare. The tracker's thread, elsewhere in the parent, works beside both.

/path/to/python tests/trials/overhead.py [STEPS]
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

from harness.cli import REGISTRY, SUITES
from harness.config.file import load_bench
from harness.run.assemble import assemble
from harness.run.checkpoint import Progress
from harness.run.events import Event, Stepped
from harness.run.job import Job
from harness.run.loop import Run
from harness.run.train import take_step
from harness.tracking.tracker import Tracker
from reports.record.journal import Journal

WARM_UP = 5


def measured(arm: str, steps: int, folder: Path) -> tuple[float, float]:
    """Median seconds of a (full, bare) step of an arm."""
    bench = load_bench(SUITES / "arithmetic.toml", arms=[arm], seeds=[0])
    run = Run(assemble(Job("train", bench.run_spec(arm), 0, folder, REGISTRY)))
    tracker = Tracker(None, bench.suite.name, f"overhead-{arm}", fallback=folder, warn=print)
    tracker.start_benchmark({})
    child = tracker.start_run(arm, 0, {})
    tracker.ready(60)
    progress = Progress(measured=True)

    def emit(event: Event) -> None:
        if isinstance(event, Stepped):
            tracker.log_step(child, event.record["step"], event.record)

    full, bare = [], []
    with Journal(folder / arm / "steps.jsonl") as lines, Journal(folder / arm / "samples.jsonl") as samples:
        for number in range(2 * (steps + WARM_UP)):
            began = time.perf_counter()
            if number % 2:
                take_step(run, progress, lines, samples, emit, 1.0)
                full.append(time.perf_counter() - began)
            else:
                run.meter.phase = lambda name: nullcontext()
                run.step()
                del run.meter.phase
                bare.append(time.perf_counter() - began)
    run.meter.close()
    tracker.end_benchmark("FINISHED")
    tracker.close(60)
    return statistics.median(full[WARM_UP:]), statistics.median(bare[WARM_UP:])


def main() -> None:
    steps = int((sys.argv[1:] or ["40"])[0])
    for arm in ("ppo", "grpo"):
        with tempfile.TemporaryDirectory() as folder:
            full, bare = measured(arm, steps, Path(folder))
        print(f"{arm}: {full * 1e3:.1f} ms a step, {bare * 1e3:.1f} ms bare: {full / bare - 1:+.1%}", flush=True)


if __name__ == "__main__":
    main()
