"""Downstream accuracy through lm-eval, with the policy's own sampler and the suite's own verifier.

A suite's held-out sets become lm-eval tasks; any other name is looked up among lm-eval's tasks. Decoding is greedy,
through the same engine and the same prompts for every arm. Three verdicts stand side by side: lm-eval's strict and
flexible extraction, and the verifier that gave the training reward, which is what `accuracy` means here. Global
random state is left as it was.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from harness.config.tables import EvalTable
from harness.engines.base import Completion, Engine, Request, Sampling
from harness.measure.budget import Spent
from harness.model.attention import plain_attention
from harness.model.policy import Policy
from harness.model.rng import random_state_kept
from harness.run.evaluate_sampled import sampled
from reports.record.errors import InfrastructureError, UserError
from suites.task import Prompt, Task

FLEXIBLE_PATTERN = r"(-?[$0-9.,]{2,})|(-?[0-9]+)"
IGNORED_IN_MATCH = [",", "\\$", "\\.$"]


def evaluate(
    policy: Policy, engine: Engine, task: Task, table: EvalTable, *, label: str, step: int, spent: Spent, cap: int
) -> list[dict[str, Any]]:
    """One record per task, in order: task, questions, metrics, samples, label, step, spent. cap: completion tokens."""
    heldout = task.heldout()
    own = {name: list(heldout[name])[: table.questions] for name in table.tasks if name in heldout}
    found = heldout_results(policy_lm(policy, engine, cap=cap), policy, task, own) if own else {}
    for name, prompts in own.items():
        metrics, rows = sampled(policy, engine, task, prompts, table, cap=cap)
        found[name]["metrics"] |= metrics
        found[name]["samples"] = [{**sample, **row} for sample, row in zip(found[name]["samples"], rows, strict=True)]
    for name in table.tasks:
        if name not in own:
            found[name] = lm_eval_result(policy_lm(policy, engine, cap=cap), name, table.questions)
    return [{**found[name], "label": label, "step": step, "spent": asdict(spent)} for name in table.tasks]


def heldout_results(
    lm: Any, policy: Policy, task: Task, sets: Mapping[str, Sequence[Prompt]]
) -> dict[str, dict[str, Any]]:
    """All of a suite's sets in one call of lm-eval, which takes a second or two whatever it evaluates."""
    chats = {prompt.chat for prompts in sets.values() for prompt in prompts}
    assert len(chats) == 1, "a suite's prompts are all chats or none is"
    lm.chat = chats.pop()
    rows = {
        name: [{"text": policy.render(prompt), "answer": prompt.answer} for prompt in prompts]
        for name, prompts in sets.items()
    }
    output = run_lm_eval(lm, [task_config(name, rows[name], task.strict_pattern) for name in sets], limit=None)
    return {name: heldout_result(lm, task, name, sets[name], rows[name], output["samples"][name]) for name in sets}


def heldout_result(
    lm: Any, task: Task, name: str, prompts: Sequence[Prompt], rows: list[dict[str, str]], logged: list[dict[str, Any]]
) -> dict[str, Any]:
    by_filter: dict[str, dict[int, float]] = {}
    for sample in logged:
        by_filter.setdefault(sample["filter"], {})[sample["doc_id"]] = float(sample["exact_match"])
    samples = []
    for index, (prompt, row) in enumerate(zip(prompts, rows, strict=True)):
        completion = lm.completions[row["text"]]
        reward = task.verify(completion.text, prompt.answer)
        samples.append({
            "id": prompt.id, "prompt": prompt.text, "answer": prompt.answer, "completion": completion.text,
            "correct": reward.correct, "extracted": reward.extracted, "truncated": completion.truncated,
            "strict": by_filter["strict-match"][index], "flexible": by_filter["flexible-extract"][index],
        })  # fmt: skip
    metrics = {
        "accuracy": mean(samples, lambda s: s["correct"]),
        "exact_match_strict": mean(samples, lambda s: s["strict"]),
        "exact_match_flexible": mean(samples, lambda s: s["flexible"]),
        "no_answer_fraction": mean(samples, lambda s: s["extracted"] is None),
        "truncated_fraction": mean(samples, lambda s: s["truncated"]),
    }
    return {"task": name, "questions": len(samples), "metrics": metrics, "samples": samples}


def lm_eval_result(lm: Any, name: str, limit: int) -> dict[str, Any]:
    """A task of lm-eval's own, with its own prompts and metrics; the first metric it reports is its `accuracy`."""
    output = run_lm_eval(lm, [name], limit=limit)
    values = {
        re.sub(r"[^A-Za-z0-9]+", "_", key.removesuffix(",none")): float(value)
        for key, value in output["results"][name].items()
        if isinstance(value, float) and "stderr" not in key
    }
    if not values:
        raise UserError(f"eval.tasks: {name!r} reports no metric of its own (a group of tasks?)")
    questions = output["n-samples"][name]["effective"]
    metrics = {"accuracy": next(iter(values.values())), **values}
    return {"task": name, "questions": questions, "metrics": metrics, "samples": []}


def task_config(name: str, rows: list[dict[str, str]], strict_pattern: str) -> dict[str, Any]:
    """An lm-eval task over rows in memory, matched and filtered as lm-eval's own gsm8k is."""
    from datasets import Dataset

    def extraction(label: str, **regex: Any) -> dict[str, Any]:
        return {"name": label, "filter": [{"function": "regex", **regex}, {"function": "take_first"}]}

    return {
        "task": name,
        "custom_dataset": lambda **_: {"test": Dataset.from_list(rows)},
        "output_type": "generate_until",
        "test_split": "test",
        # Functions, not templates: lm-eval compiles a template anew for every question.
        "doc_to_text": lambda doc: doc["text"],
        "doc_to_target": lambda doc: doc["answer"],
        "metric_list": [{
            "metric": "exact_match", "aggregation": "mean", "higher_is_better": True, "ignore_case": True,
            "ignore_punctuation": False, "regexes_to_ignore": IGNORED_IN_MATCH,
        }],
        "generation_kwargs": {"until": [], "do_sample": False, "temperature": 0.0},
        "filter_list": [
            extraction("strict-match", regex_pattern=strict_pattern),
            extraction("flexible-extract", regex_pattern=FLEXIBLE_PATTERN, group_select=-1),
        ],
        "metadata": {"version": 1.0},
    }  # fmt: skip


def run_lm_eval(lm: Any, tasks: Sequence[str | dict[str, Any]], *, limit: int | None) -> Any:
    """lm-eval's results for tasks given by name, or by configuration, whose samples are then kept."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    named = [task for task in tasks if isinstance(task, str)]
    manager = TaskManager(include_defaults=bool(named))
    if unknown := [name for name in named if name not in manager.all_tasks]:
        raise UserError(f"eval.tasks: {unknown[0]!r} is neither a held-out set of the suite nor a task of lm-eval")
    try:
        # lm-eval draws from the global generators even where it is told to seed none of them.
        with random_state_kept():
            return simple_evaluate(
                model=lm, tasks=list(tasks), limit=limit, log_samples=not named, bootstrap_iters=0,
                task_manager=manager, random_seed=None, numpy_random_seed=None, torch_random_seed=None,
            )  # fmt: skip
    except (OSError, ConnectionError) as error:
        raise InfrastructureError(f"eval.tasks: {', '.join(named)}: {str(error).splitlines()[0][:200]}") from None


def policy_lm(policy: Policy, engine: Engine, *, cap: int) -> Any:
    """The live policy as an lm-eval model: generation by our engine, likelihoods by lm-eval's own code."""
    # Imported here: lm-eval takes seconds to import, and only processes that evaluate pay for it.
    from lm_eval.models.huggingface import HFLM

    class PolicyLM(HFLM):
        chat = False

        def __init__(self) -> None:
            super().__init__(pretrained=policy.model, tokenizer=policy.tokenizer, batch_size=16)
            self.completions: dict[str, Completion] = {}

        def _model_call(self, *arguments: Any, **options: Any) -> Any:
            with plain_attention(policy.model):
                return super()._model_call(*arguments, **options)

        def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
            texts = [request.args[0] for request in requests]
            wanted = [Request(tuple(policy.encode_text(text, chat=self.chat)), 0) for text in texts]
            made = engine.generate(wanted, Sampling(temperature=0.0, max_tokens=cap))
            self.completions.update(zip(texts, made, strict=True))
            stops = [request.args[1].get("until") or [] for request in requests]
            return [cut_at(c.text, [s] if isinstance(s, str) else s) for c, s in zip(made, stops, strict=True)]

    return PolicyLM()


def cut_at(text: str, stops: Sequence[str]) -> str:
    for stop in stops:
        text = text.split(stop, 1)[0] if stop else text
    return text


def mean(samples: Sequence[dict[str, Any]], value: Callable[[dict[str, Any]], float]) -> float:
    return sum(map(value, samples)) / len(samples)
