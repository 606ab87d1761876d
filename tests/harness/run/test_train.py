"""What surrounds the steps of a run costs nothing of its budget, and is made once, whenever its process dies."""

import contextlib

import pytest
import tiny

from harness.registry import Registry
from harness.run.assemble import assemble
from harness.run.events import Evaluated, Resumed, Stepped
from harness.run.job import Job
from harness.run.train import train_to_the_end
from reports.record.journal import MEASURED, read_lines

REGISTRY = Registry(
    algorithms={"ppo": "algorithms.ppo:build", "grpo": "algorithms.grpo:build"},
    tasks={"tiny": "tiny:TASK"},
    engines={"torch": "harness.engines.torch_engine:TORCH"},
)


@pytest.mark.parametrize("arm", ["ppo", "grpo"])
def test_evaluating_twice_as_often_changes_neither_the_steps_nor_what_they_spend(arm, tmp_path):
    tiny.policy().save(tmp_path / "model")
    records, evaluations = {}, {}
    for every in (0.5, 0.25):
        folder = tmp_path / str(every)
        folder.mkdir()
        spec = tiny.spec(
            arm, model={"name": str(tmp_path / "model")}, budget={"samples": 12 * 8},
            eval={"every": every, "questions": 2}, checkpoint={"final": every == 0.25},
        )  # fmt: skip
        parts = assemble(Job("train", spec, 0, folder, REGISTRY))
        train_to_the_end(parts, folder, lambda event: None, peak_flops=1e11)
        records[every] = read_lines(folder / "steps.jsonl")
        evaluations[every] = sorted(path.name for path in (folder / "evals").iterdir())
    assert len(evaluations[0.25]) == 2 * len(evaluations[0.5]) == 4
    assert len(records[0.5]) == 8
    seldom, often = (
        [{k: v for k, v in record.items() if not k.startswith(MEASURED)} for record in records[every]]
        for every in (0.5, 0.25)
    )
    assert often == seldom
    for every in (0.5, 0.25):
        spent = sum(record["time/step_s"] for record in records[every])
        assert records[every][-1]["budget/device_seconds"] == pytest.approx(spent)
        assert all(
            sum(v for k, v in record.items() if k.startswith("time/") and k != "time/step_s") <= record["time/step_s"]
            for record in records[every]
        )


class Died(Exception):
    """Stands for the end of a process: nothing is saved on the way out."""


@pytest.fixture
def train(tmp_path):
    """Trains in a folder until an event at which the process dies; returns the events that it has sent."""
    tiny.policy().save(tmp_path / "model")
    spec = tiny.spec(
        model={"name": str(tmp_path / "model")}, budget={"samples": 12 * 4}, eval={"every": 0.5, "questions": 2},
        checkpoint={"every_s": 1e-9},
    )  # fmt: skip

    def run(dies_at=lambda event: False):
        sent = []

        def emit(event):
            sent.append(event)
            if dies_at(event):
                raise Died

        parts = assemble(Job("train", spec, 0, tmp_path / "run", REGISTRY))
        with contextlib.suppress(Died):
            train_to_the_end(parts, tmp_path / "run", emit, peak_flops=1e11)
        return sent

    return run


def of(kind, events):
    return [event for event in events if isinstance(event, kind)]


def test_an_evaluation_that_no_checkpoint_knows_of_is_forgotten_and_made_again(train, tmp_path):
    kept = []
    first = train(lambda event: isinstance(event, Evaluated))
    assert [event.step for event in of(Evaluated, first)] == [2]

    def noted(event):
        if isinstance(event, Resumed):
            kept.extend(path.name for path in (tmp_path / "run" / "evals").iterdir())
        return False

    second = train(noted)
    assert [event.step for event in of(Resumed, second)] == [2]
    assert kept == []
    assert [(event.label, event.step) for event in of(Evaluated, second)] == [("step-000002", 2), ("final", 4)]


def test_a_run_that_trained_to_its_end_is_never_trained_again(train, tmp_path):
    train(lambda event: isinstance(event, Evaluated) and event.label == "final")
    again = train()
    assert [event.step for event in of(Resumed, again)] == [4]
    assert of(Stepped, again) == []
    assert [event.label for event in of(Evaluated, again)] == ["final"]
    assert [record["step"] for record in read_lines(tmp_path / "run" / "steps.jsonl")] == [1, 2, 3, 4]
    # Whoever notes that it finished removes them.
    assert list((tmp_path / "run" / "checkpoints").iterdir())
