"""Remaining time from what was seen, plain lines where there is no terminal, and no exception from a poor record."""

from __future__ import annotations

from collections.abc import Iterator
from io import StringIO
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from harness.bench import progress
from harness.bench.progress import Display, Remaining
from reports import text as written


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.6, "1 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (125, "2 min 05 s"),
        (3600, "1 h 00 min"),
        (7380, "2 h 03 min"),
    ],
)
def test_durations_are_read_in_two_units(seconds: float, text: str) -> None:
    assert written.clock(seconds) == text


def test_with_nothing_to_go_by_there_is_no_estimate() -> None:
    remaining = Remaining(["ppo", "grpo"])
    assert remaining.seconds(None, 0.0) is None
    remaining.start(100.0)
    assert remaining.seconds("ppo", 130.0) is None
    remaining.stepped(140.0, 0.5)
    assert remaining.seconds("ppo", 140.0) is None


def test_the_pace_is_measured_from_the_first_step_on_so_loading_does_not_count() -> None:
    remaining = Remaining(["ppo"])
    remaining.start(0.0)
    remaining.stepped(50.0, 0.1)
    remaining.stepped(60.0, 0.3)
    # 20 % of the budget took 10 s, 70 % is left.
    assert remaining.seconds("ppo", 60.0) == pytest.approx(35.0)
    remaining.stepped(90.0, 1.3)
    assert remaining.seconds("ppo", 90.0) == 0.0


def test_runs_to_come_are_expected_to_take_what_their_arm_took_before() -> None:
    remaining = Remaining(["ppo", "grpo", "grpo", "ppo"])
    remaining.start(0.0)
    remaining.finish("ppo", 100.0)
    # Nothing of grpo has been seen: it is expected to take as long as ppo.
    assert remaining.seconds(None, 100.0) == 300.0
    remaining.start(100.0)
    remaining.finish("grpo", 140.0)
    assert remaining.seconds(None, 140.0) == 140.0
    remaining.start(140.0)
    assert remaining.seconds("grpo", 150.0) == 130.0
    assert remaining.seconds("grpo", 500.0) == 100.0


def test_a_run_cut_short_says_nothing_about_the_others() -> None:
    remaining = Remaining(["ppo", "ppo"])
    remaining.start(0.0)
    remaining.finish("ppo", 1.0, whole=False)
    assert remaining.seconds(None, 1.0) is None
    remaining.start(1.0)
    remaining.finish("ppo", 50.0)
    assert remaining.seconds(None, 50.0) == 0.0


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    clock = Clock()
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=clock))
    return clock


def plain(arms: list[str]) -> tuple[Display, StringIO]:
    text = StringIO()
    return Display("demo", arms, Console(file=text, width=40)), text


def test_without_a_terminal_there_are_plain_lines_and_not_one_for_every_step(clock: Clock) -> None:
    display, text = plain(["ppo", "grpo"])
    with display:
        display.start_base()
        display.start_run(1, "ppo", 7)
        for step in range(1, 22):
            clock.now += 1
            display.step({"step": step, "reward/mean": step / 100}, step / 40)
        display.evaluating("final")
        display.end_run("finished", " after 21 steps")
    lines = text.getvalue().splitlines()
    assert "\x1b" not in text.getvalue()
    assert lines[0] == "evaluating the base policy"
    assert [line.split("  ")[:4] for line in lines[1:3]] == [
        ["run 1/2", "ppo seed 7", "step 10", "reward 0.10"],
        ["run 1/2", "ppo seed 7", "step 20", "reward 0.20"],
    ]
    # 20 of 40 steps are left, at a second each, then a run of 40 s.
    assert lines[2].endswith("budget 50%  about 1 min 00 s left")
    assert lines[3] == "run 1/2  ppo seed 7: finished after 21 steps"
    assert len(lines) == 4


def test_a_line_is_never_wrapped_and_never_read_as_markup(clock: Clock) -> None:
    display, text = plain(["ppo"])
    display.log("[bold]x[/bold] [/] " + "y" * 100)
    assert text.getvalue() == "[bold]x[/bold] [/] " + "y" * 100 + "\n"


POOR: list[dict[str, Any]] = [
    {}, {"step": 3}, {"reward/mean": 0.5}, {"step": None, "reward/mean": None},
    {"step": 1, "reward/mean": float("nan")},
]  # fmt: skip


@pytest.mark.parametrize("record", POOR)
@pytest.mark.parametrize("terminal", [False, True])
def test_a_record_that_lacks_things_is_shown_with_dashes(clock: Clock, record: dict[str, Any], terminal: bool) -> None:
    text = StringIO()
    with Display("demo", ["ppo"], Console(file=text, width=100, force_terminal=terminal)) as display:
        display.start_run(1, "ppo", 0)
        clock.now += 60
        display.step(record, 0.25)
        display.console.print(display._panel())
        display.end_run("failed", "")
    shown = text.getvalue()
    assert "ppo" in shown
    assert "25%" in shown
    if record.get("reward/mean") is None:
        assert "–" in shown


def test_the_panel_shows_run_state_and_progress(clock: Clock) -> None:
    display, text = plain(["ppo", "grpo"])
    display.console.width = 100
    display.console.print(display._panel())
    display.start_run(2, "grpo", 4)
    display.console.print(display._panel())
    display.step({"step": 1, "reward/mean": 0.125}, 0.1)
    clock.now += 20
    display.step({"step": 3, "reward/mean": 0.25}, 0.3)
    display.evaluating("step 3")
    text.truncate(0)
    display.console.print(display._panel())
    shown = text.getvalue()
    assert "run 2 of 2: grpo, seed 4 · evaluating (step 3)" in shown
    for part in ("0.250", "30%", "demo", "left"):
        assert part in shown


def test_a_failed_run_does_not_shorten_the_estimate(clock: Clock) -> None:
    display, _ = plain(["ppo", "ppo", "ppo"])
    display.start_run(1, "ppo", 0)
    clock.now += 100
    display.end_run("finished", "")
    display.start_run(2, "ppo", 1)
    clock.now += 1
    display.end_run("failed", " (boom)")
    assert display.remaining.seconds(None, clock.now) == 100.0


def test_what_a_line_quotes_cannot_command_the_terminal(clock: Clock) -> None:
    display, text = plain(["ppo"])
    display.log("a\x1b[2J\x07b\r\nc\u202ed 5\u00a0%")
    assert text.getvalue() == "a\\x1b[2J\\x07b\\r\\nc\\u202ed 5\u00a0%\n"
