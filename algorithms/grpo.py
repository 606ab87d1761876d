"""GRPO: the mean reward of a prompt's own samples is the baseline; there is no critic.

Shao et al. 2024 (DeepSeekMath), arXiv:2402.03300, outcome supervision. Without the division by the group's
standard deviation (`advantage.group_std = false`) it is the advantage of Dr. GRPO, arXiv:2503.20783.
"""

from __future__ import annotations

from torch import Tensor

from algorithms.advantages import group_relative, whiten
from algorithms.base import Algorithm, Credit, LossTerms, PolicyOutputs, RolloutBatch
from algorithms.objective import policy_terms, token_rewards
from algorithms.settings import Options, Settings, require_group


def build(settings: Settings, options: Options = Options()) -> Algorithm:
    """Raises ValueError for groups of one."""
    require_group(settings, "grpo")

    def assign_credit(batch: RolloutBatch, values: Tensor | None) -> Credit:
        # With KL in the reward, a sequence's score is the sum of its token rewards.
        scores_B = token_rewards(batch, settings.kl).sum(1)
        advantages_B = group_relative(scores_B, batch.prompt_of, normalize_by_std=settings.advantage.group_std)
        advantages_BT = advantages_B[:, None] * batch.mask
        return Credit(whiten(advantages_BT, batch.loss_mask) if settings.advantage.whiten else advantages_BT)

    def loss(outputs: PolicyOutputs, batch: RolloutBatch, credit: Credit) -> LossTerms:
        return policy_terms(outputs, batch, credit, settings)

    return Algorithm("grpo", needs_critic=False, assign_credit=assign_credit, loss=loss)
