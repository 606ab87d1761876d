"""A suite's history as one HTML file, by the rules of the report: no address outside it, no script needed."""

from __future__ import annotations

from pathlib import Path

from markupsafe import Markup

from reports import text
from reports.pages import html
from reports.pages import trend_figures as figures
from reports.pages import trend_tables as tables
from reports.pages.panels import Panel
from reports.record.journal import replace_file
from reports.stats import verdict
from reports.trend.history import Entry, History

MOST_CHARS = 1000


def write(path: Path, history: History) -> None:
    """Whole or not at all. InfrastructureError where it cannot be written."""
    replace_file(path, render(history).encode("utf-8"))


def render(history: History) -> str:
    """The whole page. The same history gives the same bytes."""
    newest = history.entries[-1]
    kind = _kind(newest)
    return (
        html.environment()
        .get_template("trend.html.j2")
        .render(
            h=history,
            newest=newest,
            kind=kind,
            symbol=html.SYMBOLS[kind],
            label=_label(newest),
            sentence=_sentence(newest),
            when=text.moment,
            panels=_panels(history),
            groups=tables.groups(history),
            changes=tables.changes(history),
            code_changes=tables.code_changes(history),
            benchmarks=tables.benchmarks(history),
            unmarked=sum(history.difference(entry) is None for entry in history.counted),
            **html.assets(several=len(history.arms) > html.ORDINARY),
        )
    )


def _kind(entry: Entry) -> str:
    if not entry.group or entry.found is None:
        return "bad"
    said = verdict.read(entry.found.verdict, entry.found.difference_of)
    return html.KINDS[said.kind] if said else "open"


def _label(entry: Entry) -> str:
    if not entry.group or entry.found is None:
        return "the newest benchmark is not counted"
    return f"newest: {figures.verdict_label(entry.found.verdict, entry.found.difference_of)}"


def _sentence(entry: Entry) -> str:
    said = entry.found.sentence if entry.group and entry.found else f"{entry.status}: {entry.why}"
    return said if len(said) <= MOST_CHARS else f"{said[:MOST_CHARS]}…"


def _panels(history: History) -> list[tuple[str, str, Panel]]:
    """(id, title, figure): the difference first, because it is the question."""
    found = []
    for id_, title, draw, how, data in (
        ("difference", "The difference", figures.difference, _how_difference(history), tables.difference(history)),
        ("accuracy", "Accuracy after training", figures.accuracy, _how_accuracy(), tables.accuracy(history)),
        ("cost", "Time and memory", figures.cost, _how_cost(history), tables.cost(history)),
    ):
        if svg := draw(history):
            found.append((id_, title, Panel(Markup(svg), f"{title} by benchmark", how, data)))
    return found


def _how_difference(history: History) -> str:
    a, b = (figures.arm_label(arm) for arm in history.pair or ("", ""))
    return (
        f"Above zero {a} ended more accurate, below it {b}; the thin line is the 95 % interval, the thick one the 90 %"
        " interval. An arrowhead says that the 95 % interval leaves out zero, a filled square that the 90 % interval"
        " lies inside the shaded margin; a hollow mark says neither."
    )


def _how_accuracy() -> str:
    return (
        "Each mark is the mean of an arm’s seeds, the upright line its 95 % interval over seeds and questions."
        " The dotted line is the policy before training: it moves only where questions, grading, weights or device did."
    )


def _how_cost(history: History) -> str:
    wide = any(figures.is_wide(figures.values_of(history, of)) for of in (Entry.step_time, Entry.memory))
    scale = "Values are so far apart that an axis is logarithmic" if wide else "The axes do not begin at zero"
    return (
        "Lines join benchmarks of one group on one device. The fixed piece of work is timed before and after every run"
        " (dot: median, line: quickest to slowest): where it and the time per step rise together, the machine was"
        f" slower, not the code. {scale}."
    )
