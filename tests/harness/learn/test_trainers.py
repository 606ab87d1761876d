"""Updates: accumulated gradients equal one batch's, warm-up, clipping, and what stops a run."""

from collections import defaultdict
from dataclasses import replace

import pytest
import tiny
import torch
from transformers.modeling_layers import GradientCheckpointingLayer

from algorithms.base import Credit, Mean
from algorithms.losses import AGGREGATIONS, aggregate, clipped_surrogate, clipped_value_loss
from harness.config.tables import ModelTable
from harness.learn.critic_trainer import OnePassCritic, SeparateCritic, SharedCritic
from harness.learn.learner import Learner
from harness.learn.optimizer import Diverged, Optimized, StepLog
from harness.learn.policy_trainer import PolicyTrainer, logprob_gap
from harness.measure.meter import Meter
from harness.model.critic import Critic
from harness.model.policy import Policy
from harness.model.run_models import RunModels
from harness.model.weights import checkpoint_layers
from reports.record.errors import UserError

LEARNERS = {"grpo": ("grpo", "separate"), "ppo separate": ("ppo", "separate"), "ppo shared": ("ppo", "shared")}
each_learner = pytest.mark.parametrize("learner", LEARNERS)
with_critic = pytest.mark.parametrize("learner", ["ppo separate", "ppo shared"])
HUGE = {"max_grad_norm": 1e9}


class Setup:
    """A learner over a ragged batch with random credit; some sequences are left out of the loss.

    one_pass: a critic of its own that sees a rollout once learns while it makes its values, and not in `update`.
    """

    def __init__(self, learner, *, update=None, critic=None, masked=True, one_pass=False, change=lambda value: value):
        name, kind = LEARNERS[learner]
        self.spec = tiny.spec(name, update={**HUGE, **(update or {})}, critic={**HUGE, "kind": kind, **(critic or {})})
        self.policy = tiny.policy()
        self.critic = tiny.grow_head(Critic(self.policy, self.spec.critic)) if name == "ppo" else None
        self.meter = Meter(torch.device("cpu"))
        models = RunModels(self.policy, self.critic)
        algorithm = change(tiny.ALGORITHMS[name](self.spec))
        self.learner = Learner(self.spec, 0, algorithm, models, self.meter, engine_is_exact=True)
        if isinstance(self.trainer, OnePassCritic) and not one_pass:
            self.learner.trainer = SeparateCritic(self.spec, self.trainer.policy, self.critic)
        self.batch = tiny.batch(self.policy, tiny.RAGGED, mask_truncated=masked)
        generator = torch.Generator().manual_seed(0)
        random = [torch.randn(self.batch.mask.shape, generator=generator) * self.batch.mask for _ in range(3)]
        self.credit = Credit(*random) if self.critic else Credit(random[0])
        self.log = StepLog()
        self.work = self.learner.cut(1, self.batch).work

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.meter.close()

    @property
    def trainer(self):
        return self.learner.trainer

    def values(self, batch=None):
        return self.trainer.values(self.learner.cut(1, batch or self.batch), self.log)

    def update(self, number=1, *, batch=None, credit=None, engine=None):
        batch = batch or self.batch
        if engine is not None:
            batch = replace(batch, engine_logprobs=engine)
        step = self.learner.cut(number, batch)
        for minibatch in step.updates():
            self.trainer.update(step, minibatch, credit or self.credit, self.log)
        return self.log

    def forward(self, *, logits=True):
        """FLOPs of one forward over the batch, as asked for."""
        shape = self.work.asked
        return self.learner.cost.forward(shape if logits else shape.without_logits())

    def hashes(self):
        own = [p.detach().clone() for p in self.critic.parameters] if self.critic else []
        return self.policy.weights_sha256(), own

    def optimized(self):
        return self.trainer.optimized


def watched(setup):
    """Gradients as each optimizer gets them, by whose they are: a list per update."""
    seen = defaultdict(list)
    for weights in setup.optimized():

        def record(*_, weights=weights):
            seen[weights.name].append([None if p.grad is None else p.grad.clone() for p in weights.parameters])

        weights.optimizer.register_step_pre_hook(record)
    return seen


def whole_batch_losses(setup):
    """(policy loss, value loss) of one forward over the whole batch, by the published formulas."""
    spec, batch, credit = setup.spec, setup.batch, setup.credit
    mode, length = spec.update.aggregation, spec.rollout.max_completion_tokens
    critic = setup.critic
    outputs = setup.policy.forward(batch, critic if critic and critic.shared else None)
    surrogate, _ = clipped_surrogate(
        outputs.logprobs, outputs.logprobs.detach(), credit.advantages, batch.loss_mask, clip_low=0.2, clip_high=0.2
    )
    policy_loss = aggregate(surrogate, batch.loss_mask, mode=mode, length=length)
    if critic is None:
        return policy_loss, None
    values = outputs.values if critic.shared else critic.values(batch)
    error, _ = clipped_value_loss(values, credit.old_values, credit.returns, batch.loss_mask, clip=0.2)
    return policy_loss, aggregate(error, batch.loss_mask, mode=mode, length=length)


@pytest.mark.parametrize("tokens", [1, 60, 10_000])
@pytest.mark.parametrize("mode", AGGREGATIONS)
@each_learner
def test_accumulated_gradients_equal_those_of_one_batch(learner, mode, tokens):
    with Setup(learner, update={"aggregation": mode, "micro_batch_tokens": tokens}) as setup:
        policy_loss, value_loss = whole_batch_losses(setup)
        objectives = {"policy": policy_loss, "critic": value_loss}
        if setup.critic is not None and setup.critic.shared:
            total = policy_loss + setup.spec.critic.loss_coefficient * value_loss
            objectives = {"policy": total, "critic": total}
        expected = {
            t.name: torch.autograd.grad(objectives[t.name], t.parameters, allow_unused=True, retain_graph=True)
            for t in setup.optimized()
        }
        seen = watched(setup)
        log = setup.update()
    for name, gradients in expected.items():
        (update,) = seen[name]
        for mine, whole in zip(update, gradients, strict=True):
            assert (mine is None) == (whole is None)
            if whole is not None:
                torch.testing.assert_close(mine, whole, rtol=1e-5, atol=2e-6 * max(1.0, float(whole.abs().max())))
        assert max(float(g.abs().max()) for g in update if g is not None) > 1e-2
    assert log.means["policy/loss"].value == pytest.approx(float(policy_loss.detach()), abs=1e-6)
    if value_loss is not None:
        assert log.means["critic/loss"].value == pytest.approx(float(value_loss.detach()), rel=1e-5)


@each_learner
def test_metrics_do_not_depend_on_the_micro_batches(learner):
    found = []
    for tokens in (1, 60, 10_000):
        with Setup(learner, update={"micro_batch_tokens": tokens}) as setup:
            found.append({name: mean.value for name, mean in setup.update().means.items()})
    for other in found[1:]:
        assert other == pytest.approx(found[0], rel=1e-5, abs=1e-6)


@each_learner
def test_minibatches_divide_by_their_own_count(learner):
    """Two minibatches at a learning rate of nothing: their gradients, weighed by their sequences, are the batch's."""
    gradients = []
    for count in (1, 2):
        tables = {"update": {"minibatches": count, "learning_rate": 1e-30}, "critic": {"learning_rate": 1e-30}}
        with Setup(learner, **tables, masked=False) as setup:
            batch = setup.batch
            stored = type(batch)(**{**vars(batch), "old_logprobs": setup.policy.forward(batch).logprobs.detach()})
            seen = watched(setup)
            setup.update(batch=stored)
            assert [len(seen[t.name]) for t in setup.optimized()] == [count] * len(setup.optimized())
            gradients.append(seen["policy"])
    (whole,), parts = gradients
    for g, first, second in zip(whole, *parts, strict=True):
        torch.testing.assert_close((first + second) / 2, g, rtol=1e-4, atol=5e-6)


@each_learner
def test_every_epoch_runs_every_minibatch(learner):
    with Setup(learner, update={"epochs": 3, "minibatches": 2}) as setup:
        batch = setup.batch
        stored = type(batch)(**{**vars(batch), "old_logprobs": setup.policy.forward(batch).logprobs.detach()})
        log = setup.update(batch=stored)
        assert [t.steps for t in setup.optimized()] == [6] * len(setup.optimized())
        assert log.means["policy/loss"].count == 6
        assert log.means["policy/approx_kl"].value > 0
        assert "rollout/engine_logprob_gap" not in log.means
        first = "policy_update"
        assert setup.meter.tokens[first] == pytest.approx(3 * setup.work.tokens, abs=6)
        assert setup.meter.flops[first] == pytest.approx(3 * 3 * setup.forward())
        if learner == "ppo separate":
            assert setup.meter.flops["critic_update"] == pytest.approx(3 * 3 * setup.forward(logits=False))


@with_critic
def test_warm_up_trains_the_critic_and_leaves_the_policy_to_the_bit(learner):
    with Setup(learner, critic={"warmup_steps": 2}) as setup:
        policy_before, critic_before = setup.hashes()
        for step in (1, 2):
            log = setup.update(step)
        policy_after, critic_after = setup.hashes()
        assert policy_after == policy_before
        assert any(not torch.equal(a, b) for a, b in zip(critic_after, critic_before, strict=True))
        assert "policy/loss" not in log.means
        assert log.means["critic/loss"].count == 2
        assert sum(setup.meter.flops.values()) > 0
        assert not setup.optimized()[0].optimizer.state
        assert all(p.grad is None for p in setup.policy.model.parameters())
        setup.update(3)
        assert setup.hashes()[0] != policy_before


def test_the_head_of_a_shared_critic_warms_up_on_the_value_loss_alone():
    with Setup("ppo shared", critic={"warmup_steps": 1}) as setup:
        _, value_loss = whole_batch_losses(setup)
        weight = setup.spec.critic.loss_coefficient
        expected = torch.autograd.grad(weight * value_loss, setup.critic.parameters)
        seen = watched(setup)
        setup.update(1)
        for mine, whole in zip(seen["critic"][0], expected, strict=True):
            torch.testing.assert_close(mine, whole, rtol=1e-5, atol=1e-6)


@each_learner
def test_gradients_are_cleared_between_updates(learner):
    with Setup(learner) as setup:
        setup.update()
        assert all(p.grad is None for t in setup.optimized() for p in t.parameters)


@each_learner
def test_a_gradient_that_is_not_finite_stops_before_any_weight_moves(learner):
    with Setup(learner) as setup:
        before = setup.hashes()
        poisoned = setup.credit.advantages.clone()
        poisoned[0, 0] = torch.nan
        credit = Credit(poisoned, setup.credit.returns, setup.credit.old_values)
        with pytest.raises(Diverged, match=r"the policy's gradient norm is nan, its loss nan"):
            setup.update(credit=credit)
        after = setup.hashes()
        assert after[0] == before[0]
        assert all(torch.equal(a, b) for a, b in zip(after[1], before[1], strict=True))


def test_a_critic_that_diverges_is_named_and_does_not_move():
    with Setup("ppo separate") as setup:
        before = setup.hashes()[1]
        returns = setup.credit.returns.clone()
        returns[0, 0] = torch.inf
        with pytest.raises(Diverged, match=r"the critic's gradient norm is"):
            setup.update(credit=Credit(setup.credit.advantages, returns, setup.credit.old_values))
        assert all(torch.equal(a, b) for a, b in zip(setup.hashes()[1], before, strict=True))


@each_learner
def test_a_batch_wholly_left_out_of_the_loss_changes_nothing(learner):
    with Setup(learner) as setup:
        before = setup.hashes()
        empty = type(setup.batch)(**{**vars(setup.batch), "loss_mask": torch.zeros_like(setup.batch.mask)})
        log = setup.update(batch=empty)
        after = setup.hashes()
        assert after[0] == before[0]
        assert all(torch.equal(a, b) for a, b in zip(after[1], before[1], strict=True))
        assert log.means == {}


@each_learner
def test_a_sequence_left_out_of_the_loss_gives_no_gradient(learner):
    found = []
    for changed in (False, True):
        with Setup(learner, update={"micro_batch_tokens": 60}) as setup:
            out = setup.batch.loss_mask.sum(1) == 0
            assert 0 < int(out.sum()) < setup.batch.size
            advantages = setup.credit.advantages + 5.0 * changed * out[:, None]
            seen = watched(setup)
            setup.update(credit=Credit(advantages, setup.credit.returns, setup.credit.old_values))
            found.append(seen["policy"][0])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_gradients_are_clipped_to_their_norm_and_the_log_keeps_the_norm_before():
    with Setup("grpo", update={"max_grad_norm": 0.01}) as setup:
        seen = watched(setup)
        log = setup.update()
        norm = torch.stack([g.norm() for g in seen["policy"][0]]).norm()
        assert float(norm) == pytest.approx(0.01, rel=1e-3)
        assert log.means["policy/grad_norm"].value > 0.1


def test_the_learning_rate_rises_linearly_over_its_warm_up():
    spec = tiny.spec("grpo", update={"warmup_steps": 4})
    parameter = torch.nn.Parameter(torch.ones(1))
    weights = Optimized("policy", [parameter], spec, lr=0.8, max_grad_norm=1.0)
    rates = []
    for _ in range(6):
        parameter.grad = torch.ones(1)
        weights.step(0.0, StepLog())
        rates.append(weights.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8, 0.8])


@pytest.mark.parametrize("tokens", [1, 60, 10_000])
def test_the_engine_gap_is_the_largest_difference_on_a_sampled_token(tokens):
    with Setup("grpo", update={"micro_batch_tokens": tokens}) as setup:
        engine = setup.policy.forward(setup.batch).logprobs.detach()
        engine[2, 1] += 0.25
        engine[4, 3] -= 0.125
        engine[1, 5] = 100.0  # under the padding
        assert setup.batch.mask[1, 5] == 0
        log = setup.update(engine=engine)
        assert log.means["rollout/engine_logprob_gap"].value == pytest.approx(0.25, abs=1e-5)
        assert logprob_gap(engine, replace(setup.batch, engine_logprobs=engine)) == 0


def test_a_log_combines_means_by_their_counts_and_keeps_maxima():
    log = StepLog()
    log.add("a", 1.0, 3)
    log.add("a", 5.0, 1)
    log.add_max("b", 2.0)
    log.add_max("b", 1.0)
    log.add_max("c", -1.0)
    log.add_max("c", -2.0)
    assert log.means == {"a": Mean(8.0, 4), "b": Mean(2.0, 1), "c": Mean(-1.0, 1)}


def rewarded_like(batch, values):
    """Returns of a sequence's own: its score, discounted to where the critic stands."""
    rewards = batch.mask * batch.scores[:, None]
    return Credit(rewards - values, rewards * 0.5 ** batch.mask.cumsum(1), values)


@pytest.mark.parametrize("tokens", [1, 60, 10_000])
@pytest.mark.parametrize("masked", [False, True])
def test_one_pass_gives_the_critics_values_and_its_update(tokens, masked):
    update = {"micro_batch_tokens": tokens}
    with Setup("ppo separate", update=update, masked=masked) as apart:
        values = apart.critic.values(apart.batch).detach()
        apart.update(credit=rewarded_like(apart.batch, values))
    with Setup(
        "ppo separate", update=update, masked=masked, one_pass=True,
        change=lambda algorithm: algorithm._replace(assign_credit=rewarded_like),
    ) as once:  # fmt: skip
        assert type(once.trainer) is OnePassCritic
        found = once.values()
    torch.testing.assert_close(found, values, rtol=1e-5, atol=1e-5)
    for one, other in zip(once.critic.parameters, apart.critic.parameters, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
    for name in ("critic/loss", "critic/grad_norm", "critic/clip_fraction"):
        assert once.log.means[name].value == pytest.approx(apart.log.means[name].value, abs=1e-5)
    assert once.meter.flops["critic_update"] == pytest.approx(3 * once.forward(logits=False))
    assert "values" not in once.meter.seconds


def test_without_a_token_in_the_loss_one_pass_gives_values_and_moves_nothing():
    with Setup("ppo separate", one_pass=True) as setup:
        nothing = replace(setup.batch, loss_mask=torch.zeros_like(setup.batch.loss_mask))
        before = setup.hashes()[1]
        values = setup.values(nothing)
        torch.testing.assert_close(values, setup.critic.values(setup.batch).detach())
        assert all(torch.equal(one, other) for one, other in zip(before, setup.critic.parameters, strict=True))
        assert not setup.log.means
        assert setup.meter.flops["critic_update"] == pytest.approx(setup.forward(logits=False))


@pytest.mark.parametrize(
    ("learner", "update", "kind"),
    [
        ("grpo", {}, PolicyTrainer), ("ppo shared", {}, SharedCritic), ("ppo separate", {"epochs": 2}, SeparateCritic),
        ("ppo separate", {"minibatches": 2}, SeparateCritic),
    ],
)  # fmt: skip
def test_the_critic_has_a_pass_for_its_values_where_more_than_one_update_wants_them(learner, update, kind):
    with Setup(learner, update=update, one_pass=True) as setup:
        assert type(setup.trainer) is kind


def one_gradient_step(learner, *, checkpointed):
    """The weights after two updates, and the bytes of activations that one forward keeps for its backward."""
    with Setup(learner) as setup:
        if checkpointed:
            for model in (setup.policy.model, setup.critic and setup.critic.trunk):
                if model is not None:
                    checkpoint_layers(model)
        kept = []

        def keep(tensor):
            kept.append(tensor.nbytes)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            setup.policy.forward(setup.batch)
        for step in (1, 2):
            setup.update(step)
        return setup.hashes(), sum(kept)


@each_learner
def test_checkpointed_layers_keep_less_and_change_nothing(learner):
    (weights, critic), kept = one_gradient_step(learner, checkpointed=False)
    (same_weights, same_critic), less = one_gradient_step(learner, checkpointed=True)
    assert weights == same_weights
    for one, other in zip(critic, same_critic, strict=True):
        assert torch.equal(one, other)
    assert less < kept / 2


def test_copies_of_a_checkpointed_policy_run_their_own_layers():
    policy = tiny.policy()
    checkpoint_layers(policy.model)
    reference = policy.frozen_copy()
    batch = tiny.batch(policy, tiny.RAGGED)
    before = reference.forward(batch).logprobs
    with torch.no_grad():
        for weight in policy.model.parameters():
            weight.mul_(1.5)
    assert torch.equal(reference.forward(batch).logprobs, before)
    assert not torch.equal(policy.forward(batch).logprobs, before)


def test_a_model_without_layers_to_checkpoint_is_refused():
    with pytest.raises(UserError, match="gradient_checkpointing"):
        checkpoint_layers(torch.nn.Linear(2, 2))


def test_the_setting_checkpoints_the_policy_that_is_loaded():
    table = ModelTable(name="package://suites/arithmetic_base")
    for wanted in (False, True):
        policy = Policy.load(table, temperature=1.0, gradient_checkpointing=wanted)
        layers = [m for m in policy.model.modules() if isinstance(m, GradientCheckpointingLayer)]
        assert layers
        assert {"forward" in vars(layer) for layer in layers} == {wanted}
