"""Accuracy against training time on Amazon Baby: ``python -m tools.pareto_picture`` draws docs/images/pareto-baby.svg.

Runs were made on several devices, so their own seconds cannot be compared. A point's time is the number of epochs that
its runs took (results/runs.jsonl), times what an epoch and its evaluation take on one core (results/models.jsonl).
"""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from recbole_mambarec.report import kinds, load
from recbole_mambarec.report.plots import pareto
from recbole_mambarec.report.style import drawing, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "images" / "pareto-baby.svg"
RUNS, COSTS = ROOT / "results" / "runs.jsonl", ROOT / "results" / "models.jsonl"
DATASET, MASK, METRIC = "baby", "train", "recall@20"
#: models below this score are left out, so that the others can be read
LEAST = 0.06
# where a label is tried, in points from its marker, and how it is aligned there
_PLACES = (
    (6, 0, "left", "center"),
    (-6, 0, "right", "center"),
    (0, 6, "center", "bottom"),
    (0, -6, "center", "top"),
    (6, 8, "left", "center"),
    (6, -8, "left", "center"),
    (-6, 8, "right", "center"),
    (-6, -8, "right", "center"),
)


class Point(NamedTuple):
    """A model: minutes on one core (None: a closed form, which is not trained) and its mean test score."""

    model: str
    minutes: float | None
    score: float


def points() -> list[Point]:
    """The default form of every model that was measured, best first."""
    lines = [json.loads(line) for line in COSTS.read_text(encoding="utf-8").splitlines()]
    costs = {line["model"]: line["values"] for line in lines}
    rows = load.read([RUNS]).comparison(load.COMPARISON)
    found = []
    for row in load.chosen_by_validation(rows, METRIC, smaller=False)[0]:
        score, epochs, cost = load.mean(row.test(MASK, METRIC)), load.mean(row.field("epochs")), costs.get(row.model)
        if row.dataset != DATASET or row.label != row.model or score is None or score < LEAST:
            continue
        if kinds.kind(row) == kinds.CLOSED_FORM:
            found.append(Point(row.model, None, score))
        elif cost is not None and epochs is not None:
            seconds = cost["build_s"] + epochs * (
                cost["epoch_cpu_s"] + cost["before_epoch_cpu_s"] + cost["evaluation_cpu_s"]
            )
            found.append(Point(row.model, seconds / 60, score))
    return sorted(found, key=lambda point: -point.score)


def figure() -> Figure:
    """Draw the points, the Pareto front, and the closed forms as lines."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, FuncFormatter

    made = Figure(figsize=(7.6, 4.6), layout="constrained")
    axes = made.subplots()
    every = points()
    trained = [point for point in every if point.minutes is not None]
    front = [trained[i] for i in pareto([(point.minutes, point.score) for point in trained])]
    axes.set_xscale("log")
    ticks = [2, 5, 10, 20, 50, 100, 200, 500]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(FixedLocator([]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlim(0.55 * min(p.minutes for p in trained), 1.9 * max(p.minutes for p in trained))
    axes.set_ylim(LEAST, max(p.score for p in every) * 1.035)
    axes.set_xlabel("training to the early stop, minutes on one CPU core")
    axes.set_ylabel("test Recall@20")
    for point in every:
        if point.minutes is None:
            axes.axhline(point.score, color="#888888", linestyle=":", linewidth=1)
    axes.plot([p.minutes for p in front], [p.score for p in front], color="#0072B2", linewidth=1.4)
    others = [p for p in trained if p not in front]
    axes.plot([p.minutes for p in others], [p.score for p in others], "o", color="#888888", markersize=4.5)
    axes.plot([p.minutes for p in front], [p.score for p in front], "o", color="#0072B2", markersize=6.5)
    made.canvas.draw()  # which settles the axes, so that labels can be measured
    _write_labels(axes, every, front)
    return made


def _write_labels(axes: Axes, every: list[Point], front: list[Point]) -> None:
    """A name beside each marker, where it covers no marker and no other name."""
    from matplotlib.transforms import Bbox

    markers = [axes.transData.transform((p.minutes, p.score)) for p in every if p.minutes is not None]
    corners = [axes.transData.transform((p.minutes, p.score)) for p in front]
    line = [a + (b - a) * share for a, b in pairwise(corners) for share in np.linspace(0, 1, 40)]
    taken = [Bbox.from_bounds(x - 4, y - 4, 8, 8) for x, y in markers]
    taken += [Bbox.from_bounds(x - 1, y - 1, 2, 2) for x, y in line]
    right = axes.get_xlim()[1]
    for point in [*front, *(p for p in every if p not in front)]:
        closed = point.minutes is None
        text = f"{point.model}: closed form, no training" if closed else point.model
        colour, weight = ("#0072B2", "bold") if point in front else ("#555555", "normal")
        where = (right if point.minutes is None else point.minutes, point.score)
        best = None
        for dx, dy, across, along in ((-5, 6, "right", "center"), (-5, -6, "right", "center")) if closed else _PLACES:
            label = axes.annotate(
                text,
                where,
                (dx, dy),
                textcoords="offset points",
                ha=across,
                va=along,
                fontsize=8,
                color=colour,
                fontweight=weight,
            )
            box = label.get_window_extent()
            overlaps = sum(box.overlaps(other) for other in taken)
            if best is None or overlaps < best[0]:
                if best is not None:
                    best[1].remove()
                best = (overlaps, label, box)
            else:
                label.remove()
            if overlaps == 0:
                break
        taken.append(best[2])


if __name__ == "__main__":
    PICTURE.parent.mkdir(exist_ok=True)
    with drawing():
        PICTURE.write_bytes(svg(figure()))
