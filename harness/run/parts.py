"""The parts that a run is made of."""

from __future__ import annotations

from dataclasses import dataclass

from algorithms.base import Algorithm
from harness.config.tables import RunSpec
from harness.engines.base import Engine
from harness.model.run_models import RunModels
from suites.task import Task


@dataclass
class Parts:
    """What a run is made of."""

    spec: RunSpec
    seed: int
    task: Task
    algorithm: Algorithm
    models: RunModels
    engine: Engine
