"""From a graded batch to moved weights: log-probabilities → credit → update, one method per phase.

One `Learner` for every algorithm; it names none. The critic is spoken of once per phase, where the algorithm needs
one. Where the rollouts come from is not its business (`harness.run.loop`), so that a plan can put it on weights that do
not exist (`harness.plan.forecast`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from algorithms.base import Algorithm, Credit, RolloutBatch
from harness.config.tables import RunSpec
from harness.learn.batching import micro_batches
from harness.learn.optimizer import StepLog
from harness.learn.update import Updater, logprob_gap
from harness.measure.flops import Work
from harness.measure.memory_tracker import MemoryTracker
from harness.measure.meter import Meter
from harness.model.critic import Critic
from harness.model.policy import Policy
from harness.model.weights import tensors_of

# Components of the policy's and of the critic's gradients.
GRADIENTS = ("gradients", "critic_gradients")


@dataclass
class Models:
    """The policy, and what stands beside it. The critic and the reference exist only where something asks for them."""

    policy: Policy
    critic: Critic | None
    reference: Policy | None


class Learner:
    """engine_is_exact: the sampler's log-probabilities are the trainer's own, to rounding."""

    def __init__(
        self, spec: RunSpec, seed: int, algorithm: Algorithm, models: Models, meter: Meter, *, engine_is_exact: bool
    ) -> None:
        self.spec, self.algorithm, self.models, self.meter = spec, algorithm, models, meter
        self.engine_is_exact = engine_is_exact
        self.updater = Updater(spec, seed, algorithm, models.policy, models.critic, meter)

    def learn(self, number: int, batch: RolloutBatch, log: StepLog) -> None:
        work = Work.of(batch)
        batch = self._score(number, batch, work, log)
        credit = self._assign_credit(batch, work, log)
        self.updater.update(number, batch, credit, work, log, critic_is_done=self.updater.one_pass_critic)

    @contextmanager
    def rehearsal(self, tracker: MemoryTracker) -> Iterator[None]:
        """What is run inside is tracked, component by component, and nothing is learnt from it: no weight moves."""
        for component, tensors in self._held().items():
            tracker.claim(component, tensors)
        gradients = {name: trainee.parameters for name, trainee in zip(GRADIENTS, self.updater.trainees, strict=False)}
        with self.updater.frozen(), tracker.gradients_of(gradients), self.meter.tracked_by(tracker):
            yield

    def _held(self) -> dict[str, list[Tensor]]:
        """The tensors that outlive a step, by component. Where trunks are shared, the weights are the policy's."""
        models, updater = self.models, self.updater
        held = {"optimizer": updater.policy_trainee.optimizer_state()}
        if updater.critic_trainee is not None:
            held["critic_optimizer"] = updater.critic_trainee.optimizer_state()
        if models.critic is not None:
            held["critic"] = models.critic.tensors
        if models.reference is not None:
            held["reference"] = list(tensors_of(models.reference.model))
        return {**held, "weights": list(tensors_of(models.policy.model))}

    @torch.no_grad()
    def _score(self, number: int, batch: RolloutBatch, work: Work, log: StepLog) -> RolloutBatch:
        """Old log-probabilities where they are needed before the update, and the reference's where KL is used.

        A penalty in the reward needs them too; an exact engine has already said them. Any other engine is held
        against the trainer every step, also in those in which a critic of its own alone is trained.
        """
        spec, models = self.spec, self.models
        critic_alone = self.updater.warming_up(number) and models.critic is not None and not models.critic.shared
        old = ref = None
        if spec.update.several or (not self.engine_is_exact and (spec.kl.placement == "reward" or critic_alone)):
            old = self._scored("logprobs", batch, work, lambda part: policy_logprobs(models.policy, part))
            log.add("rollout/engine_logprob_gap", logprob_gap(old, batch))
        if models.reference is not None:
            reference = models.reference
            ref = self._scored("reference", batch, work, lambda part: policy_logprobs(reference, part))
        return replace(batch, old_logprobs=old, ref_logprobs=ref)

    @torch.no_grad()
    def _assign_credit(self, batch: RolloutBatch, work: Work, log: StepLog) -> Credit:
        values = None
        critic = self.models.critic
        if self.updater.one_pass_critic:
            values = self.updater.values_and_critic_update(batch, work, log)
        elif critic is not None:
            values = self._scored("values", batch, work, critic.values, logits=False) * batch.mask
        credit = self.algorithm.assign_credit(batch, values)
        if values is not None and credit.returns is not None:
            explained = explained_variance(values, credit.returns, batch.mask)
            if explained is not None:
                log.add("critic/explained_variance", explained)
        return credit

    def _scored(
        self, phase: str, batch: RolloutBatch, work: Work, score: Callable[[RolloutBatch], Tensor], *,
        logits: bool = True,
    ) -> Tensor:  # fmt: skip
        """`score` over micro-batches, put back in place: [B, T], 0 where no sequence reaches."""
        whole, parts = torch.zeros_like(batch.mask), []
        everything = torch.arange(batch.size, device=batch.mask.device)
        with self.meter.phase(phase):
            for rows in micro_batches(batch, everything, tokens=self.spec.update.micro_batch_tokens):
                part = batch.select(rows)
                whole[rows, : part.mask.shape[1]] = score(part)
                parts.append(part)
        self.updater.count(phase, work, parts, logits=logits, backward=False)
        return whole


def policy_logprobs(policy: Policy, batch: RolloutBatch) -> Tensor:
    logprobs = policy.forward(batch).logprobs
    assert logprobs is not None
    return logprobs


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
