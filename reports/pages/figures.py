"""The arms' curves, as figures: data in, inline SVG out, readable on light and dark, in print and in grey."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from typing import Any

import seaborn as sns
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from reports import text
from reports.compare.curves import STABILITY, Curves
from reports.pages.svg import LEGEND_COLUMNS, MUTED, WIDTH, legend_above, legend_room, style
from reports.pages.svg import figure as new_figure
from reports.record.names import AXES
from reports.stats.bands import Band

BAND = 0.16


def curves(
    found: Curves, bands: Mapping[str, Band], arms: Sequence[str], label: str, *, share: bool, prefix: str
) -> str:
    """One quantity on one axis: every seed thin, means bold with their intervals, runs that did not finish dotted.

    share: values from 0 to 1, few enough to mark each.
    """
    with new_figure(prefix, WIDTH, 3.6, layout=None) as (figure, done):
        handles: list[Any] = [*_arm_handles(arms, {line.arm for line in found.lines}, found.means)]
        handles.append(Line2D([], [], color=MUTED, lw=0.9, alpha=0.8, label="one seed"))
        if bands:
            handles.append(Patch(facecolor=MUTED, alpha=BAND, lw=0, label="95 % interval of the mean"))
        if not all(line.counted for line in found.lines):
            handles.append(Line2D([], [], color=MUTED, lw=1.1, ls=(0, (1, 2)), label="did not finish"))
        height = 3.6 + legend_room(handles)
        figure.set_figheight(height)
        # There are many of these, of one shape: fixed margins take half the time of a layout solved for each.
        shrunk = 3.6 / height
        ax = figure.add_axes((0.075, 0.15 * shrunk, 0.91, 0.74 * shrunk))
        _draw_curves(ax, found, arms, 100 if share else 1, dots=share)
        _draw_bands(ax, bands, arms, 100 if share else 1)
        name, unit = AXES[found.axis]
        ax.set(xlabel=_with_unit(name, unit), ylabel=f"{label}, %" if share else label)
        ax.xaxis.set_major_formatter(_large_numbers(found))
        ax.margins(x=0.02)
        legend_above(ax, handles)
        sns.despine(ax=ax)
        return done()


def stability(found: Mapping[str, Curves], arms: Sequence[str]) -> str | None:
    """Small multiples of what shows a run going wrong, against steps."""
    if not found:
        return None
    columns, rows = 3, math.ceil(len(found) / 3)
    with new_figure("stability", WIDTH, 2.0 * rows + 0.45, layout=None) as (figure, done):
        shown = {line.arm for one in found.values() for line in one.lines}
        averaged = {arm for one in found.values() for arm in one.means}
        handles = _arm_handles(arms, shown, averaged)
        legend = legend_room(handles)
        height = 2.0 * rows + 0.45 + legend
        figure.set_figheight(height)
        grid = figure.subplots(rows, columns, squeeze=False)
        # In inches: 1.15 for every panel, 0.85 between two rows for a title and an axis.
        top = 1 - (0.65 + legend) / height
        figure.subplots_adjust(0.075, 0.5 / height, 0.985, top, wspace=0.44, hspace=0.85 / 1.15)
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
        columns = min(len(arms), LEGEND_COLUMNS)
        figure.legend(handles=handles, loc="upper left", ncols=columns, fontsize=9.5)
        sns.despine(figure)
        return done()


def _draw_curves(
    ax: Any, found: Curves, arms: Sequence[str], scale: float, *, dots: bool = False, faint: float = 0.45
) -> None:
    for line in found.lines:
        own = style(list(arms).index(line.arm))
        kind = {"ls": own.dash, "alpha": faint} if line.counted else {"ls": (0, (1, 2)), "alpha": 0.9}
        ax.plot(line.x, [scale * y for y in line.y], color=own.color, lw=2 * faint, **kind)
    for arm, mean in found.means.items():
        own = style(list(arms).index(arm))
        marker = {"marker": own.marker, "ms": 5} if dots else {}
        ax.plot(mean.x, [scale * v for v in mean.y], color=own.color, ls=own.dash, lw=2.4, **marker)


def _draw_bands(ax: Any, bands: Mapping[str, Band], arms: Sequence[str], scale: float) -> None:
    """The intervals, behind the lines. With two or three seeds they are wide: what was seen decides the view."""
    ax.autoscale_view()
    low, high = ax.get_ylim()
    for arm, band in bands.items():
        edges = ([scale * edge for edge in side] for side in (band.low, band.high))
        ax.fill_between(band.x, *edges, color=style(list(arms).index(arm)).color, alpha=BAND, lw=0, zorder=1)
    room = 0.25 * (high - low)
    ax.set_ylim(low - room, high + room)


def _readable(found: Curves, unit: str) -> tuple[float, str]:
    """What to multiply the values with, and the unit that makes: tick labels stay short."""
    if unit == "%":
        return 100, unit
    largest = max((abs(y) for line in found.lines for y in line.y), default=0)
    return (1e6, f"10⁻⁶ {unit.replace(' per ', '/')}") if 0 < largest < 1e-4 else (1, unit)


def _arm_handles(arms: Sequence[str], shown: Container[str], averaged: Container[str]) -> list[Line2D]:
    """The arms that are shown, each in the colour that its place among all of them gives it."""
    handles = []
    for i, arm in enumerate(arms):
        if arm in shown:
            name = text.arm_name(arm) + (", mean" if arm in averaged else "")
            handles.append(Line2D([], [], label=name, color=style(i).color, ls=style(i).dash, lw=2.4))
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
