"""FLOPs of a step from shapes: what the algorithm asks for, and what was run for it.

A multiply-add counts as two. Per token: two per weight of every linear map; per pair of a query and a key, attention's
two products; the vocabulary map only where logits are made. Backward costs twice the forward. Norms, activations and
the optimizer are left out (under 1 % at these widths).

*Useful* is the least that the method needs: each distinct prompt once a step, causal pairs alone, nothing computed
twice. It depends on the rollouts only, not on how they are batched, so it is what a budget counts and what utilisation
is formed with. *Executed* is what the code ran: attention on padded rectangles, prompts again in every micro-batch
that needs them, and what the backward computes anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import nn

from algorithms.base import RolloutBatch


class Shape(NamedTuple):
    """What forwards are made of: `tokens` through the linear maps, `pairs` of query and key, rows of `logits`."""

    tokens: float = 0.0
    pairs: float = 0.0
    logits: float = 0.0

    def plus(self, other: Shape) -> Shape:
        return Shape(self.tokens + other.tokens, self.pairs + other.pairs, self.logits + other.logits)

    def without_logits(self) -> Shape:
        return self._replace(logits=0.0)


def causal(tokens: int, *, context: int = 0) -> Shape:
    """`tokens` run behind `context` cached ones."""
    return Shape(tokens, tokens * context + tokens * (tokens + 1) / 2)


def asked(prompt_lengths: Sequence[int], responses: Iterable[tuple[int, int]]) -> Shape:
    """One forward over prompts, once each, and (prompt row, length) completions, with their tokens' logits.

    The state before a completion's last token is the last one needed, so that token is not run.
    """
    total = Shape()
    for length in prompt_lengths:
        total = total.plus(causal(length))
    for row, length in responses:
        total = total.plus(causal(length - 1, context=prompt_lengths[row])).plus(Shape(logits=length))
    return total


def packed(prompt_lengths: Sequence[int], lengths: Sequence[int] = ()) -> Shape:
    """The same forward as `harness.model.attention.Packed` runs it: linear on real tokens, attention on rectangles."""
    behind = [length - 1 for length in lengths]
    width, longest = max(prompt_lengths), max(behind, default=0)
    pairs = len(prompt_lengths) * width**2 + len(behind) * longest * (width + longest)
    return Shape(sum(prompt_lengths) + sum(behind), pairs, sum(lengths))


@dataclass(frozen=True)
class Work:
    """A step's response tokens, and one forward over its batch as asked for."""

    tokens: int
    asked: Shape

    @classmethod
    def of(cls, batch: RolloutBatch) -> Work:
        prompts, lengths = token_counts(batch)
        return cls(sum(lengths), asked(prompts, zip(batch.prompt_of.tolist(), lengths, strict=True)))


def packed_forward(batch: RolloutBatch) -> Shape:
    """One forward over a batch, as it is run."""
    return packed(*token_counts(batch))


def token_counts(batch: RolloutBatch) -> tuple[list[int], list[int]]:
    """Tokens of each distinct prompt, and of each completion."""
    return batch.prompt_mask.sum(1).tolist(), batch.mask.sum(1).long().tolist()


@dataclass(frozen=True)
class ForwardCost:
    """FLOPs of a forward: `linear` per token, `attention` per pair, `head` per row of logits.

    checkpointed: each backward runs the layers again.
    """

    linear: float
    attention: float
    head: float
    checkpointed: bool = False

    @classmethod
    def of(cls, backbone: Any, vocabulary: int, *, checkpointed: bool = False) -> ForwardCost:
        config = backbone.config
        weights = sum(m.weight.numel() for m in backbone.modules() if isinstance(m, nn.Linear))
        heads = config.num_attention_heads
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
        attention = 4.0 * heads * head_dim * config.num_hidden_layers
        return cls(2.0 * weights, attention, 2.0 * config.hidden_size * vocabulary, checkpointed)

    def forward(self, shape: Shape) -> float:
        return shape.tokens * self.linear + shape.pairs * self.attention + shape.logits * self.head

    def executed(self, shape: Shape, *, backward: bool, logits_kept: bool = True) -> float:
        """A forward over one micro-batch, and its backward with all that it computes a second time.

        Fused attention forms its scores again, one of its forward's two products.
        """
        if not backward:
            return self.forward(shape)
        anew = shape.pairs * self.attention / 2
        if self.checkpointed:
            anew += self.forward(shape.without_logits())
        if not logits_kept:
            anew += shape.logits * self.head
        return 3 * self.forward(shape) + anew
