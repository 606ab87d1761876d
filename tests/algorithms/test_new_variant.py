"""A variant with a loss, an option and a greedy baseline of its own is one short file and one row of the catalogue."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny

from algorithms.catalogue import CATALOGUE, Entry
from harness.cli import REGISTRY
from harness.config.file import load_bench
from harness.config.matching import audit
from harness.model.policy import Policy
from harness.run.assemble import assemble
from harness.run.job import Job
from harness.run.loop import Run
from reports.record.errors import UserError

ARITHMETIC = Path(__file__).parents[2] / "suites" / "arithmetic.toml"
VARIANT = '''"""A greedy baseline, and an importance ratio that is cut off instead of clipped."""

from algorithms.settings import Options, Positive


class Cutoff(Options):
    ceiling: Positive = 2.0
    """The largest ratio; larger ones count as this."""


def build(settings, options):
    from algorithms.base import Algorithm, Credit
    from algorithms.objective import policy_terms

    def surrogate(logprobs, old_logprobs, advantages, mask, *, clip_low, clip_high):
        ratio = (logprobs - old_logprobs).exp()
        cut = (ratio > options.ceiling).float() * mask
        return -ratio.clamp(max=options.ceiling) * advantages * mask, cut.sum() / mask.sum().clamp(min=1)

    def assign_credit(batch, values):
        advantages = batch.scores - batch.greedy_scores[batch.prompt_of]
        return Credit(advantages[:, None] * batch.mask)

    def loss(outputs, batch, credit):
        return policy_terms(outputs, batch, credit, settings, surrogate=surrogate)

    return Algorithm("cutoff", False, assign_credit, loss, needs_greedy=True)
'''
ROW = Entry("Cutoff", "cutoff_variant:build", options="cutoff_variant:Cutoff", owns=("update.clip_high",))


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """What is registered, with the variant."""
    (tmp_path / "cutoff_variant.py").write_text(VARIANT)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(CATALOGUE, "cutoff", ROW)
    monkeypatch.setattr(Policy, "load", lambda table, temperature, **_: tiny.policy(temperature=temperature))
    algorithms = {name: entry.build for name, entry in CATALOGUE.items()}
    return REGISTRY._replace(algorithms=algorithms, tasks={"tiny": "tiny:TASK"})


def test_it_takes_at_most_forty_lines() -> None:
    assert len(VARIANT.splitlines()) + len(["the row"]) <= 40


@pytest.mark.usefixtures("registry")
def test_it_is_an_arm_beside_the_others_and_the_audit_says_what_is_its_own() -> None:
    sets = ("arms.cut.algorithm=cutoff", "arms.cut.options.ceiling=1.5", "arms.cut.update.clip_high=0.3")
    bench = load_bench(ARITHMETIC, overrides=sets)
    found = audit(bench)
    assert found.verdict == "matched"
    why = {each.key: each.why for each in found.declared}
    assert why["options.ceiling"] == "options of Cutoff"
    assert why["update.clip_high"] == "part of Cutoff"
    with pytest.raises(UserError, match=r"arithmetic.toml: \[arms.cut.options\]: floor: unknown key; accepted here: "):
        load_bench(ARITHMETIC, overrides=(*sets, "arms.cut.options.floor=1"))


def trained(registry, folder, steps=3, **options):
    spec = tiny.spec("cutoff", options=options, update={"epochs": 2, "learning_rate": 1e-2})
    run = Run(assemble(Job("train", spec, 0, folder, registry)))
    try:
        return run, [run.step() for _ in range(steps)]
    finally:
        run.meter.close()


def test_it_trains_in_the_loop_as_it_is(registry, tmp_path) -> None:
    before = tiny.policy().weights_sha256()
    run, records = trained(registry, tmp_path)
    assert run.parts.models.policy.weights_sha256() != before
    assert run.parts.models.critic is None
    # Three completions of each of four prompts, and the greedy one.
    assert [record["budget/samples"] for record in records] == [16, 32, 48]
    assert all(0 <= record["reward/greedy_mean"] <= 1 for record in records)


def test_its_option_and_its_loss_make_the_difference(registry, tmp_path) -> None:
    first, second = (trained(registry, tmp_path, ceiling=ceiling)[1] for ceiling in (1.0, 100.0))
    assert first[0]["reward/mean"] == second[0]["reward/mean"]
    assert first[0]["policy/clip_fraction"] > second[0]["policy/clip_fraction"] == 0
    assert first[-1]["policy/loss"] != second[-1]["policy/loss"]
