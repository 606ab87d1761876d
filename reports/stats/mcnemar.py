"""The same question, answered by two policies: what changed hands, and how much of that is mere chance of the seed.

Two policies of equal accuracy may solve different questions. McNemar's exact test looks at the questions that only one
of the two solved; it is about these two trained policies and says nothing of other seeds, so it is shown as a
description and decides nothing. What two seeds of the *same* arm disagree on is the yardstick for what the arms do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats as sps

from reports.stats.estimates import Array


@dataclass(frozen=True)
class Flips:
    """Counts of questions by who solved them. who: "seed 0", or the majority of an arm's seeds; p: McNemar, exact."""

    who: str
    both: int
    first_only: int
    second_only: int
    neither: int
    missing: int
    p: float


def mcnemar(first_only: int, second_only: int) -> float:
    """Exact two-sided p: of the questions that one of two solved, each is as likely to be the one's as the other's.

    McNemar, Psychometrika 12 (1947), with the binomial in place of its approximation. 1 where nothing differs.
    """
    differ = first_only + second_only
    return float(sps.binomtest(first_only, differ).pvalue) if differ else 1.0


def flips(who: str, first: Array, second: Array) -> Flips:
    """The 2×2 table of two policies' answers [questions], 1 or 0; those that either lacks (NaN) are counted apart."""
    known = np.isfinite(first) & np.isfinite(second)
    a, b = first[known] > 0, second[known] > 0
    ones, twos = int((a & ~b).sum()), int((~a & b).sum())
    missing = int((~known).sum())
    return Flips(who, int((a & b).sum()), ones, twos, int((~a & ~b).sum()), missing, mcnemar(ones, twos))


def majority(x: Array) -> Array:
    """[seeds, questions] → [questions]: 1 where more than half of the seeds are right, NaN where one is missing."""
    return np.where(np.isnan(x).any(axis=0), np.nan, x.mean(axis=0) > 0.5)


def disagreement(pairs: Sequence[tuple[Array, Array]]) -> float | None:
    """Mean over pairs of the share of questions on which the two differ, of those that both answered."""
    both = [(a != b)[np.isfinite(a) & np.isfinite(b)] for a, b in pairs]
    shares = [float(differ.mean()) for differ in both if differ.size]
    return float(np.mean(shares)) if shares else None
