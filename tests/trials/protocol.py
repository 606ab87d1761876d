"""How the driver steps its workers: one word on a worker's standard input, one JSON line back on its standard output.

A worker that is not asked waits in a blocking read. The driver times each request itself, from the word to the answer,
and reads processor time and peak memory of a worker from /proc, so that neither side reports on itself; only paribus,
whose meter resets the kernel's peak, adds the largest it has seen. Standard library only: TRL's environments need not
have what paribus has.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

STEP = "step"
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


class WorkerEnded(Exception):
    """A worker is gone without an answer; the message names its log."""


class Channel:
    """The worker's end. What the worker's libraries print to standard output goes to standard error, its log."""

    def __init__(self) -> None:
        self._answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def answer(self, **facts: Any) -> None:
        self._answers.write(json.dumps(facts) + "\n")

    def wait(self) -> bool:
        """Whether another step is asked for; False when the driver is done, or gone."""
        return sys.stdin.readline().strip() == STEP


class Worker:
    """The driver's end."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self.log = log
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
            )
        self.loaded = self._read()

    def step(self) -> tuple[float, dict[str, Any]]:
        """One training step: seconds from the request to the answer, and the answer."""
        start = time.perf_counter()
        self._write(STEP)
        answer = self._read()
        return time.perf_counter() - start, answer

    def stop(self) -> dict[str, Any]:
        """End the worker; its parting answer."""
        self._write("stop")
        answer = self._read()
        self._process.wait()
        return answer

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def cpu_seconds(self) -> float:
        """Processor time used so far, all threads together."""
        # The second field, a name in parentheses, may hold blanks; utime and stime are the 14th and 15th.
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND

    def peak_bytes(self) -> int:
        """The largest resident set so far. Not `ru_maxrss`, which a child inherits from the process it came from."""
        status = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))

    def _write(self, word: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(word + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self._ended()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._ended()
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _ended(self) -> None:
        status = self._process.wait()
        last = (self.log.read_text(errors="replace").strip().splitlines() or ["(its log is empty)"])[-1]
        killed = " (killed, as the kernel does when memory runs out)" if status == -9 else ""
        raise WorkerEnded(f"{self.log.stem} ended with status {status}{killed}: {last}")
