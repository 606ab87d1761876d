"""Model FLOPs of the work a step asks for, from shapes.

A multiply-add counts as two. Per token and layer: two per weight of every linear map, plus attention's two
products over the tokens it looks back on. The vocabulary map counts only where logits are made. Backward costs
twice the forward. Norms, activations and the optimizer are left out (under 1 % at these widths), and prompts count
once per distinct prompt, as they are run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class ForwardCost:
    """FLOPs of a forward: `linear` per token, `attention` per token and token of context, `head` per logit row."""

    linear: float
    attention: float
    head: float

    @classmethod
    def of(cls, backbone: Any, vocabulary: int) -> ForwardCost:
        config = backbone.config
        weights = sum(m.weight.numel() for m in backbone.modules() if isinstance(m, nn.Linear))
        heads = config.num_attention_heads
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
        attention = 4.0 * heads * head_dim * config.num_hidden_layers
        return cls(2.0 * weights, attention, 2.0 * config.hidden_size * vocabulary)

    def sequence(self, tokens: int, *, context: int = 0, logits: int = 0) -> float:
        """`tokens` run causally behind `context` cached ones, with `logits` rows of logits."""
        looked_back = tokens * context + tokens * (tokens + 1) / 2
        return tokens * self.linear + looked_back * self.attention + logits * self.head


def step_forward_flops(
    cost: ForwardCost, prompt_lengths: list[int], responses: list[tuple[int, int]], *, logits: bool
) -> float:
    """One forward over a step: prompts once, then (prompt row, response length) completions behind them."""
    total = sum(cost.sequence(length) for length in prompt_lengths)
    for row, length in responses:
        total += cost.sequence(length - 1, context=prompt_lengths[row], logits=length if logits else 0)
    return total
