"""The journal keeps what was written through crashes, and says where it was damaged."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest

from reports.record.errors import EvidenceError, InfrastructureError
from reports.record.journal import Journal, append_line, encode_line, read_json, read_lines, replace_file, write_json


def test_lines_come_back_in_order(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "steps.jsonl"
    records = [{"step": step, "reward/mean": step / 3, "note": "−½ \ud800 \n x"} for step in range(20)]
    with Journal(path) as journal:
        for record in records[:10]:
            journal.append(record)
    with Journal(path) as journal:
        for record in records[10:]:
            journal.append(record)
    assert read_lines(path) == records
    assert path.read_bytes().count(b"\n") == 20


def test_every_line_is_on_disk_before_append_returns(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    journal.append({"step": 1})
    assert read_lines(tmp_path / "j") == [{"step": 1}]
    journal.close()
    journal.close()


def test_nonfinite_numbers_become_null_and_are_named(tmp_path: Path) -> None:
    append_line(tmp_path / "j", {"loss": math.nan, "b": {"x": [1.0, -math.inf]}, "a": 0.5})
    append_line(tmp_path / "j", {"loss": 1.0})
    first, second = read_lines(tmp_path / "j")
    assert first == {"loss": None, "b": {"x": [1.0, None]}, "a": 0.5, "nonfinite": ["b.x.1", "loss"]}
    assert second == {"loss": 1.0}


def test_names_already_marked_nonfinite_are_kept() -> None:
    line = json.loads(encode_line({"a": None, "b": math.inf, "nonfinite": ["a"]}))
    assert line["nonfinite"] == ["a", "b"]


def test_torn_last_line_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "j"
    path.write_bytes(b'{"step":1}\n{"step":2,"rew')
    assert read_lines(path) == [{"step": 1}]


def test_whole_last_line_without_its_line_end_counts(tmp_path: Path) -> None:
    path = tmp_path / "j"
    path.write_bytes(b'{"step":1}\n{"step":2}')
    assert read_lines(path) == [{"step": 1}, {"step": 2}]
    append_line(path, {"step": 3})
    assert [record["step"] for record in read_lines(path)] == [1, 2, 3]


@pytest.mark.parametrize("head", [b"", b'{"step":1}\n'])
def test_appending_behind_a_torn_line_replaces_it(tmp_path: Path, head: bytes) -> None:
    path = tmp_path / "j"
    path.write_bytes(head + b'{"text":"' + b"x" * 200_000)
    append_line(path, {"step": 2})
    assert read_lines(path)[-1] == {"step": 2}
    assert len(read_lines(path)) == head.count(b"\n") + 1


@pytest.mark.parametrize(
    "broken",
    [b'{"step":2', b"[1]", b"7", b"", b'{"x":NaN}', b"\xff\xfe{}", b"[" * 100_000, b'{"n":' + b"9" * 9999],
)
def test_broken_line_is_named_with_its_file(tmp_path: Path, broken: bytes) -> None:
    path = tmp_path / "j"
    path.write_bytes(b'{"step":1}\n' + broken + b'\n{"step":3}\n')
    with pytest.raises(EvidenceError, match=r"j, line 2: ") as caught:
        read_lines(path)
    assert "\n" not in str(caught.value)


def test_broken_last_line_with_a_line_end_is_no_crash_and_refused(tmp_path: Path) -> None:
    (tmp_path / "j").write_bytes(b'{"step":1}\n{"st\n')
    with pytest.raises(EvidenceError, match="line 2"):
        read_lines(tmp_path / "j")


def test_missing_journal_is_missing_evidence(tmp_path: Path) -> None:
    with pytest.raises(EvidenceError, match="No such file"):
        read_lines(tmp_path / "none")
    assert EvidenceError.exit_code == 3


def test_empty_journal_has_no_records(tmp_path: Path) -> None:
    (tmp_path / "j").touch()
    assert read_lines(tmp_path / "j") == []


def test_journal_on_a_bad_path_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InfrastructureError, match="cannot be written"):
        Journal(tmp_path / "file" / "steps.jsonl")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_full_disk_is_one_line_and_closing_is_quiet() -> None:
    journal = Journal(Path("/dev/full"))
    with pytest.raises(InfrastructureError, match="No space left"):
        journal.append({"step": 1})
    with pytest.raises(InfrastructureError, match="No space left"):
        journal.close()
    journal.close()


def test_json_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "out" / "bench.json"
    write_json(path, {"a": 1})
    write_json(path, {"a": [1, math.nan], "b": {"c": "ü"}})
    assert read_json(path) == {"a": [1, None], "b": {"c": "ü"}}
    assert [entry.name for entry in path.parent.iterdir()] == ["bench.json"]


def test_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert read_json(path) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_replaced_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    (path / "in the way").mkdir(parents=True)
    with pytest.raises(InfrastructureError, match=r"report\.html: cannot be written \(Is a directory\)"):
        replace_file(path, b"new")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("text", ["", "{", '{"a": Infinity}'])
def test_broken_json_file_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bench.json"
    path.write_text(text)
    with pytest.raises(EvidenceError, match=r"bench\.json: not valid JSON") as caught:
        read_json(path)
    assert "\n" not in str(caught.value)


def test_missing_json_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(EvidenceError, match="No such file"):
        read_json(tmp_path / "bench.json")
