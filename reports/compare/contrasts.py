"""What came of every pair of arms: its differences, its verdict, and what is said of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reports import sentences, text
from reports.compare import findings, metrics
from reports.compare.accuracy import ACCURACY
from reports.compare.findings import Findings
from reports.compare.metrics import Difference, Metric
from reports.compare.pairs import Pair, Terms
from reports.record.identity import MEMORY, STEP_TIME
from reports.record.reader import Records
from reports.stats.verdict import Verdict, VerdictKind


@dataclass(frozen=True)
class Contrast:
    """Two arms held against each other; every difference is the first minus the second.

    problem: why the evidence on them does not hold, if so. differences: by name of the metric. verdict: on the primary
    metric. headline, detail, across_tasks, cost: that in words; empty where there is nothing to say.
    """

    pair: Pair
    problem: str | None
    verdict: Verdict
    differences: Mapping[str, Difference]
    headline: str
    detail: str
    across_tasks: str
    cost: str

    @property
    def words(self) -> str:
        """The verdict as people read it."""
        return self.verdict.words(text.arm_name)

    @property
    def title(self) -> str:
        return difference_of(self.pair)


def difference_of(pair: Pair) -> str:
    """'PPO − GRPO'."""
    return " − ".join(map(text.arm_name, pair))


def contrasts(records: Records, terms: Terms, rows: Sequence[Metric], found: Findings) -> tuple[Contrast, ...]:
    """One for each pair that was to be compared. rows: the metrics."""
    return tuple(_contrast(records, terms, pair, rows, found) for pair in terms.pairs)


def primary_of(rows: Sequence[Metric]) -> Metric | None:
    """The metric that verdicts are about: accuracy on the first task."""
    return next((metric for metric in rows if metric.task and metric.quantity == ACCURACY), None)


def _contrast(records: Records, terms: Terms, pair: Pair, rows: Sequence[Metric], found: Findings) -> Contrast:
    primary, problem, unfit = primary_of(rows), terms.problems[pair], terms.unfit[pair]
    difference = primary.between(pair) if primary else None
    verdict = _verdict(difference, problem, unfit)
    detail = ""
    if verdict.kind is VerdictKind.DOES_NOT_FIT:
        headline = sentences.does_not_fit(
            {arm: records.unfit[arm].out_of_memory_in or {} for arm in unfit},
            ((records.bench.get("spec") or {}).get("budget") or {}).get("memory_gib"),
            {arm: primary.arms[arm].mean for arm in pair if arm not in unfit} if primary else {},
        )
    elif primary is None:
        headline = sentences.unsupported(problem or "no evaluation was recorded")
    else:
        means = {arm: primary.arms[arm].mean for arm in pair}
        estimate = difference.estimate if difference else None
        headline = sentences.headline(verdict, estimate, pair, means, terms.margin)
        if difference:
            across = sentences.across_axes(pair, *findings.leads(found, pair))
            detail = " ".join(filter(None, (sentences.power(verdict, terms.margin), across)))
    by_task = {m.task: d.verdict for m in rows if m.task and m.quantity == ACCURACY and (d := m.between(pair))}
    seconds, memory = (_means(rows, name) for name in (STEP_TIME, MEMORY))
    return Contrast(
        pair=pair,
        problem=problem,
        verdict=verdict,
        differences={metric.name: own for metric in rows if (own := metric.between(pair))},
        headline=headline,
        detail=detail,
        across_tasks=sentences.across_tasks(by_task) if len(terms.pairs) == 1 else "",
        cost=sentences.cost(pair, seconds, memory),
    )


def _verdict(difference: Difference | None, problem: str | None, unfit: tuple[str, ...]) -> Verdict:
    if unfit and not problem:
        return Verdict(VerdictKind.DOES_NOT_FIT, unfit=unfit)
    if difference:
        return difference.verdict
    return Verdict(VerdictKind.INVALID, problem) if problem else Verdict(VerdictKind.NO_VERDICT)


def _means(rows: Sequence[Metric], name: str) -> dict[str, float | None]:
    metric = next((metric for metric in rows if metric.name == name), None)
    return {arm: value.mean for arm, value in metric.arms.items()} if metric else {}


def to_json(contrast: Contrast, found: Findings) -> dict[str, Any]:
    return {
        "first": contrast.pair.first,
        "second": contrast.pair.second,
        "verdict": label(contrast.verdict),
        "winner": contrast.verdict.winner,
        "problem": contrast.problem,
        "sentence": contrast.headline,
        "detail": contrast.detail,
        "across_tasks": contrast.across_tasks,
        "cost": contrast.cost,
        "metrics": {name: metrics.difference_to_json(own) for name, own in contrast.differences.items()},
        **findings.of_pair_to_json(found, contrast.pair),
    }


def label(verdict: Verdict) -> str:
    """As comparison.json has it: arms as bench.json calls them, but for those that do not fit."""
    return verdict.words(text.arm_name) if verdict.kind is VerdictKind.DOES_NOT_FIT else verdict.label
