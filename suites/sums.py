"""Sums of two numbers up to 20, few-shot: a pretrained model that visibly learns on a CPU.

    3 + 5 = 8
    12 + 7 = 19
    9 + 14 = 23
    16 + 8 =            →   24

The prompt is plain text, for a base policy completes a pattern more surely than it follows an instruction. What
follows the answer is not read: a policy that only continues the pattern goes on with sums of its own until it is cut.
So the reward is 1 where the first line of the completion is the right number and nothing else, else 0, and a cut
completion is graded like any other.

All 441 questions with terms from 0 to 20 but the worked ones are used. They are split by a hash of the two terms in
ascending order, so a sum and its commuted twin lie on the same side and no held-out question can be trained on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

from suites.grading import gold, parse_number
from suites.task import Prompt, Reward, Task, stable_hash

LARGEST = 20
WORKED = ((3, 5), (12, 7), (9, 14))


def question(first: int, second: int) -> str:
    """The prompt: the worked sums, the same for every question, and the sum that is asked for."""
    worked = "".join(f"{a} + {b} = {a + b}\n" for a, b in WORKED)
    return f"{worked}{first} + {second} ="


def is_heldout(first: int, second: int) -> bool:
    """One pair of terms in four is never trained on, in either order."""
    return stable_hash("sums-split", *sorted((first, second))) % 4 == 0


@cache
def _prompts(*, heldout: bool) -> tuple[Prompt, ...]:
    shown = {tuple(sorted(terms)) for terms in WORKED}
    return tuple(
        Prompt(id=f"{a}+{b}", text=question(a, b), answer=str(a + b))
        for a in range(LARGEST + 1)
        for b in range(LARGEST + 1)
        if is_heldout(a, b) == heldout and tuple(sorted((a, b))) not in shown
    )


def train() -> Sequence[Prompt]:
    return _prompts(heldout=False)


def heldout() -> Mapping[str, Sequence[Prompt]]:
    return {"sums_heldout": _prompts(heldout=True)}


def verify(completion: str, answer: str) -> Reward:
    expected = gold(answer)
    line = completion.partition("\n")[0].strip()
    value = parse_number(line)
    correct = value == expected
    return Reward(value=float(correct), correct=correct, extracted=line if value is not None else None)


TASK = Task(name="sums", train=train, heldout=heldout, verify=verify, strict_pattern=r"\A ([0-9]+)(?:\n|\Z)")
