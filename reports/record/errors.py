"""What can be wrong with a request or a record; `exit_code` is what a command ends with."""

from __future__ import annotations


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
