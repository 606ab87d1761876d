"""What surrounds the steps of a run costs nothing of its budget."""

import pytest
import tiny

from harness.journal import MEASURED, read_lines
from harness.training import train_to_the_end
from harness.worker import Job, Registry, assemble

REGISTRY = Registry(
    algorithms={"ppo": "algorithms.ppo:build", "grpo": "algorithms.grpo:build"},
    tasks={"tiny": "tiny:TASK"},
    engines={"torch": "harness.engines.torch_engine:build"},
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
        train_to_the_end(parts, folder, lambda event: None, [], peak_flops=1e11)
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
