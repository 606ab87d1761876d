"""What a plan foretells, against what a run then holds and computes."""

import pytest
import tiny
import torch
from transformers import AutoConfig

from harness.model.loading import SHAPES, load_config
from harness.model.weights import checkpoint_layers
from harness.plan.estimate import GIB, Target, need
from harness.plan.forecast import forecast
from harness.run.prompts import PromptStream
from reports.record.names import COMPONENTS

ARMS = {
    "grpo": ("grpo", {}),
    "ppo separate": ("ppo", {}),
    "ppo shared": ("ppo", {"kind": "shared"}),
}
SETTINGS = {
    "plain": {},
    "small micro-batches": {"update": {"micro_batch_tokens": 120}},
    "several updates, a reference": {
        "update": {"epochs": 2, "minibatches": 2},
        "kl": {"coefficient": 0.1, "placement": "loss"},
    },
    "checkpointed": {"update": {"gradient_checkpointing": True}},
}


def spec(arm, settings):
    algorithm, critic = ARMS[arm]
    rollout = {"prompts_per_step": 8, "completions_per_prompt": 6, "max_completion_tokens": 24, "ignore_eos": True}
    return tiny.spec(algorithm, rollout=rollout, critic=critic, **settings)


def foretold(settings, prompts=None, *, change=lambda algorithm: algorithm):
    config = tiny.policy().model.config
    algorithm = change(tiny.ALGORITHMS[settings.algorithm](settings))
    stream = PromptStream(tiny.task().train(), (settings.suite.name, 0))
    prompts = stream.take(2, settings.rollout.prompts_per_step) if prompts is None else prompts
    return forecast(settings, algorithm, config, on_gpu=False, tokenizer=tiny.tokenizer(), prompts=prompts)


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("arm", ARMS)
def test_every_phases_peak_is_foretold_within_a_tenth(arm, settings):
    chosen = spec(arm, SETTINGS[settings])
    start = tiny.policy()
    if chosen.update.gradient_checkpointing:
        checkpoint_layers(start.model)
    with tiny.training(chosen, start=start) as run:
        run.step()
        measured = run.tracked_step().by_phase()
        flops = dict(run.meter.flops)
    found = foretold(chosen)
    assert set(found.memory) == set(measured) - {"reward"}
    for phase, parts in found.memory.items():
        assert sum(parts.values()) == pytest.approx(measured[phase]["tracked"], rel=0.1), phase
    for component in ("weights", "critic", "reference", "gradients", "critic_gradients", "optimizer"):
        phase = "policy_update"
        assert found.memory[phase][component] == pytest.approx(measured[phase].get(component, 0), rel=0.01), component
    assert set(found.flops) == set(flops)
    for phase, count in flops.items():
        assert found.flops[phase] == pytest.approx(count, rel=0.02), phase


def test_greedy_completions_are_foretold():
    def change(algorithm):
        return algorithm._replace(needs_greedy=True)

    chosen = spec("grpo", {})
    with tiny.training(chosen, change=change) as run:
        run.step()
        record = run.step()
    plain, found = foretold(chosen), foretold(chosen, change=change)
    assert found.flops["rollout"] == pytest.approx(record["flops/rollout/useful"])
    assert found.flops["rollout"] > plain.flops["rollout"]
    assert found.flops["policy_update"] == plain.flops["policy_update"]
    assert (plain.samples, found.samples) == (48, 56) == (48, record["budget/samples"] / 2)


def test_a_forecast_leaves_no_trace_in_random_state_or_memory():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    found = foretold(spec("ppo separate", {}))
    assert torch.equal(torch.get_rng_state(), before)
    assert set(found.memory["rollout"]) == set(COMPONENTS)


def test_prompts_are_taken_to_be_at_their_limit_where_there_are_none():
    chosen = spec("grpo", {})
    assert foretold(chosen, prompts=[]).peak_bytes > foretold(chosen).peak_bytes


def test_the_critic_is_what_one_arm_holds_more():
    ppo, grpo = foretold(spec("ppo separate", {})), foretold(spec("grpo", {}))
    more = sum(ppo.memory["rollout"].values()) - sum(grpo.memory["rollout"].values())
    critic = sum(ppo.memory["rollout"][name] for name in ("critic", "critic_optimizer"))
    assert more == pytest.approx(critic, rel=0.02)
    assert ppo.flops["policy_update"] == grpo.flops["policy_update"]


@pytest.mark.parametrize("share", [0.5, 0.8])
def test_the_largest_micro_batch_that_fits_is_found_and_the_next_size_would_not(share):
    chosen = spec("grpo", {})
    algorithm, config = tiny.ALGORITHMS["grpo"](chosen), tiny.policy().model.config
    smallest, whole = (
        forecast(
            chosen.with_micro_batch(tokens),
            algorithm, config, on_gpu=False,
        ).peak_bytes
        for tokens in (48, 100_000)
    )  # fmt: skip
    cap = int(smallest + share * (whole - smallest))
    found = need(chosen, algorithm, config, None, Target("a cap", cap, None, on_gpu=False))
    assert not found.fits
    assert 48 < found.largest < found.whole
    assert need(chosen, algorithm, config, None, Target("more", whole, None, on_gpu=False)).largest == found.whole
    assert need(chosen, algorithm, config, None, Target("less", smallest // 2, None, on_gpu=False)).largest is None


# Parameters as their makers publish them, in millions.
PUBLISHED = {
    "Qwen/Qwen2.5-0.5B": 494, "Qwen/Qwen2.5-1.5B": 1544, "Qwen/Qwen2.5-3B": 3086, "Qwen/Qwen2.5-7B": 7616,
    "meta-llama/Llama-3.2-1B": 1236, "meta-llama/Llama-3.2-3B": 3213,
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_shapes_that_come_along_have_the_published_number_of_parameters(name, monkeypatch):
    from transformers import AutoModelForCausalLM

    def offline(*_, **__):
        raise OSError("no hub")

    monkeypatch.setattr(AutoConfig, "from_pretrained", offline)
    for variant in (name, f"{name}-Instruct"):
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(load_config(variant))
        assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(PUBLISHED[name], abs=1)


def test_only_the_shapes_that_come_along_are_known_without_a_hub(monkeypatch):
    from reports.record.errors import UserError

    def offline(*_, **__):
        raise OSError("no hub")

    monkeypatch.setattr(AutoConfig, "from_pretrained", offline)
    with pytest.raises(UserError, match=r"some/model.*Qwen/Qwen2.5-0.5B"):
        load_config("some/model")
    assert SHAPES.is_file()
    assert GIB == 2**30
