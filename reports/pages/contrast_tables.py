"""Several contrasts as tables: one row a contrast at the head of the page, one column a contrast below.

Where there is one contrast, its difference stands beside the arms (`reports.pages.tables`) and these have no rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from reports import text
from reports.compare.comparison import Comparison, Difference, Metric
from reports.compare.contrasts import Contrast
from reports.compare.sample_efficiency import Race, as_ratio
from reports.pages import tables
from reports.pages.tables import Table
from reports.record.identity import MEMORY, STEP_TIME
from reports.record.names import AXES

ALONE = "in this comparison alone"


class Row(NamedTuple):
    """One contrast, in cells."""

    contrast: Contrast
    difference: str
    verdict: str
    time: str
    memory: str


def overview(comparison: Comparison) -> list[Row]:
    """The difference in accuracy, the verdict, and what the first arm's time and memory are of the second's."""
    rows = []
    for contrast in comparison.contrasts if comparison.several else ():
        ratios = []
        for name in (STEP_TIME, MEMORY):
            metric = comparison.metric(name)
            ratios.append(tables.ratio_cell(metric, contrast) if metric else text.NONE)
        difference = comparison.primary.between(contrast.pair) if comparison.primary else None
        words = tables.verdict_words(contrast.verdict, alone=ALONE) if difference else contrast.words
        rows.append(Row(contrast, tables.interval_cell(difference, "fraction"), words, *ratios))
    return rows


def head(comparison: Comparison) -> tuple[str, ...]:
    """The titles of the columns, one a contrast."""
    return tuple(contrast.title for contrast in comparison.contrasts) if comparison.several else ()


def cost(comparison: Comparison) -> Table:
    """Differences with the ratio beside them."""
    return _of_metrics(comparison, "Cost", tables.cost_rows(comparison), ratio=True)


def accuracy(comparison: Comparison) -> Table:
    rows = [metric for result in comparison.tasks for metric in tables.accuracy_rows(comparison, result.task)]
    return _of_metrics(comparison, "Accuracy", rows, title=lambda metric: tables.share_title(comparison, metric))


def reward(comparison: Comparison) -> Table:
    return _of_metrics(comparison, "Reward", tables.reward_rows(comparison))


def areas(comparison: Comparison) -> Table:
    metrics = [area.metric for area in comparison.findings.areas]
    return _of_metrics(comparison, "Quantity", metrics)


def readings(comparison: Comparison, rows: Sequence[Metric]) -> Table:
    return _of_metrics(comparison, "Answers", rows)


def races(comparison: Comparison, title: Callable[[Race], str]) -> Table:
    rows = []
    for race in comparison.findings.races if comparison.several else ():
        cells = []
        for contrast in comparison.contrasts:
            log_ratio = race.log_ratios.get(contrast.pair)
            verdict = tables.verdict_words(log_ratio.verdict, alone=ALONE, better="sooner") if log_ratio else ""
            ratio = ratio_with_interval(log_ratio)
            cells.append(ratio if comparison.undecided or not verdict else f"{ratio}\n{verdict}")
        rows.append((f"{title(race)}, {AXES[race.axis][0].lower()}", *cells))
    return Table(("Target", *(" ÷ ".join(tables.arm_names(c.pair)) for c in comparison.contrasts)), tuple(rows))


def ratio_with_interval(log_ratio: Difference | None) -> str:
    """One time over another, and on a second line its interval."""
    value, low, high = as_ratio(log_ratio)
    if value is None:
        return text.NONE
    return f"×{value:.2f}\n" + (f"×{low:.2f} to ×{high:.2f}" if low is not None and high is not None else "no interval")


def _of_metrics(
    comparison: Comparison,
    what: str,
    metrics: Sequence[Metric],
    *,
    title: Callable[[Metric], str] = lambda metric: metric.title,
    ratio: bool = False,
) -> Table:
    """One row a metric that is judged, one column a contrast: difference, interval, verdict."""
    rows = []
    for metric in metrics if comparison.several else ():
        if metric.judged:
            rows.append((title(metric), *(_cell(comparison, metric, c, ratio=ratio) for c in comparison.contrasts)))
    return Table((what, *head(comparison)), tuple(rows))


def _cell(comparison: Comparison, metric: Metric, contrast: Contrast, *, ratio: bool) -> str:
    difference = metric.between(contrast.pair)
    if difference is None:
        return text.NONE
    value, *interval = tables.interval_cell(difference, metric.unit).split("\n")
    if ratio and (times := tables.ratio_cell(metric, contrast)) != text.NONE:
        value += f" ({times})"
    if comparison.undecided:
        return value
    return "\n".join([value, *interval, tables.verdict_words(difference.verdict, alone=ALONE)])
