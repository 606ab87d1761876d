"""Counted FLOPs against torch's own counter, on whole phases of real steps and on the forwards they stand for."""

import contextlib
from collections import defaultdict

import pytest
import tiny
import torch
from torch.utils import flop_counter
from torch.utils.flop_counter import FlopCounterMode
from transformers import DynamicCache

from harness.measure.flops import ForwardCost, Shape, Work, asked, causal, packed, packed_forward
from harness.model import lm_head
from harness.model.weights import checkpoint_layers

aten, mkldnn = torch.ops.aten, torch.ops.mkldnn
# What torch's counter has no entry for, by the formulas of what it has: a CPU's own kernels, products added in place.
MORE = {
    aten.addmm_: lambda c, a, b, *_, **__: flop_counter.mm_flop(a, b),
    aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: flop_counter.sdpa_flop_count(q, k, v),
    aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda grad, q, k, v, *_, **__: flop_counter.sdpa_backward_flop_count(grad, q, k, v)
    ),
    mkldnn._linear_pointwise: lambda x, weight, *_, out_shape=None, **__: 2 * torch.Size(out_shape).numel() * x[-1],
}


class Counter(FlopCounterMode):
    def __init__(self):
        super().__init__(display=False, custom_mapping=MORE)


def eager(**options):
    """transformers' own attention, written out, so that the counter sees its products."""
    policy = tiny.policy(**options)
    policy.model.set_attn_implementation("eager")
    return policy


def cost_of(policy, **options):
    return ForwardCost.of(policy.backbone, policy.head.weight.shape[0], **options)


@torch.no_grad()
def counted(function):
    with Counter() as counter:
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
    shape = causal(tokens, context=context).plus(Shape(logits=tokens))
    assert cost_of(policy).forward(shape) == pytest.approx(expected, rel=0.02)


def test_a_plain_forward_costs_what_is_counted():
    policy = eager()
    cost = cost_of(policy)
    ids = torch.full((3, 6), 5)
    found = counted(lambda: policy.model(ids, use_cache=False))
    # A plain forward computes the upper triangle of attention too, and masks it away.
    whole = Shape(3 * 6, 3 * 6 * 6, 3 * 6)
    assert cost.forward(whole) == pytest.approx(found, rel=0.02)


def test_sharing_a_prompt_saves_its_repetitions():
    cost = cost_of(eager())
    shared = cost.forward(asked([50], [(0, 5)] * 4))
    apart = cost.forward(asked([50] * 4, [(row, 5) for row in range(4)]))
    assert apart - shared == pytest.approx(3 * cost.forward(causal(50)))


def test_linear_maps_never_run_padding():
    policy = tiny.policy()
    batch = tiny.batch(policy, tiny.RAGGED)
    work, run = Work.of(batch), packed_forward(batch)
    assert run.tokens == work.asked.tokens
    assert run.logits == work.asked.logits == work.tokens
    assert run.pairs > work.asked.pairs


def test_what_is_asked_for_does_not_depend_on_how_it_is_batched():
    useful, executed = {}, {}
    for tokens in (1, 40, 10_000):
        with tiny.training(tiny.spec("ppo", update={"micro_batch_tokens": tokens})) as run:
            record = run.step()
        useful[tokens] = record["budget/flops"]
        executed[tokens] = sum(value for name, value in record.items() if name.endswith("/executed"))
        assert executed[tokens] > useful[tokens]
    assert len(set(useful.values())) == 1
    assert executed[1] > executed[10_000]


@contextlib.contextmanager
def counting_phases(run):
    """What torch's counter sees in each phase."""
    seen, phase = defaultdict(float), run.meter.phase

    @contextlib.contextmanager
    def counting(name):
        with phase(name), Counter() as counter:
            yield
        seen[name] += counter.get_total_flops()

    run.meter.phase = counting
    yield seen


SEVERAL = {"update": {"epochs": 2, "minibatches": 2}}
SETTINGS = {
    "one update": {},
    "several": SEVERAL,
    "small micro-batches": {"update": {"micro_batch_tokens": 30}},
    "KL in the loss": {"kl": {"coefficient": 0.1, "placement": "loss", "estimator": "k3"}},
    "checkpointed": {"update": {"gradient_checkpointing": True}},
    "logits made twice": {},
    "warm-up": {"critic": {"warmup_steps": 1}},
    "small engine batches": {"rollout": {"engine_batch": 5}},
}


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("learner", ["grpo", "ppo separate", "ppo shared"])
def test_every_phases_executed_flops_are_those_that_torch_counts(learner, settings, monkeypatch):
    tables = {name: dict(table) for name, table in SETTINGS[settings].items()}
    name, _, kind = learner.partition(" ")
    if kind:
        tables["critic"] = {"learning_rate": 1e-3, **tables.get("critic", {}), "kind": kind}
    start = tiny.policy()
    if settings == "checkpointed":
        checkpoint_layers(start.model)
    if settings == "logits made twice":
        monkeypatch.setattr(lm_head, "KEPT_BYTES", 0)
    with tiny.training(tiny.spec(name, **tables), start=start) as run, counting_phases(run) as seen:
        run.step()
        executed = dict(run.meter.executed_flops)
    assert set(executed) == {phase for phase, flops in seen.items() if flops}
    for phase, flops in executed.items():
        assert flops == pytest.approx(seen[phase], rel=0.005), phase


def test_a_prompts_rectangle_is_as_wide_as_the_longest():
    assert packed([3, 5], [1, 4]) == Shape(3 + 5 + 0 + 3, 2 * 25 + 2 * 3 * (5 + 3), 1 + 4)
