"""Tensors of a step: masks from lengths, selections that drop only padding, and the packing into parts."""

import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from algorithms.base import Credit, Mean, RolloutBatch
from harness.learn.batching import collate, micro_batches, minibatches

POLICY = tiny.policy()
free = settings(deadline=None, max_examples=80)
# Per group: a prompt length and the response lengths.
shapes = st.lists(
    st.tuples(st.integers(1, 30), st.lists(st.integers(1, 20), min_size=1, max_size=5)), min_size=1, max_size=6
)


def full(made, **changes):
    """A batch with every optional tensor present."""
    b = tiny.batch(POLICY, made)
    generator = torch.Generator().manual_seed(0)
    extra = {name: torch.randn(b.mask.shape, generator=generator) * b.mask for name in ("old_logprobs", "ref_logprobs")}
    return RolloutBatch(**{**vars(b), **extra, **changes})


def contents(batch):
    """What a batch says of each sequence, padding aside."""
    said = []
    for row in range(batch.size):
        where, prompt = batch.mask[row].bool(), batch.prompt_of[row]
        per_token = (batch.response_ids, batch.loss_mask, batch.old_logprobs, batch.ref_logprobs)
        said.append((
            batch.prompt_ids[prompt][batch.prompt_mask[prompt].bool()].tolist(),
            *(x[row][where].tolist() for x in per_token),
            float(batch.scores[row]),
        ))  # fmt: skip
    return said


def test_collation_puts_prompts_left_and_responses_right():
    rollouts = tiny.rollouts([(2, [3, 1]), (4, [2])])
    batch = collate(POLICY, rollouts, mask_truncated=False)
    engine = batch.engine_logprobs
    assert batch.prompt_mask.tolist() == [[0, 0, 1, 1], [1, 1, 1, 1]]
    assert batch.mask.tolist() == [[1, 1, 1], [1, 0, 0], [1, 1, 0]]
    assert batch.prompt_of.tolist() == [0, 0, 1]
    assert batch.prompt_ids[0].tolist() == [tiny.PAD, tiny.PAD, *rollouts[0].prompt_ids]
    assert batch.response_ids[2].tolist() == [*rollouts[2].completion.token_ids, tiny.PAD]
    assert engine[1].tolist() == pytest.approx([rollouts[1].completion.logprobs[0], 0, 0])
    assert batch.scores.tolist() == [0, 1, 0]
    assert batch.scores.dtype == torch.float32
    assert batch.old_logprobs is batch.ref_logprobs is None
    assert batch.prompt_lengths_B.tolist() == [2, 2, 4]


def test_masks_come_from_lengths_and_not_from_the_pad_token():
    # Every response ends in the end token, which is the pad token too.
    batch = collate(tiny.policy(pad_is_eos=True), tiny.rollouts(tiny.RAGGED), mask_truncated=False)
    assert batch.mask.sum(1).tolist() == [5, 1, 3, 12, 7, 1]
    assert torch.equal(batch.loss_mask, batch.mask)
    assert batch.prompt_mask.sum(1).tolist() == [1, 23, 6]


def test_masking_truncated_completions_leaves_only_the_loss_mask_different():
    rollouts = tiny.rollouts([(2, [3, 4]), (4, [2, 5])])
    kept, masked = (collate(POLICY, rollouts, mask_truncated=flag) for flag in (False, True))
    for name in ("prompt_ids", "prompt_mask", "prompt_of", "response_ids", "mask", "scores"):
        assert torch.equal(getattr(kept, name), getattr(masked, name))
    truncated = torch.tensor([r.completion.truncated for r in rollouts])
    assert truncated.tolist() == [False, True, True, False]
    assert torch.equal(masked.loss_mask, masked.mask * ~truncated[:, None])
    assert torch.equal(kept.loss_mask, kept.mask)


@free
@given(shapes, st.integers(1, 400), st.randoms())
def test_micro_batches_hold_every_row_once_within_the_limit(made, limit, rng):
    batch = full(made)
    rows = torch.tensor(rng.sample(range(batch.size), rng.randint(1, batch.size)))
    parts = micro_batches(batch, rows, tokens=limit)
    assert sorted(torch.cat(parts).tolist()) == sorted(rows.tolist())
    for part in parts:
        cut = batch.select(part)
        assert int(cut.prompt_mask.sum() + cut.mask.sum()) <= limit or len(part) == 1


@free
@given(shapes, st.randoms())
def test_a_selection_drops_only_padding(made, rng):
    batch = full(made)
    rows = rng.sample(range(batch.size), rng.randint(1, batch.size))
    cut = batch.select(torch.tensor(rows))
    assert contents(cut) == [contents(batch)[row] for row in rows]
    assert cut.prompt_ids.shape == cut.prompt_mask.shape
    assert cut.prompt_ids.shape[0] == len({int(batch.prompt_of[row]) for row in rows})
    # No column is all padding, and padding is where it was: prompts on the left, responses on the right.
    assert bool(cut.prompt_mask.any(0).all())
    assert bool(cut.mask.bool().any(0).all())
    assert bool((cut.prompt_mask.diff(dim=1) >= 0).all())
    assert bool((cut.mask.diff(dim=1) <= 0).all())


def test_a_selection_without_optional_tensors_has_none():
    cut = tiny.batch(POLICY, tiny.RAGGED).select(torch.tensor([2, 0]))
    assert cut.old_logprobs is cut.ref_logprobs is None


def test_credit_is_selected_as_the_batch_is():
    table = torch.arange(12.0).reshape(3, 4)
    credit = Credit(table, table + 100, None).select(torch.tensor([2, 0]), 2)
    assert credit.advantages.tolist() == [[8, 9], [0, 1]]
    assert credit.returns.tolist() == [[108, 109], [100, 101]]
    assert credit.old_values is None


def test_one_part_is_enough_where_all_fits():
    batch = full(tiny.RAGGED)
    assert len(micro_batches(batch, torch.arange(6), tokens=1 + 23 + 6 + 29)) == 1
    assert len(micro_batches(batch, torch.arange(6), tokens=1)) == 6


def test_samples_of_a_prompt_stay_together_where_they_fit():
    batch = full([(9, [4, 4, 4]), (5, [4, 4, 4]), (7, [4, 4, 4])])
    parts = micro_batches(batch, torch.arange(9), tokens=9 + 3 * 4)
    assert [part.tolist() for part in parts] == [[3, 4, 5], [6, 7, 8], [0, 1, 2]]


@free
@given(shapes, st.integers(1, 5))
def test_minibatches_cover_every_row_once_in_nearly_equal_parts(made, count):
    batch = full(made)
    count = min(count, batch.size)
    parts = minibatches(batch, count, key=("suite", 0, 1, 0))
    assert len(parts) == count
    assert sorted(torch.cat(parts).tolist()) == list(range(batch.size))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_minibatches_depend_on_their_key_alone():
    batch = full([(3, [2, 2])] * 12)
    first, again, other = (minibatches(batch, 3, key=("suite", 0, 1, epoch)) for epoch in (0, 0, 1))
    assert [p.tolist() for p in first] == [p.tolist() for p in again]
    assert [p.tolist() for p in first] != [p.tolist() for p in other]
    assert [p.tolist() for p in minibatches(batch, 1, key=("suite", 0, 1, 1))] == [list(range(24))]


def test_means_of_parts_combine_into_the_mean_of_the_whole():
    assert (Mean(6, 3) + Mean(4, 1)).value == 2.5
    assert (Mean(0, 0) + Mean(4, 1)).value == 4
    assert Mean(0, 0).value is None
