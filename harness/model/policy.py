"""The policy and its frozen reference: log-probabilities and entropy of response tokens.

Every forward is packed (see `harness.model.attention`): each distinct prompt is run once for all its completions, and
padding is never run. The numbers are those of a forward over the whole sequences (the tests hold the two against
each other). Logits are made for response positions only.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from algorithms.base import PolicyOutputs, RolloutBatch
from harness.config.tables import ModelTable
from harness.measure.memory_tracker import labelled
from harness.model import cpu_kernels
from harness.model.attention import IMPLEMENTATION, Layout, register
from harness.model.lm_head import token_logprobs
from harness.model.loading import device, load_model
from harness.model.packed import hidden_states, response_states, unpacked
from harness.model.weights import DTYPES, checkpoint_layers, state_sha256
from reports.record.errors import UserError
from suites.task import Prompt


class ValueHead(Protocol):
    """A critic that is a head on the policy's trunk."""

    def head_values(self, states_nC: Tensor, batch: RolloutBatch) -> Tensor:
        """Values [B, T] from the trunk's states of response tokens, 0 where the mask is 0."""


class Policy:
    """A causal language model with its tokenizer. Weights are float32; `dtype` is what forwards compute in."""

    def __init__(self, model: Any, tokenizer: Any, *, dtype: str = "float32", temperature: float = 1.0) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.temperature = temperature
        self.dtype = DTYPES[dtype]
        register()
        model.set_attn_implementation(IMPLEMENTATION)
        if cpu_kernels.available(self.device, self.dtype):
            cpu_kernels.adopt(model)
        self.backbone: Any = model.base_model
        self.head: Any = model.get_output_embeddings()
        ids = model.generation_config.eos_token_id
        self.eos_ids = {tokenizer.eos_token_id, *(ids if isinstance(ids, list) else [ids])} - {None}
        self.pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id

    @classmethod
    def load(
        cls, table: ModelTable, *, temperature: float, gradient_checkpointing: bool = False, cached: bool = False
    ) -> Policy:  # fmt: skip
        cpu_kernels.bound_caches()
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
        self, batch: RolloutBatch, critic: ValueHead | None = None, *, trunk_gradient: bool = True
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
