"""A benchmark that is ended at any moment, by whatever, goes on and ends as if nothing had happened."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from harness.bench_record import RunRow, evidence_of, locked
from harness.cli import app
from harness.journal import MEASURED, read_json, read_lines
from harness.types import UserError

SMALL = (
    "budget.samples=512", "rollout.prompts_per_step=2", "eval.questions=8", "eval.every=0.4", "critic.warmup_steps=2",
    "checkpoint.every_s=0.2",
)  # fmt: skip
RUNS = ("ppo-seed0", "grpo-seed0")


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
        "import sys\nfrom pathlib import Path\nfrom harness.bench_record import locked\n"
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
    row = RunRow("ppo", 1, 2, status="failed", reason="lost", steps=9, seconds=7.5, resumed=[4])
    again = RunRow.again(row)
    assert (again.status, again.reason, again.seconds, again.resumed, again.order) == ("not started", None, 7.5, [4], 2)


# Real benchmarks, really killed.


def start(out: Path, *arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "harness.cli", "bench", *arguments, "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MLFLOW_TRACKING_URI": f"sqlite:///{out / 'mlflow.db'}"}
    with (out / "log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)


def finish(process: subprocess.Popen, out: Path) -> Path:
    assert process.wait(timeout=600) == 0, (out / "log").read_text()
    return (out / "latest").resolve()


def determined(folder: Path, run: str) -> list[dict]:
    records = read_lines(folder / run / "steps.jsonl")
    return [{k: v for k, v in record.items() if not k.startswith(MEASURED)} for record in records]


def kill(process: subprocess.Popen, *, everything: bool) -> None:
    """The parent alone, whose child then finds nobody listening; or the whole group, as a machine that goes down."""
    if everything:
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed")
    options = [option for each in SMALL for option in ("--set", each)]
    return finish(start(out, "arithmetic", "--seeds", "0", *options), out)


def same(folder: Path, undisturbed: Path) -> None:
    assert read_json(folder / "bench.json")["status"] == "finished"
    for run in RUNS:
        assert determined(folder, run) == determined(undisturbed, run)
        assert (folder / run / "samples.jsonl").read_bytes() == (undisturbed / run / "samples.jsonl").read_bytes()
        names = sorted(path.name for path in (undisturbed / run / "evals").iterdir())
        assert sorted(path.name for path in (folder / run / "evals").iterdir()) == names
        weights = [(f / run / "final" / "model.safetensors").read_bytes() for f in (folder, undisturbed)]
        assert weights[0] == weights[1]
        assert not (folder / run / "checkpoints").exists()


@pytest.mark.slow
def test_kills_at_random_moments_change_no_number(undisturbed, tmp_path):
    rng = random.Random(5)
    options = [option for each in SMALL for option in ("--set", each)]
    process = start(tmp_path, "arithmetic", "--seeds", "0", *options)
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
        process = start(tmp_path, *(("--resume", "latest") if begun else ("arithmetic", "--seeds", "0", *options)))
    folder = finish(process, tmp_path)
    assert kills >= 2
    same(folder, undisturbed)
    every_step_once(tmp_path, folder)


def every_step_once(out: Path, folder: Path) -> None:
    """In MLflow the newest attempt of each run has each step once, and none is left running."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{out / 'mlflow.db'}")
    (experiment,) = [e for e in client.search_experiments() if e.name == "arithmetic"]
    found = client.search_runs([experiment.experiment_id], f"tags.`paribus.bench_id` = '{folder.name}'")
    assert not [run for run in found if run.info.status == "RUNNING"]
    rows = {row["arm"]: row["mlflow_run_id"] for row in read_json(folder / "bench.json")["runs"]}
    for arm, run_id in rows.items():
        steps = [m.step for m in client.get_metric_history(run_id, "reward/mean")]
        assert sorted(steps) == [record["step"] for record in read_lines(folder / f"{arm}-seed0" / "steps.jsonl")]


@pytest.mark.slow
def test_sigterm_keeps_a_checkpoint_and_exits_within_ten_seconds(undisturbed, tmp_path):
    options = [option for each in SMALL for option in ("--set", each)]
    process = start(tmp_path, "arithmetic", "--seeds", "0", *options, "--set", "checkpoint.every_s=1000")
    journal = tmp_path / "latest" / "ppo-seed0" / "steps.jsonl"
    while not (journal.is_file() and len(journal.read_bytes().splitlines()) >= 5):
        assert process.poll() is None, (tmp_path / "log").read_text()
        time.sleep(0.05)
    asked = time.monotonic()
    process.terminate()
    assert process.wait(timeout=60) == 5
    took = time.monotonic() - asked
    (checkpoint,) = (tmp_path / "latest" / "ppo-seed0" / "checkpoints").glob("step-*")
    assert int(checkpoint.name.removeprefix("step-")) >= 5
    folder = finish(start(tmp_path, "--resume", "latest"), tmp_path)
    (row,) = [row for row in read_json(folder / "bench.json")["runs"] if row["arm"] == "ppo"]
    assert row["resumed"] == [int(checkpoint.name.removeprefix("step-"))]
    same(folder, undisturbed)
    assert took < 10


@pytest.mark.slow
def test_a_damaged_newest_checkpoint_costs_steps_and_no_number(undisturbed, tmp_path):
    options = [option for each in SMALL for option in ("--set", each)]
    process = start(tmp_path, "arithmetic", "--seeds", "0", *options)
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
