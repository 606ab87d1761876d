"""The values between a suite and a run, before tensors: frozen, built complete, standard library only.

A task (what a suite trains on) is a value too: a tuple of functions, so that a new suite is one file that
fills in a `Task`, and the training loop names no suite.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple


class DataError(Exception):
    """A suite's data cannot be read. The message is one line; `exit_code` is what a command ends with."""

    exit_code = 2


class DataUnreachable(DataError):
    """The data lies where it cannot be reached now; trying again may help."""

    exit_code = 5


@dataclass(frozen=True, slots=True)
class Prompt:
    """A question as the policy reads it. `chat` asks for the model's own chat template around `text`."""

    id: str
    text: str
    answer: str
    chat: bool = False


@dataclass(frozen=True, slots=True)
class Reward:
    """The verifier's verdict on one completion; `extracted` is the answer it read, if it found one."""

    value: float
    correct: bool
    extracted: str | None


class Task(NamedTuple):
    """What a suite trains and is judged on.

    train: the training prompts, in a fixed order; the loop shuffles them by seed. Raises DataError.
    heldout: prompts never trained on, by evaluation-set name. Raises DataError.
    verify: (completion text, gold answer) → Reward. The one verifier for both reward and accuracy. Raises
        ValueError when the gold answer cannot be read: a broken answer is an error, never a reward.
    strict_pattern: a regular expression with one group, the answer in exactly the format asked for. lm-eval reports
        its strict accuracy by it, beside the verifier's.
    """

    name: str
    train: Callable[[], Sequence[Prompt]]
    heldout: Callable[[], Mapping[str, Sequence[Prompt]]]
    verify: Callable[[str, str], Reward]
    strict_pattern: str


def stable_hash(*parts: object) -> int:
    """A 63-bit integer that depends on the parts alone, not on the process (as `hash` does).

    All randomness is keyed with it, so a draw depends on what it is for and never on what was drawn before.
    """
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
