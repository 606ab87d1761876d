"""A tiny random Llama over characters and training runs made of it, in memory: no files, no network."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from algorithms import grpo, ppo, rloo
from algorithms.base import Algorithm, RolloutBatch
from algorithms.catalogue import options_class
from harness.config.tables import RunSpec
from harness.engines.base import Completion, Engine
from harness.engines.torch_engine import TorchEngine
from harness.learn.batching import collate
from harness.learn.rollout import Rollout
from harness.model.critic import Critic
from harness.model.policy import Policy
from harness.model.run_models import RunModels
from harness.run.loop import Run
from harness.run.parts import Parts
from suites.task import Prompt, Reward, Task

CHARACTERS = "0123456789abcdef+?"
PAD, EOS = 0, 1
VOCABULARY = 2 + len(CHARACTERS)
ALGORITHMS = {"ppo": ppo.build, "grpo": grpo.build, "rloo": rloo.build}
# Prompt lengths far apart, responses of a single token, a prompt with a single completion.
RAGGED = [(1, [5, 1]), (23, [3, 12, 7]), (6, [1])]
EVEN = [(5, [4, 4]), (5, [4, 4])]


def tokenizer(*, pad_is_eos: bool = False) -> PreTrainedTokenizerFast:
    vocabulary = {token: index for index, token in enumerate(["<pad>", "<eos>", *CHARACTERS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.Split(Regex("."), behavior="isolated")
    words.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<eos>" if pad_is_eos else "<pad>", eos_token="<eos>", padding_side="left",
        clean_up_tokenization_spaces=False, model_max_length=64,
    )  # fmt: skip


def policy(
    seed: int = 0, *, temperature: float = 1.0, pad_is_eos: bool = False, dtype: str = "float32", tied: bool = False,
    head_dim: int = 8,
) -> Policy:  # fmt: skip
    """Weights are drawn wide, so that the distributions are far from uniform."""
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=head_dim, max_position_embeddings=128, tie_word_embeddings=tied,
        initializer_range=0.2, bos_token_id=None, eos_token_id=EOS, pad_token_id=None,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config).eval()
    return Policy(model, tokenizer(pad_is_eos=pad_is_eos), dtype=dtype, temperature=temperature)


def grow_head(critic: Critic, seed: int = 0) -> Critic:
    """A critic starts at zero; give it values to compare."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        critic.head.weight.copy_(torch.randn(critic.head.weight.shape, generator=generator))
        critic.head.bias.fill_(0.3)
    return critic


def rollouts(shapes: Sequence[tuple[int, Sequence[int]]], seed: int = 0) -> list[Rollout]:
    """Random rollouts of given shapes, (prompt length, response lengths) per group; scores are 0 and 1 in turn."""
    rng = random.Random(seed)
    made = []
    for group, (prompt_length, lengths) in enumerate(shapes):
        prompt = tuple(rng.randrange(2, VOCABULARY) for _ in range(prompt_length))
        for length in lengths:
            tokens = (*(rng.randrange(2, VOCABULARY) for _ in range(length - 1)), EOS)
            logprobs = tuple(-rng.random() for _ in range(length))
            completion = Completion(tokens, logprobs, text="", truncated=length % 2 == 0)
            value = float(len(made) % 2)
            made.append(Rollout(Prompt(str(group), "", ""), prompt, group, completion, Reward(value, bool(value), "")))
    return made


def batch(
    owner: Policy, shapes: Sequence[tuple[int, Sequence[int]]], seed: int = 0, *, mask_truncated: bool = False
) -> RolloutBatch:
    return collate(owner, rollouts(shapes, seed), mask_truncated=mask_truncated)


def share_of_a(completion: str, answer: str) -> Reward:
    """The share of the letter a in a completion: graded, so that groups rarely agree."""
    value = completion.count("a") / max(1, len(completion))
    return Reward(value, value == 1, completion[:1] or None)


def starts_low(completion: str, answer: str) -> Reward:
    """1 where the first character is a digit; depends on the prompt and on chance."""
    correct = completion[:1].isdigit()
    return Reward(float(correct), correct, completion[:1] or None)


def task(verify: Callable[[str, str], Reward] = share_of_a, *, prompts: int = 12, longest: int = 9) -> Task:
    rng = random.Random(0)
    texts = ["".join(rng.choices(CHARACTERS[:-1], k=rng.randint(1, longest))) + f"{i % 10}?" for i in range(prompts)]
    made = [Prompt(id=str(i), text=text, answer="0") for i, text in enumerate(texts)]
    return Task("tiny", lambda: made, lambda: {"tiny_heldout": made[:5]}, verify, r"^([0-9a-f])")


TASK = task()


def spec(algorithm: str = "grpo", **tables: dict[str, Any]) -> RunSpec:
    base: dict[str, dict[str, Any]] = {
        "suite": {"name": "tiny", "task": "tiny"},
        "model": {"name": "tiny"},
        "rollout": {
            "prompts_per_step": 4, "completions_per_prompt": 3, "max_prompt_tokens": 24, "max_completion_tokens": 10,
        },
        "update": {"learning_rate": 1e-3, "micro_batch_tokens": 10_000},
        "kl": {}, "advantage": {}, "critic": {"learning_rate": 1e-3},
        "budget": {"samples": 1_000},
        "eval": {"tasks": ("tiny_heldout",)},
        "checkpoint": {},
    }  # fmt: skip
    options = options_class(algorithm).model_validate(tables.pop("options", {}))
    merged = {name: {**table, **tables.pop(name, {})} for name, table in base.items()}
    assert not tables, tables
    return RunSpec.model_validate({**merged, "arm": algorithm, "algorithm": algorithm, "options": options})


@contextlib.contextmanager
def training(
    settings: RunSpec, *, seed: int = 0, of: Task | None = None, start: Policy | None = None,
    engine: Engine | None = None, change: Callable[[Algorithm], Algorithm] = lambda algorithm: algorithm,
) -> Iterator[Run]:  # fmt: skip
    """A run in progress, put together as a worker does it: nothing exists that no setting asks for.

    change: what is made of the algorithm before the run has it.
    """
    algorithm = change(ALGORITHMS[settings.algorithm](settings, settings.options))
    actor = start or policy(temperature=settings.rollout.temperature)
    engine = engine or TorchEngine(actor, batch_size=settings.rollout.engine_batch)
    models = RunModels.of(actor, settings, needs_critic=algorithm.needs_critic)
    run = Run(Parts(settings, seed, of or task(), algorithm, models, engine))
    try:
        yield run
    finally:
        run.meter.close()


def records(steps: int, settings: RunSpec, **options: Any) -> list[dict[str, Any]]:
    with training(settings, **options) as run:
        return [run.step() for _ in range(steps)]
