"""Training speed and memory of paribus beside TRL, on the same machine, in turns.

    make compare-trl                                                    # all four workloads
    make compare-trl ARGS="--workloads grpo-tiny,ppo-tiny --rounds 5 --json comparison.json"

Each side is a process that does one training step when asked, and the two are asked in turns: paribus, TRL, paribus,
TRL … A round is one such pair on SmolLM2-135M, ten on the tiny Llama. There both processes stay loaded after a step
to warm up, and the processor time that the waiting one uses is measured and stated; on SmolLM2, whose two sides would
not fit into memory together, each turn is a fresh process: load, a step to warm up, the step that counts. Steps are
timed from outside, from the request to the answer, with everything that lies between two answers.

**Equal:** weights (the same folder); prompts, and their tokens; 8 completions a prompt; the length of every completion;
the rule that rewards them; one update over the whole batch a step; AdamW (fused, no weight decay), learning rate (the
critic's too), clip range, cap on the gradient's norm; KL coefficient, estimator and place; γ = λ = 1 and a value model
as large as the policy; whitened advantages in PPO, divided by the group's deviation in GRPO; float32, threads, one
process; no logging, saving or evaluation; the versions of torch, transformers, accelerate, datasets and tokenizers.

TRL's defaults of gradient checkpointing and bfloat16 are off: on a CPU both cost it time. Updates are one micro-batch
on both sides, except TRL's PPO on SmolLM2, of which only half a batch fits into 24 GiB. `--trl-micro-batches` tries
other settings.

**Not equal**, and in whose favour:

- TRL's PPO has no cap on the gradient's norm. TRL's: it saves a pass over the gradients.
- TRL has no other way to sample past an end token than to bar it (`suppress_tokens`); paribus samples it and goes on
  (`ignore_eos`). paribus's, by one masking of the logits a token. It also makes TRL's PPO train slightly off policy,
  which changes no amount of work.
- TRL's PPO takes one completion a row, so each prompt stands in its dataset eight times. Its GRPO trainer repeats
  prompts by itself, to the same effect: neither shares a prompt's computation among its completions. That is TRL's
  design, not a setting.
- Both sample with what they have in process: TRL with transformers' `generate`, its default and the only engine of its
  PPO, paribus with its `torch` engine. Neither uses vLLM.
- TRL's PPO always has KL in its reward, so that is what is compared; its reward model is the rule, without a network.
- paribus has its meters on, as in any run: clocks and memory peaks read at the edges of phases. TRL's, slightly.
- Prompts are of nearly equal length (91 to 96 tokens; 12 on the tiny model) and completions of exactly equal length:
  TRL computes on padding and paribus does not, and here there is next to none. TRL's.

Needs Linux and, for SmolLM2, 24 GiB. All four workloads take about half an hour on two cores.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from environments import LOCKED, TRL_VERSIONS, model_path, trl_python
from protocol import Worker, WorkerEnded
from rich.console import Console
from rich.table import Table
from workloads import WORKLOADS

from harness.measure.environment import describe
from reports.record.errors import UserError
from reports.record.journal import write_json

HERE = Path(__file__).resolve().parent
SIDES = ("paribus", "trl")
out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 160)


def worker_environment(threads: int) -> dict[str, str]:
    return {
        **os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": "",
    }  # fmt: skip


class Side:
    """One side of a workload: its process, for as long as it is loaded, and what was measured of it."""

    def __init__(
        self, name: str, command: list[str], environment: dict[str, str], log: Path, *, resident: bool
    ) -> None:
        self.name, self.command, self.environment, self.log, self.resident = name, command, environment, log, resident
        self.worker: Worker | None = None
        self.prompt_tokens: list[int] = []
        self.peak_bytes = 0
        self.gemm_peak = 0.0

    def turn(self) -> tuple[float, dict[str, Any]]:
        """One timed step, after loading and a step to warm up where the process is new; seconds and the answer."""
        if self.worker is None:
            self.worker = Worker(self.command, self.environment, self.log)
            self.prompt_tokens = self.worker.loaded["prompt_tokens"]
            self.worker.step()
        seconds, answer = self.worker.step()
        self.peak_bytes = max(self.peak_bytes, self.worker.peak_bytes(), answer.get("peak_bytes", 0))
        if not self.resident:
            self.leave()
        return seconds, answer

    def leave(self) -> None:
        if self.worker is not None:
            self.gemm_peak = max(self.gemm_peak, self.worker.stop().get("gemm_peak", 0.0))
            self.worker = None

    def kill(self) -> None:
        if self.worker is not None:
            self.worker.kill()

    def cpu_seconds(self) -> float:
        return self.worker.cpu_seconds() if self.worker is not None else 0.0


def sides_of(name: str, *, threads: int, micro_batches: int, work: Path) -> dict[str, Side]:
    workload = WORKLOADS[name]
    folder, environment = model_path(workload.model, work), worker_environment(threads)
    commands = {
        "paribus": [sys.executable, str(HERE / "paribus_worker.py"), name, folder],
        "trl": [str(trl_python(workload.algorithm)), str(HERE / "trl_worker.py"), name, folder, str(micro_batches)],
    }
    resident = workload.shape.resident
    return {
        side: Side(side, command, environment, work / f"{name}-{side}.log", resident=resident)
        for side, command in commands.items()
    }


class Timings(NamedTuple):
    """Seconds of each side's steps, round by round; the FLOP/s of paribus's; and what waiting cost.

    waiting: the most that a side used of a core while the other had its turn.
    """

    seconds: dict[str, list[list[float]]]
    flops_per_s: list[float]
    waiting: float


def take_turns(sides: dict[str, Side], name: str, rounds: int) -> Timings:
    """Raises UserError where a side did other work than it was given: other prompts, or another number of tokens."""
    shape = WORKLOADS[name].shape
    seconds: dict[str, list[list[float]]] = {side: [[] for _ in range(rounds)] for side in sides}
    flops_per_s: list[float] = []
    waiting = 0.0
    for number in range(rounds):
        for _ in range(shape.steps_per_round):
            for side, other in (SIDES, SIDES[::-1]):
                start, before = time.perf_counter(), sides[other].cpu_seconds()
                step_s, answer = sides[side].turn()
                used = sides[other].cpu_seconds() - before
                waiting = max(waiting, used / (time.perf_counter() - start))
                if answer["tokens"] != shape.completions * shape.completion_tokens:
                    raise UserError(f"{name}: {side} trained on {answer['tokens']} tokens in a step")
                seconds[side][number].append(step_s)
                if "flops" in answer:
                    flops_per_s.append(answer["flops"] / step_s)
            if sides["paribus"].prompt_tokens != sides["trl"].prompt_tokens:
                raise UserError(f"{name}: the sides read the prompts differently")
        taken = ", ".join(f"{side} {median(seconds[side][number]):.2f} s" for side in SIDES)
        out.print(f"{name}: round {number + 1}: {taken} a step", markup=False)
    return Timings(seconds, flops_per_s, waiting)


def compare(name: str, *, rounds: int, threads: int, micro_batches: int | None, work: Path) -> dict[str, Any]:
    """Everything measured of a workload."""
    workload, shape = WORKLOADS[name], WORKLOADS[name].shape
    parts = micro_batches or workload.trl_micro_batches
    sides = sides_of(name, threads=threads, micro_batches=parts, work=work)
    try:
        timings = take_turns(sides, name, rounds)
        for side in sides.values():
            side.leave()
    finally:
        for side in sides.values():
            side.kill()
    peak_bytes, gemm_peak = {side: sides[side].peak_bytes for side in SIDES}, sides["paribus"].gemm_peak
    return {
        "workload": name, "trl": TRL_VERSIONS[workload.algorithm], "trl_micro_batches": parts,
        "completions": shape.completions, "completion_tokens": shape.completion_tokens,
        "prompt_tokens": sides["trl"].prompt_tokens, "kl_coefficient": workload.kl_coefficient,
        "resident": shape.resident, "step_s": timings.seconds, "peak_bytes": peak_bytes,
        "waiting_cpu_share": timings.waiting, "gemm_peak_flops_per_s": gemm_peak,
        "flop_utilisation": median(timings.flops_per_s) / gemm_peak,
        **ratios(timings.seconds, peak_bytes, shape.completions),
    }  # fmt: skip


def ratios(seconds: dict[str, list[list[float]]], peak_bytes: dict[str, int], completions: int) -> dict[str, Any]:
    """Samples per second of either side, and how many times TRL's paribus's are: over all steps, and by round."""
    by_round = [median(trl) / median(ours) for ours, trl in zip(seconds["paribus"], seconds["trl"], strict=True)]
    every = {side: [step for steps in seconds[side] for step in steps] for side in SIDES}
    return {
        "samples_per_s": {
            side: {
                "median": completions / median(every[side]), "low": completions / max(every[side]),
                "high": completions / min(every[side]),
            }
            for side in SIDES
        },
        "speed_ratio": median(every["trl"]) / median(every["paribus"]),
        "speed_ratio_by_round": by_round,
        "memory_ratio": peak_bytes["paribus"] / peak_bytes["trl"],
    }  # fmt: skip


def render(results: Sequence[dict[str, Any]], threads: int) -> Table:
    table = Table(title="paribus beside TRL: training steps on this CPU, in turns", title_justify="left")
    table.add_column("workload")
    for heading in ("paribus samples/s", "TRL samples/s", "times TRL's speed", "paribus peak", "TRL peak",
                    "of TRL's memory", "of GEMM peak"):  # fmt: skip
        table.add_column(heading, justify="right")
    for result in results:
        rounds, peaks = result["speed_ratio_by_round"], result["peak_bytes"]
        table.add_row(
            f"{result['workload']} (TRL {result['trl']})",
            *(f"{s['median']:.3g} ({s['low']:.3g}–{s['high']:.3g})" for s in result["samples_per_s"].values()),
            f"{result['speed_ratio']:.2f}× ({min(rounds):.2f}–{max(rounds):.2f})",
            *(f"{peaks[side] / 1e9:.2f} GB" for side in SIDES),
            f"{result['memory_ratio']:.0%}", f"{result['flop_utilisation']:.0%}",
        )  # fmt: skip
    table.caption = (
        f"{threads} threads. Samples/s: median (lowest–highest) of the timed steps. Speed: ratio of the medians "
        "(lowest–highest of a round's). Peak: largest resident set. The side that waited used at most "
        f"{max(result['waiting_cpu_share'] for result in results):.1%} of a core."
    )
    return table


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workloads", default=",".join(WORKLOADS), help="some of %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds (%(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="threads of either side (%(default)s)")
    parser.add_argument("--trl-micro-batches", type=int, help="parts of TRL's update, instead of the fewest that fit")
    parser.add_argument("--json", type=Path, help="write everything measured here as well")
    parser.add_argument("--keep", type=Path, help="keep the workers' logs and the tiny model in this folder")
    options = parser.parse_args(arguments)
    options.workloads = options.workloads.split(",")
    if unknown := [name for name in options.workloads if name not in WORKLOADS]:
        parser.error(f"--workloads {unknown[0]}: accepted: {', '.join(WORKLOADS)}")
    if min(options.rounds, options.threads, options.trl_micro_batches or 1) < 1:
        parser.error("--rounds, --threads, --trl-micro-batches: accepted: 1 or more")
    return options


def main() -> int:
    options = parse()
    with ExitStack() as stack:
        work = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        work.mkdir(parents=True, exist_ok=True)
        start = time.monotonic()
        try:
            results = [
                compare(
                    name, rounds=options.rounds, threads=options.threads, micro_batches=options.trl_micro_batches,
                    work=work,
                )
                for name in options.workloads
            ]  # fmt: skip
        except (UserError, WorkerEnded) as error:
            print(f"compare-trl: {error}", file=sys.stderr)
            return error.exit_code if isinstance(error, UserError) else 1
    out.print(render(results, options.threads))
    if options.json:
        versions = {package: metadata.version(package) for package in LOCKED}
        environment = {**describe(), "packages": versions}
        report = {
            "threads": options.threads, "rounds": options.rounds, "seconds": time.monotonic() - start,
            "environment": environment, "workloads": results,
        }  # fmt: skip
        write_json(options.json, report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
