"""Several benchmarks as one: what may be put together, and what it then says."""

import json

import pytest
from synthetic_bench import write_bench
from typer.testing import CliRunner

from harness.cli import app
from reports.compare.comparison import compare, load
from reports.record.combine import combine
from reports.record.errors import EvidenceError


def change(folder, **keys):
    path = folder / "bench.json"
    bench = json.loads(path.read_text())
    for dotted, value in keys.items():
        *tables, last = dotted.split("__")
        table = bench
        for name in tables:
            table = table[name]
        table[last] = value
    path.write_text(json.dumps(bench))


@pytest.fixture
def two(tmp_path):
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder, seeds in zip(folders, ((0, 1), (2, 3, 4)), strict=True):
        write_bench(folder, seeds=seeds)
    change(folders[1], bench_id="arithmetic-other", environment__device="another machine")
    return folders


def test_seeds_of_several_benchmarks_count_together(two):
    combined = compare(combine([load(folder) for folder in two]))
    alone = compare(load(two[1]))
    assert combined.primary.difference.estimate.n == (5, 5)
    assert alone.primary.difference.estimate.n == (3, 3)
    assert combined.problem is None
    assert len({run.order for run in combined.runs}) == len(combined.runs) == 10
    assert [part["device"] for part in combined.bench["combined"]] == [
        load(two[0]).bench["environment"]["device"], "another machine",
    ]  # fmt: skip


def test_the_order_in_which_they_are_named_changes_no_number(two):
    one, other = (compare(combine([load(folder) for folder in order])) for order in (two, two[::-1]))
    assert one.bench["bench_id"] == other.bench["bench_id"]
    assert [m.arms for m in one.metrics] == [m.arms for m in other.metrics]


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("margin", 0.5, r"differ in margin: 0\.\d+ and 0\.5"),
        ("suite", "gsm8k", r"differ in suite: "),
        ("budget__limit", 7, r"differ in budget\.limit: "),
        ("arms__ppo", {"critic": {"kind": "shared"}}, r"differ in arms\.ppo\."),
    ],
)
def test_what_is_not_the_same_comparison_is_refused_by_name(two, key, value, said):
    change(two[1], **{key: value})
    with pytest.raises(EvidenceError, match=said):
        combine([load(folder) for folder in two])


def test_a_seed_that_both_ran_is_refused(two, tmp_path):
    write_bench(tmp_path / "c", seeds=(1, 5))
    with pytest.raises(EvidenceError, match=r"seed 1 was run in .* and in .*: each seed once"):
        combine([load(two[0]), load(tmp_path / "c")])


def test_one_that_was_not_matched_spoils_all(two):
    change(two[1], matching__verdict="undeclared", matching__undeclared=[{"key": "update.epochs"}])
    comparison = compare(combine([load(folder) for folder in two]))
    assert comparison.verdict.label == "invalid"
    assert "update.epochs" in comparison.problem


def test_the_command_line_makes_one_report_of_several(two, tmp_path):
    done = CliRunner().invoke(app, ["report", "a", "b", "--out", str(tmp_path)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    (folder,) = tmp_path.glob("*-combined-2-*")
    assert {path.name for path in folder.iterdir()} == {"report.html", "summary.md", "comparison.json", "junit.xml"}
    assert len(json.loads((folder / "comparison.json").read_text())["runs"]) == 10
