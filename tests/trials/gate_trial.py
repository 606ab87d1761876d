"""Whether the regression gate is to be believed: it is held against itself, and against faults that are planted.

A benchmark of the code as it is becomes the baseline. Then the same code is gated again and again: every regression
found is a false alarm. Then one fault at a time is put into a copy of the code: each must be called a regression, by a
gate that its fault can be seen in. `make gate-trial ARGS="--gates 20"`; a benchmark takes a minute and a half on an
idle machine, and the machine must be idle.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]
SUITE, PROFILE = "arithmetic", "ci"
CURVES, TIME, MEMORY = "curves, to the bit", "time/step_s", "memory/peak_bytes"


@dataclass(frozen=True)
class Fault:
    """file: what is changed in it. named: gates of which one at least must call it a regression."""

    name: str
    file: str
    changes: Mapping[str, str]
    named: tuple[str, ...] = (CURVES,)


FAULTS = (
    Fault(
        "learning rate × 10", "harness/learn/optimizer.py",
        {" = lr, max_grad_norm": " = 10 * lr, max_grad_norm"},
    ),
    Fault(
        "sign of the advantage flipped in one arm", "algorithms/grpo.py",
        {"advantages_BT = advantages_B[:, None] * batch.mask": "advantages_BT = -advantages_B[:, None] * batch.mask"},
    ),
    Fault(
        "advantages off by one position", "algorithms/advantages.py",
        {"columns[::-1], dim=1)": "columns[::-1], dim=1).roll(1, dims=1)"},
    ),
    Fault(
        "critic not updated", "harness/learn/optimizer.py",
        {"        self.optimizer.step()\n": '        if self.name != "critic":\n            self.optimizer.step()\n'},
    ),
    Fault(
        "reward for any number", "suites/arithmetic.py",
        {"correct = found is not None and found.value == expected": "correct = found is not None"},
    ),
    Fault(
        "sampler's temperature ignored", "harness/model/lm_head.py",
        {"if temperature == 0 else inverse_cdf": "if temperature < 0 else inverse_cdf"},
        # Training samples at a temperature of 1, evaluation at 0.
        ("eval/arithmetic_heldout/accuracy before training",),
    ),
    Fault(
        "a step 20 % slower", "harness/run/loop.py",
        {
            "self.learner.learn(number, batch, log)\n": (
                "self.learner.learn(number, batch, log)\n        import time\n\n"
                "        time.sleep(0.2 * self.meter.step_seconds())\n"
            )
        },
        (TIME,),
    ),
    Fault(
        "10 % more memory", "harness/run/loop.py",
        {
            "        self.meter = Meter(policy.device)\n": (
                "        import psutil\n        import torch\n\n"
                "        self.ballast = torch.ones(int(0.1 * psutil.Process().memory_info().rss), dtype=torch.uint8)\n"
                "        self.meter = Meter(policy.device)\n"
            )
        },
        (MEMORY,),
    ),
)  # fmt: skip


def planted(fault: Fault, tree: Path) -> None:
    """Change a copy of the code. What is to be changed must be there once, or the fault would not be planted."""
    path = tree / fault.file
    content = path.read_text(encoding="utf-8")
    for old, new in fault.changes.items():
        assert content.count(old) == 1, f"{fault.name}: {old!r} stands {content.count(old)} times in {fault.file}"
        content = content.replace(old, new)
    path.write_text(content, encoding="utf-8")


def copy_of_head(folder: Path) -> Path:
    archive = subprocess.run(["git", "-C", str(ROOT), "archive", "HEAD"], check=True, capture_output=True).stdout
    folder.mkdir()
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive, check=True)
    return folder


def paribus(tree: Path, work: Path, *arguments: str) -> int:
    """A command of the code in `tree`, run in the folder `work`; its exit code."""
    with (work / "trial.log").open("ab") as log:
        return subprocess.run(
            [sys.executable, "-P", "-m", "harness.cli", *arguments], stdout=log, stderr=log, cwd=work, check=False,
            env={**os.environ, "PYTHONPATH": str(tree)},
        ).returncode  # fmt: skip


def benchmark(tree: Path, work: Path, options: Sequence[str]) -> None:
    code = paribus(tree, work, "bench", SUITE, "--profile", PROFILE, *options)
    assert code == 0, f"a benchmark ended with exit code {code}; see {work}/trial.log"


def gate(tree: Path, work: Path, baseline: Path, again: Sequence[str], options: Sequence[str]) -> dict[str, Any]:
    """A benchmark of `tree`, held against the baseline: what regress.json says, and its exit code."""
    benchmark(tree, work, options)
    code = paribus(tree, work, "regress", "latest", "--baseline", str(baseline), *again)
    found: dict[str, Any] = json.loads((work / "runs" / "latest" / "regress.json").read_bytes())
    return {**found, "exit_code": code}


def regressions(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [gate for gate in found["gates"] if gate["outcome"] == "regression"]


def caught(fault: Fault, found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The gates that name the fault for what it is."""
    named = [gate for gate in regressions(found) if gate["name"] in fault.named]
    return named if found["exit_code"] == 1 else []


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gates", type=int, default=20, help="of the same code")
    parser.add_argument("--faults", default="", help="only those whose names hold one of these words, comma between")
    parser.add_argument("--json", type=Path, help="where to write what was found")
    parser.add_argument("bench", nargs="*", help="options of `paribus bench`, after --")
    options = parser.parse_args()
    console = Console()
    work = Path(tempfile.mkdtemp(prefix="gate-trial-"))
    console.print(f"in {work}", highlight=False)
    clean, baseline = copy_of_head(work / "clean"), work / "baseline.json"
    benchmark(clean, work, options.bench)
    assert paribus(clean, work, "baseline", "latest", "--out", str(baseline)) == 0, f"see {work}/trial.log"

    table = Table("trial", "exit code", "regressions", "is that right")
    results, wrong = [], 0
    words = [word for word in options.faults.split(",") if word]
    faults = [each for each in FAULTS if not words or any(word in each.name for word in words)]
    trials: list[Fault | None] = [*[None] * options.gates, *faults]
    for number, fault in enumerate(trials):
        began = time.monotonic()
        tree = clean
        if fault is not None:
            planted(fault, tree := copy_of_head(work / f"fault-{number}"))
        # A fault that changes numbers is not looked for in times, whose second measurement takes minutes.
        timed = fault is None or fault.named != (CURVES,)
        found = gate(tree, work, baseline, ["--base-checkout", str(clean)] if timed else [], options.bench)
        right = bool(caught(fault, found)) if fault is not None else found["exit_code"] == 0
        wrong += not right
        name = fault.name if fault is not None else f"same code, {number + 1}"
        shown = caught(fault, found) if fault is not None else []
        lines = [f"{each['arm']} {each['name']}: {each['sentence']}" for each in (shown or regressions(found))]
        table.add_row(name, str(found["exit_code"]), "\n".join(lines[:2]) or "none", "yes" if right else "NO")
        results.append({"trial": name, "right": right, **found})
        console.print(f"{name}: exit {found['exit_code']}, {time.monotonic() - began:.0f} s", highlight=False)
        if options.json:
            options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    console.print(table)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
