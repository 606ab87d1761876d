"""The same answers, read in several ways: does the verdict hold whichever rule extracts the answer?

An answer counts as right by the verifier that also gave the training reward. Beside it stand strict extraction (the
declared format and nothing else) and flexible extraction (the last number in the text); a policy trained on one rule
may owe a lead to having learnt that rule. What is not right is either a wrong answer or none that could be read, and
some of those were cut off by the length cap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from reports.compare import metrics, multiple_tasks, per_question
from reports.compare.metrics import Metric
from reports.compare.per_question import Reading
from reports.record.reader import Records
from reports.stats import estimates
from reports.stats.estimates import Better


class Rule(NamedTuple):
    """better: None for what is described and not judged. margin: whether the declared margin is about this."""

    title: str
    read: Reading
    better: Better
    margin: bool = False


def _differ(first: str, second: str) -> Reading:
    def read(sample: Mapping[str, Any]) -> float | None:
        a, b = per_question.as_share(sample.get(first)), per_question.as_share(sample.get(second))
        return None if a is None or b is None else float(a != b)

    return read


def _unread(sample: Mapping[str, Any]) -> float | None:
    return float(sample["extracted"] is None) if "extracted" in sample else None


def _wrong(sample: Mapping[str, Any]) -> float | None:
    right, unread = per_question.right(sample), _unread(sample)
    return None if right is None or unread is None else float(not right and not unread)


def _unread_and_cut(sample: Mapping[str, Any]) -> float | None:
    unread, cut = _unread(sample), per_question.as_share(sample.get("truncated"))
    return None if unread is None or cut is None else float(unread and cut)


RULES: Mapping[str, Rule] = {
    "right": Rule("Right by the training reward’s rule", per_question.right, "higher", True),
    "strict": Rule("Right by strict extraction", lambda s: per_question.as_share(s.get("strict")), "higher", True),
    "flexible": Rule(
        "Right by flexible extraction", lambda s: per_question.as_share(s.get("flexible")), "higher", True
    ),
    "wrong": Rule("Wrong answer", _wrong, "lower"),
    "unread": Rule("No answer that could be read", _unread, "lower"),
    "unread_and_cut": Rule("… of these, cut by the length cap", _unread_and_cut, "lower"),
    "cut": Rule(
        "Cut by the length cap, whatever it said", lambda s: per_question.as_share(s.get("truncated")), "lower"
    ),
    "reward_or_strict": Rule("Reward and strict disagree", _differ("correct", "strict"), None),
    "reward_or_flexible": Rule("Reward and flexible disagree", _differ("correct", "flexible"), None),
    "strict_or_flexible": Rule("Strict and flexible disagree", _differ("strict", "flexible"), None),
}


@dataclass(frozen=True)
class TaskReadings:
    """One task: what share of the answers each rule names, before training and in every arm after it."""

    task: str
    base: Mapping[str, float | None]
    rows: tuple[Metric, ...]


def readings(records: Records, problem: str | None) -> tuple[TaskReadings, ...]:
    """Every task whose answers were all kept; a rule that no answer has a value for is left out."""
    found = []
    margin = records.bench.get("margin")
    for task in records.tasks:
        finals = {arm: {run.seed: run.final(task) for run in records.of(arm)} for arm in records.arms}
        rows, base = [], {}
        for key, rule in RULES.items():
            tables, fault = per_question.tables(finals, rule.read)
            if tables is None or not any(np.isfinite(table).any() for table in tables.values()):
                continue
            shares = {}
            for arm, runs in finals.items():
                # A run without an evaluation has no row in the table, and is missing here.
                measured = iter(tables[arm].mean(axis=1).tolist())
                shares[arm] = {seed: next(measured) if final else None for seed, final in runs.items()}
            limit = margin if rule.margin else None
            name = f"answers/{task}/{key}"
            rows.append(
                metrics.share(name, rule.title, shares, tables, rule.better, records.compared, limit, problem or fault)
            )
            if task in records.base:
                base[key] = _share([rule.read(sample) for sample in records.base[task].samples])
        if rows:
            found.append(TaskReadings(task, base, tuple(rows)))
    return _corrected(found, records.tasks)


def _corrected(found: list[TaskReadings], tasks: Sequence[str]) -> tuple[TaskReadings, ...]:
    rows = iter(multiple_tasks.corrected([row for one in found for row in one.rows], next(iter(tasks), "")))
    return tuple(replace(one, rows=tuple(islice(rows, len(one.rows)))) for one in found)


def to_json(found: TaskReadings) -> dict[str, Any]:
    return {"task": found.task, "base": dict(found.base), "rows": [metrics.to_json(row) for row in found.rows]}


def _share(values: list[float | None]) -> float | None:
    kept, missing = estimates.finite(values)
    return float(kept.mean()) if kept.size and not missing else None
