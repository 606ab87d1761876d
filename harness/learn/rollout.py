"""One graded completion."""

from __future__ import annotations

from dataclasses import dataclass

from harness.engines.base import Completion
from suites.task import Prompt, Reward


@dataclass(frozen=True, slots=True)
class Rollout:
    """One graded completion. `group` numbers the prompt within its step; the samples of a prompt share it."""

    prompt: Prompt
    prompt_ids: tuple[int, ...]
    group: int
    completion: Completion
    reward: Reward
