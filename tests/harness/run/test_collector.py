"""Greedy completions and groups that are chosen: what is trained on, what is charged, and where it ends."""

from __future__ import annotations

import pytest
import tiny
import torch

from harness.run.collector import MOST_ROUNDS
from reports.record.journal import MEASURED

PROMPTS, EACH = 4, 3
LEARNERS = {"grpo": {}, "ppo": {}, "ppo shared": {"kind": "shared"}}
each_learner = pytest.mark.parametrize("learner", LEARNERS)


def spec(learner="grpo", **tables):
    return tiny.spec(learner.split()[0], critic=LEARNERS[learner], **tables)


def determined(record):
    return {name: value for name, value in record.items() if not name.startswith(MEASURED)}


def with_greedy(algorithm):
    return algorithm._replace(needs_greedy=True)


def keeping(choose, seen=None):
    """The algorithm with a choice of its groups; what it chose from goes into `seen`."""

    def keep(batch):
        if seen is not None:
            seen.append(batch)
        return choose(batch)

    return lambda algorithm: algorithm._replace(keep=keep)


def everything(batch):
    return torch.ones(len(batch.prompt_ids), dtype=torch.bool)


def nothing(batch):
    return ~everything(batch)


def first_alone(batch):
    return torch.arange(len(batch.prompt_ids)) == 0


def watched(batches):
    """The algorithm, with the batches that credit is assigned to in `batches`."""

    def change(algorithm):
        def assign_credit(batch, values):
            batches.append(batch)
            return algorithm.assign_credit(batch, values)

        return algorithm._replace(assign_credit=assign_credit)

    return change


# Greedy completions.


@each_learner
def test_greedy_completions_are_charged_and_change_no_training(learner):
    settings = spec(learner)
    with tiny.training(settings) as plain, tiny.training(settings, change=with_greedy) as compared:
        for number in (1, 2):
            one, other = plain.step(), compared.step()
            learnt = ("policy/", "critic/", "group/", "rollout/", "kl/")
            assert {k: v for k, v in one.items() if k.startswith(learnt)} == {
                k: v for k, v in other.items() if k.startswith(learnt)
            }
            assert other["budget/samples"] == one["budget/samples"] + PROMPTS * number
            assert other["budget/prompts"] == one["budget/prompts"]
            assert other["budget/trained_tokens"] == one["budget/trained_tokens"]
            for axis in ("generated_tokens", "flops"):
                assert other[f"budget/{axis}"] > one[f"budget/{axis}"]
            assert "reward/greedy_mean" not in one
        assert plain.evidence == compared.evidence
        assert plain.parts.models.policy.weights_sha256() == compared.parts.models.policy.weights_sha256()


def test_a_greedy_score_is_the_reward_of_the_most_likely_completion_of_its_prompt():
    batches = []
    with tiny.training(spec(), change=lambda algorithm: watched(batches)(with_greedy(algorithm))) as run:
        policy, engine, asked = run.parts.models.policy, run.parts.engine, []
        generate = engine.generate

        def watch(requests, sampling):
            asked.append((requests, sampling, generate(requests, sampling)))
            return asked[-1][2]

        engine.generate = watch
        prompts = run.stream.take(1, PROMPTS)
        record = run.step()
    (_, sampled, _), (requests, greedy, completions) = asked
    assert (sampled.temperature, greedy.temperature) == (1.0, 0.0)
    assert [r.prompt_ids for r in requests] == [policy.encode(prompt, limit=24) for prompt in prompts]
    expected = [tiny.share_of_a(completion.text, "0").value for completion in completions]
    assert batches[0].greedy_scores.tolist() == pytest.approx(expected)
    assert record["reward/greedy_mean"] == pytest.approx(sum(expected) / PROMPTS)
    tokens = sum(len(c.token_ids) for _, _, found in asked for c in found)
    assert record["budget/generated_tokens"] == tokens


# Groups that are chosen.


@each_learner
def test_keeping_every_group_trains_on_the_same_to_the_bit(learner):
    settings = spec(learner, update={"epochs": 2, "minibatches": 2})
    plain = [determined(record) for record in tiny.records(2, settings)]
    chosen = []
    with tiny.training(settings, change=keeping(everything)) as run:
        for _ in range(2):
            record = determined(run.step())
            assert (record.pop("rollout/rounds"), record.pop("rollout/kept_fraction")) == (1, 1)
            chosen.append(record)
    assert chosen == plain


@each_learner
def test_a_step_is_filled_with_further_prompts_and_all_are_charged(learner):
    seen, batches = [], []
    change = keeping(first_alone, seen)
    with tiny.training(spec(learner), change=lambda algorithm: watched(batches)(change(algorithm))) as run:
        record = run.step()
    drawn = [len(batch.prompt_ids) for batch in seen]
    assert drawn == [4, 3, 2, 1]
    batch = batches[-1]
    assert sorted(set(batch.prompt_of.tolist())) == list(range(PROMPTS))
    assert batch.scores.tolist() == [score for each in seen for score in each.scores[each.prompt_of == 0].tolist()]
    assert record["rollout/rounds"] == 4
    assert record["rollout/kept_fraction"] == 4 / 10
    assert record["budget/prompts"] == 10
    assert record["budget/samples"] == 10 * EACH
    assert record["budget/generated_tokens"] == sum(int(each.mask.sum()) for each in seen)
    assert record["budget/trained_tokens"] == int(batch.loss_mask.sum())
    assert record["reward/mean"] == pytest.approx(float(torch.cat([each.scores for each in seen]).mean()))


def test_further_rounds_cost_flops_and_time():
    (plain,) = tiny.records(1, spec())
    with tiny.training(spec(), change=keeping(first_alone)) as run:
        record = run.step()
    assert record["flops/rollout/useful"] > 1.5 * plain["flops/rollout/useful"]
    assert record["flops/rollout/executed"] > 1.5 * plain["flops/rollout/executed"]
    assert record["time/rollout_s"] + record["time/reward_s"] < record["time/step_s"]


def test_no_two_samples_of_a_step_share_their_randomness_however_small_the_set():
    with tiny.training(spec(), of=tiny.task(prompts=2), change=keeping(first_alone)) as run:
        seeds, generate = [], run.parts.engine.generate

        def watch(requests, sampling):
            seeds.extend(request.seed for request in requests)
            return generate(requests, sampling)

        run.parts.engine.generate = watch
        run.step()
    assert len(seeds) == len(set(seeds)) == 10 * EACH


def test_the_rounds_are_bounded_and_the_step_then_trains_on_what_there_is():
    seen, batches = [], []

    def once(batch):
        return first_alone(batch) if len(seen) == 1 else nothing(batch)

    change = keeping(once, seen)
    with tiny.training(spec(), change=lambda algorithm: watched(batches)(change(algorithm))) as run:
        record = run.step()
    assert len(seen) == MOST_ROUNDS == record["rollout/rounds"]
    assert [batch.size for batch in batches] == [EACH]
    assert record["rollout/kept_fraction"] == 1 / (4 + 3 * (MOST_ROUNDS - 1))
    assert "policy/loss" in record


@each_learner
@pytest.mark.parametrize("update", [{}, {"epochs": 2, "minibatches": 4}], ids=["one update", "several updates"])
def test_a_step_that_keeps_nothing_is_charged_and_moves_nothing(learner, update):
    with tiny.training(spec(learner, update=update), change=keeping(nothing)) as run:
        before = run.parts.models.policy.weights_sha256()
        record = run.step()
        assert run.parts.models.policy.weights_sha256() == before
    assert record["rollout/kept_fraction"] == 0
    assert record["budget/trained_tokens"] == 0
    assert record["budget/samples"] == 4 * EACH * MOST_ROUNDS
    assert "policy/loss" not in record


@each_learner
def test_a_step_of_fewer_groups_than_minibatches_trains(learner):
    seen = []

    def once(batch):
        return first_alone(batch) if len(seen) == 1 else nothing(batch)

    update = {"minibatches": 6}
    with tiny.training(spec(learner, update=update), change=keeping(once, seen)) as run:
        record = run.step()
    assert record["budget/trained_tokens"] > 0
    assert "policy/loss" in record


def test_chosen_groups_repeat_to_the_bit_and_do_not_touch_later_prompts():
    with tiny.training(spec()) as plain, tiny.training(spec(), change=keeping(first_alone)) as chosen:
        for run in (plain, chosen):
            run.step()
            run.step()
        assert [s["prompt_id"] for s in plain.samples] == [s["prompt_id"] for s in chosen.samples]
        assert plain.evidence == chosen.evidence
    first, again = [], []
    for records in (first, again):
        with tiny.training(spec(), change=keeping(first_alone)) as run:
            records.extend(determined(run.step()) for _ in range(2))
    assert first == again


def test_a_rehearsal_samples_in_rounds_and_uses_nothing_up():
    with tiny.training(spec(), change=keeping(first_alone)) as run:
        run.step()
        tracker = run.tracked_step()
        spent = run.spent
        run.step()
        assert run.spent.steps == spent.steps + 1
    assert {"rollout", "policy_update"} <= set(tracker.peaks)


def test_greedy_scores_are_there_to_choose_by():
    seen = []
    change = keeping(lambda batch: batch.greedy_scores < 2, seen)
    with tiny.training(spec(), change=lambda algorithm: change(with_greedy(algorithm))) as run:
        record = run.step()
    assert [len(batch.greedy_scores) for batch in seen] == [PROMPTS]
    assert record["budget/samples"] == PROMPTS * (EACH + 1)
