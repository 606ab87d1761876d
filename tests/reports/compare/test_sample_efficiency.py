"""Who leads on the way: areas against numerical integration, arrivals by hand, and rules that favour no arm."""

import json
import math

import numpy as np
import pytest
from scipy import integrate
from scipy import stats as sps
from synthetic_bench import read_json, write_bench, write_json

from reports import sentences
from reports.compare import sample_efficiency
from reports.compare.comparison import compare, load
from reports.compare.tabulate import tabulate
from reports.compare.trajectories import accuracy_paths
from reports.stats import estimates
from reports.stats.paths import Path, Paths, arrival, mean_height, path
from reports.stats.verdict import Verdict, VerdictKind

TASK = "synthetic_heldout"
AXES = ("steps", "samples", "generated_tokens", "device_seconds", "flops")


def straight(*ys: float) -> Path:
    return Path(np.arange(len(ys), dtype=float), np.array(ys), None, 0)


def by_axis(records, quantity: str):
    return {area.axis: area for area in compare(records).findings.areas if area.quantity == quantity}


def test_the_mean_height_is_the_integral_over_the_width():
    rng = np.random.default_rng(0)
    x, y = np.cumsum(rng.random(9)), rng.random(9)
    start, stop = x[0] + 0.1, x[-1] - 0.2
    area, _ = integrate.quad(lambda at: np.interp(at, x, y), start, stop, points=x[1:-1], limit=200)
    assert mean_height(x, y, start, stop) == pytest.approx(area / (stop - start))


def test_the_mean_height_of_the_accuracy_is_the_mean_over_questions_of_their_own():
    rng = np.random.default_rng(1)
    x, answers = np.array([0.0, 3.0, 4.0, 9.0]), rng.integers(0, 2, (4, 50)).astype(float)
    whole = mean_height(x, answers.mean(axis=1), 1.0, 8.0)
    assert mean_height(x, answers, 1.0, 8.0).mean() == pytest.approx(float(whole))


def test_an_arrival_lies_on_the_line_between_two_points():
    assert arrival(straight(0.0, 0.2, 0.6), 0.3) == pytest.approx(1.25)
    assert arrival(straight(0.5, 0.2, 0.6), 0.4) == 0.0
    assert arrival(straight(0.0, 0.6, 0.1, 0.7), 0.6) == 1.0  # the first time, not the last
    assert arrival(straight(0.0, 0.2), 0.3) is None


def test_a_point_that_is_not_finite_is_left_out_of_a_path_and_counted():
    found = path([0, 1, 2, math.nan, 4], [0.1, math.inf, 0.3, 0.4, None])
    assert found.x.tolist() == [0.0, 2.0]
    assert found.missing == 3
    assert path([0, math.nan], [0.1, 0.2]) is None


def test_of_two_values_at_one_place_the_later_counts():
    assert path([0, 5, 5], [0.1, 0.2, 0.3]).y.tolist() == [0.1, 0.3]


def test_the_target_is_what_half_of_the_runs_of_each_arm_reached_whichever_is_named_first():
    a = {0: straight(0.1, 0.5), 1: straight(0.1, 0.7), 2: straight(0.1, 0.9)}
    b = {0: straight(0.1, 0.4), 1: straight(0.1, 0.5), 2: straight(0.1, 0.3)}
    expected = 0.1 + 0.5 * (0.4 - 0.1)
    assert sample_efficiency.target(Paths({"ppo": a, "grpo": b}), 0.5) == pytest.approx(expected)
    assert sample_efficiency.target(Paths({"grpo": b, "ppo": a}), 0.5) == pytest.approx(expected)


def test_where_an_arm_never_rises_there_is_no_target():
    runs = {"ppo": {0: straight(0.4, 0.8)}, "grpo": {0: straight(0.4, 0.1)}}
    assert sample_efficiency.target(Paths(runs), 0.5) is None
    assert sample_efficiency.target(Paths({"ppo": {0: straight(0.4, 0.8)}, "grpo": {}}), 0.5) is None


def test_the_accuracy_on_the_way_is_judged_by_the_crossed_interval_over_the_areas_of_the_questions(tmp_path):
    records = load(write_bench(tmp_path, steps=20))
    area = by_axis(records, "accuracy")["steps"]
    tables = []
    for arm in ("ppo", "grpo"):
        rows = []
        for seed in (0, 1, 2):
            labels = ("base/evals/base", f"{arm}-seed{seed}/evals/step-000010", f"{arm}-seed{seed}/evals/final")
            marks = [read_json(tmp_path / f"{label}-{TASK}.json")["samples"] for label in labels]
            base, middle, last = ([float(sample["correct"]) for sample in samples] for samples in marks)
            # Steps 0, 10 and 20: the middle one weighs a half, the ends a quarter each.
            rows.append(np.array(base) / 4 + np.array(middle) / 2 + np.array(last) / 4)
        tables.append(np.array(rows))
    assert area.metric.difference.estimate.interval() == pytest.approx(estimates.crossed(*tables).interval())
    assert area.metric.difference.verdict.mde is not None


def test_without_answers_the_areas_of_the_seeds_are_compared(tmp_path):
    write_bench(tmp_path, steps=20)
    for file in tmp_path.glob("*/evals/*.json"):
        write_json(file, read_json(file) | {"samples": []})
    found = by_axis(load(tmp_path), "accuracy")["steps"].metric
    x, y = (list(found.arms[arm].per_seed.values()) for arm in ("ppo", "grpo"))
    interval = sps.ttest_ind(x, y, equal_var=False).confidence_interval()
    assert found.difference.estimate.interval() == pytest.approx((interval.low, interval.high))


def test_the_stretch_is_what_every_run_covers(tmp_path):
    found = by_axis(load(write_bench(tmp_path, steps={"ppo": 20, "grpo": 30})), "reward")
    assert (found["steps"].start, found["steps"].stop) == (1, 20)


def test_every_axis_that_was_recorded_is_asked_and_no_other(tmp_path):
    write_bench(tmp_path, steps=20)
    assert tuple(by_axis(load(tmp_path), "reward")) == AXES
    for journal in tmp_path.glob("*/steps.jsonl"):
        lines = [json.loads(line) | {"budget/flops": None} for line in journal.read_text().splitlines()]
        journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert tuple(by_axis(load(tmp_path), "reward")) == AXES[:-1]


def test_an_axis_that_one_run_did_not_record_is_not_judged(tmp_path):
    write_bench(tmp_path, steps=20)
    journal = tmp_path / "ppo-seed1" / "steps.jsonl"
    lines = [json.loads(line) | {"budget/flops": None} for line in journal.read_text().splitlines()]
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
    metric = by_axis(load(tmp_path), "reward")["flops"].metric
    assert metric.arms["ppo"].missing == 1
    assert metric.difference.verdict.label == "invalid"


def test_a_reward_that_is_not_finite_makes_its_curves_invalid_and_is_counted(tmp_path):
    write_bench(tmp_path, steps=20)
    journal = tmp_path / "ppo-seed1" / "steps.jsonl"
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    lines[4]["reward/mean"] = None
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
    judged = by_axis(load(tmp_path), "reward")["steps"].metric.difference.verdict
    assert (judged.label, judged.reason) == ("invalid", "the curves lack 1 finite value")


def test_without_an_evaluation_on_the_way_there_is_no_way_to_speak_of(tmp_path):
    write_bench(tmp_path, steps=20)
    for file in tmp_path.glob("*/evals/step-*.json"):
        file.unlink()
    assert accuracy_paths(tabulate(load(tmp_path)), TASK) == {}
    assert by_axis(load(tmp_path), "accuracy") == {}


def test_a_run_that_never_gets_there_is_counted_and_no_ratio_is_given(tmp_path):
    write_bench(tmp_path, steps=20)
    base = read_json(tmp_path / "base" / "evals" / f"base-{TASK}.json")
    for label in ("step-000010", "final"):
        file = tmp_path / "grpo-seed2" / "evals" / f"{label}-{TASK}.json"
        write_json(file, read_json(file) | {key: base[key] for key in ("samples", "metrics")})
    races = compare(load(tmp_path)).findings.races
    race = next(race for race in races if (race.quantity, race.axis) == ("accuracy", "samples"))
    assert (race.arms["grpo"].reached, race.arms["grpo"].runs) == (2, 3)
    assert race.arms["grpo"].median is not None
    assert race.ratio == (None, None, None)
    assert race.log_ratio.verdict.reason == "1 of 3 runs of GRPO never got there"


def test_an_accuracy_that_the_suite_declared_is_a_target_even_if_nobody_gets_there(tmp_path):
    found = compare(load(write_bench(tmp_path, steps=20, spec={"suite": {"target": 0.95}}))).findings.races
    declared = [race for race in found if race.goal == "declared by the suite"]
    assert [race.axis for race in declared] == list(AXES)
    assert {(race.quantity, race.level) for race in declared} == {("accuracy", 0.95)}
    assert all(arm.reached == 0 and arm.median is None for race in declared for arm in race.arms.values())


def test_a_declared_target_is_asked_of_the_arm_that_has_runs(tmp_path):
    failures = {("ppo", seed): "failed" for seed in (0, 1, 2)}
    records = load(write_bench(tmp_path, steps=20, spec={"suite": {"target": 0.5}}, failures=failures))
    race = compare(records).findings.races[0]
    assert (race.arms["ppo"].runs, race.arms["ppo"].median) == (0, None)
    assert race.arms["grpo"].reached == 3
    assert race.log_ratio.verdict.label == "invalid"


def test_the_ratio_of_times_is_welchs_on_their_logarithms(tmp_path):
    races = compare(load(write_bench(tmp_path, steps=20))).findings.races
    race = next(race for race in races if race.quantity == "reward" and race.axis == "device_seconds")
    x, y = (np.log(list(race.arms[arm].per_seed.values())) for arm in ("ppo", "grpo"))
    interval = sps.ttest_ind(x, y, equal_var=False).confidence_interval()
    assert race.ratio == pytest.approx(tuple(np.exp([x.mean() - y.mean(), interval.low, interval.high])))


def test_a_flip_between_axes_is_said_in_words():
    verdicts = {
        "steps": Verdict(VerdictKind.BETTER, winner="grpo"),
        "samples": Verdict(VerdictKind.BETTER, winner="ppo"),
        "generated_tokens": Verdict(VerdictKind.BETTER, winner="ppo"),
        "device_seconds": Verdict(VerdictKind.EQUIVALENT),
        "flops": Verdict(VerdictKind.INCONCLUSIVE),
    }
    assert sentences.across_axes(("ppo", "grpo"), "accuracy", verdicts) == (
        "Over the whole of training, not only at its end (mean accuracy on the way): PPO leads per sample and per"
        " generated token; GRPO leads per step; PPO and GRPO tie per device-second; these runs cannot tell PPO from"
        " GRPO per FLOP."
    )


@pytest.mark.parametrize("label", ["invalid", "no verdict"])
def test_where_nothing_may_be_said_of_the_axes_nothing_is(label):
    assert sentences.across_axes(("ppo", "grpo"), "accuracy", {"steps": Verdict(VerdictKind(label))}) == ""


def test_an_arm_that_learns_more_per_step_but_takes_long_for_it_leads_on_one_axis_only(tmp_path):
    write_bench(tmp_path, steps=40, effect=0.2, questions=600, seed_sd=0.002)
    for seed in (0, 1, 2):
        slow_down(tmp_path / f"ppo-seed{seed}", 12)
    result = compare(load(tmp_path))
    assert "PPO leads per step, per sample, per generated token and per FLOP" in result.detail
    assert "GRPO leads per device-second" in result.detail
    assert result.to_json()["detail"] == result.detail


def slow_down(run, times: float) -> None:
    """The same run on a machine that many times slower."""
    journal = run / "steps.jsonl"
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    for line in lines:
        line["budget/device_seconds"] *= times
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
    for file in run.glob("evals/*.json"):
        evaluation = read_json(file)
        evaluation["spent"]["device_seconds"] *= times
        write_json(file, evaluation)
