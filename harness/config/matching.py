"""All else equal, checked: diff the resolved arms, judge each difference, and keep the run-time evidence.

A difference between arms is *declared* when it is what the comparison is about (the algorithm and what belongs to it,
which `algorithms.catalogue` says) or when the arm gives a reason for it. Any other difference is
*undeclared* and nothing runs. What the configuration promises is then checked on what ran: the arms of a seed
must start from the same weights, draw the same prompts and sample the same first completions, to the bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from algorithms.catalogue import OWNED_BY_ALL, covered, owns, title
from harness.config.tables import ARM_TABLES, BenchSpec, RunSpec
from reports.record.errors import UserError
from reports.record.names import EVIDENCE


@dataclass(frozen=True)
class Difference:
    key: str
    values: dict[str, Any]
    why: str | None


@dataclass(frozen=True)
class Audit:
    """The matching audit. `evidence` is added after the runs, a row per seed."""

    shared: dict[str, Any]
    declared: list[Difference]
    undeclared: list[Difference]
    evidence: list[dict[str, Any]] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        broken = self.undeclared or any(row["equal"] is False for row in self.evidence)
        return "not matched" if broken else "matched"

    def to_json(self) -> dict[str, Any]:
        return {
            "verdict": self.verdict,
            "shared": [{"key": key, "value": value} for key, value in self.shared.items()],
            "declared": [asdict(difference) for difference in self.declared],
            "undeclared": [asdict(difference) for difference in self.undeclared],
            "evidence": self.evidence,
        }


def flatten(spec: RunSpec) -> dict[str, Any]:
    """A resolved arm as dotted keys."""
    flat: dict[str, Any] = {"algorithm": spec.algorithm}
    for table, values in spec.model_dump(mode="json", exclude={"arm", "algorithm"}).items():
        flat |= {f"{table}.{key}": value for key, value in values.items()}
    return flat


def audit(bench: BenchSpec) -> Audit:
    """Diff all arms of a benchmark and judge each difference."""
    flat = {arm: flatten(bench.run_spec(arm)) for arm in bench.arms}
    shared: dict[str, Any] = {}
    declared: list[Difference] = []
    undeclared: list[Difference] = []
    for key in dict.fromkeys(key for settings in flat.values() for key in settings):
        # An option that an arm's algorithm does not have is None there.
        values = {arm: settings.get(key) for arm, settings in flat.items()}
        if all(value == next(iter(values.values())) for value in values.values()):
            shared[key] = next(iter(values.values()))
            continue
        why = reason_for(bench, key, values)
        (undeclared if why is None else declared).append(Difference(key, values, why))
    return Audit(shared, declared, undeclared)


def reason_for(bench: BenchSpec, key: str, values: Mapping[str, Any]) -> str | None:
    """Why arms may differ in `key`, or None where nobody said."""
    if pattern := covered(key, OWNED_BY_ALL):
        return OWNED_BY_ALL[pattern]
    if why := part_of_an_algorithm(bench, key, values):
        return why
    table, _, name = key.partition(".")
    assert table in ARM_TABLES, f"{key} cannot differ between arms"
    setters = [arm for arm, settings in bench.arms.items() if name in settings.overrides.get(table, {})]
    reasons = [bench.arms[arm].reason for arm in setters]
    if not setters or not all(reasons):
        return None
    return "; ".join(f"{arm}: {reason}" for arm, reason in zip(setters, reasons, strict=True))


def part_of_an_algorithm(bench: BenchSpec, key: str, values: Mapping[str, Any]) -> str | None:
    """Whose part `key` is, where the arms that run other algorithms agree in it; None otherwise."""
    algorithms = {arm: table.algorithm for arm, table in bench.arms.items()}
    owners = list(dict.fromkeys(algorithm for algorithm in algorithms.values() if owns(algorithm, key)))
    others = [values[arm] for arm, algorithm in algorithms.items() if algorithm not in owners]
    if not owners or any(value != others[0] for value in others):
        return None
    return f"{'options' if key.startswith('options.') else 'part'} of {' and '.join(map(title, owners))}"


def require_matched(result: Audit, source: str) -> None:
    """Raises UserError naming the first undeclared difference, its key and every arm's value."""
    if not result.undeclared:
        return
    first = result.undeclared[0]
    values = ", ".join(f"{arm} = {value!r}" for arm, value in first.values.items())
    more = f" (and {len(result.undeclared) - 1} more)" if len(result.undeclared) > 1 else ""
    raise UserError(
        f"{source}: undeclared difference in {first.key}: {values}{more}; "
        "make them equal or give a reason under the arm that differs"
    )


def evidence_rows(evidence: Mapping[tuple[str, int], Mapping[str, str]], seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Compare the hashes each run recorded, seed by seed. `equal` is None where fewer than two arms reported."""
    rows = []
    for seed in seeds:
        of_seed = {arm: hashes for (arm, run_seed), hashes in evidence.items() if run_seed == seed}
        row: dict[str, Any] = {"seed": seed, **{kind: {} for kind in EVIDENCE}, "equal": None}
        for kind in EVIDENCE:
            row[kind] = {arm: hashes[kind] for arm, hashes in of_seed.items() if kind in hashes}
        if len(of_seed) > 1:
            row["equal"] = all(
                len(row[kind]) == len(of_seed) and len(set(row[kind].values())) == 1 for kind in EVIDENCE
            )
        rows.append(row)
    return rows
