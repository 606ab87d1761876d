"""What a benchmark would do, without doing it: the matching audit, for people."""

from __future__ import annotations

from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from harness.config.matching import Audit, Difference
from harness.config.tables import BenchSpec


def compared(bench: BenchSpec, audit: Audit) -> Group:
    """The arms, what a run costs, and in what the arms differ."""
    rollout, budget = bench.rollout, bench.budget
    samples = rollout.prompts_per_step * rollout.completions_per_prompt
    head = Text.assemble(
        (f"{bench.suite.name}: {audit.verdict}\n", "bold green" if audit.verdict == "matched" else "bold red"),
        f"arms: {', '.join(bench.arms)}; seeds: {shown(bench.seeds)}; regime: {bench.regime}\n"
        f"budget of a run: {shown(budget.limit)} {budget.currency.replace('_', ' ')}"
        f"; a step is {rollout.prompts_per_step} prompts × {rollout.completions_per_prompt} completions"
        f" = {samples} samples\n"
        f"equal settings: {len(audit.shared)}\n",
    )
    parts: list[Any] = [head]
    if audit.declared:
        parts.append(differences("declared differences", list(bench.arms), audit.declared))
    if audit.undeclared:
        parts.append(differences("UNDECLARED differences", list(bench.arms), audit.undeclared))
    return Group(*parts)


def shared_settings(audit: Audit) -> Table:
    shared = Table("equal setting", "value", box=None, pad_edge=False)
    for key, value in audit.shared.items():
        shared.add_row(key, Text(shown(value)))
    return shared


def differences(title: str, arms: list[str], rows: list[Difference]) -> Table:
    table = Table(title.replace(" ", "\u00a0"), *arms, "why", box=None, pad_edge=False)
    for row in rows:
        cells = [*(shown(row.values[arm]) for arm in arms), row.why or "no reason given"]
        table.add_row(row.key, *map(Text, cells))
    table.add_section()
    return table


def shown(value: Any) -> str:
    """A setting as people read it, with all the digits that anybody writes."""
    if isinstance(value, (list, tuple)):
        return ", ".join(map(shown, value))
    if isinstance(value, bool):
        return str(value).lower()
    return "–" if value is None else f"{value:.12g}" if isinstance(value, float) else str(value)
