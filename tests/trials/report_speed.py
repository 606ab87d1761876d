"""How long `paribus report` takes over two arms × five seeds × 2,000 steps that MLflow alone has.

/path/to/python tests/trials/report_speed.py [ROUNDS]
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from pathlib import Path

sys.path.extend(str(Path(__file__).resolve().parents[1] / folder) for folder in ("support", "reports/pages"))

from test_large_report import in_a_store, report

from harness.tracking.client import connect


def processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        connect(f"sqlite:///{folder / 'empty.db'}").search_experiments()
        uri = in_a_store(folder, folder / "empty.db")
        for number in range(int((sys.argv[1:] or ["3"])[0])):
            began, used = time.monotonic(), processor_seconds()
            page = report(uri, folder / str(number))
            took, used = time.monotonic() - began, processor_seconds() - used
            print(f"{took:.1f} s ({used:.1f} s of a processor), {page.stat().st_size / 1e6:.2f} MB", flush=True)


if __name__ == "__main__":
    main()
