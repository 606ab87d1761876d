"""The comparison as a short Markdown summary for a pull request or a job page: a sentence, a table, what to open."""

from __future__ import annotations

import re

from reports import tables, text
from reports.comparison import Comparison

MOST_ROWS = 20


def render(comparison: Comparison) -> str:
    """At most MOST_ROWS table rows; anything beyond them is counted."""
    bench = comparison.bench
    names = " or ".join(text.arm_name(arm) for arm in comparison.arms)
    arm, better, _ = comparison.verdict.partition(" better")
    verdict = f"{text.arm_name(arm)} better" if better else comparison.verdict
    matched = bench["matching"].get("verdict") == "matched"
    finished = sum(run.finished for run in comparison.runs)
    budget = f"{text.large(bench['budget'].get('limit') or 0)} {str(bench['budget'].get('currency')).replace('_', ' ')}"
    lines = [
        f"## {_cell(names)} on {_cell(str(bench['suite']))}: {_cell(verdict)}",
        "",
        _cell(comparison.headline),
        "",
    ]
    for sentence in (comparison.detail, comparison.cost):
        lines += [_cell(sentence), ""] if sentence else []
    two = comparison.judged
    head = ["Metric", *(text.arm_name(arm) for arm in comparison.arms)]
    head += [" − ".join(text.arm_name(arm) for arm in comparison.arms[:2]) + " (95 %)", "Verdict"] if two else []
    shown = comparison.metrics if len(comparison.metrics) <= MOST_ROWS else comparison.metrics[: MOST_ROWS - 1]
    lines += [_row(head), _row(["---", *["---:"] * (len(head) - (2 if two else 1)), *(["---"] if two else [])])]
    for metric in shown:
        cells = [metric.title, *(tables.arm_cell(metric, arm).partition("\n")[0] for arm in comparison.arms)]
        cells += [tables.one_line(tables.interval_cell(metric)), tables.verdict_cell(metric)] if two else []
        lines.append(_row(cells))
    if len(shown) < len(comparison.metrics):
        lines.append(_row([f"{len(comparison.metrics) - len(shown)} more in report.html", *[""] * (len(head) - 1)]))
    lines += [
        "",
        f"{finished} of {len(comparison.runs)} runs finished; budget {budget} a run;"
        f" audit {'matched' if matched else '**not matched**'}; {_cell(str(bench['bench_id']))}.",
        "",
        f"<sub>{_cell(comparison.limits)}</sub>",
        "",
    ]
    return "\n".join(lines)


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(_cell(cell) if set(cell) - set("-:") else cell for cell in cells) + " |"


def _cell(value: str) -> str:
    """Text that Markdown, and the HTML it lets through, take for nothing but text."""
    flat = " ".join(text.visible(value).split())
    return re.sub(r"([\\`*_\[\]|~])", r"\\\1", flat).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
