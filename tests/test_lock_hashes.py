from __future__ import annotations

import re

from lock_hashes import HASHES, LOCK, differing, recorded


def release(name: str, version: str) -> tuple[str, str]:
    """Packages' names as their files spell them; a local build is of the version that it was built from."""
    return re.sub(r"[-_.]+", "_", name).lower(), version.partition("+")[0]


def test_every_locked_package_has_a_recorded_hash_and_no_other_has() -> None:
    pins = [line.split("==") for line in LOCK.read_text().splitlines() if "==" in line and line[0] != "#"]
    files = [name.removesuffix(".tar.gz").removesuffix(".zip").split("-")[:2] for name in recorded()]
    assert {release(*pin) for pin in pins} == {release(*file) for file in files}


def test_recorded_hashes_are_hashes() -> None:
    assert all(re.fullmatch(r"[0-9a-f]{64}  \S+", line) for line in HASHES.read_text().splitlines())


def test_a_file_with_another_hash_or_none_is_named_and_one_of_another_platform_is_not() -> None:
    known = {"a-1.whl": "0" * 64, "b-1.whl": "1" * 64, "c-1.whl": "2" * 64}
    assert differing({"a-1.whl": "0" * 64, "b-1.whl": "3" * 64, "c-1.whl": "", "d-1.whl": "4" * 64}, known) == [
        "b-1.whl",
        "c-1.whl",
    ]
