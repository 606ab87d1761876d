"""What the README shows to copy works as it stands."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from algorithms.base import RolloutBatch
from harness.cli import REGISTRY, app
from harness.config.file import load_bench

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS: dict[str, str] = dict(re.findall(r"```(?:python|toml)\n# (\S+)\n(.*?)```", README, re.DOTALL))


ROOT = Path(__file__).parents[1]
PACKAGES = ("algorithms", "suites", "reports", "harness")
# What stands under "Map" in the first block: a line a folder, those of a package indented below it.
MAP = README.partition("## Map")[2].split("```")[1]


def module(tmp_path: Path, name: str) -> ModuleType:
    """A shown file, imported as its users would."""
    path = tmp_path / Path(name).name
    path.write_text(BLOCKS[name])
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    loaded = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
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
    shown = module(tmp_path, "algorithms/fixed.py")
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


def mapped() -> set[str]:
    """The folders that the map names."""
    folders, package = set(), ""
    for line in MAP.splitlines():
        if found := re.match(r"( *)([a-z_]+)/ ", line):
            package = package if found[1] else found[2]
            folders.add(f"{package}/{found[2]}" if found[1] else package)
    return folders


def test_the_map_names_every_folder_of_code_and_no_other() -> None:
    code = {
        str(path.parent.relative_to(ROOT)) for package in PACKAGES for path in (ROOT / package).rglob("__init__.py")
    }
    assert mapped() - {"tests", "docs"} == code


def test_every_path_of_the_readme_exists() -> None:
    paths = re.findall(r"`((?:algorithms|suites|reports|harness|tests|docs)/[\w./-]+)`", README)
    assert len(paths) > 10
    assert [path for path in paths if not (ROOT / path).exists()] == []


@pytest.mark.slow
def test_what_is_shown_passes_every_check_where_it_is_pasted(tmp_path: Path) -> None:
    for package in (*PACKAGES, "tests"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for name, block in BLOCKS.items():
        (tmp_path / name).write_text(block)
    catalogue, row = tmp_path / "algorithms" / "catalogue.py", re.search(r'^("fixed": .*)$', README, re.M)
    assert row is not None
    first = "CATALOGUE: dict[str, Entry] = {\n"
    assert first in catalogue.read_text()
    catalogue.write_text(catalogue.read_text().replace(first, f"{first}    {row[1]}\n"))
    bin_folder = Path(sys.executable).parent
    for command in ("ruff check .", "ruff format --check .", "mypy", "lint-imports"):
        program, *arguments = command.split()
        done = subprocess.run(
            [bin_folder / program, *arguments], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)},
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
