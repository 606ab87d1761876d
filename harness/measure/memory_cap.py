"""The memory that a run may take, enforced, and what is said of a run that needs more.

On a GPU it is a share of the device, held to by torch's allocator. On a CPU it is the process's resident memory: the
kernel refuses to map more private data than the cap leaves (RLIMIT_DATA), so that the allocation that goes too far
raises where it stands. Where the kernel does not hold to that, a thread watches the resident set. The part for a GPU
follows torch's documentation and is untested on one.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import re
import resource
import threading
from collections.abc import Iterator

import psutil
import torch

from harness.measure.memory_peak import status_bytes
from harness.measure.memory_tracker import component_of

WATCH_SECONDS = 0.02
# Room to notice that a limit is kept: asked for beyond it, and given back.
PROBE_BYTES = 64 * 2**20
# From malloc.h of glibc: the size from which a block is mapped by itself.
M_MMAP_THRESHOLD, LARGE_BLOCK = -3, 256 * 1024
# How a CPU's allocators say it, oneDNN's last; torch has a type for the GPU's.
SAYINGS = ("can't allocate memory", "bad_alloc", "not enough memory", "could not create a memory",
           "could not create a primitive", "could not execute a primitive")  # fmt: skip


class DoesNotFit(Exception):
    """A run needed more memory than it may take.

    phase: of a step, or "loading" or "evaluation", or "training" for what lies between them. component: what was to be
    made (`reports.record.names.COMPONENTS`).
    """

    def __init__(self, phase: str, component: str, detail: str) -> None:
        super().__init__(f"no room for the {component.replace('_', ' ')} of {phase.replace('_', ' ')}{detail}")
        self.phase, self.component = phase, component


@contextlib.contextmanager
def room_for(phase: str, component: str) -> Iterator[None]:
    """Running out of memory inside raises DoesNotFit.

    component: what is made here where the code that makes it does not say (`harness.measure.memory_tracker.labelled`).
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise DoesNotFit(phase, component_of(error) or component, asked_for(error)) from error


@contextlib.contextmanager
def capped(cap: int | None, device: torch.device) -> Iterator[None]:
    """Inside, this process takes at most `cap` bytes; None is no cap."""
    if cap is None:
        yield
    elif device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, cap / total), device)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, device)
    else:
        return_large_blocks()
        with limited_data(cap) as kept, contextlib.nullcontext() if kept else watched(cap):
            yield


def return_large_blocks() -> None:
    """Have freed memory go back to the system at once, so that what is held against the cap is what tensors hold.

    glibc otherwise keeps blocks of up to 32 MiB, in pieces that other sizes do not fit into: a run would grow over its
    steps. It costs page faults, in all arms alike. Other C libraries do as they do.
    """
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK)


@contextlib.contextmanager
def limited_data(cap: int) -> Iterator[bool]:
    """Whether the kernel keeps to a limit that leaves the process what the cap leaves beyond what it holds now."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    room = cap - psutil.Process().memory_info().rss
    try:
        # Private writable memory that is mapped, touched or not, is what the kernel holds against the limit.
        limit = status_bytes("VmData") + room
        resource.setrlimit(resource.RLIMIT_DATA, (limit, before[1]))
        kept = refuses(room + PROBE_BYTES)
    except (OSError, ValueError):
        kept = False
    try:
        yield kept
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def refuses(size: int) -> bool:
    try:
        mmap.mmap(-1, max(size, PROBE_BYTES), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except OSError:
        return True
    return False


@contextlib.contextmanager
def watched(cap: int) -> Iterator[None]:
    """The thread that enters is sent a MemoryError once the resident set is beyond the cap."""
    process, ended, owner = psutil.Process(), threading.Event(), threading.get_ident()

    def watch() -> None:
        while not ended.wait(WATCH_SECONDS):
            if process.memory_info().rss > cap:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(owner), ctypes.py_object(MemoryError))
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(saying in str(error) for saying in SAYINGS)


def asked_for(error: BaseException) -> str:
    """How much was asked for in vain, where the allocator says so: torch's own say it in bytes or in binary units."""
    if found := re.search(r"allocate (\d{1,18}) bytes|allocate ([\d.]{1,10} [KMG]iB)", str(error)):
        size = f"{int(found[1]) / 2**20:,.1f} MiB" if found[1] else found[2]
        return f": {size} more were asked for"
    return ""
