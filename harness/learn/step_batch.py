"""A step's batch, cut once: the micro-batches that its passes walk, what losses are divided by, and the shapes of its
forwards.

Passes over all sequences (scoring, values) walk `StepBatch.whole`; updates walk the minibatches. A cut is row numbers:
the tensors of a micro-batch are gathered where it is run, so that the batch is not held twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from algorithms.base import Credit, RolloutBatch
from algorithms.losses import aggregate_count
from harness.config.tables import UpdateTable
from harness.learn.batching import micro_batches, minibatches
from harness.measure.flops import Shape, Work, packed_forward


class MicroBatch(NamedTuple):
    """Rows that one forward runs together, and the shape of that forward as it is run."""

    rows: Tensor
    forward: Shape


@dataclass(frozen=True)
class Minibatch:
    """The sequences that one update learns from.

    divisor: the aggregation's count over them, which sums of losses are divided by; 0 where none is in the loss.
    share: of the step's sequences.
    """

    micro_batches: tuple[MicroBatch, ...]
    divisor: float
    share: float

    @classmethod
    def of(cls, batch: RolloutBatch, rows: Tensor, update: UpdateTable) -> Minibatch:
        parts = micro_batches(batch, rows, tokens=update.micro_batch_tokens)
        run = tuple(MicroBatch(part, packed_forward(batch.select(part))) for part in parts)
        divisor = float(aggregate_count(batch.loss_mask[rows], mode=update.aggregation))
        return cls(run, divisor, len(rows) / batch.size)


@dataclass(frozen=True)
class StepBatch:
    """A step's rollouts and how they are cut.

    number: the step's, from 1. work: response tokens and one forward as the method asks for them, however they are cut.
    whole: all sequences. epochs: the minibatches of each epoch.
    """

    number: int
    batch: RolloutBatch
    work: Work
    whole: Minibatch
    epochs: tuple[tuple[Minibatch, ...], ...]

    @classmethod
    def of(cls, batch: RolloutBatch, update: UpdateTable, *, number: int, key: Sequence[object]) -> StepBatch:
        """key: what the minibatches' shuffling depends on beside the step and the epoch."""
        whole = Minibatch.of(batch, torch.arange(batch.size, device=batch.mask.device), update)

        def epoch(index: int) -> tuple[Minibatch, ...]:
            if update.minibatches == 1:
                return (whole,)
            parts = minibatches(batch, update.minibatches, key=(*key, number, index))
            return tuple(Minibatch.of(batch, rows, update) for rows in parts)

        epochs = tuple(epoch(index) for index in range(update.epochs))
        return cls(number, batch, Work.of(batch), whole, epochs)

    def with_logprobs(self, old: Tensor | None, reference: Tensor | None) -> StepBatch:
        """The same cut of the batch with its log-probabilities [B, T] under two policies."""
        return replace(self, batch=replace(self.batch, old_logprobs=old, ref_logprobs=reference))

    def updates(self) -> Iterator[Minibatch]:
        """The minibatches of all epochs, in their order, without those that have nothing in the loss."""
        return (minibatch for epoch in self.epochs for minibatch in epoch if minibatch.divisor)

    def parts(self, minibatch: Minibatch, credit: Credit) -> Iterator[tuple[RolloutBatch, Credit]]:
        """The micro-batches' sequences with their credit."""
        for rows, _ in minibatch.micro_batches:
            part = self.batch.select(rows)
            yield part, credit.select(rows, part.mask.shape[1])
