"""Records that somebody else wrote: they are taken, or refused in one line that names the file and the key."""

import copy
import json
import random
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from synthetic_bench import TASKS, read_json, write_bench, write_json

from reports.compare.comparison import compare
from reports.record.errors import EvidenceError, UserError
from reports.record.reader import load

EVALS = f"ppo-seed0/evals/final-{TASKS[0]}.json"
DEEP, LONG_NUMBER = "[" * 100_000, "9" * 5_000
ESCAPE = "\x1b[31m"
ODD = (None, True, -1, 10**30, 1e308, "", "NaN", ESCAPE, "x" * 400, [], {}, [[]], {"": 0})
# Of the odd values, how many stand in each place in turn.
DRAWN = 3


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small benchmark in which everything is recorded that a bench.json can hold."""
    folder = tmp_path_factory.mktemp("usual")
    return write_bench(
        folder, seeds=(0, 1), steps=6, questions=12, tasks=TASKS[:1], sampled=2,
        failures={("grpo", 1): "out_of_memory"},
        spec={"suite": {"target": 0.5}, "model": {"name": "made-up"}, "budget": {"samples": 768, "memory_gib": 2.0}},
        fit={"ppo": {"cap_bytes": 2**31, "tokens": 700, "smallest": 100, "whole": 4000, "tries": []}},
        resumed=[{"at": "2026-11-22T20:45:01Z", "command": "paribus bench", "git_commit": None}],
        combined=[{"bench_id": "a", "device": "cpu", "runs": 2}],
    )  # fmt: skip


@pytest.fixture
def folder(usual: Path, tmp_path: Path) -> Path:
    return shutil.copytree(usual, tmp_path / "own")


def refusal(folder: Path) -> str:
    with pytest.raises(EvidenceError) as caught:
        load(folder)
    said = str(caught.value)
    assert "\n" not in said
    assert ESCAPE not in said
    assert len(said) < 1000
    return said


def put(value: Any, dotted: str, new: Any) -> None:
    """A part of dotted keys that is a number is a place in a list."""
    *path, last = (int(part) if part.isdigit() else part for part in dotted.split("/"))
    for part in path:
        value = value[part]
    value[last] = new


def test_what_was_recorded_is_handed_on_as_it_stands(folder: Path) -> None:
    records = load(folder)
    assert records.bench == read_json(folder / "bench.json")
    assert list(records.base[TASKS[0]].samples) == read_json(folder / f"base/evals/base-{TASKS[0]}.json")["samples"]
    assert [run.try_again for run in records.runs] == [False] * 4


def test_a_run_that_something_outside_made_fail_is_worth_another_try(folder: Path) -> None:
    bench = read_json(folder / "bench.json")
    bench["runs"][1]["try_again"] = True
    write_json(folder / "bench.json", bench)
    assert [run.try_again for run in load(folder).runs] == [False, True, False, False]


@pytest.mark.parametrize("name", ["bench.json", EVALS, "ppo-seed0/steps.jsonl", "ppo-seed0/samples.jsonl"])
@pytest.mark.parametrize(
    ("content", "part"),
    [
        (DEEP, "nested too deep"),
        (LONG_NUMBER, "a number of thousands of digits"),
        (f'{{"step": {LONG_NUMBER}}}', "a number of thousands of digits"),
        ("\udcff", "UTF-8|utf-8"),
        ("[]", "not a JSON object"),
        (None, r"cannot be read \(Is a directory\)"),
    ],
    ids=["deep", "digits", "digits inside", "bytes", "list", "folder"],
)
def test_what_cannot_be_read_is_named(folder: Path, name: str, content: str | None, part: str) -> None:
    (folder / name).unlink()
    if content is None:
        (folder / name).mkdir()
    else:
        (folder / name).write_bytes(content.encode("utf-8", "surrogateescape") + b"\n")
    said = refusal(folder)
    assert f"{folder / name}{', line 1' if name.endswith('l') and content else ''}" in said
    assert re.search(part, said)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("matching", True),
        ("runs", float("nan")),
        ("runs", None),
        ("eval_tasks", [[]]),
        ("eval_tasks", [ESCAPE]),
        ("budget/limit", "NaN"),
        ("budget/limit", 10**400),
        ("budget/currency", ESCAPE),
        ("arms/ppo", ""),
        ("arms", ["ppo", "grpo"]),
        ("arms", {}),
        ("arms/ppo/rollout", "torch"),
        ("spec/suite/target", "NaN"),
        ("spec/a", [[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]),
        ("runs/0/conditions", "xxx"),
        ("runs/0/conditions", {"before": 1}),
        ("runs/0/seed", "0"),
        ("runs/0/spent/samples", 1e308),
        ("runs/0/out_of_memory_in", {"phase": "rollout"}),
        ("runs/0/steps", 10**10),
        ("runs/0/status", ESCAPE),
        ("runs/0/try_again", "yes"),
        ("matching/evidence/0", {"equal": True}),
        ("matching/evidence/0/weights/ppo", 7),
        ("environment", "a GPU"),
        ("environment/device", ESCAPE),
        ("environment/packages/torch", ESCAPE),
        ("bench_id", "a" * 5_000),
        ("bench_id", "../up"),
        ("bench_id", "a\n"),
        ("suite", ESCAPE),
        ("margin", "0.01"),
        ("schema_version", 10**4000),
    ],
)
def test_a_benchmark_that_makes_no_sense_is_refused(folder: Path, place: str, value: Any) -> None:
    bench = read_json(folder / "bench.json")
    put(bench, place, value)
    write_json(folder / "bench.json", bench)
    said = refusal(folder)
    assert said.startswith(f"{folder / 'bench.json'}: ")
    assert place.split("/")[0] in said


@pytest.mark.parametrize("key", ["regime", "profile", "created", "finished", "status", "command"])
def test_a_key_that_the_page_shows_may_be_null_but_not_missing(folder: Path, key: str) -> None:
    bench = read_json(folder / "bench.json")
    write_json(folder / "bench.json", {**bench, key: None})
    load(folder)
    del bench[key]
    write_json(folder / "bench.json", bench)
    assert refusal(folder) == f"{folder / 'bench.json'}: {key}: missing"


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("metrics/accuracy", "0.5"),
        ("metrics/accuracy", float("nan")),
        ("metrics", None),
        ("questions", 10**400),
        ("step", -1),
        ("spent", [1]),
        ("spent/samples", -1),
        ("task", ESCAPE),
        ("samples/3", []),
        ("samples/3/id", [1]),
        ("samples/3/correct", "yes"),
        ("samples/3/strict", 10**400),
        ("samples/3/completion", "x" * 2_000_001),
    ],
)
def test_an_evaluation_that_makes_no_sense_is_refused(folder: Path, place: str, value: Any) -> None:
    evaluation = read_json(folder / EVALS)
    put(evaluation, place, value)
    write_json(folder / EVALS, evaluation)
    said = refusal(folder)
    assert said.startswith(f"{folder / EVALS}: {place.replace('/', '.')}")


@pytest.mark.parametrize("name", ["steps.jsonl", "samples.jsonl"])
@pytest.mark.parametrize("step", [10**400, 10**10, -1, None, True, "1", 1.5])
def test_a_line_without_a_step_is_named(folder: Path, name: str, step: Any) -> None:
    path = folder / "ppo-seed0" / name
    path.write_text(f'{{"step": 1}}\n{json.dumps({"step": step})}\n')
    assert re.match(rf"{re.escape(str(path))}, line 2: .*step", refusal(folder))


@pytest.mark.parametrize("value", [10**400, 1e308, float("inf"), "1", True, [1], {}])
def test_a_value_of_a_step_that_is_no_number_is_named(folder: Path, value: Any) -> None:
    path = folder / "ppo-seed0/steps.jsonl"
    path.write_text(json.dumps({"step": 1, "reward/mean": value}) + "\n")
    assert refusal(folder).startswith(f"{path}, line 1: reward/mean = ")


def test_what_is_charged_to_a_budget_is_never_below_zero(folder: Path) -> None:
    path = folder / "ppo-seed0/steps.jsonl"
    path.write_text(json.dumps({"step": 1, "policy/loss": -1.0, "budget/samples": -1}) + "\n")
    assert refusal(folder) == f"{path}, line 1: budget/samples = -1: expected a number of at least 0"


def test_what_was_not_finite_is_named_beside_its_null(folder: Path) -> None:
    line = {"step": 1, "reward/mean": None, "nonfinite": ["reward/mean"]}
    (folder / "ppo-seed0/steps.jsonl").write_text(json.dumps(line) + "\n")
    assert load(folder).runs[0].history["reward/mean"].isna().all()


def test_a_name_too_long_for_a_folder_is_refused(folder: Path) -> None:
    bench = read_json(folder / "bench.json")
    bench["runs"][0]["arm"] = "\U0001f600" * 64
    write_json(folder / "bench.json", bench)
    assert "File name too long" in refusal(folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bench.json", EVALS])
def test_odd_values_anywhere_are_taken_or_refused_in_one_line(folder: Path, name: str) -> None:
    draw, original = random.Random(name), read_json(folder / name)
    for path in places(original):
        for value in draw.sample(ODD, DRAWN):
            changed = copy.deepcopy(original)
            inside: Any = changed
            for part in path[:-1]:
                inside = inside[part]
            inside[path[-1]] = value
            write_json(folder / name, changed)
            said = said_by(lambda: compare(load(folder)), f"{path} = {value!r}")
            assert "\n" not in said, path
            assert len(said) < 2000, path


def places(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Where each leaf and each inner node stands; of a list of alike rows the first and the last."""
    if path:
        yield path
    if isinstance(value, dict):
        for key, item in value.items():
            yield from places(item, (*path, key))
    elif isinstance(value, list):
        for index in sorted({0, len(value) - 1} if value else ()):
            yield from places(value[index], (*path, index))


def said_by(read: Callable[[], Any], what: str) -> str:
    """The refusal; empty where it was taken."""
    try:
        read()
    except UserError as error:
        return str(error)
    except Exception as error:
        error.add_note(what)
        raise
    return ""
