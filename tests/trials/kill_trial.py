"""A benchmark that is killed again and again, beside one that is not: what the two leave must be the same to the bit.

Kills fall at random moments: every other one anywhere (start-up, evaluation and report included), the others a little
after the first step that was taken since the last kill. Parent alone and whole process group in turn. `make kill-trial
ARGS="--kills 30"` takes about a quarter of an hour on two cores.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from real_bench import RUNS, determined, every_step_once, finish, kill, same, settings, start

SETTINGS = (
    "budget.samples=4800", "rollout.prompts_per_step=2", "eval.questions=8", "eval.every=0.2", "critic.warmup_steps=2",
    "checkpoint.every_s=0.3",
)  # fmt: skip
ANYWHERE_S, AFTER_A_STEP_S = (3.0, 19.0), (0.0, 4.0)
PATIENCE_S = 60.0


def begun(out: Path) -> subprocess.Popen[bytes]:
    """The benchmark in `out`, begun or gone on with."""
    if (out / "latest" / "bench.json").is_file():
        return start(out, "--resume", "latest")
    return start(out, "arithmetic", "--seeds", "0", *settings(*SETTINGS))


def journalled(out: Path) -> int:
    """Bytes of all journals: they grow with every step."""
    return sum(path.stat().st_size for path in out.glob("latest/*/steps.jsonl"))


def wait(process: subprocess.Popen[bytes], out: Path, *, for_a_step: bool, rng: random.Random) -> bool:
    """Until the moment to kill. Returns whether a step was taken since the process was started."""
    least, taken = journalled(out), False
    kill_at = time.monotonic() + (PATIENCE_S if for_a_step else rng.uniform(*ANYWHERE_S))
    while process.poll() is None and time.monotonic() < kill_at:
        size = journalled(out)
        if size > least and not taken:
            taken = True
            kill_at = time.monotonic() + rng.uniform(*AFTER_A_STEP_S) if for_a_step else kill_at
        # What came after the last checkpoint is cut off first, and done again.
        least = min(least, size)
        time.sleep(0.02)
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng, folder = random.Random(options.seed), Path(tempfile.mkdtemp(prefix="kill-trial-"))
    whole, killed = folder / "whole", folder / "killed"
    whole.mkdir()
    killed.mkdir()
    print(f"in {folder}", flush=True)
    undisturbed = finish(begun(whole), whole)
    process, in_training = begun(killed), 0
    for number in range(options.kills):
        in_training += wait(process, killed, for_a_step=number % 2 == 1, rng=rng)
        assert process.poll() is None, f"it ended after {number} kills: too short a benchmark for so many"
        kill(process, everything=number // 2 % 2 == 0)
        process = begun(killed)
    ended = finish(process, killed)
    same(ended, undisturbed)
    every_step_once(killed, ended)
    lengths = " and ".join(str(len(determined(ended, run))) for run in RUNS)
    print(
        f"{options.kills} kills, {in_training} of them after steps had been taken: {lengths} steps, the same to the bit"
    )


if __name__ == "__main__":
    main()
