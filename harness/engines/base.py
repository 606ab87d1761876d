"""What the loop asks of whatever samples completions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from harness.config.tables import RunSpec
from harness.measure.flops import Shape
from harness.model.policy import Policy


class Request(NamedTuple):
    """One completion to sample. Its randomness is `seed` alone, so it does not depend on who shares its batch."""

    prompt_ids: tuple[int, ...]
    seed: int


class Sampling(NamedTuple):
    """temperature 0 is greedy: the most likely token, with log-probabilities at temperature 1."""

    temperature: float
    max_tokens: int
    ignore_eos: bool = False


class Engine(Protocol):
    @property
    def exact(self) -> bool:
        """Log-probabilities are the trainer's own, to rounding, so they can stand for those under the old policy."""

    @property
    def ran(self) -> Shape | None:
        """The forwards of the last `generate`, padding included; None where the engine does not say."""

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """One completion per request, in order."""

    def release(self) -> None:
        """Give memory back until the next `sync`: no generation comes before it."""

    def sync(self) -> None:
        """Take over the policy's weights after an update."""

    def held_bytes(self) -> Mapping[str, int]:
        """What it holds now that `harness.measure.memory_tracker` cannot see, component → bytes."""

    def close(self) -> None:
        """Give back memory and processes."""


class EngineKind(NamedTuple):
    """What a configuration can name: how an engine is made, and whether one can be made here.

    require: asked before anything runs. Raises UserError where something is missing.
    """

    build: Callable[[Policy, RunSpec], Engine]
    require: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True)
class Completion:
    """What the policy answered.

    token_ids: the response tokens, the end-of-sequence token included where one was produced.
    logprobs: their log-probabilities at the sampling temperature, in nats, one per token.
    truncated: the length cap ended it, not the policy.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    text: str
    truncated: bool

    def __post_init__(self) -> None:
        assert len(self.token_ids) == len(self.logprobs)
