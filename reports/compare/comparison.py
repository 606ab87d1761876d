"""From records to a comparison: every number that a report shows, as data, before anything is drawn.

The difference is the first arm minus the second, in the order of bench.json; for PPO and GRPO that is what the critic
bought. Runs that did not finish are listed and counted, and are part of no mean. Because leaving out the runs that went
wrong favours the arm they belong to, a comparison with such runs states its numbers but is judged "invalid".
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from reports import sentences, text
from reports.compare import accuracy, critic_cost, curves, examples, findings, metrics, multiple_tasks, phase_costs
from reports.compare.critic_cost import Charge
from reports.compare.curves import Curves
from reports.compare.examples import Examples
from reports.compare.findings import Findings
from reports.compare.metrics import ArmValue, Difference, Metric
from reports.compare.phase_costs import Bars
from reports.record.models import Evaluation
from reports.record.names import AXES, EVIDENCE
from reports.record.reader import Records, Run, load
from reports.stats import estimates
from reports.stats.estimates import Verdict

__all__ = ["ArmValue", "Comparison", "Difference", "Metric", "Records", "TaskResult", "compare", "load"]

SCHEMA_VERSION = 1
# A finished run ends with the step that crosses the limit, so it can only have spent the limit or more.
SPENT_TOLERANCE = 1e-3


@dataclass(frozen=True)
class TaskResult:
    """Accuracy on one task beside what qualifies it; `base` is the policy before training."""

    task: str
    base: Evaluation | None
    base_interval: tuple[float, float] | None
    per_run: Mapping[tuple[str, int], Evaluation]


@dataclass(frozen=True)
class Comparison:
    """A benchmark, judged. `bench` is bench.json as it was read; the rest is derived from the records."""

    bench: Mapping[str, Any]
    arms: tuple[str, ...]
    runs: tuple[Run, ...]
    problem: str | None
    unfit: Mapping[str, Run]
    slowed: Mapping[tuple[str, int], float]
    metrics: tuple[Metric, ...]
    tasks: tuple[TaskResult, ...]
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
        """The metric that the verdict is about: accuracy on the first task."""
        return next((m for m in self.metrics if m.name.startswith("eval/") and m.name.endswith("/accuracy")), None)

    @property
    def judged(self) -> bool:
        """Whether there is a difference between two arms to judge."""
        return any(metric.difference for metric in self.metrics)

    @property
    def undecided(self) -> bool:
        """Whether one seed in an arm leaves every difference without a verdict, which need not be said of each."""
        found = [metric.difference for metric in self.metrics if metric.difference]
        return any(1 in one.estimate.n for one in found) and all(one.verdict.label == "no verdict" for one in found)

    @property
    def verdict(self) -> str:
        if self.unfit and not self.problem:
            return f"{text.listed([text.arm_name(arm) for arm in self.unfit])} does not fit"
        if self.primary and self.primary.difference:
            return self.primary.difference.verdict.label
        return "invalid" if self.problem else "no verdict"

    @property
    def margin(self) -> float | None:
        return self.bench.get("margin")

    def metric(self, name: str) -> Metric | None:
        return next((metric for metric in self.metrics if metric.name == name), None)

    def to_json(self) -> dict[str, Any]:
        """comparison.json: plain values only, and null for what is not known."""
        bench, matching = self.bench, self.bench["matching"]
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
            "difference_of": list(self.arms[:2]),
            "verdict": self.verdict,
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
            **findings.to_json(self.findings),
        }
        return _plain(value)


def compare(records: Records) -> Comparison:
    """Judge a benchmark. Never fails on runs that failed; it says so instead."""
    problem = _problem(records)
    tasks = records.tasks
    found = [
        *accuracy.accuracy_metrics(records, problem),
        *metrics.run_metrics(records, problem),
        *accuracy.sampled_metrics(records, problem),
    ]
    rows = multiple_tasks.corrected(found, tasks[0] if tasks else "")
    comparison = Comparison(
        bench=records.bench,
        arms=records.arms,
        runs=tuple(sorted(records.runs, key=lambda run: (records.arms.index(run.arm), run.seed))),
        problem=problem,
        unfit=records.unfit,
        slowed=records.slowed,
        metrics=tuple(rows),
        tasks=tuple(_task(records, task) for task in tasks),
        headline="",
        detail="",
        across_tasks="",
        cost="",
        limits="",
        reward=curves.reward_curves(records),
        accuracy={task: curves.accuracy_curves(records, task) for task in tasks},
        stability=curves.stability_curves(records),
        phases=phase_costs.phase_seconds(records),
        rates=phase_costs.phase_rates(records),
        memory=phase_costs.memory_peaks(records),
        memory_parts=phase_costs.memory_components(records),
        flops=phase_costs.phase_flops(records, "useful"),
        executed_flops=phase_costs.phase_flops(records, "executed"),
        charges=critic_cost.charges(records),
        point_costs=critic_cost.point_costs(records, tasks[0], tuple(AXES)) if tasks else {},
        examples=examples.choose(records, tasks[0]) if tasks else None,
        findings=findings.gather(records, rows, problem, np.random.default_rng(findings.SEED)),
    )
    return _with_words(comparison)


def _with_words(comparison: Comparison) -> Comparison:
    bench, primary = comparison.bench, comparison.primary
    detail = ""
    if comparison.unfit and not comparison.problem:
        headline = sentences.does_not_fit(
            {arm: run.out_of_memory_in or {} for arm, run in comparison.unfit.items()},
            ((bench.get("spec") or {}).get("budget") or {}).get("memory_gib"),
            {arm: value.mean for arm, value in primary.arms.items() if arm not in comparison.unfit} if primary else {},
        )
    elif primary is None:
        reason = comparison.problem or "no evaluation was recorded"
        headline = f"These runs do not support a comparison: {reason}."
    else:
        difference = primary.difference
        problem = comparison.problem
        undecided = Verdict("invalid", problem) if problem else Verdict("no verdict", "one arm")
        headline = sentences.headline(
            difference.verdict if difference else undecided,
            difference.estimate if difference else None,
            comparison.arms[:2],
            {arm: value.mean for arm, value in primary.arms.items()},
            comparison.margin,
        )
        if difference:
            across = sentences.across_axes(comparison.arms[:2], *findings.leads(comparison.findings))
            detail = " ".join(filter(None, (sentences.power(difference.verdict, comparison.margin), across)))
    means = {name: m.arms if (m := comparison.metric(name)) else {} for name in ("time/step_s", "memory/peak_bytes")}
    by_arm = {name: {arm: value.mean for arm, value in arms.items()} for name, arms in means.items()}
    costs = (
        sentences.cost(comparison.arms[:2], by_arm["time/step_s"], by_arm["memory/peak_bytes"]),
        sentences.fitted(bench.get("fit") or {}),
        sentences.slowed(comparison.slowed, len(comparison.runs)),
        sentences.combined(bench.get("combined") or []),
    )
    budget = bench["budget"]
    finished = {arm: sum(run.finished for run in comparison.runs if run.arm == arm) for arm in comparison.arms}
    spec = bench.get("spec") or {}
    return replace(
        comparison,
        headline=headline,
        detail=detail,
        across_tasks=sentences.across_tasks(_verdicts_by_task(comparison)),
        cost=" ".join(filter(None, costs)),
        limits=sentences.limits(
            str(bench["suite"]),
            (spec.get("model") or {}).get("name"),
            sentences.budget_amount(str(budget.get("currency")), float(budget.get("limit") or math.nan)),
            finished,
            str(bench.get("regime", "")).replace("_", " "),
        ),
    )


def _verdicts_by_task(comparison: Comparison) -> dict[str, Verdict]:
    found = {result.task: comparison.metric(f"eval/{result.task}/accuracy") for result in comparison.tasks}
    return {task: metric.difference.verdict for task, metric in found.items() if metric and metric.difference}


def _problem(records: Records) -> str | None:
    """Why the evidence does not hold, the gravest reason first; None when it does."""
    matching = records.bench["matching"]
    if matching.get("verdict") != "matched":
        undeclared = [str(row.get("key")) for row in matching.get("undeclared") or []]
        return "the arms differ in what was not declared" + (f" ({', '.join(undeclared)})" if undeclared else "")
    unequal = [str(row.get("seed")) for row in matching.get("evidence") or [] if disagrees(records.runs, row)]
    # An arm without room for its first step has none to hold against the others.
    if unequal and not records.unfit:
        return f"the arms did not start from the same weights, prompts or first rollouts (seed {', '.join(unequal)})"
    for arm in records.arms:
        if not records.of(arm) and arm not in records.unfit:
            return f"no run of {text.arm_name(arm)} finished"
    lost = [run for run in records.runs if not run.finished and run.arm not in records.unfit]
    if lost:
        named = ", ".join(f"{text.arm_name(run.arm)} seed {run.seed} {run.status.replace('_', ' ')}" for run in lost)
        count = f"{len(lost)} of {len(records.runs)} runs did not finish"
        return f"{count} ({named}), and leaving them out could favour an arm"
    currency, limit = records.bench["budget"].get("currency"), records.bench["budget"].get("limit")
    for run in (run for run in records.runs if run.finished):
        spent = run.spent.get(str(currency))
        if spent is not None and limit is not None and spent < limit * (1 - SPENT_TOLERANCE):
            unit = str(currency).replace("_", " ")
            return f"{text.arm_name(run.arm)} seed {run.seed} stopped at {spent:,.6g} of its {limit:,.6g} {unit}"
    if len(records.compared) > 1:
        seeds = {arm: [run.seed for run in records.of(arm)] for arm in records.compared}
        if len({tuple(found) for found in seeds.values()}) > 1:
            return "the arms were not run with the same seeds"
    return None


def disagrees(runs: Iterable[Run], row: Mapping[str, Any]) -> bool:
    """Whether the evidence of a seed speaks against a match; what a run that was lost did not leave is only missing."""
    own = [run for run in runs if run.seed == row.get("seed")]
    return not row.get("equal") and all(run.finished or evidence_of(row, run.arm) for run in own)


def evidence_of(row: Mapping[str, Any], arm: str) -> dict[str, str]:
    """What was recorded of an arm: hashes of its initial weights, its prompts and its first rollouts."""
    return {what: row[what][arm] for what in EVIDENCE if (row.get(what) or {}).get(arm)}


def _task(records: Records, task: str) -> TaskResult:
    base = records.base.get(task)
    accuracy = base.metrics.get("accuracy") if base else None
    interval = None
    if base is not None and accuracy is not None:
        interval = estimates.wilson(round(accuracy * base.questions), base.questions)
    per_run = {(run.arm, run.seed): e for run in records.runs if (e := run.final(task)) is not None}
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
