"""The statistics in full, as people read them."""

import pytest
from synthetic_bench import TASKS, write_bench

from reports.build import build
from reports.compare.comparison import compare, load
from reports.pages import statistics_tables


def sections(folder, **options):
    write_bench(folder, **{"steps": 20, "questions": 60} | options)
    return {section.title: section for section in statistics_tables.sections(compare(load(folder)))}


def test_every_table_has_a_line_on_how_to_read_it_and_full_rows(tmp_path):
    found = sections(tmp_path)
    assert len(found) == 11
    for section in found.values():
        assert section.how.endswith(".")
        assert section.table.rows
        assert {len(row) for row in section.table.rows} == {len(section.table.head)}
        assert set(section.prose) <= set(section.table.head)


def test_the_page_shows_all_of_them(tmp_path):
    titles = sections(tmp_path)
    build(tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert all(f"<summary><h3>{title}</h3></summary>" in page for title in titles)


def test_how_many_seeds_reached_a_target_is_said(tmp_path):
    found = sections(tmp_path)["How soon"]
    assert found.table.head[2:4] == ("PPO", "GRPO")
    assert all(cell.endswith(" of 3 seeds") for row in found.table.rows for cell in row[2:4])


def test_one_task_needs_no_correction_for_several(tmp_path):
    title = "Having looked at several tasks"
    assert title in sections(tmp_path / "two", tasks=TASKS)
    assert title not in sections(tmp_path / "one", tasks=TASKS[:1])


@pytest.mark.parametrize(
    "options",
    [
        {"seeds": (0,)},
        {"evaluate": False},
        {"arms": ("grpo",)},
        {"arms": ("ppo", "grpo", "rloo")},
        {"steps": {"ppo": 8, "grpo": 20}, "margin": None},
        {"nan_metric": "reward/mean"},
        {"failures": {("ppo", seed): "out_of_memory" for seed in (0, 1, 2)}},
        {"failures": {(arm, seed): "failed" for arm in ("ppo", "grpo") for seed in (0, 1, 2)}},
        {"runs": []},
    ],
    ids=lambda options: " ".join(options),
)
def test_unusual_benchmarks_have_full_rows_and_no_nan(tmp_path, options):
    for section in sections(tmp_path, **options).values():
        assert {len(row) for row in section.table.rows} == {len(section.table.head)}
        assert not any(
            word in ("nan", "None", "inf") for row in section.table.rows for cell in row for word in cell.split()
        )
