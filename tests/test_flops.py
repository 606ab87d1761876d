"""Counted FLOPs against torch's own counter, on the forwards they stand for."""

import pytest
import tiny
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import DynamicCache

from harness.flops import ForwardCost, step_forward_flops
from harness.policy import response_states


def eager(**options):
    """transformers' own attention, written out, so that the counter sees its products."""
    policy = tiny.policy(**options)
    policy.model.set_attn_implementation("eager")
    return policy


def written_out():
    """The same for our attention: a fused kernel on a CPU is no product to the counter."""
    return torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)


def cost_of(policy):
    return ForwardCost.of(policy.backbone, policy.head.weight.shape[0])


@torch.no_grad()
def counted(function):
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def token_by_token(policy, tokens, context):
    """Decoding with a cache looks back on exactly the tokens before: nothing is computed and masked away."""
    cache = DynamicCache(config=policy.backbone.config)
    if context:
        policy.backbone(torch.full((1, context), 3), past_key_values=cache, use_cache=True)

    def decode():
        for _ in range(tokens):
            policy.model(torch.tensor([[3]]), past_key_values=cache, use_cache=True)

    return counted(decode)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(("tokens", "context"), [(1, 0), (9, 0), (40, 0), (7, 30)])
def test_causal_work_equals_that_of_decoding_token_by_token(tokens, context, tied):
    policy = eager(tied=tied)
    expected = token_by_token(policy, tokens, context)
    assert cost_of(policy).sequence(tokens, context=context, logits=tokens) == pytest.approx(expected, rel=0.02)


def test_a_plain_forward_costs_what_is_counted():
    policy = eager()
    cost = cost_of(policy)
    ids = torch.full((3, 6), 5)
    found = counted(lambda: policy.model(ids, use_cache=False))
    # A plain forward computes the upper triangle of attention too, and masks it away.
    masked_away = 3 * cost.attention * 6 * 5 / 2
    assert 3 * cost.sequence(6, logits=6) + masked_away == pytest.approx(found, rel=0.02)
    assert 3 * cost.sequence(6, logits=6) == pytest.approx(found, rel=0.05)


@pytest.mark.parametrize("logits", [True, False])
def test_a_packed_forward_costs_what_is_counted(logits):
    policy = tiny.policy()
    cost = cost_of(policy)
    # Equal lengths: attention is computed on rectangles, and their padding is no work asked for.
    batch = tiny.batch(policy, [(30, [6, 6, 6]), (30, [6, 6])])
    with written_out():
        found = counted(lambda: policy.forward(batch) if logits else response_states(policy.backbone, batch))
    masked_away = cost.attention * (2 * 30 * 29 / 2 + 5 * 5 * 4 / 2)
    asked = step_forward_flops(cost, [30, 30], [(0, 6)] * 3 + [(1, 6)] * 2, logits=logits)
    assert asked + masked_away == pytest.approx(found, rel=0.02)


def test_sharing_a_prompt_saves_its_repetitions():
    cost = cost_of(eager())
    shared = step_forward_flops(cost, [50], [(0, 5)] * 4, logits=True)
    apart = step_forward_flops(cost, [50] * 4, [(row, 5) for row in range(4)], logits=True)
    assert apart - shared == pytest.approx(3 * cost.sequence(50))


def test_linear_maps_never_run_padding():
    policy = tiny.policy()
    cost = cost_of(policy)
    batch = tiny.batch(policy, tiny.RAGGED)
    tokens = int(batch.prompt_mask.sum() + batch.mask.sum()) - batch.size
    found = counted(lambda: policy.forward(batch))
    assert found == tokens * cost.linear + int(batch.mask.sum()) * cost.head


def test_backward_costs_twice_the_forward():
    policy = tiny.policy()
    batch = tiny.batch(policy, [(30, [6, 6, 6])])
    with written_out():
        forward = counted(lambda: policy.forward(batch))
        with FlopCounterMode(display=False) as counter:
            policy.forward(batch).logprobs.sum().backward()
    assert counter.get_total_flops() == pytest.approx(3 * forward, rel=0.02)
