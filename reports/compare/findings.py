"""All that is worked out beside the metrics and their verdicts, gathered: the statistics in full.

None of it can overrule the verdict. It shows what the verdict leaves out: who leads on the way and per what, which
questions changed hands, whether the rule that extracts the answers matters, and what all tasks say together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from reports.compare import answer_parsers, curves, early_stopping, multiple_tasks, per_question, sample_efficiency
from reports.compare.answer_parsers import TaskReadings
from reports.compare.early_stopping import Stop
from reports.compare.metrics import Metric
from reports.compare.multiple_tasks import Aggregate
from reports.compare.per_question import Pairing
from reports.compare.sample_efficiency import Area, Race
from reports.compare.trajectories import accuracy_paths, reward_paths
from reports.record.reader import Records
from reports.stats import bands
from reports.stats.bands import Bands
from reports.stats.estimates import Verdict

# Resampling starts here, so that the same records give the same bytes.
SEED = 0


@dataclass(frozen=True)
class Findings:
    """bands: name of a metric → axis → arm. pairings: one per task whose answers were kept.

    stops: one per task and finished run, where the training reward had policies to choose from.
    """

    areas: tuple[Area, ...]
    races: tuple[Race, ...]
    bands: Mapping[str, Bands]
    pairings: tuple[Pairing, ...]
    readings: tuple[TaskReadings, ...]
    stops: tuple[Stop, ...]
    aggregate: Aggregate | None


def gather(records: Records, rows: Sequence[Metric], problem: str | None, rng: np.random.Generator) -> Findings:
    """rows: the metrics that were judged, of which the accuracies are taken together here."""
    compared, margin = records.compared, records.bench.get("margin")
    by_name = {metric.name: metric for metric in rows}
    accuracies = {task: m for task in records.tasks if (m := by_name.get(f"eval/{task}/accuracy"))}
    accuracy = {task: accuracy_paths(records, task) for task in records.tasks}
    primary = accuracy[records.tasks[0]] if records.tasks else {}
    declared = ((records.bench.get("spec") or {}).get("suite") or {}).get("target")
    smooth = reward_paths(records, curves.smoothing_window(records))
    return Findings(
        areas=sample_efficiency.areas(primary, reward_paths(records), compared, margin, problem),
        races=sample_efficiency.races(primary, smooth, compared, declared, problem),
        bands={"reward/mean": bands.bands(smooth, rng)}
        | {f"eval/{task}/accuracy": bands.bands(paths, rng) for task, paths in accuracy.items()},
        pairings=tuple(found for task in records.tasks if (found := per_question.pairing(records, task))),
        readings=answer_parsers.readings(records, problem),
        stops=early_stopping.stops(records),
        aggregate=multiple_tasks.aggregate(accuracies, compared, rng),
    )


def leads(found: Findings) -> tuple[str, dict[str, Verdict]]:
    """("accuracy" or else "reward", axis → who leads over the whole of training)."""
    judged: dict[str, dict[str, Verdict]] = {}
    for area in found.areas:
        if area.metric.difference:
            judged.setdefault(area.quantity, {})[area.axis] = area.metric.difference.verdict
    return next(iter(judged.items()), ("reward", {}))


def to_json(found: Findings) -> dict[str, Any]:
    """Keys of comparison.json."""
    return {
        "area_under_curve": [sample_efficiency.area_to_json(area) for area in found.areas],
        "time_to_target": [sample_efficiency.race_to_json(race) for race in found.races],
        "bands": {name: bands.to_json(by_axis) for name, by_axis in found.bands.items()},
        "flips": [per_question.to_json(pairing) for pairing in found.pairings],
        "readings": [answer_parsers.to_json(task) for task in found.readings],
        "best_by_reward": [early_stopping.to_json(stop) for stop in found.stops],
        "aggregate": multiple_tasks.to_json(found.aggregate) if found.aggregate else None,
    }
