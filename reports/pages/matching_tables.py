"""Settings and what the runs began from, as tables: were the arms matched, and with what were they run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from reports import text
from reports.compare.comparison import Comparison
from reports.compare.pairs import disagrees, evidence_of
from reports.pages.tables import Table, arm_names
from reports.record.names import EVIDENCE


def audit(matching: Mapping[str, Any], arms: Sequence[str]) -> Table:
    """Every setting as the audit judged it: undeclared differences first, then declared ones, then what is equal."""
    cells, kinds = [], []
    for kind, state in (("undeclared", "✗ undeclared"), ("declared", "≠ declared"), ("shared", "= equal")):
        for row in matching.get(kind) or []:
            values = row.get("values") or {}
            shown = [_value(row.get("value") if kind == "shared" else values.get(arm)) for arm in arms]
            cells.append((str(row.get("key")), *shown, state, str(row.get("why") or text.NONE)))
            kinds.append(kind)
    return Table(("Setting", *arm_names(arms), "Audit", "Why"), tuple(cells), tuple(kinds))


def evidence(comparison: Comparison) -> Table:
    """Per seed: the hash that all arms share, or every arm's where they differ or one is missing."""
    cells = []
    for row in comparison.bench["matching"].get("evidence") or []:
        found = {arm: evidence_of(row, arm) for arm in comparison.arms}
        line = []
        for what in EVIDENCE:
            digests = [own.get(what) for own in found.values()]
            shown = [digest[:12] if digest else "missing" for digest in digests]
            alike = len(set(shown)) == 1
            symbol = "?" if None in digests else "✓" if alike else "✗"
            line.append(f"{symbol} {shown[0] if alike else ' ≠ '.join(shown)}")
        state = "✓ equal" if row.get("equal") else "✗ not equal" if disagrees(comparison.runs, row) else "? incomplete"
        cells.append((str(row.get("seed")), *line, state))
    return Table(("Seed", "Initial weights", "Prompt stream", "First rollouts", "Verdict"), tuple(cells))


def flat(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested tables as dotted keys."""
    rows: list[tuple[str, str]] = []
    for key, item in value.items():
        if isinstance(item, Mapping):
            rows += flat(item, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", _value(item)))
    return rows


def _value(value: Any) -> str:
    if value is None:
        return text.NONE
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:g}" if math.isfinite(value) else str(value)
    return str(value)
