"""Whether a benchmark is worse than a baseline: are the two comparable at all, then every gate, then one answer.

What differs in suite, settings, versions, initial weights or prompts makes the two incomparable, and is named: nothing
is judged (exit 3). Another device leaves quality comparable; time, memory and the bits of the curves are then "not
compared". What the baseline has and the benchmark lacks is "incomplete" (exit 3), never a pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from reports.compare import curves as series
from reports.compare.comparison import Comparison
from reports.record.errors import EvidenceError
from reports.record.faults import brief, one_line
from reports.record.identity import (
    MEMORY,
    REWARD,
    STEP_TIME,
    chosen_settings,
    device,
    is_accuracy,
    keyed_sampling,
    settings,
    stack,
    starts,
)
from reports.record.names import NOT_ENDED
from reports.record.reader import Run
from reports.regress.baseline import Arm, Baseline, keys_at
from reports.regress.fingerprint import curve, disturbed, gemm_seconds, steps_to, untrained
from reports.regress.gates import (
    CURVES,
    Gate,
    Outcome,
    curves,
    grading,
    incomplete,
    memory,
    quality,
    step_time,
    time_to_target,
)

SCHEMA_VERSION = 1
EXIT_PASS, EXIT_REGRESSION, EXIT_INCOMPLETE, EXIT_UNDECIDED = 0, 1, 3, 4


@dataclass(frozen=True)
class Regression:
    """A benchmark held against a baseline.

    mismatches: why the two cannot be compared; there are no gates then. device: what differs between the machines.
    """

    bench_id: str
    suite: str
    baseline: str
    mismatches: tuple[str, ...]
    device: tuple[str, ...]
    gates: tuple[Gate, ...]

    @property
    def outcome(self) -> Outcome:
        """The gravest of the gates'."""
        if self.mismatches:
            return Outcome.INCOMPLETE
        order = list(Outcome)
        return max((gate.outcome for gate in self.gates), key=order.index)

    @property
    def better(self) -> bool:
        return self.outcome not in (Outcome.REGRESSION, Outcome.INCOMPLETE) and bool(self.of(Outcome.BETTER))

    @property
    def offered(self) -> bool:
        """Whether this may be meant as the next baseline: better, or sound with curves of its own."""
        other = any(gate.name == CURVES for gate in self.of(Outcome.REGRESSION))
        return self.better or (other and not self.of(Outcome.INCOMPLETE))

    def of(self, outcome: Outcome) -> tuple[Gate, ...]:
        return tuple(gate for gate in self.gates if gate.outcome is outcome)

    def exit_code(self, *, strict: bool) -> int:
        """strict: not to be able to tell is no pass."""
        codes = {Outcome.REGRESSION: EXIT_REGRESSION, Outcome.INCOMPLETE: EXIT_INCOMPLETE}
        if strict and self.of(Outcome.UNDECIDED):
            codes[Outcome.UNDECIDED] = EXIT_UNDECIDED
        return codes.get(self.outcome, EXIT_PASS)

    def to_json(self) -> dict[str, Any]:
        return {
            "schema_version": SCHEMA_VERSION, "bench_id": self.bench_id, "suite": self.suite,
            "baseline": self.baseline, "outcome": self.outcome.value, "mismatches": list(self.mismatches),
            "other_device": list(self.device),
            "gates": [
                {"arm": gate.arm, "name": gate.name, "outcome": gate.outcome.value, "base": gate.base, "new": gate.new,
                 "unit": gate.unit, "sentence": gate.sentence}
                for gate in self.gates
            ],
        }  # fmt: skip


def judge(comparison: Comparison, baseline: Baseline) -> Regression:
    """Hold a benchmark against a baseline. EvidenceError where its record cannot be understood."""
    bench, provenance = comparison.bench, baseline.provenance
    try:
        different = tuple(mismatches(bench, baseline))
        elsewhere = tuple(other_device(bench, baseline))
        gates: tuple[Gate, ...] = ()
        if not different:
            gates = (*evidence(comparison, baseline), *all_gates(comparison, baseline, same_device=not elsewhere))
    except ValidationError as error:
        raise EvidenceError(f"{bench['bench_id']}: bench.json: {one_line(error, keys_at)}") from None
    return Regression(str(bench["bench_id"]), str(bench["suite"]), provenance.bench_id, different, elsewhere, gates)


def mismatches(bench: Mapping[str, Any], baseline: Baseline) -> Iterator[str]:
    """What makes the two incomparable, each named with both values."""
    key = baseline.key
    if bench["suite"] != key.suite:
        yield f"suite: {brief(key.suite)} in the baseline, {brief(bench['suite'])} here"
        return
    yield from other_settings(bench, baseline)
    yield from differing("version of ", key.stack, stack(bench))
    found = starts(bench)
    for seed, start in baseline.starts.items():
        if seed in found and found[seed].weights != start.weights:
            yield f"seed {seed} starts from other weights"
        if seed in found and found[seed].prompts != start.prompts:
            yield f"seed {seed} draws other prompts, or in another order"


def other_settings(bench: Mapping[str, Any], baseline: Baseline) -> Iterator[str]:
    """Settings that differ. One that is newer than the baseline and stands at its default is none."""
    here, base = settings(bench), baseline.config
    if newer := here.keys() - base.keys():
        chosen = settings({"spec": chosen_settings(bench)})
        here = {name: value for name, value in here.items() if name not in newer or name in chosen}
    yield from differing("", base, here)


def other_device(bench: Mapping[str, Any], baseline: Baseline) -> Iterator[str]:
    yield from differing("device ", vars(baseline.key.device), vars(device(bench)))


def differing(what: str, base: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """A phrase for each name whose values differ, or that only one side has."""

    def shown(side: Mapping[str, Any], name: str) -> str:
        value = side.get(name)
        return "not set" if value is None else brief(list(value) if isinstance(value, tuple) else value)

    for name in dict.fromkeys((*base, *new)):
        if base.get(name) != new.get(name):
            yield f"{what}{name}: {shown(base, name)} in the baseline, {shown(new, name)} here"


def evidence(comparison: Comparison, baseline: Baseline) -> Iterator[Gate]:
    """Whether every run of the baseline was run here to its end, and the benchmark holds as evidence.

    A run that something outside made fail says as little about the code as one that was interrupted, or whose journal
    is lost.
    """
    runs = {(run.arm, run.seed): run for run in comparison.runs}
    for arm in baseline.arms:
        found = [(seed, runs.get((arm, seed))) for seed in baseline.seeds]
        missing = [seed for seed, run in found if run is None or not says_something(run)]
        failed = [run for _, run in found if run is not None and says_something(run) and not run.finished]
        if failed:
            reasons = [f"seed {run.seed} {run.status.replace('_', ' ')}: {run.reason}" for run in failed]
            yield Gate(arm, "runs", Outcome.REGRESSION, "; ".join(reasons))
        if missing:
            yield incomplete(arm, "runs", missing)
        if not failed and not missing:
            yield Gate(arm, "runs", Outcome.PASS, f"all {len(found)} finished")
    if comparison.problem:
        yield Gate("", "evidence", Outcome.INCOMPLETE, comparison.problem)


def says_something(run: Run) -> bool:
    """Whether how a run ended says something about the code."""
    return run.status not in NOT_ENDED and not run.try_again and not (run.finished and run.history.empty)


def all_gates(comparison: Comparison, baseline: Baseline, *, same_device: bool) -> Iterator[Gate]:
    """Every quantity that the baseline has, arm by arm."""
    before_training = untrained(comparison)
    for task, accuracy in baseline.untrained.items():
        yield grading(
            task, accuracy, before_training.get(task), margin=baseline.margin, same_device=same_device
        )  # fmt: skip
    for name, arm in baseline.arms.items():
        ended = (run for run in comparison.runs if run.arm == name and run.finished)
        runs = {run.seed: run for run in ended if says_something(run)}
        yield from quality_gates(comparison, baseline, name, runs)
        if same_device:
            yield from machine_gates(comparison, baseline, name, runs)
        else:
            here = [quantity for quantity in (STEP_TIME, MEMORY) if quantity in arm.metrics]
            for quantity in [*here, *([CURVES] if arm.curves else [])]:
                yield Gate(name, quantity, Outcome.NOT_COMPARED, "other device: no baseline for this one")


def quality_gates(comparison: Comparison, baseline: Baseline, name: str, runs: Mapping[int, Run]) -> Iterator[Gate]:
    arm, paired = baseline.arms[name], keyed_sampling(comparison.bench)
    for quantity, measure in arm.metrics.items():
        if quantity == REWARD or is_accuracy(quantity):
            new = values_of(comparison, quantity, name)
            yield quality(
                name, quantity, measure.per_seed, new, margin=baseline.margin, paired=paired, unit=measure.unit
            )
    if arm.target is not None:
        steps = {seed: steps_to(run, arm.target.level, arm.target.window) for seed, run in runs.items()}
        lengths = {seed: float(len(run.history)) for seed, run in runs.items()}
        yield time_to_target(name, arm.target, steps, lengths, paired=paired)


def machine_gates(comparison: Comparison, baseline: Baseline, name: str, runs: Mapping[int, Run]) -> Iterator[Gate]:
    """Time, memory and bits, which are comparable on the same device only."""
    arm: Arm = baseline.arms[name]
    if STEP_TIME in arm.metrics:
        now, was = gemm_seconds(comparison), baseline.gemm_s
        yield step_time(
            name, STEP_TIME, arm.metrics[STEP_TIME].per_seed, values_of(comparison, STEP_TIME, name),
            machine=now / was if now and was else None,
            disturbed=(arm.disturbed, disturbed(comparison, name)),
        )  # fmt: skip
    if MEMORY in arm.metrics:
        if lost := [
            peak for peak in arm.peaks if any(not series.is_number(series.highest(run, peak)) for run in runs.values())
        ]:
            yield Gate(name, MEMORY, Outcome.INCOMPLETE, f"{lost[0]} is no longer recorded")
        else:
            yield memory(name, MEMORY, arm.metrics[MEMORY].per_seed, values_of(comparison, MEMORY, name))
    if arm.curves:
        lost = [column for column in arm.columns if any(column not in series.columns(run) for run in runs.values())]
        if lost:
            yield Gate(name, CURVES, Outcome.INCOMPLETE, f"{lost[0]} is no longer recorded")
        else:
            yield curves(name, arm.curves, {seed: curve(run, arm.columns) for seed, run in runs.items()})


def values_of(comparison: Comparison, quantity: str, arm: str) -> Mapping[int, float | None]:
    metric = comparison.metric(quantity)
    return metric.arms[arm].per_seed if metric is not None and arm in metric.arms else {}
