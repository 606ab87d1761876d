"""A step's rollouts: prompts → completions → rewards, in as many rounds as the algorithm asks for.

Most algorithms train on every group of the step's one round. One that keeps only some of its groups has further prompts
sampled in their place; one that compares with the greedy completion has one of each prompt. All of it is charged.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from algorithms.base import RolloutBatch
from harness.engines.base import Completion, Request, Sampling
from harness.learn.batching import collate
from harness.learn.rollout import Rollout
from harness.measure.flops import ForwardCost, asked
from harness.measure.meter import Meter
from harness.run.parts import Parts
from harness.run.prompts import PromptStream
from suites.task import Prompt, stable_hash

# After these a step trains on the groups that it has. verl's scripts for DAPO allow as many, and then end the run.
MOST_ROUNDS = 10


@dataclass(frozen=True)
class Group:
    """A prompt's graded completions: the samples, and the greedy one where the algorithm asks for it."""

    samples: list[Rollout]
    greedy: Rollout | None = None

    @property
    def charged(self) -> list[Rollout]:
        return [*self.samples, *([self.greedy] if self.greedy else [])]


@dataclass(frozen=True)
class StepRollouts:
    """What a step has sampled.

    groups: all of them, in the order of their prompts; the first round's are the step's own prompts. batch: the groups
    that are trained on. kept: their number, or None where the algorithm keeps all unasked.
    """

    groups: list[Group]
    batch: RolloutBatch
    rounds: int
    kept: int | None

    @property
    def samples(self) -> list[Rollout]:
        return [rollout for group in self.groups for rollout in group.samples]

    @property
    def charged(self) -> list[Rollout]:
        return [rollout for group in self.groups for rollout in group.charged]

    @property
    def generated_tokens(self) -> int:
        return sum(len(rollout.completion.token_ids) for rollout in self.charged)


class Collector:
    """Collects the rollouts of a run's steps."""

    def __init__(self, parts: Parts, stream: PromptStream, meter: Meter, cost: ForwardCost) -> None:
        self.parts, self.stream, self.meter, self.cost = parts, stream, meter, cost
        self.rollout = parts.spec.rollout

    def collect(self, number: int) -> StepRollouts:
        """number: the step's, from 1."""
        keep, wanted = self.parts.algorithm.keep, self.rollout.prompts_per_step
        # A small set can put a prompt into a step twice; its samples are numbered on, so that no two are alike.
        numbering: dict[str, Iterator[int]] = {}
        groups = self._round(number, self.stream.take(number, wanted), numbering, last=keep is None)
        if keep is None:
            return StepRollouts(groups, self.collated(groups), rounds=1, kept=None)
        kept, rounds = self._kept(groups, keep), 1
        while len(kept) < wanted and rounds < MOST_ROUNDS:
            prompts = self.stream.further(number, rounds, wanted - len(kept))
            further = self._round(number, prompts, numbering, last=False)
            groups, kept, rounds = groups + further, kept + self._kept(further, keep), rounds + 1
        with self.meter.phase("rollout"):
            self.parts.engine.release()
        batch = self.collated(kept) if kept else nothing_learnt(self.collated(groups[:wanted]))
        return StepRollouts(groups, batch, rounds, len(kept))

    def collated(self, groups: Sequence[Group]) -> RolloutBatch:
        """Groups as tensors, numbered in their order."""
        rollouts = [replace(sample, group=row) for row, group in enumerate(groups) for sample in group.samples]
        policy = self.parts.models.policy
        batch = collate(policy, rollouts, mask_truncated=self.rollout.truncated == "mask")
        if not self.parts.algorithm.needs_greedy:
            return batch
        scores = [group.greedy.reward.value for group in groups if group.greedy]
        return replace(batch, greedy_scores=torch.tensor(scores, device=batch.scores.device))

    def _kept(self, groups: Sequence[Group], keep: Callable[[RolloutBatch], torch.Tensor]) -> list[Group]:
        chosen = keep(self.collated(groups)).tolist()
        return [group for group, is_kept in zip(groups, chosen, strict=True) if is_kept]

    def _round(
        self, number: int, prompts: Sequence[Prompt], numbering: dict[str, Iterator[int]], *, last: bool
    ) -> list[Group]:
        """A group of each prompt. last: the engine is not asked for more in this step."""
        engine, rollout, each = self.parts.engine, self.rollout, self.rollout.completions_per_prompt
        sampling = Sampling(rollout.temperature, rollout.max_completion_tokens, rollout.ignore_eos)
        with self.meter.phase("rollout"):
            ids = [self.parts.models.policy.encode(prompt, limit=rollout.max_prompt_tokens) for prompt in prompts]
            completions = engine.generate(self._requests(number, prompts, ids, numbering), sampling)
            ran = [engine.ran]
            greedy: list[Completion] = []
            if self.parts.algorithm.needs_greedy:
                greedy = engine.generate([Request(tokens, 0) for tokens in ids], sampling._replace(temperature=0.0))
                ran.append(engine.ran)
            if last:
                engine.release()
        rows = [*(i // each for i in range(len(completions))), *range(len(greedy))]
        lengths = [len(completion.token_ids) for completion in (*completions, *greedy)]
        useful = self.cost.forward(asked([len(tokens) for tokens in ids], zip(rows, lengths, strict=True)))
        executed = sum(self.cost.forward(shape) for shape in ran if shape) if all(ran) else useful
        self.meter.count("rollout", tokens=sum(lengths), flops=useful, executed=executed)
        with self.meter.phase("reward"):
            graded = [
                self._graded(prompts[row], ids[row], row, completion)
                for row, completion in zip(rows, (*completions, *greedy), strict=True)
            ]
        groups = [Group(graded[row * each : (row + 1) * each]) for row in range(len(prompts))]
        best = graded[len(completions) :]
        return [replace(group, greedy=best[row]) for row, group in enumerate(groups)] if best else groups

    def _requests(
        self,
        number: int,
        prompts: Sequence[Prompt],
        ids: Sequence[tuple[int, ...]],
        numbering: dict[str, Iterator[int]],
    ) -> list[Request]:
        """The samples of each prompt, numbered on from those that it has in this step already."""
        suite, seed = self.parts.spec.suite.name, self.parts.seed
        return [
            Request(tokens, stable_hash(suite, seed, number, prompt.id, sample))
            for prompt, tokens in zip(prompts, ids, strict=True)
            for sample in itertools.islice(
                numbering.setdefault(prompt.id, itertools.count()), self.rollout.completions_per_prompt
            )
        ]

    def _graded(self, prompt: Prompt, ids: tuple[int, ...], group: int, completion: Completion) -> Rollout:
        reward = self.parts.task.verify(completion.text, prompt.answer)
        if completion.truncated and self.rollout.truncated == "zero":
            reward = replace(reward, value=0.0, correct=False)
        return Rollout(prompt, ids, group, completion, reward)


def nothing_learnt(batch: RolloutBatch) -> RolloutBatch:
    """The batch with every sequence left out of the loss."""
    return replace(batch, loss_mask=torch.zeros_like(batch.loss_mask))
