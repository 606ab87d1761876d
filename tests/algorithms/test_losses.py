"""Losses: hand-worked numbers, naive versions without tensors, and the identities training relies on."""

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from algorithms.losses import (
    AGGREGATIONS,
    KL_KINDS,
    aggregate,
    aggregate_count,
    clipped_surrogate,
    clipped_value_loss,
    kl_estimate,
    token_weights,
)

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "losses.json").read_text(encoding="utf-8"))
NAN, INF = math.nan, math.inf

free = settings(deadline=None, max_examples=60)
# Coarse grids: on them being clipped or not is never a matter of the last bit of an exponential.
numbers = st.integers(-24, 24).map(lambda n: n / 8)
clips = st.integers(0, 8).map(lambda n: n / 10)
each_mode = pytest.mark.parametrize("mode", AGGREGATIONS)
each_kind = pytest.mark.parametrize("kind", KL_KINDS)


def golden(name):
    return pytest.mark.parametrize("case", [pytest.param(case, id=case["fact"]) for case in GOLDEN[name]])


def tensor(rows, dtype=torch.float64):
    return torch.tensor(rows, dtype=dtype)


def close(actual, expected):
    torch.testing.assert_close(actual, torch.as_tensor(expected, dtype=actual.dtype), rtol=1e-9, atol=1e-9)


@st.composite
def batches(draw, fields):
    """Tensors [B, T] and a mask with zeros anywhere, whole rows of them included."""
    rows, columns = draw(st.integers(1, 4)), draw(st.integers(1, 6))

    def table(entry):
        return draw(st.lists(st.lists(entry, min_size=columns, max_size=columns), min_size=rows, max_size=rows))

    return [tensor(table(numbers)) for _ in range(fields)] + [tensor(table(st.sampled_from([0, 1, 1])))]


def token_by_token(function, *tensors):
    """(function of each valid token's scalars, 0 elsewhere) and the share of valid tokens where it says clipped."""
    *fields, mask = tensors
    loss, clipped = torch.zeros_like(mask), 0
    for b, t in mask.nonzero().tolist():
        loss[b, t], was_clipped = function(*(x[b, t].item() for x in fields))
        clipped += was_clipped
    return loss, clipped / max(1, int(mask.sum()))


# --- the clipped surrogate


@golden("clipped_surrogate")
def test_surrogate_gives_the_numbers_worked_by_hand(case):
    ratio, advantages, mask = (tensor([case[key]]) for key in ("ratio", "advantages", "mask"))
    bounds = {key: case[key] for key in ("clip_low", "clip_high")}
    loss, fraction = clipped_surrogate(ratio.log() - 1, torch.full_like(ratio, -1), advantages, mask, **bounds)
    close(loss, [case["loss"]])
    close(fraction, case["fraction"])


@free
@given(batches(fields=3), clips, clips)
def test_surrogate_is_the_pessimistic_one_of_two_bounds(batch, low, high):
    def naive(logp, old, advantage):
        ratio = math.exp(logp - old)
        bounded = min(max(ratio, 1 - low), 1 + high)
        gain = min(ratio * advantage, bounded * advantage)
        return -gain, bounded * advantage < ratio * advantage

    expected, share = token_by_token(naive, *batch)
    loss, fraction = clipped_surrogate(*batch, clip_low=low, clip_high=high)
    close(loss, expected)
    close(fraction, share)


@free
@given(batches(fields=2))
def test_the_first_update_has_loss_minus_advantage_and_the_plain_policy_gradient(batch):
    logprobs, advantages, mask = batch
    loss, fraction = clipped_surrogate(
        logprobs.requires_grad_(), logprobs.detach().clone(), advantages, mask, clip_low=0.2, clip_high=0.2
    )
    close(loss, -advantages * mask)
    assert fraction == 0
    close(torch.autograd.grad(loss.sum(), logprobs)[0], -advantages * mask)


def test_clipped_tokens_get_no_gradient_and_the_fraction_carries_none():
    ratio, advantages = tensor([[1.5, 1.5, 0.5, 0.5]]), tensor([[1, -1, 1, -1]])
    logprobs = ratio.log().requires_grad_()
    loss, fraction = clipped_surrogate(
        logprobs, torch.zeros_like(ratio), advantages, torch.ones_like(ratio), clip_low=0.2, clip_high=0.2
    )
    assert fraction.shape == ()
    assert fraction.dtype == torch.float64
    assert not fraction.requires_grad
    close(torch.autograd.grad(loss.sum(), logprobs)[0], [[0, 1.5, -0.5, 0]])


# --- the clipped value loss


@golden("clipped_value_loss")
def test_value_loss_gives_the_numbers_worked_by_hand(case):
    tensors = (tensor([case[key]]) for key in ("values", "old_values", "returns", "mask"))
    loss, fraction = clipped_value_loss(*tensors, clip=case["clip"])
    close(loss, [case["loss"]])
    close(fraction, case["fraction"])


@free
@given(batches(fields=3), st.none() | st.integers(0, 8).map(lambda n: n / 4))
def test_value_loss_is_the_larger_of_two_halved_squares(batch, clip):
    def naive(value, old, target):
        plain = (value - target) ** 2
        bounded = plain if clip is None else (min(max(value, old - clip), old + clip) - target) ** 2
        return max(plain, bounded) / 2, bounded > plain

    expected, share = token_by_token(naive, *batch)
    loss, fraction = clipped_value_loss(*batch, clip=clip)
    close(loss, expected)
    close(fraction, share)


def test_the_gradient_of_the_value_loss_is_the_error():
    values, returns, mask = tensor([[3, 1]]).requires_grad_(), tensor([[1, 1.5]]), tensor([[1, 1]])
    loss, _ = clipped_value_loss(values, values.detach(), returns, mask, clip=0.2)
    close(torch.autograd.grad(loss.sum(), values)[0], [[2, -0.5]])


# --- the estimates of the divergence


@golden("kl_estimate")
@each_kind
def test_kl_estimate_gives_the_numbers_worked_by_hand(case, kind):
    tensors = (tensor([case[key]]) for key in ("logprobs", "ref_logprobs", "mask"))
    close(kl_estimate(*tensors, kind=kind), [case[kind]])


@each_kind
@free
@given(batches(fields=2))
def test_kl_estimate_matches_its_definition(kind, batch):
    naive = {
        "k1": lambda logp, ref: (logp - ref, False),
        "k2": lambda logp, ref: ((logp - ref) ** 2 / 2, False),
        "k3": lambda logp, ref: (math.exp(ref - logp) - 1 - (ref - logp), False),
    }[kind]
    close(kl_estimate(*batch, kind=kind), token_by_token(naive, *batch)[0])


@each_kind
def test_kl_estimate_of_equal_policies_is_zero(kind):
    logprobs = tensor([[-0.1, -3.7]])
    assert (kl_estimate(logprobs, logprobs, torch.ones_like(logprobs), kind=kind) == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-7, 1e-4, 1e-2, 1.0])
def test_k3_is_never_negative_however_close_the_policies(dtype, scale):
    difference = scale * torch.randn(4, 5000, dtype=dtype, generator=torch.Generator().manual_seed(0))
    zeros, mask = torch.zeros_like(difference), torch.ones_like(difference)
    assert (kl_estimate(difference, zeros, mask, kind="k3") >= 0).all()


def test_k1_and_k3_are_unbiased_and_the_gradients_are_those_documented():
    # One categorical token, its expectation taken exactly: every outcome, weighted by its probability.
    logits, ref = tensor([0.3, -0.8, 1.1]).requires_grad_(), tensor([0.9, 0.1, -0.4]).log_softmax(0)
    logp = logits.log_softmax(0)
    forward, backward = (logp.exp() * (logp - ref)).sum(), (ref.exp() * (ref - logp)).sum()

    def gradient(x):
        return torch.autograd.grad(x, logits, retain_graph=True)[0]

    mask = torch.ones(1, 3)
    of = {kind: kl_estimate(logp[None], ref[None], mask, kind=kind)[0] for kind in KL_KINDS}
    expectation = {kind: (logp.exp().detach() * x).sum() for kind, x in of.items()}
    close(expectation["k1"], forward.detach())
    close(expectation["k3"], forward.detach())
    close(gradient(expectation["k1"]), [0, 0, 0])
    close(gradient(expectation["k2"]), gradient(forward))
    close(gradient(expectation["k3"]), gradient(backward))


def test_an_unknown_kind_is_refused_with_the_accepted_ones():
    x = torch.zeros(1, 1)
    with pytest.raises(ValueError, match="unknown kind 'k4'; accepted: k1, k2, k3"):
        kl_estimate(x, x, x, kind="k4")


# --- aggregation


@golden("aggregate")
def test_aggregate_gives_the_numbers_worked_by_hand(case):
    loss, mask = tensor(case["loss"]), tensor(case["mask"])
    for mode in AGGREGATIONS:
        close(aggregate(loss, mask, mode=mode), case[mode])
        assert aggregate_count(mask, mode=mode) == case["count"][mode]
    close(aggregate(loss, mask, mode="sequence_sum", length=case["length"]), case["sequence_sum_of_length"])


@each_mode
@free
@given(batches(fields=1))
def test_aggregate_matches_its_definition(mode, batch):
    loss, mask = batch
    sequences = [row[m.bool()].tolist() for row, m in zip(loss, mask, strict=True) if m.any()]
    tokens = [x for sequence in sequences for x in sequence]
    per_sequence = {
        "token_mean": [sum(tokens) / max(1, len(tokens))],
        "sequence_mean": [sum(sequence) / len(sequence) for sequence in sequences],
        "sequence_sum": [sum(sequence) / mask.shape[1] for sequence in sequences],
    }[mode]
    close(aggregate(loss, mask, mode=mode), sum(per_sequence) / max(1, len(per_sequence)))


@each_mode
@free
@given(batches(fields=1), st.integers(1, 3))
def test_micro_batch_sums_divided_once_equal_the_full_batch(mode, batch, size):
    loss, mask = batch
    width = mask.shape[1]
    total, count = torch.zeros((), dtype=loss.dtype), 0
    for part, part_mask in zip(loss.split(size), mask.split(size), strict=True):
        # A micro-batch is trimmed to its own longest sequence, so its width says nothing about the step's.
        longest = int(part_mask.any(0).nonzero().max()) + 1 if part_mask.any() else 1
        part, part_mask = part[:, :longest], part_mask[:, :longest]
        total = total + (part * token_weights(part_mask, mode=mode, length=width)).sum()
        count += int(aggregate_count(part_mask, mode=mode))
    close(total / max(1, count), aggregate(loss, mask, mode=mode))


@each_mode
def test_padding_and_empty_sequences_do_not_dilute(mode):
    loss, mask = tensor([[1, 2], [3, 99]]), tensor([[1, 1], [1, 0]])
    padded_loss, padded_mask = torch.full((3, 5), NAN, dtype=torch.float64), torch.zeros(3, 5)
    padded_loss[:2, :2], padded_mask[:2, :2] = loss, mask
    close(aggregate(padded_loss, padded_mask, mode=mode, length=2), aggregate(loss, mask, mode=mode, length=2))


@each_mode
def test_permuting_the_batch_leaves_the_aggregate_alone(mode):
    loss, mask = tensor([[1, 2, 4], [8, 16, 32], [64, 128, 256]]), tensor([[1, 1, 1], [1, 0, 0], [0, 0, 0]])
    order = torch.tensor([2, 0, 1])
    close(aggregate(loss[order], mask[order], mode=mode), aggregate(loss, mask, mode=mode))


@each_mode
def test_an_all_zero_mask_gives_a_zero_with_a_zero_gradient(mode):
    loss = torch.full((2, 3), NAN, requires_grad=True)
    total = aggregate(loss, torch.zeros(2, 3), mode=mode)
    assert total == 0
    assert aggregate_count(torch.zeros(2, 3), mode=mode) == 0
    assert torch.autograd.grad(total, loss)[0].equal(torch.zeros(2, 3))


@each_mode
@pytest.mark.parametrize("mask_dtype", [torch.bool, torch.int64, torch.float32, torch.float64])
def test_a_double_precision_loss_is_weighted_in_double_precision(mode, mask_dtype):
    loss, mask = tensor([[1, 2, 4, 0], [5, 0, 0, 0]]), tensor([[1, 1, 1, 0], [1, 0, 0, 0]])
    expected = {"token_mean": 3, "sequence_mean": (7 / 3 + 5) / 2, "sequence_sum": (7 / 3 + 5 / 3) / 2}[mode]
    close(aggregate(loss, mask.to(mask_dtype), mode=mode, length=3), expected)


@pytest.mark.parametrize("length", [0, -1])
def test_a_length_below_one_is_refused(length):
    with pytest.raises(ValueError, match=f"length must be at least 1, not {length}"):
        aggregate(torch.ones(1, 1), torch.ones(1, 1), mode="sequence_sum", length=length)


@pytest.mark.parametrize("function", [lambda x, mode: aggregate(x, x, mode=mode), token_weights, aggregate_count])
def test_an_unknown_mode_is_refused_with_the_accepted_ones(function):
    with pytest.raises(ValueError, match="unknown mode 'mean'; accepted: token_mean, sequence_mean, sequence_sum"):
        function(torch.ones(1, 1), mode="mean")


# --- what holds for all that take a mask

MASKED = {
    "clipped_surrogate": lambda x, y, z, mask: clipped_surrogate(x, y, z, mask, clip_low=0.2, clip_high=0.3)[0],
    "clipped_value_loss": lambda x, y, z, mask: clipped_value_loss(x, y, z, mask, clip=0.5)[0],
    "unclipped_value_loss": lambda x, y, z, mask: clipped_value_loss(x, y, z, mask, clip=None)[0],
    **{kind: lambda x, y, z, mask, kind=kind: kl_estimate(x, y, mask, kind=kind) for kind in KL_KINDS},
    **{mode: lambda x, y, z, mask, mode=mode: aggregate(x, mask, mode=mode) for mode in AGGREGATIONS},
}
on_masked = pytest.mark.parametrize("function", MASKED.values(), ids=MASKED)
MASK = tensor([[0, 1, 1, 0, 1, 0], [1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0]])


def inputs():
    return torch.randn(3, *MASK.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).unbind()


@on_masked
@pytest.mark.parametrize("poison", [NAN, INF, -INF])
def test_what_stands_under_a_zero_mask_reaches_neither_output_nor_gradient(function, poison):
    clean = [x.clone().requires_grad_() for x in inputs()]
    dirty = [x.where(MASK.bool(), poison).requires_grad_() for x in inputs()]
    outputs = [function(*leaves, MASK) for leaves in (clean, dirty)]
    assert outputs[1].equal(outputs[0])
    assert outputs[1].ndim == 0 or (outputs[1] * (1 - MASK) == 0).all()
    for expected, actual in zip(*(gradients(o, x) for o, x in zip(outputs, (clean, dirty), strict=True)), strict=True):
        assert actual.equal(expected)
        assert (actual * (1 - MASK) == 0).all()


def gradients(output, leaves):
    return torch.autograd.grad(output.square().sum(), leaves, allow_unused=True, materialize_grads=True)


@pytest.mark.parametrize("poison", [NAN, INF])
def test_what_stands_under_a_zero_mask_is_not_counted_as_clipped(poison):
    tensors = [x.where(MASK.bool(), poison) for x in inputs()]
    for loss in (
        lambda *x: clipped_surrogate(*x, clip_low=0.2, clip_high=0.2),
        lambda *x: clipped_value_loss(*x, clip=0.1),
    ):
        fraction = loss(*tensors, MASK)[1]
        assert 0 < fraction < 1
        assert fraction == loss(*inputs(), MASK)[1]
        assert loss(*tensors, torch.zeros_like(MASK))[1] == 0


@on_masked
def test_a_mask_means_the_same_in_any_dtype(function):
    expected = function(*inputs(), MASK)
    for dtype in (torch.bool, torch.int64, torch.uint8, torch.float32):
        assert function(*inputs(), MASK.to(dtype)).equal(expected)


@on_masked
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_result_has_the_dtype_of_the_inputs(function, dtype):
    assert function(*(x.to(dtype) for x in inputs()), MASK.bool()).dtype == dtype


@on_masked
def test_inputs_are_not_modified(function):
    tensors, mask = inputs(), MASK.clone()
    function(*tensors, mask)
    assert all(after.equal(before) for after, before in zip((*tensors, mask), (*inputs(), MASK), strict=True))


@on_masked
def test_gradients_agree_with_finite_differences(function):
    assert torch.autograd.gradcheck(lambda *x: function(*x, MASK), [x.requires_grad_() for x in inputs()])


@on_masked
def test_different_shapes_fail_an_assertion(function):
    with pytest.raises(AssertionError):
        function(*inputs(), MASK[:, :-1])
