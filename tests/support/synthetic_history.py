"""Made-up past benchmarks of a suite, as MLflow keeps them, for tests of what reads a suite's history.

/path/to/python tests/support/synthetic_history.py FOLDER COUNT    makes a store of that many in FOLDER/mlflow.db
"""

from __future__ import annotations

import copy
import json
import sys
import tempfile
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from synthetic_bench import TASKS, read_json, write_bench

from harness.config.file import load_bench
from harness.tracking.client import connect, ensure_experiment
from harness.tracking.fetch import Past
from reports.compare.comparison import compare, load

SUITE = "synthetic"
NIGHT_MS = 86_400_000
BEGAN_MS = 1_790_000_000_000
ARITHMETIC = Path(__file__).parents[2] / "suites" / "arithmetic.toml"


@lru_cache
def one() -> tuple[dict[str, Any], dict[str, Any]]:
    """(comparison.json, bench.json) of a benchmark, with a real spec."""
    with tempfile.TemporaryDirectory() as folder:
        spec = load_bench(ARITHMETIC).model_dump(mode="json")
        write_bench(Path(folder), steps=8, questions=40, tasks=TASKS[:1], suite=SUITE, spec=spec)
        return compare(load(Path(folder))).to_json(), read_json(Path(folder) / "bench.json")


def past(number: int, *, state: str = "FINISHED", drop: Iterable[str] = (), **changes: Any) -> Past:
    """The benchmark of a night. changes: dotted keys with __ for dots, of "comparison" and of "bench". A key that is a
    number is a place in a list. drop: files that MLflow does not have.
    """
    bench_id = f"{SUITE}-{number:03d}"
    own = dict(zip(("comparison", "bench"), copy.deepcopy(one()), strict=True))
    for dotted, value in {"comparison__bench_id": bench_id, "bench__bench_id": bench_id, **changes}.items():
        *path, last = (int(part) if part.isdigit() else part for part in dotted.split("__"))
        table: Any = own
        for part in path:
            table = table[part]
        table[last] = value
    files = {f"{name}.json": json.dumps(value).encode() for name, value in own.items()}
    kept = {name: content for name, content in files.items() if name not in set(drop)}
    faults = dict.fromkeys(set(files) - set(kept), "MLflow does not have it")
    return Past(bench_id, state, BEGAN_MS + number * NIGHT_MS, kept, faults)


def nights(count: int) -> list[Past]:
    """A history as a suite has it: noise, a setting and a device that change, new code each night, some that failed."""
    return [_night(number, np.random.default_rng(number)) for number in range(1, count + 1)]


def _night(number: int, noise: np.random.Generator) -> Past:
    changes: dict[str, Any] = {"bench__environment__git_commit": f"{number // 2:012x}"}
    ppo, grpo = 0.62 + noise.normal(0, 0.008), 0.60 + noise.normal(0, 0.008) + 0.03 * (number > 30)
    half, row = 0.025, "comparison__metrics__0__"
    for arm, mean in (("ppo", ppo), ("grpo", grpo)):
        changes |= {f"{row}arms__{arm}__mean": mean, f"{row}arms__{arm}__low": mean - half}
        changes |= {f"{row}arms__{arm}__high": mean + half}
    low, high = ppo - grpo - half, ppo - grpo + half
    verdict = "ppo better" if low > 0 else "grpo better" if high < 0 else "inconclusive"
    inner = {"low90": low + half / 5, "high90": high - half / 5}
    said = {"verdict": verdict, "reason": "made up", "beyond_margin": None}
    changes |= {f"{row}difference": {"mean": ppo - grpo, "low": low, "high": high, **inner, **said}}
    changes |= {"comparison__verdict": verdict}
    if number > 30:
        changes["bench__spec__update__learning_rate"] = 3e-6
    if number > 40:
        changes["bench__environment__device"] = "made-up GPU"
    if number % 12 == 5:
        changes |= {"comparison__verdict": "invalid", "comparison__status": "failed"}
        changes |= {"comparison__problem": "1 of 6 runs did not finish (PPO seed 1 diverged)"}
    return past(number, drop=["comparison.json"] if number % 16 == 9 else (), state="KILLED", **changes)


def store(uri: str, every: Iterable[Past], profiles: Mapping[str, str] | None = None) -> None:
    """Put benchmarks into an MLflow store as the tracker does. profiles: of benchmarks that have one, by id."""
    client = connect(uri)
    experiment = ensure_experiment(client, SUITE, uri)
    with tempfile.TemporaryDirectory() as folder:
        for each in every:
            tags = {"paribus.kind": "benchmark", "paribus.bench_id": each.bench_id, "paribus.suite": SUITE}
            run = client.create_run(experiment, start_time=each.began, tags=tags, run_name=each.bench_id).info.run_id
            client.log_param(run, "profile", (profiles or {}).get(each.bench_id, "null"))
            for name, content in each.files.items():
                (Path(folder) / name).write_bytes(content)
                client.log_artifact(run, str(Path(folder) / name))
            client.set_terminated(run, status=each.state)


if __name__ == "__main__":
    store(f"sqlite:///{Path(sys.argv[1]).resolve() / 'mlflow.db'}", nights(int(sys.argv[2])))
