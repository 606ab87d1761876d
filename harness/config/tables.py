"""What a benchmark is: pydantic models of `suites/<name>.toml`, which `harness.config.file` reads.

`BenchSpec.run_spec` resolves one arm: the benchmark's tables with the arm's own on top. Defaults stand beside
what they configure and are the vetted setting.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SerializeAsAny, ValidationError, model_validator

from algorithms.catalogue import options_class
from algorithms.settings import AdvantageTable, CriticTable, KlTable, NonNegative, Options, Positive, Table, none_word
from reports.record.errors import UserError
from reports.record.faults import one_line
from reports.record.names import CURRENCIES, Count, Name, Whole
from reports.stats.pass_at_k import MOST_SAMPLES

# The tables an arm may have of its own. Model, budget, evaluation and seeds are the benchmark's alone: arms
# that differ there are not compared on equal terms, whatever the reason.
ARM_TABLES = ("rollout", "update", "kl", "advantage", "critic")
# Why micro-batches differ between arms that were fitted to the same memory.
FITTED = "memory only: the largest micro-batch that was measured to fit the cap"


def model_name(value: str) -> str:
    """No address: none is loaded, and a password in it would be recorded. The message does not repeat it."""
    if "://" in value and not value.startswith("package://"):
        raise ValueError("expected a hub id, a folder or package://PACKAGE/PATH")
    return value


class SuiteTable(Table):
    name: Name
    task: Name
    primary: Literal["accuracy"] = "accuracy"
    margin: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """Differences in the primary metric smaller than this count as equal; declared before running."""
    target: Annotated[float, Field(gt=0, lt=1)] | None = None
    """An accuracy on the first task; the report says what each arm took to reach it, on every axis."""
    contrasts: Annotated[tuple[tuple[Name, ...], ...], Field(min_length=1)] | None = None
    """The pairs of arms that are held against each other, the first minus the second, as in [["ppo", "grpo"]]; else the
    first arm against each other."""


class ModelTable(Table):
    name: Annotated[str, Field(min_length=1), AfterValidator(model_name)]
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
    engine_memory_gib: Positive = 1.0
    """vLLM's store of keys and values; sequences that it has no room for wait. The torch engine takes what it needs."""
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
    """Most tokens in one forward, each prompt counted once; memory only, gradients do not depend on it."""
    gradient_checkpointing: bool = False
    """Run each layer's forward again in the backward instead of keeping it; memory only, gradients are the same."""
    importance_cap: Annotated[Positive | None, BeforeValidator(none_word)] = None
    """Weight each token's loss by the trainer's over the engine's probability of it, at most this; "none" is no
    weighting. For engines whose probabilities differ from the trainer's."""
    clip_low: Annotated[float, Field(gt=0, lt=1)] = 0.2
    clip_high: Positive = 0.2
    max_grad_norm: Positive = 1.0
    aggregation: Literal["token_mean", "sequence_mean", "sequence_sum"] = "sequence_mean"

    @property
    def several(self) -> bool:
        """Each rollout feeds more than one update, so what the first one changes is old to the next."""
        return self.epochs * self.minibatches > 1


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
    samples: Annotated[int, Field(ge=0, le=MOST_SAMPLES)] = 0
    """Answers sampled to each question beside the greedy one, for pass@k and majority@k."""
    temperature: Positive = 1.0
    """At which those are sampled."""


class CheckpointTable(Table):
    every_s: Positive = 300.0
    """Seconds between the checkpoints that a run which was ended goes on from."""
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
    options: dict[str, Any] = {}
    """The algorithm's own settings (`algorithms.catalogue`)."""

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
    options: SerializeAsAny[Options] = Options()
    """Of the algorithm's own class."""

    def with_micro_batch(self, tokens: int) -> RunSpec:
        """The same run in micro-batches of another size."""
        return self.model_copy(update={"update": self.update.model_copy(update={"micro_batch_tokens": tokens})})

    def with_memory_share(self, share: float) -> RunSpec:
        """The same run under a part of its memory cap."""
        assert self.budget.memory_gib is not None
        less = self.budget.model_copy(update={"memory_gib": share * self.budget.memory_gib})
        return self.model_copy(update={"budget": less})

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
    regime: Literal["same_batch", "same_gpu"] = "same_batch"
    """same_batch: everything equal but the algorithm. same_gpu: equal memory and device time; each arm takes the
    largest micro-batch that fits."""

    @model_validator(mode="after")
    def _seeds_differ(self) -> BenchSpec:
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds = {list(self.seeds)}: each seed once")
        return self

    @model_validator(mode="after")
    def _contrasts_are_of_two_arms(self) -> BenchSpec:
        seen: set[frozenset[str]] = set()
        for pair in self.suite.contrasts or ():
            where = f"suite.contrasts: {list(pair)}"
            if unknown := [arm for arm in pair if arm not in self.arms]:
                raise ValueError(f"{where}: no arm {unknown[0]!r}; accepted: {', '.join(self.arms)}")
            if len(pair) != 2 or len(set(pair)) != 2:
                raise ValueError(f"{where}: expected two different arms")
            if frozenset(pair) in seen:
                raise ValueError(f"{where}: each pair once")
            seen.add(frozenset(pair))
        return self

    @model_validator(mode="after")
    def _same_gpu_has_a_cap(self) -> BenchSpec:
        if self.regime == "same_gpu" and (self.budget.memory_gib is None or self.budget.device_seconds is None):
            raise ValueError("regime = 'same_gpu' needs budget.memory_gib and budget.device_seconds")
        return self

    def fitted(self, tokens: Mapping[str, int]) -> BenchSpec:
        """The benchmark with a micro-batch of its own for each arm, declared."""
        arms = {}
        for arm, table in self.arms.items():
            update = {**table.update, "micro_batch_tokens": tokens[arm]}
            arms[arm] = table.model_copy(update={"update": update, "reason": table.reason or FITTED})
        return self.model_copy(update={"arms": arms})

    def run_spec(self, arm: str) -> RunSpec:
        """Resolve one arm. Raises UserError naming the arm's key where an override is not accepted."""
        table = self.arms[arm]
        shared = self.model_dump(exclude={"arms", "seeds", "regime"})
        for name, override in table.overrides.items():
            shared[name] = {**shared[name], **override}
        try:
            own = {"arm": arm, "algorithm": table.algorithm, "options": self._options(arm)}
            return RunSpec.model_validate({**shared, **own})
        except ValidationError as error:
            raise UserError(f"[arms.{arm}]: {one_line(error, accepted_keys)}") from None

    def _options(self, arm: str) -> Options:
        """What an arm says of its algorithm's own settings. Raises UserError naming the key."""
        table = self.arms[arm]
        accepted = options_class(table.algorithm)
        if table.options and not accepted.model_fields:
            raise UserError(f"[arms.{arm}.options]: {', '.join(table.options)}: {table.algorithm} has no options")
        try:
            return accepted.model_validate(table.options)
        except ValidationError as error:
            fault = one_line(error, lambda location: list(accepted.model_fields))
            raise UserError(f"[arms.{arm}.options]: {fault}") from None


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
