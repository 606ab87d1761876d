"""Phases of a step: seconds, tokens, FLOPs and peak memory, each read at the phase's own edges.

On a GPU the device is synchronised at both edges and the allocator's peak is reset at the first. On a CPU memory
is the process's resident set; it includes the interpreter and libraries.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import psutil
import torch

from harness.conditions import energy_joules
from harness.memory import MemoryTracker

PHASES = (
    "rollout", "reward", "logprobs", "reference", "values", "policy_update", "critic_update", "weight_sync",
)  # fmt: skip
SAMPLE_SECONDS = 0.01
# See proc(5): writing 5 resets the peak of the resident set, VmHWM.
RESET_PEAK, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


class PeakRss:
    """The largest resident set since the last `reset`, in bytes.

    The kernel keeps that mark itself: it misses nothing and costs nothing in between. Where it cannot be reset (other
    systems than Linux, some containers) the resident set is sampled in a thread.
    """

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._peak = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        try:
            RESET_PEAK.write_text("5")
        except OSError:
            self._thread = threading.Thread(target=self._watch, daemon=True)
            self._thread.start()

    def _watch(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            self._peak = max(self._peak, self._process.memory_info().rss)

    def reset(self) -> None:
        if self._thread is None:
            RESET_PEAK.write_text("5")
        else:
            self._peak = self._process.memory_info().rss

    def peak(self) -> int:
        if self._thread is None:
            return status_bytes("VmHWM")
        self._peak = max(self._peak, self._process.memory_info().rss)
        return self._peak

    def close(self) -> None:
        if self._thread is not None:
            self._stop.set()
            self._thread.join()


def status_bytes(field: str) -> int:
    """What the kernel says of this process's memory, by the name that proc(5) gives it."""
    lines = STATUS.read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(f"{field}:")).split()[1])


class Meter:
    """One step's measurements. `start_step` clears them; `metrics` reads them under their published names."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._rss = None if device.type == "cuda" else PeakRss()
        self._tracker: MemoryTracker | None = None
        self.start_step()

    def start_step(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.tokens: dict[str, int] = defaultdict(int)
        self.flops: dict[str, float] = defaultdict(float)
        self.executed_flops: dict[str, float] = defaultdict(float)
        self.peak_bytes: dict[str, int] = defaultdict(int)
        self.failed_in: str | None = None
        self._energy = energy_joules(self.device)
        self._started = time.perf_counter()

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        assert name in PHASES, name
        self._reset_peak()
        if self._tracker is not None:
            self._tracker.start(name)
        start = time.perf_counter()
        try:
            yield
        except BaseException:
            self.failed_in = name
            raise
        finally:
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            self.seconds[name] += time.perf_counter() - start
            self.peak_bytes[name] = max(self.peak_bytes[name], self._read_peak())
            if self._tracker is not None:
                self._tracker.stop()

    @contextlib.contextmanager
    def tracked_by(self, tracker: MemoryTracker) -> Iterator[None]:
        """The phases inside are told to the tracker, which is switched on."""
        self._tracker = tracker
        try:
            with tracker:
                yield
        finally:
            self._tracker = None

    def count(self, name: str, *, tokens: int, flops: float, executed: float) -> None:
        """Work done in a phase: tokens, and FLOPs as asked for and as run (`harness.flops`)."""
        self.tokens[name] += tokens
        self.flops[name] += flops
        self.executed_flops[name] += executed

    def step_seconds(self) -> float:
        """Wall-clock time since `start_step`, what lies between the phases included."""
        return time.perf_counter() - self._started

    def step_joules(self) -> float | None:
        """What the device has used since `start_step`, or None where it does not say."""
        now = energy_joules(self.device)
        return None if now is None or self._energy is None else now - self._energy

    def metrics(self, *, step_seconds: float, samples: int, generated_tokens: int) -> dict[str, float]:
        measured: dict[str, float] = {"time/step_s": step_seconds}
        for name in PHASES:
            if name not in self.seconds:
                continue
            measured[f"time/{name}_s"] = self.seconds[name]
            measured[f"memory/{name}/peak_bytes"] = self.peak_bytes[name]
            if self.flops[name]:
                measured[f"flops/{name}/useful"] = self.flops[name]
                measured[f"flops/{name}/executed"] = self.executed_flops[name]
            if self.tokens[name] and self.seconds[name] > 0:
                measured[f"throughput/{name}_tokens_per_s"] = self.tokens[name] / self.seconds[name]
        measured["throughput/samples_per_s"] = samples / step_seconds
        measured["throughput/tokens_per_s"] = generated_tokens / step_seconds
        measured["throughput/flops_per_s"] = sum(self.flops.values()) / step_seconds
        return measured

    def close(self) -> None:
        if self._rss is not None:
            self._rss.close()

    def _reset_peak(self) -> None:
        if self._rss is not None:
            self._rss.reset()
        else:
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)

    def _read_peak(self) -> int:
        return self._rss.peak() if self._rss is not None else torch.cuda.max_memory_allocated(self.device)
