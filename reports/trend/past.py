"""A benchmark that was run before, as a tracking server lists it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


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
