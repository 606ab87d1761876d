"""Hidden states of packed sequences, and their way back into [B, T]."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from algorithms.base import RolloutBatch
from harness.model.attention import Layout, Packed


def hidden_states(backbone: Any, ids: Tensor, layout: Layout) -> Tensor:
    """Last hidden states [L, C] of packed tokens `ids` [L]."""
    return backbone(
        input_ids=ids[None], position_ids=layout.position_ids, use_cache=False, layout=layout
    ).last_hidden_state[0]


def response_states(backbone: Any, batch: RolloutBatch) -> Tensor:
    """The hidden state that predicts each response token, [n, C]: row by row, as the batch's mask picks them.

    One forward over prompts, once each, and completions; the state before a response's last token is the last one
    needed, so that token is not run.
    """
    lengths = batch.mask.sum(1).long()
    prompt_lengths = batch.prompt_mask.sum(1)
    layout = Packed(prompt_lengths, lengths - 1, batch.prompt_of)
    ids = torch.cat([batch.prompt_ids[batch.prompt_mask.bool()], batch.response_ids[:, :-1][batch.mask[:, 1:].bool()]])
    hidden = hidden_states(backbone, ids, layout)
    prompt_ends = prompt_lengths.cumsum(0) - 1
    starts = layout.prompts.total + (lengths - 1).cumsum(0) - (lengths - 1)
    behind = starts[:, None] + torch.arange(batch.mask.shape[1] - 1, device=ids.device)
    at = torch.cat([prompt_ends[batch.prompt_of][:, None], behind], dim=1)
    return hidden.index_select(0, at[batch.mask.bool()])


def unpacked(x_n: Tensor, batch: RolloutBatch) -> Tensor:
    """[n] of response tokens → [B, T], 0 where the mask is 0."""
    return torch.zeros(batch.mask.shape, device=x_n.device).masked_scatter(batch.mask.bool(), x_n)
