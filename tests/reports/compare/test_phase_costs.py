"""What the figures of cost and of stability are drawn from."""

import json

import pytest
from synthetic_bench import write_bench

from reports.compare import curves as series
from reports.compare.phase_costs import Bars
from reports.compare.tabulate import tabulate
from reports.record.names import AXES, CRITIC_PARTS, CRITIC_PHASES, MEMORY_TOTALS
from reports.record.reader import load


def rewrite(folder, run, change):
    """Every line of a run's journal, as `change` leaves it."""
    path = folder / run / "steps.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    path.write_text("".join(json.dumps(change(line)) + "\n" for line in lines), encoding="utf-8")


def test_a_share_is_of_what_was_recorded_and_none_where_nothing_was():
    bars = Bars(("rollout", "values", "critic_update"), {
        "ppo": {"rollout": 6.0, "values": 1.0, "critic_update": 3.0},
        "grpo": {"rollout": 6.0, "values": None, "critic_update": None},
    })  # fmt: skip
    assert (bars.total("ppo"), bars.total("grpo")) == (10, 6)
    assert bars.share("ppo", CRITIC_PHASES) == pytest.approx(0.4)
    assert bars.share("grpo", CRITIC_PHASES) is None


def test_what_holds_the_parts_is_not_one_of_them():
    bars = Bars(("weights", "critic", "tracked", "device"), {
        "ppo": {"weights": 3.0, "critic": 1.0, "tracked": 4.0, "device": 9.0},
    })  # fmt: skip
    parts = bars.without(MEMORY_TOTALS)
    assert parts.phases == ("weights", "critic")
    assert parts.share("ppo", CRITIC_PARTS) == pytest.approx(0.25)


def test_a_spike_of_one_step_is_drawn_in_a_long_run(tmp_path):
    write_bench(tmp_path, steps=600, seeds=(0, 1), questions=20)
    spike = {"policy/approx_kl": 7.5}
    rewrite(tmp_path, "ppo-seed1", lambda line: line | spike if line["step"] == 313 else line)
    curves = series.stability_curves(tabulate(load(tmp_path)))["policy/approx_kl"]
    (line,) = (line for line in curves.lines if (line.arm, line.seed) == ("ppo", 1))
    assert len(line.x) <= series.MOST_POINTS
    assert (313.0, 7.5) in zip(line.x, line.y, strict=True)
    assert list(line.x) == sorted(line.x)
    # The mean is of two seeds and thirty steps.
    assert max(curves.means["ppo"].y) < 7.5 / 2 / 20


def test_an_axis_that_no_run_recorded_is_not_offered(tmp_path):
    records = tabulate(load(write_bench(tmp_path, steps=12, questions=20)))
    assert "energy_joules" in AXES
    for curves in (series.reward_curves(records), series.accuracy_curves(records, records.tasks[0])):
        assert list(curves) == ["steps", "samples", "generated_tokens", "device_seconds", "flops"]
