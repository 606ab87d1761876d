"""What a person watches: a live panel in a terminal, plain lines elsewhere.

Remaining time is estimated from the benchmark's own runs: the seconds a finished run of the arm took as a whole or,
before there is one, the current run's seconds per share of the budget. With nothing to go by it says nothing.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from statistics import mean
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from harness.run.events import Evaluated, Evaluating, Event, Hung, Resumed, Stepped, Warned
from reports.record.errors import printable
from reports.text import clock

PLAIN_LINE_SECONDS = 10.0


def decimals(value: Any, places: int) -> str:
    return f"{value:.{places}f}" if isinstance(value, (int, float)) else "–"


class Remaining:
    """Estimates what is left from what has been seen: (arm, fraction of budget) over time."""

    def __init__(self, arms_left: list[str]) -> None:
        self.arms_left = arms_left
        self.whole_runs: dict[str, list[float]] = {}
        self._started = 0.0
        # (time, fraction of the budget) after the current run's first step and after its last one so far.
        self._first = self._last = (0.0, 0.0)

    def start(self, now: float) -> None:
        self._started, self._first, self._last = now, (now, 0.0), (now, 0.0)

    def stepped(self, now: float, fraction: float) -> None:
        self._last = (now, min(1.0, fraction))
        if self._first[1] == 0:
            self._first = self._last

    def finish(self, arm: str, now: float, *, whole: bool = True) -> None:
        """A run has ended; one that was cut short (`whole` false) says nothing about the others' length."""
        if whole:
            self.whole_runs.setdefault(arm, []).append(now - self._started)
        self.arms_left.remove(arm)

    def seconds(self, arm: str | None, now: float) -> float | None:
        """Seconds left, or None while there is nothing to go by."""
        current = 0.0
        known = {name: mean(runs) for name, runs in self.whole_runs.items()}
        others = list(self.arms_left)
        if arm is not None:
            others.remove(arm)
            elapsed = now - self._started
            seconds, fraction = self._last[0] - self._first[0], self._last[1] - self._first[1]
            if arm in known:
                current = max(0.0, known[arm] - elapsed)
            elif fraction > 0.05:
                # Measured from the first step on: loading is over by then.
                current = seconds / fraction * (1 - self._last[1])
                known[arm] = elapsed + current
            else:
                return None
        if others and not known:
            return None
        guess = mean(known.values()) if known else 0.0
        return current + sum(known.get(name, guess) for name in others)


class Display:
    """Shows a benchmark's progress. Used as a context manager; `log` prints a lasting line above the panel.

    What a line quotes of a server or a file cannot command the terminal: it is written as escapes.
    """

    def __init__(self, title: str, arms: list[str], console: Console | None = None, *, primary: str = "") -> None:
        """primary: the task whose accuracy is told with a run's end."""
        self.console = console or Console(stderr=True)
        self.title, self.total, self.primary = title, len(arms), primary
        self.remaining = Remaining(list(arms))
        self.number, self.seed = 0, 0
        self.arm: str | None = None
        self.state, self.accuracy = "starting", ""
        self.record: Mapping[str, Any] = {}
        self.fraction = 0.0
        self._last_line = 0.0
        self._live: Live | None = None

    def __enter__(self) -> Display:
        if self.console.is_terminal:
            self._live = Live(get_renderable=self._panel, console=self.console, refresh_per_second=2, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def log(self, line: str) -> None:
        self.console.print(Text(printable(line, keep="\u00a0")), soft_wrap=True, highlight=False)

    def start_base(self) -> None:
        self.state = "evaluating the base policy"
        self.log(self.state)

    def start_run(self, number: int, arm: str, seed: int) -> None:
        self.number, self.arm, self.seed = number, arm, seed
        self.record, self.fraction, self.state, self.accuracy = {}, 0.0, "loading", ""
        self.remaining.start(time.monotonic())
        self._last_line = time.monotonic()

    def on(self, event: Event) -> None:
        """Show an event of the run that was started last."""
        match event:
            case Stepped(record=record, fraction=fraction):
                self.step(record, fraction)
            case Evaluating(label=label):
                self.evaluating(label)
            case Evaluated(task=self.primary, metrics=metrics):
                self.accuracy = f", {metrics['accuracy']:.1%} on {self.primary}"
            case Resumed(step=step):
                self.log(f"{self.arm} seed {self.seed}: goes on after step {step}")
            case Warned(line=line) | Hung(line=line):
                self.log(f"{self.arm} seed {self.seed}: {line}")

    def step(self, record: Mapping[str, Any], fraction: float) -> None:
        now = time.monotonic()
        self.record, self.fraction, self.state = record, fraction, "training"
        self.remaining.stepped(now, fraction)
        if self._live is None and now - self._last_line >= PLAIN_LINE_SECONDS:
            self._last_line = now
            self.log(self._line())

    def evaluating(self, label: str) -> None:
        self.state = f"evaluating ({label})"

    def end_run(self, status: str, detail: str) -> None:
        assert self.arm is not None
        self.remaining.finish(self.arm, time.monotonic(), whole=status == "finished")
        self.log(f"run {self.number}/{self.total}  {self.arm} seed {self.seed}: {status}{detail}{self.accuracy}")
        self.arm = None

    def _left(self) -> str:
        seconds = self.remaining.seconds(self.arm, time.monotonic())
        return f"about {clock(seconds)} left" if seconds is not None else ""

    def _line(self) -> str:
        step, reward = self.record.get("step", "–"), decimals(self.record.get("reward/mean"), 2)
        parts = [
            f"run {self.number}/{self.total}  {self.arm} seed {self.seed}", f"step {step}", f"reward {reward}",
            f"budget {min(1.0, self.fraction):.0%}", self._left(),
        ]  # fmt: skip
        return "  ".join(part for part in parts if part)

    def _panel(self) -> Panel:
        if self.arm is None:
            return Panel(Text(self.state), title=self.title)
        facts = Table.grid(padding=(0, 3))
        facts.add_row("step", "reward", "budget spent", "remaining")
        step = str(self.record.get("step", "–"))
        reward = decimals(self.record.get("reward/mean"), 3)
        facts.add_row(step, reward, f"{min(1.0, self.fraction):.0%}", self._left() or "–", style="bold")
        bar = ProgressBar(total=1.0, completed=min(1.0, self.fraction), width=60)
        head = Text(f"run {self.number} of {self.total}: {self.arm}, seed {self.seed} · {self.state}")
        return Panel(Group(head, bar, facts), title=self.title)
