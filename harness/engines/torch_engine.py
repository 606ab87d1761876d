"""The sampler that shares the trainer's own weights: batched decoding with a key-value cache, in process.

Each distinct prompt is read once, and its keys and values are held once for all its samples; finished sequences leave
the batch. A token is drawn by inverting the cumulative distribution at one uniform number per position, taken from a
counter-based generator keyed by the request's seed: no draw depends on the batch, on its order, or on what was drawn
before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from harness.config.tables import RunSpec
from harness.engines.base import Completion, EngineKind, Request, Sampling
from harness.engines.packed_linears import PackedLinears
from harness.measure.flops import Shape, packed
from harness.measure.memory_tracker import labelled
from harness.model.attention import Decoding, Prefill
from harness.model.lm_head import draw
from harness.model.policy import Policy

# Sequences leave a batch when at least this share of it is done: each time, what the others have sampled is copied.
LEAVE_SHARE = 0.25


def build(policy: Policy, spec: RunSpec) -> TorchEngine:
    return TorchEngine(policy, batch_size=spec.rollout.engine_batch)


class TorchEngine:
    exact = True

    def __init__(self, policy: Policy, *, batch_size: int) -> None:
        self.policy = policy
        self.batch_size = batch_size
        self.packed = PackedLinears()
        self.ran = Shape()

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        # Neighbours of like length share a batch, which keeps padding small; results go back in request order.
        order = sorted(range(len(requests)), key=lambda i: (len(requests[i].prompt_ids), requests[i].prompt_ids, i))
        completions: list[Completion | None] = [None] * len(requests)
        self.ran = Shape()
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            for row, completion in zip(rows, self._decode([requests[i] for i in rows], sampling), strict=True):
                completions[row] = completion
        return [completion for completion in completions if completion is not None]

    def release(self) -> None:
        self.packed.drop()

    def sync(self) -> None:
        """The policy samples with the weights it trains; only the copies of them are stale."""
        self.packed.drop()

    def held_bytes(self) -> Mapping[str, int]:
        return {}

    def close(self) -> None:
        self.packed.drop()

    @torch.no_grad()
    def _decode(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        policy = self.policy
        device, eos_ids = policy.device, torch.tensor(sorted(policy.eos_ids), device=policy.device)
        size, steps = len(requests), sampling.max_tokens
        uniforms_TB = torch.from_numpy(np.stack([uniforms(r.seed, steps) for r in requests], axis=1)).to(device)
        tokens_TB = torch.zeros(steps, size, dtype=torch.long, device=device)
        logprobs_TB = torch.zeros(steps, size, device=device)
        lengths_B = torch.full((size,), steps, device=device)
        rows = torch.arange(size, device=device)

        with labelled("engine"):
            self.packed.take(policy)
        with policy.autocast(), self.packed:
            state = _Batch(policy, [r.prompt_ids for r in requests], room=steps)
            for step in range(steps):
                tokens, logprobs = draw(state.logits, uniforms_TB[step, rows], sampling.temperature)
                tokens_TB[step, rows], logprobs_TB[step, rows] = tokens, logprobs
                if step + 1 == steps:
                    break
                if not sampling.ignore_eos:
                    # A row that has finished but not yet left draws on; only its first end counts.
                    ended = torch.isin(tokens, eos_ids)
                    lengths_B[rows] = torch.where(ended, lengths_B[rows].clamp(max=step + 1), lengths_B[rows])
                    going = (lengths_B[rows] == steps).nonzero()[:, 0]
                    if len(going) == 0:
                        break
                    if len(rows) - len(going) >= LEAVE_SHARE * len(rows):
                        state.keep(going)
                        rows, tokens = rows[going], tokens[going]
                state.advance(tokens)
            self.ran = self.ran.plus(state.ran)

        tokens_BT, logprobs_BT = tokens_TB.T.tolist(), logprobs_TB.T.tolist()
        return [
            self._completion(tokens_BT[row][:length], logprobs_BT[row][:length], sampling)
            for row, length in enumerate(lengths_B.tolist())
        ]

    @torch.no_grad()
    def rehearse(self, prompts: Sequence[tuple[int, ...]], max_tokens: int) -> None:
        """The last decoding step of as many prompts as one batch holds, for what it takes; nothing is sampled."""
        with labelled("engine"):
            self.packed.take(self.policy)
        with self.policy.autocast(), self.packed:
            state = _Batch(self.policy, prompts[-self.batch_size :], room=max_tokens)
            state.layout.sampled = max(0, max_tokens - 2)
            tokens = torch.zeros(len(state.layout.prompt_of), dtype=torch.long, device=self.policy.device)
            state.advance(tokens)
            draw(state.logits, tokens.double(), 1.0)
        self.release()

    def _completion(self, tokens: list[int], logprobs: list[float], sampling: Sampling) -> Completion:
        ended = bool(tokens) and tokens[-1] in self.policy.eos_ids and not sampling.ignore_eos
        return Completion(tuple(tokens), tuple(logprobs), self.policy.decode(tokens), truncated=not ended)


class _Batch:
    """Sequences in flight: their keys and values, their last logits [B, V], and the forwards they took."""

    def __init__(self, policy: Policy, prompts: Sequence[tuple[int, ...]], *, room: int) -> None:
        self.policy = policy
        distinct = list(dict.fromkeys(prompts))
        row_of = {ids: row for row, ids in enumerate(distinct)}
        prompt_of = torch.tensor([row_of[ids] for ids in prompts], device=policy.device)
        lengths_N = torch.tensor([len(ids) for ids in distinct], device=policy.device)
        layout = Prefill(lengths_N)
        ids_L = torch.tensor([token for ids in distinct for token in ids], device=policy.device)
        last = policy.hidden(ids_L, layout)[lengths_N.cumsum(0) - 1]
        with labelled("kv_cache"):
            self.layout = Decoding(layout, prompt_of, room)
        self.logits = policy.logits(last)[prompt_of]
        self.ran = packed([len(ids) for ids in distinct]).plus(Shape(logits=len(distinct)))

    def keep(self, rows: Tensor) -> None:
        with labelled("kv_cache"):
            self.layout.select(rows)

    def advance(self, tokens: Tensor) -> None:
        self.ran = self.ran.plus(self.layout.shape())
        self.logits = self.policy.logits(self.policy.hidden(tokens, self.layout))
        self.layout.advance()


def uniforms(seed: int, count: int) -> np.ndarray:
    """`count` uniform numbers in [0, 1) that depend on the seed alone (Philox, a counter-based generator)."""
    return np.random.Generator(np.random.Philox(key=seed)).random(count)


TORCH = EngineKind(build)
