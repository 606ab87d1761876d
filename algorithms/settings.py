"""The settings that algorithms read; defaults stand beside what they configure and are the vetted setting.

`Settings` is all that an algorithm is built from: whatever resolves an arm's configuration has these tables.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Protocol

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

# The largest whole number that a float, and so JSON read elsewhere, still holds exactly.
LARGEST = 2**53
Count = Annotated[int, Field(ge=1, le=LARGEST)]
Whole = Annotated[int, Field(ge=0, le=LARGEST)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Unit = Annotated[float, Field(ge=0, le=1)]


def none_word(value: Any) -> Any:
    """TOML has no null: the word "none" stands for it."""
    return None if value == "none" else value


class Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Options(Table):
    """An algorithm's own settings, `[arms.X.options]`; a variant that has some derives its own class.

    Defaults are the vetted setting. Configurations read the class, so its module imports without torch.
    """


class KlTable(Table):
    coefficient: NonNegative = 0.0
    placement: Literal["none", "reward", "loss"] = "none"
    estimator: Literal["k1", "k2", "k3"] = "k3"

    @model_validator(mode="after")
    def _coefficient_has_a_place(self) -> KlTable:
        if (self.placement == "none") != (self.coefficient == 0):
            raise ValueError(
                "a coefficient needs a placement (reward, loss) and a placement a coefficient above 0; "
                f"got coefficient = {self.coefficient:g}, placement = {self.placement!r}"
            )
        return self


class AdvantageTable(Table):
    whiten: bool = False
    """Scale the batch's advantages to mean 0 and variance 1 over response tokens."""
    group_std: bool = True
    """Divide a group's advantages by its standard deviation (critic-free algorithms)."""


class CriticTable(Table):
    kind: Literal["separate", "shared"] = "separate"
    learning_rate: Positive = 1e-5
    value_clip: Annotated[Positive | None, BeforeValidator(none_word)] = 0.2
    """How far a value may move from the rollout's before its loss is clipped; "none" turns clipping off."""
    loss_coefficient: Positive = 0.1
    """Weight of the value loss beside the policy loss where the two share a trunk."""
    warmup_steps: Whole = 0
    """First steps in which only the critic learns; they are charged to the budget."""
    max_grad_norm: Positive = 1.0
    gamma: Unit = 1.0
    lam: Unit = 1.0


class RolloutSettings(Protocol):
    @property
    def completions_per_prompt(self) -> int: ...

    @property
    def max_completion_tokens(self) -> int: ...


class UpdateSettings(Protocol):
    @property
    def clip_low(self) -> float: ...

    @property
    def clip_high(self) -> float: ...

    @property
    def importance_cap(self) -> float | None: ...

    @property
    def aggregation(self) -> str: ...


class Settings(Protocol):
    """An arm's settings, as far as algorithms read them."""

    @property
    def rollout(self) -> RolloutSettings: ...

    @property
    def update(self) -> UpdateSettings: ...

    @property
    def kl(self) -> KlTable: ...

    @property
    def advantage(self) -> AdvantageTable: ...

    @property
    def critic(self) -> CriticTable: ...


def require_group(settings: Settings, algorithm: str) -> None:
    """Raises ValueError where prompts have a single completion, and so no other to be held against."""
    if settings.rollout.completions_per_prompt < 2:
        raise ValueError(
            f"rollout.completions_per_prompt = {settings.rollout.completions_per_prompt}: "
            f"{algorithm} needs at least 2 completions of a prompt, a group of one has no baseline"
        )
