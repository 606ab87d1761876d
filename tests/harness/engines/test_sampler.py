"""The sampler: the trainer's own distribution, keyed randomness, and endings."""

import math
import random
from collections import Counter

import numpy as np
import pytest
import scipy.stats
import tiny
import torch

from harness.engines.base import Request, Sampling
from harness.engines.torch_engine import TorchEngine, uniforms
from harness.learn.batching import collate
from harness.learn.rollout import Rollout
from harness.model.attention import plain_attention
from harness.model.lm_head import draw
from suites.task import Prompt, Reward

CAP = 12


def prompts(count, seed=0, longest=20):
    rng = random.Random(seed)
    return [tuple(rng.randrange(2, tiny.VOCABULARY) for _ in range(rng.randint(1, longest))) for _ in range(count)]


def requests(count=6, samples=3, seed=0):
    return [
        Request(ids, 1000 * row + sample) for row, ids in enumerate(prompts(count, seed)) for sample in range(samples)
    ]


def sample(policy, wanted, *, batch_size=64, temperature=1.0, cap=CAP, ignore_eos=False):
    return TorchEngine(policy, batch_size=batch_size).generate(wanted, Sampling(temperature, cap, ignore_eos))


def same(completions, others):
    for one, other in zip(completions, others, strict=True):
        assert one.token_ids == other.token_ids
        assert one.text == other.text
        assert one.truncated == other.truncated
        np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 0.7, 1.8])
def test_log_probabilities_equal_the_trainers(temperature):
    policy = tiny.policy(temperature=temperature)
    wanted = requests()
    completions = sample(policy, wanted, temperature=temperature)
    groups = {ids: row for row, ids in enumerate(dict.fromkeys(r.prompt_ids for r in wanted))}
    rollouts = [
        Rollout(Prompt("p", "", ""), r.prompt_ids, groups[r.prompt_ids], c, Reward(0.0, False, None))
        for r, c in zip(wanted, completions, strict=True)
    ]
    batch = collate(policy, rollouts, mask_truncated=False)
    engine_logprobs = batch.engine_logprobs
    trainer = policy.forward(batch).logprobs.detach()
    torch.testing.assert_close(engine_logprobs, trainer, rtol=0, atol=1e-5)
    assert len({len(c.token_ids) for c in completions}) > 3


def test_greedy_equals_a_loop_without_cache():
    policy = tiny.policy()
    wanted = [Request(ids, 0) for ids in prompts(9, seed=4)]
    for request, completion in zip(wanted, sample(policy, wanted, temperature=0.0), strict=True):
        ids, logprobs = list(request.prompt_ids), []
        while len(ids) - len(request.prompt_ids) < CAP:
            with torch.no_grad(), plain_attention(policy.model):
                logits = policy.model(torch.tensor([ids]), use_cache=False).logits[0, -1]
            ids.append(int(logits.argmax()))
            logprobs.append(float(logits.log_softmax(0)[ids[-1]]))
            if ids[-1] == tiny.EOS:
                break
        assert completion.token_ids == tuple(ids[len(request.prompt_ids) :])
        np.testing.assert_allclose(completion.logprobs, logprobs, atol=1e-5)


def test_a_completion_does_not_depend_on_who_shares_its_batch():
    policy, wanted = tiny.policy(), requests()
    together = sample(policy, wanted)
    same(together, [sample(policy, [request])[0] for request in wanted])


@pytest.mark.parametrize("batch_size", [1, 2, 5, 17])
def test_a_completion_does_not_depend_on_the_batch_size(batch_size):
    policy, wanted = tiny.policy(), requests()
    same(sample(policy, wanted), sample(policy, wanted, batch_size=batch_size))


def test_a_completion_does_not_depend_on_the_order_of_requests():
    policy, wanted = tiny.policy(), requests()
    order = random.Random(1).sample(range(len(wanted)), len(wanted))
    shuffled = sample(policy, [wanted[i] for i in order], batch_size=7)
    same([sample(policy, wanted)[i] for i in order], shuffled)


@pytest.mark.parametrize("share", [0.01, 0.5, 2.0])
def test_a_completion_does_not_depend_on_sequences_that_leave_early(share, monkeypatch):
    policy, wanted = tiny.policy(), requests()
    expected = sample(policy, wanted, cap=30)
    monkeypatch.setattr("harness.engines.torch_engine.LEAVE_SHARE", share)
    same(expected, sample(policy, wanted, cap=30))
    assert len({len(c.token_ids) for c in expected}) > 5


def test_a_completion_does_not_depend_on_the_cap_but_for_its_end():
    policy, wanted = tiny.policy(), requests()
    for short, long in zip(sample(policy, wanted, cap=4), sample(policy, wanted, cap=30), strict=True):
        assert short.token_ids == long.token_ids[:4]


def test_the_same_seed_draws_the_same_tokens_and_another_seed_others():
    policy, wanted = tiny.policy(), requests(count=4, samples=4)
    first, again = sample(policy, wanted), sample(policy, wanted)
    assert first == again
    others = sample(policy, [Request(r.prompt_ids, r.seed + 500) for r in wanted])
    assert sum(a.token_ids != b.token_ids for a, b in zip(first, others, strict=True)) > 12
    assert len({c.token_ids for c in first[:4]}) == 4  # the samples of a prompt differ


def test_sampling_leaves_the_global_random_state_alone():
    torch.manual_seed(3)
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    sample(tiny.policy(), requests())
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002


def frequencies_fit(counts, probabilities):
    """Chi-square at 1 in 1000, the rare tokens taken together."""
    total = sum(counts.values())
    common = [t for t, p in enumerate(probabilities.tolist()) if p * total >= 10]
    rest = total - sum(counts[t] for t in common)
    observed = [counts[t] for t in common] + [rest]
    expected = [float(probabilities[t]) * total for t in common]
    expected.append(total - sum(expected))
    if expected[-1] < 5:
        observed, expected = observed[:-1], [e * sum(observed[:-1]) / sum(expected[:-1]) for e in expected[:-1]]
    assert len(common) > 3
    return scipy.stats.chisquare(observed, expected).pvalue > 1e-3


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.7])
def test_frequencies_follow_the_softmax_at_the_temperature(temperature):
    policy, prompt = tiny.policy(seed=2), (5, 9, 12)
    completions = sample(policy, [Request(prompt, s) for s in range(6000)], batch_size=6000, cap=2,
                         temperature=temperature)  # fmt: skip
    with torch.no_grad(), plain_attention(policy.model):
        first = policy.model(torch.tensor([prompt])).logits[0, -1]
    counts = Counter(c.token_ids[0] for c in completions)
    assert frequencies_fit(counts, (first / temperature).softmax(0))
    assert not frequencies_fit(counts, (first / (temperature * 1.4)).softmax(0))
    common = next(token for token, _ in counts.most_common() if token != tiny.EOS)
    with torch.no_grad(), plain_attention(policy.model):
        second = policy.model(torch.tensor([[*prompt, common]])).logits[0, -1]
    followers = Counter(c.token_ids[1] for c in completions if c.token_ids[0] == common)
    assert frequencies_fit(followers, (second / temperature).softmax(0))


def test_ignoring_the_end_gives_every_completion_its_full_length():
    completions = sample(tiny.policy(), requests(), ignore_eos=True)
    assert {len(c.token_ids) for c in completions} == {CAP}
    assert any(tiny.EOS in c.token_ids[:-1] for c in completions)
    assert all(c.truncated for c in completions)


def test_the_end_token_is_kept_as_the_last_and_only_the_cap_truncates():
    completions = sample(tiny.policy(), requests(count=20))
    ended = [c for c in completions if not c.truncated]
    cut = [c for c in completions if c.truncated]
    assert ended
    assert cut
    assert all(c.token_ids[-1] == tiny.EOS and tiny.EOS not in c.token_ids[:-1] for c in ended)
    assert all(len(c.token_ids) == CAP and tiny.EOS not in c.token_ids for c in cut)
    assert any(len(c.token_ids) == 1 for c in ended)


def test_an_end_at_the_cap_itself_is_not_a_truncation():
    policy, wanted = tiny.policy(), requests(count=20)
    longer = sample(policy, wanted, cap=30)
    row = next(i for i, c in enumerate(longer) if not c.truncated and 2 <= len(c.token_ids) <= 12)
    cap = len(longer[row].token_ids)
    at_cap = sample(policy, wanted, cap=cap)[row]
    assert at_cap.token_ids == longer[row].token_ids
    assert not at_cap.truncated
    assert sample(policy, wanted, cap=cap - 1)[row].truncated


def test_a_cap_of_one_token_works():
    completions = sample(tiny.policy(), requests(), cap=1)
    assert {len(c.token_ids) for c in completions} == {1}
    assert all(c.truncated == (c.token_ids[0] != tiny.EOS) for c in completions)


def test_the_text_leaves_out_special_tokens():
    for completion in sample(tiny.policy(), requests()):
        characters = [tiny.CHARACTERS[t - 2] for t in completion.token_ids if t > tiny.EOS]
        assert completion.text == "".join(characters)


def test_log_probabilities_move_with_the_weights():
    policy = tiny.policy()
    engine = TorchEngine(policy, batch_size=8)
    wanted, sampling = [Request((3, 4, 5), 1)], Sampling(0.0, 1)
    before = engine.generate(wanted, sampling)[0].logprobs[0]
    with torch.no_grad(), plain_attention(policy.model):
        policy.head.weight.mul_(0.5)
    engine.sync()
    after = engine.generate(wanted, sampling)[0].logprobs[0]
    with plain_attention(policy.model):
        logits = policy.model(torch.tensor([[3, 4, 5]])).logits[0, -1].detach()
    assert abs(after - before) > 1e-3
    assert after == pytest.approx(float(logits.log_softmax(0).max()), abs=1e-5)


def test_pad_token_equal_to_eos_changes_no_completion():
    wanted = requests()
    plain, padded_by_eos = sample(tiny.policy(), wanted), sample(tiny.policy(pad_is_eos=True), wanted)
    assert [(c.token_ids, c.truncated) for c in plain] == [(c.token_ids, c.truncated) for c in padded_by_eos]


def test_no_requests_give_no_completions():
    assert sample(tiny.policy(), []) == []


def test_uniforms_depend_on_the_seed_alone_and_shorter_ones_are_a_prefix():
    assert np.array_equal(uniforms(7, 5), uniforms(7, 9)[:5])
    assert not np.array_equal(uniforms(7, 5), uniforms(8, 5))
    assert uniforms(2**63 - 1, 3).shape == (3,)


def test_a_token_without_probability_is_never_drawn():
    logits = torch.tensor([[-math.inf, 0.0, -math.inf, 0.0, -math.inf]])
    for uniform, token in [(0.0, 1), (0.49, 1), (0.5, 3), (1 - 2**-53, 3)]:
        tokens, logprobs = draw(logits, torch.tensor([uniform], dtype=torch.float64), 1.0)
        assert tokens.tolist() == [token]
        assert logprobs.tolist() == pytest.approx([math.log(0.5)])


def test_a_draw_inverts_the_cumulative_distribution():
    probabilities = torch.tensor([0.1, 0.2, 0.3, 0.4])
    points = torch.linspace(0.005, 0.995, 100, dtype=torch.float64)
    tokens, _ = draw(probabilities.log().expand(100, 4), points, 1.0)
    assert Counter(tokens.tolist()) == {0: 10, 1: 20, 2: 30, 3: 40}
    assert tokens.tolist() == sorted(tokens.tolist())
