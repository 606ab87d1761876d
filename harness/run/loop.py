"""Train one run: rollout → reward → learning (`harness.learn.learner`) → record, until the budget is spent.

One loop for every algorithm and suite; it names none. What is random is keyed by suite, seed, step, prompt and sample,
so runs repeat to the bit on a CPU and the arms of a seed draw the same first completions. The measured step spans
everything from the first prompt to the last weight sync; evaluation, journals and tracking lie outside it.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from algorithms.base import RolloutBatch
from harness.engines.base import Request, Sampling
from harness.learn.batching import collate
from harness.learn.learner import Learner
from harness.learn.optimizer import StepLog
from harness.learn.rollout import Rollout
from harness.measure.budget import Spent
from harness.measure.flops import asked
from harness.measure.memory_tracker import MemoryTracker
from harness.measure.meter import Meter
from harness.run.parts import Parts
from harness.run.prompts import PromptStream
from suites.task import stable_hash

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
        self.evidence: dict[str, str] = {"weights": policy.weights_sha256(), "prompts": self.stream.sha256()}
        self.samples: list[dict[str, Any]] = []

    def step(self) -> dict[str, Any]:
        number = self.spent.steps + 1
        log = StepLog()
        rollouts, batch = self._phases(number, log)
        if number == 1:
            tokens = repr([r.completion.token_ids for r in rollouts]).encode()
            self.evidence["first_rollout"] = hashlib.sha256(tokens).hexdigest()
        per_prompt = self.spec.rollout.completions_per_prompt
        self.samples = [sample_record(number, i, rollouts[i], per_prompt) for i in kept(rollouts)]
        return self._record(number, rollouts, batch, log)

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

    def _phases(self, number: int, log: StepLog) -> tuple[list[Rollout], RolloutBatch]:
        self.meter.start_step()
        rollouts = self._rollout(number)
        mask_truncated = self.spec.rollout.truncated == "mask"
        batch = collate(self.parts.models.policy, rollouts, mask_truncated=mask_truncated)
        self.learner.learn(number, batch, log)
        with self.meter.phase("weight_sync"):
            self.parts.engine.sync()
        return rollouts, batch

    def _rollout(self, number: int) -> list[Rollout]:
        spec, parts = self.spec, self.parts
        rollout = spec.rollout
        prompts = self.stream.take(number, rollout.prompts_per_step)
        with self.meter.phase("rollout"):
            ids = [parts.models.policy.encode(prompt, limit=rollout.max_prompt_tokens) for prompt in prompts]
            requests = []
            # A small set can put a prompt into a step twice; its samples are numbered on, so that no two are alike.
            samples = {prompt.id: itertools.count() for prompt in prompts}
            for row, prompt in enumerate(prompts):
                for sample in itertools.islice(samples[prompt.id], rollout.completions_per_prompt):
                    key = stable_hash(spec.suite.name, parts.seed, number, prompt.id, sample)
                    requests.append(Request(ids[row], key))
            sampling = Sampling(rollout.temperature, rollout.max_completion_tokens, rollout.ignore_eos)
            completions = parts.engine.generate(requests, sampling)
            parts.engine.release()
        generated = sum(len(completion.token_ids) for completion in completions)
        responses = [(i // rollout.completions_per_prompt, len(c.token_ids)) for i, c in enumerate(completions)]
        cost, ran = self.learner.cost, parts.engine.ran
        useful = cost.forward(asked([len(tokens) for tokens in ids], responses))
        self.meter.count("rollout", tokens=generated, flops=useful, executed=cost.forward(ran) if ran else useful)
        rollouts = []
        with self.meter.phase("reward"):
            for (group, _), completion in zip(responses, completions, strict=True):
                reward = parts.task.verify(completion.text, prompts[group].answer)
                if completion.truncated and rollout.truncated == "zero":
                    reward = replace(reward, value=0.0, correct=False)
                rollouts.append(Rollout(prompts[group], ids[group], group, completion, reward))
        return rollouts

    def _record(self, number: int, rollouts: list[Rollout], batch: RolloutBatch, log: StepLog) -> dict[str, Any]:
        seconds = self.meter.step_seconds()
        generated = int(batch.mask.sum())
        self.spent = self.spent.plus(
            steps=1, prompts=batch.prompt_ids.shape[0], samples=batch.size, generated_tokens=generated,
            trained_tokens=int(batch.loss_mask.sum()) * self.spec.update.epochs,
            flops=sum(self.meter.flops.values()), device_seconds=seconds, energy_joules=self.meter.step_joules(),
        )  # fmt: skip
        return {
            "step": number,
            **rollout_metrics(rollouts, batch),
            **{name: mean.value for name, mean in log.means.items()},
            **self.meter.metrics(step_seconds=seconds, samples=batch.size, generated_tokens=generated),
            **self.spent.metrics(),
        }


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
