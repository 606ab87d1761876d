"""A benchmark that is ended at any moment, by whatever, goes on and ends as if nothing had happened."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from real_bench import every_step_once, finish, kill, rows, same, start, start_small, wait_for_steps
from typer.testing import CliRunner

from harness.bench.benchmark import Benchmark
from harness.cli import REGISTRY, app
from reports.record.errors import InfrastructureError, UserError
from reports.record.folder import locked
from reports.record.journal import read_json, write_json
from reports.record.models import RunRecord, evidence_of


def resume(folder: Path) -> str:
    """What the command line says."""
    done = CliRunner().invoke(app, ["bench", "--resume", folder.name, "--out", str(folder.parent)])
    assert isinstance(done.exception, UserError), done.output
    return str(done.exception)


@pytest.mark.parametrize("content", ["{}", "[]", '{"spec": {}, "runs": []}', '{"spec": 7, "runs": 7}', "{"])
def test_what_is_no_record_is_refused_in_one_line(tmp_path, content):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "bench.json").write_text(content)
    said = resume(tmp_path / "b")
    assert "bench.json" in said
    assert "\n" not in said


def test_a_benchmark_that_is_not_there_is_named(tmp_path):
    assert "bench.json is not there" in resume(tmp_path / "nowhere")
    with pytest.raises(UserError, match="letters, digits"):
        CliRunner().invoke(app, ["bench", "--resume", "../up", "--out", str(tmp_path)], catch_exceptions=False)


def test_a_benchmark_goes_on_as_it_was_begun(tmp_path):
    with pytest.raises(UserError, match="give no profile, arms, seeds or settings"):
        CliRunner().invoke(app, ["bench", "--resume", "x", "--seeds", "3"], catch_exceptions=False)


def test_a_folder_is_one_processs_at_a_time(tmp_path):
    script = (
        "import sys\nfrom pathlib import Path\nfrom reports.record.folder import locked\n"
        "with locked(Path(sys.argv[1])):\n    pass"
    )
    with locked(tmp_path):
        taken = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True)
    free = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True)
    assert "another process is running this benchmark" in taken.stderr
    assert free.returncode == 0


def test_evidence_is_read_back_as_it_was_gathered():
    rows = [{"seed": 3, "weights": {"ppo": "a", "grpo": "b"}, "prompts": {"ppo": "c"}, "equal": False}]
    found = evidence_of({"matching": {"evidence": rows}})
    assert found == {("ppo", 3): {"weights": "a", "prompts": "c"}, ("grpo", 3): {"weights": "b"}}


def test_a_run_that_goes_on_keeps_its_place_and_its_time():
    row = RunRecord(
        arm="ppo", seed=1, order=2, status="failed", reason="lost", steps=9, seconds=7.5, resumed=[4], hung=["there"]
    )
    again = RunRecord.again(row)
    assert (again.status, again.reason, again.seconds, again.resumed, again.order) == ("not started", None, 7.5, [4], 2)
    assert again.hung == ["there"]


# Real benchmarks, really killed.


@pytest.mark.slow
def test_kills_at_random_moments_change_no_number(undisturbed, tmp_path):
    rng = random.Random(5)
    process = start_small(tmp_path)
    kills = 0
    for attempt in range(30):
        # Children begin after some seconds of imports; most kills fall into runs.
        deadline = time.monotonic() + rng.uniform(4, 26)
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        if process.poll() is not None:
            break
        kill(process, everything=attempt % 2 == 0)
        kills += 1
        begun = (tmp_path / "latest" / "bench.json").is_file()
        process = start(tmp_path, "--resume", "latest") if begun else start_small(tmp_path)
    folder = finish(process, tmp_path)
    assert kills >= 2
    same(folder, undisturbed)
    every_step_once(tmp_path, folder)


@pytest.mark.slow
@pytest.mark.parametrize("tell", [os.kill, os.killpg], ids=["it alone", "its whole group"])
def test_sigterm_keeps_a_checkpoint_and_exits_within_ten_seconds(undisturbed, tmp_path, tell):
    process = start_small(tmp_path, "checkpoint.every_s=1000")
    wait_for_steps(process, tmp_path, "ppo-seed0", 5)
    asked = time.monotonic()
    tell(process.pid, signal.SIGTERM)
    assert process.wait(timeout=60) == 5
    took = time.monotonic() - asked
    (checkpoint,) = (tmp_path / "latest" / "ppo-seed0" / "checkpoints").glob("step-*")
    assert int(checkpoint.name.removeprefix("step-")) >= 5
    folder = finish(start(tmp_path, "--resume", "latest"), tmp_path)
    assert rows(folder)["ppo-seed0"]["resumed"] == [int(checkpoint.name.removeprefix("step-"))]
    same(folder, undisturbed)
    assert took < 10


@pytest.mark.slow
def test_a_damaged_newest_checkpoint_costs_steps_and_no_number(undisturbed, tmp_path):
    process = start_small(tmp_path)
    kept = tmp_path / "latest" / "ppo-seed0" / "checkpoints"
    while len(list(kept.glob("step-*"))) < 2:
        assert process.poll() is None, (tmp_path / "log").read_text()
        time.sleep(0.02)
    kill(process, everything=True)
    newest = sorted(kept.glob("step-*"))[-1] / "policy.safetensors"
    newest.write_bytes(newest.read_bytes()[:-7])
    folder = finish(start(tmp_path, "--resume", "latest"), tmp_path)
    assert "damaged, an older one is taken" in (tmp_path / "log").read_text()
    same(folder, undisturbed)


@pytest.mark.slow
def test_what_another_process_has_finished_meanwhile_is_not_begun_again(undisturbed, tmp_path):
    folder = shutil.copytree(undisturbed, tmp_path / undisturbed.name)
    record = read_json(folder / "bench.json")
    unfinished = {**record, "runs": [{**row, "status": "not started"} for row in record["runs"]]}
    write_json(folder / "bench.json", unfinished)
    benchmark = Benchmark.resume(folder, REGISTRY, "paribus bench --resume")
    write_json(folder / "bench.json", record)
    with pytest.raises(InfrastructureError, match="another process went on with it until now; resume it again"):
        benchmark.execute(lambda folder: None)
    same(folder, undisturbed)
