"""What the README shows to copy works as it stands."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
import torch

from algorithms.base import RolloutBatch
from harness.cli import REGISTRY, app
from harness.config.file import load_bench

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS: dict[str, str] = dict(re.findall(r"```(?:python|toml)\n# (\S+)\n(.*?)```", README, re.DOTALL))


def module(tmp_path: Path, name: str) -> ModuleType:
    path = tmp_path / Path(name).name
    path.write_text(BLOCKS[name])
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.mark.parametrize("name", sorted(BLOCKS))
def test_shown_file_is_shorter_than_sixty_lines(name: str) -> None:
    assert BLOCKS[name].count("\n") < 60


def test_shown_suite_is_a_task_with_a_benchmark_file(tmp_path: Path) -> None:
    task = module(tmp_path, "suites/parity.py").TASK
    assert len(task.train()) == 5000
    assert task.verify("Seven is odd.", "odd").correct
    assert not task.verify("It is even", "odd").correct
    path = tmp_path / "parity.toml"
    path.write_text(BLOCKS["suites/parity.toml"])
    bench = load_bench(path)
    assert list(task.heldout()) == list(bench.eval.tasks)


def test_shown_algorithm_assigns_the_score_less_its_own_baseline(tmp_path: Path) -> None:
    bench = load_bench(Path(__file__).parents[1] / "suites" / "arithmetic.toml")
    shown = module(tmp_path, "algorithms/fixed_baseline.py")
    algorithm = shown.build(bench.run_spec("grpo"), shown.FixedBaseline())
    batch = RolloutBatch(
        prompt_ids=torch.ones(1, 2, dtype=torch.long), prompt_mask=torch.ones(1, 2, dtype=torch.long),
        prompt_of=torch.zeros(3, dtype=torch.long), response_ids=torch.ones(3, 2, dtype=torch.long),
        mask=torch.ones(3, 2), loss_mask=torch.ones(3, 2), scores=torch.tensor([1.0, 0.0, 0.0]),
        engine_logprobs=torch.zeros(3, 2),
    )  # fmt: skip
    credit = algorithm.assign_credit(batch, None)
    torch.testing.assert_close(credit.advantages, torch.tensor([[0.5], [-0.5], [-0.5]]).expand(3, 2))


def test_every_command_the_readme_names_exists() -> None:
    named = set(re.findall(r"`paribus ([a-z]+)", README))
    assert named == {command.callback.__name__ for command in app.registered_commands if command.callback}


def test_readme_names_every_suite() -> None:
    assert all(f"`{name}`" in README or f"SUITE={name}" in README for name in REGISTRY.tasks)
