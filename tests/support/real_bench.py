"""Benchmarks as a person starts them, each in processes of its own: begun, disturbed, and read afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlflow_server import wait_for

from reports.record.journal import MEASURED, read_json, read_lines

# Two short runs of the embedded suite, with everything that a run can have.
SMALL = (
    "budget.samples=512", "rollout.prompts_per_step=2", "eval.questions=8", "eval.every=0.4", "critic.warmup_steps=2",
    "checkpoint.every_s=0.2",
)  # fmt: skip
RUNS = ("ppo-seed0", "grpo-seed0")


def settings(*pairs: str) -> list[str]:
    return [option for each in pairs for option in ("--set", each)]


def start(out: Path, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "harness.cli", "bench", *arguments, "--out", str(out)]
    own = {"OMP_NUM_THREADS": "1", "MLFLOW_TRACKING_URI": f"sqlite:///{out / 'mlflow.db'}", **environment}
    with (out / "log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **own}, start_new_session=True)


def start_small(out: Path, *more: str, **environment: str) -> subprocess.Popen[bytes]:
    return start(out, "arithmetic", "--seeds", "0", *settings(*SMALL, *more), **environment)


def finish(process: subprocess.Popen[bytes], out: Path, status: int = 0) -> Path:
    assert process.wait(timeout=600) == status, (out / "log").read_text()
    return (out / "latest").resolve()


def kill(process: subprocess.Popen[bytes], *, everything: bool) -> None:
    """The parent alone, whose child then finds nobody listening; or the whole group, as a machine that goes down."""
    if everything:
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()


def wait_for_steps(process: subprocess.Popen[bytes], out: Path, run: str, steps: int) -> None:
    journal = out / "latest" / run / "steps.jsonl"

    def there() -> bool:
        assert process.poll() is None, (out / "log").read_text()
        return journal.is_file() and journal.read_bytes().count(b"\n") >= steps

    assert wait_for(there, 200), (out / "log").read_text()


def writer_of(path: Path) -> int:
    """The process that has the file open."""
    target = path.resolve()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if any(Path(os.readlink(link)) == target for link in (folder / "fd").iterdir()):
                    return int(folder.name)
            except OSError:
                continue
    raise AssertionError(f"nobody has {path} open")


def rows(folder: Path) -> dict[str, dict[str, Any]]:
    return {f"{row['arm']}-seed{row['seed']}": row for row in read_json(folder / "bench.json")["runs"]}


def determined(folder: Path, run: str) -> list[dict[str, Any]]:
    """A run's records without what is measured: they repeat to the bit."""
    records = read_lines(folder / run / "steps.jsonl")
    return [{k: v for k, v in record.items() if not k.startswith(MEASURED)} for record in records]


def same(folder: Path, undisturbed: Path, runs: Sequence[str] = RUNS) -> None:
    """Whether runs left what undisturbed ones leave, to the bit."""
    for run in runs:
        assert determined(folder, run) == determined(undisturbed, run)
        assert (folder / run / "samples.jsonl").read_bytes() == (undisturbed / run / "samples.jsonl").read_bytes()
        names = sorted(path.name for path in (undisturbed / run / "evals").iterdir())
        assert sorted(path.name for path in (folder / run / "evals").iterdir()) == names
        weights = [(f / run / "final" / "model.safetensors").read_bytes() for f in (folder, undisturbed)]
        assert weights[0] == weights[1]
        assert not (folder / run / "checkpoints").exists()


def every_step_once(out: Path, folder: Path) -> None:
    """In MLflow the newest attempt of each run has each step once, and none is left running."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{out / 'mlflow.db'}")
    (experiment,) = [e for e in client.search_experiments() if e.name == "arithmetic"]
    found = client.search_runs([experiment.experiment_id], f"tags.`paribus.bench_id` = '{folder.name}'")
    assert not [run for run in found if run.info.status == "RUNNING"]
    for run, row in rows(folder).items():
        steps = [m.step for m in client.get_metric_history(row["mlflow_run_id"], "reward/mean")]
        assert sorted(steps) == [record["step"] for record in read_lines(folder / run / "steps.jsonl")]
