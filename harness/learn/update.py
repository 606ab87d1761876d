"""The gradient side of a step: minibatches, micro-batches, backward, clip, optimizer.

Losses come as sums and are divided once by the minibatch's global count, so micro-batches change nothing. A critic
of its own is updated in a pass of its own: the activations of the two are never held at once. Where it sees a rollout
once, that pass also makes the values that the advantages are formed with.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from algorithms.base import Algorithm, Credit, PolicyOutputs, RolloutBatch
from algorithms.losses import aggregate_count
from harness.config.tables import RunSpec
from harness.learn.batching import micro_batches, minibatches
from harness.learn.optimizer import StepLog, Trainee
from harness.measure.flops import ForwardCost, Work, packed_forward
from harness.measure.memory_tracker import labelled
from harness.measure.meter import Meter
from harness.model.critic import Critic
from harness.model.lm_head import kept_for_backward
from harness.model.policy import Policy


class Updater:
    """Updates a policy, and its critic if it has one, from a step's batch and credit."""

    def __init__(
        self, spec: RunSpec, seed: int, algorithm: Algorithm, policy: Policy, critic: Critic | None, meter: Meter
    ) -> None:
        self.spec, self.seed, self.algorithm = spec, seed, algorithm
        self.policy, self.critic, self.meter = policy, critic, meter
        self.words = policy.head.weight.shape[0]
        self.cost = ForwardCost.of(policy.backbone, self.words, checkpointed=spec.update.gradient_checkpointing)
        self.policy_trainee = Trainee(
            "policy", list(policy.model.parameters()), spec,
            lr=spec.update.learning_rate, max_grad_norm=spec.update.max_grad_norm,
        )  # fmt: skip
        self.critic_trainee = None
        if critic is not None:
            self.critic_trainee = Trainee(
                "critic", critic.parameters, spec, lr=spec.critic.learning_rate, max_grad_norm=spec.critic.max_grad_norm
            )

    @property
    def trainees(self) -> list[Trainee]:
        return [trainee for trainee in (self.policy_trainee, self.critic_trainee) if trainee is not None]

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Updates inside do all their work but the last: no weight moves."""
        for trainee in self.trainees:
            trainee.frozen = True
        try:
            yield
        finally:
            for trainee in self.trainees:
                trainee.frozen = False

    @property
    def one_pass_critic(self) -> bool:
        """A critic of its own that sees each rollout once: one forward gives its values and their gradient."""
        return not self.spec.update.several and self.critic is not None and not self.critic.shared

    def warming_up(self, step: int) -> bool:
        """Only the critic learns in this step."""
        return self.critic is not None and step <= self.spec.critic.warmup_steps

    def values_and_critic_update(self, batch: RolloutBatch, work: Work, log: StepLog) -> Tensor:
        """Values [B, T] of the critic as it was, while it is updated from them.

        A sequence's returns follow from its own rewards and values, so each micro-batch has its own.
        """
        assert self.critic is not None
        assert self.critic_trainee is not None
        count = float(aggregate_count(batch.loss_mask, mode=self.spec.update.aggregation))
        values_BT, loss, parts = torch.zeros_like(batch.mask), 0.0, []
        everything = torch.arange(batch.size, device=batch.mask.device)
        with self.meter.phase("critic_update"):
            for rows in micro_batches(batch, everything, tokens=self.spec.update.micro_batch_tokens):
                part = batch.select(rows)
                parts.append(part)
                with torch.set_grad_enabled(count > 0):
                    values = self.critic.values(part)
                    values_BT[rows, : part.mask.shape[1]] = values.detach()
                    if count > 0:
                        credit = self.algorithm.assign_credit(part, values.detach())
                        loss += self._value_backward(values, part, credit, count, log)
            if count > 0:
                self.critic_trainee.step(loss, log)
        self.count("critic_update", work, parts, logits=False, backward=count > 0)
        return values_BT

    def update(
        self, step: int, batch: RolloutBatch, credit: Credit, work: Work, log: StepLog, *, critic_is_done: bool = False
    ) -> None:
        """All epochs and minibatches of a step. critic_is_done: it has learnt from this rollout already."""
        spec, critic = self.spec, self.critic
        warming_up = self.warming_up(step)
        for epoch in range(spec.update.epochs):
            key = (spec.suite.name, self.seed, step, epoch)
            for rows in minibatches(batch, spec.update.minibatches, key=key):
                count = float(aggregate_count(batch.loss_mask[rows], mode=spec.update.aggregation))
                if count == 0:
                    continue
                share = len(rows) / batch.size
                parts = list(self.parts(batch, credit, rows))
                run = [part for part, _ in parts]
                if critic is not None and critic.shared:
                    self._update_shared(parts, count, warming_up, log)
                    # A warm-up goes back through the critic's head alone.
                    self.count("policy_update", work, run, logits=True, backward=not warming_up, share=share)
                    continue
                if not warming_up:
                    self._update_policy(parts, count, log)
                    self.count("policy_update", work, run, logits=True, backward=True, share=share)
                if critic is not None and not critic_is_done:
                    self._update_critic(parts, count, log)
                    self.count("critic_update", work, run, logits=False, backward=True, share=share)

    def parts(self, batch: RolloutBatch, credit: Credit, rows: Tensor) -> Iterator[tuple[RolloutBatch, Credit]]:
        for part_rows in micro_batches(batch, rows, tokens=self.spec.update.micro_batch_tokens):
            part = batch.select(part_rows)
            yield part, credit.select(part_rows, part.mask.shape[1])

    def _update_policy(self, parts: list[tuple[RolloutBatch, Credit]], count: float, log: StepLog) -> None:
        with self.meter.phase("policy_update"):
            loss = 0.0
            for batch, credit in parts:
                outputs = self.policy.forward(batch)
                terms = self.algorithm.loss(outputs, batch, credit)
                loss += self._backward(terms.policy, count)
                log.merge(terms)
                note_gap(outputs, batch, log)
            self.policy_trainee.step(loss, log)

    def _update_critic(self, parts: list[tuple[RolloutBatch, Credit]], count: float, log: StepLog) -> None:
        assert self.critic is not None
        assert self.critic_trainee is not None
        with self.meter.phase("critic_update"):
            loss = 0.0
            for batch, credit in parts:
                loss += self._value_backward(self.critic.values(batch), batch, credit, count, log)
            self.critic_trainee.step(loss, log)

    def _value_backward(self, values: Tensor, batch: RolloutBatch, credit: Credit, count: float, log: StepLog) -> float:
        terms = self.algorithm.loss(PolicyOutputs(values=values), batch, credit)
        log.merge(terms)
        return self._backward(terms.value, count)

    def _update_shared(
        self, parts: list[tuple[RolloutBatch, Credit]], count: float, warming_up: bool, log: StepLog
    ) -> None:
        """One forward serves both losses. While the critic warms up, only its head learns."""
        assert self.critic_trainee is not None
        weight = self.spec.critic.loss_coefficient
        with self.meter.phase("policy_update"):
            policy_loss = value_loss = 0.0
            for batch, credit in parts:
                outputs = self.policy.forward(batch, self.critic, trunk_gradient=not warming_up)
                terms = self.algorithm.loss(outputs, batch, credit)
                assert terms.policy is not None
                assert terms.value is not None
                total = terms.value * weight if warming_up else terms.policy + terms.value * weight
                self._backward(total, count)
                policy_loss += float(terms.policy.detach()) / count
                value_loss += float(terms.value.detach()) / count
                log.merge(terms)
                note_gap(outputs, batch, log)
            if not warming_up:
                self.policy_trainee.step(policy_loss, log)
            self.critic_trainee.step(value_loss, log)

    def _backward(self, total: Tensor | None, count: float) -> float:
        assert total is not None
        loss = total / count
        with labelled("temporaries"):
            loss.backward()
        return float(total.detach()) / count

    def count(
        self, phase: str, work: Work, parts: Sequence[RolloutBatch], *, logits: bool, backward: bool, share: float = 1.0
    ) -> None:
        """Tell the meter of one pass over a share of a step's `work`, which was run as `parts`."""
        shape = work.asked if logits else work.asked.without_logits()
        useful = (3 if backward else 1) * self.cost.forward(shape) * share
        executed = 0.0
        for part in parts:
            run = packed_forward(part) if logits else packed_forward(part).without_logits()
            kept = kept_for_backward(int(run.logits), self.words)
            executed += self.cost.executed(run, backward=backward, logits_kept=kept)
        self.meter.count(phase, tokens=round(work.tokens * share), flops=useful, executed=executed)


def note_gap(outputs: PolicyOutputs, batch: RolloutBatch, log: StepLog) -> None:
    """The engine's log-probabilities against this forward's, where it is the first since sampling."""
    if batch.old_logprobs is None and outputs.logprobs is not None:
        log.add_max("rollout/engine_logprob_gap", logprob_gap(outputs.logprobs.detach(), batch))


def logprob_gap(trainer: Tensor, batch: RolloutBatch) -> float:
    """Largest difference between the engine's and the trainer's log-probability of a sampled token, in nats."""
    return float(((trainer - batch.engine_logprobs) * batch.mask).abs().max())
