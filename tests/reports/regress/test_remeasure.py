"""Gates that trip are measured again with both checkouts' own code; what cannot be measured is one line."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path

import pytest

from harness.cli import SUITES
from harness.config.file import load_bench
from reports.record.errors import EvidenceError, UserError
from reports.regress.gates import CURVES, Gate, Outcome
from reports.regress.judge import Regression
from reports.regress.remeasure import HEAD, again, remeasured, to_toml

TINY = ["rollout.prompts_per_step=2", "budget.steps=2", "rollout.completions_per_prompt=2", "update.minibatches=1"]
SLOW = Gate("grpo", "time/step_s", Outcome.REGRESSION, "20 % more", 1.0, 1.2, "s")
OTHERS = (
    Gate("grpo", "memory/peak_bytes", Outcome.PASS, "no change", 1.0, 1.0, "B"),
    Gate("ppo", CURVES, Outcome.REGRESSION, "seed 0"),
)


def regression(*gates: Gate) -> Regression:
    return Regression("b", "arithmetic", "a", (), (), gates)


def silent(_: str) -> None:
    return None


@pytest.mark.parametrize(
    ("head", "outcome"),
    [
        ([1.0, 1.01, 1.0], Outcome.PASS),
        ([0.5, 0.5, 0.5], Outcome.PASS),
        ([1.2, 1.21, 1.2], Outcome.REGRESSION),
        ([1.2, 1.0, 1.2], Outcome.UNDECIDED),
    ],
)
def test_rounds_are_judged_like_seeds(head: list[float], outcome: Outcome) -> None:
    judged = again(SLOW, [{"step_s": 1.0}] * 3, [{"step_s": value} for value in head])
    assert judged.outcome is outcome
    assert judged.sentence.startswith("measured again, base and head in turns: ")


def test_memory_is_judged_by_the_highest_round_and_few_steps_clear_nobody() -> None:
    gate = Gate("ppo", "memory/peak_bytes", Outcome.REGRESSION, "", 100.0, 110.0, "B")
    assert again(gate, [{"peak_bytes": 100}] * 3, [{"peak_bytes": 110}] * 3).outcome is Outcome.REGRESSION
    for base in (109, 150):
        judged = again(gate, [{"peak_bytes": base}] * 3, [{"peak_bytes": 110}] * 3)
        assert judged.outcome is Outcome.UNDECIDED
        assert "whole runs were 10.0 % more, which 5 steps need not show" in judged.sentence.replace("\xa0", " ")


@pytest.mark.parametrize("suite", ["arithmetic", "gsm8k", "sums"])
def test_the_settings_come_back_from_their_file_as_they_were(tmp_path: Path, suite: str) -> None:
    overrides = ["critic.value_clip=none", 'arms.ppo.reason="it\'s \\"so\\" – π"', "arms.ppo.update.epochs=2"]
    spec = load_bench(SUITES / f"{suite}.toml", overrides=overrides)
    path = tmp_path / "settings.toml"
    path.write_text(to_toml(spec.model_dump(mode="json", exclude_defaults=True)), encoding="utf-8")
    assert load_bench(path) == spec
    assert "weight_decay" not in tomllib.loads(path.read_text(encoding="utf-8"))["update"]


def test_each_checkout_is_measured_with_its_own_code(tmp_path: Path) -> None:
    for package in ("harness", "algorithms", "suites", "reports"):
        shutil.copytree(HEAD / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    path = tmp_path / "harness" / "plan" / "profile.py"
    step = "    record = run.step()\n"
    code = path.read_text(encoding="utf-8")
    assert step in code
    path.write_text(code.replace(step, f'{step}    record["time/step_s"] += 100.0\n'), encoding="utf-8")
    spec = load_bench(SUITES / "arithmetic.toml", overrides=TINY)
    found = remeasured(
        regression(SLOW, *OTHERS), spec.model_dump(mode="json", exclude_defaults=True), tmp_path, rounds=1, say=silent
    )
    assert found.gates[1:] == OTHERS
    judged = found.gates[0]
    assert judged.outcome is Outcome.PASS
    assert judged.base is not None
    assert judged.new is not None
    assert judged.base - judged.new > 50


def test_without_a_tripped_gate_nothing_is_measured(tmp_path: Path) -> None:
    (tmp_path / "harness").mkdir()
    (tmp_path / "harness" / "__init__.py").touch()
    (tmp_path / "harness" / "cli.py").write_text("raise SystemExit('was run')")
    spec = load_bench(SUITES / "arithmetic.toml").model_dump(mode="json", exclude_defaults=True)
    before = regression(*OTHERS)
    assert remeasured(before, spec, tmp_path, say=silent) == before
    with pytest.raises(EvidenceError, match="again failed with exit code 1: was run"):
        remeasured(regression(SLOW), spec, tmp_path, say=silent)


def test_what_is_no_checkout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a checkout of paribus"):
        remeasured(regression(), {}, tmp_path, say=silent)
