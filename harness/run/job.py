"""The work of one child process."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

from harness.config.tables import RunSpec
from harness.registry import Registry


class Job(NamedTuple):
    """One child's work: evaluate the base policy, find the largest micro-batch that fits, or train a run."""

    kind: Literal["base", "fit", "train"]
    spec: RunSpec
    seed: int
    folder: Path
    registry: Registry
