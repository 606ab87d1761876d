"""A large benchmark, fetched from a real MLflow store and reported on. `tests/trials/report_speed.py` times it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from synthetic_bench import TASKS, read_json, write_bench

from harness.bench.benchmark import REPORTED, TRACKED
from harness.tracking.tracker import Tracker

PAGE_BYTES = 3_000_000


def log(folder: Path, store: Path) -> str:
    """The benchmark in MLflow, as `paribus bench` leaves it there; returns the address.

    Of the metrics only a few: they are not what a report is made of, and a store takes minutes for a million values.
    """
    bench = read_json(folder / "bench.json")
    tracker = Tracker(f"sqlite:///{store}", bench["suite"], bench["bench_id"], fallback=store.parent)
    tracker.start_benchmark({"regime": bench["regime"]})
    tracker.log_folder(None, folder, ["base/evals/*.json"])
    for row in bench["runs"]:
        run = tracker.start_run(row["arm"], row["seed"], {"arm": row["arm"]})
        for step in range(1, row["steps"] + 1):
            tracker.log_step(run, step, {"reward/mean": 0.5})
        tracker.log_folder(run, folder / run, TRACKED)
        tracker.end_run(run, "FINISHED")
    tracker.log_folder(None, folder, REPORTED)
    tracker.end_benchmark("FINISHED")
    assert tracker.close(120) == 0
    return tracker.uri


def in_a_store(tmp_path: Path, empty_store: Path) -> str:
    """The address of a store with two arms × five seeds × 2,000 steps."""
    folder = write_bench(tmp_path / "original", seeds=(0, 1, 2, 3, 4), steps=2000, questions=1319, tasks=TASKS[:1])
    store = tmp_path / "mlflow.db"
    store.write_bytes(empty_store.read_bytes())
    return log(folder, store)


def report(uri: str, out: Path) -> Path:
    """The page, by the command and from MLflow alone."""
    command = [sys.executable, "-m", "harness.cli", "report", "latest", "--out", str(out)]
    subprocess.run(command, env={**os.environ, "MLFLOW_TRACKING_URI": uri}, check=True, capture_output=True)
    return next(out.glob("*/report.html"))


@pytest.mark.slow
def test_ten_runs_of_two_thousand_steps_are_reported_from_mlflow_in_one_small_page_and_twice_the_same(
    tmp_path: Path, empty_store: Path
) -> None:
    uri = in_a_store(tmp_path, empty_store)
    first, second = (report(uri, tmp_path / name) for name in ("first", "second"))
    assert first.stat().st_size < PAGE_BYTES
    assert first.read_bytes() == second.read_bytes()
