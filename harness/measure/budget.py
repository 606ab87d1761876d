"""What a run has spent, on every axis, and when it ends."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from harness.config.tables import Budget


@dataclass(frozen=True)
class Spent:
    """Cumulative spending. The step that crosses the limit is finished; what it overshoots by is recorded.

    device_seconds: wall-clock seconds of steps × devices held. trained_tokens: response tokens × update passes.
    """

    steps: int = 0
    prompts: int = 0
    samples: int = 0
    generated_tokens: int = 0
    trained_tokens: int = 0
    flops: float = 0.0
    device_seconds: float = 0.0
    energy_joules: float | None = None
    """None where the device does not say."""

    def plus(self, **amounts: float | None) -> Spent:
        """More of each axis; None is no news."""
        known: dict[str, Any] = {
            axis: (getattr(self, axis) or 0) + amount for axis, amount in amounts.items() if amount is not None
        }
        return replace(self, **known)

    def amounts(self) -> dict[str, float]:
        """By axis, without those that the device does not tell."""
        return {axis: amount for axis, amount in asdict(self).items() if amount is not None}

    def metrics(self) -> dict[str, float]:
        return {f"budget/{axis}": amount for axis, amount in self.amounts().items()}

    def fraction(self, budget: Budget) -> float:
        """Share of the limit spent; above 1 by the overshoot."""
        return getattr(self, budget.currency) / budget.limit

    def exhausted(self, budget: Budget) -> bool:
        return self.fraction(budget) >= 1
