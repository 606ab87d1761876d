"""What the arms reached, as figures: data in, inline SVG out, readable on light and dark, in print and in grey."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from typing import Any

import seaborn as sns
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from reports import text
from reports.compare.comparison import Comparison, Metric
from reports.compare.curves import STABILITY, Curves
from reports.pages.svg import ARMS, DASHES, INK, MARKERS, MUTED, RULE, WIDTH, legend_above
from reports.pages.svg import figure as new_figure
from reports.record.names import AXES
from reports.stats.bands import Band
from reports.stats.estimates import EQUIVALENCE_LEVEL

BAND = 0.16


def verdict_bar(metric: Metric, arms: Sequence[str], margin: float | None) -> str | None:
    """The difference with its 95 % (thin) and 90 % (thick) interval against zero and the margin."""
    found = metric.difference
    if found is None or found.estimate.mean is None:
        return None
    with new_figure("verdict", 5.4, 1.2) as (figure, done):
        ax = figure.subplots()
        wide = found.estimate.interval()
        _difference_mark(ax, 0, found.estimate, MARKERS[0], 7)
        reach = max(abs(v) for v in (found.estimate.mean, margin or 0, *(wide or ()))) * 115 or 1
        if margin:
            ax.axvspan(-100 * margin, 100 * margin, color=RULE, alpha=0.55, lw=0)
        ax.axvline(0, color=MUTED, lw=1)
        ax.set(xlim=(-reach, reach), ylim=(-1, 1), yticks=[])
        ax.xaxis.set_major_formatter(signed)
        a, b = (text.arm_name(arm) for arm in arms[:2])
        ax.set_xlabel(f"{a} − {b}, percentage points")
        ax.text(0.01, 1.04, f"← {b} better", transform=ax.transAxes, fontsize=9, ha="left", va="bottom")
        ax.text(0.985, 1.04, f"{a} better →", transform=ax.transAxes, fontsize=9, ha="right", va="bottom")
        if margin:
            note = f"shaded: ±{text.points(margin, signed=False)}"
            ax.text(0.5, 1.04, note, transform=ax.transAxes, fontsize=9, ha="center", va="bottom")
        sns.despine(ax=ax, left=True)
        return done()


def accuracy(comparison: Comparison) -> str | None:
    """Final accuracy of every seed with each arm's mean and interval, and the differences beside them."""
    metrics = [m for m in comparison.metrics if m.name.startswith("eval/") and m.name.endswith("/accuracy")]
    if not metrics:
        return None
    arms, rows = comparison.arms, len(metrics)
    with new_figure("accuracy", WIDTH, 0.9 + 0.30 * (len(arms) + 1.8) * rows) as (figure, done):
        left, right = figure.subplots(1, 2, gridspec_kw={"width_ratios": [3, 2]})
        base = {result.task: result for result in comparison.tasks}
        ticks, labels = [], []
        for row, metric in enumerate(metrics):
            task = metric.name.split("/")[1]
            top = row * (len(arms) + 1.8)
            place = {"transform": left.get_yaxis_transform(), "va": "center"}
            left.text(0.01, top, text.visible(task), fontsize=10, fontweight="bold", **place)
            result = base.get(task)
            start = result.base.metrics.get("accuracy") if result and result.base else None
            if start is not None:
                left.plot([100 * start] * 2, [top + 0.5, top + len(arms) + 0.5], color=INK, ls=(0, (2, 2)), lw=1.2)
            for index, arm in enumerate(arms):
                y, value = top + 1 + index, metric.arms[arm]
                ticks.append(y)
                labels.append(text.arm_name(arm))
                seeds = [100 * v for v in value.per_seed.values() if v is not None and math.isfinite(v)]
                left.plot(
                    seeds, [y] * len(seeds), ls="", marker=MARKERS[index % 4], ms=6, mfc="none", mec=ARMS[index % 4]
                )
                if value.mean is not None:
                    left.plot([100 * value.mean] * 2, [y - 0.3, y + 0.3], color=ARMS[index % 4], lw=2.6)
                if value.low is not None and value.high is not None:
                    left.plot([100 * value.low, 100 * value.high], [y, y], color=ARMS[index % 4], lw=1.4)
            if metric.difference and metric.difference.estimate.mean is not None:
                _difference_mark(right, top + 1 + (len(arms) - 1) / 2, metric.difference.estimate, MARKERS[0], 6)
        bottom = rows * (len(arms) + 1.8) - 0.8
        left.set(ylim=(bottom + 0.2, -0.7), yticks=ticks, yticklabels=labels, xlabel="Accuracy after training, %")
        left.grid(axis="y", visible=False)
        if any(result.base for result in comparison.tasks):
            legend_above(left, [Line2D([], [], color=INK, ls=(0, (2, 2)), lw=1.2, label="base policy")])
        if comparison.margin:
            right.axvspan(-100 * comparison.margin, 100 * comparison.margin, color=RULE, alpha=0.55, lw=0)
        right.axvline(0, color=MUTED, lw=1)
        names = " − ".join(text.arm_name(arm) for arm in arms[:2])
        right.set(ylim=left.get_ylim(), yticks=[], xlabel=f"{names}, percentage points")
        right.xaxis.set_major_formatter(signed)
        right.grid(axis="y", visible=False)
        if not any(metric.difference and metric.difference.estimate.mean is not None for metric in metrics):
            right.set_visible(False)
        sns.despine(figure)
        return done()


def curves(
    found: Curves, bands: Mapping[str, Band], arms: Sequence[str], label: str, *, share: bool, prefix: str
) -> str:
    """One quantity on one axis: every seed thin, means bold with their intervals, runs that did not finish dotted.

    share: values from 0 to 1, few enough to mark each.
    """
    # There are many of these, of one shape: fixed margins take half the time of a layout solved for each.
    with new_figure(prefix, WIDTH, 3.6, layout=None) as (figure, done):
        ax = figure.add_axes((0.075, 0.15, 0.91, 0.74))
        _draw_curves(ax, found, arms, 100 if share else 1, dots=share)
        _draw_bands(ax, bands, arms, 100 if share else 1)
        name, unit = AXES[found.axis]
        ax.set(xlabel=_with_unit(name, unit), ylabel=f"{label}, %" if share else label)
        ax.xaxis.set_major_formatter(_large_numbers(found))
        ax.margins(x=0.02)
        handles: list[Any] = [*_arm_handles(arms, {line.arm for line in found.lines}, found.means)]
        handles.append(Line2D([], [], color=MUTED, lw=0.9, alpha=0.8, label="one seed"))
        if bands:
            handles.append(Patch(facecolor=MUTED, alpha=BAND, lw=0, label="95 % interval of the mean"))
        if not all(line.counted for line in found.lines):
            handles.append(Line2D([], [], color=MUTED, lw=1.1, ls=(0, (1, 2)), label="did not finish"))
        legend_above(ax, handles)
        sns.despine(ax=ax)
        return done()


def stability(found: Mapping[str, Curves], arms: Sequence[str]) -> str | None:
    """Small multiples of what shows a run going wrong, against steps."""
    if not found:
        return None
    columns, rows = 3, math.ceil(len(found) / 3)
    height = 2.0 * rows + 0.45
    with new_figure("stability", WIDTH, height, layout=None) as (figure, done):
        grid = figure.subplots(rows, columns, squeeze=False)
        # In inches: 1.15 for every panel, 0.85 between two rows for a title and an axis.
        figure.subplots_adjust(0.075, 0.5 / height, 0.985, 1 - 0.65 / height, wspace=0.44, hspace=0.85 / 1.15)
        for ax in grid.flat[len(found) :]:
            ax.set_visible(False)
        for ax, (name, one) in zip(grid.flat, found.items(), strict=False):
            sign = STABILITY[name]
            scale, unit = _readable(one, sign.unit)
            _draw_curves(ax, one, arms, scale, faint=0.3)
            ax.set(title=sign.title, ylabel=unit, xlabel="steps")
            ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
            ax.yaxis.set_major_locator(MaxNLocator(4))
            ax.yaxis.set_major_formatter(_plain_number)
        shown = {line.arm for one in found.values() for line in one.lines}
        averaged = {arm for one in found.values() for arm in one.means}
        figure.legend(handles=_arm_handles(arms, shown, averaged), loc="upper left", ncols=len(arms), fontsize=9.5)
        sns.despine(figure)
        return done()


def _draw_curves(
    ax: Any, found: Curves, arms: Sequence[str], scale: float, *, dots: bool = False, faint: float = 0.45
) -> None:
    for line in found.lines:
        index = list(arms).index(line.arm) % 4
        style = {"ls": DASHES[index], "alpha": faint} if line.counted else {"ls": (0, (1, 2)), "alpha": 0.9}
        ax.plot(line.x, [scale * y for y in line.y], color=ARMS[index], lw=2 * faint, **style)
    for arm, mean in found.means.items():
        index = list(arms).index(arm) % 4
        marker = {"marker": MARKERS[index], "ms": 5} if dots else {}
        ax.plot(mean.x, [scale * v for v in mean.y], color=ARMS[index], ls=DASHES[index], lw=2.4, **marker)


def _draw_bands(ax: Any, bands: Mapping[str, Band], arms: Sequence[str], scale: float) -> None:
    """The intervals, behind the lines. With two or three seeds they are wide: what was seen decides the view."""
    ax.autoscale_view()
    low, high = ax.get_ylim()
    for arm, band in bands.items():
        edges = ([scale * edge for edge in side] for side in (band.low, band.high))
        ax.fill_between(band.x, *edges, color=ARMS[list(arms).index(arm) % 4], alpha=BAND, lw=0, zorder=1)
    room = 0.25 * (high - low)
    ax.set_ylim(low - room, high + room)


def _readable(found: Curves, unit: str) -> tuple[float, str]:
    """What to multiply the values with, and the unit that makes: tick labels stay short."""
    if unit == "%":
        return 100, unit
    largest = max((abs(y) for line in found.lines for y in line.y), default=0)
    return (1e6, f"10⁻⁶ {unit.replace(' per ', '/')}") if 0 < largest < 1e-4 else (1, unit)


def _difference_mark(ax: Any, y: float, estimate: Any, marker: str, size: float) -> None:
    for interval, width in ((estimate.interval(), 1.6), (estimate.interval(EQUIVALENCE_LEVEL), 4)):
        if interval:
            ax.plot([100 * v for v in interval], [y, y], color=INK, lw=width, solid_capstyle="butt")
    ax.plot([100 * estimate.mean], [y], color=INK, marker=marker, ms=size)


def _arm_handles(arms: Sequence[str], shown: Container[str], averaged: Container[str]) -> list[Line2D]:
    """The arms that are shown, each in the colour that its place among all of them gives it."""
    handles = []
    for i, arm in enumerate(arms):
        if arm in shown:
            name = text.arm_name(arm) + (", mean" if arm in averaged else "")
            handles.append(Line2D([], [], label=name, color=ARMS[i % 4], ls=DASHES[i % 4], lw=2.4))
    return handles


def _large_numbers(found: Curves) -> FuncFormatter:
    """Tick labels of an axis that all have the same letter for thousands, millions, …"""
    largest = max((line.x[-1] for line in found.lines), default=0)
    power, letter = next(((p, s) for p, s in text.LARGE if largest >= 10 ** (p + 1)), (0, ""))
    return FuncFormatter(lambda value, _: f"{value / 10**power:,.4g} {letter if value else ''}".rstrip())


def _with_unit(name: str, unit: str) -> str:
    return name if unit in name.lower() else f"{name}, {unit}"


signed = FuncFormatter(lambda value, _: f"{value:+.3g}".replace("-", text.MINUS) if abs(value) > 1e-9 else "0")
_plain_number = FuncFormatter(lambda value, _: f"{value:.3g}".replace("-", text.MINUS))
