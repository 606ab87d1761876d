"""Several contrasts on the page, in the summary and in the test results."""

import re
from xml.etree import ElementTree

import pytest
from synthetic_bench import TASKS, write_bench

from reports.compare.comparison import compare, load
from reports.compare.contrasts import Contrast
from reports.compare.pairs import Pair
from reports.pages import contrast_figures, contrast_tables, html, junit, markdown, svg
from reports.stats.verdict import Verdict, VerdictKind

ARMS = ("ppo", "grpo", "rloo", "remax", "gspo")
TITLES = [f"PPO − {name}" for name in ("GRPO", "RLOO", "REMAX", "GSPO")]


def judged(folder, **options):
    return compare(load(write_bench(folder, **{"arms": ARMS, "steps": 10, "questions": 40, "effect": 0.3} | options)))


@pytest.fixture(scope="module")
def five(tmp_path_factory):
    return judged(tmp_path_factory.mktemp("five"))


@pytest.fixture(scope="module")
def page(five):
    return html.render(five)


def contrast(first, second):
    verdict = Verdict(VerdictKind.INCONCLUSIVE)
    return Contrast(Pair(first, second), None, verdict, {}, "", "", "", "")


def test_the_page_opens_with_a_row_for_every_contrast(page):
    head = page[page.index("<main>") : page.index('id="cost"')]
    table = re.search(r'<table class="contrasts">.*?</table>', head, re.S)[0]
    assert [title.replace("\u00a0", " ") for title in re.findall(r"PPO.−.\w+", table)] == TITLES
    assert head.index("contrasts") < head.index("Budget of each run")


def test_every_contrast_is_told_in_words_below(five, page):
    for number, one in enumerate(five.contrasts, start=1):
        assert f'id="contrast-{number}"' in page
        assert f'href="#contrast-{number}"' in page
        assert one.headline.split(":")[0] in page.replace("\u00a0", " ")


def test_tables_have_one_column_a_contrast(five):
    for table in (contrast_tables.cost(five), contrast_tables.accuracy(five), contrast_tables.areas(five)):
        assert list(table.head[1:]) == TITLES
        assert table.rows
        assert {len(row) for row in table.rows} == {len(table.head)}


def test_no_two_contrasts_look_alike(five):
    styles = contrast_figures.styles(five.contrasts, five.arms)
    for part in ("color", "dash", "marker"):
        assert len({str(getattr(style, part)) for style in styles}) == len(styles)


@pytest.mark.parametrize(
    ("pairs", "places"),
    [
        ([("a", "b"), ("a", "c")], [1, 2]),
        ([("b", "a"), ("c", "a")], [1, 2]),
        ([("a", "b"), ("a", "c"), ("c", "b")], [0, 1, 2]),
    ],
)
def test_a_contrast_looks_like_the_arm_that_sets_it_apart(pairs, places):
    styles = contrast_figures.styles([contrast(*pair) for pair in pairs], ("a", "b", "c"))
    assert styles == [svg.style(place) for place in places]


@pytest.mark.parametrize("part", ["color", "dash", "marker", "hatch"])
def test_eight_arms_differ_in_each_way_by_itself(part):
    assert len({str(getattr(svg.style(index), part)) for index in range(8)}) == 8


def test_more_arms_repeat_a_colour_with_another_line_and_mark():
    styles = [svg.style(index) for index in range(16)]
    assert [style.color for style in styles[8:]] == [style.color for style in styles[:8]]
    for first, again in zip(styles[:8], styles[8:], strict=True):
        assert first.dash != again.dash
        assert first.marker != again.marker
    assert len({(style.color, style.marker) for style in styles}) == 16


def test_every_colour_of_the_arms_is_defined_for_light_dark_and_print(page):
    for number in range(8):
        assert len(re.findall(rf"--arm{number}:", page)) == 3


def test_one_contrast_of_two_arms_carries_none_of_that(tmp_path):
    page = html.render(judged(tmp_path, arms=ARMS[:2]))
    assert "--arm4:" not in page
    assert 'id="contrasts"' not in page


def test_test_results_have_a_case_for_every_metric_and_contrast(five):
    cases = ElementTree.fromstring(junit.render(five)).findall("testcase")
    names = [case.get("name") for case in cases]
    assert len(names) == len(set(names)) == len(five.metrics) * len(five.contrasts)
    assert f"eval/{TASKS[0]}/accuracy ppo - gspo" in names


def test_a_contrast_without_evidence_fails_alone_in_the_test_results(tmp_path):
    found = judged(tmp_path, failures={("gspo", 1): "diverged"})
    cases = ElementTree.fromstring(junit.render(found)).findall("testcase")
    failed = {case.get("name").rpartition(" ")[2] for case in cases if case.find("failure") is not None}
    assert failed == {"gspo"}


def test_the_summary_has_a_row_a_contrast_and_no_more_than_twenty_rows(five):
    summary = markdown.render(five)
    rows = [line for line in summary.splitlines() if line.startswith("| ") and not line.startswith("| ---")]
    assert len(rows) <= markdown.MOST_ROWS + 2
    for title in TITLES:
        assert f"| {title} |" in summary


def test_an_arm_that_does_not_fit_has_its_row_and_its_reason(tmp_path):
    found = judged(tmp_path, failures={("rloo", seed): "out_of_memory" for seed in (0, 1, 2)})
    page = html.render(found)
    assert "RLOO does not fit" in page
    assert [row.verdict for row in contrast_tables.overview(found)][1] == "RLOO does not fit"
    assert "1 with an arm that does not fit" in page


def test_more_arms_than_colours_are_drawn(tmp_path):
    page = html.render(judged(tmp_path, arms=tuple(f"arm-{number}" for number in range(9)), tasks=TASKS[:1]))
    assert "arm-0 − arm-8" in page.replace("\u00a0", " ")
