"""The training loop with both algorithms and both critics: what repeats, what moves, what is charged and recorded."""

import math
from dataclasses import replace

import pytest
import tiny
import torch

from algorithms.advantages import gae
from algorithms.catalogue import CATALOGUE
from harness.config.tables import Budget
from harness.engines.torch_engine import TorchEngine
from harness.learn.learner import explained_variance
from harness.measure.flops import asked
from harness.model.policy import Policy
from harness.registry import Registry
from harness.run.assemble import assemble
from harness.run.job import Job
from reports.record.journal import MEASURED
from reports.record.names import CURRENCIES
from suites.task import Reward

LEARNERS = {
    "grpo": ("grpo", {}),
    "rloo": ("rloo", {}),
    "ppo separate": ("ppo", {"kind": "separate"}),
    "ppo shared": ("ppo", {"kind": "shared"}),
}
each_learner = pytest.mark.parametrize("learner", LEARNERS)
with_critic = pytest.mark.parametrize("learner", ["ppo separate", "ppo shared"])
SEVERAL = {"epochs": 2, "minibatches": 2}
KL_IN = {place: {"placement": place, "coefficient": 0.1} for place in ("reward", "loss")}


def spec(learner, *, critic=None, **tables):
    name, kind = LEARNERS[learner]
    return tiny.spec(name, critic={**kind, **(critic or {})}, **tables)


def repeatable(records):
    return [{key: value for key, value in r.items() if not key.startswith(MEASURED)} for r in records]


def however_batched(records):
    """Less what is run for it, which padding is part of."""
    return [{key: value for key, value in r.items() if not key.endswith("/executed")} for r in repeatable(records)]


def constant(value):
    return lambda completion, answer: Reward(value, value == 1, completion or None)


# What repeats.


@each_learner
@pytest.mark.parametrize("tables", [{}, {"update": SEVERAL, "kl": KL_IN["reward"]}], ids=["plain", "several updates"])
def test_two_runs_with_one_seed_give_the_same_records_to_the_bit(learner, tables):
    settings = spec(learner, **tables)
    first, again = (repeatable(tiny.records(2, settings)) for _ in range(2))
    assert first == again
    assert repeatable(tiny.records(1, settings, seed=1)) != first[:1]


@each_learner
def test_another_micro_batch_gives_the_same_records_up_to_rounding(learner):
    def run(micro_batch_tokens):
        update = {**SEVERAL, "micro_batch_tokens": micro_batch_tokens, "learning_rate": 1e-4}
        return however_batched(tiny.records(2, spec(learner, update=update)))

    for mine, whole in zip(run(40), run(10_000), strict=True):
        assert mine == pytest.approx(whole, rel=1e-3, abs=1e-4)


def test_another_engine_batch_gives_the_same_records_up_to_rounding():
    whole, split = (however_batched(tiny.records(2, spec("grpo", rollout={"engine_batch": n}))) for n in (256, 5))
    for mine, other in zip(split, whole, strict=True):
        assert mine == pytest.approx(other, rel=1e-4, abs=1e-4)


def test_the_arms_of_a_seed_start_from_the_same_evidence():
    evidence = []
    for learner in LEARNERS:
        with tiny.training(spec(learner, update={"micro_batch_tokens": 50})) as run:
            run.step()
            evidence.append(run.evidence)
    assert evidence[0] == evidence[1] == evidence[2]
    assert set(evidence[0]) == {"weights", "prompts", "first_rollout"}
    with tiny.training(spec("grpo"), seed=1) as run:
        run.step()
        assert run.evidence["weights"] == evidence[0]["weights"]
        assert run.evidence["prompts"] != evidence[0]["prompts"]
        assert run.evidence["first_rollout"] != evidence[0]["first_rollout"]


def test_no_two_requests_of_a_run_share_their_randomness():
    """Not even where the set is smaller than a step, so that a prompt comes twice."""
    with tiny.training(spec("grpo"), of=tiny.task(prompts=3)) as run:
        engine, seeds = run.parts.engine, []
        generate = engine.generate

        def watch(requests, sampling):
            seeds.extend(request.seed for request in requests)
            return generate(requests, sampling)

        engine.generate = watch
        for _ in range(3):
            run.step()
    assert len(seeds) == len(set(seeds)) == 36


def test_training_leaves_the_global_random_state_alone():
    with tiny.training(spec("ppo separate", update=SEVERAL)) as run:
        state = torch.get_rng_state()
        run.step()
        assert torch.equal(torch.get_rng_state(), state)


# The first update, and later ones.


@each_learner
def test_the_ratio_of_a_single_update_is_exactly_one(learner):
    for record in tiny.records(2, spec(learner, update={"micro_batch_tokens": 60})):
        assert record["policy/clip_fraction"] == 0
        assert record["policy/approx_kl"] == 0
        assert "time/logprobs_s" not in record


@each_learner
@pytest.mark.parametrize("tokens", [60, 10_000])
def test_several_updates_use_stored_log_probabilities(learner, tokens):
    update = {**SEVERAL, "micro_batch_tokens": tokens, "learning_rate": 1e-2, "clip_low": 0.01, "clip_high": 0.01}
    ratios = []

    def watched(algorithm):
        def loss(outputs, batch, credit):
            if outputs.logprobs is not None:
                ratios.append(float((outputs.logprobs.detach() - batch.old_logprobs).abs().max()))
            return algorithm.loss(outputs, batch, credit)

        return algorithm._replace(loss=loss)

    with tiny.training(spec(learner, update=update), change=watched) as run:
        record = run.step()
    assert "time/logprobs_s" in record
    assert ratios[0] < 1e-5
    assert ratios[-1] > 1e-3
    assert record["policy/clip_fraction"] > 0
    assert record["policy/approx_kl"] > 0
    assert record["budget/trained_tokens"] == 2 * record["budget/generated_tokens"]


@each_learner
def test_the_engine_samples_with_the_weights_that_are_trained(learner):
    for update in ({}, SEVERAL):
        records = tiny.records(3, spec(learner, update={**update, "learning_rate": 1e-2}))
        assert all(record["rollout/engine_logprob_gap"] < 1e-5 for record in records)


def test_stale_weights_in_the_engine_show_in_the_gap():
    with tiny.training(spec("grpo", update={"learning_rate": 1e-2})) as run:
        run.parts.engine = TorchEngine(run.parts.models.policy.frozen_copy(), batch_size=64)
        gaps = [run.step()["rollout/engine_logprob_gap"] for _ in range(2)]
    assert gaps[0] < 1e-5
    assert gaps[1] > 1e-2


# Critic warm-up.


@with_critic
@pytest.mark.parametrize("update", [{}, SEVERAL], ids=["one update", "several updates"])
def test_critic_warm_up_is_charged_and_leaves_the_policy_to_the_bit(learner, update):
    with tiny.training(spec(learner, critic={"warmup_steps": 2}, update=update)) as run:
        policy, before = run.parts.models.policy, run.parts.models.policy.weights_sha256()
        head = run.parts.models.critic.head.weight
        for number in (1, 2):
            record = run.step()
            assert policy.weights_sha256() == before
            assert not torch.equal(head, torch.zeros_like(head))
            assert "policy/loss" not in record
            assert {"critic/loss", "critic/grad_norm"} <= set(record)
            assert record["budget/steps"] == number
            assert record["budget/samples"] == 12 * number
            assert record["budget/flops"] > 0
            assert record["budget/device_seconds"] > 0
        after = run.step()
        assert policy.weights_sha256() != before
        assert "policy/loss" in after


# KL.


@each_learner
@pytest.mark.parametrize("place", KL_IN)
def test_kl_is_measured_against_a_reference_that_stays(learner, place):
    settings = spec(learner, kl=KL_IN[place], update={"learning_rate": 1e-2})
    with tiny.training(settings) as run:
        start = run.parts.models.reference.weights_sha256()
        records = [run.step() for _ in range(3)]
        assert run.parts.models.reference.weights_sha256() == start
        assert run.parts.models.policy.weights_sha256() != start
    assert abs(records[0]["kl/reference"]) < 1e-6
    assert records[2]["kl/reference"] > 1e-4
    assert all("time/reference_s" in record for record in records)


@each_learner
def test_without_kl_nothing_is_said_of_a_reference(learner):
    (record,) = tiny.records(1, spec(learner))
    assert not [key for key in record if "reference" in key or key.startswith("kl/")]


@pytest.mark.parametrize("learner", ["grpo", "ppo separate"])
def test_the_place_of_kl_makes_a_difference(learner):
    rates = {"update": {"learning_rate": 1e-2}}
    hashes = set()
    for kl in ({}, *KL_IN.values()):
        with tiny.training(spec(learner, kl=kl, **rates)) as run:
            for _ in range(3):
                run.step()
            hashes.add(run.parts.models.policy.weights_sha256())
    assert len(hashes) == 3


REGISTRY = Registry(
    {name: entry.build for name, entry in CATALOGUE.items()},
    {"tiny": "tiny:TASK"},
    {"torch": "harness.engines.torch_engine:TORCH"},
)


@each_learner
@pytest.mark.parametrize("kl", [{}, *KL_IN.values()], ids=["no kl", *KL_IN])
def test_a_worker_builds_only_what_is_asked_for(learner, kl, monkeypatch, tmp_path):
    monkeypatch.setattr(Policy, "load", lambda table, temperature, **_: tiny.policy(temperature=temperature))
    with torch.random.fork_rng():
        parts = assemble(Job("train", spec(learner, kl=kl), 0, tmp_path, REGISTRY))
        base = assemble(Job("base", spec(learner, kl=kl), 0, tmp_path, REGISTRY))
    assert (parts.models.reference is not None) == bool(kl)
    assert (parts.models.critic is not None) == learner.startswith("ppo")
    assert parts.engine.policy is parts.models.policy
    assert base.models.critic is base.models.reference is None


# Knobs.


@pytest.mark.parametrize("learner", ["grpo", "ppo separate"])
def test_whitening_changes_the_update_and_not_the_rollout(learner):
    plain, whitened = (tiny.records(1, spec(learner, advantage={"whiten": flag}))[0] for flag in (False, True))
    assert plain["policy/grad_norm"] != pytest.approx(whitened["policy/grad_norm"], rel=1e-2)
    assert plain["reward/mean"] == whitened["reward/mean"]


@each_learner
def test_truncated_completions_are_graded_zeroed_or_masked(learner):
    rollout = {"max_completion_tokens": 5}
    records, samples = {}, {}
    for rule in ("grade", "zero", "mask"):
        with tiny.training(spec(learner, rollout={**rollout, "truncated": rule}), of=tiny.task(constant(1.0))) as run:
            records[rule] = run.step()
            samples[rule] = run.samples
    cut = records["grade"]["rollout/truncated_fraction"]
    assert 0.2 < cut < 0.9
    assert records["grade"]["reward/mean"] == records["mask"]["reward/mean"] == 1
    assert records["zero"]["reward/mean"] == pytest.approx(1 - cut)
    assert records["zero"]["reward/correct_fraction"] == pytest.approx(1 - cut)
    generated = records["grade"]["budget/generated_tokens"]
    assert records["grade"]["budget/trained_tokens"] == records["zero"]["budget/trained_tokens"] == generated
    assert records["mask"]["budget/trained_tokens"] == generated - 5 * round(12 * cut)
    zeroed = [s for s in samples["zero"] if s["truncated"]]
    assert zeroed
    assert all(s["reward"] == 0 and not s["correct"] and s["extracted"] for s in zeroed)


@each_learner
@pytest.mark.parametrize("update", [{}, SEVERAL], ids=["one update", "several updates"])
def test_a_step_whose_every_completion_is_masked_moves_nothing(learner, update):
    rollout = {"truncated": "mask", "ignore_eos": True}
    tables = {"rollout": rollout, "update": update, "advantage": {"whiten": True}, "kl": KL_IN["loss"]}
    with tiny.training(spec(learner, **tables)) as run:
        before = run.parts.models.policy.weights_sha256()
        record = run.step()
        assert run.parts.models.policy.weights_sha256() == before
    assert record["rollout/truncated_fraction"] == 1
    assert record["budget/trained_tokens"] == 0
    assert record["budget/samples"] == 12
    assert "policy/loss" not in record


def test_groups_without_variance_give_no_policy_gradient():
    with tiny.training(spec("grpo"), of=tiny.task(constant(0.3))) as run:
        before = run.parts.models.policy.weights_sha256()
        record = run.step()
        assert run.parts.models.policy.weights_sha256() == before
    assert record["group/zero_variance_fraction"] == 1
    assert record["policy/grad_norm"] == 0
    assert record["reward/std"] == pytest.approx(0, abs=1e-7)


@each_learner
def test_a_reward_that_is_not_finite_is_refused_before_any_weight_moves(learner):
    with tiny.training(spec(learner), of=tiny.task(constant(math.nan))) as run:
        before = run.parts.models.policy.weights_sha256()
        with pytest.raises(Exception, match=r"the (policy|critic)'s gradient norm is nan") as caught:
            run.step()
        assert type(caught.value).__name__ == "Diverged"
        assert run.parts.models.policy.weights_sha256() == before


# Learning.


@each_learner
def test_a_policy_learns_to_say_a_given_letter(learner):
    settings = spec(
        learner, rollout={"prompts_per_step": 8, "completions_per_prompt": 4}, update={"learning_rate": 1e-2}
    )
    records = tiny.records(15, settings)
    rewards = [record["reward/mean"] for record in records]
    assert sum(rewards[:3]) / 3 < 0.2
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.3


@with_critic
def test_the_critic_learns_what_can_be_known(learner):
    """The reward is the prompt's own, and the policy stands still meanwhile."""
    made = tiny.task(prompts=4)
    prompts = [replace(prompt, answer=str(i % 2)) for i, prompt in enumerate(made.train())]
    task = made._replace(train=lambda: prompts, verify=lambda _, answer: Reward(float(answer), answer == "1", answer))
    critic = {"learning_rate": 2e-2 if "shared" in learner else 3e-3, "warmup_steps": 25, "value_clip": None}
    rollout = {"max_completion_tokens": 4}
    records = tiny.records(25, spec(learner, critic=critic, rollout=rollout), of=task)
    explained = [record["critic/explained_variance"] for record in records]
    assert explained[0] == pytest.approx(0, abs=1e-6)  # V = 0 explains nothing
    assert sum(explained[-3:]) / 3 > 0.6
    assert records[-1]["critic/loss"] < 0.4 * records[0]["critic/loss"]


def test_explained_variance_knows_its_bounds():
    returns, mask = torch.tensor([[0.0, 1.0, 9.0], [1.0, 0.0, 0.0]]), torch.tensor([[1, 1, 0], [1, 1, 1]])
    assert explained_variance(returns.where(mask.bool(), 5), returns, mask) == 1
    assert explained_variance(torch.zeros(2, 3), returns, mask) == pytest.approx(0)
    assert explained_variance(0.5 + 0 * returns, returns, mask) == pytest.approx(0)
    assert explained_variance(-returns, returns, mask) == pytest.approx(-3)


def test_equal_returns_leave_nothing_to_explain_in_spite_of_rounding():
    mask, rewards = torch.ones(8, 30), torch.zeros(8, 30)
    rewards[:, -1] = 1
    values = 3 * torch.rand(8, 30, generator=torch.Generator().manual_seed(0))
    _, returns = gae(rewards, values, mask, gamma=1.0, lam=1.0)
    assert float(returns.var()) > 0  # the last bits differ
    assert explained_variance(values, returns, mask) is None
    assert explained_variance(torch.zeros(2, 2), torch.zeros(2, 2), torch.ones(2, 2)) is None


# The record.

ALWAYS = {
    "step", "reward/mean", "reward/std", "reward/correct_fraction", "reward/no_answer_fraction", "policy/loss",
    "policy/approx_kl", "policy/clip_fraction", "policy/entropy", "policy/grad_norm", "group/zero_variance_fraction",
    "rollout/length_mean", "rollout/truncated_fraction", "rollout/engine_logprob_gap", "time/rollout_s",
    "time/reward_s", "time/policy_update_s", "time/weight_sync_s", "time/step_s", "throughput/samples_per_s",
    "throughput/tokens_per_s", "throughput/rollout_tokens_per_s", "throughput/policy_update_tokens_per_s",
    "memory/rollout/peak_bytes", "memory/policy_update/peak_bytes", "budget/steps", "budget/prompts", "budget/samples",
    "budget/generated_tokens", "budget/trained_tokens", "budget/flops", "budget/device_seconds",
}  # fmt: skip
CRITIC = {
    "critic/loss",
    "critic/explained_variance",
    "critic/clip_fraction",
    "critic/grad_norm",
}


@each_learner
@pytest.mark.parametrize("kl", [{}, *KL_IN.values()], ids=["no kl", *KL_IN])
@pytest.mark.parametrize("update", [{}, SEVERAL], ids=["one update", "several updates"])
def test_a_record_has_every_figure_that_applies_and_no_other(learner, kl, update):
    (record,) = tiny.records(1, spec(learner, kl=kl, update=update))
    assert set(record) >= ALWAYS
    assert (set(record) >= CRITIC) == learner.startswith("ppo")
    # A critic of its own that sees a rollout once makes its values while it is updated.
    assert ("time/values_s" in record) == (learner == "ppo shared" or (learner == "ppo separate" and bool(update)))
    assert any(key.startswith("critic/") for key in record) == learner.startswith("ppo")
    assert ("kl/reference" in record) == bool(kl)
    assert ("time/critic_update_s" in record) == (learner == "ppo separate")
    assert all(isinstance(value, (int, float)) and math.isfinite(value) for value in record.values())


@pytest.mark.parametrize("mode", ["token_mean", "sequence_mean", "sequence_sum"])
@each_learner
def test_every_aggregation_trains(learner, mode):
    record = tiny.records(2, spec(learner, update={**SEVERAL, "aggregation": mode}))[1]
    assert record["policy/grad_norm"] > 0


@pytest.mark.parametrize("currency", CURRENCIES)
@pytest.mark.parametrize("learner", ["grpo", "ppo separate"])
def test_a_run_ends_with_the_step_that_reaches_its_limit(learner, currency):
    first = tiny.records(1, spec(learner))[0][f"budget/{currency}"]
    limit = type(first)(2.5 * first)
    budget = Budget(**{currency: limit})
    with tiny.training(spec(learner)) as run:
        seen = [0.0]
        while not run.spent.exhausted(budget):
            seen.append(run.step()[f"budget/{currency}"])
    assert seen[-2] < limit <= seen[-1]


def test_every_budget_axis_adds_up():
    records = tiny.records(3, spec("grpo"))
    for axis, amount in (("steps", 1), ("prompts", 4), ("samples", 12)):
        assert [r[f"budget/{axis}"] for r in records] == [amount, 2 * amount, 3 * amount]
    tokens = 0.0
    for record in records:
        tokens += record["rollout/length_mean"] * 12
        assert record["budget/generated_tokens"] == pytest.approx(tokens)
    for axis in ("trained_tokens", "flops", "device_seconds"):
        spent = [r[f"budget/{axis}"] for r in records]
        assert 0 < spent[0] < spent[1] < spent[2]


@pytest.mark.parametrize(
    ("learner", "tables", "policy_forwards", "trunk_forwards"),
    [
        ("grpo", {}, 1 + 3, 0),
        ("grpo", {"update": SEVERAL}, 1 + 1 + 2 * 3, 0),
        ("grpo", {"kl": KL_IN["loss"]}, 1 + 1 + 3, 0),
        ("ppo separate", {}, 1 + 3, 3),
        ("ppo separate", {"critic": {"warmup_steps": 1}}, 1, 3),
        ("ppo separate", {"update": SEVERAL}, 1 + 1 + 2 * 3, 1 + 2 * 3),
        ("ppo shared", {}, 1 + 3, 1),
        ("ppo shared", {"critic": {"warmup_steps": 1}}, 1 + 1, 1),
    ],
)
def test_flops_are_those_of_the_forwards_and_backwards_done(learner, tables, policy_forwards, trunk_forwards):
    batches = []

    def watched(algorithm):
        def assign_credit(batch, values):
            batches.append(batch)
            return algorithm.assign_credit(batch, values)

        return algorithm._replace(assign_credit=assign_credit)

    with tiny.training(spec(learner, **tables), change=watched) as run:
        record = run.step()
    batch = batches[-1]
    prompts = batch.prompt_mask.sum(1).tolist()
    responses = list(zip(batch.prompt_of.tolist(), batch.mask.sum(1).int().tolist(), strict=True))
    shape, cost = asked(prompts, responses), run.learner.cost
    forward, trunk = cost.forward(shape), cost.forward(shape.without_logits())
    assert record["budget/flops"] == pytest.approx(policy_forwards * forward + trunk_forwards * trunk)


def test_kept_samples_show_what_was_asked_answered_and_given():
    with tiny.training(spec("grpo")) as run:
        run.step()
        record = run.step()
        samples = run.samples
    assert [s["sample"] for s in samples] == [0, 1, 2, 0]
    assert {s["step"] for s in samples} == {2}
    assert len({s["prompt_id"] for s in samples}) == 2
    for sample in samples:
        assert sample["reward"] == tiny.share_of_a(sample["completion"], sample["answer"]).value
    assert record["step"] == 2
