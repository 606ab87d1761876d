"""Train one run: rollout → reward → log-probabilities → credit → update → record, until the budget is spent.

One loop for every algorithm and suite; it names none. The critic is spoken of once per phase, where the algorithm
needs one. What is random is keyed by suite, seed, step, prompt and sample, so runs repeat to the bit on a CPU and
the arms of a seed draw the same first completions. The measured step spans everything from the first prompt to the
last weight sync; evaluation, journals and tracking lie outside it.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from harness.batch import Algorithm, Credit, RolloutBatch
from harness.budget import Spent
from harness.collate import collate, micro_batches
from harness.engines.base import Engine, Request, Sampling
from harness.flops import ForwardCost, step_forward_flops
from harness.meter import Meter, tensor_bytes
from harness.policy import Critic, Policy
from harness.prompts import PromptStream
from harness.spec import RunSpec
from harness.types import Rollout, Task, stable_hash
from harness.update import StepLog, Updater, Work, logprob_gap

SAMPLES_KEPT_PER_STEP = 4


@dataclass
class Parts:
    """What a run is made of. The critic and the reference exist only where something asks for them."""

    spec: RunSpec
    seed: int
    task: Task
    algorithm: Algorithm
    policy: Policy
    engine: Engine
    critic: Critic | None
    reference: Policy | None


class Run:
    """A training run in progress. `step` does one step and returns its record."""

    def __init__(self, parts: Parts) -> None:
        spec, policy = parts.spec, parts.policy
        self.parts, self.spec = parts, spec
        self.meter = Meter(policy.device)
        self.spent = Spent()
        self.stream = PromptStream(parts.task.train(), (spec.suite.name, parts.seed))
        self.updater = Updater(spec, parts.seed, parts.algorithm, policy, parts.critic, self.meter)
        self.cost = ForwardCost.of(policy.backbone, policy.head.weight.shape[0])
        self.evidence: dict[str, str] = {"weights": policy.weights_sha256(), "prompts": self.stream.sha256()}
        self.samples: list[dict[str, Any]] = []

    def step(self) -> dict[str, Any]:
        number = self.spent.steps + 1
        self.meter.start_step()
        log = StepLog()
        rollouts = self._rollout(number)
        mask_truncated = self.spec.rollout.truncated == "mask"
        batch = collate(self.parts.policy, rollouts, mask_truncated=mask_truncated)
        work = self._work(batch)
        batch = self._score(number, batch, work, log)
        credit = self._assign_credit(batch, work, log)
        self.updater.update(number, batch, credit, work, log, critic_is_done=self.updater.one_pass_critic)
        with self.meter.phase("weight_sync"):
            self.parts.engine.sync()
        return self._record(number, rollouts, batch, log)

    # Phases, in their order.

    def _rollout(self, number: int) -> list[Rollout]:
        spec, parts = self.spec, self.parts
        rollout = spec.rollout
        prompts = self.stream.take(number, rollout.prompts_per_step)
        with self.meter.phase("rollout"):
            ids = [parts.policy.encode(prompt, limit=rollout.max_prompt_tokens) for prompt in prompts]
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
        flops = step_forward_flops(self.cost, [len(tokens) for tokens in ids], responses, logits=True)
        self.meter.count("rollout", tokens=generated, flops=flops)
        rollouts = []
        with self.meter.phase("reward"):
            for (group, _), completion in zip(responses, completions, strict=True):
                reward = parts.task.verify(completion.text, prompts[group].answer)
                if completion.truncated and rollout.truncated == "zero":
                    reward = replace(reward, value=0.0, correct=False)
                rollouts.append(Rollout(prompts[group], ids[group], group, completion, reward))
        if number == 1:
            tokens = repr([r.completion.token_ids for r in rollouts]).encode()
            self.evidence["first_rollout"] = hashlib.sha256(tokens).hexdigest()
        self.samples = [sample_record(number, i, rollouts[i], rollout.completions_per_prompt) for i in kept(rollouts)]
        return rollouts

    def _work(self, batch: RolloutBatch) -> Work:
        prompt_lengths = batch.prompt_mask.sum(1).tolist()
        lengths = batch.mask.sum(1).long().tolist()
        responses = list(zip(batch.prompt_of.tolist(), lengths, strict=True))
        with_logits = step_forward_flops(self.cost, prompt_lengths, responses, logits=True)
        without = step_forward_flops(self.cost, prompt_lengths, responses, logits=False)
        return Work(sum(lengths), with_logits, without)

    @torch.no_grad()
    def _score(self, number: int, batch: RolloutBatch, work: Work, log: StepLog) -> RolloutBatch:
        """Old log-probabilities where they are needed before the update, and the reference's where KL is used.

        A penalty in the reward needs them too; an exact engine has already said them. Any other engine is held
        against the trainer every step, also in those in which a critic of its own alone is trained.
        """
        spec, parts = self.spec, self.parts
        critic_alone = self.updater.warming_up(number) and parts.critic is not None and not parts.critic.shared
        old = ref = None
        if spec.update.several or (not parts.engine.exact and (spec.kl.placement == "reward" or critic_alone)):
            with self.meter.phase("logprobs"):
                old = self._over_rows(batch, lambda part: policy_logprobs(parts.policy, part))
            self.meter.count("logprobs", tokens=work.tokens, flops=work.policy_forward)
            log.add("rollout/engine_logprob_gap", logprob_gap(old, batch))
        if parts.reference is not None:
            reference = parts.reference
            with self.meter.phase("reference"):
                ref = self._over_rows(batch, lambda part: policy_logprobs(reference, part))
            self.meter.count("reference", tokens=work.tokens, flops=work.policy_forward)
        return replace(batch, old_logprobs=old, ref_logprobs=ref)

    @torch.no_grad()
    def _assign_credit(self, batch: RolloutBatch, work: Work, log: StepLog) -> Credit:
        values = None
        critic = self.parts.critic
        if self.updater.one_pass_critic:
            values = self.updater.values_and_critic_update(batch, work, log)
        elif critic is not None:
            with self.meter.phase("values"):
                values = self._over_rows(batch, critic.values) * batch.mask
            self.meter.count("values", tokens=work.tokens, flops=work.trunk_forward)
        credit = self.parts.algorithm.assign_credit(batch, values)
        if values is not None and credit.returns is not None:
            explained = explained_variance(values, credit.returns, batch.mask)
            if explained is not None:
                log.add("critic/explained_variance", explained)
        return credit

    def _over_rows(self, batch: RolloutBatch, function: Callable[[RolloutBatch], Tensor]) -> Tensor:
        """`function` over micro-batches, put back in place: [B, T], 0 where no sequence reaches."""
        whole = torch.zeros_like(batch.mask)
        everything = torch.arange(batch.size, device=batch.mask.device)
        for rows in micro_batches(batch, everything, tokens=self.spec.update.micro_batch_tokens):
            part = batch.select(rows)
            whole[rows, : part.mask.shape[1]] = function(part)
        return whole

    def _record(self, number: int, rollouts: list[Rollout], batch: RolloutBatch, log: StepLog) -> dict[str, Any]:
        seconds = self.meter.step_seconds()
        generated = int(batch.mask.sum())
        self.spent = self.spent.plus(
            steps=1, prompts=batch.prompt_ids.shape[0], samples=batch.size, generated_tokens=generated,
            trained_tokens=int(batch.loss_mask.sum()) * self.spec.update.epochs,
            flops=sum(self.meter.flops.values()), device_seconds=seconds,
        )  # fmt: skip
        return {
            "step": number,
            **rollout_metrics(rollouts, batch),
            **{name: mean.value for name, mean in log.means.items()},
            **self.meter.metrics(step_seconds=seconds, samples=batch.size, generated_tokens=generated),
            **self._memory(log),
            **self.spent.metrics(),
        }

    def _memory(self, log: StepLog) -> dict[str, float]:
        """Bytes by component, exact from the tensors; they are the same in every phase but the gradients."""
        parts = self.parts
        weights = tensor_bytes(parts.policy.model.parameters())
        critic = tensor_bytes(parts.critic.parameters) if parts.critic is not None else 0
        trainees = [self.updater.policy_trainee, self.updater.critic_trainee]
        optimizer = sum(trainee.optimizer_bytes() for trainee in trainees if trainee is not None)
        memory = {"weights": weights, "critic": critic, "optimizer": optimizer}
        if parts.reference is not None:
            memory["reference"] = tensor_bytes(parts.reference.model.parameters())
        by_phase = {f"memory/{phase}/{k}_bytes": v for phase in self.meter.seconds for k, v in memory.items()}
        return {**by_phase, "memory/policy_update/gradients_bytes": log.gradient_bytes}


def policy_logprobs(policy: Policy, batch: RolloutBatch) -> Tensor:
    logprobs = policy.forward(batch).logprobs
    assert logprobs is not None
    return logprobs


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> float | None:
    """1 − Var(R − V) / Var(R) over valid tokens; None where all returns are alike and there is nothing to explain.

    Returns are formed as A + V, so equal ones differ in the last bits; that much counts as alike.
    """
    valid = mask.bool()
    returns, values = returns[valid].double(), values[valid].double()
    rounding = 1e-5 * max(float(returns.abs().max()), float(values.abs().max()))
    if float(returns.std(correction=0)) <= rounding:
        return None
    return float(1 - (returns - values).var(correction=0) / returns.var(correction=0))


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
