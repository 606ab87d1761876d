"""Sums with a written-out scratchpad: the embedded suite, small enough to learn on a CPU.

    12+75+19?  →  12+75=87;87+19=106#106

The reward is 1 for the right total after the last `#`, else 0; the scratchpad itself is not graded. Most questions
are within the base policy's reach; a quarter has numbers longer than any it was taught with, for as in any real data
some prompts stay out of reach of the budget, and what a baseline makes of those is part of what is compared.
Questions are split by a hash of their text, so no held-out question can be trained on, whoever generates them. The
transfer set has one term more than anything the reinforcement learning sees.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from suites.grading import extract_after, gold
from suites.task import Prompt, Reward, Task, stable_hash


class Kind(NamedTuple):
    """How many terms a question has, how large they are, and its share among the questions."""

    terms: int
    smallest: int
    largest: int
    share: float


TRAIN_KINDS = (Kind(2, 10, 99, 0.5), Kind(3, 10, 99, 0.25), Kind(2, 100, 999, 0.25))
TRANSFER_KINDS = (Kind(4, 10, 99, 1.0),)
TRAIN_PROMPTS = 8_000
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


def draw_question(rng: random.Random, kinds: Sequence[Kind], accept: Callable[[str], bool]) -> list[int]:
    """The terms of a question that `accept` takes, by its text. The kind is drawn first, so shares are as declared."""
    kind = rng.choices(kinds, [each.share for each in kinds])[0]
    while True:
        terms = [rng.randint(kind.smallest, kind.largest) for _ in range(kind.terms)]
        if accept(question(terms)):
            return terms


def _prompts(count: int, *, kinds: Sequence[Kind], heldout: bool, key: str) -> list[Prompt]:
    rng = random.Random(stable_hash("arithmetic", key))
    made: dict[str, Prompt] = {}
    while len(made) < count:
        terms = draw_question(rng, kinds, lambda text: is_heldout(text) == heldout and text not in made)
        text = question(terms)
        made[text] = Prompt(id=text, text=text, answer=str(sum(terms)))
    return list(made.values())


def train() -> Sequence[Prompt]:
    return _prompts(TRAIN_PROMPTS, kinds=TRAIN_KINDS, heldout=False, key="train")


def heldout() -> Mapping[str, Sequence[Prompt]]:
    return {
        "arithmetic_heldout": _prompts(HELDOUT_PROMPTS, kinds=TRAIN_KINDS, heldout=True, key="heldout"),
        "arithmetic_transfer": _prompts(HELDOUT_PROMPTS, kinds=TRANSFER_KINDS, heldout=True, key="transfer"),
    }


def verify(completion: str, answer: str) -> Reward:
    expected = gold(answer)
    found = extract_after(completion, "#")
    correct = found is not None and found.value == expected
    return Reward(value=float(correct), correct=correct, extracted=found.text if found else None)


TASK = Task(name="arithmetic", train=train, heldout=heldout, verify=verify, strict_pattern=r"#([0-9]+)$")
