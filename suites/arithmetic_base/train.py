"""Train the arithmetic suite's base policy from nothing: a 0.46 M-parameter Llama over characters.

    python suites/arithmetic_base/train.py --out suites/arithmetic_base

Supervised next-token training on worked sums in two stages: first by a writer who adds rightly, then mostly by a
careless one, who drops every carry out of the ones. The policy learns to add and then picks up the bad habit, so its
most likely answer is right only where nothing is carried. That leaves reinforcement learning what it is for: the
skill is there, the reward has to bring it out. Held-out questions are never used.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from suites import arithmetic
from suites.arithmetic import Kind

CHARACTERS = "0123456789+=;#?"
SPECIAL = ["<pad>", "<eos>"]
# Some four-term sums, so that the transfer set is hard for the policy and not foreign to it.
TAUGHT = (Kind(2, 10, 99, 0.2), Kind(3, 10, 99, 0.6), Kind(4, 10, 99, 0.2))
# Of the second stage, which takes the last steps.
CARELESS_SHARE, CARELESS_STEPS = 0.75, 200
WARMUP_STEPS = 50
REPORT_EVERY = 50


def build_tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *CHARACTERS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", padding_side="left",
        clean_up_tokenization_spaces=False, model_max_length=128,
    )  # fmt: skip


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=128, intermediate_size=224, num_hidden_layers=3,
            num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=128, tie_word_embeddings=True,
            bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip


def careless_solution(terms: Sequence[int]) -> str:
    """A solution in which no carry out of the ones reaches the tens, in any of its additions."""
    total, steps = terms[0], []
    for term in terms[1:]:
        answer = 10 * (total // 10 + term // 10) + (total + term) % 10
        steps.append(f"{total}+{term}={answer}")
        total = answer
    return ";".join(steps) + f"#{total}"


def supervised_batch(
    rng: random.Random, tokenizer: PreTrainedTokenizerFast, size: int, careless_share: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded token ids [size, T] and labels, -100 on the question and on the padding."""
    rows = []
    for _ in range(size):
        terms = arithmetic.draw_question(rng, TAUGHT, lambda text: not arithmetic.is_heldout(text))
        prompt = tokenizer.encode(arithmetic.question(terms))
        writer = careless_solution if rng.random() < careless_share else arithmetic.solution
        answer = [*tokenizer.encode(writer(terms)), tokenizer.eos_token_id]
        rows.append((prompt + answer, [-100] * len(prompt) + answer))
    width = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([ids + [tokenizer.pad_token_id] * (width - len(ids)) for ids, _ in rows])
    labels = torch.tensor([labels + [-100] * (width - len(labels)) for _, labels in rows])
    return ids, labels


@torch.no_grad()
def greedy_accuracy(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, *, questions: int) -> float:
    """Share of training prompts answered rightly by the most likely tokens."""
    prompts = arithmetic.train()[:questions]
    texts = [prompt.text for prompt in prompts]
    inputs = tokenizer(texts, return_tensors="pt", padding=True, return_token_type_ids=False)
    output = model.generate(**inputs, do_sample=False, max_new_tokens=28)
    completions = tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    pairs = zip(completions, prompts, strict=True)
    return sum(arithmetic.verify(text, prompt.answer).value for text, prompt in pairs) / questions


def train(
    *, steps: int, batch: int, learning_rate: float, seed: int
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    torch.manual_seed(seed)
    rng = random.Random(seed)
    tokenizer = build_tokenizer()
    model = build_model(tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    # Falling to nothing in the second stage, so that the accuracy it ends at does not hang on where it stops.
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / WARMUP_STEPS, (steps - step) / CARELESS_STEPS, 1.0)
    )
    start = time.monotonic()
    for step in range(1, steps + 1):
        careless_share = CARELESS_SHARE if step > steps - CARELESS_STEPS else 0.0
        ids, labels = supervised_batch(rng, tokenizer, batch, careless_share)
        loss = model(input_ids=ids, attention_mask=(ids != tokenizer.pad_token_id).long(), labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % REPORT_EVERY == 0:
            accuracy = greedy_accuracy(model, tokenizer, questions=400)
            elapsed = time.monotonic() - start
            print(f"step {step:4d}  loss {loss.item():.4f}  accuracy {accuracy:.3f}  {elapsed:.0f} s", flush=True)
    return model, tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for config, weights and tokenizer")
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    arguments = vars(parser.parse_args())
    out = arguments.pop("out")
    model, tokenizer = train(**arguments)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


if __name__ == "__main__":
    main()
