"""Phases of a step: seconds, tokens, FLOPs and peak memory, each read at the phase's own edges.

On a GPU the device is synchronised at both edges. What memory is, `harness.measure.memory_peak` says.
"""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator

import torch

from harness.measure.machine_state import energy_joules
from harness.measure.memory_cap import room_for
from harness.measure.memory_peak import GpuMemory, HostMemory
from harness.measure.memory_tracker import MemoryTracker, default_component
from reports.record.names import PHASES


class Meter:
    """One step's measurements. `start_step` clears them; `metrics` reads them under their published names."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._memory: GpuMemory | HostMemory = GpuMemory(device) if device.type == "cuda" else HostMemory()
        self._tracker: MemoryTracker | None = None
        self.start_step()

    def start_step(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.tokens: dict[str, int] = defaultdict(int)
        self.flops: dict[str, float] = defaultdict(float)
        self.executed_flops: dict[str, float] = defaultdict(float)
        self.peaks: dict[str, dict[str, int]] = {}
        self._energy = energy_joules(self.device)
        self._started = time.perf_counter()

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """What is done inside is measured. Raises DoesNotFit where memory runs out."""
        assert name in PHASES, name
        self._memory.reset()
        if self._tracker is not None:
            self._tracker.start(name)
        start = time.perf_counter()
        try:
            with room_for(name, default_component(name)):
                yield
        finally:
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            self.seconds[name] += time.perf_counter() - start
            before = self.peaks.get(name, {})
            self.peaks[name] = {kind: max(size, before.get(kind, 0)) for kind, size in self._memory.peaks().items()}
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
        """Work done in a phase: tokens, and FLOPs as asked for and as run (`harness.measure.flops`)."""
        self.tokens[name] += tokens
        self.flops[name] += flops
        self.executed_flops[name] += executed

    def peak_bytes(self) -> int:
        """The most memory that any phase of the step held."""
        return max(peaks["peak"] for peaks in self.peaks.values())

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
            measured |= {f"memory/{name}/{kind}_bytes": size for kind, size in self.peaks[name].items()}
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
        self._memory.close()
