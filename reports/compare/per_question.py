"""What two arms answered to the same questions: which of them changed hands, and how much of that is the seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import combinations, product
from typing import Any

from reports.compare import tabulate
from reports.compare.pairs import Pair
from reports.compare.tabulate import Tables
from reports.stats.mcnemar import Flips, disagreement, flips, majority


@dataclass(frozen=True)
class Pairing:
    """One task, question by question.

    within: arm → share of the questions on which two of its seeds disagree, a mean over pairs of seeds. between: the
    same over pairs of one run from each arm. None where there is no such pair.
    """

    task: str
    flips: tuple[Flips, ...]
    within: Mapping[str, float | None]
    between: float | None


def pairing(tables: Tables, task: str, pair: Pair) -> Pairing | None:
    """Every seed that finished in both arms, then the majorities; None unless all answers were kept."""
    finals = {arm: own for arm, own in tables.finals(task).items() if arm in pair}
    marks, _ = tabulate.marks(finals)
    if marks is None or not all(len(own) for own in marks.values()):
        return None
    seeds = {arm: [seed for seed, final in own.items() if final] for arm, own in finals.items()}
    first, second = pair
    rows = [
        flips(f"seed {seed}", marks[first][seeds[first].index(seed)], marks[second][seeds[second].index(seed)])
        for seed in seeds[first]
        if seed in seeds[second]
    ]
    if min(len(own) for own in seeds.values()) > 2:
        rows.append(flips("majority of seeds", majority(marks[first]), majority(marks[second])))
    within = {arm: disagreement(list(combinations(marks[arm], 2))) for arm in pair}
    between = disagreement(list(product(marks[first], marks[second])))
    return Pairing(task, tuple(rows), within, between)


def to_json(found: Pairing) -> dict[str, Any]:
    return asdict(found)
