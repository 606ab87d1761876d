"""Tensors of a step, and the algorithm as a value.

Shape legend: N distinct prompts, B sequences (completions), P prompt positions, T response positions.
Prompts are padded on the left and responses on the right, so the last prompt position and the first response
position are always real tokens and stand next to each other. Each distinct prompt is held once; `prompt_of`
says which prompt a sequence answers, and numbers the group as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class Mean:
    """A mean that carries its count, so that means of parts combine into the mean of the whole."""

    total: float
    count: float

    def __add__(self, other: Mean) -> Mean:
        return Mean(self.total + other.total, self.count + other.count)

    @property
    def value(self) -> float | None:
        return self.total / self.count if self.count else None


@dataclass(frozen=True)
class RolloutBatch:
    """A step's rollouts.

    prompt_ids, prompt_mask: [N, P], left-padded.
    prompt_of: [B] row of `prompt_ids` each sequence answers; the group id.
    response_ids: [B, T], right-padded. mask: [B, T], 1 on response tokens, from true lengths.
    loss_mask: `mask` less the sequences that the truncation rule leaves out of the loss.
    scores: [B] the verifier's reward.
    engine_logprobs: [B, T] of the sampled tokens, as the engine that sampled them says.
    old_logprobs: [B, T] under the policy that sampled, as the trainer computes them, or None where each rollout
        feeds a single update: the update's own log-probabilities are then the old ones and the ratio is exactly 1.
    ref_logprobs: [B, T] under the frozen reference, or None where nothing asks for it.
    greedy_scores: [N] the verifier's reward of each prompt's greedy completion, or None where no algorithm asks for it.
    """

    prompt_ids: Tensor
    prompt_mask: Tensor
    prompt_of: Tensor
    response_ids: Tensor
    mask: Tensor
    loss_mask: Tensor
    scores: Tensor
    engine_logprobs: Tensor
    old_logprobs: Tensor | None = None
    ref_logprobs: Tensor | None = None
    greedy_scores: Tensor | None = None

    @property
    def size(self) -> int:
        return self.response_ids.shape[0]

    @property
    def prompt_lengths_B(self) -> Tensor:
        return self.prompt_mask.sum(1)[self.prompt_of]

    def select(self, rows: Tensor) -> RolloutBatch:
        """The sequences `rows` [b], with only the prompts they answer and no columns that are all padding."""
        prompts, prompt_of = torch.unique(self.prompt_of[rows], return_inverse=True)
        width = int(self.prompt_mask[prompts].sum(1).max())
        length = int(self.mask[rows].sum(1).max())
        kept = {
            "prompt_ids": self.prompt_ids[prompts, -width:],
            "prompt_mask": self.prompt_mask[prompts, -width:],
            "prompt_of": prompt_of,
            "scores": self.scores[rows],
            "greedy_scores": None if self.greedy_scores is None else self.greedy_scores[prompts],
        }
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name not in kept:
                kept[field.name] = None if value is None else value[rows, :length]
        return RolloutBatch(**kept)


class PolicyOutputs(NamedTuple):
    """What one forward made: log-probabilities and entropy at the sampling temperature, or values, or both.

    All [B, T], in nats. values[b, t] is the value of the state before token t. A critic of its own is run apart
    from the policy, so that the activations of the two are never held at once; a shared trunk makes both.
    """

    logprobs: Tensor | None = None
    entropy: Tensor | None = None
    values: Tensor | None = None


@dataclass(frozen=True)
class Credit:
    """Advantages [B, T]; for algorithms with a critic also returns and the values they were formed with."""

    advantages: Tensor
    returns: Tensor | None = None
    old_values: Tensor | None = None

    def select(self, rows: Tensor, length: int) -> Credit:
        def cut(x: Tensor | None) -> Tensor | None:
            return None if x is None else x[rows, :length]

        return Credit(self.advantages[rows, :length], cut(self.returns), cut(self.old_values))


class LossTerms(NamedTuple):
    """Sums over a micro-batch, not yet divided: the loop divides once, by the step's global count.

    policy, value: scalars with gradient, None where the forward did not make what they need.
    metrics: means of parts.
    """

    policy: Tensor | None
    value: Tensor | None
    metrics: Mapping[str, Mean]


class Algorithm(NamedTuple):
    """What the loop is handed.

    assign_credit: a step's rollouts, and the critic's values [B, T] where there is one. Where the critic learns in the
        pass that makes its values, it is also asked for micro-batches, each sequence's returns being its own.
    loss: sums over a micro-batch.
    needs_greedy: one greedy completion of each prompt, charged and not trained on; its reward is in
        `RolloutBatch.greedy_scores`.
    keep: which groups are trained on, a boolean for each prompt [N] of rollouts without log-probabilities but the
        engine's. The loop samples on with further prompts, all of them charged, until the step has its number of
        groups, or as many rounds as it allows have been sampled.
    """

    name: str
    needs_critic: bool
    assign_credit: Callable[[RolloutBatch, Tensor | None], Credit]
    loss: Callable[[PolicyOutputs, RolloutBatch, Credit], LossTerms]
    needs_greedy: bool = False
    keep: Callable[[RolloutBatch], Tensor] | None = None
