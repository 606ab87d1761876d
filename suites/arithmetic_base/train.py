"""Train the arithmetic suite's base policy from nothing: a 0.46 M-parameter Llama over characters.

    python suites/arithmetic_base/train.py --out suites/arithmetic_base

Supervised next-token training on worked sums, stopped as soon as greedy accuracy on fresh questions reaches
the target. The stop is early on purpose: reinforcement learning needs a base policy that is right sometimes,
and a target makes the result reproducible in what matters (its accuracy) on machines whose arithmetic differs
in the last bit. Held-out questions are never used, for training or for the stop.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from suites import arithmetic

CHARACTERS = "0123456789+=;#?"
SPECIAL = ["<pad>", "<eos>"]
WARMUP_STEPS = 50
# Some two- and four-term sums, so that the transfer set is hard for the policy and not foreign to it.
TERM_COUNTS, TERM_WEIGHTS = (2, 3, 4), (0.2, 0.6, 0.2)


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


def draw_question(rng: random.Random) -> list[int]:
    while True:
        terms = arithmetic.draw_terms(rng, rng.choices(TERM_COUNTS, TERM_WEIGHTS)[0])
        if not arithmetic.is_heldout(arithmetic.question(terms)):
            return terms


def supervised_batch(
    rng: random.Random, tokenizer: PreTrainedTokenizerFast, size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded token ids [size, T] and labels, -100 on the question and on the padding."""
    rows = []
    for _ in range(size):
        terms = draw_question(rng)
        prompt = tokenizer.encode(arithmetic.question(terms))
        answer = [*tokenizer.encode(arithmetic.solution(terms)), tokenizer.eos_token_id]
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
    *, target: float, max_steps: int, batch: int, learning_rate: float, seed: int
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    torch.manual_seed(seed)
    rng = random.Random(seed)
    tokenizer = build_tokenizer()
    model = build_model(tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    start, accuracy = time.monotonic(), 0.0
    for step in range(1, max_steps + 1):
        ids, labels = supervised_batch(rng, tokenizer, batch)
        # Accuracy climbs steeply once it climbs: slower steps from there on make the stop land near the target.
        factor = min(1.0, step / WARMUP_STEPS) * (0.2 if accuracy > target / 2 else 1.0)
        optimizer.param_groups[0]["lr"] = learning_rate * factor
        loss = model(input_ids=ids, attention_mask=(ids != tokenizer.pad_token_id).long(), labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 25 == 0 or (accuracy > target / 8 and step % 5 == 0):
            accuracy = greedy_accuracy(model, tokenizer, questions=800)
            elapsed = time.monotonic() - start
            print(f"step {step:4d}  loss {loss.item():.4f}  accuracy {accuracy:.3f}  {elapsed:.0f} s", flush=True)
            if accuracy >= target:
                return model, tokenizer
    raise SystemExit(f"did not reach {target:.2f} within {max_steps} steps")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for config, weights and tokenizer")
    parser.add_argument("--target", type=float, default=0.40, help="accuracy to stop at")
    parser.add_argument("--max-steps", type=int, default=2000)
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
