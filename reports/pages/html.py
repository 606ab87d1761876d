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
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from reports import sentences, text
from reports.compare.comparison import Comparison
from reports.compare.pairs import disagrees
from reports.pages import contrast_tables, cost_tables, matching_tables, panels, statistics_tables, tables
from reports.record.names import AXES
from reports.stats.verdict import VerdictKind

_TEMPLATES = Path(__file__).parent / "templates"
KINDS = {
    VerdictKind.INVALID: "bad",
    VerdictKind.NO_VERDICT: "open",
    VerdictKind.DOES_NOT_FIT: "open",
    VerdictKind.BETTER: "win",
    VerdictKind.EQUIVALENT: "good",
    VerdictKind.INCONCLUSIVE: "open",
}
# Kinds of examples that a reader may choose from; of more, those alone that all arms solved or missed.
MOST_KINDS = 8
# Arms for which report.css has colours.
ORDINARY = 4
SYMBOLS = {"bad": "✗", "good": "=", "open": "?", "win": "▲"}


def render(comparison: Comparison) -> str:
    """The whole page. The same comparison gives the same bytes."""
    bench, matching = comparison.bench, comparison.bench["matching"]
    kind = _kind(comparison)
    arms = comparison.arms
    counts = comparison.examples.counts if comparison.examples else {}
    flips = [kind for kind in counts if kind.startswith("only ")]
    budget, kinds = bench["budget"], _kind_names(comparison)
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            c=comparison,
            bench=bench,
            names=[text.arm_name(arm) for arm in arms],
            kind=kind,
            symbol=SYMBOLS[kind],
            verdict=verdict_label(comparison),
            audit=_audit(comparison),
            budget=f"{text.large(budget.get('limit') or 0)} {str(budget.get('currency')).replace('_', ' ')}",
            finished=sum(run.finished for run in comparison.runs),
            bar=panels.verdict(comparison),
            ratios=panels.headline_ratios(comparison),
            accuracy=panels.accuracy(comparison),
            sampled=any(str(metric.quantity).startswith("majority_at_") for metric in comparison.metrics),
            curves=panels.curve_sections(comparison),
            axes=AXES,
            memory=panels.memory(comparison),
            memory_parts=panels.memory_parts(comparison),
            phases=panels.phases(comparison),
            stability=panels.stability(comparison),
            never_finite=panels.never_finite(comparison),
            tables=tables,
            matching_tables=matching_tables,
            contrast_tables=contrast_tables,
            swatches={place: panels.swatches(comparison, place) for place in ("row", "each")},
            compared=[contrast.pair for contrast in comparison.contrasts],
            kind_of=lambda contrast: KINDS[contrast.verdict.kind],
            symbols=SYMBOLS,
            cost_tables=cost_tables,
            statistics=statistics_tables.sections(comparison),
            matching=matching,
            kinds=kinds,
            flips=flips,
            many_kinds=len(kinds) > MOST_KINDS,
            differing=sum(counts[kind] for kind in flips),
            alike={kind: count for kind, count in counts.items() if kind not in flips},
            when=text.moment,
            span=text.span,
            environment=matching_tables.flat(
                {k: v for k, v in (bench.get("environment") or {}).items() if k != "packages"}
            ),
            packages=sorted(((bench.get("environment") or {}).get("packages") or {}).items()),
            spec=matching_tables.flat(bench.get("spec") or {}),
            downloads=_downloads(comparison),
            **assets(several=comparison.several or len(arms) > ORDINARY),
        )
    )


def assets(*, several: bool = False) -> dict[str, str]:
    """Style and script of a page, and the hash by which its content policy allows that script alone.

    several: with what only a page of several contrasts, or of more than ORDINARY arms, needs.
    """
    names = ("report.css", "report.js", *(("several.css",) if several else ()))
    css, script, *more = ((_TEMPLATES / name).read_text(encoding="utf-8") for name in names)
    css += "".join(more)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return {"css": Markup(css), "script": Markup(script), "script_hash": digest}


def environment() -> Environment:
    """How every page is made: escaped, and with what cannot be seen made visible."""

    def clean(value: Any) -> Any:
        return text.visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    made = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=clean,
    )
    made.filters["arm"] = text.arm_name
    made.filters["tight"] = text.tight
    return made


def _audit(comparison: Comparison) -> tuple[str, str]:
    """(kind, words) for what the audit before the runs and the evidence of the runs say together."""
    matching = comparison.bench["matching"]
    rows = matching.get("evidence") or []
    if matching.get("verdict") != "matched" or (
        not comparison.unfit and any(disagrees(comparison.runs, row) for row in rows)
    ):
        return "bad", "✗ not matched"
    # An arm without room for its first step leaves no evidence.
    if comparison.unfit or all(row.get("equal") for row in rows):
        return "good", "✓ matched"
    return "open", "? evidence incomplete"


def verdict_label(comparison: Comparison) -> str:
    """The verdict, or what came of several contrasts in numbers."""
    if comparison.several:
        return sentences.counts([contrast.verdict for contrast in comparison.contrasts])
    return comparison.verdict.words(text.arm_name)


def _kind(comparison: Comparison) -> str:
    """Of one contrast its own; of several the one that all have in common, or else open."""
    if comparison.several:
        kinds = {KINDS[contrast.verdict.kind] for contrast in comparison.contrasts}
        return kinds.pop() if len(kinds) == 1 else "open"
    return "open" if comparison.unfit else KINDS[comparison.verdict.kind]


def _kind_names(comparison: Comparison) -> dict[str, str]:
    """What a group of examples is called: 'only ppo' → 'only PPO right'."""
    named = {}
    for kind in comparison.examples.counts if comparison.examples else ():
        only = [text.arm_name(arm) for arm in kind.removeprefix("only ").split(" and ")]
        both = kind.replace("all", "both") if len(comparison.arms) == 2 else kind
        named[kind] = f"only {text.listed(only)} right" if kind.startswith("only ") else both
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
