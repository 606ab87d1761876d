"""The workflows run what the Makefile has, with no more rights than they need, against baselines that are there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.cli import SUITES
from harness.config.file import load_bench
from reports.regress.baseline import read
from reports.regress.judge import other_settings

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
BASELINES = sorted((ROOT / "suites" / "baselines").glob("*.json"))
TARGETS = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def jobs(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_may_read_the_code_and_nothing_else(path: Path) -> None:
    assert yaml.safe_load(path.read_text(encoding="utf-8"))["permissions"] == {"contents": "read"}
    for job in jobs(path).values():
        assert "permissions" not in job
        for step in job["steps"]:
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_every_job_ends_and_every_action_is_pinned(path: Path) -> None:
    for job in jobs(path).values():
        assert 0 < job["timeout-minutes"] <= 24 * 60
        for step in job["steps"]:
            assert re.fullmatch(r"[\w./-]+@(v\d+|[0-9a-f]{40})", step.get("uses", "x/y@v1"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_every_make_target_of_a_workflow_exists(path: Path) -> None:
    commands = "\n".join(step.get("run", "") for job in jobs(path).values() for step in job["steps"])
    called = set(re.findall(r"\bmake ([a-z-]+)", commands))
    assert called
    assert called <= TARGETS


def test_a_label_never_brings_a_forks_code_to_a_machine_of_ones_own() -> None:
    job = jobs(ROOT / ".github" / "workflows" / "gpu.yml")["gsm8k"]
    assert "github.event.pull_request.head.repo.full_name == github.repository" in job["if"]


@pytest.mark.parametrize("path", BASELINES, ids=lambda path: path.stem)
def test_a_committed_baseline_is_one_of_the_settings_as_they_are(path: Path) -> None:
    """A changed setting makes the gate refuse; then the baseline is to be made again (`make baseline`)."""
    baseline = read(path)
    suite, _, profile = path.stem.partition("-")
    spec = load_bench(SUITES / f"{suite}.toml", profile=profile or None)
    assert list(other_settings({"spec": spec.model_dump(mode="json")}, baseline)) == []
    assert baseline.seeds == spec.seeds


def test_the_hosted_runner_has_its_baseline() -> None:
    assert "arithmetic-ci" in {path.stem for path in BASELINES}
