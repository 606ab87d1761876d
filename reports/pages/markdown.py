"""The comparison as a short Markdown summary for a pull request or a job page: a sentence, a table, what to open."""

from __future__ import annotations

import re

from reports import text
from reports.compare.comparison import Comparison
from reports.pages import contrast_tables, tables
from reports.pages.html import verdict_label

MOST_ROWS = 20


def render(comparison: Comparison) -> str:
    """At most MOST_ROWS table rows; anything beyond them is counted."""
    bench = comparison.bench
    names = " or ".join(text.arm_name(arm) for arm in comparison.arms)
    matched = bench["matching"].get("verdict") == "matched"
    finished = sum(run.finished for run in comparison.runs)
    budget = f"{text.large(bench['budget'].get('limit') or 0)} {str(bench['budget'].get('currency')).replace('_', ' ')}"
    lines = [
        f"## {escaped(names)} on {escaped(str(bench['suite']))}: {escaped(verdict_label(comparison))}",
        "",
        escaped(comparison.headline),
        "",
        *_contrasts(comparison),
    ]
    for sentence in (comparison.detail, comparison.cost):
        lines += [escaped(sentence), ""] if sentence else []
    lines += [
        *_metrics(comparison),
        "",
        f"{finished} of {len(comparison.runs)} runs finished; budget {budget} a run;"
        f" audit {'matched' if matched else '**not matched**'}; {escaped(str(bench['bench_id']))}.",
        "",
        f"<sub>{escaped(comparison.limits)}</sub>",
        "",
    ]
    return "\n".join(lines)


def _contrasts(comparison: Comparison) -> list[str]:
    """Several contrasts as a table, and what had to be corrected for."""
    rows = contrast_tables.overview(comparison)
    if not rows:
        return []
    lines = [
        row(["Contrast", "Accuracy (95 %)", "Verdict", "Time", "Memory"]),
        row(["---", "---:", "---", "---:", "---:"]),
    ]
    for one in rows:
        lines.append(row([one.contrast.title, tables.one_line(one.difference), one.verdict, one.time, one.memory]))
    return [*lines, "", *([escaped(comparison.across_tasks), ""] if comparison.across_tasks else [])]


def _metrics(comparison: Comparison) -> list[str]:
    """Every arm's means, and the difference where there is one contrast."""
    most = MOST_ROWS - (len(comparison.contrasts) if comparison.several else 0)
    judged = [title.replace("95 % interval", "95 %") for title in tables.difference_head(comparison)]
    head = ["Metric", *(text.arm_name(arm) for arm in comparison.arms), *judged]
    shown = comparison.metrics if len(comparison.metrics) <= most else comparison.metrics[: most - 1]
    lines = [row(head), row(["---" if title in ("Metric", "Verdict") else "---:" for title in head])]
    for metric in shown:
        cells = [metric.title, *(tables.arm_cell(metric, arm).partition("\n")[0] for arm in comparison.arms)]
        cells += [tables.one_line(cell) for cell in tables.judged_cells(comparison, metric)]
        lines.append(row(cells))
    if len(shown) < len(comparison.metrics):
        lines.append(row([f"{len(comparison.metrics) - len(shown)} more in report.html", *[""] * (len(head) - 1)]))
    return lines


def row(cells: list[str]) -> str:
    return "| " + " | ".join(escaped(cell) if set(cell) - set("-:") else cell for cell in cells) + " |"


def escaped(value: str) -> str:
    """Text that Markdown, and the HTML it lets through, take for nothing but text."""
    flat = " ".join(text.visible(value).split())
    return re.sub(r"([\\`*_\[\]|~])", r"\\\1", flat).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
