"""PPO: a learned critic is the baseline; generalised advantage estimation spreads the reward over the tokens.

Schulman et al. 2017, arXiv:1707.06347, with GAE (arXiv:1506.02438). With γ = λ = 1 and an outcome reward the
advantage is R − V(s_t): the same as GRPO's but for the baseline.
"""

from __future__ import annotations

from torch import Tensor

from algorithms.advantages import gae, whiten
from algorithms.base import Algorithm, Credit, LossTerms, Mean, PolicyOutputs, RolloutBatch
from algorithms.losses import clipped_value_loss
from algorithms.objective import policy_terms, token_rewards, weighted_sum
from algorithms.settings import Options, Settings


def build(settings: Settings, options: Options = Options()) -> Algorithm:
    critic = settings.critic

    def assign_credit(batch: RolloutBatch, values: Tensor | None) -> Credit:
        assert values is not None
        rewards_BT = token_rewards(batch, settings.kl)
        advantages_BT, returns_BT = gae(rewards_BT, values, batch.mask, gamma=critic.gamma, lam=critic.lam)
        if settings.advantage.whiten:
            advantages_BT = whiten(advantages_BT, batch.loss_mask)
        return Credit(advantages_BT, returns_BT, values)

    def loss(outputs: PolicyOutputs, batch: RolloutBatch, credit: Credit) -> LossTerms:
        terms = policy_terms(outputs, batch, credit, settings)
        if outputs.values is None:
            return terms
        assert credit.old_values is not None
        assert credit.returns is not None
        mask = batch.loss_mask
        value_BT, clipped = clipped_value_loss(
            outputs.values, credit.old_values, credit.returns, mask, clip=critic.value_clip
        )
        tokens = float(mask.sum())
        metrics = {**terms.metrics, "critic/clip_fraction": Mean(float(clipped) * tokens, tokens)}
        return LossTerms(terms.policy, weighted_sum(value_BT, mask, settings), metrics)

    return Algorithm("ppo", needs_critic=True, assign_credit=assign_credit, loss=loss)
