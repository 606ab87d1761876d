"""The report as one HTML file: no address outside it, readable without JavaScript, in print, and on a phone.

Everything a model or a user wrote is escaped by the template engine and shown with its control characters made
visible; besides that, the page's content policy allows no script but its own, named by hash, and no request at all.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from reports import figures, tables, text
from reports.comparison import Comparison
from reports.series import AXES, Curves
from reports.tables import Table

_TEMPLATES = Path(__file__).parent / "templates"
_KINDS = {"invalid": "bad", "equivalent": "good", "inconclusive": "open", "no verdict": "open"}
_SYMBOLS = {"bad": "✗", "good": "=", "open": "?", "win": "▲"}


class Panel(NamedTuple):
    """One figure: how to read it, what it shows, and its data. `axis` names its place in a switch."""

    svg: Markup
    label: str
    how: str
    data: Table
    axis: str = ""


def render(comparison: Comparison) -> str:
    """The whole page. The same comparison gives the same bytes."""
    bench, matching = comparison.bench, comparison.bench["matching"]
    script = (_TEMPLATES / "report.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    kind = "open" if comparison.unfit else _KINDS.get(comparison.verdict, "win")
    arms = comparison.arms
    budget = bench["budget"]
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            c=comparison,
            bench=bench,
            names=[text.arm_name(arm) for arm in arms],
            kind=kind,
            symbol=_SYMBOLS[kind],
            verdict=_verdict_label(comparison),
            matched=matching.get("verdict") == "matched"
            and (bool(comparison.unfit) or all(r.get("equal") for r in matching.get("evidence") or [])),
            budget=f"{text.large(budget.get('limit') or 0)} {str(budget.get('currency')).replace('_', ' ')}",
            finished=sum(run.finished for run in comparison.runs),
            bar=_verdict_panel(comparison),
            accuracy=_accuracy_panel(comparison),
            curves=_curve_sections(comparison),
            memory=_memory_panel(comparison),
            phases=_phase_panel(comparison),
            stability=_stability_panel(comparison),
            tables=tables,
            matching=matching,
            kinds=_kind_names(comparison),
            span=text.span,
            environment=tables.flat({k: v for k, v in (bench.get("environment") or {}).items() if k != "packages"}),
            packages=sorted(((bench.get("environment") or {}).get("packages") or {}).items()),
            spec=tables.flat(bench.get("spec") or {}),
            downloads=_downloads(comparison),
            css=Markup((_TEMPLATES / "report.css").read_text(encoding="utf-8")),
            script=Markup(script),
            script_hash=digest,
        )
    )


def _environment() -> Environment:
    def clean(value: Any) -> Any:
        return text.visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=clean,
    )
    environment.filters["arm"] = text.arm_name
    environment.filters["tight"] = text.tight
    return environment


def _verdict_label(comparison: Comparison) -> str:
    arm, better, _ = comparison.verdict.partition(" better")
    return f"{text.arm_name(arm)} better" if better else comparison.verdict


def _verdict_panel(comparison: Comparison) -> Markup | None:
    if comparison.primary is None or not comparison.judged:
        return None
    svg = figures.verdict_bar(comparison.primary, comparison.arms, comparison.margin)
    return Markup(svg) if svg else None


def _accuracy_panel(comparison: Comparison) -> Panel | None:
    svg = figures.accuracy(comparison)
    if svg is None:
        return None
    how = (
        "Each open mark is one seed, the upright stroke the mean of the seeds, the line its 95 % interval over seeds"
        " and questions; the dotted stroke is the policy before training."
    )
    if comparison.judged:
        how += (
            " On the right, the difference with its 95 % (thin) and 90 % (thick) interval: to claim a winner the thin"
            " line must not touch zero, to claim equivalence the thick one must lie inside the shaded margin."
        )
    return Panel(Markup(svg), "Final accuracy by seed", how, tables.per_seed(comparison))


def _curve_sections(comparison: Comparison) -> list[tuple[str, str, list[Panel]]]:
    """(id, title, panels): the training reward, then accuracy on every task."""
    sections = []
    how = "Thin lines are single seeds, the bold line is their mean where all of them have values ({smoothing})."
    if comparison.reward:
        panels = _curve_panels(comparison, comparison.reward, "Mean reward", how, share=False)
        sections.append(("reward", "Training reward", panels))
    for task, found in comparison.accuracy.items():
        if found:
            note = how + " It starts at the base policy; marks on the bold line are evaluations."
            panels = _curve_panels(comparison, found, "Accuracy", note, share=True)
            sections.append((f"curve-{len(sections)}", f"Accuracy during training, {task}", panels))
    return sections


def _curve_panels(
    comparison: Comparison, found: Mapping[str, Curves], label: str, how: str, *, share: bool
) -> list[Panel]:
    return [
        Panel(
            Markup(figures.curves(one, comparison.arms, label, share=share, dots=share, prefix=f"f{id_}")),
            f"{label} against {AXES[axis][0].lower()}",
            how.format(smoothing=one.smoothing),
            tables.curve_data(one, comparison.arms, share=share),
            axis,
        )
        for id_, (axis, one) in zip(_serial(label, found), found.items(), strict=True)
    ]


def _serial(label: str, found: Mapping[str, Curves]) -> list[str]:
    """Ids that differ between sections: a task's name may hold anything, so a digest of the data stands in for it."""
    return [hashlib.sha256(f"{label}{axis}{one}".encode()).hexdigest()[:8] for axis, one in found.items()]


def _memory_panel(comparison: Comparison) -> Panel | None:
    svg = figures.memory(comparison.memory, comparison.arms)
    how = "The most memory each phase held in any step of any seed; the longest bar decides whether a run fits."
    data = tables.bars_data(comparison.memory, comparison.arms, "B")
    return Panel(Markup(svg), "Peak memory by phase", how, data) if svg else None


def _phase_panel(comparison: Comparison) -> Panel | None:
    svg = figures.phase_time(comparison.phases, comparison.arms)
    how = (
        "One bar per arm, from left to right the phases of a step: the median over a run's steps without the first,"
        " averaged over seeds. The phases that only one bar has are what that arm's extra model costs."
    )
    data = tables.bars_data(comparison.phases, comparison.arms, "s", total=True)
    return Panel(Markup(svg), "Time per step by phase", how, data) if svg else None


def _stability_panel(comparison: Comparison) -> Panel | None:
    svg = figures.stability(comparison.stability, comparison.arms)
    how = "Every seed thin, the mean bold, not smoothed. Look for curves that run away, and for arms that differ."
    data = tables.stability_data(comparison.stability, comparison.arms)
    return Panel(Markup(svg), "Signs of instability against steps", how, data) if svg else None


def _kind_names(comparison: Comparison) -> dict[str, str]:
    """What a group of examples is called: 'only ppo' → 'only PPO right'."""
    counts = comparison.examples.counts if comparison.examples else {}
    named = {}
    for kind in counts:
        only = [text.arm_name(arm) for arm in kind.removeprefix("only ").split(" and ")]
        named[kind] = f"only {text.listed(only)} right" if kind.startswith("only ") else kind
    return named


def _downloads(comparison: Comparison) -> list[tuple[str, str]]:
    """(file name, data address) of what can be saved from the page."""
    whole = json.dumps(comparison.to_json(), indent=1, allow_nan=False)
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(("metric", "unit", "arm", "seed", "value"))
    for metric in comparison.metrics:
        for arm, value in metric.arms.items():
            for seed, number in value.per_seed.items():
                writer.writerow((metric.name, metric.unit, arm, seed, "" if number is None else number))
    return [
        ("comparison.json", _data_address("application/json", whole)),
        ("metrics.csv", _data_address("text/csv", out.getvalue())),
    ]


def _data_address(media: str, content: str) -> str:
    encoded = content.encode("utf-8", errors="replace")
    return f"data:{media};base64,{base64.b64encode(encoded).decode()}"
