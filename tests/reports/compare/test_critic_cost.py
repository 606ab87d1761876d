"""What is charged to a critic, on records small enough to add up by hand."""

import math

import pandas as pd
import pytest

from reports import text
from reports.compare.critic_cost import Share, charges, point_costs
from reports.compare.pairs import Pair
from reports.compare.phase_costs import Bars
from reports.compare.tabulate import tabulate
from reports.pages import cost_tables
from reports.record.models import Evaluation
from reports.record.reader import Records, Run

MIB = 2**20
STEP = {
    "time/step_s": 10.0, "time/rollout_s": 5.0, "time/policy_update_s": 2.0,
    "flops/rollout/useful": 100.0, "flops/policy_update/useful": 300.0,
    "memory/policy_update/tracked_bytes": 90.0 * MIB, "memory/policy_update/peak_bytes": 400.0 * MIB,
}  # fmt: skip
CRITIC = {
    "critic/loss": 0.1, "time/values_s": 0.5, "time/critic_update_s": 1.5, "flops/values/useful": 50.0,
    "flops/critic_update/useful": 150.0, "memory/policy_update/critic_bytes": 10.0 * MIB,
    "memory/policy_update/critic_optimizer_bytes": 20.0 * MIB, "memory/critic_update/tracked_bytes": 120.0 * MIB,
    "memory/critic_update/critic_bytes": 10.0 * MIB, "memory/critic_update/critic_gradients_bytes": 10.0 * MIB,
    "memory/critic_update/critic_optimizer_bytes": 20.0 * MIB, "memory/critic_update/peak_bytes": 500.0 * MIB,
}  # fmt: skip


def evaluation(accuracy, label="final"):
    metrics = {"accuracy": accuracy}
    return Evaluation.made({"task": "sums", "label": label, "step": 4, "questions": 100, "metrics": metrics})


def run(arm, seed, steps, accuracy=0.5, **spent):
    history = pd.DataFrame([{"step": number, **step} for number, step in enumerate(steps, start=1)])
    return Run(
        arm=arm, seed=seed, status="finished", steps=len(steps), spent=spent, seconds=1.0, history=history,
        evaluations=(evaluation(accuracy),),
    )  # fmt: skip


def records(*runs, critic=None, base=0.3):
    bench = {"arms": {"ppo": {"critic": critic or {"kind": "separate"}}, "grpo": {}}}
    return tabulate(Records(bench, runs, {"sums": evaluation(base, "base")}))


def test_a_critics_phases_are_its_share_of_every_step_but_the_first():
    slow = {**STEP, **CRITIC, "time/step_s": 99.0}
    (charge,) = charges(records(run("ppo", 0, [slow, *[STEP | CRITIC] * 2]), run("grpo", 0, [STEP] * 3)))
    assert charge.arm == "ppo"
    assert charge.seconds == Share(2 * 2.0, 2 * 10.0)
    assert charge.flops == Share(2 * 200.0, 2 * 600.0)


def test_a_step_that_trains_the_critic_alone_is_charged_whole():
    found = records(run("ppo", 0, [STEP | CRITIC] * 4), critic={"kind": "separate", "warmup_steps": 2})
    (charge,) = charges(found)
    assert charge.critic_steps == 2
    assert charge.seconds == Share(10.0 + 2.0 + 2.0, 30.0)


def test_memory_without_the_critic_leaves_out_what_it_holds_and_its_own_phases():
    (charge,) = charges(records(run("ppo", 0, [STEP | CRITIC])))
    assert (charge.peak, charge.held) == (120 * MIB, 40 * MIB)
    assert charge.peak_without == (90 - 30) * MIB


def test_what_was_recorded_in_one_step_only_counts_for_the_run():
    without = {name: value for name, value in (STEP | CRITIC).items() if not name.startswith("memory/")}
    (charge,) = charges(records(run("ppo", 0, [without, STEP | CRITIC, without])))
    assert charge.peak == 120 * MIB


def test_an_arm_without_a_critic_is_charged_nothing():
    assert charges(records(run("grpo", 0, [STEP]))) == ()


def test_runs_are_averaged_and_those_that_failed_left_out():
    failed = run("ppo", 2, [STEP | CRITIC | {"time/step_s": 1e6}] * 2)
    failed = failed.replaced(status="diverged")
    runs = [run("ppo", seed, [STEP | CRITIC | {"time/step_s": 10.0 + seed}] * 2) for seed in (0, 1)]
    (charge,) = charges(records(*runs, failed))
    assert charge.seconds == Share(2.0, 10.5)


def test_what_no_run_recorded_is_not_made_up():
    (charge,) = charges(records(run("ppo", 0, [{"critic/loss": 0.1}] * 2)))
    assert (charge.seconds, charge.flops, charge.peak, charge.held) == (None, None, None, None)
    assert cost_tables.critic([charge]).rows == ()


def test_a_shared_trunk_is_said_to_hide_part_of_the_charge():
    (charge,) = charges(records(run("ppo", 0, [STEP | CRITIC]), critic={"kind": "shared", "warmup_steps": 1}))
    notes = cost_tables.critic_notes([charge])
    assert "lower bounds" in notes
    assert "first 1 step." in notes


def test_the_table_says_the_whole_the_critics_part_and_the_share():
    (charge,) = charges(records(run("ppo", 0, [STEP | CRITIC] * 2)))
    rows = {row[0]: row[1:] for row in cost_tables.critic([charge]).rows}
    assert rows["PPO, time of a run"] == ("10.0 s", "2.00 s", "20.0 %")
    assert rows["PPO, highest peak of all tensors"] == ("120 MiB", "60.0 MiB", "50.0 %")
    assert rows["PPO, held for it at that peak"] == ("120 MiB", "40.0 MiB", "33.3 %")


def test_a_point_costs_what_was_spent_for_each_gained():
    found = records(
        run("ppo", 0, [STEP], 0.5, samples=400), run("ppo", 1, [STEP], 0.6, samples=600),
        run("grpo", 0, [STEP], 0.2, samples=400),
    )  # fmt: skip
    costs = point_costs(found, "sums", ("samples", "flops"))
    assert set(costs) == {"samples"}
    assert costs["samples"]["ppo"] == pytest.approx(1000 / (20 + 30))
    assert costs["samples"]["grpo"] is None
    table = cost_tables.point_costs(costs, ("ppo", "grpo"), [Pair("ppo", "grpo")])
    assert table.rows[0][1:3] == ("20 samples", "no gain")


@pytest.mark.parametrize("base", [None, math.nan])
def test_without_a_base_a_point_has_no_price(base):
    found = records(run("ppo", 0, [STEP], 0.5, samples=400), base=base)
    assert point_costs(found, "sums", ("samples",)) == {}


def test_arithmetic_shows_what_was_run_on_top_of_what_was_asked():
    useful = Bars(
        ("rollout", "values"), {"ppo": {"rollout": 100.0, "values": 50.0}, "grpo": {"rollout": 100.0, "values": None}}
    )
    executed = Bars(
        ("rollout", "values"), {"ppo": {"rollout": 150.0, "values": 50.0}, "grpo": {"rollout": 110.0, "values": None}}
    )
    rows = cost_tables.arithmetic(useful, executed, ("ppo", "grpo")).rows
    assert rows[0][1:] == ("100 FLOP", "+50.0 %", "100 FLOP", "+10.0 %")
    assert rows[1][3:] == (text.NONE, text.NONE)
    assert rows[-1][1:] == ("150 FLOP", "+33.3 %", "100 FLOP", "+10.0 %")
