"""Phases: what is measured where, peaks of memory, and rates."""

import time

import pytest
import torch

from harness.measure.meter import Meter
from reports.record.names import PHASES

MIB = 2**20


@pytest.fixture
def meter():
    made = Meter(torch.device("cpu"))
    yield made
    made.close()


@pytest.fixture
def clock(monkeypatch):
    """A clock that moves only when told to."""
    now = [100.0]
    monkeypatch.setattr("harness.measure.meter.time.perf_counter", lambda: now[0])

    def advance(seconds):
        now[0] += seconds

    return advance


def test_a_phase_adds_up_its_visits_and_the_step_holds_what_lies_between(clock, meter):
    meter.start_step()
    for seconds in (1.0, 2.0):
        with meter.phase("rollout"):
            clock(seconds)
        clock(0.5)
    with meter.phase("reward"):
        clock(4.0)
    assert meter.seconds == {"rollout": 3.0, "reward": 4.0}
    assert meter.step_seconds() == 8.0


def test_rates_are_tokens_over_the_phases_own_seconds(clock, meter):
    meter.start_step()
    with meter.phase("rollout"):
        clock(2.0)
    meter.count("rollout", tokens=30, flops=100.0, executed=150.0)
    meter.count("rollout", tokens=10, flops=100.0, executed=100.0)
    with meter.phase("policy_update"):
        clock(6.0)
    meter.count("policy_update", tokens=120, flops=600.0, executed=700.0)
    measured = meter.metrics(step_seconds=8.0, samples=16, generated_tokens=40)
    assert measured["time/rollout_s"] == 2
    assert measured["time/step_s"] == 8
    assert measured["throughput/rollout_tokens_per_s"] == 20
    assert measured["throughput/policy_update_tokens_per_s"] == 20
    assert measured["throughput/samples_per_s"] == 2
    assert measured["throughput/tokens_per_s"] == 5
    assert measured["throughput/flops_per_s"] == 100
    assert (measured["flops/rollout/useful"], measured["flops/rollout/executed"]) == (200, 250)


def test_a_phase_that_did_not_run_has_no_figures(meter):
    with meter.phase("rollout"):
        pass
    measured = meter.metrics(step_seconds=1.0, samples=1, generated_tokens=1)
    assert {name.split("/")[1] for name in measured if name.startswith("memory/")} == {"rollout"}
    assert "time/critic_update_s" not in measured
    assert "throughput/rollout_tokens_per_s" not in measured


def test_a_new_step_starts_from_nothing(meter):
    with meter.phase("rollout"):
        pass
    meter.count("rollout", tokens=3, flops=1.0, executed=2.0)
    meter.start_step()
    assert not meter.seconds
    assert not meter.tokens
    assert not meter.flops
    assert not meter.executed_flops
    assert not meter.peaks


def test_a_phase_that_fails_is_measured_too(clock, meter):
    def fail():
        with meter.phase("rollout"):
            clock(3.0)
            raise RuntimeError("lost")

    with pytest.raises(RuntimeError, match="lost"):
        fail()
    assert meter.seconds["rollout"] == 3


def test_an_unknown_phase_is_refused(meter):
    with pytest.raises(AssertionError, match="lunch"), meter.phase("lunch"):
        pass
    assert "lunch" not in PHASES


@pytest.mark.parametrize("by_kernel", [True, False])
def test_the_peak_counts_memory_that_is_gone_at_the_phases_end(by_kernel, monkeypatch, tmp_path, request):
    if not by_kernel:
        monkeypatch.setattr("harness.measure.memory_peak.RESET_PEAK", tmp_path / "no" / "clear_refs")
    meter = Meter(torch.device("cpu"))
    request.addfinalizer(meter.close)
    with meter.phase("reward"):
        pass
    with meter.phase("rollout"):
        block = torch.ones(96 * MIB // 4)
        held = block.nbytes
        if not by_kernel:
            time.sleep(0.1)  # the resident set is sampled
        del block
    with meter.phase("values"):
        pass
    assert held == 96 * MIB
    assert meter.peaks["rollout"]["peak"] >= meter.peaks["reward"]["peak"] + 0.9 * held
    assert meter.peaks["values"]["peak"] <= meter.peaks["rollout"]["peak"] - 0.9 * held


def test_the_peak_is_not_below_what_is_held(meter):
    block = torch.ones(64 * MIB // 4)
    with meter.phase("rollout"):
        pass
    assert meter.peaks["rollout"]["peak"] >= block.nbytes


def test_closing_ends_the_sampling_thread(monkeypatch, tmp_path):
    monkeypatch.setattr("harness.measure.memory_peak.RESET_PEAK", tmp_path / "no" / "clear_refs")
    meter = Meter(torch.device("cpu"))
    thread = meter._memory._rss._thread
    assert thread.is_alive()
    meter.close()
    assert not thread.is_alive()


def test_a_steps_energy_is_what_the_device_used_since_its_start(meter, monkeypatch):
    readings = iter([100.0, 130.0])
    assert meter.step_joules() is None
    monkeypatch.setattr("harness.measure.meter.energy_joules", lambda device: next(readings))
    meter.start_step()
    assert meter.step_joules() == 30
