"""Engines that do what an engine must not, for a worker that is given them: they hang, dawdle, crash."""

from __future__ import annotations

import faulthandler
import threading
import time
from pathlib import Path

from harness.engines.base import EngineKind
from harness.engines.torch_engine import TorchEngine


class Hanging(TorchEngine):
    """Waits for a lock that nobody gives back."""

    def generate(self, requests, sampling):
        threading.Event().wait()


class Dawdling(TorchEngine):
    """Works for seconds without an event: slow, not hung."""

    def generate(self, requests, sampling):
        ends = time.monotonic() + 4
        while time.monotonic() < ends:
            completions = super().generate(requests, sampling)
        return completions


class Crashing(TorchEngine):
    """Reads memory that is not its own."""

    def generate(self, requests, sampling):
        faulthandler._sigsegv()


def build_hanging(policy, spec):
    return Hanging(policy, batch_size=64)


def build_hanging_at(policy, spec):
    """Hangs at those of its starts whose numbers are in the file "hangs" beside the model's folder."""
    folder = Path(spec.model.name).parent
    with (folder / "starts").open("a+") as starts:
        starts.write(".")
        number = starts.tell()
    hangs = str(number) in (folder / "hangs").read_text().split()
    return (Hanging if hangs else TorchEngine)(policy, batch_size=64)


def build_dawdling(policy, spec):
    return Dawdling(policy, batch_size=64)


def build_crashing(policy, spec):
    return Crashing(policy, batch_size=64)


hanging = EngineKind(build_hanging)
hanging_at = EngineKind(build_hanging_at)
dawdling = EngineKind(build_dawdling)
crashing = EngineKind(build_crashing)
