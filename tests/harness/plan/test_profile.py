"""`paribus profile`: a real arm, a few steps, the figures and where they are written."""

import json

import pytest
from typer.testing import CliRunner

from harness.cli import app

SMALL = ("rollout.prompts_per_step=4", "rollout.max_completion_tokens=8", "rollout.ignore_eos=true")
TINY = [option for each in SMALL for option in ("--set", each)]


@pytest.mark.parametrize("arm", ["ppo", "grpo"])
def test_a_profile_says_where_a_steps_time_and_work_go(tmp_path, arm):
    file = tmp_path / "profile.json"
    options = ["profile", "arithmetic", "--arm", arm, "--steps", "2", "--json", str(file), *TINY]
    done = CliRunner().invoke(app, options, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    found = json.loads(file.read_text())
    assert (found["arm"], found["steps"]) == (arm, 2)
    assert ("critic_update" in found["phases"]) == ("values" in found["phases"]) == (arm == "ppo")
    assert 0 < sum(phase["s"] for phase in found["phases"].values()) <= found["step_s"] * 1.5
    assert found["phases"]["rollout"]["flops"] > 0
    assert found["phases"]["rollout"]["tokens_per_s"] > 0
    assert found["samples_per_s"] == pytest.approx(32 / found["step_s"], rel=0.5)
    assert 0 < found["flop_utilisation"] < 1
    assert found["gemm_peak_flops_per_s"] > 1e9
    assert found["peak_bytes"] > 1e7
    assert "rollout" in done.output


def test_an_unknown_arm_is_refused():
    from reports.record.errors import UserError

    with pytest.raises(UserError, match=r"--arm rloo: accepted: ppo, grpo"):
        CliRunner().invoke(app, ["profile", "arithmetic", "--arm", "rloo"], catch_exceptions=False)
