"""What a step of an arm would hold and compute, without weights and without running the model.

The learner itself is run, on fake tensors: they have shapes, types and lifetimes but no contents, so that
`harness.measure.memory_tracker` counts the very tensors that a real step would make. Where the code asks for a number,
it is told 1. Rows of a batch are real, small and made up. Completions are taken to be as long as the cap allows, so
memory is at its most. An algorithm that chooses its groups is foretold with one round of sampling.

A GPU's tensors have the sizes of a CPU's in the same type; what its kernels allocate inside themselves, what the
allocator rounds up and the CUDA context are not in here.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM

from algorithms.base import Algorithm, RolloutBatch
from harness.config.tables import RunSpec
from harness.engines.base import Completion
from harness.engines.torch_engine import TorchEngine
from harness.learn.batching import collate, micro_batches
from harness.learn.learner import Learner
from harness.learn.optimizer import StepLog
from harness.learn.rollout import Rollout
from harness.measure.flops import Shape, Work, causal
from harness.measure.memory_tracker import MemoryTracker
from harness.measure.meter import Meter
from harness.model.policy import Policy
from harness.model.run_models import RunModels
from harness.model.weights import DTYPES, bytes_in, checkpoint_layers
from suites.task import Prompt, Reward

# Of a step's micro-batches the last ones are the longest; the second is run beside the gradients of the first.
MICRO_BATCHES = 2


@dataclass(frozen=True)
class Forecast:
    """One arm's step.

    memory: phase → component → bytes at that phase's peak. flops: phase → a step's. parameters: the policy's number.
    samples: that a step is charged.
    """

    arm: str
    memory: Mapping[str, Mapping[str, int]]
    flops: Mapping[str, float]
    parameters: int
    samples: int

    @property
    def peak_phase(self) -> str:
        return max(self.memory, key=lambda phase: sum(self.memory[phase].values()))

    @property
    def peak_bytes(self) -> int:
        return sum(self.memory[self.peak_phase].values())


def forecast(
    spec: RunSpec,
    algorithm: Algorithm,
    config: Any,
    *,
    on_gpu: bool,
    tokenizer: Any = None,
    prompts: Sequence[Prompt] = (),
) -> Forecast:
    """config: the model's, as transformers has it. Without prompts, or a tokenizer for them, they are taken to be as
    long as the limit allows.
    """
    world = _Fake(allow_non_fake_inputs=True)
    with world, torch.random.fork_rng():
        models = fake_models(spec, algorithm, config, tokenizer)
        policy, critic = models.policy, models.critic
        states = {
            component: [torch.zeros_like(parameter) for parameter in parameters for _ in range(2)]
            for component, parameters in (
                ("optimizer", policy.model.parameters()), ("critic_optimizer", critic.parameters if critic else ()),
            )
        }  # fmt: skip
    rollout = spec.rollout
    prompt_ids = [policy.encode(prompt, limit=rollout.max_prompt_tokens) for prompt in prompts if tokenizer]
    if not prompt_ids:
        prompt_ids = [(row,) * rollout.max_prompt_tokens for row in range(rollout.prompts_per_step)]
    engine = Engine(spec, policy)
    meter = Meter(torch.device("cpu"))
    try:
        learner = Learner(spec, 0, algorithm, models, meter, engine_is_exact=engine.exact)
        batch = made_up_batch(policy, prompt_ids, spec, greedy=algorithm.needs_greedy)
        part = longest_part(batch, spec)
        tracker = MemoryTracker(engine.held_bytes)
        for component, tensors in states.items():
            tracker.claim(component, tensors)
        with torch.random.fork_rng(), _Answers(world), learner.rehearsal(tracker):
            with meter.phase("rollout"):
                engine.sample(prompt_ids)
            engine.asleep = on_gpu
            tracker.claim("other", vars(batch).values())
            learner.learn(spec.critic.warmup_steps + 1, part, StepLog())
            with meter.phase("weight_sync"):
                engine.asleep = False
    finally:
        meter.close()
    whole, shown = (learner.cost.forward(Work.of(rows).asked) for rows in (batch, part))
    scale = whole / shown
    greedy = len(prompt_ids) if algorithm.needs_greedy else 0
    sampled = whole + learner.cost.forward(continued(prompt_ids[:greedy], rollout.max_completion_tokens))
    flops = {"rollout": sampled, **{phase: count * scale for phase, count in meter.flops.items()}}
    parameters = sum(p.numel() for p in policy.model.parameters())
    return Forecast(spec.arm, tracker.peaks, flops, parameters, batch.size + greedy)


class Engine:
    """The spec's engine, as far as memory goes: the torch engine at its fullest, or what vLLM is given to hold."""

    def __init__(self, spec: RunSpec, policy: Policy) -> None:
        self.spec, self.policy = spec, policy
        self.exact = spec.rollout.engine == "torch"
        self.asleep = False

    def held_bytes(self) -> Mapping[str, int]:
        rollout = self.spec.rollout
        if self.exact or self.asleep:
            return {}
        weights = bytes_in(self.policy.model, DTYPES[self.spec.model.dtype])
        return {"engine": weights, "kv_cache": int(rollout.engine_memory_gib * 2**30)}

    def sample(self, prompt_ids: Sequence[tuple[int, ...]]) -> None:
        rollout = self.spec.rollout
        if self.exact:
            ordered = [ids for ids in sorted(prompt_ids, key=len) for _ in range(rollout.completions_per_prompt)]
            TorchEngine(self.policy, batch_size=rollout.engine_batch).rehearse(ordered, rollout.max_completion_tokens)


def fake_models(spec: RunSpec, algorithm: Algorithm, config: Any, tokenizer: Any) -> RunModels:
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    if spec.update.gradient_checkpointing:
        checkpoint_layers(model)
    wordless = SimpleNamespace(eos_token_id=0, pad_token_id=0)
    policy = Policy(model, tokenizer or wordless, dtype=spec.model.dtype, temperature=spec.rollout.temperature)
    with warnings.catch_warnings(action="ignore"):  # a copy asks where contents lie that are not there
        return RunModels.of(policy, spec, needs_critic=algorithm.needs_critic)


def continued(prompt_ids: Sequence[tuple[int, ...]], length: int) -> Shape:
    """A completion more of each of these prompts, which are run already."""
    total = Shape(logits=length * len(prompt_ids))
    for ids in prompt_ids:
        total = total.plus(causal(length - 1, context=len(ids)))
    return total


def made_up_batch(
    policy: Policy, prompt_ids: Sequence[tuple[int, ...]], spec: RunSpec, *, greedy: bool = False
) -> RolloutBatch:
    """A step's rows: completions at the cap, rewards of 0 and 1 in turn; a greedy completion's is 0."""
    cap = spec.rollout.max_completion_tokens
    rows = []
    for group, ids in enumerate(prompt_ids):
        for sample in range(spec.rollout.completions_per_prompt):
            completion = Completion((1,) * cap, (0.0,) * cap, "", truncated=False)
            reward = Reward(float(sample % 2), bool(sample % 2), None)
            rows.append(Rollout(Prompt(str(group), "", ""), ids, group, completion, reward))
    batch = collate(policy, rows, mask_truncated=False)
    return replace(batch, greedy_scores=torch.zeros(len(prompt_ids))) if greedy else batch


def longest_part(batch: RolloutBatch, spec: RunSpec) -> RolloutBatch:
    """As many rows as show what the whole batch would: its longest micro-batches."""
    parts = micro_batches(batch, torch.arange(batch.size), tokens=spec.update.micro_batch_tokens)
    return batch.select(torch.cat(parts[-MICRO_BATCHES:]).sort().values)


class _Fake(FakeTensorMode):
    """Models that are copied stay in the same world."""

    def __deepcopy__(self, memo: Any) -> _Fake:
        return self


class _Answers(TorchDispatchMode):
    """A number asked of a fake tensor is 1; weights that oneDNN would lay out anew are as large as they were; and the
    masks of attention, made from real lengths, lose their contents too, since they can be gigabytes.
    """

    def __init__(self, world: FakeTensorMode) -> None:
        super().__init__()
        self.world = world

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        fake = any(isinstance(value, FakeTensor) for value in args)
        if fake and func is torch.ops.aten._local_scalar_dense.default:
            return _one(args[0])
        if fake and func is torch.ops.mkldnn._reorder_linear_weight.default:
            return torch.empty_like(args[0])
        return func(*map(self._emptied, args), **{key: self._emptied(value) for key, value in (kwargs or {}).items()})

    def _emptied(self, value: Any) -> Any:
        mask = isinstance(value, Tensor) and value.dtype == torch.bool and value.dim() > 2
        return self.world.from_tensor(value) if mask and not isinstance(value, FakeTensor) else value


def _one(tensor: Tensor) -> float | int | bool:
    if tensor.dtype == torch.bool:
        return True
    return 1.0 if tensor.dtype.is_floating_point else 1
