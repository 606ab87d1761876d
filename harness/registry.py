"""The algorithms, tasks and engines that a configuration can name."""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from reports.record.errors import UserError

if TYPE_CHECKING:
    from algorithms.base import Algorithm
    from harness.config.tables import RunSpec


class Registry(NamedTuple):
    """What a configuration can name, as "module:attribute"."""

    algorithms: Mapping[str, str]
    tasks: Mapping[str, str]
    engines: Mapping[str, str]

    def resolve(self, kind: str, name: str, key: str) -> Any:
        """The object behind a name. Raises UserError for a name that is not registered."""
        known: Mapping[str, str] = getattr(self, kind)
        if name not in known:
            raise UserError(f"{key} = {name!r}: accepted: {', '.join(sorted(known))}")
        return pkgutil.resolve_name(known[name])

    def algorithm(self, spec: RunSpec) -> Algorithm:
        """The algorithm of an arm, built from the arm's settings. Raises UserError where it cannot be."""
        build = self.resolve("algorithms", spec.algorithm, f"arms.{spec.arm}.algorithm")
        try:
            algorithm: Algorithm = build(spec, spec.options)
        except ValueError as error:
            raise UserError(str(error)) from None
        return algorithm
