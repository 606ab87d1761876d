"""The most memory held since a mark: by this process on a CPU, by tensors and by the whole device on a GPU.

On a CPU it is the process's resident set, interpreter and libraries included.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import torch

SAMPLE_SECONDS = 0.01
# See proc(5): writing 5 resets the peak of the resident set, VmHWM.
RESET_PEAK, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


class Sampled:
    """The highest value of a reading since the last `reset`, looked at every hundredth of a second in a thread."""

    def __init__(self, read: Callable[[], int]) -> None:
        self._read, self._highest = read, 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            self._highest = max(self._highest, self._read())

    def reset(self) -> None:
        self._highest = self._read()

    def peak(self) -> int:
        self._highest = max(self._highest, self._read())
        return self._highest

    def close(self) -> None:
        self._stop.set()
        self._thread.join()


class KernelPeak:
    """The largest resident set since the last `reset`: a mark that the kernel keeps, which misses nothing."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        RESET_PEAK.write_text("5")

    def peak(self) -> int:
        return status_bytes("VmHWM")

    def close(self) -> None:
        pass


class HostMemory:
    """The resident set's peak; sampled where its mark cannot be reset (other systems than Linux, some containers)."""

    def __init__(self) -> None:
        self._rss: KernelPeak | Sampled
        try:
            self._rss = KernelPeak()
        except OSError:
            process = psutil.Process()
            self._rss = Sampled(lambda: process.memory_info().rss)

    def reset(self) -> None:
        self._rss.reset()

    def peaks(self) -> dict[str, int]:
        return {"peak": self._rss.peak()}

    def close(self) -> None:
        self._rss.close()


class GpuMemory:
    """Peaks of a GPU: what tensors took, what the allocator reserved for them, and what the whole device held.

    The device is sampled, whoever holds its memory: an engine's own pool or process is in there, and so is a neighbour.
    Untested on a GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._whole = Sampled(self._used)

    def _used(self) -> int:
        free, total = torch.cuda.mem_get_info(self._device)
        return total - free

    def reset(self) -> None:
        torch.cuda.synchronize(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        self._whole.reset()

    def peaks(self) -> dict[str, int]:
        return {
            "peak": torch.cuda.max_memory_allocated(self._device),
            "reserved": torch.cuda.max_memory_reserved(self._device),
            "device": self._whole.peak(),
        }

    def close(self) -> None:
        self._whole.close()


def status_bytes(field: str) -> int:
    """What the kernel says of this process's memory, by the name that proc(5) gives it."""
    lines = STATUS.read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(f"{field}:")).split()[1])
