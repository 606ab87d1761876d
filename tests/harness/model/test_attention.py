"""Packed attention against transformers' own on a model with a sliding window, and what packing refuses."""

import pytest
import tiny
import torch
from transformers import MistralConfig, MistralForCausalLM

from harness.engines.base import Request, Sampling
from harness.engines.packed_linears import PackedLinears
from harness.engines.torch_engine import TorchEngine
from harness.model.attention import Rectangle, plain_attention
from harness.model.policy import Policy
from reports.record.errors import UserError

WINDOW = 5


def sliding() -> Policy:
    config = MistralConfig(
        vocab_size=tiny.VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, sliding_window=WINDOW, initializer_range=0.2,
        bos_token_id=None, eos_token_id=tiny.EOS, pad_token_id=None,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Policy(MistralForCausalLM(config).eval(), tiny.tokenizer())


@torch.no_grad()
def whole_logprobs(policy, prompt, response):
    """Log-probabilities of a response by transformers' own forward over the one whole sequence."""
    with plain_attention(policy.model):
        logits = policy.model(torch.tensor([[*prompt, *response]]), use_cache=False).logits[0]
    table = logits[len(prompt) - 1 : -1].log_softmax(1)
    return table[torch.arange(len(response)), torch.tensor(response)]


@pytest.mark.parametrize("policy", [tiny.policy(), sliding()], ids=["llama", "sliding window"])
def test_packed_and_sampled_log_probabilities_equal_a_whole_forward(policy):
    batch = tiny.batch(policy, tiny.RAGGED)
    logprobs = policy.forward(batch).logprobs.detach()
    for row in range(batch.size):
        length, at = int(batch.mask[row].sum()), batch.prompt_of[row]
        prompt = batch.prompt_ids[at][batch.prompt_mask[at].bool()].tolist()
        expected = whole_logprobs(policy, prompt, batch.response_ids[row, :length].tolist())
        torch.testing.assert_close(logprobs[row, :length], expected, rtol=1e-4, atol=1e-5)
    wanted = [Request(tuple(range(2, 2 + n)), 10 * n + s) for n in (1, 4, 11) for s in range(3)]
    for request, done in zip(
        wanted, TorchEngine(policy, batch_size=9).generate(wanted, Sampling(1.0, 12)), strict=True
    ):
        expected = whole_logprobs(policy, request.prompt_ids, done.token_ids)
        torch.testing.assert_close(torch.tensor(done.logprobs), expected, rtol=1e-4, atol=1e-5)


def test_a_window_changes_what_a_long_sequence_sees():
    policy = sliding()
    prompt = tuple(range(2, 14))
    near = whole_logprobs(policy, prompt, [3])
    far = whole_logprobs(policy, (9, *prompt[1:]), [3])
    # Two layers reach back twice the window, and the first token lies beyond.
    torch.testing.assert_close(near, far)


@pytest.mark.parametrize("lengths", [[3, 1, 4], [2, 2], [0, 3, 0], [5]])
def test_packing_undoes_padding(lengths):
    rectangle = Rectangle(torch.tensor(lengths))
    packed = torch.randn(sum(lengths), 2, 3, requires_grad=True)
    padded = rectangle.pad(packed)
    assert padded.shape == (len(lengths), max(lengths), 2, 3)
    again = rectangle.pack(padded)
    assert torch.equal(again, packed)
    weight = torch.randn(again.shape)
    (gradient,) = torch.autograd.grad((again * weight).sum(), packed)
    assert torch.equal(gradient, weight)


def test_a_model_called_in_its_own_way_needs_its_own_attention():
    policy = tiny.policy()
    with pytest.raises(UserError, match="does not take packed tokens"):
        policy.model(torch.tensor([[2, 3]]))
    with plain_attention(policy.model):
        assert policy.model(torch.tensor([[2, 3]])).logits.shape == (1, 2, tiny.VOCABULARY)


def test_packed_linear_maps_give_the_same_numbers_and_are_put_back(monkeypatch):
    monkeypatch.setattr("harness.engines.packed_linears.WORTHWHILE_BYTES", 0)
    policy = tiny.policy()
    x = torch.randn(5, 32)
    linear = policy.model.model.layers[0].mlp.up_proj
    expected, before = linear(x), linear.forward
    packed = PackedLinears()
    packed.take(policy)
    with torch.no_grad(), packed:
        assert linear.forward is not before
        torch.testing.assert_close(linear(x), expected)
        linear.weight.mul_(2)
        torch.testing.assert_close(linear(x), expected)
    assert linear.forward is before
    packed.drop()
    packed.take(policy)
    with torch.no_grad(), packed:
        torch.testing.assert_close(linear(x), 2 * expected)
