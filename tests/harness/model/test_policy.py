"""The shared-prefix forward against the plain one, the critic's beginnings, and what hashes and copies promise."""

import copy
import math
from dataclasses import replace

import pytest
import tiny
import torch

from algorithms.settings import CriticTable
from harness.model.attention import plain_attention
from harness.model.critic import Critic
from reports.record.errors import UserError
from suites.task import Prompt

SHAPES = {
    "ragged": tiny.RAGGED,
    "even": tiny.EVEN,
    "one sequence": [(4, [6])],
    "one token": [(4, [1])],
    "only single tokens": [(3, [1, 1]), (7, [1])],
}
each_shape = pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)


def separate(policy):
    return tiny.grow_head(Critic(policy, CriticTable(kind="separate")))


def shared(policy):
    return tiny.grow_head(Critic(policy, CriticTable(kind="shared")))


def naive(policy, batch, critic=None):
    """(log-probabilities, entropies, values) by one plain forward over whole sequences, padded on the right."""
    sequences = []
    for row in range(batch.size):
        prompt = batch.prompt_ids[batch.prompt_of[row]][batch.prompt_mask[batch.prompt_of[row]].bool()]
        sequences.append((prompt, batch.response_ids[row][batch.mask[row].bool()]))
    width = max(len(prompt) + len(response) for prompt, response in sequences)
    ids, mask = torch.zeros(batch.size, width, dtype=torch.long), torch.zeros(batch.size, width, dtype=torch.long)
    for row, (prompt, response) in enumerate(sequences):
        ids[row, : len(prompt) + len(response)] = torch.cat([prompt, response])
        mask[row, : len(prompt) + len(response)] = 1
    trunk = policy.backbone if critic is None or critic.trunk is None else critic.trunk
    with plain_attention(policy.model, trunk):
        logits = policy.model(input_ids=ids, attention_mask=mask, use_cache=False).logits / policy.temperature
        hidden = trunk(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    states = hidden[..., 0] if critic is None else critic.head(hidden)[..., 0]
    shape = batch.mask.shape
    results = []
    for row, (prompt, response) in enumerate(sequences):
        # What predicts response token t, and is the state before it, stands at len(prompt) - 1 + t.
        at = torch.arange(len(response)) + len(prompt) - 1
        distribution = torch.distributions.Categorical(logits=logits[row, at])
        results.append((distribution.log_prob(response), distribution.entropy(), states[row, at]))
    columns = zip(*results, strict=True)
    return tuple(torch.stack([torch.cat([x, x.new_zeros(shape[1] - len(x))]) for x in column]) for column in columns)


def close(actual, expected, tolerance=2e-5):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


@each_shape
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_shared_prefix_forward_equals_a_plain_forward(shapes, temperature):
    policy = tiny.policy(temperature=temperature)
    batch = tiny.batch(policy, shapes)
    critic = separate(policy)
    with torch.no_grad():
        logprobs, entropy, values = naive(policy, batch, critic)
        outputs = policy.forward(batch)
        close(outputs.logprobs, logprobs)
        close(outputs.entropy, entropy)
        close(critic.values(batch) * batch.mask, values)
    assert outputs.values is None
    # A uniform distribution would hide what attention reads.
    assert float(entropy[batch.mask.bool()].mean()) < 0.9 * math.log(tiny.VOCABULARY)


@each_shape
def test_a_shared_trunk_makes_the_values_a_plain_forward_makes(shapes):
    policy = tiny.policy()
    batch, critic = tiny.batch(policy, shapes), shared(policy)
    with torch.no_grad():
        _, _, values = naive(policy, batch, critic)
        close(policy.forward(batch, critic).values * batch.mask, values)
        close(critic.values(batch) * batch.mask, values)


def gradients(loss, *modules):
    parameters = [p for module in modules for p in module.parameters()]
    return torch.autograd.grad(loss, parameters, allow_unused=True)


def same_gradients(actual, expected):
    assert sum(g is not None and bool(g.abs().max() > 1e-3) for g in expected) > 10
    for mine, plain in zip(actual, expected, strict=True):
        mine = torch.zeros_like(plain) if mine is None and plain is not None else mine
        plain = torch.zeros_like(mine) if plain is None and mine is not None else plain
        if plain is not None:
            torch.testing.assert_close(mine, plain, rtol=1e-4, atol=1e-5 * max(1.0, float(plain.abs().max())))


@each_shape
def test_policy_gradients_equal_those_of_a_plain_forward(shapes):
    policy = tiny.policy(temperature=0.8)
    batch = tiny.batch(policy, shapes)
    weight = torch.randn(batch.mask.shape, generator=torch.Generator().manual_seed(1)) * batch.mask
    mine = gradients((policy.forward(batch).logprobs * weight).sum(), policy.model)
    plain = gradients((naive(policy, batch)[0] * weight).sum(), policy.model)
    same_gradients(mine, plain)


@each_shape
@pytest.mark.parametrize("kind", [separate, shared])
def test_critic_gradients_equal_those_of_a_plain_forward(shapes, kind):
    policy = tiny.policy()
    batch, critic = tiny.batch(policy, shapes), kind(policy)
    weight = torch.randn(batch.mask.shape, generator=torch.Generator().manual_seed(2)) * batch.mask
    outputs = policy.forward(batch, critic) if critic.shared else None
    logprobs, _, states = naive(policy, batch, critic)
    if critic.shared:
        modules = (policy.model, critic.head)
        mine = gradients(((outputs.values + outputs.logprobs) * weight).sum(), *modules)
        plain = gradients(((states + logprobs) * weight).sum(), *modules)
    else:
        modules = (critic.trunk, critic.head)
        mine = gradients((critic.values(batch) * weight).sum(), *modules)
        plain = gradients((states * weight).sum(), *modules)
    same_gradients(mine, plain)


def test_a_separate_critic_sends_no_gradient_to_the_policy():
    policy = tiny.policy()
    critic = separate(policy)
    critic.values(tiny.batch(policy, tiny.RAGGED)).sum().backward()
    assert all(p.grad is None for p in policy.model.parameters())


def test_a_detached_trunk_gets_no_gradient_from_the_value():
    policy = tiny.policy()
    critic = shared(policy)
    policy.forward(tiny.batch(policy, tiny.RAGGED), critic, trunk_gradient=False).values.sum().backward()
    assert all(p.grad is None for p in policy.model.parameters())
    assert critic.head.weight.grad.abs().max() > 0


def widened(batch, policy, columns):
    size = batch.prompt_ids.shape[0]
    ids = torch.full((size, columns), policy.pad_id)
    return replace(
        batch,
        prompt_ids=torch.cat([ids, batch.prompt_ids], 1),
        prompt_mask=torch.cat([torch.zeros_like(ids), batch.prompt_mask], 1),
    )


def test_left_padding_changes_nothing():
    policy = tiny.policy()
    critic, batch = separate(policy), tiny.batch(policy, tiny.RAGGED)
    wide = widened(batch, policy, 30)
    weight = torch.randn(batch.mask.shape, generator=torch.Generator().manual_seed(3)) * batch.mask
    narrow_outputs, wide_outputs = policy.forward(batch), policy.forward(wide)
    close(wide_outputs.logprobs, narrow_outputs.logprobs)
    close(wide_outputs.entropy, narrow_outputs.entropy)
    close(critic.values(wide) * batch.mask, critic.values(batch) * batch.mask)
    same_gradients(
        gradients((wide_outputs.logprobs * weight).sum(), policy.model),
        gradients((narrow_outputs.logprobs * weight).sum(), policy.model),
    )


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_prompts_of_very_different_lengths_give_no_nan(attention):
    policy = tiny.policy()
    policy.model.set_attn_implementation(attention)
    batch = tiny.batch(policy, [(1, [2, 9]), (60, [4, 1])])
    outputs = policy.forward(batch, shared(policy))
    assert all(bool(x.isfinite().all()) for x in outputs)
    (outputs.logprobs.sum() + (outputs.values * batch.mask).sum()).backward()
    assert all(bool(p.grad.isfinite().all()) for p in policy.model.parameters())


def test_a_sequence_does_not_depend_on_who_shares_its_batch():
    policy = tiny.policy()
    batch = tiny.batch(policy, tiny.RAGGED)
    with torch.no_grad():
        together = policy.forward(batch)
        for row in range(batch.size):
            alone = policy.forward(batch.select(torch.tensor([row])))
            length = int(batch.mask[row].sum())
            close(alone.logprobs[0], together.logprobs[row, :length])
            close(alone.entropy[0], together.entropy[row, :length])


def test_pad_token_equal_to_eos_changes_nothing():
    plain, padded_by_eos = tiny.policy(), tiny.policy(pad_is_eos=True)
    assert (plain.pad_id, padded_by_eos.pad_id) == (tiny.PAD, tiny.EOS)
    assert plain.weights_sha256() == padded_by_eos.weights_sha256()
    one, other = tiny.batch(plain, tiny.RAGGED), tiny.batch(padded_by_eos, tiny.RAGGED)
    assert not torch.equal(one.response_ids, other.response_ids)
    for name in ("mask", "loss_mask", "prompt_mask"):
        assert torch.equal(getattr(one, name), getattr(other, name))
    with torch.no_grad():
        for mine, theirs in zip(plain.forward(one)[:2], padded_by_eos.forward(other)[:2], strict=True):
            close(mine, theirs, 1e-6)


def test_what_stands_under_the_padding_is_never_read():
    policy = tiny.policy()
    batch = tiny.batch(policy, tiny.RAGGED)
    other = replace(
        batch,
        prompt_ids=batch.prompt_ids.where(batch.prompt_mask.bool(), 7),
        response_ids=batch.response_ids.where(batch.mask.bool(), 9),
    )
    with torch.no_grad():
        for mine, theirs in zip(policy.forward(batch)[:2], policy.forward(other)[:2], strict=True):
            close(mine, theirs, 1e-6)


def test_log_probabilities_are_zero_off_the_mask():
    policy = tiny.policy()
    batch = tiny.batch(policy, tiny.RAGGED)
    outputs = policy.forward(batch)
    assert torch.equal(outputs.logprobs * (1 - batch.mask), torch.zeros_like(batch.mask))
    assert torch.equal(outputs.entropy * (1 - batch.mask), torch.zeros_like(batch.mask))
    assert bool((outputs.logprobs[batch.mask.bool()] < 0).all())


def test_a_higher_temperature_flattens_the_distribution():
    batch = tiny.batch(tiny.policy(), tiny.RAGGED)
    with torch.no_grad():
        entropies = [float(tiny.policy(temperature=t).forward(batch).entropy.sum()) for t in (0.5, 1.0, 2.0)]
        flat = tiny.policy(temperature=1e6).forward(batch).logprobs[batch.mask.bool()]
    assert entropies == sorted(entropies)
    close(flat, torch.full_like(flat, 1 / tiny.VOCABULARY).log(), 1e-4)


@pytest.mark.parametrize("kind", [separate, shared])
def test_the_value_is_that_of_the_state_before_the_token(kind):
    policy = tiny.policy()
    critic, batch = kind(policy), tiny.batch(policy, [(4, [8])])
    changed = batch.response_ids.clone()
    changed[0, 3] = tiny.EOS if changed[0, 3] != tiny.EOS else tiny.PAD
    with torch.no_grad():
        before = critic.values(batch)
        after = critic.values(replace(batch, response_ids=changed))
    assert torch.equal(before[:, :4], after[:, :4])
    assert bool(((before - after)[:, 4:].abs() > 1e-4).all())


@pytest.mark.parametrize("kind", ["separate", "shared"])
def test_a_new_critic_says_exactly_zero(kind):
    policy = tiny.policy()
    critic = Critic(policy, CriticTable(kind=kind))
    values = critic.values(tiny.batch(policy, tiny.RAGGED))
    assert torch.equal(values, torch.zeros_like(values))


def test_a_separate_critic_begins_as_the_policy_and_shares_no_storage():
    policy = tiny.policy()
    critic = Critic(policy, CriticTable(kind="separate"))
    trunk = dict(critic.trunk.named_parameters())
    for name, parameter in policy.backbone.named_parameters():
        assert torch.equal(parameter, trunk[name])
    mine = {p.untyped_storage().data_ptr() for p in critic.parameters}
    assert not mine & {p.untyped_storage().data_ptr() for p in policy.model.parameters()}
    assert {id(p) for p in critic.parameters} == {id(p) for p in [*trunk.values(), *critic.head.parameters()]}


def test_a_shared_critic_owns_only_its_head():
    critic = Critic(tiny.policy(), CriticTable(kind="shared"))
    assert critic.trunk is None
    assert [id(p) for p in critic.parameters] == [id(p) for p in critic.head.parameters()]


def test_the_frozen_reference_stays_while_the_policy_moves():
    policy = tiny.policy(temperature=0.7)
    reference = policy.frozen_copy()
    batch, before = tiny.batch(policy, tiny.RAGGED), policy.weights_sha256()
    assert reference.weights_sha256() == before
    assert reference.temperature == policy.temperature
    assert not any(p.requires_grad for p in reference.model.parameters())
    assert all(p.requires_grad for p in policy.model.parameters())
    expected = reference.forward(batch).logprobs
    assert torch.equal(expected, policy.forward(batch).logprobs.detach())
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.add_(0.01)
    assert reference.weights_sha256() == before
    assert torch.equal(reference.forward(batch).logprobs, expected)
    assert not torch.allclose(policy.forward(batch).logprobs, expected)


def test_the_weights_hash_changes_exactly_with_a_weight():
    policy = tiny.policy()
    before = policy.weights_sha256()
    assert copy.deepcopy(policy).weights_sha256() == before
    assert tiny.policy(seed=0).weights_sha256() == before
    assert tiny.policy(seed=1).weights_sha256() != before
    for parameter in policy.model.parameters():
        kept = parameter.detach().clone()
        with torch.no_grad():
            parameter.view(-1)[-1] = torch.nextafter(parameter.view(-1)[-1], torch.tensor(torch.inf))
            assert policy.weights_sha256() != before
            parameter.copy_(kept)
    policy.forward(tiny.batch(policy, tiny.RAGGED)).logprobs.sum().backward()
    assert policy.weights_sha256() == before


def test_a_policy_computes_in_its_dtype_and_keeps_float32_weights():
    exact, rounded = tiny.policy(), tiny.policy(dtype="bfloat16")
    batch = tiny.batch(exact, tiny.RAGGED)
    outputs = rounded.forward(batch, shared(rounded))
    assert {x.dtype for x in outputs} == {torch.float32}
    assert {p.dtype for p in rounded.model.parameters()} == {torch.float32}
    difference = (outputs.logprobs - exact.forward(batch).logprobs).abs().max()
    assert 1e-4 < difference < 0.5
    outputs.logprobs.sum().backward()
    assert {p.grad.dtype for p in rounded.model.parameters() if p.grad is not None} == {torch.float32}


def test_a_prompt_over_the_limit_is_refused_by_name():
    policy, prompt = tiny.policy(), Prompt("p7", "0123456789", "0")
    assert policy.encode(prompt, limit=10) == tuple(range(2, 12))
    with pytest.raises(UserError, match=r"'p7' has 10 tokens; .*max_prompt_tokens = 9"):
        policy.encode(prompt, limit=9)
    with pytest.raises(UserError, match="'p8' has 0 tokens"):
        policy.encode(Prompt("p8", "", "0"), limit=9)


def test_a_chat_template_gets_no_second_bos():
    policy = tiny.policy()
    policy.tokenizer.bos_token = "f"
    policy.tokenizer.chat_template = "{{ bos_token }}{{ messages[0]['content'] }}?"
    assert policy.decode(policy.encode(Prompt("p", "12", "0", chat=True), limit=9)) in ("f12?", "12?")
    assert len(policy.encode(Prompt("p", "12", "0", chat=True), limit=9)) == 4
