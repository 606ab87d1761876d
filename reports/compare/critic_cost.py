"""What the critic cost: the share of time, arithmetic and memory of an arm's runs that exists only because of it.

Counted are the phases that nothing else needs (values, the critic's update) and every step in which the critic alone
is trained, whole: the policy learns nothing from it. A critic that shares the policy's trunk learns inside the policy's
own update, where its part cannot be told apart: its charge is a lower bound, and `shared` says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd

from reports.compare.curves import column, columns, is_number
from reports.compare.phase_costs import memory_components
from reports.compare.tabulate import Tables
from reports.record.names import CRITIC_PARTS, CRITIC_PHASES
from reports.record.reader import Run


class Share(NamedTuple):
    critic: float
    whole: float


@dataclass(frozen=True)
class Charge:
    """One arm's; None for what no run recorded.

    seconds, flops: of all steps but the first, which pays for warming up, averaged over the arm's finished runs.
    peak, peak_without: bytes of all tensors at their most; and at most without what is held or done for the critic.
    held: bytes of the critic's weights, gradients and optimizer at the former.
    critic_steps: steps of a run that trained the critic alone.
    """

    arm: str
    shared: bool
    critic_steps: int
    seconds: Share | None
    flops: Share | None
    peak: float | None
    peak_without: float | None
    held: float | None


def charges(tables: Tables) -> tuple[Charge, ...]:
    """One for every arm that recorded work of a critic."""
    memory = {phase: bars.values for phase, bars in memory_components(tables).items()}
    return tuple(
        _charge(tables, arm, {phase: values[arm] for phase, values in memory.items()})
        for arm in tables.arms
        if any(name.startswith("critic/") for run in tables.finished[arm].values() for name in columns(run))
    )


def _charge(tables: Tables, arm: str, memory: Mapping[str, Mapping[str, float | None]]) -> Charge:
    table: Mapping[str, Any] = tables.settings.get(arm, {}).get("critic") or {}
    warmup = int(table.get("warmup_steps") or 0)
    held = {phase: sum(parts.get(name) or 0.0 for name in CRITIC_PARTS) for phase, parts in memory.items()}
    tracked = {phase: size for phase, parts in memory.items() if is_number(size := parts.get("tracked"))}
    highest = max(tracked, key=lambda phase: tracked[phase], default=None)
    without = [size - held[phase] for phase, size in tracked.items() if phase not in CRITIC_PHASES]
    runs = tables.finished[arm].values()
    return Charge(
        arm,
        table.get("kind") == "shared",
        warmup,
        _mean([_share(run, "time/", "_s", warmup) for run in runs]),
        _mean([_share(run, "flops/", "/useful", warmup) for run in runs]),
        tracked[highest] if highest else None,
        max(without, default=None),
        held[highest] if highest else None,
    )


def _share(run: Run, prefix: str, suffix: str, warmup: int) -> Share | None:
    """Of what a run recorded by phase. Time between the phases is part of the whole."""
    phases = [name for name in columns(run) if name.startswith(prefix) and name.endswith(suffix)]
    if not phases:
        return None
    step = f"{prefix}step{suffix}"
    whole = column(run, step) if step in phases else _sum(run, phases)
    critic = _sum(run, [f"{prefix}{phase}{suffix}" for phase in CRITIC_PHASES])
    critic = critic.where(column(run, "step") > warmup, whole)
    steady = slice(1, None) if len(whole) > 1 else slice(None)
    found = Share(float(critic.iloc[steady].sum()), float(whole.iloc[steady].sum()))
    return found if found.whole > 0 else None


def _sum(run: Run, names: list[str]) -> pd.Series:
    return pd.concat([column(run, name) for name in names], axis=1).sum(axis=1)


def _mean(shares: list[Share | None]) -> Share | None:
    known = [share for share in shares if share is not None]
    if not known:
        return None
    critic, whole = (sum(values) / len(known) for values in zip(*known, strict=True))
    return Share(critic, whole)


def point_costs(tables: Tables, task: str, axes: tuple[str, ...]) -> dict[str, dict[str, float | None]]:
    """axis → arm → what a percentage point of accuracy gained over the base cost: mean spending ÷ mean gain of the
    arm's finished runs, None where nothing was gained. Axes that nobody recorded are left out.
    """
    base = tables.base_accuracy(task)
    found: dict[str, dict[str, float | None]] = {}
    for axis in axes:
        costs: dict[str, float | None] = {}
        for arm in tables.arms:
            finals = [(run.spent.get(axis), run.final(task)) for run in tables.finished[arm].values()]
            known = [(s, a) for s, e in finals if e and is_number(s) and is_number(a := e.metrics.get("accuracy"))]
            points = sum(100 * (accuracy - base) for _, accuracy in known) if base is not None else 0.0
            costs[arm] = sum(spent for spent, _ in known) / points if points > 0 else None
        if any(value is not None for value in costs.values()):
            found[axis] = costs
    return found
