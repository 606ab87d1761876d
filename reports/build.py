"""Everything that people and programs read of a benchmark, from its folder, into its folder.

/path/to/python -m reports.build runs/latest
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from reports.compare.comparison import Comparison, compare, load
from reports.pages import html, junit, markdown
from reports.record.combine import combine
from reports.record.errors import UserError
from reports.record.journal import replace_file


def build(folder: Path) -> Comparison:
    """Report on the benchmark of a folder, in that folder."""
    return write(compare(load(folder)), folder)


def build_combined(folders: Sequence[Path], out: Path) -> tuple[Comparison, Path]:
    """Report on several benchmarks of one configuration, in a folder of its own in `out`."""
    comparison = compare(combine([load(folder) for folder in folders]))
    folder = out / str(comparison.bench["bench_id"])
    folder.mkdir(parents=True, exist_ok=True)
    return write(comparison, folder), folder


def write(comparison: Comparison, folder: Path) -> Comparison:
    """report.html, summary.md, comparison.json and junit.xml; each appears whole or not at all."""
    made = {
        "comparison.json": json.dumps(comparison.to_json(), indent=1, allow_nan=False) + "\n",
        "summary.md": markdown.render(comparison),
        "junit.xml": junit.render(comparison),
        "report.html": html.render(comparison),
    }
    for name, content in made.items():
        replace_file(folder / name, content.encode("utf-8"))
    return comparison


if __name__ == "__main__":
    try:
        print(build(Path(sys.argv[1])).headline)
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
