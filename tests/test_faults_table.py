"""The table of faults promises nothing that no test brings about."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from reports.record.names import CONCLUDED

TESTS = Path(__file__).parent
SOURCES = {path.name: path for path in TESTS.rglob("test_*.py")}
DOCUMENT = (TESTS.parent / "docs" / "faults.md").read_text(encoding="utf-8")
LINES = [line for line in DOCUMENT.splitlines() if line.startswith("|")]
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")] for line in LINES if not line.startswith(("|---", "| fault"))
]


def test_every_table_has_the_same_columns():
    assert len(ROWS) > 25
    assert {len(row) for row in ROWS} == {5}
    assert all(all(row) for row in ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:40])
def test_every_row_names_tests_that_exist(row):
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", row[4])
    assert named
    assert row[4] == ", ".join(f"`{file}::{name}`" for file, name in named)
    for file, name in named:
        assert re.search(rf"^def {name}\(", SOURCES[file].read_text(encoding="utf-8"), re.MULTILINE), f"{file}::{name}"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:40])
def test_every_row_has_a_status_and_an_exit_code_that_exist(row):
    status, _, code = row[2].rpartition(", ")
    known = (*CONCLUDED, "failed", "interrupted", "not started")
    assert status == "–" or set(re.findall(r"`([a-z_ ]+)`", status)) <= set(known)
    assert code in ("0", "1", "2", "3", "5")


def test_every_fault_of_the_suite_of_faults_is_in_the_table():
    there = re.findall(r"^def (test_\w+)\(", SOURCES["test_faults.py"].read_text(encoding="utf-8"), re.MULTILINE)
    assert [name for name in there if f"test_faults.py::{name}`" not in DOCUMENT] == []
