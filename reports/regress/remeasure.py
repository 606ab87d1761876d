"""A performance gate that trips is measured once more, with the code of the baseline and this code in turns.

A baseline's seconds come from another day. Whether the code became slower or the machine did is settled on one machine
within the same minutes: `paribus profile` of both checkouts, alternately, so that whatever else the machine does meets
both. Each checkout reads the settings itself, as a file with only what differs from the defaults, so that an older
one is not asked for settings it does not know.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from reports.record.errors import EvidenceError, UserError
from reports.record.identity import MEMORY, STEP_TIME
from reports.record.journal import read_json
from reports.regress.gates import Gate, Outcome, memory, relative, step_time
from reports.regress.judge import Regression

ROUNDS, STEPS = 3, 5
PATIENCE_S = 3600.0
HEAD = Path(__file__).resolve().parents[2]


def remeasured(
    regression: Regression, chosen: Mapping[str, Any], base: Path, *, rounds: int = ROUNDS, say: Callable[[str], None]
) -> Regression:
    """The same judgement with the tripped gates of time and memory judged by fresh measurements.

    chosen: the benchmark's settings that are not the defaults. base: a checkout of the code that the baseline stands
    for. Raises UserError where it is none, EvidenceError where one of the two cannot be measured.
    """
    if not (base / "harness" / "cli.py").is_file():
        raise UserError(f"--base-checkout {base}: not a checkout of paribus (no harness/cli.py in it)")
    arms = [gate.arm for gate in regression.gates if tripped(gate)]
    if not arms:
        return regression
    with tempfile.TemporaryDirectory() as folder:
        settings = Path(folder) / "settings.toml"
        settings.write_text(to_toml(chosen), encoding="utf-8")
        found = {}
        for arm in dict.fromkeys(arms):
            say(f"{arm}: measuring again, base and head in turns, {rounds} times each")
            found[arm] = in_turns(settings, arm, base, rounds)
    gates = tuple(again(gate, *found[gate.arm]) if tripped(gate) else gate for gate in regression.gates)
    return replace(regression, gates=gates)


def tripped(gate: Gate) -> bool:
    return gate.name in (STEP_TIME, MEMORY) and gate.outcome in (Outcome.REGRESSION, Outcome.UNDECIDED)


def in_turns(settings: Path, arm: str, base: Path, rounds: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What `paribus profile` says of (base, head), a figure per round."""
    pairs = [(measure(settings, arm, base.resolve()), measure(settings, arm, HEAD)) for _ in range(rounds)]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def measure(settings: Path, arm: str, checkout: Path) -> dict[str, Any]:
    figures = settings.with_name("profile.json")
    # -P: the folder that this runs in may be a checkout too, and would come before PYTHONPATH.
    command = [sys.executable, "-P", "-m", "harness.cli", "profile", str(settings), "--arm", arm, "--steps", str(STEPS)]
    try:
        done = subprocess.run(
            [*command, "--json", str(figures)], env={**os.environ, "PYTHONPATH": str(checkout)},
            capture_output=True, text=True, timeout=PATIENCE_S,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise EvidenceError(f"measuring {checkout} again took longer than {PATIENCE_S:.0f} s") from None
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["no word"]
        raise EvidenceError(f"measuring {checkout} again failed with exit code {done.returncode}: {said[-1][:300]}")
    result: dict[str, Any] = read_json(figures)
    return result


def again(gate: Gate, base: list[dict[str, Any]], head: list[dict[str, Any]]) -> Gate:
    """The gate judged by the figures of the rounds, in the place of seeds.

    A few steps in turns settle which code is slower. They see neither what grows over a run nor what only its longest
    completions need: memory that they do not show again stays unexplained. And no gate trips for being better.
    """
    key = {STEP_TIME: "step_s", MEMORY: "peak_bytes"}[gate.name]
    before, after = ({number: float(round_[key]) for number, round_ in enumerate(side)} for side in (base, head))
    if gate.name == STEP_TIME:
        judged = step_time(gate.arm, gate.name, before, after, machine=None)
    else:
        judged = memory(gate.arm, gate.name, before, after)
    sentence = f"measured again, base and head in turns: {judged.sentence}"
    if judged.outcome in (Outcome.PASS, Outcome.BETTER):
        judged = replace(judged, outcome=Outcome.PASS if gate.name == STEP_TIME else Outcome.UNDECIDED)
    if judged.outcome is Outcome.UNDECIDED and gate.name == MEMORY:
        assert gate.new is not None
        assert gate.base is not None
        sentence += f"; whole runs were {relative(gate.new, gate.base)}, which {STEPS} steps need not show"
    return replace(judged, sentence=sentence)


def to_toml(settings: Mapping[str, Any]) -> str:
    """A dotted key a line. What JSON writes of a value, TOML reads."""

    def lines(value: Any, name: str) -> Iterator[str]:
        if isinstance(value, dict):
            for key, item in value.items():
                yield from lines(item, f"{name}.{key}" if name else key)
        else:
            yield f"{name} = {json.dumps('none' if value is None else value, ensure_ascii=False)}\n"

    return "".join(lines(settings, ""))
