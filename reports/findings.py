"""All that is worked out beside the metrics and their verdicts, gathered: the statistics in full.

None of it can overrule the verdict. It shows what the verdict leaves out: who leads on the way and per what, which
questions changed hands, whether the rule that extracts the answers matters, and what all tasks say together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from reports import aggregate, bands, early_stopping, efficiency, paired, readings, series
from reports.aggregate import Aggregate
from reports.bands import Bands
from reports.early_stopping import Stop
from reports.efficiency import Area, Race
from reports.metrics import Metric
from reports.paired import Pairing
from reports.paths import accuracy_paths, reward_paths
from reports.readings import TaskReadings
from reports.records import Records
from reports.stats import Verdict

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
    smooth = reward_paths(records, series.smoothing_window(records))
    return Findings(
        areas=efficiency.areas(primary, reward_paths(records), compared, margin, problem),
        races=efficiency.races(primary, smooth, compared, declared, problem),
        bands={"reward/mean": bands.bands(smooth, rng)}
        | {f"eval/{task}/accuracy": bands.bands(paths, rng) for task, paths in accuracy.items()},
        pairings=tuple(found for task in records.tasks if (found := paired.pairing(records, task))),
        readings=readings.readings(records, problem),
        stops=early_stopping.stops(records),
        aggregate=aggregate.aggregate(accuracies, compared, rng),
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
        "area_under_curve": [efficiency.area_to_json(area) for area in found.areas],
        "time_to_target": [efficiency.race_to_json(race) for race in found.races],
        "bands": {name: bands.to_json(by_axis) for name, by_axis in found.bands.items()},
        "flips": [paired.to_json(pairing) for pairing in found.pairings],
        "readings": [readings.to_json(task) for task in found.readings],
        "best_by_reward": [early_stopping.to_json(stop) for stop in found.stops],
        "aggregate": aggregate.to_json(found.aggregate) if found.aggregate else None,
    }
