"""Losses per token, and the one way to sum them up, as pure functions on tensors.

Shape legend: B sequences, T response positions; a trailing ``_BT`` names the axes of a local.
``mask`` [B, T] is nonzero on response tokens and may be float, integer or bool, with zeros anywhere. Outputs are 0
where the mask is 0, and what stands there is never read: it is replaced before any arithmetic, because NaN × 0 is
NaN, in the value and in the gradient alike. Inputs are not modified; results have the dtype of the inputs. Tensors
of different shapes are a programmer's fault and fail an assertion; an unknown ``mode`` or ``kind`` is a setting's
fault and raises ValueError.

A step split into micro-batches sums ``loss * token_weights(...)`` over all of them and divides once by the step's
``aggregate_count``: then neither the split nor its order can change the result. `aggregate` is the two together.
"""

import torch
from torch import Tensor

AGGREGATIONS = ("token_mean", "sequence_mean", "sequence_sum")
KL_KINDS = ("k1", "k2", "k3")


def clipped_surrogate(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor, *, clip_low: float, clip_high: float
) -> tuple[Tensor, Tensor]:
    """PPO's clipped objective as a loss: (loss per token [B, T], clipped fraction, a detached scalar).

        ρ_t = exp(logp_t − logp_old,t)        L_t = max(−A_t ρ_t, −A_t clip(ρ_t, 1 − clip_low, 1 + clip_high))

    Schulman et al. 2017, arXiv:1707.06347, eq. 7; GRPO (arXiv:2402.03300) uses it unchanged, and clip_high > clip_low
    is DAPO's clip-higher (Yu et al. 2025, arXiv:2503.14476). All tensors [B, T]. The fraction counts the valid tokens
    on which the clipped term is the strictly larger, that is, those that get no gradient.

    Departs from verl: no bound on the log-ratio and no dual clip (a cap on the loss where A < 0 and ρ is large). A
    ratio that overflows is left to be seen.
    """
    shapes = {x.shape for x in (logprobs, old_logprobs, advantages, mask)}
    assert len(shapes) == 1, shapes
    valid_BT = mask.bool()
    ratio_BT = (logprobs - old_logprobs).where(valid_BT, 0).exp()
    advantages_BT = advantages.where(valid_BT, 0)
    unclipped_BT = -advantages_BT * ratio_BT
    clipped_BT = -advantages_BT * ratio_BT.clamp(1 - clip_low, 1 + clip_high)
    loss_BT = torch.maximum(unclipped_BT, clipped_BT)
    return loss_BT, _fraction(clipped_BT > unclipped_BT, valid_BT, loss_BT.dtype)


def clipped_value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, *, clip: float | None
) -> tuple[Tensor, Tensor]:
    """The critic's squared error, clipped as PPO clips: (loss per token [B, T], clipped fraction, a detached scalar).

        L_t = ½ max((V_t − R_t)², (clip(V_t, V_old,t − clip, V_old,t + clip) − R_t)²)

    With ``clip=None``, L_t = ½ (V_t − R_t)² and the fraction is 0. All tensors [B, T]. The clip is not in the paper but
    in OpenAI's code of it (baselines, ppo2), and the factor ½ is inside, as in TRL and verl.
    """
    shapes = {x.shape for x in (values, old_values, returns, mask)}
    assert len(shapes) == 1, shapes
    valid_BT = mask.bool()
    values_BT, returns_BT = values.where(valid_BT, 0), returns.where(valid_BT, 0)
    error_BT = (values_BT - returns_BT).square()
    if clip is None:
        return 0.5 * error_BT, error_BT.new_zeros(())
    old_BT = old_values.where(valid_BT, 0)
    clipped_error_BT = (values_BT.clamp(old_BT - clip, old_BT + clip) - returns_BT).square()
    loss_BT = 0.5 * torch.maximum(error_BT, clipped_error_BT)
    return loss_BT, _fraction(clipped_error_BT > error_BT, valid_BT, loss_BT.dtype)


def kl_estimate(logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor, *, kind: str) -> Tensor:
    """One-sample estimate per token of KL(π ‖ π_ref), [B, T], for tokens drawn from π. With d = logp − logp_ref:

        k1 = d                  unbiased, may be negative
        k2 = ½ d²               biased, low variance
        k3 = e^{−d} − 1 + d     unbiased, never negative

    Schulman, "Approximating KL divergence", joschu.net/blog/kl-approx.html; k3 is the penalty in GRPO's loss
    (arXiv:2402.03300, eq. 4). All tensors [B, T]. Unbiased speaks of the value, not of the gradient: differentiated in
    a loss, k1 has an expected gradient of 0, k2 has that of KL(π ‖ π_ref), and k3 has that of KL(π_ref ‖ π).

    Departs from verl, which for k3 clamps d to ±20 and the result to ±10, and from both it and TRL in writing expm1:
    near d = 0, exp(−d) − 1 loses all digits of k3 and can come out negative.
    """
    _refuse_unknown("kind", kind, KL_KINDS)
    assert logprobs.shape == ref_logprobs.shape == mask.shape, (logprobs.shape, ref_logprobs.shape, mask.shape)
    difference_BT = (logprobs - ref_logprobs).where(mask.bool(), 0)
    if kind == "k1":
        return difference_BT
    if kind == "k2":
        return 0.5 * difference_BT.square()
    return torch.expm1(-difference_BT) + difference_BT


def aggregate(loss: Tensor, mask: Tensor, *, mode: str, length: int | None = None) -> Tensor:
    """Sum up a loss per token [B, T] to a scalar. With S the non-empty sequences and |o_i| the tokens of the i-th:

        token_mean      1/Σ|o_i| · Σ_i Σ_t L_it          DAPO, arXiv:2503.14476
        sequence_mean   1/S · Σ_i 1/|o_i| Σ_t L_it       GRPO as published, arXiv:2402.03300, eq. 3
        sequence_sum    1/S · Σ_i 1/length Σ_t L_it      Dr. GRPO, arXiv:2503.20783

    ``length`` is read by sequence_sum alone and is T unless given; a number below 1 raises ValueError. A sequence
    whose mask is all 0 contributes nothing and is not counted in S (TRL and older verl count it). A mask that is
    all 0 gives 0, with a gradient of 0.
    """
    assert loss.shape == mask.shape, (loss.shape, mask.shape)
    # The weights take the mask's dtype; in the loss's own, a float64 loss is not weighed by a float32 third.
    weights_BT = token_weights(mask.to(loss.dtype), mode=mode, length=length)
    return (loss.where(mask.bool(), 0) * weights_BT).sum() / aggregate_count(mask, mode=mode).clamp(min=1)


def token_weights(mask: Tensor, *, mode: str, length: int | None = None) -> Tensor:
    """What each token weighs in the aggregation's sum [B, T], before the division by `aggregate_count`.

    1 for token_mean, 1/|o_i| for sequence_mean, 1/length for sequence_sum; 0 where the mask is 0. In the mask's dtype
    if that is floating, else torch's default. A weight depends on its own sequence alone, so a sequence must not be
    split over micro-batches; and where their T differ, sequence_sum needs ``length`` given.
    """
    _refuse_unknown("mode", mode, AGGREGATIONS)
    if length is not None and length < 1:
        raise ValueError(f"length must be at least 1, not {length}")
    valid_BT = mask.bool()
    ones_BT = valid_BT.to(mask.dtype if mask.is_floating_point() else torch.get_default_dtype())
    if mode == "token_mean":
        return ones_BT
    if mode == "sequence_mean":
        return ones_BT / valid_BT.sum(1, keepdim=True).clamp(min=1)
    return ones_BT / (mask.shape[1] if length is None else length)


def aggregate_count(mask: Tensor, *, mode: str) -> Tensor:
    """What the aggregation's sum is divided by, an integer scalar: summed over micro-batches and ranks, the step's.

    The valid tokens for token_mean, the sequences with at least one of them otherwise. It is 0 for an all-zero mask.
    """
    _refuse_unknown("mode", mode, AGGREGATIONS)
    valid_BT = mask.bool()
    return valid_BT.sum() if mode == "token_mean" else valid_BT.any(1).sum()


def _fraction(event_BT: Tensor, valid_BT: Tensor, dtype: torch.dtype) -> Tensor:
    return (event_BT & valid_BT).sum().to(dtype) / valid_BT.sum().clamp(min=1)


def _refuse_unknown(name: str, value: str, accepted: tuple[str, ...]) -> None:
    if value not in accepted:
        raise ValueError(f"unknown {name} {value!r}; accepted: {', '.join(accepted)}")
