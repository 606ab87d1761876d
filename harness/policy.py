"""The policy, its frozen reference and its critic: log-probabilities, entropy and values of response tokens.

Every forward is packed (see `harness.attention`): each distinct prompt is run once for all its completions, and
padding is never run. The numbers are those of a forward over the whole sequences (the tests hold the two against
each other). Logits are made for response positions only.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from harness import kernels
from harness.attention import IMPLEMENTATION, Layout, Packed
from harness.batch import PolicyOutputs, RolloutBatch
from harness.memory import labelled
from harness.models import device, load_model
from harness.spec import CriticTable, ModelTable
from harness.types import Prompt, UserError
from harness.vocabulary import token_logprobs

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Policy:
    """A causal language model with its tokenizer. Weights are float32; `dtype` is what forwards compute in."""

    def __init__(self, model: Any, tokenizer: Any, *, dtype: str = "float32", temperature: float = 1.0) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.temperature = temperature
        self.dtype = DTYPES[dtype]
        model.set_attn_implementation(IMPLEMENTATION)
        if kernels.available(self.device, self.dtype):
            kernels.adopt(model)
        self.backbone: Any = model.base_model
        self.head: Any = model.get_output_embeddings()
        ids = model.generation_config.eos_token_id
        self.eos_ids = {tokenizer.eos_token_id, *(ids if isinstance(ids, list) else [ids])} - {None}
        self.pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id

    @classmethod
    def load(
        cls, table: ModelTable, *, temperature: float, gradient_checkpointing: bool = False, cached: bool = False
    ) -> Policy:  # fmt: skip
        model, tokenizer = load_model(table.name, cached=cached)
        if gradient_checkpointing:
            checkpoint_layers(model)
        return cls(model.to(device()), tokenizer, dtype=table.dtype, temperature=temperature)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def hidden_size(self) -> int:
        return self.backbone.config.hidden_size

    def autocast(self) -> contextlib.AbstractContextManager:
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def frozen_copy(self) -> Policy:
        """The reference: the same weights, never trained."""
        reference = copy.copy(self)
        with labelled("reference"):
            reference.model = copy.deepcopy(self.model).requires_grad_(False)
        reference.backbone = reference.model.base_model
        reference.head = reference.model.get_output_embeddings()
        return reference

    def render(self, prompt: Prompt) -> str:
        if not prompt.chat:
            return prompt.text
        messages = [{"role": "user", "content": prompt.text}]
        return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    def encode_text(self, text: str, *, chat: bool) -> list[int]:
        """A rendered chat already has its special tokens; a second BOS would shift everything."""
        return self.tokenizer.encode(text, add_special_tokens=not chat)

    def encode(self, prompt: Prompt, *, limit: int) -> tuple[int, ...]:
        """Token ids, through the model's chat template where the prompt asks for it. Raises UserError over `limit`."""
        ids = self.encode_text(self.render(prompt), chat=prompt.chat)
        if not 0 < len(ids) <= limit:
            raise UserError(
                f"prompt {prompt.id!r} has {len(ids)} tokens; accepted: 1 to rollout.max_prompt_tokens = {limit}"
            )
        return tuple(ids)

    def decode(self, tokens: Sequence[int]) -> str:
        return self.tokenizer.decode(tokens, skip_special_tokens=True)

    def pad_prompts(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Left-padded ids and mask [N, P]; the mask comes from lengths, since padding may equal a real token."""
        width = max(map(len, prompts))
        ids = torch.full((len(prompts), width), self.pad_id)
        mask = torch.zeros(len(prompts), width, dtype=torch.long)
        for row, tokens in enumerate(prompts):
            ids[row, width - len(tokens) :] = torch.tensor(tokens)
            mask[row, width - len(tokens) :] = 1
        return ids.to(self.device), mask.to(self.device)

    def hidden(self, ids: Tensor, layout: Layout) -> Tensor:
        """Last hidden states [L, C] of packed tokens `ids` [L]."""
        return hidden_states(self.backbone, ids, layout)

    def logits(self, hidden_nC: Tensor) -> Tensor:
        return self.head(hidden_nC)

    def token_stats(self, states_nC: Tensor, batch: RolloutBatch) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies [B, T] at the sampling temperature, 0 where the mask is 0."""
        tokens = batch.response_ids[batch.mask.bool()]
        logprobs, entropies = token_logprobs(
            states_nC.to(self.dtype), self.head.weight, self.head.bias, tokens, temperature=self.temperature
        )
        return unpacked(logprobs, batch), unpacked(entropies, batch)

    def forward(
        self, batch: RolloutBatch, critic: Critic | None = None, *, trunk_gradient: bool = True
    ) -> PolicyOutputs:
        """Log-probabilities and entropy; with a critic on this trunk also values, from the same forward."""
        with self.autocast():
            states = response_states(self.backbone, batch)
            logprobs, entropy = self.token_stats(states, batch)
            values = None
            if critic is not None:
                values = critic.head_values(states if trunk_gradient else states.detach(), batch)
        return PolicyOutputs(logprobs, entropy, values)

    def weights_sha256(self) -> str:
        return state_sha256(self.model)

    def save(self, folder: Path) -> None:
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


class Critic:
    """V(state before token t). A model of its own, begun from the policy's weights, or a head on the policy's trunk.

    The head starts at zero, so that the first values are 0 and the first advantages are the rewards-to-go.
    """

    def __init__(self, policy: Policy, table: CriticTable) -> None:
        self.policy = policy
        self.shared = table.kind == "shared"
        with labelled("critic"):
            self.trunk: nn.Module | None = None if self.shared else copy.deepcopy(policy.backbone)
            self.head = nn.Linear(policy.hidden_size, 1, device=policy.device)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What the critic's own optimizer steps: a shared trunk belongs to the policy's."""
        return [*(self.trunk.parameters() if self.trunk is not None else ()), *self.head.parameters()]

    @property
    def tensors(self) -> list[Tensor]:
        """What exists because of the critic and outlives a step."""
        return [*(tensors_of(self.trunk) if self.trunk is not None else ()), *self.head.parameters()]

    def head_values(self, states_nC: Tensor, batch: RolloutBatch) -> Tensor:
        return unpacked(self.head(states_nC)[:, 0].float(), batch)

    def values(self, batch: RolloutBatch) -> Tensor:
        """[B, T], 0 where the mask is 0."""
        with self.policy.autocast():
            trunk = self.policy.backbone if self.trunk is None else self.trunk
            return self.head_values(response_states(trunk, batch), batch)


def tensors_of(model: nn.Module) -> Iterator[Tensor]:
    """Weights and buffers."""
    yield from model.parameters()
    yield from model.buffers()


def bytes_in(model: nn.Module, dtype: torch.dtype) -> int:
    """What the model's weights take in a type."""
    return torch.empty(0, dtype=dtype).element_size() * sum(weight.numel() for weight in model.parameters())


def checkpoint_layers(model: nn.Module) -> None:
    """Have each decoder layer keep its input alone for the backward, which runs the layer again: less memory, one more
    forward. Copies made of the model do the same. transformers' own switch works in training mode only, which would
    turn dropout on.
    """
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise UserError(f"update.gradient_checkpointing = true: {type(model).__name__} has no layers to checkpoint")
    for layer in layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False)


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


def state_sha256(model: nn.Module) -> str:
    """A hash of every weight's name, type, shape and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
