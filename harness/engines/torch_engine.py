"""The sampler that shares the trainer's own weights: batched decoding with a key-value cache, in process.

Each distinct prompt is read once and its cache copied to its samples. Prompts are padded on the left, so all
sequences write at the same position; finished sequences leave the batch. A token is drawn by inverting the
cumulative distribution at one uniform number per position, taken from a counter-based generator keyed by the
request's seed: no draw depends on the batch, on its order, or on what was drawn before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from harness.engines.base import Request, Sampling
from harness.policy import Policy
from harness.spec import RunSpec
from harness.types import Completion

# Sequences leave a batch when at least this share of it is done: each time, the whole cache is copied.
LEAVE_SHARE = 0.25


def build(policy: Policy, spec: RunSpec) -> TorchEngine:
    return TorchEngine(policy, batch_size=spec.rollout.engine_batch)


class TorchEngine:
    def __init__(self, policy: Policy, *, batch_size: int) -> None:
        self.policy = policy
        self.batch_size = batch_size

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        # Neighbours of like length share a batch, which keeps padding small; results go back in request order.
        order = sorted(range(len(requests)), key=lambda i: (len(requests[i].prompt_ids), requests[i].prompt_ids, i))
        completions: list[Completion | None] = [None] * len(requests)
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            for row, completion in zip(rows, self._decode([requests[i] for i in rows], sampling), strict=True):
                completions[row] = completion
        return [completion for completion in completions if completion is not None]

    def sync(self) -> None:
        """Nothing to do: the policy samples with the weights it trains."""

    def close(self) -> None:
        pass

    @torch.no_grad()
    def _decode(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        policy = self.policy
        device, eos_ids = policy.device, torch.tensor(sorted(policy.eos_ids), device=policy.device)
        size, steps = len(requests), sampling.max_tokens
        uniforms_BT = torch.from_numpy(np.stack([uniforms(r.seed, steps) for r in requests])).to(device)
        tokens_BT = torch.zeros(size, steps, dtype=torch.long)
        logprobs_BT = torch.zeros(size, steps)
        lengths_B = torch.full((size,), steps)

        with policy.autocast():
            state = _Decoding(policy, [r.prompt_ids for r in requests])
            rows = torch.arange(size, device=device)
            for step in range(steps):
                tokens, logprobs = draw(state.logits, uniforms_BT[rows, step], sampling.temperature)
                tokens_BT[rows.cpu(), step] = tokens.cpu()
                logprobs_BT[rows.cpu(), step] = logprobs.cpu()
                going = torch.ones_like(rows, dtype=torch.bool)
                if not sampling.ignore_eos:
                    going = ~torch.isin(tokens, eos_ids)
                    # A row that has finished but not yet left draws on; only its first end counts.
                    ended = rows[~going].cpu()
                    lengths_B[ended] = torch.minimum(lengths_B[ended], torch.tensor(step + 1))
                    going &= (lengths_B[rows.cpu()] == steps).to(device)
                left = int((~going).sum())
                if left == len(rows) or step + 1 == steps:
                    break
                if left >= LEAVE_SHARE * len(rows):
                    keep = going.nonzero()[:, 0]
                    state.keep(keep)
                    rows, tokens = rows[keep], tokens[keep]
                state.advance(tokens)

        return [
            self._completion(tokens_BT[row, :length].tolist(), logprobs_BT[row, :length].tolist(), sampling)
            for row, length in enumerate(lengths_B.tolist())
        ]

    def _completion(self, tokens: list[int], logprobs: list[float], sampling: Sampling) -> Completion:
        ended = bool(tokens) and tokens[-1] in self.policy.eos_ids and not sampling.ignore_eos
        return Completion(tuple(tokens), tuple(logprobs), self.policy.decode(tokens), truncated=not ended)


class _Decoding:
    """A batch in flight: its cache, its attention mask, its next positions and its last logits [B, V]."""

    def __init__(self, policy: Policy, prompts: Sequence[tuple[int, ...]]) -> None:
        self.policy = policy
        distinct = list(dict.fromkeys(prompts))
        row_of = {ids: row for row, ids in enumerate(distinct)}
        prompt_of = torch.tensor([row_of[ids] for ids in prompts], device=policy.device)
        ids_NP, mask_NP = policy.pad_prompts(distinct)
        cache: Any = DynamicCache(config=policy.backbone.config)
        hidden = policy.hidden(ids_NP, mask_NP, positions(mask_NP), cache)[:, -1]
        cache.batch_select_indices(prompt_of)
        self.cache = cache
        self.mask = mask_NP[prompt_of]
        self.next_position = self.mask.sum(1, keepdim=True)
        self.logits = policy.logits(hidden)[prompt_of]

    def keep(self, rows: Tensor) -> None:
        self.cache.batch_select_indices(rows)
        self.mask = self.mask[rows]
        self.next_position = self.next_position[rows]

    def advance(self, tokens: Tensor) -> None:
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(tokens), 1)], dim=1)
        hidden = self.policy.hidden(tokens[:, None], self.mask, self.next_position, self.cache)
        self.next_position = self.next_position + 1
        self.logits = self.policy.logits(hidden[:, -1])


def positions(mask: Tensor) -> Tensor:
    """Position ids of left-padded rows: 0 on the first real token."""
    return (mask.cumsum(1) - 1).clamp(min=0)


def uniforms(seed: int, count: int) -> np.ndarray:
    """`count` uniform numbers in [0, 1) that depend on the seed alone (Philox, a counter-based generator)."""
    return np.random.Generator(np.random.Philox(key=seed)).random(count)


def draw(logits_BV: Tensor, uniform_B: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Tokens [B] at inverse-CDF of the uniforms, and their log-probabilities [B] at the temperature."""
    logprobs_BV = torch.log_softmax(logits_BV.float() / (temperature or 1.0), dim=-1)
    if temperature == 0:
        tokens_B = logits_BV.argmax(dim=-1)
    else:
        # In double, so that the last token's share of a large vocabulary is not lost to rounding.
        cdf_BV = logprobs_BV.double().exp().cumsum(dim=-1)
        threshold_B1 = (uniform_B * cdf_BV[:, -1])[:, None]
        tokens_B = torch.searchsorted(cdf_BV, threshold_B1, right=True)[:, 0].clamp(max=logits_BV.shape[1] - 1)
    return tokens_B, logprobs_BV.gather(1, tokens_B[:, None])[:, 0]
