"""Rollouts → tensors, and the packing of sequences into micro-batches."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from algorithms.base import RolloutBatch
from harness.learn.rollout import Rollout
from harness.model.policy import Policy
from suites.task import stable_hash


def collate(policy: Policy, rollouts: Sequence[Rollout], *, mask_truncated: bool) -> RolloutBatch:
    prompt_of = [rollout.group for rollout in rollouts]
    prompts = dict(zip(prompt_of, (rollout.prompt_ids for rollout in rollouts), strict=True))
    assert sorted(prompts) == list(range(len(prompts)))
    prompt_ids, prompt_mask = policy.pad_prompts([prompts[row] for row in range(len(prompts))])
    size, width = len(rollouts), max(len(r.completion.token_ids) for r in rollouts)
    ids = torch.full((size, width), policy.pad_id)
    mask, engine_logprobs = torch.zeros(size, width), torch.zeros(size, width)
    for row, rollout in enumerate(rollouts):
        length = len(rollout.completion.token_ids)
        ids[row, :length] = torch.tensor(rollout.completion.token_ids)
        mask[row, :length] = 1
        engine_logprobs[row, :length] = torch.tensor(rollout.completion.logprobs)
    kept = torch.tensor([not (mask_truncated and r.completion.truncated) for r in rollouts])
    device = policy.device
    return RolloutBatch(
        prompt_ids=prompt_ids,
        prompt_mask=prompt_mask,
        prompt_of=torch.tensor(prompt_of, device=device),
        response_ids=ids.to(device),
        mask=mask.to(device),
        loss_mask=(mask * kept[:, None]).to(device),
        scores=torch.tensor([r.reward.value for r in rollouts], device=device),
        engine_logprobs=engine_logprobs.to(device),
    )


def micro_batches(batch: RolloutBatch, rows: Tensor, *, tokens: int) -> list[Tensor]:
    """Split `rows` so that no part's forward runs more than `tokens` tokens, each distinct prompt counted once.

    Samples of a prompt stay together where they fit, so that prompts are run rarely, and groups of like length share
    a part, so that attention has little to pad. A single sequence longer than `tokens` is a part of its own.
    """
    prompts, responses = batch.prompt_lengths_B.tolist(), batch.mask.sum(1).long().tolist()
    prompt_of = batch.prompt_of.tolist()
    groups: dict[int, list[int]] = defaultdict(list)
    for row in rows.tolist():
        groups[prompt_of[row]].append(row)
    ordered = sorted(groups.values(), key=lambda group: (max(prompts[row] + responses[row] for row in group), group[0]))
    parts: list[list[int]] = [[]]
    used = 0
    seen: set[int] = set()
    for row in (row for group in ordered for row in group):
        prompt = prompt_of[row]
        cost = responses[row] + (0 if prompt in seen else prompts[row])
        if parts[-1] and used + cost > tokens:
            parts.append([])
            used, seen = 0, set()
            cost = responses[row] + prompts[row]
        parts[-1].append(row)
        used += cost
        seen.add(prompt)
    return [torch.tensor(part, device=rows.device) for part in parts if part]


def minibatches(batch: RolloutBatch, count: int, *, key: Sequence[object]) -> list[Tensor]:
    """Rows in `count` parts of nearly equal size: groups shuffled by the key, then cut. One part is not shuffled."""
    rows = torch.arange(batch.size)
    if count > 1:
        prompts = int(batch.prompt_of.max()) + 1
        generator = torch.Generator().manual_seed(stable_hash("minibatches", *key))
        rank = torch.randperm(prompts, generator=generator)[batch.prompt_of.cpu()]
        rows = torch.argsort(rank, stable=True)
    return [part.to(batch.prompt_of.device) for part in rows.tensor_split(count)]
