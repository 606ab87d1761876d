"""What a baseline holds, and that a file which is none is one clear line, whatever is in it."""

from __future__ import annotations

import contextlib
import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from synthetic_bench import read_json, write_bench, write_json

from reports.compare.comparison import compare, load
from reports.record.errors import EvidenceError, UserError
from reports.record.identity import stack
from reports.regress.baseline import MOST_BYTES, MOST_STEPS, Baseline, read, write
from reports.regress.fingerprint import curve, make

ACCURACY = "eval/synthetic_heldout/accuracy"


def made(folder: Path, **options: Any) -> Baseline:
    return make(compare(load(write_bench(folder, steps=20, **options))))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("baseline")
    write(folder / "baseline.json", made(folder / "bench"))
    return folder / "baseline.json"


def edited(tmp_path: Path, file: Path, *place: str | int, value: Any) -> Path:
    """The baseline with one value replaced; with ... as the value, the key is removed."""
    content = read_json(file)
    table = content
    for key in place[:-1]:
        table = table[key]
    if value is ...:
        del table[place[-1]]
    else:
        table[place[-1]] = value
    path = tmp_path / "edited.json"
    write_json(path, content)
    return path


def refused(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read(path)
    assert caught.value.exit_code == 2
    line = str(caught.value)
    assert len(line.splitlines()) == 1
    assert line.startswith(f"{path}: ")
    return line.removeprefix(f"{path}: ")


# --- what it holds ----------------------------------------------------------------------------------------------


def test_it_comes_back_from_its_file_as_it_was(tmp_path: Path) -> None:
    baseline = made(tmp_path / "bench")
    write(tmp_path / "baseline.json", baseline)
    assert read(tmp_path / "baseline.json") == baseline


def test_it_holds_every_seeds_value_with_mean_and_spread(file: Path) -> None:
    measure = read(file).arms["ppo"].metrics[ACCURACY]
    values = [measure.per_seed[seed] for seed in (0, 1, 2)]
    assert measure.n == 3
    assert measure.mean == pytest.approx(sum(values) / 3)
    assert measure.sd == pytest.approx(math.sqrt(sum((v - measure.mean) ** 2 for v in values) / 2))


def test_one_seed_has_no_spread(tmp_path: Path) -> None:
    assert made(tmp_path, seeds=(4,)).arms["grpo"].metrics[ACCURACY].sd is None


def test_it_is_small_enough_for_a_repository(file: Path) -> None:
    assert file.stat().st_size < 64 * 1024


def test_settings_that_leave_the_numbers_alone_are_not_part_of_it(tmp_path: Path) -> None:
    spec = {
        "model": {"name": "/home/me/model", "dtype": "float32"}, "seeds": [0, 1], "checkpoint": {"final": True},
        "arms": {"ppo": {"algorithm": "ppo", "reason": "words"}}, "eval": {"tasks": ["a", "b"]},
    }  # fmt: skip
    config = made(tmp_path, spec=spec).config
    assert config == {"model.dtype": "float32", "arms.ppo.algorithm": "ppo", "eval.tasks": ("a", "b")}


def test_vllm_is_part_of_the_versions_only_where_it_samples() -> None:
    packages = {"torch": "2.13.0+cpu", "vllm": "0.32.0"}
    bench = {"environment": {"python": "3.11.7", "packages": packages}, "arms": {"a": {"rollout": {"engine": "torch"}}}}
    assert stack(bench) == {"python": "3.11", "torch": "2.13.0"}
    bench["arms"]["a"]["rollout"]["engine"] = "vllm"
    assert stack(bench)["vllm"] == "0.32.0"


def test_only_runs_that_repeat_to_the_bit_leave_curves(tmp_path: Path) -> None:
    assert made(tmp_path / "cpu").arms["ppo"].curves
    on_gpu = {"device": "a GPU", "cuda": "12.8", "packages": {}}
    assert not made(tmp_path / "gpu", environment=on_gpu).arms["ppo"].curves
    by_time = {"currency": "device_seconds", "limit": 1.0}
    assert not made(tmp_path / "time", budget=by_time).arms["ppo"].curves


def test_what_is_measured_does_not_change_a_curve_and_the_last_bit_of_a_loss_does(tmp_path: Path) -> None:
    write_bench(tmp_path, steps=20)
    columns = make(compare(load(tmp_path))).arms["ppo"].columns
    path = tmp_path / "ppo-seed0" / "steps.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]

    def digest(**changes: float) -> str:
        changed = [*lines[:6], {**lines[6], **changes}, *lines[7:]]
        path.write_text("".join(f"{json.dumps(line)}\n" for line in changed))
        (run,) = (run for run in load(tmp_path).runs if (run.arm, run.seed) == ("ppo", 0))
        return curve(run, columns).sha256

    assert digest(**{"time/step_s": 9.0, "memory/rollout/peak_bytes": 1, "budget/device_seconds": 2.0}) == digest()
    assert digest(**{"policy/loss": math.nextafter(lines[6]["policy/loss"], 1)}) != digest()


def test_a_long_run_keeps_the_digests_of_its_first_steps_only(tmp_path: Path) -> None:
    write_bench(tmp_path, steps=MOST_STEPS + 20, seeds=(0,), arms=("ppo",))
    kept = make(compare(load(tmp_path))).arms["ppo"].curves[0]
    assert (kept.steps, len(kept.digests)) == (MOST_STEPS + 20, MOST_STEPS)


def test_without_learning_there_is_no_target(tmp_path: Path) -> None:
    write_bench(tmp_path, steps=20)
    for path in tmp_path.glob("ppo-seed*/steps.jsonl"):
        lines = [{**json.loads(line), "reward/mean": 0.5} for line in path.read_text().splitlines()]
        path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    arms = make(compare(load(tmp_path))).arms
    assert arms["ppo"].target is None
    assert arms["grpo"].target is not None


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"failures": {("ppo", 1): "diverged"}}, "ppo seed 1"),
        ({"failures": {("grpo", 2): "out_of_memory"}}, "grpo seed 2"),
        ({"nan_metric": "reward/mean"}, "reward/mean of ppo has no finite value for seed 0"),
        ({"matching": {"verdict": "not matched"}}, "cannot be a baseline: the arms differ"),
        ({"matching": {"verdict": "matched", "evidence": []}}, "starts"),
        ({"margin": None}, "margin"),
    ],
)
def test_unsound_evidence_is_no_baseline(tmp_path: Path, options: dict[str, Any], part: str) -> None:
    with pytest.raises(EvidenceError) as caught:
        made(tmp_path, **options)
    assert part.lower() in str(caught.value).lower()
    assert len(str(caught.value).splitlines()) == 1


# --- what is refused --------------------------------------------------------------------------------------------

SEED = ("arms", "ppo", "metrics", ACCURACY, "per_seed", "1")


@pytest.mark.parametrize(
    ("place", "value", "part"),
    [
        (("schema_version",), 2, "schema_version"),
        (("schema_version",), ..., "schema_version: missing"),
        (("surprise",), 1, "surprise: unknown key; accepted here: schema_version, key, config"),
        (("key", "surprise"), 1, "key.surprise: unknown key; accepted here: suite, config_sha256, stack, device"),
        (("key", "suite"), "../x", "key.suite"),
        (("key", "config_sha256"), "0" * 64, "key.config_sha256 is not the hash of config"),
        (("config", "rollout.prompts_per_step"), 17, "key.config_sha256 is not the hash of config"),
        (("margin",), 0, "margin"),
        (("gemm_s",), -1.0, "gemm_s"),
        (SEED, "0.5", "expected a number"),
        (SEED, 1e300, "per_seed"),
        (SEED, 0.99, "n, mean and sd do not follow from the values per seed"),
        (SEED, ..., "n, mean and sd do not follow"),
        (SEED[:-1], {}, "per_seed"),
        (("starts", "3"), {"weights": "a" * 64, "prompts": "b" * 64}, "not every table has the seeds 0, 1, 2, 3"),
        (("arms", "ppo", "curves", "0", "digests"), [], "expected 20 digests"),
        (("arms", "ppo", "curves", "0", "steps"), 10**9, "digests"),
        (("arms", "ppo", "metrics"), {}, "metrics"),
        (("arms",), [], "arms"),
    ],
)
def test_a_fault_is_named_by_its_key(tmp_path: Path, file: Path, place: Any, value: Any, part: str) -> None:
    assert part in refused(edited(tmp_path, file, *place, value=value))


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b"9" * 100_000, b'{"schema_version": NaN}', b"{}"],
)
def test_what_is_no_baseline_at_all_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.json").write_bytes(content)
    assert "not a baseline: " in refused(tmp_path / "x.json")


def test_a_huge_file_is_not_read_to_its_end(tmp_path: Path) -> None:
    with (tmp_path / "x.json").open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    assert refused(tmp_path / "x.json") == "larger than 4 MiB, so not a baseline"


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    assert "No such file" in refused(tmp_path / "none.json")
    assert "Is a directory" in refused(tmp_path)


def places(value: Any, where: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [where, *(place for key, item in items for place in places(item, (*where, key)))]


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from([10**30, -0.0, 1e308, "NaN"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_whatever_stands_in_its_place_a_baseline_is_read_or_refused_in_one_line(
    tmp_path: Path, file: Path, data: st.DataObject
) -> None:
    content = copy.deepcopy(read_json(file))
    place = data.draw(st.sampled_from(places(content)))
    value = data.draw(ANYTHING)
    if not place:
        content = value
    else:
        table = content
        for key in place[:-1]:
            table = table[key]
        table[place[-1]] = value
    path = tmp_path / "fuzzed.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    with contextlib.suppress(UserError):
        read(path)
        return
    assert len(refused(path)) < 1500


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
def test_any_bytes_are_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bytes.json").write_bytes(content)
    refused(tmp_path / "bytes.json")
