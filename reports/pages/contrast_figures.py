"""What the arms reached after training and the differences between them, as figures: every seed, every interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import seaborn as sns
from matplotlib.lines import Line2D

from reports import text
from reports.compare.accuracy import ACCURACY
from reports.compare.comparison import Comparison, Difference, Metric
from reports.compare.contrasts import Contrast
from reports.pages.figures import signed
from reports.pages.svg import INK, MARKERS, MUTED, RULE, WIDTH, Style, legend_above, style
from reports.pages.svg import figure as new_figure
from reports.stats.estimates import EQUIVALENCE_LEVEL, Estimate

# Space between two tasks, in rows.
APART = 1.8
PLAIN = Style(INK, "-", MARKERS[0], "")
"""How the difference of the only contrast is drawn."""


def styles(contrasts: Sequence[Contrast], arms: Sequence[str]) -> list[Style]:
    """Of each contrast the style of the arm that sets it apart from the others; where none does, one by its place."""
    if len(contrasts) == 1:
        return [PLAIN]
    for side in (1, 0):
        distinct = [contrast.pair[side] for contrast in contrasts]
        if len(set(distinct)) == len(contrasts):
            return [style(list(arms).index(arm)) for arm in distinct]
    return [style(index) for index in range(len(contrasts))]


def swatch(own: Style, name: str) -> str:
    """A short line with its mark, to stand beside a name."""
    with new_figure(name, 0.46, 0.17, layout=None) as (figure, done):
        place: dict[str, Any] = {"color": own.color, "transform": figure.transFigure}
        figure.add_artist(Line2D([0.04, 0.96], [0.5, 0.5], ls=own.dash, lw=2, **place))
        figure.add_artist(Line2D([0.5], [0.5], ls="", marker=own.marker, ms=7, **place))
        return done()


def verdict_bar(difference: Difference | None, contrast: Contrast, margin: float | None) -> str | None:
    """The difference with its 95 % (thin) and 90 % (thick) interval against zero and the margin."""
    if difference is None or difference.estimate.mean is None:
        return None
    with new_figure("verdict", 5.4, 1.2) as (figure, done):
        ax = figure.subplots()
        wide = difference.estimate.interval()
        _difference_mark(ax, 0, difference.estimate, PLAIN, 7)
        reach = max(abs(v) for v in (difference.estimate.mean, margin or 0, *(wide or ()))) * 115 or 1
        _margin(ax, margin)
        ax.set(xlim=(-reach, reach), ylim=(-1, 1), yticks=[])
        ax.xaxis.set_major_formatter(signed)
        a, b = (text.arm_name(arm) for arm in contrast.pair)
        ax.set_xlabel(f"{contrast.title}, percentage points")
        ax.text(0.01, 1.04, f"← {b} better", transform=ax.transAxes, fontsize=9, ha="left", va="bottom")
        ax.text(0.985, 1.04, f"{a} better →", transform=ax.transAxes, fontsize=9, ha="right", va="bottom")
        if margin:
            note = f"shaded: ±{text.points(margin, signed=False)}"
            ax.text(0.5, 1.04, note, transform=ax.transAxes, fontsize=9, ha="center", va="bottom")
        sns.despine(ax=ax, left=True)
        return done()


def verdict_bars(comparison: Comparison) -> str | None:
    """The same for several contrasts, one below the other; one that is not judged keeps its row."""
    primary, contrasts = comparison.primary, comparison.contrasts
    found = {c.pair: d for c in contrasts if primary and (d := primary.between(c.pair)) and d.estimate.mean is not None}
    if not found:
        return None
    with new_figure("verdict", 5.8, 0.75 + 0.34 * len(contrasts)) as (figure, done):
        ax = figure.subplots()
        _margin(ax, comparison.margin)
        beside: dict[str, Any] = {"xytext": (6, 0), "textcoords": "offset points", "va": "center", "fontsize": 9}
        for row, (contrast, own) in enumerate(zip(contrasts, styles(contrasts, comparison.arms), strict=True)):
            if contrast.pair in found:
                _difference_mark(ax, row, found[contrast.pair].estimate, own, 8)
            else:
                ax.annotate(contrast.words, (0, row), **beside)
        titles = [contrast.title for contrast in contrasts]
        ax.set(yticks=range(len(titles)), yticklabels=titles, ylim=(len(titles) - 0.4, -0.6))
        ax.xaxis.set_major_formatter(signed)
        ax.set_xlabel("← second better · percentage points · first better →")
        ax.grid(axis="y", visible=False)
        sns.despine(ax=ax, left=True)
        return done()


def accuracy(comparison: Comparison) -> str | None:
    """Final accuracy of every seed with each arm's mean and interval, and the differences beside them."""
    metrics = [metric for metric in comparison.metrics if metric.task and metric.quantity == ACCURACY]
    if not metrics:
        return None
    arms, rows = comparison.arms, len(metrics)
    block = max(len(arms), len(comparison.contrasts)) + APART
    with new_figure("accuracy", WIDTH, 0.9 + 0.30 * block * rows) as (figure, done):
        left, right = figure.subplots(1, 2, gridspec_kw={"width_ratios": [3, 2]})
        for row, metric in enumerate(metrics):
            _task(left, comparison, metric, row * block)
            _differences(right, comparison, metric, row * block)
        ticks = [row * block + 1 + index for row in range(rows) for index in range(len(arms))]
        labels = [text.arm_name(arm) for arm in arms] * rows
        bottom = rows * block - 0.8
        left.set(ylim=(bottom + 0.2, -0.7), yticks=ticks, yticklabels=labels, xlabel="Accuracy after training, %")
        left.grid(axis="y", visible=False)
        if any(result.base for result in comparison.tasks):
            legend_above(left, [Line2D([], [], color=INK, ls=(0, (2, 2)), lw=1.2, label="base policy")])
        _margin(right, comparison.margin)
        _difference_axis(right, comparison, block, rows)
        right.set(ylim=left.get_ylim())
        right.xaxis.set_major_formatter(signed)
        right.grid(axis="y", visible=False)
        differences = [one for metric in metrics for one in metric.differences.values()]
        if not any(one and one.estimate.mean is not None for one in differences):
            right.set_visible(False)
        sns.despine(figure)
        return done()


def _task(ax: Any, comparison: Comparison, metric: Metric, top: float) -> None:
    """Seeds, means and intervals of every arm on one task, below its name."""
    arms = comparison.arms
    place = {"transform": ax.get_yaxis_transform(), "va": "center"}
    ax.text(0.01, top, text.visible(str(metric.task)), fontsize=10, fontweight="bold", **place)
    result = next((result for result in comparison.tasks if result.task == metric.task), None)
    start = result.base.metrics.get("accuracy") if result and result.base else None
    if start is not None:
        ax.plot([100 * start] * 2, [top + 0.5, top + len(arms) + 0.5], color=INK, ls=(0, (2, 2)), lw=1.2)
    for index, arm in enumerate(arms):
        y, value, own = top + 1 + index, metric.arms[arm], style(index)
        seeds = [100 * v for v in value.per_seed.values() if v is not None and math.isfinite(v)]
        ax.plot(seeds, [y] * len(seeds), ls="", marker=own.marker, ms=6, mfc="none", mec=own.color)
        if value.mean is not None:
            ax.plot([100 * value.mean] * 2, [y - 0.3, y + 0.3], color=own.color, lw=2.6)
        if value.low is not None and value.high is not None:
            ax.plot([100 * value.low, 100 * value.high], [y, y], color=own.color, lw=1.4)


def _differences(ax: Any, comparison: Comparison, metric: Metric, top: float) -> None:
    """The difference of every contrast, evenly over the height of the arms."""
    contrasts = comparison.contrasts
    for place, (contrast, own) in enumerate(zip(contrasts, styles(contrasts, comparison.arms), strict=True)):
        difference = metric.between(contrast.pair)
        if difference and difference.estimate.mean is not None:
            _difference_mark(ax, _row_of(comparison, place, top), difference.estimate, own, 6)


def _row_of(comparison: Comparison, place: int, top: float) -> float:
    """The row of a contrast: centred, as far apart as the arms."""
    rows = max(len(comparison.arms), len(comparison.contrasts))
    return top + 1 + (rows - 1) / 2 + place - (len(comparison.contrasts) - 1) / 2


def _difference_axis(ax: Any, comparison: Comparison, block: float, rows: int) -> None:
    """One contrast names the axis; several name their rows, on the right edge."""
    if comparison.several:
        contrasts = comparison.contrasts
        ticks = [_row_of(comparison, place, row * block) for row in range(rows) for place in range(len(contrasts))]
        ax.set(yticks=ticks, yticklabels=[c.title for c in contrasts] * rows, xlabel="Difference, percentage points")
        ax.yaxis.tick_right()
        ax.tick_params(axis="y", length=0)
    else:
        ax.set(yticks=[], xlabel=f"{comparison.only.title if comparison.only else ''}, percentage points")


def _margin(ax: Any, margin: float | None) -> None:
    if margin:
        ax.axvspan(-100 * margin, 100 * margin, color=RULE, alpha=0.55, lw=0)
    ax.axvline(0, color=MUTED, lw=1)


def _difference_mark(ax: Any, y: float, estimate: Estimate, own: Style, size: float) -> None:
    assert estimate.mean is not None
    for interval, width in ((estimate.interval(), 1.6), (estimate.interval(EQUIVALENCE_LEVEL), 4)):
        if interval:
            ax.plot([100 * v for v in interval], [y, y], color=own.color, lw=width, solid_capstyle="butt")
    ax.plot([100 * estimate.mean], [y], color=own.color, marker=own.marker, ms=size)
