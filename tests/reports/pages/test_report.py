"""The page, the summary and the test results that people and programs read."""

import base64
import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from synthetic_bench import TASKS, read_json, write_bench, write_json

from reports import text
from reports.build import build
from reports.pages import figures

HOSTILE = "<script>alert(1)</script></svg></pre>\0\x1b[31m\u202eevil\ud800 &amp; $x$" + "y" * 3000


class Page(HTMLParser):
    """What a browser would make of the file: its elements, ids, and the text inside scripts."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags, self.ids, self.attributes = [], [], []
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.ids += [value for name, value in attrs if name == "id"]


def page(folder, **options) -> str:
    write_bench(folder, **{"steps": 12, "questions": 40, "tasks": TASKS[:1]} | options)
    build(folder)
    return (folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    """The folder of an ordinary benchmark with its report built."""
    folder = tmp_path_factory.mktemp("usual")
    page(folder, steps=60, tasks=TASKS)
    return folder


@pytest.fixture(scope="module")
def source(usual):
    return (usual / "report.html").read_text(encoding="utf-8")


def test_building_writes_the_four_files_and_leaves_nothing_else_behind(usual):
    files = {path.name for path in usual.iterdir() if path.is_file()}
    assert files == {"bench.json", "report.html", "summary.md", "comparison.json", "junit.xml"}


def test_the_page_names_no_outside_address(source):
    assert "http://" not in source
    assert "https://" not in source
    for tag, name, value in Page(source).attributes:
        if name in ("src", "href", "action", "data", "poster", "srcset"):
            assert value.startswith(("#", "data:")), (tag, name, value[:80])
    assert not re.search(r"@import|url\((?!#)", source)


def test_the_same_records_give_the_same_bytes(usual, source):
    build(usual)
    assert (usual / "report.html").read_text(encoding="utf-8") == source


def test_the_page_is_small(usual):
    assert (usual / "report.html").stat().st_size < 3_000_000


def test_every_id_is_used_once_and_every_reference_leads_somewhere(source):
    ids = Page(source).ids
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="|url\()#([^")]+)', source)) <= set(ids)


def test_every_axis_is_there_without_javascript(source):
    body = source[: source.rindex("<script>")]
    for axis in ("steps", "samples", "generated_tokens", "device_seconds", "flops"):
        assert body.count(f'<div class="panel" data-axis="{axis}"') == 3  # reward and two tasks
    assert not re.search(r"<(figure|div)[^>]*hidden", body)


def test_every_figure_has_a_name_and_its_data(source):
    assert source.count('role="img"') == source.count("<svg")
    assert source.count("<figure") - 1 == source.count("Data of this figure")


@pytest.mark.parametrize(
    "label",
    [
        "Training steps",
        "Samples drawn",
        "Tokens generated",
        "Device time, s",
        "Arithmetic, FLOP",
        "Accuracy after training, %",
        "Peak memory, MiB",
        "Time per step, ms",
        "PPO − GRPO, percentage points",
        "nats per token",
    ],
)
def test_axes_carry_units(source, label):
    assert re.search(rf"<text[^>]*>{re.escape(label)}</text>", source)


def test_small_tick_labels_keep_their_digits(source):
    ticks = re.findall(r"<text[^>]*>(0\.\d+)</text>", source)
    assert any(len(tick) > 4 for tick in ticks)
    assert "0.00" not in ticks


def test_the_script_is_short_and_is_the_one_the_policy_allows(source):
    assert Page(source).tags.count("script") == 1
    assert source[source.rindex("<script>") :].count("\n") < 150
    assert "script-src 'sha256-" in source
    assert "default-src 'none'" in source


def test_hostile_text_is_shown_and_does_nothing(tmp_path):
    source = page(tmp_path, completions=dict.fromkeys(range(40), HOSTILE))
    assert Page(source).tags.count("script") == 1
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&lt;/svg&gt;" in source
    assert not re.search("[\0\x1b\u202e]", source)
    assert "␀␛[31m⟨U+202E⟩evil⟨U+D800⟩ &amp;amp; $x$" in source
    assert "The first 2,000 of" in source


def test_a_page_full_of_the_most_expensive_characters_stays_small(tmp_path):
    # Each of these takes twelve bytes once it can be seen.
    source = page(tmp_path, questions=100, completions=dict.fromkeys(range(100), "\u202e" * 3_000))
    assert len(source.encode()) < 3_000_000
    assert source.count('<details class="example"') > 5


def test_the_end_of_a_long_prompt_is_kept(tmp_path):
    write_bench(tmp_path, steps=12, questions=40, tasks=TASKS[:1])
    for path in tmp_path.glob("*/evals/*.json"):
        evaluation = read_json(path)
        for sample in evaluation["samples"]:
            sample["prompt"] = "an example\n" * 500 + "the question"
        write_json(path, evaluation)
    build(tmp_path)
    source = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "the question</pre>" in source
    assert "The last 2,000 of 5,512 characters of the prompt." in source


def test_hostile_names_are_shown_and_do_nothing(tmp_path):
    name = "\"><img src=x onerror='1'>"
    source = page(
        tmp_path,
        suite=name,
        bench_id="synthetic-1",
        arms=("p<b>&$_x", "grpo"),
        environment={"cpu": name, "packages": {name: name}},
    )
    assert "img" not in Page(source).tags
    assert "b" not in Page(source).tags
    ElementTree.parse(tmp_path / "junit.xml")
    assert "<img" not in (tmp_path / "summary.md").read_text(encoding="utf-8")


def test_one_seed_is_said_once_not_to_be_enough(tmp_path):
    source = page(tmp_path, seeds=(0,)).replace("\u00a0", " ")
    assert "No verdict" in source
    assert "n = 1, no interval" in source
    summary = (tmp_path / "summary.md").read_text(encoding="utf-8")
    assert source.count("one seed in an arm, no interval") == summary.count("one seed in an arm, no interval") == 1


def test_an_arm_whose_runs_all_failed_is_readable(tmp_path):
    source = page(tmp_path, failures={("ppo", seed): "diverged" for seed in (0, 1, 2)})
    assert "no run of PPO finished" in source
    assert "no finished run</text>" in source
    assert "not in this arm" not in source
    assert "PPO, mean" not in source
    assert "PPO, seed 0: diverged: <bdi>made up: diverged at step 6</bdi>" in source
    assert "3 of 6" in source


def without_evidence(folder, seed, arm):
    """As if that run had been lost before it recorded what it began from."""
    bench = read_json(folder / "bench.json")
    (row,) = (row for row in bench["matching"]["evidence"] if row["seed"] == seed)
    for what in ("weights", "prompts", "first_rollout"):
        row[what] = {other: digest for other, digest in row[what].items() if other != arm}
    row["equal"] = False
    write_json(folder / "bench.json", bench)


def test_evidence_that_a_lost_run_did_not_leave_is_missing_and_not_unequal(tmp_path):
    write_bench(tmp_path, steps=12, questions=40, failures={("ppo", 1): "failed"})
    without_evidence(tmp_path, 1, "ppo")
    comparison = build(tmp_path)
    assert comparison.problem.startswith("1 of 6 runs did not finish (PPO seed 1 failed)")
    source = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "? evidence incomplete" in source
    assert re.search(r"\?\smissing\s≠\s[0-9a-f]{12}", source)
    assert "✓\u00a0missing" not in source


def test_evidence_that_a_finished_run_did_not_leave_is_against_a_match(tmp_path):
    write_bench(tmp_path, steps=12, questions=40)
    without_evidence(tmp_path, 1, "ppo")
    assert "did not start from the same weights, prompts or first rollouts (seed 1)" in build(tmp_path).problem
    source = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "✗ not matched" in source
    assert "✗\u00a0not equal" in source


def test_an_arm_keeps_its_colour_where_another_is_not_shown():
    both = figures._arm_handles(("ppo", "grpo"), {"ppo", "grpo"}, {"ppo"})
    (alone,) = figures._arm_handles(("ppo", "grpo"), {"grpo"}, {"grpo"})
    assert alone.get_color() == both[1].get_color() != both[0].get_color()


def test_an_arm_that_does_not_fit_heads_the_page(tmp_path):
    source = page(tmp_path, failures={("ppo", seed): "out_of_memory" for seed in (0, 1, 2)})
    assert "PPO does not fit in this device’s memory" in source or "PPO does not fit in this device&#39;s" in source
    assert "PPO, seed 0: out of memory: <bdi>made up: out_of_memory at step 6</bdi>" in source
    assert "3 of 6" in source


@pytest.mark.parametrize(
    "options",
    [
        {"evaluate": False},
        {"arms": ("grpo",)},
        {"arms": ("ppo", "grpo", "rloo")},
        {"steps": 1},
        {"steps": {"ppo": 8, "grpo": 20}, "seeds": (0, 1, 2, 3, 4), "margin": None},
        {"nan_metric": "reward/mean"},
        {"failures": {(arm, seed): "failed" for arm in ("ppo", "grpo") for seed in (0, 1, 2)}},
        {"environment": {}, "spec": {}, "finished": None, "status": "interrupted", "command": None, "profile": None},
        {"runs": []},
    ],
    ids=lambda options: " ".join(options),
)
def test_unusual_benchmarks_make_a_page_too(tmp_path, options):
    source = page(tmp_path, **options)
    assert source.rstrip().endswith("</html>")
    assert not re.search(r">\s*(nan|None|inf)\b", source)


def test_the_summary_fits_a_comment(usual):
    summary = (usual / "summary.md").read_text(encoding="utf-8")
    rows = [line for line in summary.splitlines() if line.startswith("|")]
    assert 5 < len(rows) - 2 <= 20
    assert len({row.replace("\\|", "").count("|") for row in rows}) == 1
    assert len(summary) < 10_000


def test_the_summary_counts_what_it_has_no_room_for(tmp_path):
    page(tmp_path, tasks=tuple(f"task_{number}" for number in range(8)), questions=10)
    rows = [line for line in (tmp_path / "summary.md").read_text(encoding="utf-8").splitlines() if line[0:1] == "|"]
    metrics = read_json(tmp_path / "comparison.json")["metrics"]
    assert len(metrics) > 20
    assert len(rows) - 2 == 20
    assert f"{len(metrics) - 19} more in report.html" in rows[-1]


def test_every_metric_is_a_test_case(usual):
    suite = ElementTree.parse(usual / "junit.xml").getroot()
    names = [metric["name"] for metric in read_json(usual / "comparison.json")["metrics"]]
    assert [case.get("name") for case in suite] == names
    assert suite.get("failures") == "0"


def test_an_invalid_metric_fails_its_test_case(tmp_path):
    page(tmp_path, failures={("ppo", 0): "diverged"})
    suite = ElementTree.parse(tmp_path / "junit.xml").getroot()
    assert suite.get("failures") == suite.get("tests")
    assert "PPO seed 0 diverged" in suite[0].find("failure").get("message")


def test_the_embedded_data_is_the_comparison(usual, source):
    encoded = re.search(r'download="comparison.json" href="data:application/json;base64,([^"]+)"', source).group(1)
    assert json.loads(base64.b64decode(encoded)) == read_json(usual / "comparison.json")


def test_undeclared_differences_are_listed(tmp_path):
    write_bench(tmp_path, steps=12, questions=40)
    bench = read_json(tmp_path / "bench.json")
    row = {"key": "update.epochs", "values": {"ppo": 4, "grpo": 1}, "why": None}
    bench["matching"] |= {"verdict": "not matched", "undeclared": [row]}
    write_json(tmp_path / "bench.json", bench)
    build(tmp_path)
    source = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert '<tr data-kind="undeclared"><th scope="row"><bdi>update.epochs</bdi></th>' in source
    assert "✗ not matched" in source
    assert "the arms differ in what was not declared (update.epochs)" in source


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (0.41234, "fraction", "41.2 %"),
        (1234567, "tokens", "1.23 M tokens"),
        (7680, "samples", "7,680 samples"),
        (3 * 2**29, "B", "1.50 GiB"),
        (0.0123, "s", "12.3 ms"),
        (7300, "s", "2.03 h"),
        (0, "s", "0 s"),
        (None, "s", "—"),
        (float("nan"), "B", "—"),
        (-85.94, "samples/s", "−85.9 samples/s"),
    ],
)
def test_numbers_have_units_and_few_digits(value, unit, shown):
    assert text.quantity(value, unit) == shown


def test_the_page_charges_the_critic_and_prices_a_point_of_accuracy(source):
    for said in (
        "What the critic cost",
        "What one point of accuracy cost",
        "Arithmetic by phase",
        "PPO, time of a run",
    ):
        assert said in source
