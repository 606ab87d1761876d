"""From records to a comparison: every number that a report shows, as data, before anything is drawn.

A difference is the first arm of a contrast minus the second; for PPO and GRPO that is what the critic bought. Runs that
did not finish are listed and counted, and are part of no mean. Because leaving out the runs that went wrong favours the
arm they belong to, a contrast with such runs states its numbers but is judged "invalid".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from reports import sentences
from reports.compare import (
    accuracy,
    contrasts,
    critic_cost,
    curves,
    examples,
    findings,
    metrics,
    multiple_tasks,
    pairs,
    phase_costs,
)
from reports.compare.contrasts import Contrast
from reports.compare.critic_cost import Charge
from reports.compare.curves import Curves
from reports.compare.examples import Examples
from reports.compare.findings import Findings
from reports.compare.metrics import ArmValue, Difference, Metric
from reports.compare.phase_costs import Bars
from reports.compare.tabulate import Tables, tabulate
from reports.record.models import Evaluation
from reports.record.names import AXES
from reports.record.reader import Records, Run, load
from reports.stats import estimates
from reports.stats.verdict import Verdict, VerdictKind

__all__ = ["ArmValue", "Comparison", "Difference", "Metric", "Records", "TaskResult", "compare", "load"]

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class TaskResult:
    """Accuracy on one task beside what qualifies it; `base` is the policy before training."""

    task: str
    base: Evaluation | None
    base_interval: tuple[float, float] | None
    per_run: Mapping[tuple[str, int], Evaluation]


@dataclass(frozen=True)
class Comparison:
    """A benchmark, judged. `bench` is bench.json as it was read; the rest is derived from the records.

    problem: why not all that was run is evidence; a contrast has its own. contrasts: every two arms that were to be
    held against each other. headline, detail, across_tasks, cost: of the only contrast, or of all together.
    """

    bench: Mapping[str, Any]
    arms: tuple[str, ...]
    runs: tuple[Run, ...]
    problem: str | None
    unfit: Mapping[str, Run]
    slowed: Mapping[tuple[str, int], float]
    metrics: tuple[Metric, ...]
    tasks: tuple[TaskResult, ...]
    contrasts: tuple[Contrast, ...]
    headline: str
    detail: str
    across_tasks: str
    cost: str
    limits: str
    reward: Mapping[str, Curves]
    accuracy: Mapping[str, Mapping[str, Curves]]
    stability: Mapping[str, Curves]
    phases: Bars
    rates: Bars
    memory: Bars
    memory_parts: Mapping[str, Bars]
    flops: Bars
    executed_flops: Bars
    charges: tuple[Charge, ...]
    point_costs: Mapping[str, Mapping[str, float | None]]
    examples: Examples | None
    findings: Findings

    @property
    def primary(self) -> Metric | None:
        """The metric that verdicts are about: accuracy on the first task."""
        return contrasts.primary_of(self.metrics)

    @property
    def only(self) -> Contrast | None:
        """The contrast of a benchmark that has one."""
        return self.contrasts[0] if len(self.contrasts) == 1 else None

    @property
    def several(self) -> bool:
        return len(self.contrasts) > 1

    @property
    def judged(self) -> bool:
        """Whether there is a difference between two arms to judge."""
        return any(metric.judged for metric in self.metrics)

    @property
    def undecided(self) -> bool:
        """Whether one seed in an arm leaves every difference without a verdict, which need not be said of each."""
        found = [one for metric in self.metrics for one in metric.differences.values() if one]
        open_ = all(one.verdict.kind is VerdictKind.NO_VERDICT for one in found)
        return open_ and any(1 in one.estimate.n for one in found)

    @property
    def verdict(self) -> Verdict:
        """Of the first contrast."""
        if self.contrasts:
            return self.contrasts[0].verdict
        return Verdict(VerdictKind.INVALID, self.problem) if self.problem else Verdict(VerdictKind.NO_VERDICT)

    @property
    def margin(self) -> float | None:
        return self.bench.get("margin")

    def metric(self, name: str) -> Metric | None:
        return next((metric for metric in self.metrics if metric.name == name), None)

    def to_json(self) -> dict[str, Any]:
        """comparison.json: plain values only, and null for what is not known."""
        bench, matching = self.bench, self.bench["matching"]
        first = self.contrasts[0] if self.contrasts else None
        value = {
            "schema_version": SCHEMA_VERSION,
            **{
                key: bench.get(key)
                for key in ("bench_id", "suite", "regime", "profile", "status", "created", "command")
            },
            "budget": {key: bench["budget"].get(key) for key in ("currency", "limit")},
            "margin": self.margin,
            "matching": {
                "verdict": matching.get("verdict"),
                **{key: matching.get(key) or [] for key in ("declared", "undeclared", "evidence")},
            },
            "difference_of": list(first.pair if first else self.arms),
            "verdict": contrasts.label(self.verdict),
            "problem": self.problem,
            "sentence": self.headline,
            "detail": self.detail,
            "across_tasks": self.across_tasks,
            "cost": self.cost,
            "limits": self.limits,
            "runs": [
                {
                    key: getattr(run, key)
                    for key in (
                        "arm",
                        "seed",
                        "status",
                        "reason",
                        "order",
                        "mlflow_run_id",
                        "steps",
                        "spent",
                        "seconds",
                    )
                }
                for run in self.runs
            ],
            "metrics": [metrics.to_json(metric) for metric in self.metrics],
            "critic": [asdict(charge) for charge in self.charges],
            "cost_of_a_point": self.point_costs,
            **findings.to_json(self.findings, first.pair if first else None),
            "contrasts": [contrasts.to_json(contrast, self.findings) for contrast in self.contrasts],
        }
        return _plain(value)


def compare(records: Records) -> Comparison:
    """Judge a benchmark. Never fails on runs that failed; it says so instead."""
    tables, terms = tabulate(records), pairs.terms(records)
    tasks = tables.tasks
    found = [
        *accuracy.accuracy_metrics(tables, terms),
        *metrics.run_metrics(tables, terms),
        *accuracy.sampled_metrics(tables, terms),
    ]
    rows = multiple_tasks.corrected(found, tasks[0] if tasks else "")
    problem = pairs.problem(records, records.arms)
    details = findings.gather(tables, terms, rows, np.random.default_rng(findings.SEED))
    judged = contrasts.contrasts(records, terms, rows, details)
    words = _words(records, problem, rows, judged)
    return Comparison(
        bench=records.bench,
        arms=records.arms,
        runs=tuple(sorted(records.runs, key=lambda run: (records.arms.index(run.arm), run.seed))),
        problem=problem,
        unfit=records.unfit,
        slowed=records.slowed,
        metrics=tuple(rows),
        tasks=tuple(_task(tables, task) for task in tasks),
        contrasts=judged,
        headline=words.headline,
        detail=words.detail,
        across_tasks=words.across_tasks,
        cost=words.cost,
        limits=_limits(records),
        reward=curves.reward_curves(tables),
        accuracy={task: curves.accuracy_curves(tables, task) for task in tasks},
        stability=curves.stability_curves(tables),
        phases=phase_costs.phase_seconds(tables),
        rates=phase_costs.phase_rates(tables),
        memory=phase_costs.memory_peaks(tables),
        memory_parts=phase_costs.memory_components(tables),
        flops=phase_costs.phase_flops(tables, "useful"),
        executed_flops=phase_costs.phase_flops(tables, "executed"),
        charges=critic_cost.charges(tables),
        point_costs=critic_cost.point_costs(tables, tasks[0], tuple(AXES)) if tasks else {},
        examples=examples.choose(tables, tasks[0]) if tasks else None,
        findings=details,
    )


class _Words(NamedTuple):
    headline: str
    detail: str
    across_tasks: str
    cost: str


def _words(records: Records, problem: str | None, rows: Sequence[Metric], judged: Sequence[Contrast]) -> _Words:
    """Of the only contrast, or of all together; what is said of the machine is said of both."""
    costs = (
        sentences.fitted(records.bench.get("fit") or {}),
        sentences.slowed(records.slowed, len(records.runs)),
        sentences.combined(records.bench.get("combined") or []),
    )
    machine = " ".join(filter(None, costs))
    if len(judged) == 1:
        only = judged[0]
        return _Words(only.headline, only.detail, only.across_tasks, " ".join(filter(None, (only.cost, machine))))
    if judged:
        headline = sentences.contrasts({contrast.pair: contrast.verdict for contrast in judged})
        return _Words(headline, "", _across_contrasts(rows, judged), machine)
    primary, arm = contrasts.primary_of(rows), records.arms[0]
    if primary:
        return _Words(sentences.alone(arm, primary.arms[arm].mean), "", "", machine)
    return _Words(sentences.unsupported(problem or "no evaluation was recorded"), "", "", machine)


def _across_contrasts(rows: Sequence[Metric], judged: Sequence[Contrast]) -> str:
    accuracies = [metric for metric in rows if metric.task and metric.quantity == accuracy.ACCURACY and metric.judged]
    lost = []
    for metric in accuracies:
        for contrast in judged:
            difference = metric.between(contrast.pair)
            if difference and (winner := difference.verdict.alone):
                loser = next(arm for arm in contrast.pair if arm != winner)
                lost.append((winner, loser, str(metric.task)))
    return sentences.across_contrasts(len(judged), len(accuracies), lost) if accuracies else ""


def _limits(records: Records) -> str:
    bench = records.bench
    budget, spec = bench["budget"], bench.get("spec") or {}
    return sentences.limits(
        str(bench["suite"]),
        (spec.get("model") or {}).get("name"),
        sentences.budget_amount(str(budget.get("currency")), float(budget.get("limit") or math.nan)),
        {arm: len(records.of(arm)) for arm in records.arms},
        str(bench.get("regime", "")).replace("_", " "),
    )


def _task(tables: Tables, task: str) -> TaskResult:
    base = tables.base.get(task)
    accuracy = base.metrics.get("accuracy") if base else None
    interval = None
    if base is not None and accuracy is not None:
        interval = estimates.wilson(round(accuracy * base.questions), base.questions)
    per_run = {(run.arm, run.seed): e for run in tables.runs if (e := run.final(task)) is not None}
    return TaskResult(task, base, interval, per_run)


def _plain(value: Any) -> Any:
    """The value with everything that JSON lacks turned into what it has: no NaN, no tuples, no numpy numbers."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    return None if isinstance(value, float) and not math.isfinite(value) else value
