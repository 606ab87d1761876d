"""All else equal: differences are judged before anything runs, and what ran is held to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.config.file import load_bench, profiles_of
from harness.config.matching import Audit, Difference, audit, evidence_rows, flatten, require_matched
from harness.config.tables import BenchSpec
from reports.record.errors import UserError
from reports.record.names import EVIDENCE

SUITES = Path(__file__).parents[3] / "suites"
ARITHMETIC = SUITES / "arithmetic.toml"
REASON = "arms.{}.reason='a larger step'"
BASE = {
    "algorithm": {"ppo": "ppo", "grpo": "grpo"},
    "advantage.whiten": {"ppo": True, "grpo": False},
}


def bench(*overrides: str) -> BenchSpec:
    return load_bench(ARITHMETIC, overrides=overrides)


def judged(*overrides: str) -> tuple[set[str], set[str]]:
    result = audit(bench(*overrides))
    return {d.key for d in result.declared} - set(BASE), {d.key for d in result.undeclared}


@pytest.mark.parametrize("path", sorted(SUITES.glob("*.toml")), ids=lambda path: path.stem)
def test_shipped_suites_are_matched_and_differ_only_in_what_is_intended(path: Path) -> None:
    for profile in (None, *profiles_of(path)):
        result = audit(load_bench(path, profile=profile))
        assert result.verdict == "matched"
        assert {d.key: d.values for d in result.declared} == BASE
        assert result.undeclared == []
        require_matched(result, "x")


@pytest.mark.parametrize(
    ("overrides", "declared", "undeclared"),
    [
        ([], set(), set()),
        (["arms.ppo.update.learning_rate=1e-3"], set(), {"update.learning_rate"}),
        (["arms.ppo.update.learning_rate=1e-3", REASON.format("ppo")], {"update.learning_rate"}, set()),
        (["arms.ppo.update.learning_rate=1e-3", REASON.format("grpo")], set(), {"update.learning_rate"}),
        (
            ["arms.ppo.update.learning_rate=1e-3", "arms.grpo.update.learning_rate=1e-5", REASON.format("ppo")],
            set(),
            {"update.learning_rate"},
        ),
        (
            ["arms.ppo.update.learning_rate=1e-3", "arms.grpo.update.epochs=2", REASON.format("ppo")],
            {"update.learning_rate"},
            {"update.epochs"},
        ),
        (["arms.ppo.update.learning_rate=1.5e-6"], set(), set()),
        (["arms.ppo.update.learning_rate=1e-3", "arms.grpo.update.learning_rate=1e-3"], set(), set()),
        (["arms.ppo.critic.gamma=0.99", "arms.ppo.critic.lam=0.95"], {"critic.gamma", "critic.lam"}, set()),
        (["arms.grpo.advantage.group_std=false"], {"advantage.group_std"}, set()),
        (
            ["arms.ppo.kl.coefficient=0.1", "arms.ppo.kl.placement=reward"],
            set(),
            {"kl.coefficient", "kl.placement"},
        ),
        (["arms.grpo.rollout.temperature=0.7"], set(), {"rollout.temperature"}),
        (["arms.grpo.rollout.temperature=0.7", "arms.grpo.reason=''"], None, None),
        (["arms.grpo.update.micro_batch_tokens=64"], set(), {"update.micro_batch_tokens"}),
    ],
)
def test_a_difference_is_declared_by_rule_or_by_the_reason_of_the_arm_that_sets_it(
    overrides: list[str], declared: set[str] | None, undeclared: set[str] | None
) -> None:
    if declared is None:
        with pytest.raises(UserError, match="reason"):
            bench(*overrides)
        return
    assert judged(*overrides) == (declared, undeclared)


def test_every_key_is_either_equal_or_different() -> None:
    result = audit(bench("arms.ppo.update.learning_rate=1e-3"))
    keys = [*result.shared, *(d.key for d in [*result.declared, *result.undeclared])]
    assert sorted(keys) == sorted(flatten(bench().run_spec("ppo")))
    assert len(keys) == len(set(keys))
    assert result.shared["update.clip_low"] == 0.2
    assert "update.learning_rate" not in result.shared


def test_a_declared_difference_says_why_and_carries_each_arms_value() -> None:
    result = audit(bench("arms.ppo.update.learning_rate=1e-3", REASON.format("ppo")))
    (found,) = (d for d in result.declared if d.key == "update.learning_rate")
    assert found == Difference("update.learning_rate", {"ppo": 1e-3, "grpo": 1.5e-6}, "ppo: a larger step")
    assert all(d.why for d in result.declared)


def test_each_arm_that_sets_a_key_gives_its_own_reason() -> None:
    result = audit(
        bench("arms.ppo.update.epochs=2", "arms.grpo.update.epochs=3", "arms.ppo.reason=a", "arms.grpo.reason=b")
    )
    assert [d.why for d in result.declared if d.key == "update.epochs"] == ["ppo: a; grpo: b"]


def test_two_arms_of_one_algorithm_differ_in_nothing_but_what_they_set() -> None:
    result = audit(bench("arms.grpo.algorithm=ppo", "arms.grpo.advantage.whiten=true"))
    assert (result.declared, result.undeclared, result.verdict) == ([], [], "matched")


def test_one_arm_alone_is_matched() -> None:
    result = audit(load_bench(ARITHMETIC, arms=["ppo"]))
    assert (result.verdict, result.declared, result.undeclared) == ("matched", [], [])


def test_of_three_arms_each_value_is_shown() -> None:
    result = audit(bench("arms.third.algorithm=grpo", "arms.third.update.epochs=4"))
    assert [d.values for d in result.undeclared] == [{"ppo": 1, "grpo": 1, "third": 4}]


def test_a_refusal_names_the_source_the_key_and_every_value() -> None:
    result = audit(bench("arms.ppo.update.learning_rate=1e-3", "arms.ppo.update.epochs=2"))
    assert result.verdict == "not matched"
    with pytest.raises(UserError) as caught:
        require_matched(result, "x.toml")
    message = str(caught.value)
    assert caught.value.exit_code == 2
    assert message.startswith("x.toml: undeclared difference in update.learning_rate: ppo = 0.001, grpo = 1.5e-06")
    assert "(and 1 more)" in message
    assert "\n" not in message


def hashes(**values: str) -> dict[str, str]:
    return {**dict.fromkeys(EVIDENCE, "same"), **values}


@pytest.mark.parametrize(
    ("ppo", "grpo", "equal"),
    [
        (hashes(), hashes(), True),
        *((hashes(), hashes(**{kind: "other"}), False) for kind in EVIDENCE),
        (hashes(), {k: v for k, v in hashes().items() if k != "weights"}, False),
        ({"weights": "same"}, {"weights": "same"}, False),
        (hashes(), None, None),
        (None, None, None),
    ],
)
def test_evidence_is_equal_only_where_every_kind_is_there_and_the_same(
    ppo: dict[str, str] | None, grpo: dict[str, str] | None, equal: bool | None
) -> None:
    seen = {(arm, 3): found for arm, found in (("ppo", ppo), ("grpo", grpo)) if found is not None}
    (row,) = evidence_rows(seen, [3])
    assert row["seed"] == 3
    assert row["equal"] is equal
    for kind in EVIDENCE:
        assert row[kind] == {arm: found[kind] for (arm, _), found in seen.items() if kind in found}


def test_each_seed_is_compared_with_itself() -> None:
    seen = {
        ("ppo", 0): hashes(), ("grpo", 0): hashes(),
        ("ppo", 1): hashes(weights="w"), ("grpo", 1): hashes(weights="w"),
        ("ppo", 2): hashes(), ("grpo", 2): hashes(weights="w"),
    }  # fmt: skip
    assert [(row["seed"], row["equal"]) for row in evidence_rows(seen, [2, 0, 1, 5])] == [
        (2, False), (0, True), (1, True), (5, None),
    ]  # fmt: skip


@given(st.lists(st.sampled_from([True, False, None])))
def test_one_unequal_seed_breaks_the_match(equal: list[bool | None]) -> None:
    result = Audit({}, [], [], [{"equal": value} for value in equal])
    assert result.verdict == ("not matched" if False in equal else "matched")


def test_the_audit_is_json_with_the_agreed_keys() -> None:
    result = audit(bench("arms.ppo.update.epochs=2", "update.clip_low=0.1"))
    rows = evidence_rows({("ppo", 0): hashes(), ("grpo", 0): hashes()}, [0])
    data: dict[str, Any] = Audit(result.shared, result.declared, result.undeclared, rows).to_json()
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert list(data) == ["verdict", "shared", "declared", "undeclared", "evidence"]
    assert data["verdict"] == "not matched"
    assert {"key": "update.clip_low", "value": 0.1} in data["shared"]
    assert data["undeclared"] == [{"key": "update.epochs", "values": {"ppo": 2, "grpo": 1}, "why": None}]
    assert [set(row) for row in data["declared"]] == [{"key", "values", "why"}] * 2
    assert set(data["evidence"][0]) == {"seed", "equal", *EVIDENCE}
