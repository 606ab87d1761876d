"""From a graded batch to moved weights: score → values → credit → update, whatever the algorithm and its critic.

Where the rollouts come from is not its business (`harness.run.loop`), so that a plan can put it on weights that do
not exist (`harness.plan.forecast`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from algorithms.base import Algorithm, Credit, RolloutBatch
from harness.config.tables import RunSpec
from harness.learn.critic_trainer import trainer_of
from harness.learn.optimizer import StepLog
from harness.learn.passes import Passes
from harness.learn.policy_trainer import logprob_gap, policy_logprobs
from harness.learn.step_batch import StepBatch
from harness.measure.flops import ForwardCost
from harness.measure.memory_tracker import MemoryTracker
from harness.measure.meter import Meter
from harness.model.run_models import RunModels
from harness.model.weights import tensors_of

# Components of the policy's and of the critic's gradients.
GRADIENTS = ("gradients", "critic_gradients")


class Learner:
    """engine_is_exact: the sampler's log-probabilities are the trainer's own, to rounding."""

    def __init__(
        self, spec: RunSpec, seed: int, algorithm: Algorithm, models: RunModels, meter: Meter, *, engine_is_exact: bool
    ) -> None:
        self.spec, self.seed, self.algorithm, self.models, self.meter = spec, seed, algorithm, models, meter
        self.engine_is_exact = engine_is_exact
        self.passes = Passes(spec, models.policy, meter)
        self.trainer = trainer_of(spec, algorithm, models, self.passes)

    @property
    def cost(self) -> ForwardCost:
        """The policy's."""
        return self.passes.cost

    def learn(self, number: int, batch: RolloutBatch, log: StepLog) -> None:
        """number: the step's, from 1."""
        step = self._score(self.cut(number, batch), log)
        values_BT = self.trainer.values(step, log)
        credit = self._assign_credit(step.batch, values_BT, log)
        for minibatch in step.updates():
            self.trainer.update(step, minibatch, credit, log)

    def cut(self, number: int, batch: RolloutBatch) -> StepBatch:
        return StepBatch.of(batch, self.spec.update, number=number, key=(self.spec.suite.name, self.seed))

    @contextmanager
    def rehearsal(self, tracker: MemoryTracker) -> Iterator[None]:
        """What is run inside is tracked, component by component, and nothing is learnt from it: no weight moves."""
        for component, tensors in self._held().items():
            tracker.claim(component, tensors)
        optimized = self.trainer.optimized
        gradients = {name: weights.parameters for name, weights in zip(GRADIENTS, optimized, strict=False)}
        with self._frozen(), tracker.gradients_of(gradients), self.meter.tracked_by(tracker):
            yield

    @contextmanager
    def _frozen(self) -> Iterator[None]:
        """Updates inside do all their work but the last: no weight moves."""
        for weights in self.trainer.optimized:
            weights.frozen = True
        try:
            yield
        finally:
            for weights in self.trainer.optimized:
                weights.frozen = False

    def _held(self) -> dict[str, list[Tensor]]:
        """The tensors that outlive a step, by component. Where trunks are shared, the weights are the policy's."""
        models = self.models
        held = {weights.component: weights.optimizer_state() for weights in self.trainer.optimized}
        if models.critic is not None:
            held["critic"] = models.critic.tensors
        if models.reference is not None:
            held["reference"] = list(tensors_of(models.reference.model))
        return {**held, "weights": list(tensors_of(models.policy.model))}

    def _score(self, step: StepBatch, log: StepLog) -> StepBatch:
        """Old log-probabilities where they are needed before the update, and the reference's where KL is used.

        A penalty in the reward needs them too; an exact engine has already said them. Any other engine is held
        against the trainer every step, also in those whose updates do not run the policy.
        """
        spec, models = self.spec, self.models
        old = ref = None
        wanted = spec.kl.placement == "reward" or not self.trainer.runs_policy(step.number)
        if spec.update.several or (wanted and not self.engine_is_exact):
            old = self.passes.scored("logprobs", step, lambda part: policy_logprobs(models.policy, part))
            log.add("rollout/engine_logprob_gap", logprob_gap(old, step.batch))
        if models.reference is not None:
            reference = models.reference
            ref = self.passes.scored("reference", step, lambda part: policy_logprobs(reference, part))
        return step.with_logprobs(old, ref)

    @torch.no_grad()
    def _assign_credit(self, batch: RolloutBatch, values_BT: Tensor | None, log: StepLog) -> Credit:
        credit = self.algorithm.assign_credit(batch, values_BT)
        if values_BT is not None and credit.returns is not None:
            explained = explained_variance(values_BT, credit.returns, batch.mask)
            if explained is not None:
                log.add("critic/explained_variance", explained)
        return credit


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> float | None:
    """1 − Var(R − V) / Var(R) over valid tokens; None where all returns are alike and there is nothing to explain.

    Returns are formed as A + V, so equal ones differ in the last bits; that much counts as alike.
    """
    valid = mask.bool()
    returns, values = returns[valid].double(), values[valid].double()
    rounding = 1e-5 * max(float(returns.abs().max()), float(values.abs().max()))
    if float(returns.std(correction=0)) <= rounding:
        return None
    return float(1 - (returns - values).var(correction=0) / returns.var(correction=0))
