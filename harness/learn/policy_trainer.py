"""The policy's side of an update: forward, loss, backward, clip, optimizer.

Losses come as sums and are divided once by the minibatch's global count, so micro-batches change nothing.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from algorithms.base import Algorithm, Credit, PolicyOutputs, RolloutBatch
from harness.config.tables import RunSpec
from harness.learn.optimizer import Optimized, StepLog
from harness.learn.passes import Passes
from harness.learn.step_batch import Minibatch, StepBatch
from harness.measure.memory_tracker import labelled
from harness.model.policy import Policy


class Trainer(Protocol):
    """What learns in a step: a policy alone, or a policy and its critic (`harness.learn.critic_trainer`)."""

    optimized: list[Optimized]
    """The policy's weights, then the critic's."""

    def runs_policy(self, number: int) -> bool:
        """Whether the updates of this step run the policy."""

    def values(self, step: StepBatch, log: StepLog) -> Tensor | None:
        """The critic's values [B, T] before this step's updates; None without a critic."""

    def update(self, step: StepBatch, minibatch: Minibatch, credit: Credit, log: StepLog) -> None:
        """One update. Raises Diverged before a weight moves where a gradient is not finite."""


class PolicyTrainer:
    """Updates a policy; by itself the trainer of an algorithm without a critic."""

    def __init__(self, spec: RunSpec, algorithm: Algorithm, policy: Policy, passes: Passes) -> None:
        self.algorithm, self.policy, self.passes = algorithm, policy, passes
        self.weights = Optimized(
            "policy", list(policy.model.parameters()), spec,
            lr=spec.update.learning_rate, max_grad_norm=spec.update.max_grad_norm,
        )  # fmt: skip
        self.optimized = [self.weights]

    def runs_policy(self, number: int) -> bool:
        return True

    def values(self, step: StepBatch, log: StepLog) -> None:
        return None

    def update(self, step: StepBatch, minibatch: Minibatch, credit: Credit, log: StepLog) -> None:
        with self.passes.meter.phase("policy_update"):
            loss = 0.0
            for part, part_credit in step.parts(minibatch, credit):
                outputs = self.policy.forward(part)
                terms = self.algorithm.loss(outputs, part, part_credit)
                loss += backward(terms.policy, minibatch.divisor)
                log.merge(terms)
                note_gap(outputs, part, log)
            self.weights.step(loss, log)
        self.passes.count("policy_update", step, minibatch, logits=True, backward=True)


def backward(total: Tensor | None, divisor: float) -> float:
    """Gradients of a sum of losses over the minibatch's divisor, which is returned as a number."""
    assert total is not None
    loss = total / divisor
    with labelled("temporaries"):
        loss.backward()
    return float(total.detach()) / divisor


def policy_logprobs(policy: Policy, batch: RolloutBatch) -> Tensor:
    logprobs = policy.forward(batch).logprobs
    assert logprobs is not None
    return logprobs


def note_gap(outputs: PolicyOutputs, batch: RolloutBatch, log: StepLog) -> None:
    """The engine's log-probabilities against this forward's, where it is the first since sampling."""
    if batch.old_logprobs is None and outputs.logprobs is not None:
        log.add_max("rollout/engine_logprob_gap", logprob_gap(outputs.logprobs.detach(), batch))


def logprob_gap(trainer: Tensor, batch: RolloutBatch) -> float:
    """Largest difference between the engine's and the trainer's log-probability of a sampled token, in nats."""
    return float(((trainer - batch.engine_logprobs) * batch.mask).abs().max())
