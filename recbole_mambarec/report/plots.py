"""The drawings of charts; each function gives a matplotlib figure."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap
from typing import TYPE_CHECKING

from recbole_mambarec.experiments.store import Record
from recbole_mambarec.report.buckets import Grouping
from recbole_mambarec.report.document import number, thousands
from recbole_mambarec.report.load import Row, mean, spread, text
from recbole_mambarec.report.metrics import smaller_is_better
from recbole_mambarec.report.style import GREY, HEIGHT, Look, add_legend, new_figure
from recbole_mambarec.report.sweeps import Sweep

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Looks = dict[str, Look]
# a heat map with more values per axis cannot be read
_MOST_TICKS = 8
_MOST_POINTS = 12
# characters in a line of a legend
_LABEL = 24
# models that are told apart by colour in one chart, and panels in a line of small charts
MOST_COLOURED, _PANELS = 8, 5
# of many models, those with a smaller share of the best score lie below the axis
LEAST_SHARE = 0.6
# models that are only background
_PALE = "#b5b5b5"
# bars and points of one model; the point that validation chose
_LIGHT, _DARK, _CHOSEN = "#9ecae1", "#08519c", "#D55E00"


def _handle(label: str, look: Look, **options):
    from matplotlib.lines import Line2D

    return Line2D([], [], label=_short(label), **(look.marks() | options))


def _short(label: str) -> str:
    return "\n".join(wrap(label, _LABEL)) or label


# ------------------------------------------------------------------------------------------------------------
# learning curves


def has_curve(row: Row, metric: str) -> bool:
    return any(_curve(record, metric)[0] for record in row.records)


def _curve(record: Record, metric: str) -> tuple[list[int], list[float]]:
    entries = [entry for entry in record.curve if (entry["valid"] or {}).get(metric) is not None]
    return [entry["epoch"] + 1 for entry in entries], [entry["valid"][metric] for entry in entries]


def curves(rows: Sequence[Row], metric: str, styles: Looks) -> Figure:
    """Validation score after each epoch, one line per run; a marker where validation was best.

    Of more models than :data:`MOST_COLOURED`, the first are coloured and the others grey.
    """
    figure = new_figure()
    axes = figure.subplots()
    shown = [row for row in rows if has_curve(row, metric)]
    coloured = shown[:MOST_COLOURED]
    for row in shown:
        for record in row.records:
            if row in coloured:
                _draw_curve(axes, record, metric, styles[row.label])
            else:
                epochs, scores = _curve(record, metric)
                axes.plot(epochs, scores, color=_PALE, linewidth=0.7, zorder=1)
    axes.set(xlabel="epochs trained", ylabel=f"validation {metric}")
    axes.margins(x=0.03)
    if len(coloured) < len(shown):
        _plain_log(axes)
        drawn = [score for row in coloured for record in row.records for score in _curve(record, metric)[1]]
        _cut_below(axes, drawn, least_shown(drawn, metric, n_models=len(shown)))
    add_legend(figure, [*(_handle(row.label, styles[row.label]) for row in coloured), *_others(shown, coloured)])
    return figure


def each_curve(rows: Sequence[Row], metric: str) -> Figure:
    """A panel per model with the curves of its runs, beside that of the first model in grey."""
    from matplotlib.lines import Line2D

    shown = [row for row in rows if has_curve(row, metric)]
    lines = -(-len(shown) // _PANELS)
    figure = new_figure(0.6 + 1.05 * lines)
    panels = figure.subplots(lines, _PANELS, sharex=True, sharey=True, squeeze=False).ravel()
    for axes in panels[len(shown) :]:
        axes.set_axis_off()
    for axes, row in zip(panels, shown):
        for record in shown[0].records[:1]:
            axes.plot(*_curve(record, metric), color=_PALE, linewidth=1.2)
        for record in row.records:
            epochs, scores = _curve(record, metric)
            # a single epoch is not a line
            axes.plot(epochs, scores, color=_DARK, linewidth=1, marker="o" if len(epochs) == 1 else "", markersize=3)
        axes.set_title("\n".join(wrap(row.label, 16)[:2]), fontsize=7, pad=2)
        axes.tick_params(labelsize=6)
    figure.supylabel(f"validation {metric}", fontsize=8)
    best = Line2D([], [], color=_PALE, linewidth=1.2, label=_short(shown[0].label))
    add_legend(figure, [Line2D([], [], color=_DARK, linewidth=1, label="the model"), best])
    return figure


def _draw_curve(axes: Axes, record: Record, metric: str, look: Look) -> None:
    epochs, scores = _curve(record, metric)
    if not epochs:
        return
    # a single epoch is not a line and shows as its marker only
    axes.plot(epochs, scores, color=look.colour, linestyle=look.line, linewidth=1.2)
    best = (record.best_epoch or 0) + 1
    at = epochs.index(best) if best in epochs else len(epochs) - 1
    axes.plot(epochs[at], scores[at], look.marker, color=look.colour, markeredgecolor="white", zorder=4)


def _others(shown: Sequence[Row], coloured: Sequence[Row], lines: bool = True) -> list:
    """The entry of a legend for the models that are not coloured."""
    from matplotlib.lines import Line2D

    rest = len(shown) - len(coloured)
    marks = Line2D([], [], color=_PALE, label=f"{rest} others", marker="o", markerfacecolor="white", markersize=4)
    marks.set_linestyle("")
    handle = Line2D([], [], color=_PALE, label=f"{rest} others") if lines else marks
    return [handle] if rest else []


# ------------------------------------------------------------------------------------------------------------
# accuracy against cost


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the (cost, score) that no other one beats in one without losing in the other, by rising cost."""
    front: list[int] = []
    for position in sorted(range(len(points)), key=lambda n: (points[n][0], -points[n][1])):
        if not front or points[position][1] > points[front[-1]][1]:
            front.append(position)
    return front


def costs(rows: Sequence[Row], field: str) -> dict[str, float]:
    """Label -> mean of a cost (seconds become minutes); rows without it are left out."""
    unit = 60 if field == "seconds" else 1
    found = {row.label: mean(row.field(field)) for row in rows}
    return {label: value / unit for label, value in found.items() if value is not None}


def cost(rows: Sequence[Row], field: str, name: str, metric: str, mask: str, styles: Looks) -> Figure:
    """Test score against a cost; the points of the Pareto front are filled and joined."""
    from matplotlib.lines import Line2D

    price = costs(rows, field)
    shown = [row for row in rows if row.label in price and row.test(mask, metric)]
    points = [(price[row.label], mean(row.test(mask, metric))) for row in shown]
    sign = -1 if smaller_is_better(metric) else 1
    front = pareto([(x, sign * y) for x, y in points])
    figure = new_figure()
    axes = figure.subplots()
    axes.step(*zip(*(points[n] for n in front)), where="post", color=GREY, linestyle="--", linewidth=1.2, zorder=1)
    # the best, and those of the front that can be seen
    coloured = shown[:MOST_COLOURED]
    lowest = least_shown([y for _, y in points], metric)
    seen = [n for n in front if lowest is None or points[n][1] >= lowest]
    coloured += [shown[n] for n in seen if shown[n] not in coloured]
    for position, (row, (x, y)) in enumerate(zip(shown, points)):
        if row not in coloured:
            axes.plot(x, y, "o", color=_PALE, markerfacecolor="white", markersize=4, zorder=1)
            continue
        look = styles[row.label]
        fill = look.colour if position in front else "white"
        error = spread(row.test(mask, metric))
        axes.errorbar(x, y, error, color=look.colour, marker=look.marker, markerfacecolor=fill, markersize=8, capsize=3)
    _log_if_wide(axes, [x for x, _ in points])
    axes.set(xlabel=name, ylabel=f"test {metric}")
    axes.margins(0.12)
    _cut_below(axes, [y for _, y in points], lowest)
    handles = [
        _handle(
            row.label,
            styles[row.label],
            linestyle="",
            markerfacecolor=styles[row.label].colour if n in front else "white",
        )
        for n, row in enumerate(shown)
        if row in coloured
    ]
    joined = Line2D([], [], color=GREY, linestyle="--", linewidth=1.2, label="Pareto front")
    add_legend(figure, [*handles, *_others(shown, coloured, lines=False), joined])
    return figure


def speed(rows: Sequence[Row], times: Sequence[tuple[float, float]], metric: str, mask: str, styles: Looks) -> Figure:
    """Test score against the minutes until 95 % and until all of the validation score that was chosen, joined."""
    figure = new_figure()
    axes = figure.subplots()
    scores = [mean(row.test(mask, metric)) for row in rows]
    coloured = list(rows[:MOST_COLOURED])
    for row, y, (early, late) in zip(rows, scores, times):
        if row in coloured:
            look = styles[row.label]
            axes.plot([early, late], [y, y], color=look.colour, linewidth=1.6, zorder=3)
            axes.plot(early, y, look.marker, color=look.colour, markerfacecolor="white", zorder=4)
            axes.plot(late, y, look.marker, color=look.colour, zorder=4)
        else:
            axes.plot([early, late], [y, y], color=_PALE, linewidth=1, marker=".", markersize=4, zorder=1)
    _log_if_wide(axes, [minutes for pair in times for minutes in pair])
    axes.set(xlabel="minutes of training and validation", ylabel=f"test {metric}")
    axes.margins(0.08)
    _cut_below(axes, scores, least_shown(scores, metric))
    add_legend(
        figure,
        [*(_handle(row.label, styles[row.label], linestyle="-") for row in coloured), *_others(rows, coloured)],
    )
    return figure


def least_shown(scores: Sequence[float], metric: str, n_models: int | None = None) -> float | None:
    """Where the axis of a chart of many models begins, so that those far behind do not flatten the others.

    Args:
        n_models: how many models the chart has; None: one per score.

    Returns:
        None for a chart of few models, or if smaller scores are better.
    """
    many = (len(scores) if n_models is None else n_models) > MOST_COLOURED
    return LEAST_SHARE * max(scores) if many and not smaller_is_better(metric) else None


def _cut_below(axes: Axes, scores: Sequence[float], least: float | None) -> None:
    if least is not None:
        axes.set_ylim(max(axes.get_ylim()[0], least), 1.04 * max(scores))


def _log_if_wide(axes: Axes, values: Sequence[float]) -> None:
    if min(values) > 0 and max(values) > 8 * min(values):
        _plain_log(axes)


def _plain_log(axes: Axes) -> None:
    """A logarithmic axis with labels such as 0.5, 10, 200; of a wide range, only the powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 300 * low else (1,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


# ------------------------------------------------------------------------------------------------------------
# groups of users and items


def grouping(groups: Grouping, styles: Looks) -> Figure:
    """The value of each row in each group; joined if the groups have an order."""
    figure = new_figure()
    axes = figure.subplots()
    middle = (len(groups.values) - 1) / 2
    for position, (label, values) in enumerate(groups.values.items()):
        look = styles[label]
        # models are side by side in a group, so that markers do not hide each other
        places = [place + 0.06 * (position - middle) * 8 / max(8, len(groups.values)) for place in range(len(values))]
        axes.plot(places, values, **(look.marks() | ({} if groups.ordered else {"linestyle": ""})))
    names = [f"{name}\nn = {thousands(n)}" for name, n in zip(map(_short, groups.names), groups.counts)]
    axes.set_xticks(range(len(names)), names, fontsize=9 if len(names) < 5 else 7.5)
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.set_ylim(bottom=0)
    axes.grid(axis="x", visible=False)
    axes.set(xlabel=groups.axis, ylabel="\n".join(wrap(groups.value, 34)))
    blank = {} if groups.ordered else {"linestyle": ""}
    add_legend(figure, [_handle(label, styles[label], **blank) for label in groups.values])
    return figure


# ------------------------------------------------------------------------------------------------------------
# ablation


def ablation(rows: Sequence[Row], mask: str, metric: str) -> Figure:
    """A bar from zero for each row, with its difference from the first."""
    shown = [row for row in rows if row.test(mask, metric)]
    figure = new_figure(0.9 + 0.42 * len(shown))
    axes = figure.subplots()
    means = [mean(row.test(mask, metric)) for row in shown]
    errors = [spread(row.test(mask, metric)) or 0 for row in shown]
    bars = axes.barh(range(len(shown)), means, height=0.62, color=_LIGHT, edgecolor=_DARK, linewidth=1)
    bars[0].set(facecolor=_DARK)
    if any(errors):
        axes.errorbar(means, range(len(shown)), xerr=errors, fmt="none", ecolor="black", elinewidth=1, capsize=3)
    for place, value in enumerate(means):
        change = f" ({100 * (value / means[0] - 1):+.1f} %)".replace("-", "−") if place and means[0] else ""
        # in a separate column, where neither bars nor lines cross them
        axes.text(1.02, place, number(value) + change, va="center", fontsize=9, transform=axes.get_yaxis_transform())
    axes.axvline(means[0], color=GREY, linestyle=":", linewidth=1)
    axes.set_yticks(range(len(shown)), [_short(row.label) for row in shown])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.03 * max(value + error for value, error in zip(means, errors)))
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(f"test {metric}")
    return figure


# ------------------------------------------------------------------------------------------------------------
# hyper-parameters


def sweep(found: Sweep) -> Figure:
    """A heat map for two keys with few values each; otherwise a panel per key, with the points at each value."""
    sizes = [len(found.options(position)) for position in range(len(found.keys))]
    if len(sizes) == 2 and max(sizes) <= _MOST_TICKS:
        return _map(found)
    return _panels(found)


def _score(point) -> float | None:
    return mean(point.row.valid(point.row.metric))


def _map(found: Sweep) -> Figure:
    import numpy as np

    rows, columns = found.options(0), found.options(1)
    grid = np.full((len(rows), len(columns)), np.nan)
    for point in found.points:
        value = _score(point)
        grid[rows.index(point.values[0]), columns.index(point.values[1])] = np.nan if value is None else value
    figure = new_figure(1.3 + 0.5 * len(rows))
    axes = figure.subplots()
    image = axes.imshow(grid, cmap="Blues", aspect="auto", vmin=np.nanmin(grid), vmax=np.nanmax(grid))
    # the colour map is light enough for print and for dark numbers in most cells
    low, high = np.nanmin(grid), np.nanmax(grid)
    for (row, column), value in np.ndenumerate(grid):
        if not np.isnan(value):
            colour = "white" if high > low and (value - low) / (high - low) > 0.6 else "black"
            axes.text(
                column,
                row,
                number(value),
                ha="center",
                va="center",
                color=colour,
                fontsize=9 if len(columns) < 7 else 7,
            )
    if found.chosen is not None:
        place = columns.index(found.chosen.values[1]), rows.index(found.chosen.values[0])
        axes.add_patch(_frame(place))
    axes.set_xticks(range(len(columns)), list(map(text, columns)))
    axes.set_yticks(range(len(rows)), list(map(text, rows)))
    axes.set(xlabel=found.keys[1], ylabel=found.keys[0])
    axes.grid(visible=False)
    figure.colorbar(image, ax=axes, label=f"validation {found.metric}", format="%.4f")
    return figure


def _frame(place: tuple[int, int]):
    from matplotlib.patches import Rectangle

    return Rectangle((place[0] - 0.46, place[1] - 0.46), 0.92, 0.92, fill=False, edgecolor=_CHOSEN, linewidth=2.5)


def _panels(found: Sweep) -> Figure:
    figure = new_figure(HEIGHT - 0.7 if len(found.keys) == 1 else 2.3 * len(found.keys))
    panels = figure.subplots(len(found.keys), 1, sharey=True, squeeze=False)[:, 0]
    for position, (axes, key) in enumerate(zip(panels, found.keys)):
        options = found.options(position)
        continuous = len(options) > _MOST_POINTS and all(isinstance(option, (int, float)) for option in options)
        places = options if continuous else range(len(options))
        at = [places[options.index(point.values[position])] for point in found.points]
        scored = [(x, point) for x, point in zip(at, found.points) if _score(point) is not None]
        if continuous:
            if min(options) > 0 and max(options) > 20 * min(options):
                _plain_log(axes)
        else:
            best = {
                x: max((_score(p) for other, p in scored if other == x), key=lambda y: found.sign * y)
                for x, _ in scored
            }
            axes.plot(*zip(*sorted(best.items())), color=_DARK)
            axes.set_xticks(places, list(map(text, options)), fontsize=9 if len(options) < 9 else 7)
            axes.set_xlim(-0.4, len(options) - 0.6)
        for x, point in scored:
            look = (
                {"marker": "D", "color": _CHOSEN, "markersize": 9}
                if point is found.chosen
                else {"marker": "o", "color": _DARK, "markerfacecolor": "white"}
            )
            axes.errorbar(x, _score(point), spread(point.row.valid(found.metric)), capsize=3, zorder=3, **look)
        axes.set(xlabel=key, ylabel=f"validation\n{found.metric}")
        axes.margins(y=0.12)
    return figure
