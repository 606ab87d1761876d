"""vLLM as the sampler, in the trainer's own process: continuous batching over a paged, prefix-sharing cache.

The engine holds a copy of the policy's weights, taken over in memory after each update, and computes with kernels of
its own: its log-probabilities are the trainer's up to rounding. On a GPU it gives weights and cache back while the
trainer updates. That part follows the interface that vLLM 0.32 documents and is untested on a GPU.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from harness.config.tables import RunSpec
from harness.engines.base import Completion, EngineKind, Request, Sampling
from harness.measure.memory_tracker import untracked
from harness.model.loading import model_folder
from harness.model.policy import Policy
from harness.model.rng import random_state_kept
from harness.model.weights import DTYPES, bytes_in
from reports.record.errors import UserError

SETTINGS = {
    # One process: the trainer's weights reach the engine without a copy on the way, and no process can be left over.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
}
CPU_SETTINGS = {
    # The second generation of the model runner samples with Triton kernels.
    "VLLM_USE_V2_MODEL_RUNNER": "0",
}
# What may be asked for from outside, to look into the engine.
DEFAULTS = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_LOGGING_STREAM": "ext://sys.stderr"}
# Tokens whose keys and values are shared or not as one: on a CPU the smallest size that its kernels take well.
CPU_BLOCK = 32


def require() -> None:
    """Raises UserError where vLLM is missing. It takes seconds to import, so that is left to who makes an engine."""
    if importlib.util.find_spec("vllm") is None:
        raise UserError("rollout.engine = 'vllm': vLLM is not installed; install it with: make vllm")


def build(policy: Policy, spec: RunSpec) -> VllmEngine:
    rollout, table = spec.rollout, spec.eval
    longest = max(rollout.max_completion_tokens, table.max_completion_tokens or 0)
    return VllmEngine(
        policy, model_folder(spec.model.name), dtype=spec.model.dtype, context=rollout.max_prompt_tokens + longest,
        batch_size=rollout.engine_batch, memory_gib=rollout.engine_memory_gib,
    )  # fmt: skip


class VllmEngine:
    exact = False
    ran = None

    def __init__(
        self, policy: Policy, source: str, *, dtype: str, context: int, batch_size: int, memory_gib: float
    ) -> None:
        """source: a hub id or a folder with the policy's architecture; the weights sampled with are the policy's.

        context: most tokens of a prompt and its completion; memory_gib: for keys and values. Raises UserError where
        vLLM cannot run such a model here.
        """
        self.policy, self.context = policy, context
        self._held = {"engine": bytes_in(policy.model, DTYPES[dtype]), "kv_cache": int(memory_gib * 2**30)}
        self.asleep = False
        self.llm: Any = None
        with process_state_kept(), random_state_kept(), refusals(source):
            self.llm = start(
                source, policy.device, dtype=dtype, max_model_len=context, max_num_seqs=batch_size,
                kv_cache_memory_bytes=int(memory_gib * 2**30),
            )  # fmt: skip
            self.sync()
            # Attention on a CPU says only when it runs which sizes of head it knows.
            self.generate([Request((0,), 0)], Sampling(0.0, 1))

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """Raises UserError for a prompt that leaves no room for the completion."""
        longest = max((len(request.prompt_ids) for request in requests), default=0)
        if longest + sampling.max_tokens > self.context:
            raise UserError(
                f"rollout.engine = 'vllm': a prompt of {longest} tokens and a completion of {sampling.max_tokens} "
                f"exceed the engine's {self.context}; raise rollout.max_prompt_tokens"
            )
        prompts = [{"prompt_token_ids": list(request.prompt_ids)} for request in requests]
        parameters = [self._parameters(request, sampling) for request in requests]
        # The sampler draws from the global generator too, and throws that away where requests bring their seeds.
        with untracked(), random_state_kept(), self._uncompiled():
            outputs = self.llm.generate(prompts, parameters, use_tqdm=False)
        return [self._completion(output.outputs[0], sampling) for output in outputs]

    def release(self) -> None:
        """On a GPU, give weights and cache back; on a CPU vLLM has no such thing."""
        if self.policy.device.type == "cuda":
            self.llm.sleep(level=2)
            self.asleep = True

    def sync(self) -> None:
        """Take over the weights in memory, and forget keys and values of the old ones."""
        if self.asleep:
            self.llm.wake_up(tags=["weights"])
        # Tied weights under both their names: vLLM packs a copy of the output map, which is stale otherwise.
        named = self.policy.model.named_parameters(remove_duplicate=False)
        weights = ((name, weight.detach()) for name, weight in named)
        with untracked():
            self.llm.collective_rpc(
                "reload_weights", kwargs={"weights_iterator": weights, "is_checkpoint_format": True}
            )
        if self.asleep:
            self.llm.wake_up(tags=["kv_cache"])
            self.asleep = False
        self.llm.reset_prefix_cache()

    def held_bytes(self) -> Mapping[str, int]:
        return {} if self.asleep else self._held

    def close(self) -> None:
        if self.llm is not None:
            self.llm.llm_engine.engine_core.shutdown()
            self.llm = None

    def _parameters(self, request: Request, sampling: Sampling) -> Any:
        from vllm import SamplingParams

        # The policy says what ends a completion, not the model's files.
        ends = [] if sampling.ignore_eos else sorted(self.policy.eos_ids)
        return SamplingParams(
            temperature=sampling.temperature, seed=request.seed, max_tokens=sampling.max_tokens, logprobs=0,
            stop_token_ids=ends, ignore_eos=True, detokenize=False,
        )  # fmt: skip

    def _completion(self, output: Any, sampling: Sampling) -> Completion:
        tokens = tuple(output.token_ids)
        logprobs = tuple(step[token].logprob for step, token in zip(output.logprobs, tokens, strict=True))
        ended = bool(tokens) and tokens[-1] in self.policy.eos_ids and not sampling.ignore_eos
        return Completion(tokens, logprobs, self.policy.decode(tokens), truncated=not ended)

    def _uncompiled(self) -> contextlib.AbstractContextManager:
        """On a CPU: one small function of the sampler is for torch.compile, which takes longer than a run needs it."""
        if self.policy.device.type == "cuda":
            return contextlib.nullcontext()
        return torch.compiler.set_stance("force_eager")


def start(source: str, device: torch.device, *, dtype: str, kv_cache_memory_bytes: int, **limits: Any) -> Any:
    """A vllm.LLM with weights of no meaning: they come from memory, so that nothing is read twice."""
    on_gpu = device.type == "cuda"
    os.environ.update(SETTINGS if on_gpu else {**SETTINGS, **CPU_SETTINGS})
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    from vllm import LLM

    placement: Mapping[str, Any] = {"enforce_eager": True, "block_size": CPU_BLOCK}
    if on_gpu:
        # vLLM asks for this share to be free at the start, beside the trainer's weights; the cache's size is given.
        share = kv_cache_memory_bytes / torch.cuda.get_device_properties(device).total_memory
        placement = {"enable_sleep_mode": True, "gpu_memory_utilization": min(1.0, share)}
    return LLM(
        source, dtype=dtype, kv_cache_memory_bytes=kv_cache_memory_bytes, enable_prefix_caching=True,
        logprobs_mode="processed_logprobs", generation_config="vllm", skip_tokenizer_init=True, load_format="dummy",
        **limits, **placement,
    )  # fmt: skip


@contextlib.contextmanager
def refusals(source: str) -> Iterator[None]:
    """What vLLM does not take, as the user's one line: a model, a length, a size of memory."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (ValueError, RuntimeError) as error:
        # pydantic's own text begins with a count.
        details = getattr(error, "errors", None)
        message = " ".join((details()[0]["msg"] if callable(details) else str(error)).split())
        raise UserError(f"rollout.engine = 'vllm': vLLM cannot run {source}: {message[:300]}") from error


@contextlib.contextmanager
def process_state_kept() -> Iterator[None]:
    """The trainer's process as it was, where vLLM takes it for its own.

    It replaces torch.set_num_threads and the hook for uncaught exceptions, and prepares the environment of programs
    started from here for workers of its own.
    """
    set_num_threads, hook = torch.set_num_threads, sys.excepthook
    preload = os.environ.get("LD_PRELOAD")
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        torch.set_num_threads, sys.excepthook = set_num_threads, hook
        os.environ.pop("LD_PRELOAD", None)
        if preload is not None:
            os.environ["LD_PRELOAD"] = preload


VLLM = EngineKind(build, require)
