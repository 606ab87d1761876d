"""RLOO: the mean reward of a prompt's other samples is the baseline; there is no critic.

Ahmadian et al. 2024, arXiv:2402.14740. The advantage is n/(n − 1) times GRPO's without its standard deviation. Departs
from the paper, which takes a completion as one action and does not clip: the loss is the surrogate per token that the
algorithms here share, whose gradient is REINFORCE's where a rollout feeds a single update.
"""

from __future__ import annotations

from torch import Tensor

from algorithms.advantages import leave_one_out, whiten
from algorithms.base import Algorithm, Credit, LossTerms, PolicyOutputs, RolloutBatch
from algorithms.objective import policy_terms, token_rewards
from algorithms.settings import Options, Settings, require_group


def build(settings: Settings, options: Options = Options()) -> Algorithm:
    """Raises ValueError for groups of one."""
    require_group(settings, "rloo")

    def assign_credit(batch: RolloutBatch, values: Tensor | None) -> Credit:
        scores_B = token_rewards(batch, settings.kl).sum(1)
        advantages_BT = leave_one_out(scores_B, batch.prompt_of)[:, None] * batch.mask
        return Credit(whiten(advantages_BT, batch.loss_mask) if settings.advantage.whiten else advantages_BT)

    def loss(outputs: PolicyOutputs, batch: RolloutBatch, credit: Credit) -> LossTerms:
        return policy_terms(outputs, batch, credit, settings)

    return Algorithm("rloo", needs_critic=False, assign_credit=assign_credit, loss=loss)
