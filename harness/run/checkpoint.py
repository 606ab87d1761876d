"""What a run needs to go on after its process is gone, and policies to keep: safetensors and JSON, whole or not there.

A checkpoint is a folder `step-000120` with the weights and the optimizers' state as safetensors, and `state.json` with
where the run stands and the hash of every file. Random numbers are keyed by step, prompt and sample, and prompts are
taken by step, so no state of a generator belongs to it. A folder is written beside its place and renamed; on loading,
every file is checked, and the newest that is whole is taken.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from harness.learn.optimizer import Optimized
from harness.measure.budget import Spent
from harness.model.loading import file_sha256
from harness.model.policy import Policy
from harness.run.disk import KEPT_CHECKPOINTS
from harness.run.loop import Run
from reports.record.errors import EvidenceError, InfrastructureError
from reports.record.journal import read_json, write_json

SCHEMA_VERSION = 1
STATE = "state.json"


@dataclass
class Progress:
    """What a worker has done beside the steps: evaluations on the way, and the step whose memory was tracked."""

    evaluations: int = 0
    measured: bool = False


def save_policy(policy: Policy, folder: Path) -> None:
    """Weights, config and tokenizer into `folder`. Raises InfrastructureError."""
    try:
        with written_whole(folder) as temporary:
            policy.save(temporary)
    except (OSError, SafetensorError) as error:
        raise InfrastructureError(f"{folder}: cannot be written ({str(error).splitlines()[0][:200]})") from None


def save_run(run: Run, progress: Progress, folder: Path) -> Path:
    """A checkpoint of a run between two steps; older ones beyond KEPT_CHECKPOINTS are removed."""
    path = folder / f"step-{run.spent.steps:06d}"
    for torn in folder.glob(".step-*"):
        shutil.rmtree(torn, ignore_errors=True)
    with written_whole(path) as temporary:
        for name, tensors in _tensors(run).items():
            save_file({key: tensor.detach().contiguous() for key, tensor in tensors.items()}, temporary / name)
        files = {file.name: file_sha256(file) for file in sorted(temporary.iterdir())}
        state = {
            "schema_version": SCHEMA_VERSION, "spent": asdict(run.spent), "evidence": run.evidence,
            "progress": asdict(progress), "updates": [weights.steps for weights in run.learner.trainer.optimized],
            "files": files,
        }  # fmt: skip
        write_json(temporary / STATE, state)
    for old in checkpoints(folder)[KEPT_CHECKPOINTS:]:
        shutil.rmtree(old, ignore_errors=True)
    return path


def checkpoints(folder: Path) -> list[Path]:
    """Newest first."""
    return sorted(folder.glob("step-[0-9]*"), key=lambda path: path.name, reverse=True)


def restore(run: Run, folder: Path, warn: Callable[[str], None]) -> Progress:
    """Put a fresh run where its newest whole checkpoint left it; where there is none, it stays at its beginning."""
    for path in checkpoints(folder):
        try:
            state = verified(path)
            loaded = {name: load_file(path / name) for name in state["files"]}
            spent, progress = Spent(**state["spent"]), Progress(**state["progress"])
            _fill(run, loaded, state["updates"])
        except (EvidenceError, SafetensorError, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
            warn(f"{path}: damaged, an older one is taken ({str(error).splitlines()[0][:200]})")
            continue
        run.spent, run.evidence = spent, dict(state["evidence"])
        run.parts.engine.sync()
        return progress
    return Progress()


def verified(path: Path) -> Mapping[str, Any]:
    """The state of a checkpoint whose files are what they were. Raises EvidenceError, KeyError or TypeError."""
    state = read_json(path / STATE)
    if state["schema_version"] != SCHEMA_VERSION:
        raise EvidenceError(f"schema_version {state['schema_version']!r}")
    for name, digest in state["files"].items():
        if Path(name).name != name or not (path / name).is_file() or file_sha256(path / name) != digest:
            raise EvidenceError(f"{name} is not what was written")
    return state


def _tensors(run: Run) -> dict[str, Mapping[str, Tensor]]:
    """File name → what goes into it. The reference is not in here: it is what the run began with."""
    critic = run.parts.models.critic
    found: dict[str, Mapping[str, Tensor]] = {"policy.safetensors": _policy(run)}
    if critic is not None:
        found["critic.safetensors"] = _numbered(critic.parameters)
    for weights in run.learner.trainer.optimized:
        found[f"{weights.name}-optimizer.safetensors"] = _optimizer(weights)
    return found


def _policy(run: Run) -> dict[str, Tensor]:
    return dict(run.parts.models.policy.model.named_parameters())


def _numbered(tensors: list[torch.nn.Parameter]) -> dict[str, Tensor]:
    return {f"{index:05d}": tensor for index, tensor in enumerate(tensors)}


def _optimizer(weights: Optimized) -> dict[str, Tensor]:
    state = weights.optimizer.state
    return {
        f"{index:05d}.{name}": value
        for index, parameter in enumerate(weights.parameters)
        for name, value in state.get(parameter, {}).items()
    }


@torch.no_grad()
def _fill(run: Run, loaded: Mapping[str, Mapping[str, Tensor]], updates: list[int]) -> None:
    """Weights and optimizers from files. Raises before anything is touched where a name or a shape does not fit."""
    targets: dict[str, Mapping[str, Tensor]] = {"policy.safetensors": _policy(run)}
    if run.parts.models.critic is not None:
        targets["critic.safetensors"] = _numbered(run.parts.models.critic.parameters)
    for name, tensors in targets.items():
        shapes, expected = ({k: v.shape for k, v in side.items()} for side in (loaded[name], tensors))
        if shapes != expected:
            raise ValueError(f"{name} holds other tensors than the model")
    optimized = run.learner.trainer.optimized
    states = []
    for weights, steps in zip(optimized, updates, strict=True):
        state: dict[Any, dict[str, Tensor]] = {}
        for key, value in loaded[f"{weights.name}-optimizer.safetensors"].items():
            index, _, name = key.partition(".")
            parameter = weights.parameters[int(index)]
            state.setdefault(parameter, {})[name] = value.to(parameter.device)
        states.append((int(steps), state))
    for name, tensors in targets.items():
        for key, tensor in tensors.items():
            tensor.copy_(loaded[name][key])
    for weights, (steps, state) in zip(optimized, states, strict=True):
        weights.steps = steps
        weights.optimizer.state.clear()
        weights.optimizer.state.update(state)


@contextmanager
def written_whole(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder` that takes its place once it is complete and on the disk."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        yield temporary
        for file in temporary.iterdir():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
