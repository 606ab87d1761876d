"""Weights with their optimizer, and the means that a step logs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from algorithms.base import LossTerms, Mean
from harness.config.tables import RunSpec
from harness.measure.memory_tracker import labelled

# The component of memory that each set of weights' optimizer state is.
STATE_OF = {"policy": "optimizer", "critic": "critic_optimizer"}


class Diverged(Exception):
    """A gradient is no longer finite; the message says whose."""


@dataclass
class StepLog:
    """Means gathered over a step's updates."""

    means: dict[str, Mean] = field(default_factory=dict)

    def add(self, name: str, value: float, count: float = 1.0) -> None:
        self.means[name] = self.means.get(name, Mean(0, 0)) + Mean(value * count, count)

    def add_max(self, name: str, value: float) -> None:
        self.means[name] = Mean(max(value, self.means.get(name, Mean(value, 1)).total), 1)

    def merge(self, terms: LossTerms) -> None:
        for name, mean in terms.metrics.items():
            self.means[name] = self.means.get(name, Mean(0, 0)) + mean


class Optimized:
    """A set of weights with its optimizer. The learning rate rises linearly over the first `warmup_steps` updates.

    frozen: a step ends where weights would move, and they do not.
    """

    def __init__(
        self, name: str, parameters: list[torch.nn.Parameter], spec: RunSpec, *, lr: float, max_grad_norm: float
    ):
        self.name, self.parameters = name, parameters
        self.component = STATE_OF[name]
        self.learning_rate, self.max_grad_norm, self.warmup = lr, max_grad_norm, spec.update.warmup_steps
        self.optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=spec.update.weight_decay, fused=True)
        self.steps = 0
        self.frozen = False

    def step(self, loss: float, log: StepLog) -> None:
        """Clip, step, clear. Raises Diverged where the gradient norm is not finite, before any weight moves."""
        with labelled(self.component):
            self._step(loss, log)

    def _step(self, loss: float, log: StepLog) -> None:
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, self.max_grad_norm))
        if self.frozen:
            self.optimizer.zero_grad(set_to_none=True)
            return
        if not math.isfinite(norm):
            raise Diverged(f"the {self.name}'s gradient norm is {norm}, its loss {loss}")
        self.steps += 1
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * (min(1.0, self.steps / self.warmup) if self.warmup else 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        log.add(f"{self.name}/loss", loss)
        log.add(f"{self.name}/grad_norm", norm)

    def optimizer_state(self) -> list[Tensor]:
        return [value for state in self.optimizer.state.values() for value in state.values()]
