"""Benchmarks and a baseline as commit 1de1510 wrote them: they are reported, held against each other, and gone on with.

cases/records holds two small ones of the embedded suite, without pages, logs, weights and checkpoints.
"""

import json
import shutil
from pathlib import Path

import pytest
from real_bench import finish, rows, start
from typer.testing import CliRunner

from harness.bench.benchmark import Benchmark
from harness.cli import REGISTRY, app
from harness.config.file import recorded
from reports.build import build
from reports.record.journal import read_json, read_lines
from reports.record.models import Bench, Evaluation, Sample, Step, upgrade
from reports.record.reader import load

RECORDS = Path(__file__).parents[2] / "cases" / "records"
NAMES = ("1de1510-finished", "1de1510-interrupted")


@pytest.fixture(params=NAMES)
def older(request, tmp_path):
    return shutil.copytree(RECORDS / request.param, tmp_path / request.param)


@pytest.fixture
def finished(tmp_path):
    return shutil.copytree(RECORDS / NAMES[0], tmp_path / NAMES[0])


@pytest.fixture
def interrupted(tmp_path):
    folder = tmp_path / NAMES[1]
    shutil.copytree(RECORDS / NAMES[1], folder)
    return folder


def test_what_was_written_then_is_written_again_to_the_letter(older):
    """But for the order of a record's keys, which then depended on what was known when."""
    raw = read_json(older / "bench.json")
    assert Bench.read(upgrade(raw, "bench.json"), "bench.json").dump() == {**raw, "runs": raw["runs"]}
    for path in older.rglob("evals/*.json"):
        raw = read_json(path)
        assert json.dumps(Evaluation.read({**raw, "samples": raw["samples"]}, path.name).dump()) == json.dumps(raw)
    for name, model in (("steps", Step), ("samples", Sample)):
        for path in older.rglob(f"{name}.jsonl"):
            for line in read_lines(path):
                assert json.dumps(model.read(line, path.name).dump()) == json.dumps(line)


def test_every_run_is_reported(older):
    comparison = build(older)
    assert {path.name for path in older.glob("*.*")} >= {"report.html", "summary.md", "comparison.json", "junit.xml"}
    statuses = {row["arm"]: row["status"] for row in read_json(older / "bench.json")["runs"]}
    assert {run.arm: run.status for run in comparison.runs} == statuses
    # A child that is told to end finishes its step, of which its parent may not hear.
    assert all(0 <= len(run.history) - run.steps <= (not run.finished) for run in comparison.runs)


def test_a_finished_benchmark_passes_against_its_own_baseline(finished):
    baseline = RECORDS / f"{NAMES[0]}.baseline.json"
    arguments = ["regress", finished.name, "--runs", str(finished.parent), "--baseline", str(baseline)]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    found = read_json(finished / "regress.json")
    assert found["mismatches"] == found["other_device"] == []
    outcomes = {(gate["arm"], gate["name"]): gate["outcome"] for gate in found["gates"]}
    assert all(outcomes[arm, "curves, to the bit"] == "pass" for arm in ("ppo", "grpo"))
    assert set(outcomes.values()) <= {"pass", "cannot tell"}


def test_its_settings_are_settings_still(older):
    spec = read_json(older / "bench.json")["spec"]
    kept = recorded(spec).model_dump(mode="json")
    # What is newer than the record stands at its default.
    for table in ("suite", "model", "budget", "eval"):
        assert {key: kept[table][key] for key in spec[table]} == spec[table]
    assert kept["seeds"] == spec["seeds"]


def test_a_finished_run_is_kept_and_an_interrupted_one_is_about_to_go_on(interrupted):
    before = {record.arm: record for record in load(interrupted).runs}
    benchmark = Benchmark.resume(interrupted, REGISTRY, "paribus bench --resume")
    ppo, grpo = benchmark.rows
    assert (ppo.status, ppo.steps) == ("finished", before["ppo"].steps)
    assert (before["grpo"].status, grpo.status, grpo.steps) == ("interrupted", "not started", 0)
    assert grpo.seconds == before["grpo"].seconds > 0
    assert benchmark.record.chosen is not None
    assert set(benchmark.evidence) == {("ppo", 0), ("grpo", 0)}


@pytest.mark.slow
def test_an_interrupted_benchmark_comes_to_its_end(interrupted, tmp_path):
    (tmp_path / "latest").symlink_to(interrupted.name)
    ppo = (interrupted / "ppo-seed0" / "steps.jsonl").read_bytes()
    folder = finish(start(tmp_path, "--resume", "latest"), tmp_path)
    assert {row["status"] for row in rows(folder).values()} == {"finished"}
    assert (folder / "ppo-seed0" / "steps.jsonl").read_bytes() == ppo
    assert [line["step"] for line in read_lines(folder / "grpo-seed0" / "steps.jsonl")] == list(range(1, 9))
    assert read_json(folder / "comparison.json")["problem"] is None
