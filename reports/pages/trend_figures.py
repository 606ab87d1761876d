"""A suite's history as figures: one column per benchmark, the oldest on the left, and below them what changed when.

Columns are equally wide whatever the time between them. A line joins only benchmarks of one group; where the group
changes, an upright line stands between the columns. What is not counted keeps its column, with a cross at its foot.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby, pairwise
from typing import Any

import seaborn as sns
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter

from reports import text
from reports.pages.figures import signed
from reports.pages.svg import INK, MUTED, PAPER, RULE, WIDTH, legend_above, legend_room, style
from reports.pages.svg import figure as new_figure
from reports.stats import verdict
from reports.stats.verdict import VerdictKind
from reports.trend.history import KINDS, Entry, History
from reports.trend.read import Judged, Value

Of = Callable[[Entry, str], Value | None]
# Inches: room for labels around the panels, and between them.
LEFT, RIGHT, TOP, BOTTOM, GAP = 1.15, 0.25, 0.34, 0.62, 0.16
MOST_LABELS, MOST_CHARS = 12, 24
# An axis that must hold values further apart than this is logarithmic.
WIDE = 8.0
# What an axis shows at least, as a share of its largest value, or in percentage points: noise is not to look like more.
LEAST_SHARE, LEAST_POINTS = 0.4, 6.0
# What is not counted; an upright line where one group ends; the policy before training.
CROSS: dict[str, Any] = {"marker": "x", "color": MUTED, "ms": 6, "mew": 1.4}
EDGE: dict[str, Any] = {"color": MUTED, "lw": 0.9, "ls": (0, (4, 3))}
BASE: dict[str, Any] = {"color": INK, "lw": 1.2, "ls": (0, (2, 2))}


def accuracy(history: History) -> str | None:
    """The accuracy of every arm with its interval, and of the policy before training."""
    if not values_of(history, Entry.accuracy):
        return None
    with _columns("accuracy", history, [2.8]) as (axes, done):
        _arms(axes[0], history, Entry.accuracy, 100)
        handles = _arm_handles(history)
        for line in history.lines():
            known = [(entry.number, base) for entry in line if entry.found and (base := entry.found.base) is not None]
            if known:
                axes[0].plot([x for x, _ in known], [100 * y for _, y in known], marker="_", ms=6, **BASE)
                handles["base"] = Line2D([], [], label="before training", **BASE)
        axes[0].set_ylabel("Accuracy, %")
        _at_least(axes[0], LEAST_POINTS, (-3, 103))
        legend_above(axes[0], [*handles.values(), *_cross_handle(history)])
        return done()


def difference(history: History) -> str | None:
    """The difference of the two arms with its 95 % (thin) and 90 % (thick) interval, and what was said of it."""
    shown = {entry.number: judged for entry in history.counted if (judged := history.difference(entry))}
    if not shown or history.pair is None:
        return None
    a, b = (arm_label(arm) for arm in history.pair)
    with _columns("difference", history, [2.8]) as (axes, done):
        ax, margins = axes[0], []
        for margin, run in groupby(history.counted, lambda entry: entry.found.margin if entry.found else None):
            numbers = [entry.number for entry in run]
            if margin:
                edges = (numbers[0] - 0.5, numbers[-1] + 0.5)
                ax.fill_between(edges, -100 * margin, 100 * margin, color=RULE, alpha=0.55, lw=0)
                margins = [Patch(facecolor=RULE, alpha=0.55, lw=0, label="declared margin")]
        ax.axhline(0, color=MUTED, lw=1)
        for line in history.lines():
            own = [entry.number for entry in line if entry.number in shown]
            ax.plot(own, [100 * (shown[x].mean or 0) for x in own], color=MUTED, lw=0.9)
        for x, judged in shown.items():
            _judged(ax, x, judged, history)
        ax.set_ylabel(f"{a} − {b}, points")
        ax.yaxis.set_major_formatter(signed)
        _at_least(ax, LEAST_POINTS, (-103, 103))
        winners = [verdict.leads(arm) for arm in history.pair]
        labels = sorted({judged.verdict for judged in shown.values()}, key=lambda each: (each not in winners, each))
        handles = [
            Line2D([], [], ls="", label=verdict_label(each, history.pair), **_mark(each, history)) for each in labels
        ]
        legend_above(ax, [*handles, *margins, *_cross_handle(history)])
        return done()


def cost(history: History) -> str | None:
    """Time per step and peak memory of every arm, and the machine's own speed."""
    parts: list[tuple[str, Of, float]] = []
    of: Of
    for name, of, units in (
        ("Time per step", Entry.step_time, (("s", 1.0), ("ms", 1e3))),
        ("Peak memory", Entry.memory, (("GiB", 2.0**-30), ("MiB", 2.0**-20))),
    ):
        values = values_of(history, of)
        if values:
            unit, scale = next((each for each in units if max(values) * each[1] >= 1), units[-1])
            parts.append((f"{name}, {unit}", of, scale))
    if not parts:
        return None
    timed = any(entry.ran and entry.ran.gemm for entry in history.counted)
    with _columns("cost", history, [2.0] * len(parts) + [1.1] * timed) as (axes, done):
        for ax, (label, of, scale) in zip(axes, parts, strict=False):
            _arms(ax, history, of, scale, on_one_device=True)
            ax.set_ylabel(label)
            _readable(ax, values_of(history, of))
        if timed:
            _machine(axes[-1], history)
        legend_above(axes[0], [*_arm_handles(history).values(), *_cross_handle(history)])
        return done()


def values_of(history: History, of: Of) -> list[float]:
    """Every mean that is drawn."""
    found = (of(entry, arm) for entry in history.counted for arm in history.arms)
    return [value.mean for value in found if value and value.mean is not None]


def is_wide(values: Sequence[float]) -> bool:
    """Whether the values are so far apart that their axis is logarithmic."""
    return bool(values) and max(values) > WIDE * min(values)


def arm_label(arm: str) -> str:
    """Short enough for a legend."""
    name = text.visible(text.arm_name(arm))
    return name if len(name) <= MOST_CHARS else f"{name[: MOST_CHARS - 1]}…"


def verdict_label(label: str, arms: Sequence[str]) -> str:
    """As people read it; what is no verdict on these arms is shown as it came."""
    said = verdict.read(label, arms)
    return text.visible(said.words(text.arm_name) if said else label)


@contextmanager
def _columns(name: str, history: History, heights: Sequence[float]) -> Iterator[tuple[list[Any], Callable[[], str]]]:
    """Panels of these heights, in inches, over a strip of what changed; all with one column per benchmark."""
    kinds = [kind for kind in KINDS if any(kind in entry.changes for entry in history.entries)]
    heights = [*heights, 0.2 * (1 + len(kinds)) + 0.05]
    # The arms, and at most two more: the base policy, and what is not counted.
    top = TOP + legend_room([*history.arms, "base", "cross"])
    whole = top + sum(heights) + GAP * (len(heights) - 1) + BOTTOM
    with new_figure(name, WIDTH, whole, layout=None) as (figure, done):
        axes: list[Any] = []
        edge = whole - top
        for height in heights:
            edge -= height
            place = (LEFT / WIDTH, edge / whole, 1 - (LEFT + RIGHT) / WIDTH, height / whole)
            axes.append(figure.add_axes(place, sharex=axes[0] if axes else None))
            edge -= GAP
        *panels, strip = axes
        for ax in panels:
            _mark_columns(ax, history)
        _strip(strip, history, kinds)
        yield panels, done


def _mark_columns(ax: Any, history: History) -> None:
    """Where groups end, and the columns of what is not counted."""
    for one, other in pairwise(history.counted):
        if one.group != other.group:
            ax.axvline((one.number + other.number) / 2, **EDGE)
    lost = [entry.number for entry in history.entries if not entry.group]
    ax.plot(lost, [0.04] * len(lost), transform=ax.get_xaxis_transform(), ls="", **CROSS)
    ax.grid(axis="x", visible=False)
    ax.tick_params(axis="x", length=0, labelbottom=False)
    sns.despine(ax=ax, bottom=True)


def _strip(ax: Any, history: History, kinds: Sequence[str]) -> None:
    """Which group a column is of, and a mark wherever something changed since the benchmark before."""
    count = len(history.entries)
    shown = None
    for entry in history.counted:
        if entry.group != shown:
            ax.text(entry.number, 0, entry.group, ha="center", va="center", fontsize=9, fontweight="bold")
            shown = entry.group
    for row, kind in enumerate(kinds, start=1):
        numbers = [entry.number for entry in history.entries if kind in entry.changes]
        ax.plot(numbers, [row] * len(numbers), ls="", marker="|", ms=8, mew=1.6, color=INK)
    every = max(1, -(-count // MOST_LABELS))
    ticks = list(range(count, 0, -every))[::-1]
    ax.set(xlim=(0.4, count + 0.6), ylim=(len(kinds) + 0.6, -0.6), yticks=range(1 + len(kinds)))
    ax.set_yticklabels(["group", *(f"other {kind}" for kind in kinds)], fontsize=9)
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    ax.set_xticklabels([f"{number}\n{history.entries[number - 1].began[5:10]}" for number in ticks], fontsize=9)
    ax.set_xlabel("Benchmark, and the month and day on which it was begun")
    ax.tick_params(axis="y", length=0)
    sns.despine(ax=ax, left=True)


def _arms(ax: Any, history: History, of: Of, scale: float, *, on_one_device: bool = False) -> None:
    """Every arm's means with their intervals, a little beside each other, joined where they may be."""
    for index, arm in enumerate(history.arms):
        shift, color = 0.16 * (index - (len(history.arms) - 1) / 2), style(index).color
        for line in history.lines(on_one_device=on_one_device):
            found = [(entry.number + shift, value) for entry in line if (value := of(entry, arm))]
            size = {"ms": _fitting(history, 4.5), "lw": _fitting(history, 1.3, 0.4)}
            own = {"ls": style(index).dash, "marker": style(index).marker, "color": color, **size}
            ax.plot([x for x, _ in found], [scale * (value.mean or 0) for _, value in found], **own)
            for x, value in found:
                if value.low is not None and value.high is not None:
                    ax.plot([x, x], [scale * value.low, scale * value.high], lw=size["lw"], alpha=0.7, color=color)


def _judged(ax: Any, x: int, judged: Judged, history: History) -> None:
    for low, high, width, share in ((judged.low, judged.high, 1.4, 0.25), (judged.low90, judged.high90, 3.6, 0.5)):
        if low is not None and high is not None:
            fitting = _fitting(history, width, share)
            ax.plot([x, x], [100 * low, 100 * high], color=INK, lw=fitting, solid_capstyle="butt")
    ax.plot([x], [100 * (judged.mean or 0)], **{**_mark(judged.verdict, history), "ms": _fitting(history, 6.5)})


def _fitting(history: History, size: float, share: float = 1.2) -> float:
    """A size in points, made smaller where columns are narrow: at most this share of one."""
    return min(size, share * 72 * (WIDTH - LEFT - RIGHT) / len(history.entries))


def _machine(ax: Any, history: History) -> None:
    """How long a fixed piece of work took around the runs: median, and from the quickest to the slowest."""
    for line in history.lines(on_one_device=True):
        known = [(entry.number, entry.ran.gemm) for entry in line if entry.ran and entry.ran.gemm]
        ax.plot([x for x, _ in known], [1e3 * median for _, (_, median, _) in known], color=INK, lw=1, marker=".")
        for x, (low, _, high) in known:
            ax.plot([x, x], [1e3 * low, 1e3 * high], color=INK, lw=1, alpha=0.6)
    ax.set_ylabel("Fixed work, ms")
    _readable(ax, [time for entry in history.counted if entry.ran for time in entry.ran.gemm or ()])


def _readable(ax: Any, values: Sequence[float]) -> None:
    if is_wide(values):
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.4g}"))
    else:
        _at_least(ax, LEAST_SHARE * max(abs(edge) for edge in ax.get_ylim()))


def _at_least(ax: Any, span: float, within: tuple[float, float] = (-math.inf, math.inf)) -> None:
    """Widen the view to `span` where it shows less, around its middle, and keep it where values can be."""
    low, high = ax.get_ylim()
    room = max(0.0, span - (high - low)) / 2
    ax.set_ylim(max(within[0], low - room), min(within[1], high + room))


def _mark(label: str, history: History) -> dict[str, Any]:
    """Arrowheads for the two winners, filled shapes for what is known, hollow ones for what is not."""
    pair = history.pair or ()
    said = verdict.read(label, pair)
    kind = said.kind if said else None
    shape, color, known = "D", INK, kind in (VerdictKind.BETTER, VerdictKind.EQUIVALENT)
    if said and said.winner:
        shape = "^" if said.winner == next(iter(pair), None) else "v"
        color = style(history.arms.index(said.winner)).color
    elif kind is VerdictKind.EQUIVALENT:
        shape = "s"
    elif kind is VerdictKind.INCONCLUSIVE:
        shape = "o"
    return {"marker": shape, "ms": 6.5, "mew": 1.4, "color": color, "mfc": color if known else PAPER}


def _arm_handles(history: History) -> dict[str, Line2D]:
    return {
        f"arm {index}": Line2D([], [], label=arm_label(arm), color=own.color, ls=own.dash, marker=own.marker, ms=5)
        for index, arm in enumerate(history.arms)
        for own in [style(index)]
    }


def _cross_handle(history: History) -> list[Line2D]:
    lost = any(not entry.group for entry in history.entries)
    return [Line2D([], [], ls="", label="not counted", **CROSS)] if lost else []
