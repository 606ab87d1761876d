"""The models of a run: the policy, and what stands beside it."""

from __future__ import annotations

from dataclasses import dataclass

from harness.config.tables import RunSpec
from harness.model.critic import Critic
from harness.model.policy import Policy


@dataclass(frozen=True)
class RunModels:
    """The policy, and the critic and the reference, which exist only where something asks for them."""

    policy: Policy
    critic: Critic | None = None
    reference: Policy | None = None

    @classmethod
    def of(cls, policy: Policy, spec: RunSpec, *, needs_critic: bool) -> RunModels:
        """A critic where the algorithm needs one, a reference where KL is measured; both begin as the policy does."""
        critic = Critic(policy, spec.critic) if needs_critic else None
        reference = policy.frozen_copy() if spec.kl.placement != "none" else None
        return cls(policy, critic, reference)
