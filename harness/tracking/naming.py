"""Names, parameters and benchmark ids as MLflow accepts them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from harness.tracking.redact import redact
from reports.record.errors import UserError
from reports.record.names import BENCH_ID

# MLflow's own limits.
PARAMS_PER_BATCH, PARAM_CHARS, NAME_CHARS = 100, 6000, 250
# A request may have 1 MB, and JSON writes a character with up to six.
PARAM_BATCH_CHARS = 100_000
BENCH_IDS = re.compile(BENCH_ID)


def check_bench_id(bench_id: str, what: str = "benchmark id") -> None:
    """Raises UserError where `bench_id` could not name a folder and stand in a search condition. what: it is."""
    if not BENCH_IDS.fullmatch(bench_id):
        raise UserError(f"{what} {bench_id!r}: letters, digits, '.', '_' and '-' only")


@lru_cache(4096)
def sanitise(name: str) -> str:
    """The name MLflow accepts for a metric, param or tag that is closest to `name`."""
    name = re.sub(r"[^A-Za-z0-9_\-. :/]", "_", name)
    parts = [part for part in name.split("/") if part not in ("", ".", "..")]
    return "/".join(parts)[:NAME_CHARS].rstrip("/") or "_"


def distinct(name: str, seen: set[str]) -> str:
    """`name`, numbered where another name has been sanitised to the same; nothing is overwritten silently."""
    number, candidate = 1, name
    while candidate in seen:
        number += 1
        candidate = f"{name[: NAME_CHARS - 8]}_{number}"
    seen.add(candidate)
    return candidate


def flatten(params: Mapping[str, Any]) -> dict[str, str]:
    """Nested params as one level of dotted names and strings; lists as JSON; too long values end in a marker."""
    flat: dict[str, str] = {}
    seen: set[str] = set()
    for key, value in _leaves(params, ""):
        text = redact(value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False))
        if len(text) > PARAM_CHARS:
            marker = f" … [truncated, {len(text)} characters]"
            text = text[: PARAM_CHARS - len(marker)] + marker
        flat[distinct(sanitise(key), seen)] = text
    return flat


def _leaves(params: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in params.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def param_batches(flat: Mapping[str, str]) -> Iterator[list[tuple[str, str]]]:
    batch: list[tuple[str, str]] = []
    size = 0
    for key, value in flat.items():
        if batch and (len(batch) == PARAMS_PER_BATCH or size + len(value) > PARAM_BATCH_CHARS):
            yield batch
            batch, size = [], 0
        batch.append((key, value))
        size += len(value) + len(key)
    if batch:
        yield batch
