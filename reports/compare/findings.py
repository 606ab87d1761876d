"""All that is worked out beside the metrics and their verdicts, gathered: the statistics in full.

None of it can overrule the verdict. It shows what the verdict leaves out: who leads on the way and per what, which
questions changed hands, whether the rule that extracts the answers matters, and what all tasks say together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from reports.compare import (
    answer_parsers,
    curves,
    early_stopping,
    metrics,
    multiple_tasks,
    per_question,
    sample_efficiency,
)
from reports.compare.accuracy import ACCURACY
from reports.compare.answer_parsers import TaskReadings
from reports.compare.early_stopping import Stop
from reports.compare.metrics import Metric
from reports.compare.multiple_tasks import Aggregate
from reports.compare.pairs import Pair, Terms
from reports.compare.per_question import Pairing
from reports.compare.sample_efficiency import Area, Race
from reports.compare.tabulate import Tables
from reports.compare.trajectories import accuracy_paths, reward_paths
from reports.stats import bands
from reports.stats.bands import Bands
from reports.stats.verdict import Verdict

# Resampling starts here, so that the same records give the same bytes.
SEED = 0


@dataclass(frozen=True)
class Findings:
    """bands: name of a metric → axis → arm. pairings: of each pair, one per task whose answers were kept.

    stops: one per task and finished run, where the training reward had policies to choose from.
    """

    areas: tuple[Area, ...]
    races: tuple[Race, ...]
    bands: Mapping[str, Bands]
    pairings: Mapping[Pair, tuple[Pairing, ...]]
    readings: tuple[TaskReadings, ...]
    stops: tuple[Stop, ...]
    aggregate: Aggregate | None


def gather(tables: Tables, terms: Terms, rows: Sequence[Metric], rng: np.random.Generator) -> Findings:
    """rows: the metrics that were judged, of which the accuracies are taken together here."""
    accuracies = {metric.task: metric for metric in rows if metric.task and metric.quantity == ACCURACY}
    accuracy = {task: accuracy_paths(tables, task) for task in tables.tasks}
    primary = accuracy[tables.tasks[0]] if tables.tasks else {}
    smooth = reward_paths(tables, curves.smoothing_window(tables))
    return Findings(
        areas=sample_efficiency.areas(primary, reward_paths(tables), terms),
        races=sample_efficiency.races(primary, smooth, terms, tables.target),
        bands={"reward/mean": bands.bands(smooth, rng)}
        | {f"eval/{task}/{ACCURACY}": bands.bands(paths, rng) for task, paths in accuracy.items()},
        pairings={pair: _pairings(tables, pair) for pair in terms.fitting},
        readings=answer_parsers.readings(tables, terms),
        stops=early_stopping.stops(tables),
        aggregate=multiple_tasks.aggregate(accuracies, tables.standing, terms.fitting, rng),
    )


def leads(found: Findings, pair: Pair) -> tuple[str, dict[str, Verdict]]:
    """("accuracy" or else "reward", axis → which of the two leads over the whole of training)."""
    judged: dict[str, dict[str, Verdict]] = {}
    for area in found.areas:
        if difference := area.metric.between(pair):
            judged.setdefault(area.quantity, {})[area.axis] = difference.verdict
    return next(iter(judged.items()), ("reward", {}))


def to_json(found: Findings, pair: Pair | None) -> dict[str, Any]:
    """Keys of comparison.json. pair: the first one, which differences in them are of."""
    return {
        "area_under_curve": [sample_efficiency.area_to_json(area) for area in found.areas],
        "time_to_target": [sample_efficiency.race_to_json(race) for race in found.races],
        "bands": {name: bands.to_json(by_axis) for name, by_axis in found.bands.items()},
        "flips": _flips_to_json(found, pair),
        "readings": [answer_parsers.to_json(task) for task in found.readings],
        "best_by_reward": [early_stopping.to_json(stop) for stop in found.stops],
        "aggregate": multiple_tasks.to_json(found.aggregate, pair) if found.aggregate else None,
    }


def of_pair_to_json(found: Findings, pair: Pair) -> dict[str, Any]:
    """What of these keys is about two arms."""
    improvement = found.aggregate.improvements.get(pair) if found.aggregate else None
    return {
        "area_under_curve": [
            {"quantity": area.quantity, "axis": area.axis, **metrics.difference_to_json(difference)}
            for area in found.areas
            if (difference := area.metric.between(pair))
        ],
        "time_to_target": [
            {"quantity": race.quantity, "axis": race.axis, "goal": race.goal, **sample_efficiency.ratio_to_json(ratio)}
            for race in found.races
            if (ratio := race.log_ratios.get(pair))
        ],
        "flips": _flips_to_json(found, pair),
        "improvement": vars(improvement) if improvement else None,
    }


def _pairings(tables: Tables, pair: Pair) -> tuple[Pairing, ...]:
    return tuple(one for task in tables.tasks if (one := per_question.pairing(tables, task, pair)))


def _flips_to_json(found: Findings, pair: Pair | None) -> list[dict[str, Any]]:
    return [per_question.to_json(pairing) for pairing in found.pairings.get(pair, ())] if pair else []
