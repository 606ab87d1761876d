"""The history of a suite: what is read of MLflow, in which order, what may be held against what, and the page."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from synthetic_history import SUITE, nights, one, past, store
from typer.testing import CliRunner

from harness.cli import app
from harness.config.file import in_full
from harness.tracking.fetch import past_benchmarks
from reports.pages.trend_page import render, write
from reports.record.errors import InfrastructureError, UserError
from reports.trend.history import History, history
from reports.trend.past import Past
from reports.trend.read import FILES, MOST_BYTES

ACCURACY = "comparison__metrics__0__"
HOSTILE = "<script>alert(1)</script></svg>\0\u202eevil&$x$http://out.example"


def of(*every: Past) -> History:
    return history(SUITE, every, in_full)


def groups(found: History) -> list[str | None]:
    return [entry.group for entry in found.entries]


@pytest.fixture(scope="module")
def usual() -> History:
    return history(SUITE, nights(20))


@pytest.fixture(scope="module")
def source(usual: History) -> str:
    return render(usual)


@pytest.fixture
def uri(empty_store: Path, tmp_path: Path) -> str:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


def test_the_oldest_comes_first_whatever_order_mlflow_gives() -> None:
    found = of(past(3), past(1), past(2))
    assert [(entry.number, entry.bench_id) for entry in found.entries] == [
        (1, "synthetic-001"), (2, "synthetic-002"), (3, "synthetic-003"),
    ]  # fmt: skip
    assert found.entries[0].began < found.entries[1].began


def test_the_figures_are_those_of_the_comparison() -> None:
    (entry,) = of(past(1, **{f"{ACCURACY}arms__ppo__mean": 0.625, f"{ACCURACY}difference__mean": 0.0625})).entries
    accuracy = entry.accuracy("ppo")
    assert accuracy is not None
    assert accuracy.mean == 0.625
    assert entry.difference is not None
    assert entry.difference.mean == 0.0625


@pytest.mark.parametrize(
    "change",
    [
        {"bench__spec__update__learning_rate": 1e-3},
        {"comparison__runs": [{"arm": arm, "seed": 0, "status": "finished"} for arm in ("ppo", "grpo")]},
        {"bench__matching__evidence__0__weights": dict.fromkeys(("ppo", "grpo"), "0" * 64)},
        {"bench__matching__evidence__0__prompts": dict.fromkeys(("ppo", "grpo"), "0" * 64)},
        {"comparison__difference_of": ["grpo", "ppo"]},
    ],
    ids=["setting", "seeds", "weights", "prompts", "order of the arms"],
)
def test_unlike_benchmarks_are_in_different_groups(change: dict[str, Any]) -> None:
    found = of(past(1), past(2, **change), past(3))
    assert groups(found) == ["A", "B", "A"]
    assert [[entry.number for entry in line] for line in found.lines()] == [[1, 3], [2]]


def test_times_are_joined_on_one_device_and_accuracy_across_devices() -> None:
    found = of(past(1), past(2, bench__environment__device="other"), past(3))
    assert groups(found) == ["A", "A", "A"]
    assert [[e.number for e in line] for line in found.lines()] == [[1, 2, 3]]
    assert [[e.number for e in line] for line in found.lines(on_one_device=True)] == [[1, 3], [2]]


def test_other_code_and_versions_keep_the_group_and_are_named() -> None:
    old = {"bench__environment__git_commit": "aaa"}
    new = {"bench__environment__git_commit": "bbb", "bench__environment__packages": {"torch": "3.0"}}
    found = of(past(1, **old), past(2, **new))
    assert groups(found) == ["A", "A"]
    assert found.entries[1].changes == {
        "versions": ("torch '2.13.0' → '3.0'", "transformers '5.16.1' → none"), "code": ("aaa → bbb",),
    }  # fmt: skip


def test_a_setting_that_an_older_benchmark_lacks_stands_at_its_default() -> None:
    older = {key: value for key, value in spec()["update"].items() if key != "importance_cap"}
    assert groups(of(past(1, bench__spec__update=older), past(2))) == ["A", "A"]
    other = {**older, "importance_cap": 2.0}
    found = of(past(1, bench__spec__update=older), past(2, bench__spec__update=other))
    assert groups(found) == ["A", "B"]
    assert found.entries[1].changes["settings"] == ("update.importance_cap not set → 2.0",)


def spec() -> dict[str, Any]:
    return one()[1]["spec"]


def test_uncommitted_files_may_hide_a_change_of_code() -> None:
    dirty = {"bench__environment__git_commit": "aaa+"}
    assert "may have changed" in of(past(1, **dirty), past(2, **dirty)).entries[1].changes["code"][0]
    clean = {"bench__environment__git_commit": "aaa"}
    assert of(past(1, **clean), past(2, **clean)).entries[1].changes == {}


UNSOUND = [
    (past(2, comparison__verdict="invalid", comparison__problem="PPO seed 1 diverged"), "finished", "diverged"),
    (past(2, comparison__status="interrupted"), "interrupted", "was interrupted"),
    (past(2, comparison__metrics=[]), "finished", "no evaluation was recorded"),
    (past(2, state="RUNNING", drop=FILES), "running, or killed unheard", "MLflow does not have it"),
    (past(2, state="KILLED", drop=FILES), "interrupted", "MLflow does not have it"),
    (past(2, drop=FILES), "cannot be read", "MLflow does not have it"),
    (past(2, comparison__schema_version=2), "cannot be read", "schema_version"),
    (past(2, comparison__bench_id="another"), "cannot be read", "of another benchmark"),
    (past(2, **{f"{ACCURACY}arms__ppo__mean": 1.5}), "cannot be read", "between 0 and 1"),
    (past(2, **{f"{ACCURACY}difference__mean": -1e9}), "cannot be read", "an accuracy between"),
    (past(2, **{f"{ACCURACY}arms__ppo__mean": float("nan")}), "cannot be read", "finite number"),
    (past(2, **{f"{ACCURACY}arms__ppo": "x"}), "cannot be read", "expected a table"),
    (past(2, comparison__sentence="x" * 5000), "cannot be read", "at most 4000"),
    (past(2, comparison__runs=[{"arm": "x", "seed": 0, "status": "y"}] * 2000), "cannot be read", "at most 1024"),
]
BYTES = [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b"1" * 10_000]


@pytest.mark.parametrize(("made", "status", "why"), UNSOUND, ids=[why for _, _, why in UNSOUND])
def test_what_is_not_sound_evidence_keeps_its_place_and_its_reason(made: Past, status: str, why: str) -> None:
    found = of(past(1), made, past(3))
    assert groups(found) == ["A", None, "A"]
    lost = found.entries[1]
    assert lost.status == status
    assert why in str(lost.why)
    assert lost.difference is lost.accuracy("ppo") is lost.step_time("ppo") is None


def test_what_is_not_sound_evidence_is_a_row_of_the_page() -> None:
    page = render(of(past(1), *(made for made, _, _ in UNSOUND)))
    assert page.count("not counted: ") == len(UNSOUND)
    assert "Newest: inconclusive" not in page
    assert all(f"{status}</bdi>" in page and why in page for _, status, why in UNSOUND)


@pytest.mark.parametrize("content", BYTES, ids=lambda content: repr(content[:8]))
def test_any_bytes_for_a_comparison_are_a_row_that_cannot_be_read(content: bytes) -> None:
    (entry,) = of(with_comparison(content)).entries
    assert entry.status == "cannot be read"
    assert len(str(entry.why)) < 300


def test_a_history_of_which_nothing_can_be_read_is_a_page() -> None:
    page = render(of(*map(with_comparison, BYTES)))
    assert "None of these benchmarks can be counted" in page
    assert page.count("not counted: ") == len(BYTES)


def with_comparison(content: bytes) -> Past:
    whole = past(1)
    return replace(whole, files={**whole.files, "comparison.json": content})


def test_without_its_record_a_benchmark_is_joined_with_none() -> None:
    found = of(past(1), past(2, drop=["bench.json"]), past(3), past(4, bench__environment=7))
    assert groups(found) == ["A", "B", "A", "C"]
    assert [entry.device for entry in found.entries] == ["cpu", "unknown", "cpu", "unknown"]
    assert found.entries[2].changes.keys() == {"code"}  # held against the first: neither commit is known


def test_a_difference_of_other_arms_is_not_drawn_with_this_one() -> None:
    found = of(past(1, comparison__difference_of=["grpo", "ppo"]), past(2))
    assert found.pair == ("ppo", "grpo")
    assert [found.difference(entry) is not None for entry in found.entries] == [False, True]
    assert "1 of the counted benchmarks has no difference of these two arms" in render(found)


def test_an_arm_that_does_not_fit_leaves_the_other_and_no_difference() -> None:
    gone = dict.fromkeys(("mean", "low", "high"))
    unfit = {"comparison__verdict": "PPO does not fit", f"{ACCURACY}arms__ppo": gone}
    found = of(past(1), past(2, **unfit, **{f"{ACCURACY}difference__{key}": None for key in gone}))
    entry = found.entries[1]
    assert entry.accuracy("grpo")
    assert entry.accuracy("ppo") is found.difference(entry) is None
    assert "PPO does not fit</bdi>" in render(found)


@pytest.mark.parametrize("size", [1e18, 1e-18])
def test_numbers_of_any_size_are_drawn(size: float) -> None:
    wide = {f"{ACCURACY}arms__ppo__low": -size, f"{ACCURACY}arms__ppo__high": size}
    wide |= {f"{ACCURACY}difference__{end}": size for end in ("low", "high", "low90", "high90")}
    for name in ("time/step_s", "memory/peak_bytes"):
        wide |= dict.fromkeys(
            (f"comparison__metrics__{place(name)}__arms__ppo__{key}" for key in ("mean", "low", "high")), size
        )
    wide["bench__runs__0__conditions__before__gemm_s"] = size
    for every in ([past(1, **wide)], [past(1), past(2, **wide)]):
        assert render(of(*every)).count("<svg") == 3


def test_a_benchmark_that_went_on_with_other_code_names_both() -> None:
    again = {"bench__environment__git_commit": "aaa", "bench__resumed": [{"git_commit": "bbb", "at": "later"}]}
    ran = of(past(1, **again)).entries[0].ran
    assert ran is not None
    assert ran.commit == "aaa then bbb"


def test_what_a_server_may_send_is_bounded() -> None:
    arms = [{"arm": f"a{arm}", "seed": 0, "status": "finished"} for arm in range(16)]
    found = of(past(1, comparison__runs=arms), replace(past(2), began=10**18), replace(past(3), began=-1))
    assert found.arms == ("ppo", "grpo", "a0", "a1", "a2", "a3", "a4", "a5")
    assert [entry.began[:4] for entry in found.entries] == ["1970", "2026", "9999"]


class Page(HTMLParser):
    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]


def test_the_same_history_gives_the_same_bytes(usual: History, source: str) -> None:
    assert render(usual) == source
    assert render(history(SUITE, nights(20)[::-1])) == source


def test_the_page_names_no_outside_address_and_uses_every_id_once(source: str) -> None:
    assert not re.search(r"https?://|@import|url\((?!#)", source)
    attributes = Page(source).attributes
    assert all(v.startswith(("#", "data:")) for n, v in attributes if n in ("src", "href", "action", "srcset"))
    ids = [value for name, value in attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="|url\()#([^")]+)', source)) <= set(ids)


def test_every_figure_has_a_line_to_read_it_by_and_its_table(source: str) -> None:
    assert source.count("<figure>") == source.count("<figcaption") == source.count("Data of this figure") == 3


def test_every_benchmark_is_a_row_of_the_table(usual: History, source: str) -> None:
    table = source[source.index('id="benchmarks"') :]
    assert all(entry.bench_id in table for entry in usual.entries)
    assert table.count("not counted: ") == len(usual.entries) - len(usual.counted) == 3


def test_hostile_names_are_shown_harmlessly() -> None:
    hostile = {
        "comparison__sentence": HOSTILE, "comparison__profile": HOSTILE, "comparison__status": HOSTILE,
        f"{ACCURACY}difference__verdict": HOSTILE, f"{ACCURACY}difference__reason": HOSTILE,
        "comparison__verdict": HOSTILE, "bench__environment__device": HOSTILE,
        "bench__environment__git_commit": HOSTILE, "bench__spec__model__name": HOSTILE,
        "comparison__difference_of": [HOSTILE, "grpo"],
        f"{ACCURACY}arms": {HOSTILE: {"mean": 0.5}, "grpo": {"mean": 0.4}},
    }  # fmt: skip
    plain = Page(render(of(past(1), past(2))))
    page = render(of(past(1), past(2, **hostile), past(3, comparison__problem=HOSTILE)))
    assert page.count("<script") == 1
    assert "evil" in page
    assert not {"\0", "\u202e"} & set(page)
    assert set(Page(page).tags) <= {*plain.tags, "details", "summary"}
    assert HOSTILE[:20] not in page


def test_one_benchmark_without_intervals_is_a_page() -> None:
    none = {f"{ACCURACY}difference__{end}": None for end in ("low", "high", "low90", "high90")}
    page = render(of(past(1, **none, **{f"{ACCURACY}difference__verdict": "no verdict"})))
    assert "no interval" in page
    assert "synthetic: 1 past benchmark<" in page


def test_values_far_apart_are_drawn_on_a_logarithmic_axis_and_the_page_says_so() -> None:
    slow = {f"comparison__metrics__{place('time/step_s')}__arms__ppo__mean": 60.0}
    assert "axis is logarithmic" in render(of(past(1), past(2, **slow)))
    assert "axis is logarithmic" not in render(of(past(1)))


def place(name: str) -> int:
    return next(index for index, row in enumerate(one()[0]["metrics"]) if row["name"] == name)


def read(uri: str, **options: Any) -> list[Any]:
    limits = {"last": 50, "profile": None, "most_bytes": MOST_BYTES}
    return list(past_benchmarks(uri, SUITE, FILES, **{**limits, **options}))


def test_what_is_in_mlflow_is_what_is_read(uri: str) -> None:
    every = [past(1), past(2, drop=["comparison.json"], state="KILLED"), past(3)]
    store(uri, every)
    assert read(uri) == every[::-1]
    assert [each.bench_id for each in read(uri, last=2)] == ["synthetic-003", "synthetic-002"]


def test_only_the_benchmarks_of_a_profile_are_read(uri: str) -> None:
    store(uri, [past(1), past(2), past(3)], profiles={"synthetic-002": "ci"})
    assert [each.bench_id for each in read(uri, profile="ci")] == ["synthetic-002"]
    for profile, said in (("gone", "no benchmark of suite 'synthetic' with the profile"), ("a' or 'b", "letters")):
        with pytest.raises(UserError, match=said):
            read(uri, profile=profile)


def test_a_file_that_is_too_large_or_gone_costs_that_file_alone(uri: str, tmp_path: Path) -> None:
    store(uri, [past(1), past(2)])
    limit = len(past(1).files["bench.json"]) + 100
    found = read(uri, most_bytes=limit)
    assert [set(each.files) for each in found] == [{"bench.json"}] * 2
    assert "larger than" in found[0].faults["comparison.json"]
    for path in (tmp_path / "mlartifacts").glob("*/artifacts/bench.json"):
        path.unlink()
    assert [set(each.files) for each in read(uri)] == [{"comparison.json"}] * 2


def test_no_benchmark_is_one_line_and_exit_code_2(uri: str, tmp_path: Path, capsys: Any) -> None:
    with pytest.raises(UserError, match=r"mlflow\.db: no benchmark of suite 'synthetic'$") as caught:
        read(uri)
    assert caught.value.exit_code == 2
    with pytest.raises(UserError, match="no benchmark of suite"):
        read(f"sqlite:///{tmp_path}/absent.db")
    assert not (tmp_path / "absent.db").exists()


def test_the_command_writes_the_page_beside_the_runs(uri: str, tmp_path: Path) -> None:
    store(uri, [past(1), past(2, comparison__verdict="invalid")])
    done = CliRunner().invoke(app, ["trend", SUITE, "--runs", str(tmp_path)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "1 of 2 benchmarks are counted" in done.output
    assert (tmp_path / f"trend-{SUITE}.html").read_text(encoding="utf-8") == render(history(SUITE, read(uri)))
    refused = CliRunner().invoke(app, ["trend", "../out", "--runs", str(tmp_path)])
    assert isinstance(refused.exception, UserError)


def test_a_page_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InfrastructureError, match="cannot be written"):
        write(tmp_path / "file" / "page.html", of(past(1)))
