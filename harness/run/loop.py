"""Train one run: rollout → reward → learning (`harness.learn.learner`) → record, until the budget is spent.

One loop for every algorithm and suite; it names none. What is random is keyed by suite, seed, step, prompt and sample,
so runs repeat to the bit on a CPU and the arms of a seed draw the same first completions. The measured step spans
everything from the first prompt to the last weight sync; evaluation, journals and tracking lie outside it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from algorithms.base import RolloutBatch
from harness.learn.learner import Learner
from harness.learn.optimizer import StepLog
from harness.learn.rollout import Rollout
from harness.measure.budget import Spent
from harness.measure.memory_tracker import MemoryTracker
from harness.measure.meter import Meter
from harness.run.collector import Collector, StepRollouts
from harness.run.parts import Parts
from harness.run.prompts import PromptStream

SAMPLES_KEPT_PER_STEP = 4


class Run:
    """A training run in progress. `step` does one step and returns its record."""

    def __init__(self, parts: Parts) -> None:
        spec, policy = parts.spec, parts.models.policy
        self.parts, self.spec = parts, spec
        self.meter = Meter(policy.device)
        self.spent = Spent()
        self.stream = PromptStream(parts.task.train(), (spec.suite.name, parts.seed))
        self.learner = Learner(
            spec, parts.seed, parts.algorithm, parts.models, self.meter, engine_is_exact=parts.engine.exact,
        )  # fmt: skip
        self.collector = Collector(parts, self.stream, self.meter, self.learner.cost)
        self.evidence: dict[str, str] = {"weights": policy.weights_sha256(), "prompts": self.stream.sha256()}
        self.samples: list[dict[str, Any]] = []

    def step(self) -> dict[str, Any]:
        number = self.spent.steps + 1
        log = StepLog()
        rollouts = self._phases(number, log)
        samples, per_prompt = rollouts.samples, self.spec.rollout.completions_per_prompt
        if number == 1:
            # The step's own prompts are the same in every arm; whether there are more is the algorithm's choice.
            first = samples[: self.spec.step_samples]
            tokens = repr([r.completion.token_ids for r in first]).encode()
            self.evidence["first_rollout"] = hashlib.sha256(tokens).hexdigest()
        self.samples = [sample_record(number, i, samples[i], per_prompt) for i in kept(samples)]
        return self._record(number, rollouts, log)

    def tracked_step(self) -> MemoryTracker:
        """What each phase of a step holds, by component.

        The next step is run ahead, tracked, and nothing is learnt from it: no weight moves, no randomness is used up,
        and it counts in no budget and in no timing, which tracking would distort.
        """
        tracker = MemoryTracker(self.parts.engine.held_bytes)
        with self.learner.rehearsal(tracker):
            self._phases(self.spent.steps + 1, StepLog())
        return tracker

    # Phases, in their order.

    def _phases(self, number: int, log: StepLog) -> StepRollouts:
        self.meter.start_step()
        rollouts = self.collector.collect(number)
        batch = rollouts.batch
        self.learner.learn(number, batch, log)
        with self.meter.phase("weight_sync"):
            self.parts.engine.sync()
        return rollouts

    def _record(self, number: int, rollouts: StepRollouts, log: StepLog) -> dict[str, Any]:
        seconds, charged, tokens = self.meter.step_seconds(), len(rollouts.charged), rollouts.generated_tokens
        self.spent = self.spent.plus(
            steps=1, prompts=len(rollouts.groups), samples=charged, generated_tokens=tokens,
            trained_tokens=int(rollouts.batch.loss_mask.sum()) * self.spec.update.epochs,
            flops=sum(self.meter.flops.values()), device_seconds=seconds, energy_joules=self.meter.step_joules(),
        )  # fmt: skip
        sampled = rollouts.batch if rollouts.kept is None else self.collector.collated(rollouts.groups)
        return {
            "step": number,
            **rollout_metrics(rollouts.samples, sampled),
            **round_metrics(rollouts),
            **{name: mean.value for name, mean in log.means.items()},
            **self.meter.metrics(step_seconds=seconds, samples=charged, generated_tokens=tokens),
            **self.spent.metrics(),
        }


def round_metrics(rollouts: StepRollouts) -> dict[str, float]:
    """What there is to say only of an algorithm that chooses its groups, or has greedy completions."""
    metrics: dict[str, float] = {}
    if rollouts.kept is not None:
        metrics["rollout/rounds"] = rollouts.rounds
        metrics["rollout/kept_fraction"] = rollouts.kept / len(rollouts.groups)
    if greedy := [group.greedy.reward.value for group in rollouts.groups if group.greedy]:
        metrics["reward/greedy_mean"] = sum(greedy) / len(greedy)
    return metrics


def rollout_metrics(rollouts: Sequence[Rollout], batch: RolloutBatch) -> dict[str, float]:
    groups = [batch.scores[batch.prompt_of == row] for row in range(batch.prompt_ids.shape[0])]
    alike = sum(bool((scores == scores[0]).all()) for scores in groups)
    lengths = [len(r.completion.token_ids) for r in rollouts]
    return {
        "reward/mean": float(batch.scores.mean()),
        "reward/std": float(batch.scores.std(correction=0)),
        "reward/correct_fraction": sum(r.reward.correct for r in rollouts) / len(rollouts),
        "reward/no_answer_fraction": sum(r.reward.extracted is None for r in rollouts) / len(rollouts),
        "group/zero_variance_fraction": alike / len(groups),
        "rollout/length_mean": sum(lengths) / len(lengths),
        "rollout/truncated_fraction": sum(r.completion.truncated for r in rollouts) / len(rollouts),
    }


def kept(rollouts: Sequence[Rollout]) -> range:
    return range(min(SAMPLES_KEPT_PER_STEP, len(rollouts)))


def sample_record(step: int, index: int, rollout: Rollout, per_prompt: int) -> dict[str, Any]:
    return {
        "step": step, "prompt_id": rollout.prompt.id, "sample": index % per_prompt, "prompt": rollout.prompt.text,
        "answer": rollout.prompt.answer, "completion": rollout.completion.text, "reward": rollout.reward.value,
        "correct": rollout.reward.correct, "extracted": rollout.reward.extracted,
        "truncated": rollout.completion.truncated,
    }  # fmt: skip
