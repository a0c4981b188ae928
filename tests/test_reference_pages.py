"""The generated reference pages and the picture say what the code and the records say today."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from recbole_mambarec.memory import need
from recbole_mambarec.models.freedom import FREEDOM
from recbole_mambarec.testing.data import model_config, random_dataset
from recbole_mambarec.yaml_files import read_yaml_mapping

ROOT = Path(__file__).resolve().parents[1]
if not (ROOT / "docs").is_dir():
    pytest.skip("the documentation is part of the repository only", allow_module_level=True)

from tools import pareto_picture, reference_pages  # noqa: E402


def test_the_pages_are_what_the_tool_writes():
    pages = reference_pages.pages()
    written = {path: path.read_text(encoding="utf-8") for path in pages if path.exists()}
    assert written == pages, "run python -m tools.reference_pages"


def test_the_configuration_reference_has_every_key_of_the_protocol():
    text = reference_pages.configuration().partition("## Keys of models")[0]
    named = re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)
    assert named == list(read_yaml_mapping(reference_pages.OVERALL))


def test_a_line_without_type_and_meaning_is_refused():
    with pytest.raises(ValueError, match="'seed: 1' is not"):
        reference_pages._blocks("seed: 1\n")


def test_sizes_alone_give_the_estimate_of_real_data(monkeypatch):
    monkeypatch.setattr(reference_pages, "WIDTHS", {"image": 12, "text": 7})
    config = model_config("FREEDOM", freeze_features=True)
    data = random_dataset().training_data()
    sizes = reference_pages.Catalogue("small", data.n_items, data.n_users, len(data.users))
    stand_in = reference_pages.SizesOnly(sizes, limit=2**20)
    use = FREEDOM.memory_of(config, data)
    assert need(use, config, stand_in) == need(use, config, data)


def test_the_picture_has_the_front_of_the_measured_models():
    points = {point.model: point for point in pareto_picture.points()}
    assert points["MultiEASE"].minutes is None and points["LightGCN"].minutes > 1
    matplotlib = pytest.importorskip("matplotlib")
    from recbole_mambarec.report.style import drawing, svg

    with drawing():
        made = pareto_picture.figure()
        drawn = svg(made)
    if f"matplotlib=={matplotlib.__version__};" in (ROOT / "constraints.txt").read_text(encoding="utf-8"):
        assert pareto_picture.PICTURE.read_bytes() == drawn, "run python -m tools.pareto_picture"
    texts = [text.get_text().partition(":")[0] for text in made.axes[0].texts]
    assert sorted(texts) == sorted(points)
    (front,) = [line for line in made.axes[0].lines if len(line.get_xdata()) > 2 and line.get_marker() == "None"]
    minutes, scores = list(front.get_xdata()), list(front.get_ydata())
    assert minutes == sorted(minutes) and scores == sorted(scores)
    for point in points.values():
        if point.minutes is not None:
            assert any(m <= point.minutes and s >= point.score for m, s in zip(minutes, scores)), point
