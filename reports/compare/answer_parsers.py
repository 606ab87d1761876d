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

from reports.compare import metrics, multiple_tasks, tabulate
from reports.compare.metrics import Metric
from reports.compare.pairs import Terms
from reports.compare.tabulate import Reading, Tables
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
        a, b = tabulate.as_share(sample.get(first)), tabulate.as_share(sample.get(second))
        return None if a is None or b is None else float(a != b)

    return read


def _unread(sample: Mapping[str, Any]) -> float | None:
    return float(sample["extracted"] is None) if "extracted" in sample else None


def _wrong(sample: Mapping[str, Any]) -> float | None:
    right, unread = tabulate.right(sample), _unread(sample)
    return None if right is None or unread is None else float(not right and not unread)


def _unread_and_cut(sample: Mapping[str, Any]) -> float | None:
    unread, cut = _unread(sample), tabulate.as_share(sample.get("truncated"))
    return None if unread is None or cut is None else float(unread and cut)


RULES: Mapping[str, Rule] = {
    "right": Rule("Right by the training reward’s rule", tabulate.right, "higher", True),
    "strict": Rule("Right by strict extraction", lambda s: tabulate.as_share(s.get("strict")), "higher", True),
    "flexible": Rule("Right by flexible extraction", lambda s: tabulate.as_share(s.get("flexible")), "higher", True),
    "wrong": Rule("Wrong answer", _wrong, "lower"),
    "unread": Rule("No answer that could be read", _unread, "lower"),
    "unread_and_cut": Rule("… of these, cut by the length cap", _unread_and_cut, "lower"),
    "cut": Rule("Cut by the length cap, whatever it said", lambda s: tabulate.as_share(s.get("truncated")), "lower"),
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


def readings(tables: Tables, terms: Terms) -> tuple[TaskReadings, ...]:
    """Every task whose answers were all kept; a rule that no answer has a value for is left out."""
    by_task = []
    for task in tables.tasks:
        finals = tables.finals(task)
        rows, base = [], {}
        for key, rule in RULES.items():
            marks, _ = tabulate.marks(finals, rule.read)
            if marks is None or not any(np.isfinite(table).any() for table in marks.values()):
                continue
            shares = {}
            for arm, own in finals.items():
                # A run without an evaluation has no row in the table, and is missing here.
                measured = iter(marks[arm].mean(axis=1).tolist())
                shares[arm] = {seed: next(measured) if final else None for seed, final in own.items()}
            rows.append(
                metrics.share(
                    f"answers/{task}/{key}",
                    rule.title,
                    finals,
                    terms,
                    task=task,
                    quantity=key,
                    reading=rule.read,
                    better=rule.better,
                    margin=terms.margin if rule.margin else None,
                    values=shares,
                )
            )
            if task in tables.base:
                base[key] = _share([rule.read(sample) for sample in tables.base[task].samples])
        if rows:
            by_task.append(TaskReadings(task, base, tuple(rows)))
    return _corrected(by_task, tables.tasks)


def _corrected(by_task: list[TaskReadings], tasks: Sequence[str]) -> tuple[TaskReadings, ...]:
    rows = iter(multiple_tasks.corrected([row for one in by_task for row in one.rows], next(iter(tasks), "")))
    return tuple(replace(one, rows=tuple(islice(rows, len(one.rows)))) for one in by_task)


def to_json(found: TaskReadings) -> dict[str, Any]:
    return {"task": found.task, "base": dict(found.base), "rows": [metrics.to_json(row) for row in found.rows]}


def _share(values: list[float | None]) -> float | None:
    kept, missing = estimates.finite(values)
    return float(kept.mean()) if kept.size and not missing else None
