"""The policy, its frozen reference and its critic: log-probabilities, entropy and values of response tokens.

Every forward shares prompts: each distinct prompt is run once and its key-value cache, under autograd, serves all
its completions; only the completions are run per sample. The numbers are those of a forward over the whole
sequences (the tests hold the two against each other). Logits are made for response positions only.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from harness.batch import PolicyOutputs, RolloutBatch
from harness.models import load_model
from harness.spec import CriticTable, ModelTable
from harness.types import Prompt, UserError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Policy:
    """A causal language model with its tokenizer. Weights are float32; `dtype` is what forwards compute in."""

    def __init__(self, model: Any, tokenizer: Any, *, dtype: str = "float32", temperature: float = 1.0) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.temperature = temperature
        self.dtype = DTYPES[dtype]
        self.backbone: Any = model.base_model
        self.head: Any = model.get_output_embeddings()
        ids = model.generation_config.eos_token_id
        self.eos_ids = {tokenizer.eos_token_id, *(ids if isinstance(ids, list) else [ids])} - {None}
        self.pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id

    @classmethod
    def load(cls, table: ModelTable, *, temperature: float) -> Policy:
        model, tokenizer = load_model(table.name)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return cls(model.to(device), tokenizer, dtype=table.dtype, temperature=temperature)

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

    def hidden(self, ids: Tensor, mask: Tensor, position_ids: Tensor, cache: Any) -> Tensor:
        """Last hidden states [B, T, H] of `ids` behind `cache`; the mask covers cache and ids."""
        return self.backbone(
            input_ids=ids, attention_mask=mask, position_ids=position_ids, past_key_values=cache, use_cache=True
        ).last_hidden_state

    def logits(self, hidden: Tensor) -> Tensor:
        return self.head(hidden)

    def response_hidden(self, batch: RolloutBatch) -> Tensor:
        """Hidden states that predict each response token, [B, T, H]: the state before token t stands at t."""
        return response_hidden(self.backbone, batch)

    def token_stats(self, hidden_BTH: Tensor, batch: RolloutBatch) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies [B, T] at the sampling temperature, 0 where the mask is 0."""
        where = batch.mask.bool()
        logits = self.logits(hidden_BTH[where]).float() / self.temperature
        logprobs_all = torch.log_softmax(logits, dim=-1)
        picked = logprobs_all.gather(1, batch.response_ids[where][:, None])[:, 0]
        with torch.no_grad():
            entropy = -(logprobs_all.exp() * logprobs_all).sum(-1)
        shape = batch.mask.shape
        # index_put on a fresh tensor: differentiable, and deterministic since every position is written once.
        scatter = [torch.zeros(shape, device=x.device).masked_scatter(where, x) for x in (picked, entropy)]
        return scatter[0], scatter[1]

    def forward(
        self, batch: RolloutBatch, critic: Critic | None = None, *, trunk_gradient: bool = True
    ) -> PolicyOutputs:
        """Log-probabilities and entropy; with a critic on this trunk also values, from the same forward."""
        with self.autocast():
            hidden = self.response_hidden(batch)
            logprobs, entropy = self.token_stats(hidden, batch)
            values = None
            if critic is not None:
                values = critic.head_values(hidden if trunk_gradient else hidden.detach())
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
        self.trunk: nn.Module | None = None if self.shared else copy.deepcopy(policy.backbone)
        self.head = nn.Linear(policy.hidden_size, 1, device=policy.device)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What the critic's own optimizer steps: a shared trunk belongs to the policy's."""
        return [*(self.trunk.parameters() if self.trunk is not None else ()), *self.head.parameters()]

    def head_values(self, hidden_BTH: Tensor) -> Tensor:
        return self.head(hidden_BTH)[..., 0].float()

    def values(self, batch: RolloutBatch) -> Tensor:
        """[B, T]; values under a 0 mask are whatever came out, and never read."""
        with self.policy.autocast():
            trunk = self.policy.backbone if self.trunk is None else self.trunk
            return self.head_values(response_hidden(trunk, batch))


def response_hidden(backbone: Any, batch: RolloutBatch) -> Tensor:
    """[B, T, H] by shared prompts: the prompts once, then the completions on copies of their cache."""
    prompt_positions = (batch.prompt_mask.cumsum(1) - 1).clamp(min=0)
    cache: Any = DynamicCache(config=backbone.config)
    prompt_hidden = backbone(
        input_ids=batch.prompt_ids, attention_mask=batch.prompt_mask, position_ids=prompt_positions,
        past_key_values=cache, use_cache=True,
    ).last_hidden_state[:, -1:][batch.prompt_of]  # fmt: skip
    # The state before the last response token is the last one needed.
    inputs = batch.response_ids[:, :-1]
    if inputs.shape[1] == 0:
        return prompt_hidden
    cache.batch_select_indices(batch.prompt_of)
    length = torch.arange(inputs.shape[1], device=inputs.device)
    hidden = backbone(
        input_ids=inputs,
        attention_mask=torch.cat([batch.prompt_mask[batch.prompt_of], batch.mask[:, :-1].long()], dim=1),
        position_ids=batch.prompt_lengths_B[:, None] + length,
        past_key_values=cache, use_cache=True,
    ).last_hidden_state  # fmt: skip
    return torch.cat([prompt_hidden, hidden], dim=1)


def state_sha256(model: nn.Module) -> str:
    """A hash of every weight's name, type, shape and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
