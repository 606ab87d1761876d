"""Attention over packed tokens, for models of transformers.

A forward here is one row [1, L] of real tokens: each distinct prompt once, the completions behind it. Linear maps
therefore never see padding and prompts are never repeated in them; only attention needs rectangles, and it makes
them from the packed rows itself. What a row of tokens means is its layout: `Packed` (training and scoring, with
gradient) or `Decoding` (sampling, one token a sequence, with a key-value store).

The function `attend` is registered with transformers under `IMPLEMENTATION`; models that route attention through
its interface hand the layout on. Shapes: L packed tokens, H query heads, K key-value heads, D head width, N prompts
of at most P tokens, B sequences of at most T tokens behind their prompts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import AttentionInterface

from harness.measure.flops import Shape
from reports.record.errors import UserError

IMPLEMENTATION = "paribus"
# Variants of attention that some models ask for and this one does not compute.
UNSUPPORTED = ("softcap", "s_aux", "position_bias")


class Layout(Protocol):
    @property
    def position_ids(self) -> Tensor:
        """[1, L]: 0 on each prompt's first token."""

    def attend(
        self, layer: int, query_LHD: Tensor, key_LKD: Tensor, value_LKD: Tensor, scaling: float, window: int | None
    ) -> Tensor:
        """Each token's attention over what it may see, [L, H, D]. window: most recent tokens seen, its own included."""


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    layout: Layout | None = None,
    sliding_window: int | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: [1, heads, L, D] in, [1, L, H, D] out."""
    if layout is None:
        raise UserError(f"model.name: {type(module).__name__} does not take packed tokens; choose another model")
    for name in UNSUPPORTED:
        if options.get(name) is not None:
            raise UserError(f"model.name: {type(module).__name__} needs attention with {name}, which is not supported")
    query, key, value = (x[0].transpose(0, 1) for x in (query, key, value))
    return layout.attend(module.layer_idx, query, key, value, scaling, sliding_window)[None], None


def register() -> None:
    """Make `attend` known to transformers, whose models then take it by name."""
    AttentionInterface.register(IMPLEMENTATION, attend)


@contextlib.contextmanager
def plain_attention(*models: Any) -> Iterator[None]:
    """For code that calls the models in transformers' own way, with rectangles and masks."""
    for model in models:
        model.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        for model in models:
            model.set_attn_implementation(IMPLEMENTATION)


def masked_attention(query: Tensor, key: Tensor, value: Tensor, visible: Tensor, scaling: float) -> Tensor:
    """softmax(q kᵀ · scaling) v, where a query sees the keys that `visible` [B, T, S] says.

    query [B, T, H, D], key and value [B, S, K, D]; → [B, T, H, D]. The H/K query heads that share a key head are
    laid behind each other as queries, so that keys are never repeated.
    """
    B, T, H, D = query.shape
    S, K = key.shape[1:3]
    groups = H // K
    folded = query.view(B, T, K, groups, D).permute(0, 2, 3, 1, 4).reshape(B, K, groups * T, D)
    mask = visible[:, None, None].expand(-1, 1, groups, T, S).reshape(-1, 1, groups * T, S)
    mixed = torch.nn.functional.scaled_dot_product_attention(
        folded, key.transpose(1, 2), value.transpose(1, 2), attn_mask=mask, scale=scaling
    )
    return mixed.view(B, K, groups, T, D).permute(0, 3, 1, 2, 4).reshape(B, T, H, D)


class Rectangle:
    """Ragged runs of packed tokens as a right-padded rectangle [rows, width], and back.

    Both ways are pure gathers, forward and backward; runs of equal length are a view.
    """

    def __init__(self, lengths: Tensor) -> None:
        self.rows, self.width = len(lengths), int(lengths.max()) if len(lengths) else 0
        self.total = int(lengths.sum())
        self.even = self.total == self.rows * self.width
        if self.even:
            return
        column = torch.arange(self.width, device=lengths.device)
        self.valid = (column < lengths[:, None]).flatten()
        starts = lengths.cumsum(0) - lengths
        # Padding reads token 0: finite, and masked wherever it could be seen.
        self.to_padded = ((starts[:, None] + column).flatten() * self.valid).contiguous()
        self.to_packed = self.valid.nonzero()[:, 0]

    def pad(self, packed: Tensor) -> Tensor:
        """[total, …] → [rows, width, …]."""
        if not self.even:
            packed = _Gather.apply(packed, self.to_padded, self.to_packed, None)
        return packed.view(self.rows, self.width, *packed.shape[1:])

    def pack(self, padded: Tensor) -> Tensor:
        """[rows, width, …] → [total, …]."""
        flat = padded.reshape(self.rows * self.width, *padded.shape[2:])
        return flat if self.even else _Gather.apply(flat, self.to_packed, self.to_padded, self.valid)


class _Gather(torch.autograd.Function):
    """x[index] whose gradient is a gather as well: `back` undoes `index`, and `kept` zeroes rows it never read."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, back: Tensor, kept: Tensor | None) -> Tensor:
        ctx.back, ctx.kept = back, kept
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        gradient = gradients[0].index_select(0, ctx.back)
        if ctx.kept is not None:
            gradient = gradient * ctx.kept.view(-1, *[1] * (gradient.dim() - 1))
        return gradient, None, None, None


class Packed:
    """Prompts [N] first, then what follows them [B]; a sequence sees its own prompt and itself, causally.

    prompt_lengths: [N]. lengths: [B], 0 allowed. prompt_of: [B].
    """

    def __init__(self, prompt_lengths: Tensor, lengths: Tensor, prompt_of: Tensor) -> None:
        self.prompts, self.sequences = Rectangle(prompt_lengths), Rectangle(lengths)
        self.prompt_lengths, self.prompt_of = prompt_lengths, prompt_of
        self._visible: dict[int | None, tuple[Tensor, Tensor]] = {}

    @property
    def position_ids(self) -> Tensor:
        device = self.prompt_lengths.device
        prompt = self.prompts.pack(torch.arange(self.prompts.width, device=device).repeat(self.prompts.rows, 1))
        if not self.sequences.total:
            return prompt[None]
        start = self.prompt_lengths[self.prompt_of]
        behind = self.sequences.pack(start[:, None] + torch.arange(self.sequences.width, device=device))
        return torch.cat([prompt, behind])[None]

    def visible(self, window: int | None) -> tuple[Tensor, Tensor]:
        """What prompts see of themselves [1, P, P], and sequences of prompt and self [B, T, P + T]."""
        if window not in self._visible:
            device = self.prompt_lengths.device
            prompt = torch.arange(self.prompts.width, device=device)
            own = torch.arange(self.sequences.width, device=device)
            start = self.prompt_lengths[self.prompt_of][:, None]
            at = (start + own)[:, :, None]
            keys = torch.cat([prompt.expand(len(start), -1), start + own], dim=1)[:, None]
            real = torch.cat([prompt < start, torch.ones_like(start + own, dtype=torch.bool)], dim=1)[:, None]
            self._visible[window] = (
                causal(prompt[None, :, None], prompt[None, None], window),
                causal(at, keys, window) & real,
            )
        return self._visible[window]

    def attend(
        self, layer: int, query_LHD: Tensor, key_LKD: Tensor, value_LKD: Tensor, scaling: float, window: int | None
    ) -> Tensor:
        visible_P, visible_T = self.visible(window)
        split = [self.prompts.total, self.sequences.total]
        query_P, query_T = query_LHD.split(split)
        keys, values = key_LKD.split(split), value_LKD.split(split)
        prompt_keys, prompt_values = self.prompts.pad(keys[0]), self.prompts.pad(values[0])
        self.keep(layer, prompt_keys, prompt_values)
        mixed = masked_attention(self.prompts.pad(query_P), prompt_keys, prompt_values, visible_P, scaling)
        prompt_part = self.prompts.pack(mixed)
        if not self.sequences.total:
            return prompt_part
        behind = masked_attention(
            self.sequences.pad(query_T),
            torch.cat([prompt_keys.index_select(0, self.prompt_of), self.sequences.pad(keys[1])], dim=1),
            torch.cat([prompt_values.index_select(0, self.prompt_of), self.sequences.pad(values[1])], dim=1),
            visible_T,
            scaling,
        )
        return torch.cat([prompt_part, self.sequences.pack(behind)])

    def keep(self, layer: int, keys_NPKD: Tensor, values_NPKD: Tensor) -> None:
        """Called with each layer's keys and values of the prompts; nothing to keep in a forward by itself."""


def causal(query_at: Tensor, key_at: Tensor, window: int | None) -> Tensor:
    seen = key_at <= query_at
    return seen if window is None else seen & (key_at > query_at - window)


class Prefill(Packed):
    """Prompts alone, whose keys and values are kept for what will be sampled behind them."""

    def __init__(self, prompt_lengths: Tensor) -> None:
        nothing = prompt_lengths.new_zeros(0)
        super().__init__(prompt_lengths, nothing, nothing)
        self.kept: dict[int, tuple[Tensor, Tensor]] = {}

    def keep(self, layer: int, keys_NPKD: Tensor, values_NPKD: Tensor) -> None:
        self.kept[layer] = (keys_NPKD, values_NPKD)


class Decoding:
    """One token a sequence, behind its prompt and what it has sampled.

    A prompt's keys are held once for all its sequences, [N, K, P, D] a layer; what was sampled lies in [B, K, room, D],
    where all sequences write the same column, so nothing is ever moved to make room. Sequences of a prompt are
    neighbours.
    """

    def __init__(self, prefill: Prefill, prompt_of: Tensor, room: int) -> None:
        assert bool((prompt_of.diff() >= 0).all())
        self.prompt_lengths, self.sampled = prefill.prompt_lengths, 0
        self.width, self.prompts_even = prefill.prompts.width, prefill.prompts.even
        self.prompt_keys: dict[int, tuple[Tensor, Tensor]] = {}
        self.own: dict[int, tuple[Tensor, Tensor]] = {}
        for layer, kept in prefill.kept.items():
            keys, values = (x.transpose(1, 2).contiguous() for x in kept)
            self.prompt_keys[layer] = (keys.transpose(2, 3), values)
            shape = (len(prompt_of), keys.shape[1], room, keys.shape[3])
            self.own[layer] = (keys.new_empty(shape), values.new_empty(shape))
        self._group(prompt_of)

    def _group(self, prompt_of: Tensor) -> None:
        self.prompt_of = prompt_of
        self.groups = Rectangle(torch.bincount(prompt_of, minlength=len(self.prompt_lengths)))
        self._hidden: dict[int | None, Tensor | None] = {}

    @property
    def position_ids(self) -> Tensor:
        return (self.prompt_lengths[self.prompt_of] + self.sampled)[None]

    def shape(self) -> Shape:
        """The next forward, a row of logits for each sequence."""
        rows = len(self.prompt_of)
        pairs = self.groups.rows * self.groups.width * self.width + rows * (self.sampled + 1)
        return Shape(rows, pairs, rows)

    def advance(self) -> None:
        """The next forward writes the next column."""
        self.sampled += 1
        self._hidden.clear()

    def select(self, rows: Tensor) -> None:
        """Go on with the sequences `rows` alone, in their order; prompts left without one are dropped."""
        for layer, (keys, values) in self.own.items():
            self.own[layer] = (self._shrunk(keys, rows), self._shrunk(values, rows))
        prompts, prompt_of = torch.unique_consecutive(self.prompt_of[rows], return_inverse=True)
        if len(prompts) < len(self.prompt_lengths):
            self.prompt_lengths = self.prompt_lengths[prompts]
            self.prompt_keys = {layer: (k[prompts], v[prompts]) for layer, (k, v) in self.prompt_keys.items()}
        self._group(prompt_of)

    def _shrunk(self, own: Tensor, rows: Tensor) -> Tensor:
        less = own.new_empty(len(rows), *own.shape[1:])
        less[:, :, : self.sampled] = own[rows, :, : self.sampled]
        return less

    def hidden(self, window: int | None) -> Tensor | None:
        """Keys out of sight, [B, 1, 1, P + sampled + 1], or None where all are seen."""
        if window not in self._hidden:
            found = None
            if not self.prompts_even or window is not None:
                device = self.prompt_lengths.device
                start = self.prompt_lengths[self.prompt_of][:, None]
                prompt = torch.arange(self.width, device=device).expand(len(start), -1)
                at = torch.cat([prompt, start + torch.arange(self.sampled + 1, device=device)], dim=1)
                real = torch.cat([prompt < start, torch.ones_like(at[:, self.width :], dtype=torch.bool)], dim=1)
                found = ~(causal(start + self.sampled, at, window) & real)[:, None, None]
            self._hidden[window] = found
        return self._hidden[window]

    def attend(
        self, layer: int, query_LHD: Tensor, key_LKD: Tensor, value_LKD: Tensor, scaling: float, window: int | None
    ) -> Tensor:
        keys, values = self.own[layer]
        keys[:, :, self.sampled], values[:, :, self.sampled] = key_LKD, value_LKD
        keys, values = keys[:, :, : self.sampled + 1], values[:, :, : self.sampled + 1]
        prompt_keys_NKDP, prompt_values_NKPD = self.prompt_keys[layer]
        B, H, D = query_LHD.shape
        K = keys.shape[1]
        query_BKgD = (query_LHD * scaling).view(B, K, H // K, D)
        scores = torch.cat([self._by_prompt(query_BKgD, prompt_keys_NKDP), query_BKgD @ keys.transpose(2, 3)], dim=3)
        hidden = self.hidden(window)
        if hidden is not None:
            scores.masked_fill_(hidden, -torch.inf)
        weights = scores.softmax(3, dtype=torch.float32).to(values.dtype)
        on_prompt, on_own = weights[..., : self.width], weights[..., self.width :]
        mixed = self._by_prompt(on_prompt, prompt_values_NKPD) + on_own @ values
        return mixed.reshape(B, H, D)

    def _by_prompt(self, rows_BKgx: Tensor, per_prompt_NKxy: Tensor) -> Tensor:
        """rows @ per_prompt[prompt_of], a prompt's sequences laid behind each other in one product: [B, K, g, y]."""
        padded = self.groups.pad(rows_BKgx)
        N, G, K, g, x = padded.shape
        product = padded.permute(0, 2, 1, 3, 4).reshape(N, K, G * g, x) @ per_prompt_NKxy
        return self.groups.pack(product.view(N, K, G, g, -1).permute(0, 2, 1, 3, 4))
