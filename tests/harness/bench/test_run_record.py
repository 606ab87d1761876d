"""A run's record is what its events make of it, event by event."""

from functools import reduce

import pytest

from harness.bench.run_record import after
from harness.run.events import Conditions, Ended, Evaluated, Evidence, Hung, Resumed, Stepped, Warned
from reports.record.errors import EvidenceError
from reports.record.models import RunRecord

PLANNED = RunRecord.planned("ppo", 1, 2)


def step(number: int, samples: int) -> Stepped:
    return Stepped({"step": number, "reward/mean": 0.5, "budget/steps": number, "budget/samples": samples}, 0.5)


def made_by(*events) -> RunRecord:
    return reduce(after, events, PLANNED)


def test_steps_count_and_the_last_one_says_what_is_spent():
    record = made_by(Conditions("before", {"gemm_s": 0.1, "cpu_mhz": 5}), step(1, 8), step(2, 16))
    assert (record.steps, record.spent) == (2, {"steps": 2, "samples": 16})
    assert record.conditions == {"before": {"gemm_s": 0.1, "cpu_mhz": 5}}
    assert PLANNED.steps == 0


def test_a_run_that_goes_on_has_spent_what_its_checkpoint_knows():
    record = made_by(step(1, 8), step(2, 16), Hung("it hung after step 2"), Resumed(1, {"steps": 1, "samples": 8}, {}))
    assert (record.steps, record.spent, record.resumed) == (1, {"steps": 1, "samples": 8}, [1])
    assert record.hung == ["it hung after step 2"]


@pytest.mark.parametrize(
    ("ended", "try_again"),
    [
        (Ended("failed", "no room on the disk", 5), True),
        (Ended("failed", "it hung while loading", 5, hung=True), False),
        (Ended("diverged", "its loss is nan", 1), False),
    ],
)
def test_only_what_failed_outside_of_it_is_worth_another_try(ended, try_again):
    record = made_by(step(1, 8), ended)
    assert (record.status, record.reason, record.try_again) == (ended.status, ended.reason, try_again)


def test_where_memory_ran_out_is_kept():
    where = {"phase": "critic_update", "component": "critic_optimizer"}
    assert made_by(Ended("out_of_memory", "no room", 1, where)).out_of_memory_in == where


def test_what_is_for_others_changes_nothing():
    others = (Warned("a line"), Evidence({"weights": "a"}), Evaluated("final", "held", 2, {"accuracy": 0.5}))
    assert made_by(*others) == PLANNED


def test_what_is_no_part_of_a_record_is_refused_by_name():
    with pytest.raises(EvidenceError, match=r"^ppo seed 1: steps = -1: "):
        made_by(step(-1, 8))


def test_numbers_keep_their_kind_and_a_table_its_unknown_keys():
    record = RunRecord.read({**PLANNED.dump(), "spent": {"steps": 1, "flops": 2.0}, "later": 1}, "run")
    assert [type(amount) for amount in record.dump()["spent"].values()] == [int, float]
    assert "later" not in record.dump()
