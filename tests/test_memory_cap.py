"""A memory cap on real processes: what needs more stops where it stands, and says where that was."""

import multiprocessing
import sys

import psutil
import pytest
import torch

from harness import memory_cap
from harness.memory_cap import asked_for, capped, growing, is_out_of_memory, limited_data

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


def _backward():
    raise MemoryError


@pytest.mark.parametrize("phase", ["policy_update", "critic_update", "rollout"])
def test_the_component_follows_from_where_the_code_stood(phase):
    with pytest.raises(MemoryError) as caught:
        _backward()
    assert growing(phase, caught.value.__traceback__) == "temporaries"
    assert growing("policy_update", None) == "activations"
    assert growing("loading", None) == "weights"


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
