"""Memory by component: every tensor counted once, under its name, from its making to its end."""

import gc

import pytest
import tiny
import torch

from harness.measure.memory_tracker import MemoryTracker, labelled
from reports.record.names import COMPONENTS

KIB = 1024


def kib(count):
    return torch.ones(count * KIB // 4)


@pytest.fixture
def tracker():
    return MemoryTracker()


def peak(tracker, phase="rollout"):
    return {name: size // KIB for name, size in tracker.peaks[phase].items() if size}


def test_the_peak_is_taken_when_all_components_together_are_most(tracker):
    with tracker:
        tracker.start("rollout")
        first = kib(8)
        del first
        with labelled("kv_cache"):
            second, third = kib(3), kib(4)
        del second
        tracker.stop()
    assert peak(tracker) == {"temporaries": 8}
    assert third.numel()


def test_views_and_writes_in_place_are_no_new_memory(tracker):
    with tracker:
        tracker.start("rollout")
        x = kib(4)
        y = x.view(2, -1).T[1:].add_(1)
        tracker.stop()
    assert peak(tracker) == {"temporaries": 4}
    assert y.numel()


def test_what_exists_before_counts_once_it_is_claimed(tracker):
    before = kib(16)
    tracker.claim("weights", [before, before.view(-1), None])
    with tracker:
        tracker.start("rollout")
        made = before * 2
        tracker.stop()
        del made
        tracker.start("reference")
        tracker.stop()
    assert peak(tracker) == {"weights": 16, "temporaries": 16}
    assert peak(tracker, "reference") == {"weights": 16}


def test_a_phase_that_comes_again_keeps_its_higher_peak(tracker):
    with tracker:
        for size in (2, 8, 4):
            tracker.start("rollout")
            block = kib(size)
            del block
            tracker.stop()
    assert peak(tracker) == {"temporaries": 8}


def test_forward_backward_and_gradients_are_told_apart(tracker):
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(64, 64))
    x = torch.randn(32, 64)
    tracker.claim("weights", [weight])
    with tracker.gradients_of({"gradients": [weight]}), tracker:
        tracker.start("policy_update")
        loss = (x @ weight).tanh().square().sum()
        kept = dict(tracker._bytes)
        loss.backward()
        left = dict(tracker._bytes)
        tracker.stop()
    assert kept["activations"] == 32 * 64 * 4 + 4  # tanh keeps its output, the square's is summed
    assert kept["gradients"] == 0
    assert left["gradients"] == 64 * 64 * 4
    del loss
    gc.collect()
    assert tracker._bytes["activations"] == 0


def test_what_an_engine_says_it_holds_is_added_at_a_phases_edges():
    held = {"kv_cache": 5 * KIB}
    tracker = MemoryTracker(lambda: held)
    with tracker:
        tracker.start("rollout")
        held = {}
        tracker.stop()
        tracker.start("policy_update")
        tracker.stop()
    assert peak(tracker) == {"kv_cache": 5}
    assert peak(tracker, "policy_update") == {}


def test_weights_laid_out_by_onednn_are_seen_and_forgotten(tracker):
    weight = torch.randn(32, 64)
    with tracker:
        tracker.start("rollout")
        with labelled("engine"):
            packed = torch.ops.mkldnn._reorder_linear_weight(weight)
        tracker.stop()
        assert tracker._bytes["engine"] == 32 * 64 * 4
        del packed
    assert tracker._bytes["engine"] == 0


LEARNERS = {
    "grpo": ("grpo", {}),
    "ppo separate": ("ppo", {}),
    "ppo shared": ("ppo", {"kind": "shared"}),
}


def rehearsed(learner, **tables):
    algorithm, critic = LEARNERS[learner]
    settings = tiny.spec(algorithm, critic=critic, **tables)
    with tiny.training(settings) as run:
        run.step()
        return run, run.tracked_step().metrics()


@pytest.mark.parametrize("update", [{}, {"minibatches": 2, "epochs": 2}], ids=["one update", "several"])
@pytest.mark.parametrize("learner", LEARNERS)
def test_the_components_add_up_and_are_the_sizes_of_what_they_name(learner, update):
    run, found = rehearsed(learner, update=update, kl={"coefficient": 0.1, "placement": "loss"})
    weights = sum(p.nbytes for p in run.parts.models.policy.model.parameters())
    for phase in {name.split("/")[1] for name in found}:
        parts = {name: found.get(f"memory/{phase}/{name}_bytes", 0) for name in COMPONENTS}
        assert sum(parts.values()) == found[f"memory/{phase}/tracked_bytes"]
        assert weights <= parts["weights"] < weights + 1024  # the rotary frequencies
        assert weights <= parts["reference"] < weights + 1024
        assert 2 * weights <= parts["optimizer"] < 2 * weights + 1024
        assert parts["other"] < 0.2 * weights
    update_phase = {name: found.get(f"memory/policy_update/{name}_bytes") for name in COMPONENTS}
    assert update_phase["activations"] > 0
    assert found["memory/rollout/kv_cache_bytes"] > 0
    critic = found.get("memory/rollout/critic_bytes", 0)
    state = found.get("memory/rollout/critic_optimizer_bytes", 0)
    head = run.parts.models.policy.hidden_size * 4 + 4
    assert critic == {"grpo": 0, "ppo shared": head}.get(learner, critic)
    if learner == "ppo separate":
        assert weights * 0.8 < critic < weights * 1.1
        assert found["memory/critic_update/critic_gradients_bytes"] > 0
    if learner != "grpo":
        assert 2 * critic - 1024 < state < 2 * critic + 1024


@pytest.mark.parametrize("learner", LEARNERS)
def test_a_rehearsal_changes_nothing_that_is_learnt(learner):
    algorithm, critic = LEARNERS[learner]
    settings = tiny.spec(algorithm, critic=critic)
    with tiny.training(settings) as plain, tiny.training(settings) as measured:
        for _ in range(3):
            expected, found = plain.step(), measured.step()
            measured.tracked_step()
            timed = ("time/", "throughput/", "memory/", "budget/device_seconds")
            assert {k: v for k, v in found.items() if not k.startswith(timed)} == {
                k: v for k, v in expected.items() if not k.startswith(timed)
            }
            assert measured.samples == plain.samples
        assert measured.parts.models.policy.weights_sha256() == plain.parts.models.policy.weights_sha256()


def test_nothing_is_left_tracked_after_a_rehearsal():
    with tiny.training(tiny.spec("ppo")) as run:
        run.step()
        run.tracked_step()
        parameters = list(run.parts.models.policy.model.parameters())
        assert all(not p._post_accumulate_grad_hooks for p in parameters)
        assert run.meter._tracker is None
        assert not any(weights.frozen for weights in run.learner.trainer.optimized)
