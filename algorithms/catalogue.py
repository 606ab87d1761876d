"""The algorithms by name: where each is built, its own options, and the shared settings that belong to it.

A row a variant. Configurations are read and audited by this file, so it imports without torch, and so does a module
that has options.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable
from dataclasses import dataclass

from algorithms.settings import Options


@dataclass(frozen=True)
class Entry:
    """A variant.

    title: as people write it. build: "module:function", (settings, options) → Algorithm; ValueError where the settings
    lack what it needs. options: "module:Class" of its own options, in `[arms.X.options]`; None where it has none.
    owns: shared settings that are part of it, as keys or as prefixes ending in a dot.
    """

    title: str
    build: str
    options: str | None = None
    owns: tuple[str, ...] = ()


CATALOGUE: dict[str, Entry] = {
    "ppo": Entry("PPO", "algorithms.ppo:build"),
    "grpo": Entry("GRPO", "algorithms.grpo:build"),
    "rloo": Entry("RLOO", "algorithms.rloo:build"),
}

# What belongs to whichever algorithm an arm runs.
OWNED_BY_ALL = {
    "algorithm": "what is compared",
    "critic.": "read only by an algorithm with a critic",
    "advantage.": "normalisation of advantages belongs to the algorithm",
}


def options_class(algorithm: str) -> type[Options]:
    """The class of an algorithm's own options; that without any for one that has none or is not in the catalogue."""
    entry = CATALOGUE.get(algorithm)
    if entry is None or entry.options is None:
        return Options
    found: type[Options] = pkgutil.resolve_name(entry.options)
    return found


def owns(algorithm: str, key: str) -> bool:
    """Whether a dotted setting is part of an algorithm: an option of its own, or a shared one that it takes over."""
    table, _, name = key.partition(".")
    if table == "options":
        return name in options_class(algorithm).model_fields
    return algorithm in CATALOGUE and covered(key, CATALOGUE[algorithm].owns) is not None


def covered(key: str, patterns: Iterable[str]) -> str | None:
    """The pattern, a key or a prefix ending in a dot, that a key falls under."""
    return next((each for each in patterns if key == each or (each.endswith(".") and key.startswith(each))), None)


def title(algorithm: str) -> str:
    return CATALOGUE[algorithm].title if algorithm in CATALOGUE else algorithm
