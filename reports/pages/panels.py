"""What stands around each figure of the page: its name, one line that says how to read it, and its data as a table."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import NamedTuple

from markupsafe import Markup

from reports import text
from reports.compare.comparison import Comparison
from reports.compare.curves import Curves
from reports.pages import contrast_figures, cost_figures, figures, tables
from reports.pages.tables import Table
from reports.record.identity import MEMORY, STEP_TIME
from reports.record.names import AXES
from reports.stats.bands import Band


class Panel(NamedTuple):
    """One figure: how to read it, what it shows, and its data. `axis` names its place in a switch."""

    svg: Markup
    label: str
    how: str
    data: Table
    axis: str = ""


class CurveSection(NamedTuple):
    """One quantity on every axis; `first` is the axis that is shown before the reader chooses another."""

    id: str
    title: str
    panels: tuple[Panel, ...]
    first: str


def verdict(comparison: Comparison) -> Panel | None:
    """The difference and its interval, for the head of the page; of several contrasts all."""
    if comparison.primary is None or not comparison.judged:
        return None
    if comparison.only is None:
        how = (
            "The mark is the difference, the line its 95 % interval, the thick part its 90 % interval; the shaded strip"
            " is the margin that was declared."
        )
        svg = contrast_figures.verdict_bars(comparison)
        return Panel(Markup(svg), "The differences against the margin", how, Table((), ())) if svg else None
    found = comparison.primary.between(comparison.only.pair)
    svg = contrast_figures.verdict_bar(found, comparison.only, comparison.margin)
    how = (
        "The dot is the difference, the line its 95 % interval, the thick part its 90 % interval."
        if found and found.estimate.interval()
        else "The dot is the difference that was seen. Nothing says how far another seed would move it."
    )
    cell = tables.one_line(tables.interval_cell(found, comparison.primary.unit))
    return Panel(Markup(svg), f"The difference against the margin: {cell}", how, Table((), ())) if svg else None


def swatches(comparison: Comparison, place: str) -> list[Markup]:
    """How each contrast is drawn, to stand beside its name; `place` on the page, of which each has its own ids."""
    if not comparison.several:
        return []
    own = contrast_figures.styles(comparison.contrasts, comparison.arms)
    return [Markup(contrast_figures.swatch(each, f"{place}{number}")) for number, each in enumerate(own)]


def accuracy(comparison: Comparison) -> Panel | None:
    svg = contrast_figures.accuracy(comparison)
    if svg is None:
        return None
    how = (
        "Each open mark is one seed, the upright stroke the mean of the seeds, the line its 95 % interval over seeds"
        " and questions; the dotted stroke is the policy before training."
    )
    if comparison.judged:
        difference = "each difference" if comparison.several else "the difference"
        how += (
            f" On the right, {difference} with its 95 % (thin) and 90 % (thick) interval: to claim a winner the thin"
            " line must not touch zero, to claim equivalence the thick one must lie inside the shaded margin."
        )
    return Panel(Markup(svg), "Final accuracy by seed", how, tables.per_seed(comparison))


def curve_sections(comparison: Comparison) -> list[CurveSection]:
    """The training reward, then accuracy on every task; a quantity that no run recorded has no panels."""
    how = "Thin lines are single seeds, the bold line is their mean where all of them have values ({smoothing})."
    sections = [_curve_section(comparison, "reward", "Training reward", comparison.reward, "reward/mean", how)]
    for number, (task, found) in enumerate(comparison.accuracy.items(), start=1):
        if found:
            note = how + " It starts at the base policy; marks on the bold line are evaluations."
            name = f"Accuracy during training, {task}"
            metric = f"eval/{task}/accuracy"
            sections.append(_curve_section(comparison, f"curve-{number}", name, found, metric, note))
    return sections


def _curve_section(
    comparison: Comparison, id_: str, title: str, found: Mapping[str, Curves], metric: str, how: str
) -> CurveSection:
    """metric: "reward/mean", or the accuracy on a task."""
    share = metric != "reward/mean"
    label = "Accuracy" if share else "Mean reward"
    panels = []
    for axis, one in found.items():
        bands = comparison.findings.bands.get(metric, {}).get(axis, {})
        # A task's name may hold anything, so a digest stands in for it: ids differ between all figures.
        prefix = "f" + hashlib.sha256(f"{id_} {axis}".encode()).hexdigest()[:8]
        panels.append(
            Panel(
                Markup(figures.curves(one, bands, comparison.arms, label, share=share, prefix=prefix)),
                f"{label} against {AXES[axis][0].lower()}",
                how.format(smoothing=one.smoothing) + _about_bands(one, bands, share=share),
                tables.curve_data(one, bands, comparison.arms, share=share),
                axis,
            )
        )
    currency = str(comparison.bench["budget"].get("currency"))
    return CurveSection(id_, title, tuple(panels), currency if currency in found else next(iter(found), ""))


def _about_bands(found: Curves, bands: Mapping[str, Band], *, share: bool) -> str:
    if not bands:
        return " One seed gives no interval." if found.means else " No run finished, so there is no mean."
    return (
        f" The shaded band is the 95 % interval of the mean over seeds{' and questions' if share else ''}, at each"
        " place by itself; one that meets the edge goes on beyond it."
    )


def memory(comparison: Comparison) -> Panel | None:
    svg = cost_figures.memory(comparison.memory, comparison.arms)
    how = (
        "The most memory each phase held in any step of any seed, as the system or the GPU’s allocator saw it; on a CPU"
        " the interpreter and the libraries are in it. The longest bar decides whether a run fits."
    )
    data = tables.memory_peaks(comparison.memory, comparison.arms)
    return Panel(Markup(svg), "Peak memory by phase", how, data) if svg else None


def memory_parts(comparison: Comparison) -> Panel | None:
    svg = cost_figures.memory_parts(comparison.memory_parts, comparison.arms)
    how = (
        "The tensors of one step that was run ahead to be tracked, each counted from its making to its end, when the"
        " phase held most. Red and orange is what only the critic needs: its weights, its gradients, its optimizer."
    )
    data = tables.memory_parts(comparison.memory_parts, comparison.arms)
    return Panel(Markup(svg), "Memory by component", how, data) if svg else None


def phases(comparison: Comparison) -> Panel | None:
    svg = cost_figures.phase_time(comparison.phases, comparison.arms)
    how = (
        "One bar per arm, from left to right the phases of a step: the median over a run’s steps without the first,"
        " averaged over seeds. Red and orange is what only the critic needs."
    )
    return Panel(Markup(svg), "Time per step by phase", how, tables.phases(comparison)) if svg else None


def stability(comparison: Comparison) -> Panel | None:
    svg = figures.stability(comparison.stability, comparison.arms)
    smoothing = next((one.smoothing for one in comparison.stability.values()), "")
    how = (
        f"Every seed thin and as it was recorded, the mean of the seeds bold ({smoothing})."
        " Look for curves that run away, and for arms that differ."
    )
    data = tables.stability_data(comparison.stability, comparison.arms)
    return Panel(Markup(svg), "Signs of instability against steps", how, data) if svg else None


def never_finite(comparison: Comparison) -> list[str]:
    """What runs recorded without a single finite number, which no curve can show."""
    names = ("reward/mean", *figures.STABILITY)
    shown = {*comparison.stability, *(["reward/mean"] if comparison.reward else [])}
    recorded = {name for run in comparison.runs for name in names if name in run.history}
    return [name for name in names if name in recorded - shown]


def headline_ratios(comparison: Comparison) -> list[tuple[str, str]]:
    """(what of the first arm, how many times the second arm's) for the two costs that the question is about.

    Several contrasts have them in their table.
    """
    if not comparison.only or not comparison.judged:
        return []
    first, second = tables.arm_names(comparison.only.pair)
    found = []
    for name, what in ((STEP_TIME, "time per step"), (MEMORY, "peak memory")):
        metric = comparison.metric(name)
        ratio = tables.ratio_cell(metric, comparison.only) if metric else text.NONE
        if ratio != text.NONE:
            found.append((f"{first}’s {what}", f"{ratio} {second}’s"))
    return found
