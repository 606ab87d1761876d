"""PPO, GRPO and RLOO as values: credit by hand, the shared policy loss, and where KL goes."""

import math
from dataclasses import replace

import pytest
import tiny
import torch

from algorithms import grpo, ppo, rloo
from algorithms.base import Credit, PolicyOutputs
from algorithms.losses import AGGREGATIONS, aggregate, clipped_surrogate, clipped_value_loss, kl_estimate
from algorithms.objective import importance_weights, policy_terms, token_rewards
from algorithms.settings import KlTable

POLICY = tiny.policy()
SHAPES = [(2, [3, 1, 2]), (4, [4, 2])]
EVERY_KL = [{}, *({"placement": p, "coefficient": 0.1} for p in ("reward", "loss"))]


def made(scores=(1.0, 0.0, 1.0, 0.0, 0.5), **changes):
    batch = replace(tiny.batch(POLICY, SHAPES), scores=torch.tensor(scores))
    generator = torch.Generator().manual_seed(0)
    old = -torch.rand(batch.mask.shape, generator=generator) * batch.mask
    return replace(batch, **{"old_logprobs": old, "ref_logprobs": old - 0.3 * batch.mask, **changes})


def outputs(batch, shift=0.0, values=None):
    generator = torch.Generator().manual_seed(1)
    noise = 0.8 * torch.randn(batch.mask.shape, generator=generator)
    return PolicyOutputs(batch.old_logprobs + shift + noise, torch.full_like(batch.mask, 2.0), values)


def test_without_values_ppo_gives_every_token_the_reward():
    batch = made()
    credit = ppo.build(tiny.spec("ppo")).assign_credit(batch, torch.zeros_like(batch.mask))
    torch.testing.assert_close(credit.advantages, batch.scores[:, None] * batch.mask, rtol=0, atol=1e-6)
    torch.testing.assert_close(credit.returns, batch.scores[:, None] * batch.mask, rtol=0, atol=1e-6)


def test_with_values_ppo_advantage_is_the_reward_less_the_value():
    batch = made()
    values = torch.rand(batch.mask.shape) * batch.mask
    credit = ppo.build(tiny.spec("ppo")).assign_credit(batch, values)
    expected = (batch.scores[:, None] - values) * batch.mask
    torch.testing.assert_close(credit.advantages, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(credit.returns, batch.scores[:, None] * batch.mask, rtol=0, atol=1e-6)
    assert torch.equal(credit.old_values, values)


def test_ppo_discounts_by_gamma_and_lambda():
    batch = made()
    credit = ppo.build(tiny.spec("ppo", critic={"gamma": 0.5, "lam": 1.0})).assign_credit(batch, 0 * batch.mask)
    assert credit.advantages[0].tolist() == [0.25, 0.5, 1.0, 0.0]
    values = torch.full_like(batch.mask, 0.2) * batch.mask
    credit = ppo.build(tiny.spec("ppo", critic={"lam": 0.0})).assign_credit(batch, values)
    torch.testing.assert_close(credit.advantages[0], torch.tensor([0.0, 0.0, 0.8, 0.0]))


@pytest.mark.parametrize("group_std", [False, True])
def test_grpo_advantage_is_relative_to_the_group(group_std):
    batch = made()
    credit = grpo.build(tiny.spec(advantage={"group_std": group_std})).assign_credit(batch, None)
    first, second = torch.tensor([1.0, 0.0, 1.0]), torch.tensor([0.0, 0.5])
    by_hand = torch.cat([s - s.mean() for s in (first, second)])
    if group_std:
        by_hand = torch.cat([(s - s.mean()) / (s.std() + 1e-6) for s in (first, second)])
    torch.testing.assert_close(credit.advantages, by_hand[:, None] * batch.mask)
    assert credit.returns is credit.old_values is None


def test_groups_follow_the_prompt_and_not_the_order_of_rows():
    batch, order = made(), torch.tensor([3, 0, 4, 2, 1])
    build = grpo.build(tiny.spec())
    straight = build.assign_credit(batch, None).advantages
    shuffled = build.assign_credit(batch.select(order), None).advantages
    torch.testing.assert_close(shuffled, straight[order])


def test_a_group_without_variance_gets_no_advantage():
    credit = grpo.build(tiny.spec()).assign_credit(made(scores=(0.1, 0.1, 0.1, 0.3, 0.3)), None)
    assert torch.equal(credit.advantages, torch.zeros_like(credit.advantages))


@pytest.mark.parametrize("algorithm", tiny.ALGORITHMS)
def test_whitening_gives_moments_over_the_tokens_in_the_loss(algorithm):
    batch = made()
    batch = replace(batch, loss_mask=batch.mask * torch.tensor([1, 1, 0, 1, 1])[:, None])
    values = 0 * batch.mask if algorithm == "ppo" else None
    settings = tiny.spec(algorithm, advantage={"whiten": True})
    whitened = tiny.ALGORITHMS[algorithm](settings).assign_credit(batch, values).advantages[batch.loss_mask.bool()]
    plain = tiny.ALGORITHMS[algorithm](tiny.spec(algorithm)).assign_credit(batch, values).advantages
    assert float(whitened.mean()) == pytest.approx(0, abs=1e-6)
    assert float(whitened.std()) == pytest.approx(1, abs=1e-5)
    assert float(plain[batch.loss_mask.bool()].std()) != pytest.approx(1, abs=1e-2)


def test_whitening_moves_no_return():
    batch = made()
    values = torch.rand(batch.mask.shape) * batch.mask
    plain, whitened = (
        ppo.build(tiny.spec("ppo", advantage={"whiten": flag})).assign_credit(batch, values) for flag in (False, True)
    )
    assert torch.equal(plain.returns, whitened.returns)
    assert not torch.allclose(plain.advantages, whitened.advantages)


def test_the_score_sits_on_the_last_token():
    batch = made()
    rewards = token_rewards(batch, KlTable())
    assert rewards.tolist() == [[0, 0, 1, 0], [0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0.5, 0, 0]]


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_kl_in_the_reward_is_taken_from_every_token(estimator):
    batch = made()
    kl = KlTable(placement="reward", coefficient=0.1, estimator=estimator)
    penalty = 0.1 * kl_estimate(batch.old_logprobs, batch.ref_logprobs, batch.mask, kind=estimator)
    torch.testing.assert_close(token_rewards(batch, kl), token_rewards(batch, KlTable()) - penalty)
    assert bool((penalty[batch.mask.bool()] > 0).all())
    settings = {"kl": kl.model_dump()}
    returns = ppo.build(tiny.spec("ppo", **settings)).assign_credit(batch, 0 * batch.mask).returns
    assert float(returns[0, 0]) == pytest.approx(1 - float(penalty[0].sum()))
    scores = batch.scores - penalty.sum(1)
    relative = grpo.build(tiny.spec(advantage={"group_std": False}, **settings)).assign_credit(batch, None)
    torch.testing.assert_close(relative.advantages[:3, 0], scores[:3] - scores[:3].mean())


@pytest.mark.parametrize("mode", AGGREGATIONS)
@pytest.mark.parametrize("kl", EVERY_KL, ids=["no kl", "kl in reward", "kl in loss"])
@pytest.mark.parametrize("algorithm", tiny.ALGORITHMS)
def test_the_policy_loss_is_the_clipped_surrogate_summed_by_the_aggregation(algorithm, kl, mode):
    settings = tiny.spec(algorithm, kl=kl, update={"aggregation": mode, "clip_low": 0.1, "clip_high": 0.3})
    batch = made()
    batch = replace(batch, loss_mask=batch.mask * torch.tensor([1, 0, 1, 1, 1])[:, None])
    advantages = torch.randn(batch.mask.shape, generator=torch.Generator().manual_seed(5)) * batch.mask
    now = outputs(batch, shift=0.1)
    terms = tiny.ALGORITHMS[algorithm](settings).loss(now, batch, Credit(advantages))
    per_token, clipped = clipped_surrogate(
        now.logprobs, batch.old_logprobs, advantages, batch.loss_mask, clip_low=0.1, clip_high=0.3
    )
    if kl.get("placement") == "loss":
        per_token = per_token + 0.1 * kl_estimate(now.logprobs, batch.ref_logprobs, batch.loss_mask, kind="k3")
    count = float(batch.loss_mask.sum()) if mode == "token_mean" else 4
    expected = aggregate(per_token, batch.loss_mask, mode=mode, length=settings.rollout.max_completion_tokens)
    assert float(terms.policy) / count == pytest.approx(float(expected), rel=1e-5)
    assert terms.metrics["policy/clip_fraction"].value == pytest.approx(float(clipped))
    assert terms.metrics["policy/clip_fraction"].value > 0
    assert terms.metrics["policy/entropy"].value == 2
    assert terms.metrics["policy/approx_kl"].value > 0
    assert terms.value is None


@pytest.mark.parametrize("clip", [None, 0.2])
def test_the_value_loss_is_the_clipped_squared_error(clip):
    settings, batch = tiny.spec("ppo", critic={"value_clip": clip}), made()
    values = torch.randn(batch.mask.shape, generator=torch.Generator().manual_seed(6))
    credit = Credit(batch.mask, batch.scores[:, None] * batch.mask, 0.5 * values * batch.mask)
    terms = ppo.build(settings).loss(PolicyOutputs(values=values), batch, credit)
    expected, clipped = clipped_value_loss(values, credit.old_values, credit.returns, batch.mask, clip=clip)
    expected = aggregate(expected, batch.mask, mode="sequence_mean")
    assert float(terms.value) / batch.size == pytest.approx(float(expected))
    assert terms.metrics["critic/clip_fraction"].value == pytest.approx(float(clipped))
    assert terms.policy is None
    assert "policy/entropy" not in terms.metrics


@pytest.mark.parametrize("algorithm", tiny.ALGORITHMS)
def test_without_stored_log_probabilities_the_ratio_is_exactly_one(algorithm):
    batch = made()
    now = outputs(batch)
    now = now._replace(logprobs=now.logprobs.requires_grad_())
    credit = Credit(torch.randn(batch.mask.shape) * batch.mask)
    terms = tiny.ALGORITHMS[algorithm](tiny.spec(algorithm)).loss(now, replace(batch, old_logprobs=None), credit)
    assert terms.metrics["policy/clip_fraction"].value == 0
    assert terms.metrics["policy/approx_kl"].value == 0
    lengths = batch.mask.sum(1, keepdim=True)
    assert float(terms.policy.detach()) == pytest.approx(-float((credit.advantages / lengths).sum()), rel=1e-5)
    (gradient,) = torch.autograd.grad(terms.policy, now.logprobs)
    torch.testing.assert_close(gradient, -credit.advantages / lengths)


def test_the_policy_loss_of_the_algorithms_is_one_and_the_same():
    batch, credit = made(), Credit(torch.ones(5, 4))
    now = outputs(batch, shift=0.2)
    one, *others = (build(tiny.spec(name)).loss(now, batch, credit) for name, build in tiny.ALGORITHMS.items())
    assert others
    for other in others:
        assert float(one.policy) == float(other.policy)
        assert one.metrics == other.metrics


def test_a_surrogate_of_its_own_takes_the_place_of_the_clipped_one_and_of_nothing_else():
    batch, credit = made(), Credit(torch.ones(5, 4))
    now, settings = outputs(batch, shift=0.2), tiny.spec(kl={"placement": "loss", "coefficient": 0.1})

    def doubled(*tensors, **clips):
        loss, fraction = clipped_surrogate(*tensors, **clips)
        return 2 * loss, fraction / 2

    plain, changed = (policy_terms(now, batch, credit, settings, surrogate=s) for s in (clipped_surrogate, doubled))
    without_kl = policy_terms(now, batch, credit, tiny.spec())
    assert float(changed.policy) == pytest.approx(float(plain.policy) + float(without_kl.policy), rel=1e-6)
    fraction = "policy/clip_fraction"
    assert changed.metrics.pop(fraction).value == pytest.approx(plain.metrics.pop(fraction).value / 2)
    assert changed.metrics == plain.metrics


def test_rloo_advantage_is_the_score_less_the_mean_of_the_others():
    credit = rloo.build(tiny.spec("rloo")).assign_credit(made(), None)
    by_hand = torch.tensor([1 - 1 / 2, 0 - 2 / 2, 1 - 1 / 2, 0 - 0.5, 0.5 - 0])
    torch.testing.assert_close(credit.advantages, by_hand[:, None] * made().mask)
    assert credit.returns is credit.old_values is None


def test_rloo_agrees_with_its_definition_in_plain_python():
    generator = torch.Generator().manual_seed(3)
    scores = torch.randn(5, generator=generator).tolist()
    batch = made(scores=tuple(scores))
    credit = rloo.build(tiny.spec("rloo")).assign_credit(batch, None)
    group = batch.prompt_of.tolist()
    for row, score in enumerate(scores):
        others = [other for i, other in enumerate(scores) if group[i] == group[row] and i != row]
        assert float(credit.advantages[row, 0]) == pytest.approx(score - sum(others) / len(others), abs=1e-6)


def test_rloo_is_grpo_without_its_standard_deviation_times_n_over_n_less_one():
    batch = made()
    one = rloo.build(tiny.spec("rloo")).assign_credit(batch, None).advantages
    other = grpo.build(tiny.spec(advantage={"group_std": False})).assign_credit(batch, None).advantages
    torch.testing.assert_close(one, other * torch.tensor([3 / 2, 3 / 2, 3 / 2, 2.0, 2.0])[:, None])


def test_rloo_takes_kl_in_the_reward_from_the_scores():
    batch, kl = made(), {"placement": "reward", "coefficient": 0.1}
    credit = rloo.build(tiny.spec("rloo", kl=kl)).assign_credit(batch, None)
    scores = token_rewards(batch, KlTable(**kl)).sum(1)
    torch.testing.assert_close(credit.advantages[3, 0], scores[3] - scores[4])


def test_loss_sums_over_parts_are_the_sum_over_the_whole():
    batch = made()
    settings = tiny.spec("ppo", kl={"placement": "loss", "coefficient": 0.1})
    values = torch.randn(batch.mask.shape, generator=torch.Generator().manual_seed(7))
    credit = Credit(torch.randn(batch.mask.shape), torch.rand(batch.mask.shape), 0.5 * values)
    loss = ppo.build(settings).loss
    now = outputs(batch, shift=0.1, values=values)
    whole = loss(now, batch, credit)
    parts = []
    for rows in (torch.tensor([1]), torch.tensor([4, 0]), torch.tensor([2, 3])):
        part = batch.select(rows)
        width = part.mask.shape[1]
        cut = PolicyOutputs(*(x[rows, :width] for x in now))
        parts.append(loss(cut, part, credit.select(rows, width)))
    assert sum(float(part.policy) for part in parts) == pytest.approx(float(whole.policy), rel=1e-5)
    assert sum(float(part.value) for part in parts) == pytest.approx(float(whole.value), rel=1e-5)
    for name, mean in whole.metrics.items():
        combined = parts[0].metrics[name] + parts[1].metrics[name] + parts[2].metrics[name]
        assert combined.count == mean.count
        assert combined.value == pytest.approx(mean.value, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("name", ["grpo", "rloo"])
def test_a_single_completion_per_prompt_is_refused_by_what_compares_completions(name):
    with pytest.raises(ValueError, match=rf"completions_per_prompt = 1: {name} needs at least 2"):
        tiny.ALGORITHMS[name](tiny.spec(rollout={"completions_per_prompt": 1}))
    ppo.build(tiny.spec("ppo", rollout={"completions_per_prompt": 1}))


def test_only_ppo_asks_for_a_critic():
    assert ppo.build(tiny.spec("ppo")).needs_critic
    assert not grpo.build(tiny.spec()).needs_critic
    assert not rloo.build(tiny.spec()).needs_critic


@pytest.mark.parametrize("algorithm", tiny.ALGORITHMS)
def test_none_asks_for_greedy_completions_or_chooses_its_groups(algorithm):
    built = tiny.ALGORITHMS[algorithm](tiny.spec(algorithm))
    assert not built.needs_greedy
    assert built.keep is None


def test_selected_sequences_keep_the_greedy_scores_of_their_prompts():
    batch = made(greedy_scores=torch.tensor([0.25, 0.75]))
    assert batch.select(torch.tensor([4, 3])).greedy_scores.tolist() == [0.75]
    assert batch.select(torch.tensor([4, 0])).greedy_scores.tolist() == [0.25, 0.75]
    assert made().select(torch.tensor([0])).greedy_scores is None


def test_importance_weights_are_capped_and_weigh_the_surrogate_alone():
    old = torch.tensor([[-1.0, -1.0, -1.0]])
    weights = importance_weights(old, old - torch.tensor([[0.0, 0.2, 5.0]]), cap=2.0)
    torch.testing.assert_close(weights, torch.tensor([[1.0, math.exp(0.2), 2.0]]))
    batch = made()
    batch = replace(batch, engine_logprobs=batch.old_logprobs - 0.1 * batch.mask)
    credit = Credit(torch.ones_like(batch.mask))
    specs = (tiny.spec("grpo"), tiny.spec("grpo", update={"importance_cap": 5.0}))
    plain, weighed = (policy_terms(outputs(batch), batch, credit, spec) for spec in specs)
    assert float(weighed.policy) == pytest.approx(float(plain.policy) * math.exp(0.1), rel=1e-4)
    assert weighed.metrics["policy/importance_weight"].value == pytest.approx(math.exp(0.1), rel=1e-4)
