"""An engine that keeps what it sampled in files and never samples it twice: for the policy that every benchmark of a
model starts from.

What is kept are completions, not verdicts, so that a changed verifier judges them anew. They are found by all that they
follow from: the weights, the requests, and what computes them (engine, type, device, versions, this package's own
sources). They are read as data of unknown origin: what is not what was written is said and sampled again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from harness.engines.base import Completion, Engine, Request, Sampling
from harness.measure.environment import installed
from harness.model.policy import Policy
from reports.record.errors import UserError
from reports.record.journal import read_json, write_json

# Requests in one file: what an evaluation that was broken off does not have to sample again.
CHUNK = 512


class RememberingEngine:
    """The engine it is given, with a memory in `folder`. warn: gets one line for each file that is damaged."""

    def __init__(self, engine: Engine, policy: Policy, folder: Path, warn: Callable[[str], None]) -> None:
        self.engine, self.policy, self.folder, self.warn = engine, policy, folder, warn
        self.exact, self.ran = engine.exact, None
        self._identity: str | None = None

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        found: list[Completion] = []
        for start in range(0, len(requests), CHUNK):
            found += self._chunk(requests[start : start + CHUNK], sampling)
        return found

    def release(self) -> None:
        self.engine.release()

    def sync(self) -> None:
        self.engine.sync()
        self._identity = None

    def held_bytes(self) -> Mapping[str, int]:
        return self.engine.held_bytes()

    def close(self) -> None:
        self.engine.close()

    def _chunk(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        if self._identity is None:
            self._identity = identity(self.engine, self.policy)
        asked = json.dumps([self._identity, requests, sampling])
        path = self.folder / f"{hashlib.sha256(asked.encode()).hexdigest()}.json"
        known = None
        if path.is_file():
            try:
                known = remembered(path, len(requests))
            except (UserError, TypeError, ValueError, KeyError):
                self.warn(f"{path}: damaged, its completions are sampled again")
        if known is None:
            known = self.engine.generate(requests, sampling)
            # A memory that cannot be written costs time later, and nothing now.
            with contextlib.suppress(UserError):
                rows = [[c.token_ids, c.logprobs, c.text, c.truncated] for c in known]
                write_json(path, {"sha256": digest(rows), "completions": rows})
        return known


def remembered(path: Path, count: int) -> list[Completion]:
    """The completions in a file. Raises UserError, TypeError, ValueError or KeyError where it holds anything else."""
    content = read_json(path)
    rows = content["completions"]
    found = [_completion(*row) for row in rows]
    if len(found) != count or digest(rows) != content["sha256"]:
        raise ValueError
    return found


def digest(rows: Sequence[Sequence[Any]]) -> str:
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def _completion(token_ids: list[Any], logprobs: list[Any], text: Any, truncated: Any) -> Completion:
    if not isinstance(text, str) or not isinstance(truncated, bool) or len(token_ids) != len(logprobs):
        raise TypeError
    return Completion(tuple(map(int, token_ids)), tuple(map(float, logprobs)), text, truncated)


def identity(engine: Engine, policy: Policy) -> str:
    """What a policy's completions follow from, besides the requests."""
    device = torch.cuda.get_device_name(policy.device) if policy.device.type == "cuda" else str(policy.device)
    parts: list[Any] = [
        policy.weights_sha256(), sorted(policy.eos_ids), str(policy.dtype), type(engine).__name__, device,
        torch.get_num_threads(), installed(), sources_sha256(),
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


@cache
def sources_sha256() -> str:
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).resolve().parents[1].rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
