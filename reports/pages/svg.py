"""How figures look, and how they become inline SVG: the same bytes for the same data, and ids that share a page.

Arms differ by colour (the Okabe–Ito palette, and four more that stay apart for the colour-blind), by line style and by
marker: eight of each; for more arms the colours come again with other styles. Ink, rules and arm colours are written as
CSS variables with a fallback, so that the page decides what they look like. Text stays text: it is small, can be
searched and is drawn in the reader's own sans-serif; the layout is measured in DejaVu Sans, which is wider than most.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import matplotlib as mpl
import seaborn as sns
from matplotlib.figure import Figure

# Placeholders that no palette uses; they become CSS variables in the SVG.
INK, RULE, MUTED = "#010203", "#020304", "#030405"
PAPER = "#08090a"
ARMS = ("#040506", "#050607", "#060708", "#070809", "#0a0b0c", "#0b0c0d", "#0c0d0e", "#0d0e0f")
_VARIABLES = {
    INK: "var(--ink,#222)",
    RULE: "var(--rule,#ccc)",
    MUTED: "var(--muted,#777)",
    PAPER: "var(--card,#fff)",
    ARMS[0]: "var(--arm0,#0072b2)",
    ARMS[1]: "var(--arm1,#d55e00)",
    ARMS[2]: "var(--arm2,#009e73)",
    ARMS[3]: "var(--arm3,#cc79a7)",
    ARMS[4]: "var(--arm4,#4b2fd0)",
    ARMS[5]: "var(--arm5,#8a962b)",
    ARMS[6]: "var(--arm6,#5c0f1f)",
    ARMS[7]: "var(--arm7,#30353c)",
}
DASHES: tuple[Any, ...] = (
    "-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)), (0, (9, 2)), (0, (2.5, 1.2)), (0, (6, 2, 1, 2, 1, 2)),
    (0, (9, 2, 3, 2)),
)  # fmt: skip
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
HATCHES = ("", "///", "xx", "--", "\\\\\\", "..", "oo", "++")
WIDTH = 10.2
Layout = Literal["constrained"] | None
_RC = {
    "svg.fonttype": "none",
    "svg.hashsalt": "paribus",
    # A dollar sign in a name is a dollar sign.
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
    "axes.labelsize": 10,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "hatch.linewidth": 0.7,
    "legend.frameon": False,
}


class Style(NamedTuple):
    """How an arm is drawn."""

    color: str
    dash: Any
    marker: str
    hatch: str


def style(index: int) -> Style:
    """Of the arm at this place among all, or of anything else that is told apart like arms."""
    again, place = divmod(index, len(ARMS))
    other = (place + 3 * again) % len(ARMS)
    return Style(ARMS[place], DASHES[other], MARKERS[other], HATCHES[other])


@contextmanager
def figure(
    name: str, width: float, height: float, layout: Layout = "constrained"
) -> Iterator[tuple[Figure, Callable[[], str]]]:
    """A figure with the house style, and the function that turns it into SVG whose ids start with `name`."""
    with mpl.rc_context({**sns.axes_style("ticks"), **_RC}):
        drawn = Figure(figsize=(width, height), layout=layout)
        yield drawn, lambda: _svg(drawn, name)


def _svg(drawn: Figure, name: str) -> str:
    out = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with warnings.catch_warnings():
        # Letters that DejaVu Sans lacks are measured as boxes here and drawn by the reader's own font.
        warnings.filterwarnings("ignore", "Glyph .* missing")
        drawn.savefig(out, format="svg", transparent=True, metadata=nothing)
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :]
    # The page's width decides, up to the size the figure was drawn for.
    size = f'style="max-width:{drawn.get_figwidth() * 96:.0f}px"'
    svg = re.sub(r'\bwidth="[^"]*" height="[^"]*"', size, svg, count=1)
    # Inside HTML neither namespaces nor metadata are needed, and they hold the only outside addresses.
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    # Its style sheet would apply to the whole page; the page's own has the same rule for figures.
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.S)
    svg = svg.replace("xlink:href", "href")
    # Several figures share a page, so every id carries its figure's name.
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r"url\(#", f"url(#{name}-", svg)
    svg = re.sub(r'\bhref="#', f'href="#{name}-', svg)
    for placeholder, variable in _VARIABLES.items():
        svg = svg.replace(placeholder, variable)
    svg = svg.replace("'DejaVu Sans', sans-serif", "var(--sans,sans-serif)")
    # A hundredth of a point is finer than any screen.
    svg = re.sub(r'\b(?:d|x|y|transform)="[^"]*"', lambda found: re.sub(r"(\d\.\d\d)\d+", r"\1", found[0]), svg)
    return svg.replace("\n", " ")


LEGEND_COLUMNS, LEGEND_ROW = 5, 0.24
"""Entries beside each other, and the height of a row of them in inches."""


def legend_above(ax: Any, handles: Sequence[Any]) -> None:
    """The legend over the top edge, where no curve can run into it."""
    place = {"loc": "lower left", "bbox_to_anchor": (0, 1.0)}
    ax.legend(handles=handles, **place, ncols=LEGEND_COLUMNS, fontsize=9.5, borderaxespad=0.2)


def legend_room(handles: Sequence[Any]) -> float:
    """Inches that its rows take beyond the first."""
    return LEGEND_ROW * max(0, -(-len(handles) // LEGEND_COLUMNS) - 1)
