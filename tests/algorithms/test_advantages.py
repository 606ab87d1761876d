"""Advantages: hand-worked numbers, naive versions without tensors, and the identities the papers promise."""

import json
import math
import statistics
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from algorithms.advantages import discounted_returns, gae, group_relative, leave_one_out, whiten

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "advantages.json").read_text(encoding="utf-8"))
NAN, INF = math.nan, math.inf

free = settings(deadline=None, max_examples=60)
numbers = st.floats(-10, 10)
unit = st.floats(0, 1)


def golden(name):
    return pytest.mark.parametrize("case", [pytest.param(case, id=case["fact"]) for case in GOLDEN[name]])


def tensor(rows, dtype=torch.float64):
    return torch.tensor(rows, dtype=dtype)


def close(actual, expected, **tolerance):
    expected = torch.as_tensor(expected, dtype=actual.dtype)
    torch.testing.assert_close(actual, expected, **tolerance or {"rtol": 1e-9, "atol": 1e-9})


@st.composite
def batches(draw, fields=2):
    """Tensors [B, T] and a mask with zeros anywhere, whole rows of them included."""
    rows, columns = draw(st.integers(1, 4)), draw(st.integers(1, 6))

    def table(entry):
        return draw(st.lists(st.lists(entry, min_size=columns, max_size=columns), min_size=rows, max_size=rows))

    return [tensor(table(numbers)) for _ in range(fields)] + [tensor(table(st.sampled_from([0, 1, 1])))]


@st.composite
def grouped_scores(draw):
    ids = draw(st.lists(st.integers(-5, 50), min_size=1, max_size=4, unique=True))
    members = draw(st.permutations([i for i in ids for _ in range(draw(st.integers(2, 5)))]))
    scores = draw(st.lists(numbers, min_size=len(members), max_size=len(members)))
    return scores, members


def valid_positions(mask_row):
    return [t for t, m in enumerate(mask_row.tolist()) if m]


def others(scores, group, i):
    return [s for j, s in enumerate(scores) if group[j] == group[i] and j != i]


# --- gae and discounted returns


@golden("gae")
def test_gae_gives_the_numbers_worked_by_hand(case):
    rewards, values, mask = (tensor([case[key]]) for key in ("rewards", "values", "mask"))
    advantages, returns = gae(rewards, values, mask, gamma=case["gamma"], lam=case["lam"])
    close(advantages, [case["advantages"]])
    close(returns, [case["returns"]])


@golden("discounted_returns")
def test_discounted_returns_give_the_numbers_worked_by_hand(case):
    returns = discounted_returns(tensor([case["rewards"]]), tensor([case["mask"]]), gamma=case["gamma"])
    close(returns, [case["returns"]])


@free
@given(batches(), unit, unit)
def test_gae_is_the_weighted_sum_of_later_errors(batch, gamma, lam):
    rewards, values, mask = batch
    expected = torch.zeros_like(rewards)
    for b, row in enumerate(mask):
        steps = valid_positions(row)
        v = [values[b, t].item() for t in steps] + [0.0]
        deltas = [rewards[b, t].item() + gamma * v[k + 1] - v[k] for k, t in enumerate(steps)]
        for k, t in enumerate(steps):
            expected[b, t] = sum((gamma * lam) ** j * delta for j, delta in enumerate(deltas[k:]))
    advantages, returns = gae(rewards, values, mask, gamma=gamma, lam=lam)
    close(advantages, expected)
    close(returns, expected + values * mask)


@free
@given(batches(), unit)
def test_gae_returns_at_lambda_one_are_the_monte_carlo_returns(batch, gamma):
    rewards, values, mask = batch
    expected = torch.zeros_like(rewards)
    for b, row in enumerate(mask):
        steps = valid_positions(row)
        for k, t in enumerate(steps):
            expected[b, t] = sum(gamma**j * rewards[b, u].item() for j, u in enumerate(steps[k:]))
    close(gae(rewards, values, mask, gamma=gamma, lam=1.0)[1], expected)
    close(discounted_returns(rewards, mask, gamma=gamma), expected)


@free
@given(batches(fields=1))
def test_gae_without_values_or_discount_is_the_reward_to_go(batch):
    rewards, mask = batch
    advantages, returns = gae(rewards, torch.zeros_like(rewards), mask, gamma=1.0, lam=1.0)
    close(advantages, (rewards * mask).flip(1).cumsum(1).flip(1) * mask)
    close(returns, advantages)


@free
@given(batches(), unit)
def test_gae_at_lambda_zero_is_the_one_step_error(batch, gamma):
    rewards, values, mask = batch
    everything = torch.ones_like(mask)
    following = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], dim=1)
    close(gae(rewards, values, everything, gamma=gamma, lam=0.0)[0], rewards + gamma * following - values)


@free
@given(batches(), unit, unit, st.integers(0, 6), st.sampled_from([0.0, 1e9, NAN, INF]))
def test_masked_columns_inserted_anywhere_change_nothing(batch, gamma, lam, at, filler):
    def widened(x, value):
        return torch.cat([x[:, :at], torch.full((len(x), 2), value, dtype=x.dtype), x[:, at:]], dim=1)

    rewards, values, mask = batch
    before = gae(rewards, values, mask, gamma=gamma, lam=lam)
    after = gae(widened(rewards, filler), widened(values, filler), widened(mask, 0.0), gamma=gamma, lam=lam)
    for narrow, wide in zip(before, after, strict=True):
        assert wide.equal(widened(narrow, 0.0))


def test_an_empty_response_axis_gives_empty_results():
    nothing = torch.zeros(2, 0)
    results = *gae(nothing, nothing, nothing, gamma=1.0, lam=1.0), whiten(nothing, nothing)
    assert all(x.shape == (2, 0) for x in results)


# --- groups


@golden("group_relative")
def test_group_baselines_give_the_numbers_worked_by_hand(case):
    scores, group = tensor(case["scores"]), torch.tensor(case["group"])
    close(group_relative(scores, group, eps=case["eps"]), case["normalized"])
    close(group_relative(scores, group, normalize_by_std=False), case["centred"])
    close(leave_one_out(scores, group), case["leave_one_out"])


@free
@given(grouped_scores())
def test_group_baselines_match_their_definitions(drawn):
    scores, group = drawn
    mates = [[*others(scores, group, i), s] for i, s in enumerate(scores)]
    centred = [s - statistics.fmean(m) for s, m in zip(scores, mates, strict=True)]
    normalized = [c / (statistics.stdev(m) + 0.01) for c, m in zip(centred, mates, strict=True)]
    rloo = [s - statistics.fmean(others(scores, group, i)) for i, s in enumerate(scores)]
    x, ids = tensor(scores), torch.tensor(group)
    close(group_relative(x, ids, normalize_by_std=False), centred)
    close(group_relative(x, ids, eps=0.01), normalized)
    close(leave_one_out(x, ids), rloo)


@free
@given(grouped_scores(), st.randoms(use_true_random=False))
def test_permuting_the_batch_permutes_group_baselines(drawn, random):
    scores, group = tensor(drawn[0]), torch.tensor(drawn[1])
    order = list(range(len(scores)))
    random.shuffle(order)
    for baseline in (lambda s, g: group_relative(s, g, eps=0.01), leave_one_out):
        close(baseline(scores[order], group[order]), baseline(scores, group)[order])


@pytest.mark.parametrize("size", [2, 3, 8])
def test_leave_one_out_is_the_centred_score_times_n_over_n_minus_one(size):
    scores = torch.randn(5 * size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    group = torch.arange(5).repeat(size)
    close(leave_one_out(scores, group), group_relative(scores, group, normalize_by_std=False) * size / (size - 1))


def test_epsilon_defaults_to_1e_6_beside_a_std_and_1e_8_beside_a_variance():
    # Mean 1e-4, variance 2e-8, ε 1e-8.
    close(whiten(tensor([[0, 2e-4]]), tensor([[1, 1]])), [[-1 / 3**0.5, 1 / 3**0.5]])
    # Mean 1e-6, std √2 · 1e-6, ε 1e-6.
    close(group_relative(tensor([0, 2e-6]), torch.tensor([0, 0])), [-1 / (2**0.5 + 1), 1 / (2**0.5 + 1)])


@pytest.mark.parametrize("score", [0.1, 1e6 + 0.1, -3.3, 1e-8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("eps", [0.0, 1e-6])
def test_a_constant_group_gives_exactly_zero(score, dtype, eps):
    scores = torch.tensor([score] * 7 + [1.0, 2.0], dtype=dtype, requires_grad=True)
    group = torch.tensor([4] * 7 + [1] * 2)
    for advantage in (
        group_relative(scores, group, eps=eps),
        group_relative(scores, group, normalize_by_std=False),
        leave_one_out(scores, group),
    ):
        assert advantage.dtype == dtype
        assert (advantage[:7] == 0).all()
        assert (advantage[7:] != 0).all()
        (gradient,) = torch.autograd.grad(advantage.square().sum(), scores)
        assert gradient.isfinite().all()


@pytest.mark.parametrize("baseline", [group_relative, leave_one_out])
def test_a_singleton_group_is_refused_by_its_id(baseline):
    with pytest.raises(ValueError, match="group 41 has a single score"):
        baseline(tensor([1, 2, 3]), torch.tensor([7, 41, 7]))


@pytest.mark.parametrize("baseline", [group_relative, leave_one_out])
def test_an_undefined_score_stays_within_its_group(baseline):
    advantages = baseline(tensor([NAN, 1, 0, 2, INF, 0]), torch.tensor([0, 0, 1, 1, 2, 2]))
    assert advantages.isfinite().tolist() == [False, False, True, True, False, False]


# --- whitening


@golden("whiten")
def test_whitening_gives_the_numbers_worked_by_hand(case):
    options = {key: case[key] for key in ("shift_mean", "eps")}
    close(whiten(tensor(case["x"]), tensor(case["mask"]), **options), case["whitened"])


@free
@given(batches(fields=1), st.booleans())
def test_whitening_matches_its_definition(batch, shift_mean):
    x, mask = batch
    entries = x[mask.bool()].tolist()
    mean = statistics.fmean(entries) if entries else 0.0
    variance = statistics.variance(entries) if len(entries) > 1 else 0.0
    expected = (x - mean) / math.sqrt(variance + 0.01) + (0.0 if shift_mean else mean)
    close(whiten(x, mask, shift_mean=shift_mean, eps=0.01), expected * mask)


@pytest.mark.parametrize("value", [0.1, 100.3])
def test_whitening_equal_entries_gives_exactly_zero(value):
    assert (whiten(torch.full((3, 7), value), torch.ones(3, 7)) == 0).all()


@pytest.mark.parametrize("shift_mean", [True, False])
def test_whitening_nothing_gives_zeros_and_one_token_has_no_variance(shift_mean):
    x = tensor([[5, NAN]])
    close(whiten(x, tensor([[0, 0]]), shift_mean=shift_mean), [[0, 0]])
    close(whiten(x, tensor([[1, 0]]), shift_mean=shift_mean), [[0 if shift_mean else 5, 0]])


# --- what holds for all that take a mask

MASKED = {
    "gae": lambda x, y, mask: torch.stack(gae(x, y, mask, gamma=0.9, lam=0.8)),
    "discounted_returns": lambda x, y, mask: (
        discounted_returns(x, mask, gamma=0.9) + discounted_returns(y, mask, gamma=0.5)
    ),
    "whiten": lambda x, y, mask: whiten(x, mask) + whiten(y, mask, shift_mean=False),
}
on_masked = pytest.mark.parametrize("function", MASKED.values(), ids=MASKED)
MASK = tensor([[0, 1, 1, 0, 1, 0], [1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0]])


def inputs():
    return torch.randn(2, *MASK.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).unbind()


@on_masked
@pytest.mark.parametrize("poison", [NAN, INF, -INF])
def test_what_stands_under_a_zero_mask_reaches_neither_output_nor_gradient(function, poison):
    clean = [x.clone().requires_grad_() for x in inputs()]
    dirty = [x.where(MASK.bool(), poison).requires_grad_() for x in inputs()]
    outputs = [function(*leaves, MASK) for leaves in (clean, dirty)]
    assert outputs[1].equal(outputs[0])
    assert (outputs[1] * (1 - MASK) == 0).all()
    gradients = [torch.autograd.grad(o.square().sum(), x) for o, x in zip(outputs, (clean, dirty), strict=True)]
    for expected, actual in zip(*gradients, strict=True):
        assert actual.equal(expected)
        assert (actual * (1 - MASK) == 0).all()


@on_masked
def test_a_mask_means_the_same_in_any_dtype(function):
    expected = function(*inputs(), MASK)
    for dtype in (torch.bool, torch.int64, torch.uint8, torch.float32):
        assert function(*inputs(), MASK.to(dtype)).equal(expected)


@on_masked
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_result_has_the_dtype_of_the_inputs(function, dtype):
    assert function(*(x.to(dtype) for x in inputs()), MASK.to(dtype)).dtype == dtype


@on_masked
def test_inputs_are_not_modified(function):
    x, y = inputs()
    mask = MASK.clone()
    function(x, y, mask)
    assert all(after.equal(before) for after, before in zip((x, y, mask), (*inputs(), MASK), strict=True))


@on_masked
def test_gradients_agree_with_finite_differences(function):
    assert torch.autograd.gradcheck(lambda x, y: function(x, y, MASK), [x.requires_grad_() for x in inputs()])


@on_masked
def test_different_shapes_fail_an_assertion(function):
    with pytest.raises(AssertionError):
        function(*inputs(), MASK[:, :-1])
