"""The style of charts: models differ in colour, marker and line style, and charts are the same on every machine."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from recbole_mambarec_common.extras import need

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

# Okabe and Ito's colours, with grey instead of yellow, which is too light for lines on white
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00", "#888888")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "*")
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
GREY = "#666666"
# in inches, so that text can still be read when a narrow screen shrinks the chart
WIDTH, HEIGHT = 5.0, 3.5
# pixels per inch on a page and in a PNG file
DPI, _PNG_DPI = 96, 150
_RC = {
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "lines.markersize": 6,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "axes.titlesize": 10.5,
    "svg.fonttype": "path",  # text has the same width wherever the chart is shown
    "svg.hashsalt": "recbole_mambarec",
}


@dataclass(frozen=True)
class Look:
    """How one model is drawn in every chart."""

    colour: str
    marker: str
    line: str | tuple

    def marks(self) -> dict:
        """Properties of a line with markers."""
        return {"color": self.colour, "marker": self.marker, "linestyle": self.line, "markeredgecolor": self.colour}


def looks(labels: Sequence[str]) -> dict[str, Look]:
    """A look for each label; no two of the first 88 have the same colour and marker."""
    return {
        label: Look(COLOURS[n % len(COLOURS)], MARKERS[n % len(MARKERS)], LINES[n % len(LINES)])
        for n, label in enumerate(labels)
    }


@contextlib.contextmanager
def drawing() -> Iterator[None]:
    """Matplotlib's defaults with the settings above, regardless of the user's own settings.

    Raises:
        UserError: matplotlib is not installed.
    """
    style = need("matplotlib.style", "report")
    with style.context(["default", _RC]):
        yield


def new_figure(height: float = HEIGHT) -> Figure:
    """An empty figure, made without pyplot: no window system, and no state shared with a notebook."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def add_legend(figure: Figure, handles: Sequence[Artist]) -> None:
    """A legend below the axes with as many columns as fit; the figure grows by its rows."""
    bare, canvas = figure.get_figheight(), cast("FigureCanvasAgg", figure.canvas)
    for columns in range(min(len(handles), 6), 0, -1):
        legend = figure.legend(handles=handles, loc="outside lower center", ncols=columns)
        box = legend.get_window_extent(canvas.get_renderer())
        if columns == 1 or box.width <= 0.97 * figure.bbox.width:
            figure.set_figheight(bare + box.height / figure.dpi)
            return
        legend.remove()


def svg(figure: Figure) -> bytes:
    """The same bytes for the same figure."""
    return _saved(figure, format="svg", metadata={"Date": None, "Creator": None})


def png(figure: Figure) -> bytes:
    """The same bytes for the same figure and version of matplotlib."""
    return _saved(figure, format="png", dpi=_PNG_DPI, metadata={"Software": None})


def _saved(figure: Figure, **options) -> bytes:
    with io.BytesIO() as stream:
        figure.savefig(stream, facecolor="white", **options)
        return stream.getvalue()
