"""What a benchmark would do, without doing it: the matching audit, for people."""

from __future__ import annotations

from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from harness.matching import Audit, Difference
from harness.spec import BenchSpec


def render(bench: BenchSpec, audit: Audit) -> Group:
    samples = bench.rollout.prompts_per_step * bench.rollout.completions_per_prompt
    head = Text.assemble(
        (f"{bench.suite.name}: {audit.verdict}\n", "bold green" if audit.verdict == "matched" else "bold red"),
        f"{len(bench.arms)} arms ({', '.join(bench.arms)}) × {len(bench.seeds)} seeds, regime {bench.regime}\n"
        f"budget of a run: {bench.budget.limit:g} {bench.budget.currency.replace('_', ' ')}"
        f"; a step is {bench.rollout.prompts_per_step} prompts × {bench.rollout.completions_per_prompt} completions"
        f" = {samples} samples\n"
        f"equal settings: {len(audit.shared)}\n",
    )
    parts: list[Any] = [head]
    if audit.declared:
        parts.append(differences("declared differences", list(bench.arms), audit.declared))
    if audit.undeclared:
        parts.append(differences("UNDECLARED differences", list(bench.arms), audit.undeclared))
    shared = Table("equal setting", "value", box=None, pad_edge=False)
    for key, value in audit.shared.items():
        shared.add_row(key, shown(value))
    return Group(*parts, shared)


def differences(title: str, arms: list[str], rows: list[Difference]) -> Table:
    table = Table(title.replace(" ", "\u00a0"), *arms, "why", box=None, pad_edge=False)
    for row in rows:
        table.add_row(row.key, *(shown(row.values[arm]) for arm in arms), row.why or "no reason given")
    table.add_section()
    return table


def shown(value: Any) -> str:
    return "–" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
