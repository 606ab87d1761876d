"""Every gate passes, fails and abstains; every planted fault is named; what cannot be compared is not judged."""

from __future__ import annotations

import io
import json
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from rich.console import Console
from synthetic_bench import read_json, write_bench, write_json

from harness import cli
from harness.config.file import load_bench
from reports.compare.comparison import compare, load
from reports.pages import regression as shown
from reports.record.errors import EvidenceError
from reports.regress import gates
from reports.regress.baseline import Baseline, Curve, Target, write
from reports.regress.fingerprint import make
from reports.regress.gates import CURVES, Gate, Outcome
from reports.regress.judge import Regression, judge

HELDOUT, TRANSFER = "eval/synthetic_heldout/accuracy", "eval/synthetic_transfer/accuracy"
STEPS = 20


def write_usual(folder: Path, **options: Any) -> Path:
    return write_bench(folder, steps=options.pop("steps", STEPS), **options)


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory) -> Baseline:
    return make(compare(load(write_usual(tmp_path_factory.mktemp("base")))))


def judged(folder: Path, baseline: Baseline) -> Regression:
    return judge(compare(load(folder)), baseline)


def grave(regression: Regression) -> dict[tuple[str, str], Outcome]:
    """The gates that keep it from passing."""
    fine = (Outcome.PASS, Outcome.BETTER)
    return {(gate.arm, gate.name): gate.outcome for gate in regression.gates if gate.outcome not in fine}


def gate_of(regression: Regression, arm: str, name: str) -> Gate:
    (found,) = (gate for gate in regression.gates if (gate.arm, gate.name) == (arm, name))
    return found


def edit_journal(folder: Path, run: str, change: Callable[[dict[str, Any]], Mapping[str, Any]]) -> None:
    path = folder / run / "steps.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    path.write_text("".join(f"{json.dumps({**line, **change(line)})}\n" for line in lines), encoding="utf-8")


def edit_bench(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    bench = read_json(folder / "bench.json")
    change(bench)
    write_json(folder / "bench.json", bench)


# --- one gate at a time -----------------------------------------------------------------------------------------

BASE = {0: 0.50, 1: 0.51, 2: 0.52}


def moved(by: float, spread: float = 0.0) -> dict[int, float | None]:
    return {seed: value + by + spread * (seed - 1) for seed, value in BASE.items()}


@pytest.mark.parametrize(
    ("new", "paired", "outcome"),
    [
        (moved(0), True, Outcome.PASS),
        (moved(0), False, Outcome.PASS),
        (moved(-0.005), True, Outcome.PASS),
        (moved(-0.10), True, Outcome.REGRESSION),
        (moved(-0.10), False, Outcome.REGRESSION),
        (moved(+0.10), True, Outcome.BETTER),
        (moved(-0.02), True, Outcome.UNDECIDED),
        (moved(-0.05, spread=0.08), True, Outcome.UNDECIDED),
        (moved(-0.05, spread=0.08), False, Outcome.UNDECIDED),
        ({0: 0.50, 1: 0.51}, True, Outcome.INCOMPLETE),
        ({0: 0.50, 1: 0.51, 2: math.nan}, True, Outcome.INCOMPLETE),
        ({0: 0.50, 1: 0.51, 2: None}, False, Outcome.INCOMPLETE),
    ],
)
def test_quality_is_judged_by_its_bounds(new: dict[int, float | None], paired: bool, outcome: Outcome) -> None:
    assert gates.quality("ppo", "reward/mean", BASE, new, margin=0.02, paired=paired).outcome is outcome


def test_a_fall_of_seeds_that_lie_together_by_luck_is_no_proof() -> None:
    """Without the floor the interval would be a point, and one point below the margin a sure regression."""
    base, new = dict.fromkeys(range(3), 0.5), dict.fromkeys(range(3), 0.479)
    for paired in (True, False):
        assert gates.quality("a", "m", base, new, margin=0.02, paired=paired).outcome is Outcome.UNDECIDED


def test_one_seed_tells_nothing_but_that_nothing_changed() -> None:
    def outcome(new: float) -> Outcome:
        return gates.quality("a", "m", {0: 0.5}, {0: new}, margin=0.02, paired=True).outcome

    assert outcome(0.5) is Outcome.PASS
    assert outcome(0.1) is Outcome.UNDECIDED


@pytest.mark.parametrize(
    ("new", "outcome"),
    [
        (0.5, Outcome.PASS),
        (0.51, Outcome.PASS),
        (0.4, Outcome.REGRESSION),
        (1.0, Outcome.REGRESSION),
        (None, Outcome.INCOMPLETE),
        (math.nan, Outcome.INCOMPLETE),
    ],
)
def test_before_training_accuracy_may_not_even_rise(new: float | None, outcome: Outcome) -> None:
    assert gates.grading("heldout", 0.5, new, margin=0.02).outcome is outcome


def test_before_training_accuracy_may_move_by_the_margin_itself() -> None:
    """0.42 - 0.41 is more than 0.01, to the last bits of a float."""
    for hundredths in range(30, 50):
        for new in (hundredths + 1, hundredths - 1):
            gate = gates.grading("heldout", hundredths / 100, new / 100, margin=0.01)
            assert gate.outcome is Outcome.PASS, gate


def test_before_training_another_devices_rounding_is_given_twice_the_margin() -> None:
    moved = {new: gates.grading("heldout", 0.5, new, margin=0.02, same_device=False) for new in (0.52, 0.53, 0.4)}
    assert [gate.outcome for gate in moved.values()] == [Outcome.PASS, Outcome.UNDECIDED, Outcome.REGRESSION]
    assert gates.grading("heldout", 0.5, 0.53, margin=0.02).outcome is Outcome.REGRESSION


def target(*steps: int | None) -> Target:
    return Target(level=0.5, window=2, steps=dict(enumerate(steps)))


@pytest.mark.parametrize(
    ("new", "outcome"),
    [
        ({0: 10, 1: 11, 2: 12}, Outcome.PASS),
        ({0: 11, 1: 12, 2: 13}, Outcome.PASS),
        ({0: 18, 1: 19, 2: 20}, Outcome.REGRESSION),
        ({0: None, 1: None, 2: None}, Outcome.REGRESSION),
        ({0: 5, 1: 6, 2: 7}, Outcome.BETTER),
        ({0: 5, 1: 11, 2: 19}, Outcome.UNDECIDED),
        ({0: 1, 1: 11, 2: 12}, Outcome.PASS),
        ({0: 10, 1: 11}, Outcome.INCOMPLETE),
    ],
)
def test_time_to_target_counts_a_run_that_never_reached_it_as_worse(
    new: dict[int, int | None], outcome: Outcome
) -> None:
    gate = gates.time_to_target("ppo", target(10, 11, 12), new, dict.fromkeys(new, 20.0), paired=True)
    assert gate.outcome is outcome


def test_a_run_cut_before_the_target_is_no_pass() -> None:
    gate = gates.time_to_target("a", target(10, 11, 12), {0: None, 1: None, 2: None}, {0: 10.0}, paired=True)
    assert gate.outcome is Outcome.UNDECIDED
    assert "never reached by seed 0, 1, 2" in gate.sentence


SECONDS = {0: 1.00, 1: 1.01, 2: 0.99}


@pytest.mark.parametrize(
    ("factors", "machine", "slowed", "outcome"),
    [
        ((1.0, 1.0, 1.0), 1.0, (), Outcome.PASS),
        ((1.03, 1.04, 1.05), 1.0, (), Outcome.PASS),
        ((1.2, 1.2, 1.2), 1.0, (), Outcome.REGRESSION),
        ((1.2, 1.2, 1.2), None, (), Outcome.REGRESSION),
        ((1.2, 1.2, 1.2), 1.2, (), Outcome.UNDECIDED),
        ((1.4, 1.4, 1.4), 1.2, (), Outcome.UNDECIDED),
        ((1.6, 1.6, 1.6), 1.2, (), Outcome.REGRESSION),
        ((1.2, 1.2, 1.0), 1.0, (), Outcome.UNDECIDED),
        ((1.2, 1.0, 1.0), 1.0, (0,), Outcome.PASS),
        ((1.2, 1.2, 1.2), 1.0, (0, 1, 2), Outcome.UNDECIDED),
        ((0.8, 0.8, 0.8), 1.0, (), Outcome.BETTER),
        ((0.8, 0.8, 0.8), 0.8, (), Outcome.PASS),
        ((0.7, 0.7, 0.7), 0.8, (), Outcome.PASS),
        ((0.8, 0.8, 1.0), 1.0, (), Outcome.PASS),
        ((1.0, 1.0, 1.0), 0.97, (), Outcome.PASS),
        ((1.0, 1.0, 1.0), 0.75, (), Outcome.UNDECIDED),
        ((1.0, 0.75, 1.0), 0.75, (), Outcome.PASS),
        ((0.8, 0.8, 0.8), 1.0, (0, 1), Outcome.PASS),
        ((math.nan, 1.0, 1.0), 1.0, (), Outcome.INCOMPLETE),
    ],
)
def test_a_slow_machine_is_told_from_slow_code(
    factors: tuple[float, ...], machine: float | None, slowed: tuple[int, ...], outcome: Outcome
) -> None:
    new = {seed: SECONDS[seed] * factor for seed, factor in enumerate(factors)}
    gate = gates.step_time("a", "time/step_s", SECONDS, new, machine=machine, disturbed=((), slowed))
    assert gate.outcome is outcome


def test_disturbed_runs_of_the_baseline_set_no_limit() -> None:
    base = {0: 1.0, 1: 3.0, 2: 2.0}
    new = dict.fromkeys(base, 1.2)
    assert gates.step_time("a", "t", base, new, machine=1.0).outcome is Outcome.PASS
    two = gates.step_time("a", "t", {**base, 2: 1.0}, new, machine=1.0, disturbed=((1,), ()))
    assert two.outcome is Outcome.REGRESSION
    assert "1 run left out" in two.sentence
    one = gates.step_time("a", "t", base, new, machine=1.0, disturbed=((1, 2), ()))
    assert one.outcome is Outcome.UNDECIDED
    assert "2 runs left out" in one.sentence
    none = gates.step_time("a", "t", base, new, machine=1.0, disturbed=((0, 1, 2), ()))
    assert none.outcome is Outcome.UNDECIDED
    assert "every run of the baseline: make one on a quiet machine" in none.sentence


def test_times_that_vary_are_given_three_times_their_spread() -> None:
    base = {0: 1.0, 1: 1.1, 2: 0.9}
    new = {0: 1.25, 1: 1.25, 2: 1.25}
    assert gates.step_time("a", "t", base, new, machine=1.0).outcome is Outcome.PASS


@pytest.mark.parametrize(
    ("factor", "outcome"),
    [(1.0, Outcome.PASS), (1.015, Outcome.PASS), (1.1, Outcome.REGRESSION), (0.9, Outcome.BETTER)],
)
def test_memory_may_grow_by_two_per_cent(factor: float, outcome: Outcome) -> None:
    new = {0: 100.0 * factor, 1: 90.0}
    assert gates.memory("a", "memory/peak_bytes", {0: 100.0, 1: 90.0}, new).outcome is outcome


def test_memory_without_a_value_is_incomplete() -> None:
    assert gates.memory("a", "m", {0: 1.0}, {0: None}).outcome is Outcome.INCOMPLETE


def a_curve(*losses: float, digest: str = "a") -> Curve:
    digests = tuple(f"{hash(loss) & (2**64 - 1):016x}" for loss in losses)
    return Curve(sha256=digest * 64, steps=len(losses), digests=digests, values={"policy/loss": losses})


def test_a_curve_that_parts_is_named_by_seed_step_and_column() -> None:
    base, new = {0: a_curve(1.0, 2.0, 3.0)}, {0: a_curve(1.0, 2.5, 3.0, digest="b")}
    gate = gates.curves("a", base, new)
    assert gate.outcome is Outcome.REGRESSION
    assert gate.sentence == "seed 0: from step 2 on, policy/loss is 2.5 and was 2.0"
    assert gates.curves("a", base, base).outcome is Outcome.PASS
    assert gates.curves("a", base, {}).outcome is Outcome.INCOMPLETE
    shorter = gates.curves("a", base, {0: a_curve(1.0, 2.0, digest="b")})
    assert shorter.sentence == "seed 0: 2 steps instead of 3"


# --- a whole benchmark ------------------------------------------------------------------------------------------


def test_the_same_numbers_are_no_regression(tmp_path: Path, baseline: Baseline) -> None:
    regression = judged(write_usual(tmp_path), baseline)
    assert grave(regression) == {}
    assert regression.exit_code(strict=True) == 0
    assert not regression.offered


def test_more_seeds_than_the_baseline_has_are_welcome(tmp_path: Path, baseline: Baseline) -> None:
    assert judged(write_usual(tmp_path, seeds=(0, 1, 2, 3)), baseline).exit_code(strict=True) == 0


def test_a_loss_of_accuracy_in_one_arm_is_named(tmp_path: Path, baseline: Baseline) -> None:
    regression = judged(write_usual(tmp_path, effect=-0.2), baseline)
    found = grave(regression)
    assert found["ppo", HELDOUT] is found["ppo", TRANSFER] is found["ppo", "reward/mean"] is Outcome.REGRESSION
    assert found["ppo", CURVES] is Outcome.REGRESSION
    assert {arm for arm, _ in found} == {"ppo"}
    assert regression.exit_code(strict=False) == 1


def test_a_verifier_that_accepts_everything_is_named_on_any_device(tmp_path: Path, baseline: Baseline) -> None:
    write_usual(tmp_path)
    for path in tmp_path.glob("*/evals/*.json"):
        evaluation = read_json(path)
        samples = [{**sample, "correct": True} for sample in evaluation["samples"]]
        write_json(path, {**evaluation, "samples": samples, "metrics": {**evaluation["metrics"], "accuracy": 1.0}})
    edit_bench(tmp_path, lambda bench: bench["environment"].update(device="another CPU"))
    regression = judged(tmp_path, baseline)
    assert gate_of(regression, "", f"{HELDOUT} before training").outcome is Outcome.REGRESSION
    assert gate_of(regression, "ppo", HELDOUT).outcome is Outcome.BETTER
    assert regression.exit_code(strict=False) == 1
    assert not regression.offered


def test_a_fifth_more_time_per_step_is_named(tmp_path: Path, baseline: Baseline) -> None:
    write_usual(tmp_path)
    for seed in (0, 1, 2):
        edit_journal(tmp_path, f"grpo-seed{seed}", lambda line: {"time/step_s": 1.2 * line["time/step_s"]})
    regression = judged(tmp_path, baseline)
    assert grave(regression) == {("grpo", "time/step_s"): Outcome.REGRESSION}
    assert regression.exit_code(strict=False) == 1


def test_a_tenth_more_memory_is_named(tmp_path: Path, baseline: Baseline) -> None:
    write_usual(tmp_path)
    column = "memory/policy_update/peak_bytes"
    edit_journal(tmp_path, "ppo-seed2", lambda line: {column: 1.1 * line[column]})
    assert grave(judged(tmp_path, baseline)) == {("ppo", "memory/peak_bytes"): Outcome.REGRESSION}


def test_the_last_bit_of_one_loss_is_named_by_seed_step_and_column(tmp_path: Path, baseline: Baseline) -> None:
    write_usual(tmp_path)
    edit_journal(
        tmp_path, "ppo-seed1",
        lambda line: {"policy/loss": math.nextafter(line["policy/loss"], 1)} if line["step"] == 7 else {},
    )  # fmt: skip
    regression = judged(tmp_path, baseline)
    assert grave(regression) == {("ppo", CURVES): Outcome.REGRESSION}
    assert gate_of(regression, "ppo", CURVES).sentence.startswith("seed 1: from step 7 on, policy/loss is ")
    assert regression.offered


def test_a_run_that_was_not_run_is_incomplete(tmp_path: Path, baseline: Baseline) -> None:
    regression = judged(write_usual(tmp_path, seeds=(0, 1)), baseline)
    assert gate_of(regression, "ppo", "runs").outcome is Outcome.INCOMPLETE
    assert gate_of(regression, "grpo", HELDOUT).outcome is Outcome.INCOMPLETE
    assert "seed 2" in gate_of(regression, "grpo", HELDOUT).sentence
    assert regression.exit_code(strict=False) == 3


def test_a_run_that_was_interrupted_is_incomplete(tmp_path: Path, baseline: Baseline) -> None:
    regression = judged(write_usual(tmp_path, failures={("ppo", 2): "interrupted"}), baseline)
    assert regression.exit_code(strict=False) == 3


@pytest.mark.parametrize("status", ["failed", "diverged", "out_of_memory"])
def test_a_run_that_failed_fails(tmp_path: Path, baseline: Baseline, status: str) -> None:
    regression = judged(write_usual(tmp_path, failures={("ppo", 1): status}), baseline)
    gate = gate_of(regression, "ppo", "runs")
    assert gate.outcome is Outcome.REGRESSION
    assert f"seed 1 {status.replace('_', ' ')}: made up" in gate.sentence
    assert regression.exit_code(strict=False) == 1


def test_a_metric_that_is_no_longer_recorded_is_incomplete(tmp_path: Path, baseline: Baseline) -> None:
    write_usual(tmp_path)
    for path in tmp_path.glob("*-seed*/evals/*-synthetic_transfer.json"):
        path.unlink()
    regression = judged(tmp_path, baseline)
    assert grave(regression) == {(arm, TRANSFER): Outcome.INCOMPLETE for arm in ("ppo", "grpo")}
    assert regression.exit_code(strict=False) == 3


def test_a_column_that_is_no_longer_recorded_is_incomplete(tmp_path: Path, baseline: Baseline) -> None:
    write_usual(tmp_path)
    for path in tmp_path.glob("ppo-seed*/steps.jsonl"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        path.write_text("".join(f"{json.dumps({k: v for k, v in x.items() if k != 'critic/loss'})}\n" for x in lines))
    gate = gate_of(judged(tmp_path, baseline), "ppo", CURVES)
    assert (gate.outcome, gate.sentence) == (Outcome.INCOMPLETE, "critic/loss is no longer recorded")


def test_a_phase_whose_memory_is_no_longer_recorded_is_incomplete(tmp_path: Path, baseline: Baseline) -> None:
    """Without the phase that holds the peak, the arm would look better."""
    write_usual(tmp_path)
    for seed in (0, 1, 2):
        edit_journal(tmp_path, f"grpo-seed{seed}", lambda line: {"memory/policy_update/peak_bytes": None})
    regression = judged(tmp_path, baseline)
    gate = gate_of(regression, "grpo", "memory/peak_bytes")
    sentence = "memory/policy_update/peak_bytes is no longer recorded"
    assert (gate.outcome, gate.sentence) == (Outcome.INCOMPLETE, sentence)
    assert not regression.offered


def test_a_number_too_large_to_be_kept_is_a_curve_that_parts(tmp_path: Path, baseline: Baseline) -> None:
    write_usual(tmp_path)
    edit_journal(tmp_path, "ppo-seed0", lambda line: {"policy/grad_norm": 3e30} if line["step"] == 5 else {})
    gate = gate_of(judged(tmp_path, baseline), "ppo", CURVES)
    assert gate.outcome is Outcome.REGRESSION
    assert "from step 5 on, policy/grad_norm is None and was " in gate.sentence


def test_a_finished_run_without_steps_is_incomplete(tmp_path: Path, baseline: Baseline) -> None:
    write_usual(tmp_path)
    (tmp_path / "ppo-seed1" / "steps.jsonl").write_bytes(b"")
    regression = judged(tmp_path, baseline)
    assert gate_of(regression, "ppo", "runs").outcome is Outcome.INCOMPLETE
    assert regression.exit_code(strict=False) == 3


def test_a_run_that_something_outside_made_fail_is_incomplete(tmp_path: Path, baseline: Baseline) -> None:
    write_usual(tmp_path, failures={("ppo", 1): "failed"})
    edit_bench(
        tmp_path, lambda bench: [row.update(try_again=True) for row in bench["runs"] if row["status"] == "failed"]
    )
    regression = judged(tmp_path, baseline)
    assert gate_of(regression, "ppo", "runs").outcome is Outcome.INCOMPLETE
    assert regression.exit_code(strict=False) == 3


def test_a_new_column_changes_nothing(tmp_path: Path, baseline: Baseline) -> None:
    write_usual(tmp_path)
    for seed in (0, 1, 2):
        edit_journal(tmp_path, f"ppo-seed{seed}", lambda line: {"policy/new": line["step"]})
    assert grave(judged(tmp_path, baseline)) == {}


def test_a_reward_that_is_no_number_is_incomplete(tmp_path: Path, baseline: Baseline) -> None:
    regression = judged(write_usual(tmp_path, nan_metric="reward/mean"), baseline)
    assert gate_of(regression, "ppo", "reward/mean").outcome is Outcome.INCOMPLETE
    assert regression.outcome in (Outcome.INCOMPLETE, Outcome.REGRESSION)


def test_evidence_that_does_not_hold_is_incomplete(tmp_path: Path, baseline: Baseline) -> None:
    write_usual(tmp_path)
    edit_bench(tmp_path, lambda bench: bench["matching"]["evidence"][0].update(equal=False))
    regression = judged(tmp_path, baseline)
    assert "did not start from the same weights" in gate_of(regression, "", "evidence").sentence
    assert regression.exit_code(strict=False) == 3


def test_on_another_device_quality_is_judged_and_the_rest_is_not_compared(tmp_path: Path, baseline: Baseline) -> None:
    write_usual(tmp_path, effect=-0.2)
    edit_bench(tmp_path, lambda bench: bench["environment"].update(device="another CPU", cores=64))
    regression = judged(tmp_path, baseline)
    found = grave(regression)
    for arm in ("ppo", "grpo"):
        for name in ("time/step_s", "memory/peak_bytes", CURVES):
            assert found[arm, name] is Outcome.NOT_COMPARED
    assert found["ppo", HELDOUT] is Outcome.REGRESSION
    sentence = shown.headline(regression)
    assert "There is no baseline for this device" in sentence
    assert "device name: 'cpu' in the baseline, 'another CPU' here" in sentence
    assert "device cores: 2 in the baseline, 64 here" in sentence


def test_a_better_arm_passes_and_asks_for_a_new_baseline(tmp_path: Path, baseline: Baseline) -> None:
    write_usual(tmp_path, effect=0.3)
    edit_bench(tmp_path, lambda bench: bench["environment"].update(device="another CPU"))
    regression = judged(tmp_path, baseline)
    assert gate_of(regression, "ppo", HELDOUT).outcome is Outcome.BETTER
    assert regression.exit_code(strict=True) == 0
    assert regression.offered
    assert "update the baseline" in shown.headline(regression)


def settings_change(bench: dict[str, Any]) -> None:
    bench["spec"]["rollout"]["prompts_per_step"] = 17


def version_change(bench: dict[str, Any]) -> None:
    bench["environment"]["packages"]["torch"] = "2.14.0"


def weights_change(bench: dict[str, Any]) -> None:
    bench["matching"]["evidence"][1]["weights"] = dict.fromkeys(("ppo", "grpo"), "0" * 64)


def prompts_change(bench: dict[str, Any]) -> None:
    bench["matching"]["evidence"][2]["prompts"] = dict.fromkeys(("ppo", "grpo"), "0" * 64)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda bench: bench.update(suite="other"), "suite: 'synthetic' in the baseline, 'other' here"),
        (settings_change, "rollout.prompts_per_step: 16 in the baseline, 17 here"),
        (version_change, "version of torch: '2.13.0' in the baseline, '2.14.0' here"),
        (weights_change, "seed 1 starts from other weights"),
        (prompts_change, "seed 2 draws other prompts, or in another order"),
    ],
)
def test_what_makes_two_benchmarks_incomparable_is_named_and_nothing_is_judged(
    tmp_path: Path, baseline: Baseline, change: Callable[[dict[str, Any]], None], part: str
) -> None:
    write_usual(tmp_path)
    edit_bench(tmp_path, change)
    regression = judged(tmp_path, baseline)
    assert regression.mismatches == (part,)
    assert regression.gates == ()
    assert regression.exit_code(strict=False) == 3
    assert part in shown.headline(regression)


def test_a_record_that_cannot_be_understood_is_one_line(tmp_path: Path, baseline: Baseline) -> None:
    write_usual(tmp_path)
    edit_bench(tmp_path, lambda bench: bench["environment"].update(cores="many"))
    with pytest.raises(EvidenceError, match="cores = 'many': expected a whole number"):
        judged(tmp_path, baseline)


@pytest.mark.parametrize(
    ("value", "chosen", "differs"),
    [(0.0, {}, False), (0.1, {"update": {"weight_decay": 0.1}}, True), (0.1, None, True)],
    ids=["default", "chosen", "nobody says what was chosen"],
)
def test_a_setting_newer_than_the_baseline_counts_unless_it_stands_at_its_default(
    tmp_path: Path, value: float, chosen: dict[str, Any] | None, differs: bool
) -> None:
    spec = load_bench(cli.SUITES / "arithmetic.toml").model_dump(mode="json")
    del spec["update"]["weight_decay"]
    older = make(compare(load(write_usual(tmp_path / "old", spec=spec))))
    spec["update"]["weight_decay"] = value
    write_usual(tmp_path / "new", spec=spec)
    if chosen is not None:
        edit_bench(tmp_path / "new", lambda bench: bench.update(chosen=chosen))
    regression = judged(tmp_path / "new", older)
    assert regression.mismatches == (("update.weight_decay: not set in the baseline, 0.1 here",) if differs else ())


def test_another_build_of_the_same_torch_is_another_device(tmp_path: Path, baseline: Baseline) -> None:
    write_usual(tmp_path)
    edit_bench(tmp_path, lambda bench: bench["environment"]["packages"].update(torch="2.13.0+cu128"))
    regression = judged(tmp_path, baseline)
    assert regression.mismatches == ()
    assert regression.device == ("device torch_build: not set in the baseline, 'cu128' here",)


# --- what people and programs get -------------------------------------------------------------------------------

GATES = (
    Gate("ppo", "reward/mean", Outcome.REGRESSION, "<b>|worse|</b>", 0.5, 0.4),
    Gate("ppo", "runs", Outcome.PASS, "all 3 finished"),
    Gate("grpo", "time/step_s", Outcome.UNDECIDED, "noisy", 1.0, 1.2, "s"),
    Gate("grpo", CURVES, Outcome.NOT_COMPARED, "other device"),
)
MADE = Regression("b-1", "synthetic", "a-1", (), (), GATES)


def test_junit_fails_what_failed_and_skips_what_was_not_judged() -> None:
    suite = ElementTree.fromstring(shown.junit(MADE))
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("4", "1", "2")
    failure = suite.find("testcase[@classname='synthetic.ppo'][@name='reward/mean']/failure")
    assert failure is not None
    assert failure.get("message") == "<b>|worse|</b>"


def test_junit_of_what_cannot_be_compared_is_one_failure() -> None:
    suite = ElementTree.fromstring(shown.junit(Regression("b", "s", "a", ("the suite is other",), (), ())))
    assert (suite.get("tests"), suite.get("failures")) == ("1", "1")


def test_markdown_names_what_failed_and_shows_text_as_text() -> None:
    made = shown.markdown(MADE)
    assert "Regression (PPO reward/mean): b-1 against the baseline a-1." in made
    assert "&lt;b&gt;\\|worse\\|&lt;/b&gt;" in made
    assert "<b>" not in made


def test_the_terminals_table_shows_markup_and_control_characters_as_text() -> None:
    gate = Gate("ppo", "[red]x[/red]", Outcome.PASS, "\x1b[31m[/]")
    console = Console(width=200, file=io.StringIO())
    console.print(shown.table(Regression("b", "s", "a", (), (), (gate,))))
    printed = console.file.getvalue()
    assert "[red]x[/red]" in printed
    assert "\x1b" not in printed


def test_only_with_strict_is_not_knowing_a_failure() -> None:
    regression = Regression("b", "s", "a", (), (), GATES[1:])
    assert regression.exit_code(strict=False) == 0
    assert regression.exit_code(strict=True) == 4
    assert "not every gate could tell (GRPO time/step_s)" in shown.headline(regression)


def test_a_summary_that_would_grow_too_large_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "summary.md"
    assert shown.append_summary(path, "first")
    assert shown.append_summary(path, "second")
    assert path.read_text() == "first\nsecond\n"
    assert not shown.append_summary(path, "x" * shown.SUMMARY_LIMIT)
    assert path.read_text() == "first\nsecond\n"


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["paribus", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            cli.main()
        return int(caught.value.code or 0), *capsys.readouterr()

    return call


def test_the_commands_write_a_baseline_and_hold_against_it(
    tmp_path: Path, command: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_usual(tmp_path / "old")
    write_usual(tmp_path / "new", effect=-0.2)
    file, summary = tmp_path / "kept" / "base.json", tmp_path / "summary.md"
    assert command("baseline", "old", "--runs", tmp_path, "--out", file)[0] == 0
    assert command("regress", "old", "--runs", tmp_path, "--baseline", file)[0] == 0
    assert not (tmp_path / "old" / "baseline.json").exists()
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    code, out, _ = command("regress", "new", "--runs", tmp_path, "--baseline", file)
    assert code == 1
    assert f"Regression (PPO {HELDOUT}" in out
    assert "Regression (PPO" in summary.read_text()
    assert read_json(tmp_path / "new" / "regress.json")["outcome"] == "regression"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path))
    code, _, err = command("regress", "new", "--runs", tmp_path, "--baseline", file)
    assert (code, err) == (1, f"paribus: {tmp_path}: cannot be written (Is a directory)\n")
    assert command("regress", "old", "--runs", tmp_path, "--baseline", file)[0] == 5
    assert (tmp_path / "new" / "regress.md").is_file()
    ElementTree.parse(tmp_path / "new" / "regress.xml")


def test_the_ready_baseline_of_a_better_benchmark_passes_against_itself(
    tmp_path: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    folder = write_usual(tmp_path / "new")
    for path in folder.glob("*/steps.jsonl"):
        edit_journal(folder, path.parent.name, lambda line: {"time/step_s": 0.5 * line["time/step_s"]})
    write(tmp_path / "base.json", make(compare(load(write_usual(tmp_path / "old")))))
    code, out, _ = command("regress", "new", "--runs", tmp_path, "--baseline", tmp_path / "base.json")
    assert code == 0
    assert "update the baseline" in out
    ready = folder / "baseline.json"
    assert f"copy {ready} to {tmp_path / 'base.json'}" in out
    assert command("regress", "new", "--runs", tmp_path, "--baseline", ready, "--strict")[0] == 0


def test_a_fault_of_the_user_is_one_line(tmp_path: Path, command: Callable[..., tuple[int, str, str]]) -> None:
    write_usual(tmp_path / "old", failures={("ppo", 0): "failed"})
    (tmp_path / "bad.json").write_text('{"a": "\x1b[31m"}')
    for code, *arguments in (
        (3, "baseline", "old", "--runs", tmp_path, "--out", tmp_path / "x.json"),
        (2, "regress", "old", "--runs", tmp_path, "--baseline", tmp_path / "none.json"),
        (2, "regress", "old", "--runs", tmp_path, "--baseline", tmp_path / "bad.json"),
        (2, "regress", "old", "--runs", tmp_path),
    ):
        found, _, err = command(*arguments)
        assert found == code, arguments
        assert err
        if code == 3 or "--baseline" in arguments:
            assert len(err.splitlines()) == 1
            assert err.startswith("paribus: ")
    assert not (tmp_path / "x.json").exists()
