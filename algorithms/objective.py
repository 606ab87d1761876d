"""What every algorithm here shares: token rewards and the policy's objective, as sums.

Algorithms differ in how they assign credit and in the surrogate; KL, correction and aggregation around it are one and
the same, so that they cannot drift apart between the arms of a comparison.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from algorithms.base import Credit, LossTerms, Mean, PolicyOutputs, RolloutBatch
from algorithms.losses import clipped_surrogate, kl_estimate, token_weights
from algorithms.settings import KlTable, Settings

# (log-probabilities, old ones, advantages, mask, all [B, T], clip_low=, clip_high=) → (loss per token [B, T], the
# clipped fraction), as `algorithms.losses.clipped_surrogate`.
Surrogate = Callable[..., tuple[Tensor, Tensor]]


def token_rewards(batch: RolloutBatch, kl: KlTable) -> Tensor:
    """Rewards per token [B, T]: the score on the last valid token, less β·KL on each where KL is in the reward."""
    last_BT = batch.mask.cumsum(1) * batch.mask == batch.mask.sum(1, keepdim=True)
    rewards_BT = torch.where(last_BT & batch.mask.bool(), batch.scores[:, None], 0.0)
    if kl.placement == "reward":
        assert batch.ref_logprobs is not None
        # Where the trainer has not computed its own, the engine's are exact.
        sampled_BT = batch.engine_logprobs if batch.old_logprobs is None else batch.old_logprobs
        penalty_BT = kl_estimate(sampled_BT, batch.ref_logprobs, batch.mask, kind=kl.estimator)
        rewards_BT = rewards_BT - kl.coefficient * penalty_BT
    return rewards_BT


def masked_mean(x_BT: Tensor, mask_BT: Tensor) -> Mean:
    return Mean(float(x_BT.detach().where(mask_BT.bool(), 0).sum()), float(mask_BT.sum()))


def policy_terms(
    outputs: PolicyOutputs, batch: RolloutBatch, credit: Credit, settings: Settings, *,
    surrogate: Surrogate = clipped_surrogate,
) -> LossTerms:  # fmt: skip
    """The surrogate, plus β·KL where KL is in the loss, summed with the aggregation's weights."""
    if outputs.logprobs is None or outputs.entropy is None:
        return LossTerms(None, None, {})
    mask, update = batch.loss_mask, settings.update
    # Without stored log-probabilities this is the only update of its rollout: the policy is the one that sampled.
    old_logprobs = outputs.logprobs.detach() if batch.old_logprobs is None else batch.old_logprobs
    loss_BT, clipped = surrogate(
        outputs.logprobs, old_logprobs, credit.advantages, mask, clip_low=update.clip_low, clip_high=update.clip_high
    )
    tokens = float(mask.sum())
    drift_BT = kl_estimate(old_logprobs, outputs.logprobs.detach(), mask, kind="k3")
    metrics = {
        "policy/clip_fraction": Mean(float(clipped) * tokens, tokens),
        "policy/approx_kl": masked_mean(drift_BT, mask),
        "policy/entropy": masked_mean(outputs.entropy, mask),
    }
    if update.importance_cap is not None:
        weight_BT = importance_weights(old_logprobs, batch.engine_logprobs, cap=update.importance_cap)
        loss_BT = loss_BT * weight_BT
        metrics["policy/importance_weight"] = masked_mean(weight_BT, mask)
    if batch.ref_logprobs is not None:
        kl_BT = kl_estimate(outputs.logprobs, batch.ref_logprobs, mask, kind=settings.kl.estimator)
        metrics["kl/reference"] = masked_mean(kl_BT, mask)
        if settings.kl.placement == "loss":
            loss_BT = loss_BT + settings.kl.coefficient * kl_BT
    return LossTerms(policy=weighted_sum(loss_BT, mask, settings), value=None, metrics=metrics)


def importance_weights(old_BT: Tensor, engine_BT: Tensor, *, cap: float) -> Tensor:
    """min(π_trainer / π_engine, cap) of each sampled token [B, T]: truncated importance sampling, without gradient.

    Corrects for an engine that samples from slightly other probabilities than the trainer's (Ionides 2008;
    Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL training").
    """
    return torch.exp(old_BT.detach() - engine_BT).clamp(max=cap)


def weighted_sum(loss_BT: Tensor, mask_BT: Tensor, settings: Settings) -> Tensor:
    """The aggregation's numerator; the loop divides by the step's `aggregate_count`."""
    length = settings.rollout.max_completion_tokens
    return (loss_BT * token_weights(mask_BT, mode=settings.update.aggregation, length=length)).sum()
