"""Which arms are held against each other, and whether what the runs left is evidence for it.

A suite declares its contrasts; without any the first arm is held against each other. What keeps one pair from being
judged (an arm that does not fit, a run that was lost) leaves the others alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from reports import text
from reports.record.names import EVIDENCE
from reports.record.reader import Records, Run

# A finished run ends with the step that crosses the limit, so it can only have spent the limit or more.
SPENT_TOLERANCE = 1e-3


class Pair(NamedTuple):
    """A difference is the first arm minus the second."""

    first: str
    second: str


@dataclass(frozen=True)
class Terms:
    """On what terms arms are compared.

    pairs: in the order in which they were declared. problems: why the evidence on a pair does not hold, or None.
    unfit: those of a pair's arms that did not fit. margin: the difference that does not matter, declared before the
    runs.
    """

    pairs: tuple[Pair, ...]
    problems: Mapping[Pair, str | None]
    unfit: Mapping[Pair, tuple[str, ...]]
    margin: float | None

    @property
    def fitting(self) -> tuple[Pair, ...]:
        """The pairs whose difference is judged."""
        return tuple(pair for pair in self.pairs if not self.unfit[pair])


def terms(records: Records) -> Terms:
    pairs = planned(records)
    return Terms(
        pairs=pairs,
        problems={pair: problem(records, pair) for pair in pairs},
        unfit={pair: tuple(arm for arm in records.unfit if arm in pair) for pair in pairs},
        margin=records.bench.get("margin"),
    )


def planned(records: Records) -> tuple[Pair, ...]:
    """The contrasts that the suite declared, of arms that were run; without any the first arm against each other."""
    first, *others = records.arms
    suite = (records.bench.get("spec") or {}).get("suite") or {}
    declared = [Pair(*arms) for arms in suite.get("contrasts") or ()]
    known = [pair for pair in dict.fromkeys(declared) if set(pair) <= set(records.arms) and pair.first != pair.second]
    return tuple(known) or tuple(Pair(first, other) for other in others)


def problem(records: Records, arms: Sequence[str]) -> str | None:
    """Why what is recorded of these arms does not hold as evidence, the gravest reason first; None when it does."""
    matching, unfit = records.bench["matching"], records.unfit
    runs = [run for run in records.runs if run.arm in arms]
    if matching.get("verdict") != "matched":
        undeclared = [str(row.get("key")) for row in matching.get("undeclared") or []]
        return "the arms differ in what was not declared" + (f" ({', '.join(undeclared)})" if undeclared else "")
    unequal = [
        str(row.get("seed"))
        for row in matching.get("evidence") or []
        if disagrees(runs, row) and not (len(arms) < len(records.arms) and _agree(row, arms))
    ]
    # An arm without room for its first step has none to hold against the others.
    if unequal and not any(arm in unfit for arm in arms):
        return f"the arms did not start from the same weights, prompts or first rollouts (seed {', '.join(unequal)})"
    for arm in arms:
        if not records.of(arm) and arm not in unfit:
            return f"no run of {text.arm_name(arm)} finished"
    lost = [run for run in runs if not run.finished and run.arm not in unfit]
    if lost:
        named = ", ".join(f"{text.arm_name(run.arm)} seed {run.seed} {run.status.replace('_', ' ')}" for run in lost)
        count = f"{len(lost)} of {len(runs)} runs did not finish"
        return f"{count} ({named}), and leaving them out could favour an arm"
    currency, limit = records.bench["budget"].get("currency"), records.bench["budget"].get("limit")
    for run in (run for run in runs if run.finished):
        spent = run.spent.get(str(currency))
        if spent is not None and limit is not None and spent < limit * (1 - SPENT_TOLERANCE):
            unit = str(currency).replace("_", " ")
            return f"{text.arm_name(run.arm)} seed {run.seed} stopped at {spent:,.6g} of its {limit:,.6g} {unit}"
    if len({tuple(run.seed for run in records.of(arm)) for arm in arms if arm not in unfit}) > 1:
        return "the arms were not run with the same seeds"
    return None


def disagrees(runs: Iterable[Run], row: Mapping[str, Any]) -> bool:
    """Whether the evidence of a seed speaks against a match; what a run that was lost did not leave is only missing."""
    own = [run for run in runs if run.seed == row.get("seed")]
    return not row.get("equal") and all(run.finished or evidence_of(row, run.arm) for run in own)


def evidence_of(row: Mapping[str, Any], arm: str) -> dict[str, str]:
    """What was recorded of an arm: hashes of its initial weights, its prompts and its first rollouts."""
    return {what: row[what][arm] for what in EVIDENCE if (row.get(what) or {}).get(arm)}


def _agree(row: Mapping[str, Any], arms: Iterable[str]) -> bool:
    """Whether these arms left the same evidence, whatever the others left."""
    first, *others = (evidence_of(row, arm) for arm in arms)
    return len(first) == len(EVIDENCE) and all(other == first for other in others)
