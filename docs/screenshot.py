"""The picture of a report that the README shows: the head of a real one, as a browser draws it.

make gallery BENCH=arithmetic-20261125-230246-22c5
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

PICTURE = Path(__file__).parent / "report.png"
WIDTH = 1100


def main(folder: Path) -> None:
    """From the title to the end of the section about accuracy, on a light screen."""
    chromium = shutil.which("chromium") or sys.exit("no chromium here (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": 800}, color_scheme="light")
        page.goto((folder / "report.html").resolve().as_uri())
        end = page.locator("#accuracy").bounding_box()
        if end is None:
            sys.exit(f"{folder}: the report has no section about accuracy")
        height = round(end["y"] + end["height"]) + 16
        page.screenshot(path=PICTURE, full_page=True, clip={"x": 0, "y": 0, "width": WIDTH, "height": height})
        browser.close()
    print(PICTURE)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
