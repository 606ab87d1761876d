"""From hidden states over the vocabulary: log-probabilities with gradient, and tokens drawn.

The vocabulary is the widest thing in a small model: one float per token and word would be most of a step's memory.
So the map runs over a few rows at a time, and what the backward needs is kept only while it is small; beyond that
it is computed again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from harness.model.cpu_kernels import product

# A slice of rows × vocabulary, in bytes of float32.
CHUNK_BYTES = 64 * 2**20
# Probabilities up to this many bytes are kept for the backward; recomputing them costs one more forward of the map.
KEPT_BYTES = 1024 * 2**20
# Words whose probability is summed first when a token is drawn.
BLOCK = 256


def token_logprobs(
    hidden_nC: Tensor, weight_VC: Tensor, bias_V: Tensor | None, tokens_n: Tensor, *, temperature: float
) -> tuple[Tensor, Tensor]:
    """log softmax(hidden Wᵀ / temperature) at `tokens` [n], with gradient, and the entropies [n], without; nats.

    The product is made in the hidden states' type, the rest in float32.
    """
    # Types are chosen here, in the backward too, which autocast does not reach.
    with torch.autocast(hidden_nC.device.type, enabled=False):
        return _TokenLogprobs.apply(hidden_nC, weight_VC, bias_V, tokens_n, temperature)


def kept_for_backward(rows: int, words: int) -> bool:
    """Whether the backward finds the probabilities, or has to compute them again."""
    return 4 * rows * words <= KEPT_BYTES


class _TokenLogprobs(torch.autograd.Function):
    """d logprob / d logits = (onehot − p) / temperature; nothing else of the forward is needed."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, tokens: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        cast = weight.to(hidden.dtype)
        rows = max(1, CHUNK_BYTES // (4 * len(weight)))
        keep = any(ctx.needs_input_grad) and kept_for_backward(len(hidden), len(weight))
        kept, logprobs, entropies = [], [], []
        for states, picked in zip(hidden.split(rows), tokens.split(rows), strict=True):
            logits = scaled_logits(states, cast, bias, temperature)
            normaliser = logits.logsumexp(1)
            logits.sub_(normaliser[:, None])
            logprobs.append(logits.gather(1, picked[:, None])[:, 0])
            probabilities = logits.exp()
            entropies.append(-torch.linalg.vecdot(probabilities, logits))
            if keep:
                kept.append(probabilities)
        ctx.save_for_backward(hidden, weight, bias, tokens)
        ctx.kept, ctx.rows, ctx.temperature = kept, rows, temperature
        entropy = torch.cat(entropies)
        ctx.mark_non_differentiable(entropy)
        return torch.cat(logprobs), entropy

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, tokens = ctx.saved_tensors
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        cast = weight.to(hidden.dtype)
        kept, ctx.kept = ctx.kept, None
        assert kept is not None, "a second backward through the same forward"
        d_hidden = torch.empty_like(hidden) if needs_hidden else None
        d_weight = torch.zeros_like(weight) if needs_weight else None
        d_bias = torch.zeros_like(bias) if needs_bias else None
        for number, (states, picked, outer) in enumerate(
            zip(
                hidden.split(ctx.rows),
                tokens.split(ctx.rows),
                (gradient / ctx.temperature).split(ctx.rows),
                strict=True,
            )
        ):
            if kept:
                d_logits = kept[number]
                kept[number] = None
            else:
                d_logits = scaled_logits(states, cast, bias, ctx.temperature).softmax(1)
            d_logits.mul_(-outer[:, None]).scatter_add_(1, picked[:, None], outer[:, None])
            start = number * ctx.rows
            typed = d_logits.to(hidden.dtype)
            if d_hidden is not None:
                d_hidden[start : start + len(states)] = product(typed, cast.T)
            if d_weight is not None:
                if typed.dtype == d_weight.dtype:
                    d_weight.addmm_(typed.T, states)
                else:
                    d_weight += typed.T @ states
            if d_bias is not None:
                d_bias += d_logits.sum(0)
        return d_hidden, d_weight, d_bias, None, None


def scaled_logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float) -> Tensor:
    logits = product(hidden, weight, None if bias is None else bias.to(hidden.dtype)).float()
    return logits if temperature == 1 else logits.div_(temperature)


def draw(logits_BV: Tensor, uniform_B: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Tokens [B] at the inverse of the cumulative distribution, and their log-probabilities [B], at the temperature.

    temperature 0 is the most likely token, with log-probabilities at 1. The uniforms are float64. Probabilities are
    summed in blocks, in double, so that the last word's share of a large vocabulary is not lost to rounding.
    """
    logits = logits_BV.float()
    if temperature not in (0, 1):
        logits = logits / temperature
    shift_B1 = logits.amax(1, keepdim=True)
    weights_BV = (logits - shift_B1).exp_()
    tokens_B1 = logits.argmax(1, keepdim=True) if temperature == 0 else inverse_cdf(weights_BV, uniform_B[:, None])
    normaliser_B1 = shift_B1 + weights_BV.sum(1, keepdim=True).log()
    return tokens_B1[:, 0], (logits.gather(1, tokens_B1) - normaliser_B1)[:, 0]


def inverse_cdf(weights_BV: Tensor, uniform_B1: Tensor) -> Tensor:
    """The first index [B, 1] at which the running sum of the weights exceeds uniform × their total."""
    size = weights_BV.shape[1]
    if size > 4 * BLOCK:
        blocks = torch.nn.functional.pad(weights_BV, (0, -size % BLOCK)).unflatten(1, (-1, BLOCK))
        sums = blocks.sum(2, dtype=torch.float64)
        upto = sums.cumsum(1)
        threshold = uniform_B1 * upto[:, -1:]
        block = torch.searchsorted(upto, threshold, right=True).clamp_(max=sums.shape[1] - 1)
        rest = threshold - upto.gather(1, block) + sums.gather(1, block)
        inside = blocks.gather(1, block[..., None].expand(-1, -1, BLOCK))[:, 0].double().cumsum(1)
        index = block * BLOCK + torch.searchsorted(inside, rest, right=True).clamp_(max=BLOCK - 1)
    else:
        upto = weights_BV.double().cumsum(1)
        index = torch.searchsorted(upto, uniform_B1 * upto[:, -1:], right=True)
    return index.clamp_(max=size - 1)
