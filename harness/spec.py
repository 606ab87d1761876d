"""What a benchmark is: pydantic models of `suites/<name>.toml`, and the file's way into them.

`load_bench` reads a file, lays a profile and `--set` overrides over it and validates; every fault is one line
that names the file, the key, the value and what is accepted. `BenchSpec.run_spec` resolves one arm: the
benchmark's tables with the arm's own on top. Defaults stand beside what they configure and are the vetted
setting.
"""

from __future__ import annotations

import reprlib
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from harness.types import UserError

SCHEMA_VERSION = 1
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Unit = Annotated[float, Field(ge=0, le=1)]
# The largest whole number that a float, and so JSON read elsewhere, still holds exactly.
LARGEST = 2**53
Count = Annotated[int, Field(ge=1, le=LARGEST)]
Whole = Annotated[int, Field(ge=0, le=LARGEST)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
Currency = Literal["device_seconds", "generated_tokens", "samples", "steps", "flops"]
CURRENCIES: tuple[str, ...] = get_args(Currency)
# pydantic speaks of Python; the file is TOML.
ACCEPTED = {
    "model_type": "expected a table",
    "dict_type": "expected a table",
    "tuple_type": "expected an array",
    "too_short": "expected at least one",
    "string_type": "expected a string",
    "bool_type": "expected true or false",
    "int_type": "expected a whole number",
    "int_from_float": "expected a whole number",
    "float_type": "expected a number",
}
# The tables an arm may have of its own. Model, budget, evaluation and seeds are the benchmark's alone: arms
# that differ there are not compared on equal terms, whatever the reason.
ARM_TABLES = ("rollout", "update", "kl", "advantage", "critic")


class Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class SuiteTable(Table):
    name: Name
    task: Name
    primary: Literal["accuracy"] = "accuracy"
    margin: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """Differences in the primary metric smaller than this count as equal; declared before running."""


class ModelTable(Table):
    name: str = Field(min_length=1)
    """A hub id, a folder, or package://PACKAGE/PATH (a folder or a .gguf file inside an installed package)."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"


class RolloutTable(Table):
    engine: Literal["torch", "vllm"] = "torch"
    prompts_per_step: Count = 16
    completions_per_prompt: Count = 8
    max_prompt_tokens: Count = 256
    max_completion_tokens: Count = 256
    temperature: Positive = 1.0
    ignore_eos: bool = False
    """Sample every completion to the cap; for timing only."""
    engine_batch: Count = 256
    """Most sequences the sampler decodes at once; memory only, completions do not depend on it."""
    truncated: Literal["grade", "zero", "mask"] = "grade"
    """A completion cut by the cap: graded as it stands, given reward 0, or left out of the loss."""


class UpdateTable(Table):
    learning_rate: Positive = 1e-6
    weight_decay: NonNegative = 0.0
    warmup_steps: Whole = 0
    """Steps over which the policy's and the critic's learning rates rise linearly from 0."""
    epochs: Count = 1
    minibatches: Count = 1
    micro_batch_tokens: Count = 16_384
    """Most tokens (padding included) in one forward; memory only, gradients do not depend on it."""
    clip_low: Annotated[float, Field(gt=0, lt=1)] = 0.2
    clip_high: Positive = 0.2
    max_grad_norm: Positive = 1.0
    aggregation: Literal["token_mean", "sequence_mean", "sequence_sum"] = "sequence_mean"


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
    value_clip: Annotated[Positive | None, BeforeValidator(lambda value: None if value == "none" else value)] = 0.2
    """How far a value may move from the rollout's before its loss is clipped; "none" turns clipping off."""
    loss_coefficient: Positive = 0.1
    """Weight of the value loss beside the policy loss where the two share a trunk."""
    warmup_steps: Whole = 0
    """First steps in which only the critic learns; they are charged to the budget."""
    max_grad_norm: Positive = 1.0
    gamma: Unit = 1.0
    lam: Unit = 1.0


class Budget(Table):
    device_seconds: Positive | None = None
    generated_tokens: Count | None = None
    samples: Count | None = None
    steps: Count | None = None
    flops: Positive | None = None
    memory_gib: Positive | None = None

    @model_validator(mode="after")
    def _exactly_one_currency(self) -> Budget:
        given = [name for name in CURRENCIES if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"exactly one of {', '.join(CURRENCIES)}; got {', '.join(given) or 'none'}")
        return self

    @property
    def currency(self) -> str:
        return next(name for name in CURRENCIES if getattr(self, name) is not None)

    @property
    def limit(self) -> float:
        return float(getattr(self, self.currency))


class EvalTable(Table):
    every: Annotated[float, Field(gt=0, le=1)] | None = None
    """Evaluate during training each time this fraction of the budget is spent; the final policy always is."""
    questions: Count = 200
    tasks: Annotated[tuple[str, ...], Field(min_length=1)]
    """Held-out sets of the suite's task, or names of lm-eval tasks; the first one is the primary one."""
    max_completion_tokens: Count | None = None


class CheckpointTable(Table):
    final: bool = True
    """Keep each run's final policy in its folder."""


class ArmTable(Table):
    algorithm: Name
    reason: Annotated[str, Field(pattern=r"\S")] | None = None
    """Why the arm differs in what it sets; without it, only what belongs to an algorithm may differ."""
    rollout: dict[str, Any] = {}
    update: dict[str, Any] = {}
    kl: dict[str, Any] = {}
    advantage: dict[str, Any] = {}
    critic: dict[str, Any] = {}

    @property
    def overrides(self) -> dict[str, dict[str, Any]]:
        return {table: getattr(self, table) for table in ARM_TABLES if getattr(self, table)}


class RunSpec(Table):
    """One arm, resolved: everything a training run depends on but its seed."""

    arm: Name
    algorithm: Name
    suite: SuiteTable
    model: ModelTable
    rollout: RolloutTable
    update: UpdateTable
    kl: KlTable
    advantage: AdvantageTable
    critic: CriticTable
    budget: Budget
    eval: EvalTable
    checkpoint: CheckpointTable = CheckpointTable()

    @property
    def step_samples(self) -> int:
        return self.rollout.prompts_per_step * self.rollout.completions_per_prompt

    @model_validator(mode="after")
    def _minibatches_fit(self) -> RunSpec:
        if self.step_samples < self.update.minibatches:
            raise ValueError(
                f"update.minibatches = {self.update.minibatches}: a step has only {self.step_samples} samples "
                "(rollout.prompts_per_step × rollout.completions_per_prompt)"
            )
        return self


class BenchSpec(Table):
    """A benchmark: what all arms share, the arms, and the seeds each is run with."""

    suite: SuiteTable
    model: ModelTable
    rollout: RolloutTable = RolloutTable()
    update: UpdateTable = UpdateTable()
    kl: KlTable = KlTable()
    advantage: AdvantageTable = AdvantageTable()
    critic: CriticTable = CriticTable()
    budget: Budget
    eval: EvalTable
    checkpoint: CheckpointTable = CheckpointTable()
    arms: Annotated[dict[Name, ArmTable], Field(min_length=1)]
    seeds: Annotated[tuple[Whole, ...], Field(min_length=1)] = (0, 1, 2)
    regime: Literal["same_batch"] = "same_batch"

    @model_validator(mode="after")
    def _seeds_differ(self) -> BenchSpec:
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds = {list(self.seeds)}: each seed once")
        return self

    def run_spec(self, arm: str) -> RunSpec:
        """Resolve one arm. Raises UserError naming the arm's key where an override is not accepted."""
        table = self.arms[arm]
        shared = self.model_dump(exclude={"arms", "seeds", "regime"})
        for name, override in table.overrides.items():
            shared[name] = {**shared[name], **override}
        try:
            return RunSpec.model_validate({**shared, "arm": arm, "algorithm": table.algorithm})
        except ValidationError as error:
            raise UserError(f"[arms.{arm}]: {one_line(error)}") from None


def load_bench(
    path: Path,
    *,
    profile: str | None = None,
    overrides: Sequence[str] = (),
    arms: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
) -> BenchSpec:
    """Read, overlay and validate a benchmark file.

    overrides: "table.key=value" with a TOML value (a bare word counts as a string), applied last.
    Raises UserError (one line) for anything wrong with the file, the profile or an override.
    """
    raw = read_toml(path)
    try:
        raw = chosen(path, raw, profile=profile, overrides=overrides, arms=arms, seeds=seeds)
        spec = BenchSpec.model_validate(tuples(raw))
        for arm in spec.arms:
            spec.run_spec(arm)
    except ValidationError as error:
        raise UserError(f"{path}: {one_line(error)}") from None
    except RecursionError:
        raise UserError(f"{path}: tables or arrays nested too deep") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return spec


def chosen(
    path: Path,
    raw: dict[str, Any],
    *,
    profile: str | None,
    overrides: Sequence[str],
    arms: Sequence[str] | None,
    seeds: Sequence[int] | None,
) -> dict[str, Any]:
    """The file's tables with what was asked for laid over them."""
    profiles = profiles_in(raw)
    raw.pop("profiles", None)
    if profile is not None:
        if profile not in profiles:
            raise UserError(f"no profile {brief(profile)}; this file has: {', '.join(sorted(profiles)) or 'none'}")
        raw = overlay(raw, profiles[profile])
    for text in overrides:
        raw = overlay(raw, parse_override(text))
    if "profiles" in raw:
        raise UserError("profiles: only the file itself has profiles, neither a profile nor --set can change them")
    if arms is not None and isinstance(have := raw.get("arms", {}), dict):
        if unknown := [arm for arm in arms if arm not in have]:
            raise UserError(f"no arm {brief(unknown[0])}; this file has: {', '.join(have)}")
        raw["arms"] = {arm: have[arm] for arm in arms}
    if seeds is not None:
        raw["seeds"] = list(seeds)
    return raw


def profiles_of(path: Path) -> list[str]:
    raw = read_toml(path)
    try:
        return sorted(profiles_in(raw))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def profiles_in(raw: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The profiles by name. Raises UserError where one is not a table."""
    profiles = raw.get("profiles", {})
    if not isinstance(profiles, dict):
        raise UserError(f"profiles = {brief(profiles)}: expected tables, as in [profiles.cpu]")
    for name, profile in profiles.items():
        if not isinstance(profile, dict):
            raise UserError(f"profiles.{name} = {brief(profile)}: expected a table, as in [profiles.{name}]")
    return profiles


def read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error.strerror if isinstance(error, OSError) else error}") from None
    # A number of thousands of digits is a plain ValueError.
    except ValueError as error:
        raise UserError(f"{path}: not TOML: {error}") from None
    except RecursionError:
        raise UserError(f"{path}: tables or arrays nested too deep") from None


def parse_override(text: str) -> dict[str, Any]:
    """`update.learning_rate=1e-4` → {"update": {"learning_rate": 1e-4}}."""
    key, found, value = text.partition("=")
    parts = [part.strip() for part in key.split(".")]
    if not found or not all(parts):
        raise UserError(f"--set {brief(text)}: expected key=value, as in update.learning_rate=1e-5")
    try:
        parsed: Any = tomllib.loads(f"value = {value}")["value"]
    except ValueError:
        parsed = value.strip()
    nested: Any = parsed
    for part in reversed(parts):
        nested = {part: nested}
    return nested


def overlay(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """`top` laid over `base`, table by table. A budget replaces the whole currency: it has exactly one."""
    below, above = base.get("budget"), top.get("budget")
    if isinstance(below, Mapping) and isinstance(above, Mapping) and any(name in CURRENCIES for name in above):
        base = {**base, "budget": {name: amount for name, amount in below.items() if name not in CURRENCIES}}
    return merged(base, top)


def merged(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    both = dict(base)
    for key, value in top.items():
        below = both.get(key)
        both[key] = merged(below, value) if isinstance(value, Mapping) and isinstance(below, Mapping) else value
    return both


def tuples(value: Any) -> Any:
    """TOML arrays as tuples, so that validation can stay strict."""
    if isinstance(value, list):
        return tuple(tuples(item) for item in value)
    return {key: tuples(item) for key, item in value.items()} if isinstance(value, dict) else value


def brief(value: Any) -> str:
    """A value as a message shows it: on one line, shortened, whatever a file holds."""
    shortener = reprlib.Repr()
    shortener.maxstring = shortener.maxother = 80
    try:
        return shortener.repr(value)
    # A whole number may have more digits than Python writes.
    except (ValueError, RecursionError):
        return f"a very large {type(value).__name__}"


def one_line(error: ValidationError) -> str:
    """The first fault of a validation: key, value, what is accepted."""
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part)[:80] for part in first["loc"] if part != "[key]")
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        return f"{where}: unknown key; accepted here: {', '.join(accepted_keys(first['loc'][:-1]))}{more}"
    if first["type"] == "missing":
        return f"{where}: missing{more}"
    message = ACCEPTED.get(first["type"], first["msg"].removeprefix("Value error, "))
    message = message[0].lower() + message[1:]
    if first["type"] == "value_error":
        return f"{where + ': ' if where else ''}{message}{more}"
    return f"{where} = {brief(written(first['input']))}: {message}{more}"


def written(value: Any) -> Any:
    """A value as the file has it: `tuples` undone."""
    return list(value) if isinstance(value, tuple) else value


def accepted_keys(location: Sequence[int | str]) -> list[str]:
    """The keys of the table at `location`, read off the models."""
    if not location:
        return [*BenchSpec.model_fields, "profiles"]
    if location[0] == "arms":
        return list(ArmTable.model_fields)
    model = RunSpec.model_fields[str(location[0])].annotation
    assert isinstance(model, type)
    assert issubclass(model, Table)
    return list(model.model_fields)
