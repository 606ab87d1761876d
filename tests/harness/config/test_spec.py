"""A benchmark file in, a validated benchmark or one line about its first fault out."""

from __future__ import annotations

import copy
import json
import string
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from hypothesis import given
from hypothesis import strategies as st

from algorithms.settings import Table
from harness.config.file import load_bench, overlay, parse_override, profiles_of
from harness.config.tables import ARM_TABLES, BenchSpec
from reports.record.errors import UserError
from reports.record.faults import brief
from reports.record.names import CURRENCIES

SUITES = Path(__file__).parents[3] / "suites"
ARITHMETIC = SUITES / "arithmetic.toml"
DEMO = """
seeds = [0, 1]
[suite]
name = "demo"
task = "arithmetic"
[model]
name = "package://suites/arithmetic_base"
[budget]
samples = 64
memory_gib = 2.0
[eval]
tasks = ["arithmetic_heldout"]
[arms.ppo]
algorithm = "ppo"
[arms.grpo]
algorithm = "grpo"
[profiles.small]
seeds = [7]
budget = { steps = 2 }
rollout = { prompts_per_step = 2 }
[profiles.small.arms.ppo.critic]
gamma = 0.5
"""


def demo(folder: Path, text: str = "", *, old: str = "", new: str = "") -> Path:
    assert old in DEMO
    path = folder / "demo.toml"
    path.write_text(f"{text}\n{DEMO.replace(old, new, 1) if old else DEMO}", encoding="utf-8")
    return path


def fault(path: Path, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        load_bench(path, **options)
    assert caught.value.exit_code == 2
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert len(message) < 2000
    return message.removeprefix(f"{path}: ")


def literals() -> list[tuple[str, str, tuple[str, ...]]]:
    found = []
    for name, field in BenchSpec.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Table):
            for key, inner in field.annotation.model_fields.items():
                if get_origin(inner.annotation) is Literal:
                    found.append((name, key, get_args(inner.annotation)))
    return found


LITERALS = literals()


def test_literals_are_found() -> None:
    assert ("rollout", "engine", ("torch", "vllm")) in LITERALS
    assert len(LITERALS) >= 8


@pytest.mark.parametrize(("table", "key", "values"), LITERALS)
def test_every_literal_is_accepted_and_any_other_is_refused_with_the_list(
    table: str, key: str, values: tuple[str, ...]
) -> None:
    for value in values:
        more = ["kl.coefficient=0.1"] if (table, key) == ("kl", "placement") and value != "none" else []
        spec = load_bench(ARITHMETIC, overrides=[f"{table}.{key}={value}", *more])
        assert getattr(getattr(spec, table), key) == value
    message = fault(ARITHMETIC, overrides=[f"{table}.{key}=frobnicate"])
    assert message.startswith(f"{table}.{key} = 'frobnicate': ")
    assert all(repr(value) in message for value in values)


@pytest.mark.parametrize("path", sorted(SUITES.glob("*.toml")), ids=lambda path: path.stem)
def test_every_shipped_suite_loads_with_every_profile(path: Path) -> None:
    for profile in (None, *profiles_of(path)):
        spec = load_bench(path, profile=profile)
        assert spec.suite.name == path.stem
        assert list(spec.arms) == ["ppo", "grpo"]


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("bogus=1", ["bogus: unknown key; accepted here: suite, model, rollout,"]),
        ("update.learning_rat=1", ["update.learning_rat: unknown key; accepted here: learning_rate, weight_decay,"]),
        ("arms.ppo.model={}", ["arms.ppo.model: unknown key; accepted here: algorithm, reason, rollout,"]),
        ("arms.ppo.update.lr=1", ["[arms.ppo]: update.lr: unknown key; accepted here: learning_rate,"]),
        ("arms.ppo.update.learning_rate=-1", ["[arms.ppo]: update.learning_rate = -1: ", "greater than 0"]),
        ("arms.PPO.algorithm=ppo", ["arms.PPO = 'PPO': ", "[a-z0-9]"]),
        ("arms.x={}", ["arms.x.algorithm: missing"]),
        ("arms.ppo.reason=' '", ["arms.ppo.reason = ' ': "]),
        ("update.learning_rate=fast", ["update.learning_rate = 'fast': expected a number"]),
        ("update.learning_rate=[1]", ["update.learning_rate = [1]: expected a number"]),
        ("update.epochs=1.5", ["update.epochs = 1.5: expected a whole number"]),
        ("update.epochs=true", ["update.epochs = True: expected a whole number"]),
        ("update.epochs='2'", ["update.epochs = '2': expected a whole number"]),
        ("checkpoint.final=1", ["checkpoint.final = 1: expected true or false"]),
        ("model.name=3", ["model.name = 3: expected a string"]),
        ("budget.samples=-1", ["budget.samples = -1: ", "greater than or equal to 1"]),
        ("budget.samples=0", ["budget.samples = 0: ", "greater than or equal to 1"]),
        ("budget.device_seconds=-0.5", ["budget.device_seconds = -0.5: ", "greater than 0"]),
        ("budget.device_seconds=inf", ["budget.device_seconds = inf: ", "finite"]),
        (f"budget.samples={10**300}", ["budget.samples = 1000", "less than or equal to 9007199254740992"]),
        ("budget={samples=1,steps=1}", ["budget: exactly one of device_seconds, ", "got samples, steps"]),
        ("suite.margin=nan", ["suite.margin = nan: "]),
        ("suite.contrasts=[['ppo','rloo']]", ["suite.contrasts: ['ppo', 'rloo']: no arm 'rloo'; accepted: ppo, grpo"]),
        ("suite.contrasts=[['ppo','ppo']]", ["suite.contrasts: ['ppo', 'ppo']: expected two different arms"]),
        ("suite.contrasts=[['ppo']]", ["suite.contrasts: ['ppo']: expected two different arms"]),
        (
            "suite.contrasts=[['ppo','grpo'],['grpo','ppo']]",
            ["suite.contrasts: ['grpo', 'ppo']: each pair once"],
        ),
        ("suite.contrasts=[]", ["suite.contrasts = []: expected at least one"]),
        ("suite.contrasts=[3]", ["suite.contrasts.0 = 3: expected an array"]),
        ("suite.contrasts=ppo", ["suite.contrasts = 'ppo': expected an array"]),
        ("critic.gamma=1.1", ["critic.gamma = 1.1: ", "less than or equal to 1"]),
        ("kl.coefficient=0.1", ["kl: ", "needs a placement (reward, loss)", "coefficient = 0.1, placement = 'none'"]),
        ("kl.placement=loss", ["kl: ", "coefficient = 0, placement = 'loss'"]),
        ("update.minibatches=129", ["[arms.ppo]: update.minibatches = 129: ", "only 128 samples"]),
        ("seeds=[]", ["seeds = []: expected at least one"]),
        ("seeds=[1,2,1]", ["seeds = [1, 2, 1]: each seed once"]),
        ("seeds=[0,-1]", ["seeds.1 = -1: ", "greater than or equal to 0"]),
        ("seeds=3", ["seeds = 3: expected an array"]),
        ("eval.tasks=[]", ["eval.tasks = []: expected at least one"]),
        ("update=3", ["update = 3: expected a table"]),
        ("arms=3", ["arms = 3: expected a table"]),
        ("arms.ppo=3", ["arms.ppo = 3: expected a table"]),
        ("arms.ppo.update=3", ["arms.ppo.update = 3: expected a table"]),
        ("regime=same_size", ["regime = 'same_size': ", "'same_batch' or 'same_gpu'"]),
        ("regime=same_gpu", ["regime = 'same_gpu' needs budget.memory_gib and budget.device_seconds"]),
        ("profiles.x={}", ["profiles: only the file itself has profiles"]),
        ("update.learning_rate", ["--set 'update.learning_rate': expected key=value"]),
        ("=1", ["--set '=1': expected key=value"]),
        ("update..epochs=1", ["--set 'update..epochs=1': expected key=value"]),
    ],
)
def test_a_fault_names_key_value_and_what_is_accepted(override: str, parts: list[str]) -> None:
    message = fault(ARITHMETIC, overrides=[override])
    assert message.startswith(parts[0])
    assert all(part in message for part in parts)


def test_an_empty_table_laid_over_a_table_changes_nothing() -> None:
    assert load_bench(ARITHMETIC, overrides=["arms={}"]) == load_bench(ARITHMETIC)


@pytest.mark.parametrize(
    ("old", "new", "part"),
    [
        (
            "samples = 64\n",
            "",
            "budget: exactly one of device_seconds, generated_tokens, samples, steps, flops; got none",
        ),
        ("samples = 64\n", "samples = 64\nsteps = 2\n", "budget: exactly one of "),
        ("[budget]\nsamples = 64\nmemory_gib = 2.0\n", "", "budget: missing"),
        ('task = "arithmetic"\n', "", "suite.task: missing"),
        ("seeds = [0, 1]", "seeds = [0, 1", "not TOML: "),
        ("seeds = [0, 1]", "seeds = [0]\nseeds = [1]", "not TOML: "),
        ("seeds = [0, 1]", f"seeds = {'9' * 5000}", "not TOML: "),
        ("seeds = [0, 1]", f"seeds = {'[' * 5000}", "tables or arrays nested too deep"),
        ("seeds = [0, 1]", f"seeds = {'a.' * 5000}a", "line 3: more than 100 dots"),
        ("seeds = [0, 1]", f"{'a.' * 5000}a = 1", "line 3: more than 100 dots"),
        ("seeds = [0, 1]", f"seeds = 0x{'f' * 50_000}", "seeds = a very large int: expected an array"),
    ],
)
def test_a_fault_of_the_file_is_one_line(tmp_path: Path, old: str, new: str, part: str) -> None:
    assert fault(demo(tmp_path, old=old, new=new)).startswith(part)


def test_contrasts_of_arms_that_are_not_run_go_with_them(tmp_path: Path) -> None:
    declared = 'contrasts = [["ppo", "grpo"], ["a", "grpo"]]'
    path = demo(tmp_path, old="[model]", new=f'{declared}\n[arms.a]\nalgorithm = "grpo"\n[model]')
    assert load_bench(path).suite.contrasts == (("ppo", "grpo"), ("a", "grpo"))
    assert load_bench(path, arms=["a", "grpo"]).suite.contrasts == (("a", "grpo"),)
    assert load_bench(path, arms=["ppo", "a"]).suite.contrasts is None


def test_broken_toml_names_the_line(tmp_path: Path) -> None:
    assert "line 4" in fault(demo(tmp_path, old='[suite]\nname = "demo"', new="[suite\nname = 1"))


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("profiles = 3", "profiles = 3: expected tables"),
        ("profiles.cpu = 3", "profiles.cpu = 3: expected a table"),
        ("profiles = [{ seeds = [0] }]", "profiles = [{'seeds': [0]}]: expected tables"),
    ],
)
@pytest.mark.parametrize("profile", [None, "cpu"])
def test_a_profile_that_is_no_table_is_refused(tmp_path: Path, text: str, part: str, profile: str | None) -> None:
    path = tmp_path / "b.toml"
    path.write_text(text, encoding="utf-8")
    assert fault(path, profile=profile).startswith(part)
    with pytest.raises(UserError) as caught:
        profiles_of(path)
    assert str(caught.value).startswith(f"{path}: {part}")


def test_profiles_of_a_broken_file_name_it_once(tmp_path: Path) -> None:
    (tmp_path / "b.toml").write_text("[", encoding="utf-8")
    for path in (tmp_path / "b.toml", tmp_path / "none.toml"):
        with pytest.raises(UserError) as caught:
            profiles_of(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert str(caught.value).count(str(path)) == 1


def test_a_missing_file_a_folder_and_bytes_that_are_no_text_are_unreadable(tmp_path: Path) -> None:
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    assert fault(tmp_path / "none.toml") == "cannot be read: No such file or directory"
    assert fault(tmp_path) == "cannot be read: Is a directory"
    assert fault(tmp_path / "bytes.toml").startswith("cannot be read: ")


def test_a_huge_value_is_shortened(tmp_path: Path) -> None:
    message = fault(demo(tmp_path, old="seeds = [0, 1]", new=f'seeds = "{"x" * 100_000}"'))
    assert message.startswith("seeds = 'xxx")
    assert len(message) < 200


def test_a_huge_unknown_key_is_shortened(tmp_path: Path) -> None:
    message = fault(demo(tmp_path, f"{'k' * 100_000} = 1"))
    assert message.startswith("kkk")
    assert "unknown key" in message


def test_several_faults_are_counted() -> None:
    assert fault(ARITHMETIC, overrides=["update.a=1", "kl.b=2"]).endswith(" (and 1 more)")


def test_an_unknown_profile_and_arm_are_refused_with_what_there_is(tmp_path: Path) -> None:
    path = demo(tmp_path)
    assert fault(path, profile="gpu") == "no profile 'gpu'; this file has: small"
    assert fault(SUITES / "sums.toml", profile="gpu") == "no profile 'gpu'; this file has: none"
    assert fault(path, arms=["ppo", "dpo"]) == "no arm 'dpo'; this file has: ppo, grpo"
    assert fault(path, arms=["ppo"], overrides=["arms=3"]).startswith("arms = 3: expected a table")


def test_arms_and_seeds_can_be_chosen(tmp_path: Path) -> None:
    path = demo(tmp_path)
    spec = load_bench(path, arms=["grpo", "ppo"], seeds=[5, 3])
    assert list(spec.arms) == ["grpo", "ppo"]
    assert spec.seeds == (5, 3)
    assert list(load_bench(path, arms=["grpo"]).arms) == ["grpo"]
    assert load_bench(path).seeds == (0, 1)
    assert fault(path, seeds=[4, 4]) == "seeds = [4, 4]: each seed once"


def test_a_profile_lies_over_the_file_and_overrides_over_the_profile(tmp_path: Path) -> None:
    path = demo(tmp_path)
    plain, small = load_bench(path), load_bench(path, profile="small")
    assert (plain.budget.currency, plain.budget.limit) == ("samples", 64.0)
    assert (small.budget.currency, small.budget.limit, small.budget.memory_gib) == ("steps", 2.0, 2.0)
    assert small.seeds == (7,)
    assert small.rollout == plain.rollout.model_copy(update={"prompts_per_step": 2})
    assert small.run_spec("ppo").critic.gamma == 0.5
    assert small.run_spec("grpo").critic.gamma == 1.0
    over = load_bench(path, profile="small", overrides=["rollout.prompts_per_step=3", "rollout.prompts_per_step=4"])
    assert over.rollout.prompts_per_step == 4


@pytest.mark.parametrize("currency", CURRENCIES)
def test_an_override_of_the_budget_replaces_its_currency_and_keeps_the_memory_cap(
    tmp_path: Path, currency: str
) -> None:
    budget = load_bench(demo(tmp_path), overrides=[f"budget.{currency}=9"]).budget
    assert (budget.currency, budget.limit, budget.memory_gib) == (currency, 9.0, 2.0)
    assert load_bench(demo(tmp_path), overrides=["budget.memory_gib=3"]).budget.currency == "samples"


def test_an_arm_named_like_a_table_is_an_arm(tmp_path: Path) -> None:
    path = demo(tmp_path, old="[arms.ppo]", new="[arms.budget]\nalgorithm = 'ppo'\nupdate = { epochs = 2 }\n[arms.ppo]")
    spec = load_bench(path, overrides=["arms.budget.update.minibatches=2"])
    assert (spec.run_spec("budget").update.epochs, spec.run_spec("budget").update.minibatches) == (2, 2)


def test_an_arm_reads_the_shared_tables_with_its_own_on_top() -> None:
    spec = load_bench(ARITHMETIC, overrides=["arms.ppo.update.learning_rate=1", "update.epochs=2"])
    ppo, grpo = spec.run_spec("ppo"), spec.run_spec("grpo")
    assert (ppo.update.learning_rate, ppo.update.epochs) == (1.0, 2)
    assert (grpo.update.learning_rate, grpo.update.epochs) == (1.5e-6, 2)
    assert (ppo.arm, ppo.algorithm, ppo.step_samples) == ("ppo", "ppo", 128)


@pytest.mark.parametrize("table", ARM_TABLES)
def test_an_arm_may_have_each_of_its_tables(table: str) -> None:
    key = {"rollout": "engine_batch", "kl": "estimator", "advantage": "group_std", "critic": "warmup_steps"}.get(
        table, "epochs"
    )
    value: Any = {"estimator": "k1", "group_std": False}.get(key, 7)
    written = json.dumps(value)
    spec = load_bench(ARITHMETIC, overrides=[f"arms.grpo.{table}.{key}={written}"])
    assert getattr(getattr(spec.run_spec("grpo"), table), key) == value
    assert getattr(getattr(spec.run_spec("ppo"), table), key) != value


def test_value_clipping_can_be_turned_off_in_toml() -> None:
    spec = load_bench(ARITHMETIC, overrides=["critic.value_clip=none"])
    assert spec.critic.value_clip is None
    assert spec.run_spec("ppo").critic.value_clip is None
    assert load_bench(ARITHMETIC).critic.value_clip == 0.2


def test_a_resolved_benchmark_survives_json() -> None:
    spec = load_bench(ARITHMETIC, overrides=["critic.value_clip=none"])
    assert BenchSpec.model_validate_json(spec.model_dump_json()) == spec


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4), ("3", 3), ("true", True), ("'3'", "3"), ("k3", "k3"), ("[1, 2]", [1, 2]), ("", ""),
        ("a=b", "a=b"), ("~/models/x", "~/models/x"), (" x ", "x"), ("9" * 5000, "9" * 5000),
    ],
)  # fmt: skip
def test_an_override_is_a_toml_value_or_a_bare_word(text: str, value: object) -> None:
    assert parse_override(f"a.b = {text}" if not text.startswith(" ") else f"a.b={text}") == {"a": {"b": value}}


WORD = st.text(string.ascii_lowercase + "_", min_size=1, max_size=6)
LEAF = st.one_of(st.integers(-(2**53), 2**53), st.floats(allow_nan=False), st.booleans(), st.text(max_size=9))
TREE = st.recursive(
    st.dictionaries(WORD, LEAF, max_size=3), lambda inner: st.dictionaries(WORD, inner | LEAF, max_size=3), max_leaves=8
)


@given(st.lists(WORD, min_size=1, max_size=4), LEAF.filter(lambda leaf: "\x7f" not in str(leaf)))
def test_overrides_nest_any_key_and_value(keys: list[str], value: object) -> None:
    nested = parse_override(f"{'.'.join(keys)}={json.dumps(value, ensure_ascii=True)}".replace("Infinity", "inf"))
    for key in keys:
        nested = nested[key]
    # JSON's surrogate pairs are no TOML; such a text is taken as it stands.
    if not (isinstance(value, str) and any(ord(char) > 0xFFFF for char in value)):
        assert nested == value
        assert type(nested) is type(value)


@given(TREE, TREE)
def test_an_overlay_wins_leaf_by_leaf_and_leaves_its_base_alone(base: dict[str, Any], top: dict[str, Any]) -> None:
    before = copy.deepcopy(base)
    result = overlay(base, top)
    assert base == before
    assert overlay(base, {}) == base
    assert overlay(result, top) == result

    def check(below: Any, above: dict[str, Any], got: dict[str, Any]) -> None:
        below = below if isinstance(below, dict) else {}
        assert set(got) == set(below) | set(above)
        for key, value in got.items():
            if key not in above:
                assert value == below[key]
            elif isinstance(above[key], dict) and isinstance(below.get(key), dict):
                check(below[key], above[key], value)
            else:
                assert value == above[key]

    check(base, top, result)


ANYTHING = st.recursive(
    st.one_of(st.integers(), st.floats(), st.booleans(), st.text(max_size=20), st.dates()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
KEYS = [
    name if sub is None else f"{name}.{sub}"
    for name, field in BenchSpec.model_fields.items()
    for sub in (
        None,
        *(
            field.annotation.model_fields
            if isinstance(field.annotation, type) and issubclass(field.annotation, Table)
            else ()
        ),
    )
] + [f"arms.ppo.{name}" for name in (*ARM_TABLES, "algorithm", "reason")]


@given(st.sampled_from(KEYS), ANYTHING)
def test_whatever_stands_at_a_key_loading_ends_in_a_benchmark_or_a_user_error(key: str, value: Any) -> None:
    from harness.config import file as module

    nested: Any = value
    for part in reversed(key.split(".")):
        nested = {part: nested}
    raw = overlay(module.read_toml(ARITHMETIC), nested)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "read_toml", lambda path: raw)
        try:
            spec = load_bench(ARITHMETIC)
        except UserError as error:
            message = str(error)
        else:
            message = f"{ARITHMETIC}: "
            assert all(spec.run_spec(arm).arm == arm for arm in spec.arms)
    assert message.startswith(f"{ARITHMETIC}: ")
    assert len(message) < 1000


@given(st.binary(max_size=200))
def test_any_bytes_load_or_are_a_user_error(data: bytes) -> None:
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        path = Path(folder) / "x.toml"
        path.write_bytes(data)
        with pytest.raises(UserError):
            load_bench(path)


def test_brief_is_short_whatever_it_is_given() -> None:
    deep: Any = 0
    for _ in range(5000):
        deep = [deep]
    for value in ("x" * 10**6, 10**10_000, deep, {str(n): n for n in range(10**4)}, list(range(10**4)), b"x" * 10**6):
        assert len(brief(value)) <= 200
    assert brief("a\nb") == "'a\\nb'"


@pytest.mark.parametrize("name", ["https://u:hunter2@host/x", "hf://a/b", " package://a/b"])
def test_a_model_that_is_an_address_is_refused_without_being_repeated(name: str) -> None:
    message = fault(ARITHMETIC, overrides=[f"model.name='{name}'"])
    assert message == "model.name: expected a hub id, a folder or package://PACKAGE/PATH"


def test_toml_that_would_take_long_to_read_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "long.toml"
    deep = ".".join("a" * 16_000)
    for text, said in (
        (f"x = 1\n{deep} = 1", "line 2: more than 100 dots"),
        ("#" + "é" * (64 << 10), "larger than 128 KiB"),
        ("#" * (128 << 10) + "#", "larger than 128 KiB"),
    ):
        path.write_text(text, encoding="utf-8")
        assert fault(path) == said
    path.write_bytes(b"#" * (128 << 10))
    assert "missing" in fault(path)
    assert fault(Path("/dev/zero")) == "larger than 128 KiB"
    for override, said in (
        (f"{deep}=1", "a key of more than 100 parts"),
        (f"a={{{deep}=1}}", "line 1: more than 100 dots"),
        (f"a={'x' * (128 << 10)}", "larger than 128 KiB"),
    ):
        message = fault(ARITHMETIC, overrides=[override])
        assert message.endswith(f": {said}")
        assert len(message) < 400
    assert parse_override(f"{'.'.join('a' * 100)}=1")
