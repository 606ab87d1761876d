"""The vocabulary's map against plain softmax, its gradient by differences, and drawing by inversion."""

import pytest
import torch

from harness.model import lm_head
from harness.model.lm_head import draw, inverse_cdf, token_logprobs

GENERATOR = torch.Generator().manual_seed(0)


def made(rows=7, width=5, words=11, dtype=torch.float64):
    hidden, weight, bias = (
        torch.randn(shape, generator=GENERATOR, dtype=dtype).requires_grad_()
        for shape in ((rows, width), (words, width), (words,))
    )
    return hidden, weight, bias, torch.randint(0, words, (rows,), generator=GENERATOR)


def plain(hidden, weight, bias, tokens, temperature):
    logits = torch.nn.functional.linear(hidden, weight, bias) / temperature
    distribution = torch.distributions.Categorical(logits=logits)
    return distribution.log_prob(tokens), distribution.entropy()


@pytest.mark.parametrize("kept", [0, 2**30], ids=["recomputed", "kept"])
@pytest.mark.parametrize("chunk", [4, 2**20], ids=["row by row", "at once"])
@pytest.mark.parametrize("biased", [True, False])
def test_log_probabilities_and_gradients_are_those_of_a_plain_softmax(monkeypatch, kept, chunk, biased):
    monkeypatch.setattr(lm_head, "KEPT_BYTES", kept)
    monkeypatch.setattr(lm_head, "CHUNK_BYTES", chunk)
    hidden, weight, bias, tokens = made(dtype=torch.float32)
    inputs = (hidden, weight, bias) if biased else (hidden, weight)
    outer = torch.randn(7, generator=GENERATOR)
    logprobs, entropies = token_logprobs(hidden, weight, bias if biased else None, tokens, temperature=0.7)
    expected, spread = plain(hidden, weight, bias if biased else None, tokens, 0.7)
    torch.testing.assert_close(logprobs, expected)
    torch.testing.assert_close(entropies, spread)
    assert not entropies.requires_grad
    mine = torch.autograd.grad((logprobs * outer).sum(), inputs)
    theirs = torch.autograd.grad((expected * outer).sum(), inputs)
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_a_second_backward_is_refused():
    hidden, weight, bias, tokens = made(dtype=torch.float32)
    total = token_logprobs(hidden, weight, bias, tokens, temperature=1.0)[0].sum()
    total.backward(retain_graph=True)
    with pytest.raises(AssertionError, match="second backward"):
        total.backward()


@pytest.mark.parametrize("words", [3, 1024, 1025, 5000])
def test_blocks_find_the_index_that_a_running_sum_finds(words):
    weights = torch.rand(64, words, generator=GENERATOR) * (torch.rand(64, words, generator=GENERATOR) < 0.3)
    weights[:, words // 2] += 0.1
    uniform = torch.rand(64, 1, generator=GENERATOR, dtype=torch.float64)
    found = inverse_cdf(weights, uniform)
    upto = weights.double().cumsum(1)
    expected = torch.searchsorted(upto, uniform * upto[:, -1:], right=True)
    assert (found == expected).float().mean() > 0.98
    assert bool((weights.gather(1, found) > 0).all())


def test_greedy_takes_the_most_likely_word_with_its_log_probability_at_one():
    logits = torch.randn(5, 3000, generator=GENERATOR)
    tokens, logprobs = draw(logits, torch.zeros(5, dtype=torch.float64), 0.0)
    assert tokens.tolist() == logits.argmax(1).tolist()
    torch.testing.assert_close(logprobs, logits.log_softmax(1).amax(1))
