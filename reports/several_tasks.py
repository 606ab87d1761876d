"""What is left of a verdict when several tasks were looked at: Holm's correction.

Each task is a chance to find a difference where there is none. The first task was named before the runs as the one that
decides, so its verdict stands as it is; on any other a lead is only called one where it outlasts the correction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from reports import stats
from reports.metrics import Metric
from reports.stats import Verdict

ALPHA = 1 - stats.LEVEL
# Rows of which there is one for every task: "eval/<task>/<what>", "answers/<task>/<rule>".
KINDS = ("eval", "answers")


def holm(p_values: Sequence[float]) -> list[float]:
    """The i-th smallest of m p-values times m − i + 1, never falling, at most 1.

    Holm, Scandinavian Journal of Statistics 6 (1979). Claiming only what stays below α makes any false
    claim at most as likely as α.
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = highest
    return adjusted


def corrected(rows: Sequence[Metric], primary: str) -> list[Metric]:
    """The rows in their order, those of the same quantity on several tasks corrected for being several.

    primary: the task that keeps its verdict.
    """
    families: dict[tuple[str, str], dict[int, float]] = {}
    for index, metric in enumerate(rows):
        kind, _, rest = metric.name.partition("/")
        p = metric.difference.estimate.p_value if metric.difference and kind in KINDS else None
        if p is not None and math.isfinite(p):
            families.setdefault((kind, rest.rpartition("/")[2]), {})[index] = p
    made = list(rows)
    for (kind, quantity), family in families.items():
        for index, p in zip(family, holm(list(family.values())), strict=True) if len(family) > 1 else ():
            keeps = rows[index].name == f"{kind}/{primary}/{quantity}"
            made[index] = _told(rows[index], p, len(family), keeps=keeps)
    return made


def _told(metric: Metric, p: float, tasks: int, *, keeps: bool) -> Metric:
    """The row, with the corrected p-value and, unless it `keeps` its verdict, what that leaves of a lead."""
    assert metric.difference
    judged = metric.difference.verdict
    told = replace(judged, p_holm=p)
    if not keeps and p >= ALPHA and judged.label.endswith(" better"):
        told = Verdict(
            "equivalent" if judged.within_margin else "inconclusive",
            f"the 95 % interval of the difference excludes zero, but not after Holm’s correction for {tasks} tasks",
            within_margin=judged.within_margin,
            mde=judged.mde,
            seeds_needed=judged.seeds_needed,
            p_holm=p,
            alone=judged.label,
        )
    return replace(metric, difference=replace(metric.difference, verdict=told))
