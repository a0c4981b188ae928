"""Every chart has marks, and none of its text is cut off or covered."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.text import Text

from recbole_mambarec.report import charts, load, plots, style
from recbole_mambarec.report.sections import Builder, Options
from recbole_mambarec.report.sweeps import find
from tests.report.synthetic import Synthetic
from tests.report.test_load import run
from tests.report.test_sweeps import scored


@pytest.fixture
def figures(monkeypatch):
    """The figures of charts, by name."""
    drawn, sizes = [], charts.Chart

    def keep(name, *rest):
        chart = sizes(name, *rest)
        figures[name] = drawn[-1]
        return chart

    figures = {}
    monkeypatch.setattr(charts, "svg", lambda figure: drawn.append(figure) or b"<svg/>")
    monkeypatch.setattr(charts, "png", lambda figure: b"")
    monkeypatch.setattr(charts, "Chart", keep)
    return figures


def marks(figure) -> int:
    """Points, bars and cells with a value that lie inside the axes."""
    found = 0
    for axes in figure.axes:
        inside = axes.get_window_extent().padded(1)
        for line in axes.lines:
            points = axes.transData.transform(np.column_stack(line.get_data()).astype(float))
            found += sum(inside.contains(*point) for point in points) if line.get_transform() == axes.transData else 0
        found += sum(patch.get_width() > 0 for patch in axes.patches if hasattr(patch, "get_width"))
        found += sum(int(image.get_array().count()) for image in axes.images)
    return found


def texts(figure) -> list[Text]:
    """All text that is drawn; matplotlib also keeps that of ticks beyond the limits."""
    found = [*figure.texts, *(text for legend in figure.legends for text in legend.get_texts())]
    for axes in figure.axes:
        found += [*axes.texts, axes.title, axes.xaxis.label, axes.yaxis.label]
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = zip(axis.get_majorticklocs(), axis.get_major_ticks())
            found += [label for at, tick in ticks if low <= at <= high for label in (tick.label1, tick.label2)]
    return [text for text in found if text.get_visible() and text.get_text().strip()]


def check(figure) -> None:
    """Fails if a chart is empty, or if any of its text is cut off or covered by other text."""
    renderer = figure.canvas.get_renderer()
    figure.draw(renderer)
    assert marks(figure) > 1
    whole = figure.bbox
    boxes = [(text, text.get_window_extent(renderer)) for text in texts(figure)]
    assert len(boxes) > 3
    for text, box in boxes:
        assert whole.x0 <= box.x0 and box.x1 <= whole.x1 and whole.y0 <= box.y0 and box.y1 <= whole.y1, text
    for (one, here), (other, there) in itertools.combinations(boxes, 2):
        assert not here.padded(-0.5).overlaps(there.padded(-0.5)), (one, other)


def build(paths, **options):
    return Builder(load.read(paths), Options(**options), "command").report()


def test_every_chart_has_marks_and_whole_text(files, figures):
    report = build(files)
    kinds = {name.partition("-")[0] for name in figures}
    assert kinds == {"curves", "cost", "speed", "activity", "popularity", "modality", "ablation", "sweep"}
    assert len(figures) == sum(len(section.charts) for section in report.sections)
    for figure in figures.values():
        check(figure)


def test_many_models_of_long_names_fit(tmp_path, figures):
    made = Synthetic(tmp_path, users=0.05)
    for number in range(20):
        label = f"A model with a long name, in its variant {number}"
        made.add("MambaRec", "baby", 999, 0.05 + 0.002 * number, label, overrides={"mmd_weight": 0.1 + number})
        made.add("MambaRec", "baby", 999, 0.09, label, "a long ablation", {"modalities": [str(number)]})
    made.add("BPR", "baby", 999, 0.01)
    build([made.runs])
    assert len(figures) > 6
    for figure in figures.values():
        check(figure)


def test_of_many_models_the_best_are_coloured_and_those_far_behind_are_named(tmp_path, figures):
    made = Synthetic(tmp_path, users=0.05)
    for number in range(12):
        made.add(
            "MambaRec", "baby", 999, 0.09 - 0.0005 * number, f"model {number}", overrides={"mmd_weight": 1.0 + number}
        )
    made.add("BPR", "baby", 999, 0.001)
    report = build([made.runs])
    for name in ("curves-baby", "speed-baby", "cost-seconds-baby"):
        labels = [text.get_text() for text in figures[name].legends[0].get_texts()]
        named = [label for label in labels if label.startswith("model ") or label == "BPR"]
        assert len(named) <= 9 and any(label.endswith(" others") for label in labels), labels
    captions = {chart.name: chart.caption for section in report.sections for chart in section.charts}
    assert "BPR. Mask" in captions["speed-baby"].partition("Below the axis: ")[2]
    assert len([axes for axes in figures["curves-each-baby"].axes if axes.axison]) == 13


def test_a_single_epoch_can_be_seen(figures):
    entry = {"epoch": 0, "valid": {"recall@20": 0.1}}
    rows = load.rows([replace(run(label), curve=[entry], best_epoch=0) for label in ("a", "b")])
    charts.curves("d", rows, style.looks(["a", "b"]))
    check(figures["curves-d"])


@pytest.mark.parametrize("count", [4, 30])
def test_searches_of_several_sizes(count, figures):
    rng = np.random.default_rng(0)
    trials = []
    for n in range(count):
        point = {"a": float(rng.uniform(0.001, 10)), "b": float(rng.uniform(0, 1)), "c": "xy"[n % 2]}
        trial = scored(float(rng.uniform(0, 0.1)), label=str(n), model="M", group="tuning", **point)
        trials.append(replace(trial, point=point, stopped=False))
    (found,) = find([], trials)
    charts.sweep(found)
    check(figures[found.name])


def test_models_differ_in_more_than_colour():
    looks = list(style.looks([str(number) for number in range(40)]).values())
    assert len({(look.colour, look.marker) for look in looks}) == 40
    assert len({(look.marker, str(look.line)) for look in looks[:11]}) == 11  # in black and white
    assert len({look.colour for look in looks[:8]}) == 8


def test_the_pareto_front():
    points = [(1, 0.1), (2, 0.3), (3, 0.2), (2, 0.25), (5, 0.3), (6, 0.4)]
    assert [points[number] for number in plots.pareto(points)] == [(1, 0.1), (2, 0.3), (6, 0.4)]
    assert plots.pareto([(1, 0.1)]) == [0]


def test_the_front_is_filled_and_the_rest_is_not(figures):
    records = [
        replace(run(label), seconds=seconds, test={"train": {"recall@20": score}})
        for label, seconds, score in (("quick", 60, 0.1), ("good", 600, 0.2), ("bad", 900, 0.1))
    ]
    charts.cost("d", load.rows(records), "seconds", "train", "recall@20", style.looks(["quick", "good", "bad"]))
    figure = figures["cost-seconds-d"]
    handles = {handle.get_label(): handle.get_markerfacecolor() for handle in figure.legends[0].legend_handles}
    assert [handles[label] == "white" for label in ("quick", "good", "bad")] == [False, False, True]
    check(figure)


def test_there_is_no_chart_without_data():
    rows = load.rows([run("a"), run("b")])
    looks = style.looks(["a", "b"])
    assert charts.curves("d", rows, looks) is None
    assert charts.cost("d", rows[:1], "seconds", "train", "recall@20", looks) is None
    assert charts.cost("d", rows, "seconds", "train", "mrr@5", looks) is None
    assert charts.ablation("d", "g", rows[:1], "train", "recall@20") is None


def test_the_users_own_style_has_no_effect(monkeypatch):
    import matplotlib

    rows = load.rows([run(label) for label in ("a", "b")])
    arguments = ("d", rows, "seconds", "train", "recall@20", style.looks(["a", "b"]))
    before = charts.cost(*arguments)
    with matplotlib.rc_context({"font.size": 30, "svg.hashsalt": None, "lines.linewidth": 9}):
        after = charts.cost(*arguments)
    assert (before.svg, before.png) == (after.svg, after.png)
