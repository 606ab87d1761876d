"""A child that hangs is told from one that is slow; whatever becomes of it is one line, and nothing of it is left."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import psutil
import pytest
import tiny
from mlflow_server import wait_for

from harness.launch import local
from harness.launch.heartbeat import Heartbeat
from harness.launch.local import LocalLauncher, longest_silence
from harness.registry import Registry
from harness.run.events import Ended, Hung, Peak
from harness.run.job import Job
from reports.record.errors import UserError

REGISTRY = Registry(
    algorithms={"grpo": "algorithms.grpo:build"},
    tasks={"tiny": "tiny:TASK"},
    engines={},
)


@pytest.fixture
def events(tmp_path, monkeypatch):
    """All that a real child sends which tries a micro-batch with an engine of tests/support/odd_engines.py."""
    monkeypatch.setattr(local, "PRELOAD", ["harness.launch.worker", "harness.run.loop"])

    def run(engine, silence_s):
        monkeypatch.setenv(local.HANG_VARIABLE, str(silence_s))
        tiny.policy().save(tmp_path / "model")
        spec = tiny.spec("grpo", model={"name": str(tmp_path / "model")})
        registry = REGISTRY._replace(engines={"torch": f"odd_engines:{engine}"})
        return list(LocalLauncher().run(Job("fit", spec, 0, tmp_path / "fit", registry)))

    return run


def test_an_engine_that_hangs_is_started_again_once_and_then_has_failed(events, tmp_path):
    first, ended = events("hanging", 2)
    assert isinstance(first, Hung)
    assert "no sign of life for 2 s" in first.line
    assert (ended.status, ended.hung, ended.exit_code) == ("failed", True, 5)
    assert ended.reason.startswith("it hung while loading")
    # The log says where it stood.
    assert (tmp_path / "fit" / "worker.log").read_text().count("odd_engines.py") == 2
    assert not [each for each in psutil.Process().children(recursive=True) if each.status() == psutil.STATUS_STOPPED]


@pytest.mark.slow
def test_an_engine_that_works_for_longer_than_the_limit_does_not_hang(events):
    peak, ended = events("dawdling", 2)
    assert isinstance(peak, Peak)
    assert ended == Ended("finished", None, 0)


def test_a_crash_of_native_code_is_named_and_its_place_is_in_the_log(events, tmp_path):
    (ended,) = events("crashing", 60)
    assert (ended.status, ended.hung) == ("failed", False)
    assert "SIGSEGV" in ended.reason
    assert "odd_engines.py" in (tmp_path / "fit" / "worker.log").read_text()


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "soon", ""])
def test_a_limit_that_is_none_is_refused_in_one_line(monkeypatch, text):
    monkeypatch.setenv(local.HANG_VARIABLE, text)
    with pytest.raises(UserError, match=r"PARIBUS_HANG_SECONDS=.*: expected a number of seconds above 0"):
        longest_silence()


ORPHAN = """
import os, sys, threading
from harness.launch.heartbeat import Heartbeat
if os.fork():
    input()
with Heartbeat(lambda: None, 0.1):
    print(os.getpid(), flush=True)
    sys.stdout.close()
    threading.Event().wait()
"""


def test_a_child_that_hangs_ends_with_its_parent():
    with subprocess.Popen([sys.executable, "-c", ORPHAN], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, text=True) as parent:  # fmt: skip
        child = psutil.Process(int(parent.stdout.readline()))
        time.sleep(0.5)
        assert child.is_running()
        parent.kill()
    assert wait_for(lambda: not psutil.pid_exists(child.pid) or child.status() == psutil.STATUS_ZOMBIE, 5)


def beats_while(work) -> int:
    beats = []
    with Heartbeat(lambda: beats.append(1), 0.02):
        work()
    return len(beats)


def test_a_thread_that_moves_beats_and_one_that_stands_still_does_not():
    def moving():
        ends = time.monotonic() + 0.5
        while time.monotonic() < ends:
            time.sleep(0.01)
            time.sleep(0.013)
            time.sleep(0.007)

    # The first beat says that it has come here.
    assert beats_while(lambda: threading.Event().wait(0.5)) <= 1
    assert beats_while(moving) >= 3
