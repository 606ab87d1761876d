"""Credit assignment: from rewards or scores to advantages, as pure functions on tensors.

Shape legend: B sequences, T response positions, G groups; a trailing ``_BT`` names the axes of a local.
``mask`` [B, T] is nonzero on response tokens and may be float, integer or bool, with zeros anywhere: the nonzero
positions, read left to right, are the sequence. Outputs are 0 where the mask is 0, and what stands there is never
read: it is replaced before any arithmetic, because NaN × 0 is NaN, in the value and in the gradient alike.
Inputs are not modified; results have the dtype of the inputs. Tensors of different shapes are a programmer's fault
and fail an assertion.
"""

import torch
from torch import Tensor


def gae(rewards: Tensor, values: Tensor, mask: Tensor, *, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation: (advantages, returns), both [B, T].

        δ_t = r_t + γ V_{t+1} − V_t        A_t = δ_t + γλ A_{t+1}        returns_t = A_t + V_t

    Schulman et al. 2016, arXiv:1506.02438, eq. 16. ``rewards``, ``values``, ``mask``: [B, T]. V_t is the value of the
    state *before* token t, and t + 1 is the next valid token; after the last one V = A = 0, since a response ends
    the episode. A truncated response that should bootstrap instead carries γV in its last reward.

    Departs from verl, which whitens the advantages inside (see `whiten`). Zeros anywhere in the mask are stepped over,
    as in verl's current version; TRL expects right padding, with rewards and values already zeroed there.
    """
    assert rewards.shape == values.shape == mask.shape, (rewards.shape, values.shape, mask.shape)
    valid_BT = mask.bool()
    rewards_BT = rewards.where(valid_BT, 0)
    values_BT = values.where(valid_BT, 0)

    columns: list[Tensor] = []
    next_value_B = next_advantage_B = rewards_BT.new_zeros(len(rewards_BT))
    for t in reversed(range(mask.shape[1])):
        delta_B = rewards_BT[:, t] + gamma * next_value_B - values_BT[:, t]
        advantage_B = delta_B + gamma * lam * next_advantage_B
        columns.append(advantage_B)
        next_value_B = values_BT[:, t].where(valid_BT[:, t], next_value_B)
        next_advantage_B = advantage_B.where(valid_BT[:, t], next_advantage_B)

    advantages_BT = torch.stack(columns[::-1], dim=1).where(valid_BT, 0) if columns else rewards_BT
    return advantages_BT, advantages_BT + values_BT


def discounted_returns(rewards: Tensor, mask: Tensor, *, gamma: float) -> Tensor:
    """Discounted reward-to-go, [B, T]:  G_t = r_t + γ G_{t+1},  with G = 0 after the last valid token.

    It is GAE of a critic that always answers 0, at λ = 1 (arXiv:1506.02438, eq. 18), and is computed as that.
    ``rewards``, ``mask``: [B, T]. As in `gae`, masked positions are stepped over and cost no discount.
    """
    advantages_BT, _ = gae(rewards, torch.zeros_like(rewards), mask, gamma=gamma, lam=1.0)
    return advantages_BT


def group_relative(scores: Tensor, group: Tensor, *, normalize_by_std: bool = True, eps: float = 1e-6) -> Tensor:
    """GRPO's outcome advantage, [B]:  A_i = (s_i − mean(s_group)) / (std(s_group) + ε).

    Shao et al. 2024 (DeepSeekMath), arXiv:2402.03300, §4.1.2. ``scores`` [B]; ``group`` [B] holds the group ids, any
    integers in any order. ``normalize_by_std=False`` leaves out the division: Dr. GRPO, Liu et al. 2025,
    arXiv:2503.20783. The std is the sample's (ddof 1), as in TRL and verl; ε is verl's 1e-6, TRL's is 1e-4.

    A group whose scores are all the same gives exactly 0. Departs from verl, which lets a group of one through with
    its raw score as the advantage: here it raises ValueError, for it has no baseline.
    """
    centred_B, variance_B, _ = _group_moments(scores, group)
    if not normalize_by_std:
        return centred_B
    # The zeros of a constant group are divided by 1: so they stay zeros at ε = 0, and have a gradient.
    return centred_B / (variance_B.where(variance_B > 0, 1).sqrt() + eps)


def leave_one_out(scores: Tensor, group: Tensor) -> Tensor:
    """RLOO's advantage, [B]:  A_i = s_i − mean of the other scores of its group.

    Ahmadian et al. 2024, arXiv:2402.14740. ``scores``, ``group``: [B], as in `group_relative`. Computed as
    n/(n−1) · (s_i − mean(s_group)), which is the same number. A group of one raises ValueError.
    """
    centred_B, _, sizes_B = _group_moments(scores, group)
    return centred_B * sizes_B / (sizes_B - 1)


def whiten(x: Tensor, mask: Tensor, *, shift_mean: bool = True, eps: float = 1e-8) -> Tensor:
    """Whiten the valid entries by their own moments, [B, T]:  (x − μ) / √(σ² + ε).

    μ and σ² are the mean and the unbiased variance (ddof 1) over all valid tokens of the batch.
    ``shift_mean=False`` adds μ back, as TRL does to whitened rewards. ``x``, ``mask``: [B, T].

    Departs from TRL and verl, which raise or divide by zero below two valid tokens: the variance of one token is
    taken as 0, and no tokens give zeros. Equal entries are centred to exactly 0, where a rounded mean would leave
    noise for 1/√ε to enlarge ten-thousandfold, and Adam to full size.
    """
    assert x.shape == mask.shape, (x.shape, mask.shape)
    valid_BT = mask.bool()
    if not valid_BT.any():
        return x.where(valid_BT, 0)
    count = valid_BT.sum()
    shift = x.detach().where(valid_BT, torch.inf).min()
    shifted_BT = (x - shift).where(valid_BT, 0)
    mean = shifted_BT.sum() / count
    centred_BT = (shifted_BT - mean).where(valid_BT, 0)
    variance = centred_BT.square().sum() / (count - 1).clamp(min=1)
    whitened_BT = centred_BT * torch.rsqrt(variance + eps)
    return whitened_BT if shift_mean else (whitened_BT + mean + shift).where(valid_BT, 0)


def _group_moments(scores: Tensor, group: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For each score [B]: its distance from its group's mean, the group's variance (ddof 1), and the group's size."""
    assert scores.ndim == 1, scores.shape
    assert scores.shape == group.shape, (scores.shape, group.shape)
    ids_G, group_of_B, sizes_G = group.unique(return_inverse=True, return_counts=True)
    singletons = ids_G[sizes_G == 1].tolist()
    if singletons:
        raise ValueError(f"group {singletons[0]} has a single score; it takes two to make a baseline")

    # Sums go through a [G, B] table: scattered adds have no fixed order on a GPU, hence no reproducible last bit.
    member_GB = group_of_B == torch.arange(len(ids_G), device=group.device)[:, None]
    # The mean of n equal numbers can round away from them, and 1/ε would enlarge what is left. Measured from the
    # group's lowest, equal scores are zeros, and so is their mean, exactly.
    lowest_G = scores.detach().where(member_GB, torch.inf).amin(1)
    shifted_B = scores - lowest_G[group_of_B]
    mean_G = shifted_B.where(member_GB, 0).sum(1) / sizes_G
    centred_B = shifted_B - mean_G[group_of_B]
    variance_G = centred_B.square().where(member_GB, 0).sum(1) / (sizes_G - 1)
    return centred_B, variance_G[group_of_B], sizes_G[group_of_B]
