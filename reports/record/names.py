"""The names that a record is written in (axes, phases, components), and the types of its values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field


class Table(BaseModel):
    """A part of a file that only this program writes: a key that is not known here is a fault."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
# The largest whole number that a float, and so JSON read elsewhere, still holds exactly.
LARGEST = 2**53
Count = Annotated[int, Field(ge=1, le=LARGEST)]
Whole = Annotated[int, Field(ge=0, le=LARGEST)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
# What others wrote in a record or a baseline; it may be shown on a terminal, which control characters would command.
Text = Annotated[str, Field(max_length=300, pattern=r"^\P{Cc}*$")]
# It names a folder and stands in search conditions.
BENCH_ID = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
Currency = Literal["device_seconds", "generated_tokens", "samples", "steps", "flops"]
CURRENCIES: tuple[str, ...] = get_args(Currency)

PHASES = (
    "rollout", "reward", "logprobs", "reference", "values", "policy_update", "critic_update", "weight_sync",
)  # fmt: skip

COMPONENTS = (
    "weights", "critic", "reference", "engine", "gradients", "critic_gradients", "optimizer", "critic_optimizer",
    "kv_cache", "activations", "temporaries", "other",
)  # fmt: skip
"""engine: weights as the sampler holds them, beside the policy's own. other: batches, buffers, whatever has no name."""
# Held because there is a critic, whatever it is doing.
OF_THE_CRITIC = ("critic", "critic_gradients", "critic_optimizer")
# In these phases a forward keeps what its backward needs.
LEARNING = ("policy_update", "critic_update")

CRITIC_PHASES = frozenset({"values", "critic_update"})
# component → title, in the order in which they are read: the policy's, the critic's, what comes and goes, totals.
MEMORY_PARTS: Mapping[str, str] = {
    "weights": "weights",
    "reference": "reference",
    "engine": "the sampler's weights",
    "optimizer": "optimizer",
    "gradients": "gradients",
    "critic": "critic",
    "critic_optimizer": "optimizer, critic",
    "critic_gradients": "gradients, critic",
    "kv_cache": "keys and values",
    "activations": "activations",
    "temporaries": "temporaries",
    "other": "other",
    "tracked": "all tensors",
    "reserved": "reserved by the allocator",
    "device": "the whole device",
}
# These hold what the others are parts of.
MEMORY_TOTALS = frozenset({"tracked", "reserved", "device"})
CRITIC_PARTS = frozenset({"critic", "critic_optimizer", "critic_gradients"})

# axis → (name, unit); the column of a journal is "budget/<axis>".
AXES: Mapping[str, tuple[str, str]] = {
    "steps": ("Training steps", "steps"),
    "samples": ("Samples drawn", "samples"),
    "generated_tokens": ("Tokens generated", "tokens"),
    "device_seconds": ("Device time", "s"),
    "flops": ("Arithmetic", "FLOP"),
    "energy_joules": ("Energy", "J"),
}
