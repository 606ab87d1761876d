"""Faults really brought about under real benchmarks: nothing finished is lost, and no wrong figure is reported."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import tiny
from mlflow_server import wait_for
from real_bench import (
    RUNS,
    every_step_once,
    finish,
    rows,
    same,
    settings,
    start,
    start_small,
    wait_for_steps,
    writer_of,
)

from harness.bench.benchmark import Benchmark
from harness.cli import REGISTRY
from harness.config.file import load_bench
from harness.launch.local import HANG_VARIABLE
from harness.run.disk import require_room
from harness.tracking import outbox
from harness.tracking.client import connect
from harness.tracking.fetch import fetch
from harness.tracking.tracker import Tracker
from reports.build import build
from reports.record.errors import InfrastructureError, RunError
from reports.record.journal import read_json, read_lines


def stop(log) -> None:
    """Stop the process that writes a log, for good."""
    os.kill(writer_of(log), signal.SIGSTOP)


@pytest.mark.slow
def test_a_run_that_hangs_goes_on_once_from_its_checkpoint_and_then_fails_alone(undisturbed, tmp_path):
    process = start_small(tmp_path, **{HANG_VARIABLE: "6"})
    logs = {run: tmp_path / "latest" / run / "worker.log" for run in ("ppo-seed0", "grpo-seed0")}
    wait_for_steps(process, tmp_path, "ppo-seed0", 4)
    stop(logs["ppo-seed0"])
    assert wait_for(lambda: "goes on after step" in (tmp_path / "log").read_text(), 60)
    stop(logs["ppo-seed0"])
    wait_for_steps(process, tmp_path, "grpo-seed0", 4)
    stop(logs["grpo-seed0"])
    folder = finish(process, tmp_path, status=1)
    ppo, grpo = (rows(folder)[run] for run in logs)
    assert (ppo["status"], len(ppo["hung"])) == ("failed", 1)
    assert "no sign of life for 6 s" in ppo["reason"]
    # The other run hung once, and nothing of it is lost or different.
    assert (grpo["status"], len(grpo["hung"]), len(grpo["resumed"])) == ("finished", 1, 1)
    assert "after step" in grpo["hung"][0]
    same(folder, undisturbed, ["grpo-seed0"])
    assert (folder / "report.html").read_text().count("hung and was started again") == 2
    every_step_once(tmp_path, folder)
    assert read_json(folder / "comparison.json")["verdict"] == "invalid"


SAME_GPU = """
seeds = [0]
regime = "same_gpu"
suite = { name = "tiny", task = "tiny", margin = 0.02 }
model = { name = "MODEL" }
rollout = { prompts_per_step = 4, completions_per_prompt = 3, max_prompt_tokens = 24, max_completion_tokens = 10 }
update = { learning_rate = 1e-3 }
budget = { device_seconds = 0.5, memory_gib = 4 }
eval = { tasks = ["tiny_heldout"] }
arms = { ppo = { algorithm = "ppo" }, grpo = { algorithm = "grpo" } }
"""


@pytest.fixture
def preparing(tmp_path, empty_store, monkeypatch):
    """Executes a whole benchmark with an engine of tests/support/odd_engines.py that hangs at some of its starts.

    The first start is for the base policy; those for trying micro-batches follow, then those of the runs.
    """
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    tiny.policy().save(tmp_path / "model")
    (tmp_path / "suite.toml").write_text(SAME_GPU.replace("MODEL", str(tmp_path / "model")))
    monkeypatch.setenv(HANG_VARIABLE, "4")

    def execute(*hangs: int, engine: str = "hanging_at"):
        registry = REGISTRY._replace(tasks={"tiny": "tiny:TASK"}, engines={"torch": f"odd_engines:{engine}"})
        (tmp_path / "hangs").write_text(" ".join(map(str, hangs)))
        path = tmp_path / "suite.toml"
        benchmark = Benchmark(
            load_bench(path), registry, out=tmp_path, source=str(path), profile=None, command="paribus bench"
        )
        return benchmark.execute(build)

    return execute


@pytest.mark.slow
def test_what_comes_before_the_runs_is_started_again_once_when_it_hangs(preparing, tmp_path, capfd):
    status, comparison = preparing(1, 3)
    assert (status, comparison.problem) == ("finished", None)
    said = capfd.readouterr().err
    assert "evaluating the base policy: it hung in the evaluation 'base': no sign of life for 4 s; see " in said
    assert re.search(r"arms\.ppo: trying micro-batches of \d+ tokens: it hung while loading", said)
    assert said.count("it is started again") == 2
    assert {row["status"] for row in rows(tmp_path / "latest").values()} == {"finished"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("hangs", "what"),
    [
        ((1, 2), "evaluating the base policy: it hung"),
        ((2, 3), r"arms\.ppo: trying micro-batches of \d+ tokens: it hung"),
    ],
)
def test_what_comes_before_the_runs_and_hangs_twice_ends_the_benchmark_in_one_line(preparing, tmp_path, hangs, what):
    with pytest.raises(InfrastructureError, match=f"^{what}[^\n]*$"):
        preparing(*hangs)
    assert {row["status"] for row in rows(tmp_path / "latest").values()} == {"not started"}
    assert read_json(tmp_path / "latest" / "bench.json")["status"] == "failed"


@pytest.mark.slow
def test_a_crash_before_the_runs_ends_the_benchmark_in_one_line(preparing, tmp_path):
    with pytest.raises(RunError, match=r"^evaluating the base policy: its process was ended by SIGSEGV; see [^\n]*$"):
        preparing(engine="crashing")
    assert {row["status"] for row in rows(tmp_path / "latest").values()} == {"not started"}


@pytest.fixture
def disk(tmp_path):
    """A disk of 40 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a tmpfs cannot be mounted here (not root, or not allowed in this container)")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(ballast, process) -> None:
    """Keep a disk full for as long as a process lives, whatever room it gives back."""
    with ballast.open("wb", buffering=0) as file:
        while process.poll() is None:
            try:
                file.write(bytes(4096))
            except OSError:
                time.sleep(0.005)


def said_on(disk) -> str:
    """The one line that a benchmark ended with."""
    return [line for line in (disk / "log").read_text().splitlines() if line.startswith("paribus: ")][-1]


def test_what_a_full_disk_kept_out_of_mlflow_gets_there_once_there_is_room(disk, empty_store, monkeypatch):
    monkeypatch.setattr(outbox, "FIRST_PAUSE_S", 0.05)
    monkeypatch.setattr(outbox, "LONGEST_PAUSE_S", 0.1)
    shutil.copy(empty_store, disk / "mlflow.db")
    lines = []
    tracker = Tracker(None, "arithmetic", "b", fallback=disk, warn=lines.append)
    tracker.start_benchmark({})
    run = tracker.start_run("ppo", 0, {})
    assert wait_for(lambda: tracker.run_id(run) and not tracker.outbox.records, 20)
    (disk / "ballast").write_bytes(bytes(shutil.disk_usage(disk).free))
    for step in range(400):
        tracker.log_step(run, step, {f"m{number}": step + number / 3 for number in range(20)})
    assert wait_for(lambda: lines, 20)
    # Tried again for long enough to be given up, were it the record's fault.
    time.sleep(1.5)
    assert tracker.undelivered == 0
    (disk / "ballast").unlink()
    assert tracker.close() == 0
    assert lines == [
        f"MLflow at {tracker.uri}: database or disk is full; training goes on, the local journal keeps every record"
    ]
    values = {m.step: m.value for m in connect(tracker.uri).get_metric_history(tracker.run_id(run), "m19")}
    assert values == {step: step + 19 / 3 for step in range(400)}


def test_room_is_asked_for_by_what_checkpoints_and_policies_will_take(disk):
    runs = [(tiny.spec("ppo"), True), (tiny.spec("grpo"), False)]
    shared = [(tiny.spec("ppo", critic={"kind": "shared"}, checkpoint={"final": False}), True)]
    require_room(disk, 300_000, runs)
    require_room(disk, 800_000, shared)
    with pytest.raises(InfrastructureError) as caught:
        require_room(disk, 500_000, runs)
    assert str(caught.value).startswith(
        f"{disk}: 40.0 MiB free on its disk, up to 54.1 MiB needed (checkpoints 34.3 MiB, final policies 3.8 MiB, "
        "records 16.0 MiB); make room,"
    )
    # What is there already is not needed again.
    kept = disk / "ppo-seed0" / "checkpoints" / "step-000001" / "policy.safetensors"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(bytes(15 << 20))
    with pytest.raises(InfrastructureError, match=r"25\.0 MiB free on its disk, up to 39\.1 MiB needed"):
        require_room(disk, 500_000, runs)


@pytest.mark.slow
def test_a_store_that_heard_nothing_of_a_finished_benchmark_is_told_all_when_it_is_resumed(
    undisturbed, empty_store, tmp_path
):
    folder = shutil.copytree(undisturbed, tmp_path / undisturbed.name)
    (tmp_path / "latest").symlink_to(folder.name)
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    finish(start(tmp_path, "--resume", "latest"), tmp_path)
    same(folder, undisturbed)
    every_step_once(tmp_path, folder)
    got = fetch(f"sqlite:///{tmp_path / 'mlflow.db'}", folder.name, tmp_path / "elsewhere")
    kept = [path.relative_to(got) for path in got.rglob("*") if path.name != "worker.log" and path.is_file()]
    assert {path.parts[0] for path in kept} >= {"base", *RUNS, "bench.json", "report.html"}
    assert all((got / path).read_bytes() == (folder / path).read_bytes() for path in kept)
    assert all(row["mlflow_run_id"] != rows(undisturbed)[run]["mlflow_run_id"] for run, row in rows(folder).items())
    # Records go first: a process that ends after them has told of an end, and of no file.
    for artifact in (tmp_path / "mlartifacts").rglob("steps.jsonl"):
        artifact.unlink()
    finish(start(tmp_path, "--resume", "latest"), tmp_path)
    got = fetch(f"sqlite:///{tmp_path / 'mlflow.db'}", folder.name, tmp_path / "again")
    assert all((got / run / "steps.jsonl").read_bytes() == (folder / run / "steps.jsonl").read_bytes() for run in RUNS)


@pytest.mark.parametrize(("status", "ended"), [("KILLED", False), ("FINISHED", True), ("FAILED", True)])
def test_what_others_marked_as_killed_is_told_again(empty_store, tmp_path, status, ended):
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    first = Tracker(None, "arithmetic", "b", fallback=tmp_path)
    first.start_benchmark({})
    run = first.start_run("ppo", 0, {})
    assert wait_for(lambda: first.run_id(run), 20)
    connect(first.uri).set_terminated(first.run_id(run), status=status)
    second = Tracker(None, "arithmetic", "b", fallback=tmp_path)
    second.start_benchmark({})
    assert second.ready(20)
    assert second.ended_before(run) is ended
    assert (first.close(), second.close()) == (0, 0)


@pytest.mark.slow
def test_a_disk_too_small_is_said_first_and_one_that_fills_up_costs_nothing_once_there_is_room(undisturbed, disk):
    folder = finish(start_small(disk), disk, status=5)
    assert f"{folder}: " in said_on(disk)
    assert "free on its disk, up to 50.9 MiB needed" in said_on(disk)
    assert not (folder / "ppo-seed0").exists()
    subprocess.run(["mount", "-o", "remount,size=80m", str(disk)], check=True)
    process = start(disk, "--resume", "latest")
    wait_for_steps(process, disk, "grpo-seed0", 3)
    ballast = disk / "ballast"
    fill(ballast, process)
    finish(process, disk, status=5)
    assert "cannot be written (No space left on device)" in said_on(disk)
    assert rows(folder)["ppo-seed0"]["status"] == "finished"
    assert rows(folder)["grpo-seed0"]["status"] in ("failed", "not started")
    ballast.unlink()
    finish(start(disk, "--resume", "latest"), disk)
    same(folder, undisturbed)
    every_step_once(disk, folder)


# An hour back, and forth again, every two seconds.
JUMPING_CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>
int clock_gettime(clockid_t id, struct timespec *now) {
    int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
    struct timespec since_start;
    real(CLOCK_MONOTONIC, &since_start);
    int status = real(id, now);
    if (id == CLOCK_REALTIME && since_start.tv_sec / 2 % 2) now->tv_sec -= 3600;
    return status;
}
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler, to make a clock that jumps")
def test_a_clock_that_jumps_an_hour_back_and_forth_changes_no_duration_and_no_order(tmp_path):
    (tmp_path / "clock.c").write_text(JUMPING_CLOCK)
    library = tmp_path / "clock.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, tmp_path / "clock.c", "-ldl"], check=True)
    asked = [sys.executable, "-c", "import time\nfor _ in range(9): print(int(time.time())); time.sleep(0.5)"]
    shown = subprocess.run(asked, env={**os.environ, "LD_PRELOAD": str(library)}, capture_output=True, check=True)
    stamps = [int(line) for line in shown.stdout.split()]
    assert max(stamps) - min(stamps) > 3000
    began = time.monotonic()
    short = settings("budget.steps=6", "rollout.prompts_per_step=2", "eval.questions=4")
    process = start(tmp_path, "arithmetic", "--seeds", "0", "--arms", "grpo", *short, LD_PRELOAD=str(library))
    folder = finish(process, tmp_path)
    took = time.monotonic() - began
    records = read_lines(folder / "grpo-seed0" / "steps.jsonl")
    times = [value for record in records for name, value in record.items() if name.startswith("time/")]
    assert all(0 <= seconds < took for seconds in times)
    assert 0 < records[-1]["budget/device_seconds"] < took
    assert 0 < rows(folder)["grpo-seed0"]["seconds"] < took
    every_step_once(tmp_path, folder)
    client = connect(f"sqlite:///{tmp_path / 'mlflow.db'}")
    run = client.get_run(rows(folder)["grpo-seed0"]["mlflow_run_id"])
    assert 0 < run.info.end_time - run.info.start_time < 1000 * took
    points = sorted(client.get_metric_history(run.info.run_id, "reward/mean"), key=lambda point: point.step)
    assert [point.timestamp for point in points] == sorted(point.timestamp for point in points)
