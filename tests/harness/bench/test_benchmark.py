"""Whole benchmarks in real child processes, small: what they leave, that they repeat, and how they end."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow_server import Server, wait_for
from real_bench import determined, writer_of

from harness.bench.benchmark import run_order
from harness.cli import suite_file
from harness.config.file import load_bench
from harness.tracking.client import children, connect
from harness.tracking.fetch import find_benchmark
from reports.record.journal import read_json, read_lines, write_json

ARMS = ("ppo", "grpo")
TINY = ["budget.samples=64", "rollout.prompts_per_step=4", "eval.questions=12", "eval.every=0.5"]


def paribus(*arguments: str, timeout: float = 600, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "harness.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env={**os.environ, **environment})


def run_bench(out: Path, *, sets: list[str], seeds: str = "0,1", **environment: str) -> Path:
    options = [option for each in sets for option in ("--set", each)]
    done = paribus("bench", "arithmetic", "--seeds", seeds, "--out", str(out), *options, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return (out / "latest").resolve()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, server: Server) -> Path:
    """A benchmark of two arms and two seeds, tracked on a real server."""
    return run_bench(tmp_path_factory.mktemp("first"), sets=TINY, MLFLOW_TRACKING_URI=server.uri)


def test_benchmark_leaves_every_file_it_promises(finished: Path) -> None:
    for name in ("bench.json", "report.html", "summary.md", "comparison.json", "junit.xml"):
        assert (finished / name).stat().st_size > 0, name
    for arm in ("ppo", "grpo"):
        for seed in (0, 1):
            folder = finished / f"{arm}-seed{seed}"
            assert len(read_lines(folder / "steps.jsonl")) == 2
            assert read_lines(folder / "samples.jsonl")
            assert (folder / "final" / "model.safetensors").is_file()
            tasks = ("arithmetic_heldout", "arithmetic_transfer")
            expected = {f"{label}-{task}.json" for label in ("step-000001", "final") for task in tasks}
            assert {path.name for path in (folder / "evals").iterdir()} == expected


def test_both_arms_finish_on_the_same_budget_in_alternating_order(finished: Path) -> None:
    runs = read_json(finished / "bench.json")["runs"]
    assert [(run["arm"], run["seed"]) for run in runs] == [("ppo", 0), ("grpo", 0), ("grpo", 1), ("ppo", 1)]
    assert {run["status"] for run in runs} == {"finished"}
    assert {run["spent"]["samples"] for run in runs} == {64}


def test_arms_of_a_seed_start_from_the_same_weights_prompts_and_first_rollout(finished: Path) -> None:
    matching = read_json(finished / "bench.json")["matching"]
    assert matching["verdict"] == "matched"
    assert [row["equal"] for row in matching["evidence"]] == [True, True]
    first, second = matching["evidence"]
    assert first["first_rollout"]["ppo"] != second["first_rollout"]["ppo"]
    assert first["weights"]["ppo"] == second["weights"]["ppo"]


def test_every_step_logs_every_axis_cumulatively(finished: Path) -> None:
    axes = ("steps", "prompts", "samples", "generated_tokens", "trained_tokens", "flops", "device_seconds")
    for run in ("ppo-seed0", "grpo-seed1"):
        first, second = read_lines(finished / run / "steps.jsonl")
        for axis in axes:
            assert 0 < first[f"budget/{axis}"] < second[f"budget/{axis}"], axis


def test_only_the_arm_with_a_critic_records_one(finished: Path) -> None:
    ppo, grpo = (read_lines(finished / f"{arm}-seed0" / "steps.jsonl")[-1] for arm in ("ppo", "grpo"))
    assert ppo["memory/critic_update/critic_bytes"] > 0
    assert ppo["critic/loss"] > 0
    assert not [name for name in grpo if name.startswith(("critic/", "memory/critic_update", "time/critic"))]


def test_second_benchmark_repeats_the_first_to_the_bit(finished: Path, tmp_path: Path) -> None:
    again = run_bench(tmp_path, sets=TINY, seeds="0")
    for run in ("ppo-seed0", "grpo-seed0"):
        assert determined(again, run) == determined(finished, run)


def test_micro_batch_size_changes_results_by_rounding_only(finished: Path, tmp_path: Path) -> None:
    other = run_bench(tmp_path, sets=[*TINY, "update.micro_batch_tokens=200"], seeds="0")
    for run in ("ppo-seed0", "grpo-seed0"):
        for ours, theirs in zip(determined(other, run), determined(finished, run), strict=True):
            assert ours.keys() == theirs.keys()
            # What is run for a step depends on its parts; what it asks for does not.
            for name, value in theirs.items():
                assert name.endswith("/executed") or ours[name] == pytest.approx(value, rel=1e-3, abs=2e-5), name


def test_benchmark_passes_against_its_own_baseline_and_without_a_seed_it_is_incomplete(
    finished: Path, tmp_path: Path
) -> None:
    own, file = shutil.copytree(finished, tmp_path / "own"), tmp_path / "baseline.json"
    assert paribus("baseline", "own", "--runs", str(tmp_path), "--out", str(file)).returncode == 0
    hold = ("regress", "own", "--runs", str(tmp_path), "--baseline", str(file))
    done = paribus(*hold, "--strict")
    results = {(gate["arm"], gate["name"]): gate["outcome"] for gate in read_json(own / "regress.json")["gates"]}
    assert done.returncode in (0, 4), done.stdout
    # Only a machine with other work on it can be in the way.
    assert {name for name, outcome in results.items() if outcome != "pass"} <= {(a, "time/step_s") for a in ARMS}
    assert all((arm, "curves, to the bit") in results for arm in ARMS)
    record = read_json(own / "bench.json")
    write_json(own / "bench.json", {**record, "runs": [run for run in record["runs"] if run["seed"] == 0]})
    done = paribus(*hold)
    assert done.returncode == 3
    assert "no value for seed 1, which the baseline has" in done.stdout


def test_mlflow_server_holds_parent_and_children_with_metrics_and_artifacts(finished: Path, server: Server) -> None:
    client = connect(server.uri)
    _, parent = find_benchmark(server.uri, finished.name)
    assert client.get_run(parent).info.status == "FINISHED"
    experiment = client.get_experiment_by_name("arithmetic")
    runs = children(client, experiment.experiment_id, parent)
    assert sorted(child.info.run_name for child in runs) == ["grpo-seed0", "grpo-seed1", "ppo-seed0", "ppo-seed1"]
    ids = {run["mlflow_run_id"] for run in read_json(finished / "bench.json")["runs"]}
    for child in runs:
        assert child.info.status == "FINISHED"
        assert child.info.run_id in ids
        assert "steps.jsonl" in {item.path for item in client.list_artifacts(child.info.run_id)}
        history = client.get_metric_history(child.info.run_id, "reward/mean")
        assert sorted(point.step for point in history) == [1, 2]
        assert child.data.params["update.learning_rate"]
        assert "eval/arithmetic_heldout/accuracy" in child.data.metrics


def test_report_is_rebuilt_from_the_server_alone(finished: Path, server: Server, tmp_path: Path) -> None:
    done = paribus("report", finished.name, "--out", str(tmp_path), MLFLOW_TRACKING_URI=server.uri)
    assert done.returncode == 0, done.stderr
    ours, theirs = tmp_path / finished.name, finished
    assert (ours / "report.html").read_bytes() == (theirs / "report.html").read_bytes()
    assert read_json(ours / "comparison.json") == read_json(theirs / "comparison.json")


def test_report_asks_for_nothing_outside_itself(finished: Path) -> None:
    page = (finished / "report.html").read_text(encoding="utf-8")
    assert not re.findall(r"""(?:src|href)\s*=\s*["']?(?:https?:)?//""", page)


def test_terminated_benchmark_is_marked_interrupted_and_keeps_its_journal(tmp_path: Path) -> None:
    options = ["--seeds", "0", "--out", str(tmp_path), "--set", "budget.steps=100000", "--set", "eval.questions=4"]
    process = subprocess.Popen(
        [sys.executable, "-m", "harness.cli", "bench", "arithmetic", *options],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    journal = tmp_path / "latest" / "ppo-seed0" / "steps.jsonl"
    try:
        assert wait_for(lambda: journal.is_file() and len(read_lines(journal)) >= 2, 120)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 5
    folder = (tmp_path / "latest").resolve()
    record = read_json(folder / "bench.json")
    assert record["status"] == "interrupted"
    assert {run["status"] for run in record["runs"]} == {"interrupted"}
    assert (folder / "report.html").is_file()
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = connect(uri)
    parent = client.get_run(find_benchmark(uri, folder.name)[1])
    assert parent.info.status == "KILLED"
    runs = children(client, parent.info.experiment_id, parent.info.run_id)
    assert {child.info.status for child in runs} == {"KILLED"}


def test_run_whose_process_is_killed_fails_alone(tmp_path: Path) -> None:
    options = ["--seeds", "0", "--out", str(tmp_path), "--set", "budget.steps=40", "--set", "eval.questions=4"]
    process = subprocess.Popen(
        [sys.executable, "-m", "harness.cli", "bench", "arithmetic", *options],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    log = tmp_path / "latest" / "ppo-seed0" / "worker.log"
    try:
        assert wait_for(lambda: (log.parent / "steps.jsonl").is_file(), 120)
        os.kill(writer_of(log), signal.SIGKILL)
        assert process.wait(timeout=200) == 1
    finally:
        process.kill()
    runs = read_json(tmp_path / "latest" / "bench.json")["runs"]
    assert [run["status"] for run in runs] == ["failed", "finished"]
    assert "SIGKILL" in runs[0]["reason"]


def test_diverging_run_is_a_row_and_not_an_end(tmp_path: Path) -> None:
    sets = ["arms.ppo.critic.learning_rate=1e30", "budget.steps=4", "critic.warmup_steps=0", "eval.questions=4"]
    options = [option for each in sets for option in ("--set", each)]
    done = paribus("bench", "arithmetic", "--seeds", "0", "--out", str(tmp_path), *options)
    assert done.returncode == 1, done.stderr
    runs = read_json(tmp_path / "latest" / "bench.json")["runs"]
    assert [run["status"] for run in runs] == ["diverged", "finished"]
    assert json.loads((tmp_path / "latest" / "comparison.json").read_text())["verdict"] == "invalid"


def test_arms_take_turns_to_go_first() -> None:
    bench = load_bench(suite_file("arithmetic"), seeds=[0, 1, 2])
    assert [arm for arm, _ in run_order(bench)] == ["ppo", "grpo", "grpo", "ppo", "ppo", "grpo"]


@pytest.mark.slow
def test_base_policy_script_reaches_the_shipped_accuracy(tmp_path: Path) -> None:
    script = suite_file("arithmetic").parent / "arithmetic_base" / "train.py"
    subprocess.run([sys.executable, script, "--out", tmp_path / "base"], check=True, timeout=1800)
    accuracy = {}
    for name, model in {"shipped": "package://suites/arithmetic_base", "trained": str(tmp_path / "base")}.items():
        out = tmp_path / name
        folder = run_bench(out, sets=[f"model.name={model}", "budget.steps=1", "eval.questions=400"], seeds="0")
        result = read_json(folder / "base" / "evals" / "base-arithmetic_heldout.json")
        accuracy[name] = result["metrics"]["accuracy"]
    assert abs(accuracy["trained"] - accuracy["shipped"]) <= 0.05, accuracy


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("PARIBUS_GSM8K_DIR"), reason="PARIBUS_GSM8K_DIR names no GSM8K folder")
def test_gsm8k_runs_on_real_data_and_real_weights(tmp_path: Path) -> None:
    short = ["budget.steps=2", "rollout.max_completion_tokens=48", "eval.questions=4", "eval.max_completion_tokens=64"]
    options = [option for each in short for option in ("--set", each)]
    done = paribus("bench", "gsm8k", "--profile", "cpu", "--out", str(tmp_path), *options, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = (tmp_path / "latest").resolve()
    record = read_json(folder / "bench.json")
    assert [run["status"] for run in record["runs"]] == ["finished", "finished"]
    assert record["matching"]["evidence"][0]["equal"] is True
    samples = read_json(folder / "grpo-seed0" / "evals" / "final-gsm8k_test.json")["samples"]
    assert len(samples) == 4
    assert all("####" in sample["prompt"] and sample["completion"] for sample in samples)
    shutil.rmtree(folder)
