"""TRL's side of the comparison: `trainer.train()`, held at every step's end until the driver asks for the next.

    python trl_worker.py WORKLOAD MODEL_FOLDER MICRO_BATCHES      (see protocol.py for what it reads and writes)

Runs inside an environment of its own: trl 1.16 for GRPO; trl 1.8 for PPO, which later versions no longer have.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from typing import Any

import torch
from datasets import Dataset
from protocol import Channel
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PrinterCallback,
    TrainerCallback,
)
from workloads import CLIP, COMPLETIONS_PER_PROMPT, LEARNING_RATE, MAX_GRAD_NORM, WORKLOADS, Workload, reward

ENDLESS = 10**6


class Done(Exception):
    """The driver asks for no further step."""


class Stepwise(TrainerCallback):
    """Answers at the end of every step, then waits. What TRL does between two steps counts to the later one."""

    def __init__(self, channel: Channel, **loaded: Any) -> None:
        self.channel, self.loaded = channel, loaded
        self.tokens = 0
        """Response tokens of the step, as the reward saw them."""

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.channel.answer(**self.loaded)
        self._wait()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.channel.answer(tokens=self.tokens)
        self._wait()

    def _wait(self) -> None:
        self.tokens = 0
        if not self.channel.wait():
            raise Done


class RuleReward(nn.Module):
    """The rule in the shape of a reward model, which PPOTrainer wants: a backbone's hidden states, and a score head.

    The "hidden state" of every position is the reward itself, so the head passes it through: no model is run, and
    what is left is the decoding that a rule on text needs anywhere.
    """

    base_model_prefix = "backbone"

    def __init__(self, tokenizer: Any, completion_tokens: int, steps: Stepwise) -> None:
        super().__init__()
        self.tokenizer, self.completion_tokens, self.steps = tokenizer, completion_tokens, steps
        self.score = nn.Identity()

    def backbone(self, input_ids: Tensor, attention_mask: Tensor, **_: Any) -> Any:
        responses = input_ids[:, -self.completion_tokens :]
        self.steps.tokens += int(attention_mask[:, -self.completion_tokens :].sum())
        texts = self.tokenizer.batch_decode(responses, skip_special_tokens=True)
        rewards_B = torch.tensor([reward(text) for text in texts])
        hidden = rewards_B[:, None, None].expand(*input_ids.shape, 1)
        return type("Output", (), {"hidden_states": (hidden,)})


def common(workload: Workload, folder: str) -> dict[str, Any]:
    """Settings of both trainers."""
    parts = workload.trl_micro_batches
    return {
        "output_dir": folder, "per_device_train_batch_size": workload.shape.completions // parts,
        "gradient_accumulation_steps": parts, "learning_rate": LEARNING_RATE, "lr_scheduler_type": "constant",
        "weight_decay": 0.0, "max_grad_norm": MAX_GRAD_NORM, "temperature": 1.0, "seed": 0,
        # Both are on by default; recomputing activations would cost TRL a forward.
        "gradient_checkpointing": False, "bf16": False,
        "use_cpu": True, "report_to": "none", "logging_strategy": "no", "save_strategy": "no", "disable_tqdm": True,
    }  # fmt: skip


def grpo(workload: Workload, model: Any, tokenizer: Any, steps: Stepwise, barred: list[int], folder: str) -> Any:
    from trl import GRPOConfig, GRPOTrainer

    def rule(completions: list[str], completion_ids: list[list[int]], **_: Any) -> list[float]:
        steps.tokens += sum(map(len, completion_ids))
        return [reward(text) for text in completions]

    config = GRPOConfig(
        **common(workload, folder), max_steps=ENDLESS, num_generations=COMPLETIONS_PER_PROMPT,
        max_completion_length=workload.shape.completion_tokens, generation_kwargs={"suppress_tokens": barred},
        beta=workload.kl_coefficient, use_bias_correction_kl=False, epsilon=CLIP, loss_type="grpo",
        scale_rewards="group", num_iterations=1, steps_per_generation=workload.trl_micro_batches,
        shuffle_dataset=False,
    )  # fmt: skip
    return GRPOTrainer(
        model=model, reward_funcs=rule, args=config, processing_class=tokenizer, callbacks=[steps],
        train_dataset=Dataset.from_dict({"prompt": list(workload.shape.prompts)}),
    )  # fmt: skip


def ppo(workload: Workload, model: Any, tokenizer: Any, steps: Stepwise, barred: list[int], folder: str) -> Any:
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    shape, path = workload.shape, model.name_or_path
    model.generation_config.suppress_tokens = barred
    # One completion is sampled per row: each prompt stands there as often as it has completions.
    rows = [ids for ids in tokenizer(list(shape.prompts))["input_ids"] for _ in range(COMPLETIONS_PER_PROMPT)]
    config = PPOConfig(
        **common(workload, folder), total_episodes=ENDLESS * shape.completions, num_ppo_epochs=1, num_mini_batches=1,
        local_rollout_forward_batch_size=shape.completions, response_length=shape.completion_tokens,
        num_sample_generations=0, kl_coef=workload.kl_coefficient, kl_estimator="k1", whiten_rewards=False,
        cliprange=CLIP, cliprange_value=CLIP, gamma=1.0, lam=1.0,
    )  # fmt: skip
    return PPOTrainer(
        args=config, processing_class=tokenizer, model=model,
        ref_model=AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32),
        value_model=AutoModelForSequenceClassification.from_pretrained(path, num_labels=1, dtype=torch.float32),
        reward_model=RuleReward(tokenizer, shape.completion_tokens, steps),
        train_dataset=Dataset.from_dict({"input_ids": rows}), callbacks=[steps],
    )  # fmt: skip


def main() -> None:
    channel = Channel()
    name, folder, micro_batches = sys.argv[1:]
    workload = replace(WORKLOADS[name], trl_micro_batches=int(micro_batches))
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    # Never sampled, so that nothing ends a completion early and nothing is taken for padding.
    ends = model.generation_config.eos_token_id
    barred = sorted({tokenizer.pad_token_id, tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])})
    prompt_tokens = [len(ids) for ids in tokenizer(list(workload.shape.prompts))["input_ids"]]
    steps = Stepwise(channel, prompt_tokens=prompt_tokens)
    build = {"grpo": grpo, "ppo": ppo}[workload.algorithm]
    with tempfile.TemporaryDirectory() as outputs:
        trainer = build(workload, model, tokenizer, steps, barred, outputs)
        trainer.remove_callback(PrinterCallback)
        try:
            trainer.train()
        except Done:
            channel.answer()


if __name__ == "__main__":
    main()
