"""A memory cap on real processes: what needs more stops where it stands, and says where that was."""

import contextlib
import multiprocessing
import sys

import psutil
import pytest
import tiny
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from harness.measure import memory_cap
from harness.measure.memory_cap import DoesNotFit, asked_for, capped, is_out_of_memory, limited_data, room_for
from harness.measure.memory_tracker import labelled
from harness.model.critic import Critic

MIB = 2**20


def in_a_process(function, *arguments):
    context = multiprocessing.get_context("forkserver")
    queue = context.SimpleQueue()
    process = context.Process(target=_answer, args=(queue, function, arguments))
    process.start()
    answer = queue.get()
    process.join()
    return answer


def _answer(queue, function, arguments):
    queue.put(function(*arguments))


def rss():
    return psutil.Process().memory_info().rss


def allocate_beyond(room, watch):
    if watch:
        memory_cap.refuses = lambda size: False
    held = []
    try:
        with capped(rss() + room, torch.device("cpu")):
            for _ in range(40):
                held.append(torch.ones(16 * MIB // 4))
                if watch:
                    memory_cap.threading.Event().wait(0.05)
    except (RuntimeError, MemoryError) as error:
        return is_out_of_memory(error), len(held), f"{error!r}"
    return False, len(held), "nothing was raised"


@pytest.mark.parametrize("watch", [False, True], ids=["kernel", "watched"])
def test_an_allocation_beyond_the_cap_raises_and_what_fits_does_not(watch):
    raised, blocks, error = in_a_process(allocate_beyond, 256 * MIB, watch)
    assert raised, error
    assert 12 <= blocks <= 18


def within(room):
    with limited_data(rss() + room) as kept:
        block = torch.ones(room // 8)
    after = torch.ones(2 * room // 4)
    return kept, block.nbytes + after.nbytes


def test_the_limit_is_lifted_behind_the_run():
    kept, size = in_a_process(within, 128 * MIB)
    assert kept == (sys.platform == "linux")
    assert size > 128 * MIB


def test_no_cap_changes_nothing():
    with capped(None, torch.device("cpu")):
        assert torch.ones(MIB).sum() == MIB


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 8 bytes"),
            True,
        ),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("shape mismatch"), False),
        (ValueError("not enough memory of the word"), False),
    ],
)
def test_running_out_of_memory_is_told_from_other_faults(error, expected):
    assert is_out_of_memory(error) == expected


class Refusing(TorchDispatchMode):
    """Memory runs out at the first operation for which `at` holds."""

    def __init__(self, at):
        super().__init__()
        self.at = at

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if self.at(func):
            raise MemoryError
        return func(*args, **(kwargs or {}))


def anything(func):
    return True


def in_the_backward(func):
    return torch._C._current_graph_task_id() != -1


def the_optimizer(func):
    return func is torch.ops.aten._fused_adamw_.default


def clipping(func):
    return func is torch.ops.aten._foreach_norm.Scalar


def room_for_keys(func):
    return func is torch.ops.aten.new_empty.default


PPO, SHARED = {"algorithm": "ppo"}, {"algorithm": "ppo", "critic": {"kind": "shared", "warmup_steps": 1}}
KL, SEVERAL = {"kl": {"coefficient": 0.1, "placement": "loss"}}, {"algorithm": "ppo", "update": {"epochs": 2}}


@pytest.mark.parametrize(
    ("phase", "at", "component", "settings"),
    [
        ("rollout", anything, "temporaries", {}),
        ("rollout", room_for_keys, "kv_cache", {}),
        ("policy_update", anything, "activations", {}),
        ("policy_update", in_the_backward, "temporaries", {}),
        ("policy_update", clipping, "optimizer", {}),
        ("policy_update", the_optimizer, "optimizer", {}),
        ("policy_update", the_optimizer, "critic_optimizer", SHARED),
        ("critic_update", anything, "activations", PPO),
        ("critic_update", in_the_backward, "temporaries", PPO),
        ("critic_update", the_optimizer, "critic_optimizer", PPO),
        ("critic_update", the_optimizer, "critic_optimizer", SEVERAL),
        ("reference", anything, "temporaries", KL),
        ("logprobs", anything, "temporaries", SEVERAL),
        ("values", anything, "temporaries", SEVERAL),
    ],
)
def test_the_code_that_allocates_says_for_which_component_memory_ran_out(phase, at, component, settings, monkeypatch):
    with tiny.training(tiny.spec(**settings)) as run:
        measured = run.meter.phase

        @contextlib.contextmanager
        def refusing(name):
            with measured(name), Refusing(at) if name == phase else contextlib.nullcontext():
                yield

        monkeypatch.setattr(run.meter, "phase", refusing)
        with pytest.raises(DoesNotFit) as caught:
            run.step()
    assert (caught.value.phase, caught.value.component) == (phase, component)
    assert isinstance(caught.value.__cause__, MemoryError)


@pytest.mark.parametrize(
    ("made", "component"),
    [
        (lambda policy: policy.frozen_copy(), "reference"),
        (lambda policy: Critic(policy, tiny.spec("ppo").critic), "critic"),
        (lambda policy: torch.zeros(1), "weights"),
    ],
    ids=["reference", "critic", "weights"],
)
def test_what_could_not_be_loaded_is_said_by_what_was_to_be_made(made, component):
    policy = tiny.policy()
    with pytest.raises(DoesNotFit) as caught, room_for("loading", "weights"), Refusing(anything):
        made(policy)
    assert (caught.value.phase, caught.value.component) == ("loading", component)


def test_the_innermost_place_where_memory_runs_out_is_the_one_that_is_told():
    training, rollout = room_for("training", "temporaries"), room_for("rollout", "temporaries")
    with pytest.raises(DoesNotFit) as caught, training, rollout, labelled("engine"), labelled("kv_cache"):
        raise MemoryError
    assert (caught.value.phase, caught.value.component) == ("rollout", "kv_cache")


def test_other_faults_pass_as_they_are():
    with pytest.raises(ValueError, match="another"), room_for("rollout", "temporaries"), labelled("engine"):
        raise ValueError("another")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("DefaultCPUAllocator: can't allocate memory: you tried to allocate 7340032 bytes. Error code 12", "7.0 MiB"),
        ("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79 GiB", "2.50 GiB"),
    ],
)
def test_what_was_asked_for_in_vain_is_said_in_mebibytes(text, said):
    assert asked_for(RuntimeError(text)) == f": {said} more were asked for"
    assert asked_for(MemoryError()) == ""
