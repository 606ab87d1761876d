"""Passes over a step's micro-batches: run in a phase, put back in place, and counted in FLOPs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from algorithms.base import RolloutBatch
from harness.config.tables import RunSpec
from harness.learn.step_batch import Minibatch, StepBatch
from harness.measure.flops import ForwardCost
from harness.measure.meter import Meter
from harness.model.lm_head import kept_for_backward
from harness.model.policy import Policy


class Passes:
    """What a policy's forwards and backwards cost, told to the meter."""

    def __init__(self, spec: RunSpec, policy: Policy, meter: Meter) -> None:
        self.meter = meter
        self.vocab_size = policy.head.weight.shape[0]
        self.cost = ForwardCost.of(policy.backbone, self.vocab_size, checkpointed=spec.update.gradient_checkpointing)

    @torch.no_grad()
    def scored(
        self, phase: str, step: StepBatch, score: Callable[[RolloutBatch], Tensor], *, logits: bool = True
    ) -> Tensor:
        """`score` of every sequence [B, T], 0 where none reaches."""
        whole = torch.zeros_like(step.batch.mask)
        with self.meter.phase(phase):
            for rows, _ in step.whole.micro_batches:
                part = step.batch.select(rows)
                whole[rows, : part.mask.shape[1]] = score(part)
        self.count(phase, step, step.whole, logits=logits, backward=False)
        return whole

    def count(self, phase: str, step: StepBatch, minibatch: Minibatch, *, logits: bool, backward: bool) -> None:
        """One pass over a minibatch.

        logits: the map to the vocabulary was run. backward: gradients were formed.
        """
        shape = step.work.asked if logits else step.work.asked.without_logits()
        useful = (3 if backward else 1) * self.cost.forward(shape) * minibatch.share
        executed = 0.0
        for _, forward in minibatch.micro_batches:
            run = forward if logits else forward.without_logits()
            kept = kept_for_backward(int(run.logits), self.vocab_size)
            executed += self.cost.executed(run, backward=backward, logits_kept=kept)
        self.meter.count(phase, tokens=round(step.work.tokens * minibatch.share), flops=useful, executed=executed)
