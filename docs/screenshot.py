"""The picture of a report that the README shows: the head of a real one, as a browser draws it.

make gallery BENCH=arithmetic-20261125-230246-22c5
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

PICTURE = Path(__file__).parent / "report.png"
WIDTH, MARGIN = 1000, 16
# What it cost stands between the verdict and the accuracies, and tables follow them; here the two figures are enough.
LEFT_OUT = "nav, #cost, #accuracy > :not(h2, .panel), #accuracy details"


def main(folder: Path) -> None:
    """The title, the verdict and the accuracy of each seed, on a light screen of two dots to a pixel."""
    chromium = shutil.which("chromium") or sys.exit("no chromium here (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": 800}, color_scheme="light", device_scale_factor=2)
        page.goto((folder / "report.html").resolve().as_uri())
        page.add_style_tag(content=f"{LEFT_OUT} {{ display: none; }}")
        section = page.locator("#accuracy:has(figure)")
        if not section.count():
            sys.exit(f"{folder}: the report has no figure of the accuracy")
        end = section.bounding_box()
        height = round(end["y"] + end["height"]) + MARGIN
        page.screenshot(path=PICTURE, full_page=True, clip={"x": 0, "y": 0, "width": WIDTH, "height": height})
        browser.close()
    print(PICTURE)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
