"""A run goes on from its checkpoint as if nothing had happened, and never from one that is not whole."""

import json
import resource
import shutil
from contextlib import contextmanager

import pytest
import tiny
import torch

from harness.run.checkpoint import Progress, checkpoints, restore, save_run
from harness.run.events import Warned
from harness.run.train import save
from reports.record.journal import MEASURED

SEVERAL = {"epochs": 2, "minibatches": 2, "warmup_steps": 3}
SETTINGS = {
    "grpo": ("grpo", {}),
    "grpo, KL, several updates": (
        "grpo",
        {"update": SEVERAL, "kl": {"coefficient": 0.1, "placement": "loss", "estimator": "k3"}},
    ),
    "ppo": ("ppo", {}),
    "ppo, warm-up, several updates": ("ppo", {"update": SEVERAL, "critic": {"warmup_steps": 3}}),
    "ppo, shared trunk": ("ppo", {"critic": {"kind": "shared", "warmup_steps": 1}}),
}


def determined(record):
    return {name: value for name, value in record.items() if not name.startswith(MEASURED)}


def all_tensors(run):
    critic = run.parts.models.critic.parameters if run.parts.models.critic else []
    moments = [
        state[name]
        for weights in run.learner.trainer.optimized
        for parameter in weights.parameters
        for state in [weights.optimizer.state[parameter]]
        for name in sorted(state)
    ]
    return [*run.parts.models.policy.model.parameters(), *critic, *moments]


def no_warning(line):
    raise AssertionError(line)


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_run_goes_on_with_the_same_numbers_to_the_bit(settings, tmp_path):
    name, tables = SETTINGS[settings]
    spec = tiny.spec(name, **tables)
    with tiny.training(spec) as whole:
        expected = [determined(whole.step()) for _ in range(5)]
    with tiny.training(spec) as first:
        for _ in range(2):
            first.step()
        save_run(first, Progress(1, True), tmp_path)
        first.step()
    with tiny.training(spec) as second:
        assert restore(second, tmp_path, no_warning) == Progress(1, True)
        assert second.evidence == whole.evidence
        found = [determined(second.step()) for _ in range(3)]
    assert found == expected[2:]
    assert all(torch.equal(a, b) for a, b in zip(all_tensors(second), all_tensors(whole), strict=True))


def saved(folder, steps=4):
    with tiny.training(tiny.spec("ppo")) as run:
        for _ in range(steps):
            run.step()
            save_run(run, Progress(), folder)


def restored(folder):
    """(steps of the run put back, lines of warning)."""
    warnings = []
    with tiny.training(tiny.spec("ppo")) as run:
        restore(run, folder, warnings.append)
        return run.spent.steps, warnings


def test_old_checkpoints_are_removed_and_torn_ones_too(tmp_path):
    (tmp_path / ".step-000001.torn").mkdir()
    saved(tmp_path)
    assert [path.name for path in checkpoints(tmp_path)] == ["step-000004", "step-000003"]
    assert len(list(tmp_path.iterdir())) == 2


def test_without_a_checkpoint_a_run_begins_at_its_beginning(tmp_path):
    assert restored(tmp_path / "none") == (0, [])


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


DAMAGE = {
    "a bit of the policy": lambda path: flip(path / "policy.safetensors"),
    "a bit of an optimizer": lambda path: flip(path / "critic-optimizer.safetensors"),
    "a file cut short": lambda path: (path / "critic.safetensors").write_bytes(b"short"),
    "a file gone": lambda path: (path / "policy.safetensors").unlink(),
    "no state": lambda path: (path / "state.json").unlink(),
    "half a state": lambda path: (path / "state.json").write_text('{"schema_version": 1, "files": {'),
    "another kind of state": lambda path: (path / "state.json").write_text("[]"),
    "a file outside": lambda path: (path / "state.json").write_text(
        json.dumps({"schema_version": 1, "files": {"../step-000003/policy.safetensors": "0"}})
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_named_and_an_older_one_taken(damage, tmp_path):
    saved(tmp_path)
    DAMAGE[damage](tmp_path / "step-000004")
    steps, warnings = restored(tmp_path)
    assert steps == 3
    assert len(warnings) == 1
    assert "step-000004: damaged, an older one is taken" in warnings[0]
    shutil.rmtree(tmp_path / "step-000003")
    assert restored(tmp_path)[0] == 0


def test_a_checkpoint_of_another_model_is_not_taken(tmp_path):
    saved(tmp_path)
    warnings = []
    with tiny.training(tiny.spec("ppo"), start=tiny.policy(head_dim=4)) as run:
        before = run.parts.models.policy.weights_sha256()
        assert restore(run, tmp_path, warnings.append) == Progress()
        assert run.parts.models.policy.weights_sha256() == before
    assert len(warnings) == 2


@contextmanager
def files_of_at_most(size):
    """What writes more to a file fails, as on a disk without room."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# The weights do not fit; the weights fit, and their optimizer's state does not.
@pytest.mark.parametrize("size", [1_000, 80_000])
def test_a_save_that_fails_leaves_the_older_one_and_no_rest(tmp_path, size):
    saved(tmp_path, steps=1)
    sizes = sorted(file.stat().st_size for file in (tmp_path / "step-000001").glob("*.safetensors"))
    assert size < sizes[0] or sizes[0] < size < sizes[-1], sizes
    events = []
    with tiny.training(tiny.spec("ppo")) as run:
        restore(run, tmp_path, no_warning)
        run.step()
        with files_of_at_most(size):
            save(run, Progress(), tmp_path, events.append)
    assert [type(event) for event in events] == [Warned]
    assert events[0].line.startswith("no checkpoint at step 2: ")
    assert "File too large" in events[0].line
    assert [path.name for path in tmp_path.iterdir()] == ["step-000001"]
