"""A cap between the needs of two arms, and equal memory for both: whole benchmarks on a pretrained model."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from harness.cli import app

SMALL = (
    "rollout.prompts_per_step=4", "rollout.completions_per_prompt=6", "critic.warmup_steps=0", "eval.questions=4",
    "eval.every=1.0",
)  # fmt: skip


CAP_GIB = 1.4


def bench(suite: str, folder: Path, *settings: str):
    options = [part for each in settings for part in ("--set", each)]
    done = CliRunner().invoke(app, ["bench", suite, "--seeds", "0", "--out", str(folder), *options])
    assert done.exit_code == 0, done.output
    latest = folder / "latest"
    return done.output, *(json.loads((latest / f"{name}.json").read_text()) for name in ("bench", "comparison"))


@pytest.mark.slow
def test_an_arm_that_does_not_fit_is_reported_and_the_other_goes_on(tmp_path):
    output, record, comparison = bench("sums", tmp_path, *SMALL, "budget.memory_gib=3.4", "budget.steps=2")
    ppo, grpo = record["runs"]
    assert (ppo["status"], grpo["status"]) == ("out_of_memory", "finished")
    assert set(ppo["out_of_memory_in"]) == {"phase", "component"}
    assert record["status"] == "finished"
    assert comparison["verdict"] == "PPO does not fit"
    assert "PPO does not fit in 3.4 GiB" in output
    assert "GRPO fits and ended at" in (tmp_path / "latest" / "report.html").read_text()


@pytest.mark.slow
def test_equal_memory_is_filled_by_both_arms(tmp_path):
    settings = (
        "regime=same_gpu", f"budget.memory_gib={CAP_GIB}", "budget.device_seconds=15", "rollout.prompts_per_step=256",
        "update.minibatches=1", "critic.warmup_steps=0", "eval.questions=20", "eval.every=1.0",
    )  # fmt: skip
    _, record, comparison = bench("arithmetic", tmp_path, *settings)
    cap = int(CAP_GIB * 2**30)
    for arm, found in record["fit"].items():
        best = max((each for each in found["tries"] if each["fits"]), key=lambda each: each["tokens"])
        assert best["tokens"] == found["tokens"] == record["arms"][arm]["update"]["micro_batch_tokens"]
        assert found["tokens"] < found["whole"]
        assert 0.85 * cap <= best["bytes"] <= cap
    assert {run["status"] for run in record["runs"]} == {"finished"}
    assert all(run["spent"]["device_seconds"] >= 15 for run in record["runs"])
    assert comparison["matching"]["verdict"] == "matched"
    assert "of memory hold, as measured: PPO micro-batches of" in comparison["cost"]
