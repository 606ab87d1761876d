"""pass@k and majority@k of several answers to one question: what the evaluation records and the report works out again.

Pure functions without a model library, so that the report, which reads answers question by question, shares them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Protocol


class Graded(Protocol):
    """One answer as it was graded: what was read of it, and whether that is right."""

    @property
    def extracted(self) -> str | None: ...

    @property
    def correct(self) -> bool: ...


# Far beyond what is sampled in practice; the tables that a report makes of them grow with it.
MOST_SAMPLES = 1024


def sizes(count: int) -> list[int]:
    """1, 2, 4, … and `count` itself."""
    return sorted({2**power for power in range(count.bit_length()) if 2**power <= count} | {count})


def pass_at(k: int, count: int, right: int) -> float:
    """1 − C(n − c, k) / C(n, k): the chance that k of n answers, c of them right, hold a right one.

    Unbiased, unlike 1 − (1 − c/n)ᵏ (Chen et al., Evaluating Large Language Models Trained on Code, 2021).
    """
    assert 1 <= k <= count
    return 1.0 - math.comb(count - right, k) / math.comb(count, k)


def majority(verdicts: Sequence[Graded]) -> bool:
    """Whether the answer given most often is right; of those given equally often, the one given first counts."""
    given = [verdict for verdict in verdicts if verdict.extracted is not None]
    if not given:
        return False
    # most_common keeps the order of first appearance among equals.
    winner = Counter(verdict.extracted for verdict in given).most_common(1)[0][0]
    return next(verdict.correct for verdict in given if verdict.extracted == winner)
