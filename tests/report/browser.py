"""A page in headless Chromium: its picture, and what its layout does to text and charts.

``python -m tests.report.browser report/index.html page.png --width=1280`` takes a picture of a whole page.
"""

from __future__ import annotations

import argparse
import html
import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--hide-scrollbars"),
)
# what is looked at once the page is laid out; the answer is left in an attribute of the page around it, which
# --dump-dom shows
_PROBE = """<script>
const probe = {width: innerWidth, height: document.documentElement.scrollHeight,
               scrolls: document.documentElement.scrollWidth, charts: [], cut: []};
for (const image of document.querySelectorAll("img.chart")) {
  const at = image.getBoundingClientRect();
  probe.charts.push({name: image.parentElement.id, alt: image.alt, loaded: image.naturalWidth > 0,
                     box: [at.left, at.top, at.right, at.bottom].map(Math.round)});
}
const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (texts.nextNode()) {
  const parent = texts.currentNode.parentElement;
  if (!texts.currentNode.data.trim() || parent.closest("script, style, .skip, .padding")) continue;
  const range = document.createRange();
  range.selectNodeContents(texts.currentNode);
  const box = PRINT ? null : parent.closest(".scroll");
  const cell = parent.closest("td, th");
  for (const at of range.getClientRects()) {
    const [left, right] = box ? [box.getBoundingClientRect().left - box.scrollLeft,
                                 box.getBoundingClientRect().left - box.scrollLeft + box.scrollWidth] : [0, innerWidth];
    const own = cell ? cell.getBoundingClientRect() : {left: left, right: right};
    if (at.left < left - 1 || at.right > right + 1 || at.left < own.left - 1 || at.right > own.right + 1)
      probe.cut.push(texts.currentNode.data.trim());
  }
}
parent.document.documentElement.dataset.probe = JSON.stringify(probe);
</script>"""


def picture(page: Path, target: Path, width: int, height: int) -> None:
    """A PNG of the upper left ``width`` x ``height`` pixels."""
    _chromium(page, f"--window-size={width},{height}", f"--screenshot={target}")


def probe(page: Path, width: int, print_style: bool = False) -> dict:
    """Size of the page, its charts and text that is cut off, at a width of ``width`` pixels.

    Args:
        print_style: with the rules for paper, where nothing can be scrolled.
    """
    content = page.read_text(encoding="utf-8")
    if print_style:
        content = content.replace("@media print", "@media all")
    script = _PROBE.replace("PRINT", "true" if print_style else "false")
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "page.html"
        inside = html.escape(content.replace("</body>", f"{script}</body>"))
        # in a frame, since a window of Chromium has a least width
        frame = f'<body style="margin: 0"><iframe width="{width}" height="1000" style="border: 0" srcdoc="{inside}">'
        copy.write_text(f"<!DOCTYPE html>{frame}</iframe></body>", encoding="utf-8")
        document = _chromium(copy, "--dump-dom")
    return json.loads(html.unescape(re.search(r'data-probe="([^"]*)"', document).group(1)))


def _chromium(page: Path, *options: str) -> str:
    with tempfile.TemporaryDirectory() as profile:
        command = [CHROMIUM, *_OPTIONS, f"--user-data-dir={profile}", *options, page.resolve().as_uri()]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description="Take a picture of a whole page.")
    parser.add_argument("page", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--width", type=int, default=1280)
    given = parser.parse_args()
    if CHROMIUM is None:
        parser.error("there is no chromium on this machine")
    picture(given.page, given.target.resolve(), given.width, probe(given.page, given.width)["height"])


if __name__ == "__main__":
    main()
