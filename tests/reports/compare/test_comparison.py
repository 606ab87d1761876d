"""What is concluded from a folder of records, and what is refused."""

import json
import math

import numpy as np
import pytest
from synthetic_bench import read_json, write_bench, write_json

from reports.compare.comparison import compare, load
from reports.record.errors import EvidenceError
from reports.stats import estimates

ACCURACY = "eval/synthetic_heldout/accuracy"


def comparison(folder, **options):
    return compare(load(write_bench(folder, steps=options.pop("steps", 20), **options)))


def test_the_difference_is_the_first_arm_minus_the_second(tmp_path):
    result = comparison(tmp_path, effect=0.2, questions=400)
    primary = result.metric(ACCURACY)
    means = {arm: value.mean for arm, value in primary.arms.items()}
    assert primary.difference.estimate.mean == pytest.approx(means["ppo"] - means["grpo"])
    assert result.to_json()["difference_of"] == ["ppo", "grpo"]
    assert result.verdict.label == "ppo better"


def test_the_accuracy_interval_is_the_crossed_one_over_the_answers_on_disk(tmp_path):
    result = comparison(tmp_path)
    tables = []
    for arm in ("ppo", "grpo"):
        files = (tmp_path / f"{arm}-seed{seed}" / "evals" / "final-synthetic_heldout.json" for seed in (0, 1, 2))
        tables.append(np.array([[float(s["correct"]) for s in read_json(file)["samples"]] for file in files]))
    expected = estimates.crossed(*tables).interval()
    assert result.metric(ACCURACY).difference.estimate.interval() == pytest.approx(expected)


def test_the_order_of_the_answers_in_a_file_does_not_matter(tmp_path):
    before = comparison(tmp_path).to_json()
    path = tmp_path / "ppo-seed1" / "evals" / "final-synthetic_heldout.json"
    evaluation = read_json(path)
    evaluation["samples"].reverse()
    write_json(path, evaluation)
    assert compare(load(tmp_path)).to_json()["metrics"] == before["metrics"]


def test_the_json_has_the_agreed_keys_and_no_nan(tmp_path):
    value = comparison(tmp_path, nan_metric="reward/mean").to_json()
    text = json.dumps(value, allow_nan=False)
    assert json.loads(text) == value
    assert {"schema_version", "bench_id", "suite", "regime", "budget", "matching", "runs", "metrics"} <= value.keys()
    assert value["budget"] == {"currency": "samples", "limit": 2560}
    assert {"verdict", "declared", "undeclared", "evidence"} == value["matching"].keys()
    assert {"arm", "seed", "status", "mlflow_run_id", "steps", "spent"} <= value["runs"][0].keys()
    for metric in value["metrics"]:
        assert {"name", "unit", "better", "arms", "difference"} <= metric.keys()
        assert {"mean", "low", "high", "n", "per_seed"} <= metric["arms"]["ppo"].keys()
        assert {"mean", "low", "high", "verdict", "mde"} <= metric["difference"].keys()


def test_the_statistics_in_full_are_in_the_json_beside_the_agreed_keys(tmp_path):
    value = comparison(tmp_path).to_json()
    assert {"area_under_curve", "time_to_target", "bands", "flips", "readings", "aggregate"} <= value.keys()
    quantities = [(area["quantity"], area["axis"]) for area in value["area_under_curve"]]
    axes = ["steps", "samples", "generated_tokens", "device_seconds", "flops"]
    assert quantities == [(quantity, axis) for quantity in ("accuracy", "reward") for axis in axes]
    assert {"mean", "low", "high", "verdict", "mde"} <= value["area_under_curve"][0]["difference"].keys()
    assert {"reached", "n", "median", "per_seed"} == value["time_to_target"][0]["arms"]["ppo"].keys()


def test_the_same_records_give_the_same_numbers(tmp_path):
    write_bench(tmp_path, steps=20)
    assert json.dumps(compare(load(tmp_path)).to_json()) == json.dumps(compare(load(tmp_path)).to_json())


def test_what_makes_the_comparison_invalid_makes_every_finding_invalid(tmp_path):
    value = comparison(tmp_path, effect=0.2, failures={("grpo", 1): "diverged"}).to_json()
    judged = [area["difference"]["verdict"] for area in value["area_under_curve"]]
    judged += [race["verdict"] for race in value["time_to_target"]]
    judged += [row["difference"]["verdict"] for task in value["readings"] for row in task["rows"] if row["difference"]]
    assert set(judged) == {"invalid"}
    assert "Over the whole of training" not in value["detail"]


def test_with_one_seed_the_axes_are_shown_and_none_is_called(tmp_path):
    value = comparison(tmp_path, seeds=(0,)).to_json()
    assert {area["difference"]["verdict"] for area in value["area_under_curve"]} == {"no verdict"}
    assert value["detail"] == ""
    assert value["aggregate"]["iqm"]["ppo"]["low"] is None


def test_a_metric_that_is_never_finite_has_no_curve_to_measure(tmp_path):
    value = comparison(tmp_path, nan_metric="reward/mean").to_json()
    assert {area["quantity"] for area in value["area_under_curve"]} == {"accuracy"}
    assert value["bands"]["reward/mean"] == {}


def test_when_all_runs_of_an_arm_failed_the_other_is_still_described(tmp_path):
    value = comparison(tmp_path, failures={("ppo", seed): "failed" for seed in (0, 1, 2)}).to_json()
    assert value["area_under_curve"][0]["arms"]["ppo"]["mean"] is None
    assert value["area_under_curve"][0]["arms"]["grpo"]["n"] == 3
    assert value["area_under_curve"][0]["difference"]["verdict"] == "invalid"
    assert value["flips"] == []
    assert value["time_to_target"] == []


def test_one_seed_gives_no_verdict_and_no_interval(tmp_path):
    result = comparison(tmp_path, seeds=(0,))
    assert result.verdict.label == "no verdict"
    assert result.metric(ACCURACY).arms["ppo"].low is None
    assert "one seed" in result.headline


def test_a_run_that_did_not_finish_is_listed_counted_and_part_of_no_mean(tmp_path):
    result = comparison(tmp_path, failures={("grpo", 1): "diverged"})
    assert [run.status for run in result.runs if run.arm == "grpo"] == ["finished", "diverged", "finished"]
    assert result.metric(ACCURACY).arms["grpo"].n == 2
    assert set(result.metric("time/step_s").arms["grpo"].per_seed) == {0, 2}


def test_leaving_out_a_run_makes_the_comparison_invalid_because_it_could_favour_an_arm(tmp_path):
    result = comparison(tmp_path, effect=0.2, failures={("grpo", 1): "diverged"})
    assert result.verdict.label == "invalid"
    assert "GRPO seed 1 diverged" in result.headline
    assert result.metric(ACCURACY).difference.estimate.interval() is not None


def test_all_runs_of_an_arm_failing_still_compares_nothing_readably(tmp_path):
    result = comparison(tmp_path, failures={("ppo", seed): "failed" for seed in (0, 1, 2)})
    assert result.verdict.label == "invalid"
    assert "no run of PPO finished" in result.headline
    assert result.metric(ACCURACY).arms["ppo"].mean is None
    json.dumps(result.to_json(), allow_nan=False)


def test_an_arm_that_does_not_fit_is_a_result_and_says_where(tmp_path):
    failures = {("ppo", seed): "out_of_memory" for seed in (0, 1, 2)}
    result = comparison(tmp_path, failures=failures, spec={"budget": {"memory_gib": 2.5}})
    assert result.to_json()["verdict"] == "PPO does not fit"
    assert result.problem is None
    assert result.headline.startswith(
        "PPO does not fit in 2.5 GiB (no room for the critic optimizer of its critic update); GRPO fits and ended at "
    )
    assert all(metric.difference is None for metric in result.metrics)
    assert result.metric(ACCURACY).arms["grpo"].n == 3
    assert result.to_json()["verdict"] == "PPO does not fit"


def test_an_arm_that_sometimes_fits_is_no_such_result(tmp_path):
    result = comparison(tmp_path, failures={("ppo", seed): "out_of_memory" for seed in (0, 1)})
    assert result.verdict.label == "invalid"
    assert "2 of 6 runs did not finish" in result.headline


def test_no_arm_that_fits_is_no_comparison(tmp_path):
    result = comparison(tmp_path, failures={(arm, s): "out_of_memory" for arm in ("ppo", "grpo") for s in (0, 1, 2)})
    assert result.verdict.label == "invalid"


def test_the_micro_batches_that_fitted_are_said(tmp_path):
    found = {"cap_bytes": 5 * 2**30, "smallest": 64, "tries": []}
    fit = {"ppo": {**found, "tokens": 700, "whole": 4000}, "grpo": {**found, "tokens": 4000, "whole": 4000}}
    cost = comparison(tmp_path, fit=fit, regime="same_gpu").cost
    assert (
        "GiB of memory hold, as measured: PPO micro-batches of 700 tokens and GRPO micro-batches of 4,000 tokens, a "
        "whole step."
    ) in cost
    none = {**fit, "ppo": {**found, "tokens": None, "whole": 4000}}
    assert "PPO not even one sequence" in comparison(tmp_path / "none", fit=none).cost


def test_a_run_beside_a_busy_neighbour_is_marked(tmp_path):
    write_bench(tmp_path, steps=20)
    bench = read_json(tmp_path / "bench.json")
    bench["runs"][2]["conditions"]["after"]["gemm_s"] = 0.03
    bench["runs"][1]["conditions"]["after"]["gemm_s"] = None
    bench["runs"][0]["conditions"] = {}
    write_json(tmp_path / "bench.json", bench)
    result = compare(load(tmp_path))
    slow = (bench["runs"][2]["arm"], bench["runs"][2]["seed"])
    assert result.slowed == {slow: pytest.approx(0.5)}
    assert "the machine was up to 50 % slower than at its best around 1 of 6 runs" in result.cost


def test_no_evaluation_at_all_is_said(tmp_path):
    result = comparison(tmp_path, evaluate=False)
    assert result.primary is None
    assert result.verdict.label == "no verdict"
    assert "no evaluation was recorded" in result.headline
    assert result.metric("time/step_s").difference.verdict.label == "grpo better"


def test_one_arm_alone_is_described_and_not_compared(tmp_path):
    result = comparison(tmp_path, arms=("grpo",))
    assert result.headline.startswith("Only GRPO was run")
    assert all(metric.difference is None for metric in result.metrics)


@pytest.mark.parametrize("fault", ["verdict", "evidence"])
def test_arms_that_were_not_matched_are_not_judged(tmp_path, fault):
    write_bench(tmp_path, steps=20, effect=0.2)
    bench = read_json(tmp_path / "bench.json")
    if fault == "verdict":
        bench["matching"]["verdict"] = "not matched"
    else:
        bench["matching"]["evidence"][1]["equal"] = False
    write_json(tmp_path / "bench.json", bench)
    assert compare(load(tmp_path)).verdict.label == "invalid"


def test_a_finished_run_that_did_not_use_its_budget_is_not_judged(tmp_path):
    result = comparison(tmp_path, budget={"currency": "samples", "limit": 99_999})
    assert result.verdict.label == "invalid"
    assert "stopped at 2,560 of its 99,999 samples" in result.headline


def test_policies_that_were_asked_different_questions_are_not_judged(tmp_path):
    write_bench(tmp_path, steps=20)
    path = tmp_path / "ppo-seed1" / "evals" / "final-synthetic_heldout.json"
    evaluation = read_json(path)
    evaluation["samples"][0]["prompt"] = "another question"
    write_json(path, evaluation)
    assert "same questions" in compare(load(tmp_path)).headline


def test_a_metric_that_is_never_finite_is_shown_as_missing(tmp_path):
    metric = comparison(tmp_path, nan_metric="reward/mean").metric("reward/mean")
    assert metric.arms["ppo"].mean is None
    assert metric.arms["ppo"].missing == 3
    assert metric.difference.verdict.label == "invalid"


def test_a_reward_that_is_missing_at_the_end_is_not_averaged_away(tmp_path):
    write_bench(tmp_path, steps=20)
    journal = tmp_path / "ppo-seed0" / "steps.jsonl"
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    lines[-1]["reward/mean"] = None  # the last tenth is two steps
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
    metric = compare(load(tmp_path)).metric("reward/mean")
    assert (metric.arms["ppo"].n, metric.arms["ppo"].missing) == (2, 1)
    assert metric.difference.verdict.label == "invalid"


def test_a_metric_that_nobody_recorded_is_no_row(tmp_path):
    write_bench(tmp_path, steps=20)
    for journal in tmp_path.glob("*/steps.jsonl"):
        lines = [json.loads(line) for line in journal.read_text().splitlines()]
        kept = [{k: v for k, v in line.items() if not k.startswith("memory/")} for line in lines]
        journal.write_text("".join(json.dumps(line) + "\n" for line in kept))
    assert compare(load(tmp_path)).metric("memory/peak_bytes") is None


def test_speed_is_the_median_over_the_steps_without_the_first(tmp_path):
    result = comparison(tmp_path, steps=6)
    lines = [json.loads(line) for line in (tmp_path / "ppo-seed0" / "steps.jsonl").read_text().splitlines()]
    expected = float(np.median([line["time/step_s"] for line in lines[1:]]))
    assert result.metric("time/step_s").arms["ppo"].per_seed[0] == pytest.approx(expected)


def test_what_the_budget_fixes_is_not_called_better(tmp_path):
    result = comparison(tmp_path, budget={"currency": "device_seconds", "limit": 1})
    assert result.metric("budget/device_seconds").difference.verdict.label == "no verdict"


def test_a_mean_curve_spans_only_what_all_of_its_runs_cover(tmp_path):
    result = comparison(tmp_path, failures={("ppo", 0): "interrupted"})
    curves = result.reward["device_seconds"]
    ends = [line.x[-1] for line in curves.lines if line.arm == "ppo" and line.counted]
    assert len(ends) == 2
    assert curves.means["ppo"][0][-1] == min(ends)


def test_arms_with_different_step_counts_are_drawn_to_their_own_end(tmp_path):
    result = comparison(tmp_path, steps={"ppo": 20, "grpo": 30})
    assert result.reward["steps"].means["ppo"][0][-1] == 20
    assert result.reward["steps"].means["grpo"][0][-1] == 30


def test_flips_come_first_and_take_turns(tmp_path):
    kinds = [example.kind for example in comparison(tmp_path).examples.chosen]
    assert len(kinds) <= 40
    assert set(kinds[:2]) == {"only ppo", "only grpo"}
    assert kinds[-1] == "all right"


def test_a_resumed_journal_counts_every_step_once(tmp_path):
    write_bench(tmp_path, steps=20)
    journal = tmp_path / "ppo-seed0" / "steps.jsonl"
    lines = journal.read_text().splitlines()
    again = json.loads(lines[14]) | {"reward/mean": 0.123}
    journal.write_text("\n".join([*lines[:15], json.dumps(again), *lines[15:]]) + "\n")
    history = next(run for run in load(tmp_path).runs if (run.arm, run.seed) == ("ppo", 0)).history
    assert len(history) == 20
    assert history["reward/mean"].iloc[14] == 0.123


@pytest.mark.parametrize("line", ["{broken", "[1]", '{"no": "step"}', "\udcff"])
def test_a_broken_line_is_named(tmp_path, line):
    write_bench(tmp_path, steps=20)
    journal = tmp_path / "grpo-seed2" / "steps.jsonl"
    lines = journal.read_bytes().splitlines()
    lines[6] = line.encode("utf-8", "surrogateescape")
    journal.write_bytes(b"\n".join(lines) + b"\n")
    with pytest.raises(EvidenceError, match=r"grpo-seed2/steps\.jsonl, line 7"):
        load(tmp_path)


def test_half_a_last_line_is_forgiven_to_a_run_that_was_killed_and_to_no_other(tmp_path):
    write_bench(tmp_path, steps=20, failures={("ppo", 0): "interrupted"})
    for name in ("ppo-seed0", "grpo-seed0"):
        with (tmp_path / name / "steps.jsonl").open("a") as journal:
            journal.write('{"step": 99, "rew')
        if name == "ppo-seed0":
            load(tmp_path)
    with pytest.raises(EvidenceError, match="grpo-seed0"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda bench: bench.pop("arms"), "'arms' is missing"),
        (lambda bench: bench.update(schema_version=9), "schema_version 9"),
        (lambda bench: bench["runs"].append(bench["runs"][0]), "two runs"),
        (lambda bench: bench["runs"][0].update(arm="other"), "not one of the arms"),
        (lambda bench: bench["arms"].update({"../up": {}}), "cannot be the name of an arm"),
    ],
)
def test_a_benchmark_file_that_makes_no_sense_is_refused(tmp_path, change, said):
    write_bench(tmp_path, steps=5)
    bench = read_json(tmp_path / "bench.json")
    change(bench)
    write_json(tmp_path / "bench.json", bench)
    with pytest.raises(EvidenceError, match=said):
        load(tmp_path)


def test_an_accuracy_that_its_answers_contradict_is_refused(tmp_path):
    write_bench(tmp_path, steps=5)
    path = tmp_path / "ppo-seed0" / "evals" / "final-synthetic_heldout.json"
    evaluation = read_json(path)
    evaluation["metrics"]["accuracy"] = 0.99
    write_json(path, evaluation)
    with pytest.raises(EvidenceError, match=r"final-synthetic_heldout\.json: accuracy is given as 0\.9900"):
        load(tmp_path)


def test_a_folder_without_a_benchmark_is_named(tmp_path):
    with pytest.raises(EvidenceError, match=r"bench\.json: there is no such file"):
        load(tmp_path)


def test_spent_values_that_are_missing_stay_missing(tmp_path):
    write_bench(tmp_path, steps=10)
    bench = read_json(tmp_path / "bench.json")
    for run in bench["runs"]:
        run["spent"]["flops"] = None if run["seed"] == 0 else math.nan
    write_json(tmp_path / "bench.json", bench)
    metric = compare(load(tmp_path)).metric("budget/flops")
    assert metric.arms["ppo"].mean is None
    assert metric.arms["ppo"].missing == 3
