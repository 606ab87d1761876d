"""The parts that a run is made of."""

from __future__ import annotations

from dataclasses import dataclass

from algorithms.base import Algorithm
from harness.config.tables import RunSpec
from harness.engines.base import Engine
from harness.model.critic import Critic
from harness.model.policy import Policy
from suites.task import Task


@dataclass
class Parts:
    """What a run is made of. The critic and the reference exist only where something asks for them."""

    spec: RunSpec
    seed: int
    task: Task
    algorithm: Algorithm
    policy: Policy
    engine: Engine
    critic: Critic | None
    reference: Policy | None
