"""The page as a browser shows it, on a wide and a narrow screen and on paper."""

import numpy as np
import pytest
from PIL import Image

from tests.report.browser import CHROMIUM, picture, probe

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")


@pytest.mark.parametrize("width", [1280, 400])
def test_no_text_is_cut_off_and_every_chart_has_marks(report, tmp_path, width):
    page = report / "index.html"
    layout = probe(page, width)
    assert layout["width"] == width and layout["scrolls"] <= width, "the page itself must not scroll sideways"
    assert layout["cut"] == []
    assert len(layout["charts"]) >= 14 and all(chart["loaded"] for chart in layout["charts"])
    picture(page, tmp_path / "page.png", width, layout["height"])
    with Image.open(tmp_path / "page.png") as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    assert pixels.shape[:2] == (layout["height"], width)
    for chart in layout["charts"]:
        left, top, right, bottom = chart["box"]
        assert left >= 0 and right <= width and right - left > 0.7 * min(width, 480)
        shown = pixels[top:bottom, left:right]
        coloured = shown.max(axis=2) - shown.min(axis=2) > 60
        assert coloured.sum() > 60, f"{chart['name']} has no marks"
        edge = np.concatenate([shown[0], shown[-1], shown[:, 0], shown[:, -1]])
        assert edge.min() > 200, f"something of {chart['name']} is cut"


def test_nothing_is_cut_off_on_paper(report):
    # A4 without its margins, in pixels of a page
    layout = probe(report / "index.html", round((210 - 2 * 14) / 25.4 * 96), print_style=True)
    assert layout["cut"] == [] and layout["scrolls"] <= layout["width"]


def test_the_probe_detects_what_is_cut_off(report, tmp_path):
    wide = tmp_path / "wide.html"
    wide.write_text('<body><p style="white-space: nowrap">' + "word " * 400 + "</p></body>")
    layout = probe(wide, 600)
    assert len(layout["cut"]) == 1 and layout["scrolls"] > 600
