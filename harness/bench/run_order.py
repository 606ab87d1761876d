"""The order in which a benchmark's runs take place."""

from __future__ import annotations

from harness.config.tables import BenchSpec


def run_order(bench: BenchSpec) -> list[tuple[str, int]]:
    """Arms of a seed next to each other, in alternating order, so that no arm always goes first."""
    arms = list(bench.arms)
    return [(arm, seed) for place, seed in enumerate(bench.seeds) for arm in (arms if place % 2 == 0 else arms[::-1])]
