"""Trainers of a policy with a critic: a model of its own, in one pass or several, or a head on the policy's trunk.

A critic of its own is updated in a pass of its own: the activations of the two models are never held at once. In the
first `critic.warmup_steps` steps only the critic learns.
"""

from __future__ import annotations

import torch
from torch import Tensor

from algorithms.base import Algorithm, Credit, PolicyOutputs, RolloutBatch
from harness.config.tables import RunSpec
from harness.learn.optimizer import Optimized, StepLog
from harness.learn.passes import Passes
from harness.learn.policy_trainer import PolicyTrainer, Trainer, backward, note_gap
from harness.learn.step_batch import Minibatch, StepBatch
from harness.model.critic import Critic
from harness.model.run_models import RunModels


def trainer_of(spec: RunSpec, algorithm: Algorithm, models: RunModels, passes: Passes) -> Trainer:
    """The policy's trainer, with its critic's where there is one."""
    policy = PolicyTrainer(spec, algorithm, models.policy, passes)
    if models.critic is None:
        return policy
    if models.critic.shared:
        return SharedCritic(spec, policy, models.critic)
    # A critic that sees each rollout once: one forward gives its values and their gradient.
    kind = SeparateCritic if spec.update.several else OnePassCritic
    return kind(spec, policy, models.critic)


class CriticTrainer:
    """What the kinds have in common: the critic's weights beside the policy's, and the end of the warm-up."""

    def __init__(self, spec: RunSpec, policy: PolicyTrainer, critic: Critic) -> None:
        self.algorithm, self.policy, self.critic, self.passes = policy.algorithm, policy, critic, policy.passes
        self.warmup_steps = spec.critic.warmup_steps
        self.weights = Optimized(
            "critic", critic.parameters, spec, lr=spec.critic.learning_rate, max_grad_norm=spec.critic.max_grad_norm
        )
        self.optimized = [policy.weights, self.weights]

    def values(self, step: StepBatch, log: StepLog) -> Tensor:
        return self.passes.scored("values", step, self.critic.values, logits=False) * step.batch.mask


class SeparateCritic(CriticTrainer):
    """A model of its own that sees a rollout several times: a pass for its values, then one an update."""

    def runs_policy(self, number: int) -> bool:
        return number > self.warmup_steps

    def update(self, step: StepBatch, minibatch: Minibatch, credit: Credit, log: StepLog) -> None:
        if self.runs_policy(step.number):
            self.policy.update(step, minibatch, credit, log)
        self.update_critic(step, minibatch, credit, log)

    def update_critic(self, step: StepBatch, minibatch: Minibatch, credit: Credit, log: StepLog) -> None:
        with self.passes.meter.phase("critic_update"):
            loss = 0.0
            for part, part_credit in step.parts(minibatch, credit):
                loss += self.backward(self.critic.values(part), part, part_credit, minibatch, log)
            self.weights.step(loss, log)
        self.passes.count("critic_update", step, minibatch, logits=False, backward=True)

    def backward(self, values: Tensor, part: RolloutBatch, credit: Credit, minibatch: Minibatch, log: StepLog) -> float:
        terms = self.algorithm.loss(PolicyOutputs(values=values), part, credit)
        log.merge(terms)
        return backward(terms.value, minibatch.divisor)


class OnePassCritic(SeparateCritic):
    """A model of its own that sees a rollout once: its values are made by the pass that updates it.

    A sequence's returns follow from its own rewards and values, so each micro-batch has its own.
    """

    def values(self, step: StepBatch, log: StepLog) -> Tensor:
        minibatch = step.whole
        learns, loss = minibatch.divisor > 0, 0.0
        values_BT = torch.zeros_like(step.batch.mask)
        with self.passes.meter.phase("critic_update"):
            for rows, _ in minibatch.micro_batches:
                part = step.batch.select(rows)
                with torch.set_grad_enabled(learns):
                    values = self.critic.values(part)
                    values_BT[rows, : part.mask.shape[1]] = values.detach()
                    if learns:
                        credit = self.algorithm.assign_credit(part, values.detach())
                        loss += self.backward(values, part, credit, minibatch, log)
            if learns:
                self.weights.step(loss, log)
        self.passes.count("critic_update", step, minibatch, logits=False, backward=learns)
        return values_BT

    def update_critic(self, step: StepBatch, minibatch: Minibatch, credit: Credit, log: StepLog) -> None:
        """It has learnt from this rollout already."""


class SharedCritic(CriticTrainer):
    """A head on the policy's trunk: one forward serves both losses. While it warms up, only the head learns."""

    def __init__(self, spec: RunSpec, policy: PolicyTrainer, critic: Critic) -> None:
        super().__init__(spec, policy, critic)
        self.loss_coefficient = spec.critic.loss_coefficient

    def runs_policy(self, number: int) -> bool:
        return True

    def update(self, step: StepBatch, minibatch: Minibatch, credit: Credit, log: StepLog) -> None:
        policy_learns = step.number > self.warmup_steps
        with self.passes.meter.phase("policy_update"):
            policy_loss = value_loss = 0.0
            for part, part_credit in step.parts(minibatch, credit):
                outputs = self.policy.policy.forward(part, self.critic, trunk_gradient=policy_learns)
                terms = self.algorithm.loss(outputs, part, part_credit)
                assert terms.policy is not None
                assert terms.value is not None
                weighted = terms.value * self.loss_coefficient
                backward(terms.policy + weighted if policy_learns else weighted, minibatch.divisor)
                policy_loss += float(terms.policy.detach()) / minibatch.divisor
                value_loss += float(terms.value.detach()) / minibatch.divisor
                log.merge(terms)
                note_gap(outputs, part, log)
            if policy_learns:
                self.policy.weights.step(policy_loss, log)
            self.weights.step(value_loss, log)
        # A warm-up goes back through the critic's head alone.
        self.passes.count("policy_update", step, minibatch, logits=True, backward=policy_learns)
