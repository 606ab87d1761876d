"""The values that flow through a run, before tensors: frozen, built complete, standard library only.

A task (what a suite trains on) is a value too: a tuple of functions, so that a new suite is one file that
fills in a `Task`, and the training loop names no suite.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple


def printable(text: str, keep: str = "") -> str:
    """`text` with what would command a terminal, or pass for something else on it, written as escapes.

    keep: characters that stay as they are.
    """
    return "".join(char if char.isprintable() or char in keep else repr(char)[1:-1] for char in text)


class UserError(Exception):
    """A fault the user can mend. The message is one line; `exit_code` is the process's exit status.

    What a file, a path or a server says may hold line breaks and terminal codes: they are written as escapes.
    """

    exit_code = 2

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class RunError(UserError):
    """Work that all runs depend on came to no end: its process crashed, or its code failed."""

    exit_code = 1


class EvidenceError(UserError):
    """What was measured is incomplete or contradicts itself, so nothing can be concluded from it."""

    exit_code = 3


class InfrastructureError(UserError):
    """Something outside the benchmark failed (a hub, a server, a disk); trying again may help."""

    exit_code = 5


# The fault of a process, in another one that knows its exit code.
FAULTS = {kind.exit_code: kind for kind in (RunError, UserError, EvidenceError, InfrastructureError)}


@dataclass(frozen=True, slots=True)
class Prompt:
    """A question as the policy reads it. `chat` asks for the model's own chat template around `text`."""

    id: str
    text: str
    answer: str
    chat: bool = False


@dataclass(frozen=True, slots=True)
class Completion:
    """What the policy answered.

    token_ids: the response tokens, the end-of-sequence token included where one was produced.
    logprobs: their log-probabilities at the sampling temperature, in nats, one per token.
    truncated: the length cap ended it, not the policy.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    text: str
    truncated: bool

    def __post_init__(self) -> None:
        assert len(self.token_ids) == len(self.logprobs)


@dataclass(frozen=True, slots=True)
class Reward:
    """The verifier's verdict on one completion; `extracted` is the answer it read, if it found one."""

    value: float
    correct: bool
    extracted: str | None


@dataclass(frozen=True, slots=True)
class Rollout:
    """One graded completion. `group` numbers the prompt within its step; the samples of a prompt share it."""

    prompt: Prompt
    prompt_ids: tuple[int, ...]
    group: int
    completion: Completion
    reward: Reward


@dataclass(frozen=True, slots=True)
class Past:
    """A benchmark that was run before, as a tracking server lists it.

    state: the server's own word. began: milliseconds since 1970. files: content by name; faults: why one is not there.
    """

    bench_id: str
    state: str
    began: int
    files: Mapping[str, bytes]
    faults: Mapping[str, str]


class Task(NamedTuple):
    """What a suite trains and is judged on.

    train: the training prompts, in a fixed order; the loop shuffles them by seed.
    heldout: prompts never trained on, by evaluation-set name.
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
