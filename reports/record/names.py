"""The names that a record is written in, each once with its title and unit, and the types of its values.

Meters write by them and pages title by them: statuses, kinds of evidence, phases of a step, components of memory,
and axes, which is what a run spends.
"""

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
LONGEST_NAME = 300
Text = Annotated[str, Field(max_length=LONGEST_NAME, pattern=r"^\P{Cc}*$")]
# It names a folder and stands in search conditions.
BENCH_ID = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
Currency = Literal["device_seconds", "generated_tokens", "samples", "steps", "flops"]
CURRENCIES: tuple[str, ...] = get_args(Currency)


# How a run stands, or ended.
Status = Literal["not started", "running", "interrupted", "failed", "diverged", "out_of_memory", "finished"]
# Run again from one of these, it would end the same.
CONCLUDED = ("finished", "out_of_memory", "diverged")
# These say nothing about the code that ran.
NOT_ENDED = ("not started", "running", "interrupted")

# Hashes in which the arms of a seed agree, or they are not matched.
EVIDENCE = ("weights", "prompts", "first_rollout")

# phase → title, in the order in which they happen.
PHASES: Mapping[str, str] = {
    "rollout": "rollout",
    "reward": "reward",
    "logprobs": "old log-probs",
    "reference": "reference",
    "values": "values (critic)",
    "policy_update": "policy update",
    "critic_update": "critic update",
    "weight_sync": "weight sync",
}
CRITIC_PHASES = frozenset({"values", "critic_update"})
# In these phases a forward keeps what its backward needs.
LEARNING = ("policy_update", "critic_update")

# component → title, in the order in which they are read: the policy's, the critic's, what comes and goes.
COMPONENT_TITLES: Mapping[str, str] = {
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
}
"""engine: weights as the sampler holds them, beside the policy's own. other: batches, buffers, whatever has no name."""
# In the order in which a journal has their columns.
COMPONENTS = (
    "weights", "critic", "reference", "engine", "gradients", "critic_gradients", "optimizer", "critic_optimizer",
    "kv_cache", "activations", "temporaries", "other",
)  # fmt: skip
# Held because there is a critic, whatever it is doing.
CRITIC_PARTS = frozenset({"critic", "critic_optimizer", "critic_gradients"})
# These hold what the components are parts of.
MEMORY_TOTALS: Mapping[str, str] = {
    "tracked": "all tensors",
    "reserved": "reserved by the allocator",
    "device": "the whole device",
}
MEMORY_PARTS: Mapping[str, str] = {**COMPONENT_TITLES, **MEMORY_TOTALS}

# axis → unit, for all that a run spends; the column of a journal is "budget/<axis>".
SPENT_UNITS: Mapping[str, str] = {
    "steps": "steps",
    "prompts": "prompts",
    "samples": "samples",
    "generated_tokens": "tokens",
    "trained_tokens": "tokens",
    "flops": "FLOP",
    "device_seconds": "s",
    "energy_joules": "J",
}
# axis → (title, unit), for those that runs are drawn and compared on.
AXES: Mapping[str, tuple[str, str]] = {
    axis: (title, SPENT_UNITS[axis])
    for axis, title in {
        "steps": "Training steps",
        "samples": "Samples drawn",
        "generated_tokens": "Tokens generated",
        "device_seconds": "Device time",
        "flops": "Arithmetic",
        "energy_joules": "Energy",
    }.items()
}
# axis → one of what it counts, in a sentence.
AXIS_NAMES: Mapping[str, str] = {
    "steps": "step",
    "samples": "sample",
    "generated_tokens": "generated token",
    "device_seconds": "device-second",
    "flops": "FLOP",
    "energy_joules": "joule",
}
