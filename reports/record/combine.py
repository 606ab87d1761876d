"""Several benchmarks of one configuration as one: more seeds, perhaps from several machines.

Only what is the same comparison may be put together: same suite, regime, margin, budget, tasks and settings of every
arm. A run belongs to one benchmark, so a seed that two of them ran is refused: nothing says which of the two counts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from reports.record.errors import EvidenceError
from reports.record.reader import Records, Run

# What makes two benchmarks the same comparison.
SAME = ("suite", "regime", "margin", "budget", "eval_tasks", "arms")


def combine(every: Sequence[Records]) -> Records:
    """The records as those of one benchmark. Raises EvidenceError naming what keeps them apart."""
    first, *others = every
    if not others:
        return first
    for other in others:
        for key in SAME:
            for path, mine, theirs in _differences(first.bench.get(key), other.bench.get(key), key):
                raise EvidenceError(f"{_name(first)} and {_name(other)} differ in {path}: {mine} and {theirs}")
    owner: dict[tuple[str, int], str] = {}
    runs: list[Run] = []
    for records in every:
        for run in records.runs:
            if (run.arm, run.seed) in owner:
                where = f"{owner[run.arm, run.seed]} and in {_name(records)}"
                raise EvidenceError(f"{run.arm} seed {run.seed} was run in {where}: each seed once")
            owner[run.arm, run.seed] = _name(records)
        runs += [run.replaced(order=len(runs) + run.order) for run in records.runs]
    base = {task: evaluation for records in reversed(every) for task, evaluation in records.base.items()}
    return Records(_bench(every), tuple(runs), base)


def _bench(every: Sequence[Records]) -> Mapping[str, Any]:
    benches = [records.bench for records in every]
    ids = sorted(_name(records) for records in every)
    digest = hashlib.sha256("\n".join(ids).encode()).hexdigest()[:4]
    audits = [bench["matching"] for bench in benches]
    unmatched = next((audit for audit in audits if audit.get("verdict") != "matched"), audits[0])
    evidence = [row for audit in audits for row in audit.get("evidence") or []]
    states = {bench.get("status") for bench in benches}
    return {
        **benches[0],
        "bench_id": f"{benches[0]['suite']}-combined-{len(benches)}-{digest}",
        "combined": [
            {"bench_id": _name(records), "device": device(records), "runs": len(records.runs)} for records in every
        ],
        "command": " && ".join(dict.fromkeys(str(bench.get("command")) for bench in benches)),
        "created": min(_known(benches, "created"), default=None),
        "finished": max(_known(benches, "finished"), default=None),
        "status": states.pop() if len(states) == 1 else "failed",
        "matching": {**unmatched, "evidence": evidence},
    }


def device(records: Records) -> str:
    return str((records.bench.get("environment") or {}).get("device") or "an unnamed device")


def _known(benches: Iterable[Mapping[str, Any]], key: str) -> list[str]:
    return [bench[key] for bench in benches if isinstance(bench.get(key), str)]


def _name(records: Records) -> str:
    return str(records.bench["bench_id"])


def _differences(mine: Any, theirs: Any, path: str) -> Iterable[tuple[str, str, str]]:
    """(dotted key, one value, the other), one at a time."""
    if isinstance(mine, Mapping) and isinstance(theirs, Mapping):
        for key in dict.fromkeys([*mine, *theirs]):
            yield from _differences(mine.get(key), theirs.get(key), f"{path}.{key}")
    elif mine != theirs:
        yield path, _short(mine), _short(theirs)


def _short(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}…"
