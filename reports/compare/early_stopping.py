"""The policy that early stopping would have kept: chosen by the training reward, so by no held-out question.

Accuracy after training says nothing of a run that was better on its way. The best of its evaluations would, but those
were chosen by the questions they are then judged on, so their accuracy is too high by chance, and the more so the
oftener a run was evaluated. Here only training chooses: of the policies that were evaluated, the final one among them,
the one before which the mean reward was highest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from reports.compare import curves
from reports.compare.tabulate import ByRun, Tables
from reports.record.models import Evaluation
from reports.record.reader import Run

REWARD = "reward/mean"


class Kept(NamedTuple):
    """The policy that the rule keeps of a run. reward: the mean training reward that it was kept for."""

    evaluation: Evaluation
    reward: float


@dataclass(frozen=True)
class Stop:
    """One run on one task: after which step the rule stops, and the accuracy there and at the end.

    at_end: whether that is the final policy.
    """

    task: str
    arm: str
    seed: int
    step: int | None
    at_end: bool
    reward: float | None
    accuracy: float | None
    final: float | None


def kept(run: Run, task: str) -> Kept | None:
    """Of a run's evaluations on a task, the one before which the reward was highest; of equals, the earliest.

    Before it: the mean over the steps since the evaluation before, or since the start. None where nothing was evaluated
    or one of those steps has no finite reward: which steps lack one is seldom chance.
    """
    best: Kept | None = None
    since = 0
    # A run without a journal has no column of steps.
    steps, rewards = curves.column(run, "step"), curves.column(run, REWARD)
    for evaluation in _evaluations(run, task):
        window = rewards[(steps > since) & (steps <= evaluation.step)]
        if window.empty or not np.isfinite(window).all():
            return None
        reward = float(window.mean())
        if best is None or reward > best.reward:
            best = Kept(evaluation, reward)
        since = evaluation.step
    return best


def kept_by_run(tables: Tables, task: str) -> ByRun[Kept | None]:
    """What the rule keeps of each finished run; empty where there was nothing to choose from."""
    runs = [run for own in tables.finished.values() for run in own.values()]
    choice = any(len(_evaluations(run, task)) > 1 for run in runs)
    if not choice or not any(REWARD in run.history for run in runs):
        return {}
    return tables.of(lambda run: kept(run, task))


def stops(tables: Tables) -> tuple[Stop, ...]:
    """Every task and finished run, where there was something to choose from."""
    rows = []
    for task in tables.tasks:
        finals = tables.finals(task)
        for arm, by_seed in kept_by_run(tables, task).items():
            for seed, one in by_seed.items():
                final, here = finals[arm][seed], one.evaluation if one else None
                rows.append(
                    Stop(
                        task=task,
                        arm=arm,
                        seed=seed,
                        step=here.step if here else None,
                        at_end=here is not None and here is final,
                        reward=one.reward if one else None,
                        accuracy=here.metrics.get("accuracy") if here else None,
                        final=final.metrics.get("accuracy") if final else None,
                    )
                )
    return tuple(rows)


def to_json(found: Stop) -> dict[str, Any]:
    return asdict(found)


def _evaluations(run: Run, task: str) -> Sequence[Evaluation]:
    """Each evaluated policy once: one that is evaluated again at the end is the final one."""
    return list({e.step: e for e in run.evaluations if e.task == task}.values())
