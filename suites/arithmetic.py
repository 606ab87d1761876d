"""Multi-term sums with a written-out scratchpad: the embedded suite, small enough to learn on a CPU.

    12+70+35?  →  12+70=82;82+35=117#117

The reward is 1 for the right total after the last `#`, else 0; the scratchpad itself is not graded. Questions
are split by a hash of their text, so no held-out question can be trained on, whoever generates them. The
transfer set has one term more than anything the reinforcement learning sees.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from harness.types import Prompt, Reward, Task, stable_hash
from suites.grading import extract_after, gold

TRAIN_TERMS = 3
TRANSFER_TERMS = 4
TRAIN_PROMPTS = 20_000
HELDOUT_PROMPTS = 400


def solution(terms: Sequence[int]) -> str:
    """The scratchpad a perfect policy writes: a running total, then the answer after `#`."""
    total, steps = terms[0], []
    for term in terms[1:]:
        steps.append(f"{total}+{term}={total + term}")
        total += term
    return ";".join(steps) + f"#{total}"


def question(terms: Sequence[int]) -> str:
    return "+".join(map(str, terms)) + "?"


def is_heldout(text: str) -> bool:
    """One question in ten is never trained on, by anyone."""
    return stable_hash("arithmetic-split", text) % 10 == 0


def draw_terms(rng: random.Random, count: int) -> list[int]:
    return [rng.randint(10, 99) for _ in range(count)]


def _prompts(count: int, *, terms: int, heldout: bool, key: str) -> list[Prompt]:
    rng = random.Random(stable_hash("arithmetic", key))
    seen: dict[str, Prompt] = {}
    while len(seen) < count:
        drawn = draw_terms(rng, terms)
        text = question(drawn)
        if is_heldout(text) == heldout and text not in seen:
            seen[text] = Prompt(id=text, text=text, answer=str(sum(drawn)))
    return list(seen.values())


def train() -> Sequence[Prompt]:
    return _prompts(TRAIN_PROMPTS, terms=TRAIN_TERMS, heldout=False, key="train")


def heldout() -> Mapping[str, Sequence[Prompt]]:
    return {
        "arithmetic_heldout": _prompts(HELDOUT_PROMPTS, terms=TRAIN_TERMS, heldout=True, key="heldout"),
        "arithmetic_transfer": _prompts(HELDOUT_PROMPTS, terms=TRANSFER_TERMS, heldout=True, key="transfer"),
    }


def verify(completion: str, answer: str) -> Reward:
    expected = gold(answer)
    found = extract_after(completion, "#")
    correct = found is not None and found.value == expected
    return Reward(value=float(correct), correct=correct, extracted=found.text if found else None)


TASK = Task(name="arithmetic", train=train, heldout=heldout, verify=verify, strict_pattern=r"#([0-9]+)$")
