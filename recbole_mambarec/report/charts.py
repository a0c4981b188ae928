"""The charts of a report, with their captions and alternative texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from recbole_mambarec.report import plots
from recbole_mambarec.report.buckets import Grouping
from recbole_mambarec.report.document import Chart, count, listing, number, slug
from recbole_mambarec.report.kinds import untimed
from recbole_mambarec.report.load import Row, mean
from recbole_mambarec.report.reached import minutes_to
from recbole_mambarec.report.style import DPI, Look, drawing, png, svg
from recbole_mambarec.report.sweeps import Sweep

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COSTS = {"seconds": "training time, minutes", "peak_memory_gib": "peak memory, GiB"}


def _draw(name: str, kind: str, what: str, seen: str, detail: str, make: Callable[[], Figure]) -> Chart:
    """Draw a figure and its files.

    Args:
        name: the name of the files, without the ending.
        kind: the kind of chart, for the alternative text.
        what, seen, detail: what is shown; the gist of it, for the alternative text; how to read it.
        make: draws the figure.

    Raises:
        UserError: matplotlib is not installed.
    """
    with drawing():
        figure = make()
        width, height = (round(DPI * inches) for inches in figure.get_size_inches())
        return Chart(name, f"{what}; {detail}", f"{kind}. {what}: {seen}", svg(figure), png(figure), (width, height))


def curves(dataset: str, rows: Sequence[Row], looks: dict[str, Look]) -> Chart | None:
    """Validation scores by epoch; None if the records have none."""
    metric, shown = _with_curves(rows)
    if not shown:
        return None
    return _draw(
        f"curves-{slug(dataset)}",
        "Line chart",
        f"Validation {metric} by epoch on {dataset}",
        _extremes(shown, lambda row: row.valid(metric)),
        f"one line per run ({_seeds(shown)}), with a marker at the epoch that was chosen{_greyed(shown)}.",
        partial(plots.curves, shown, metric, looks),
    )


def each_curve(dataset: str, rows: Sequence[Row], looks: dict[str, Look]) -> Chart | None:
    """A small chart for each model; None where one chart can hold them all."""
    metric, shown = _with_curves(rows)
    if len(shown) <= plots.MOST_COLOURED:
        return None
    return _draw(
        f"curves-each-{slug(dataset)}",
        "Small line charts",
        f"Validation {metric} by epoch on {dataset}, model by model",
        _extremes(shown, lambda row: row.valid(metric)),
        f"in the order of their test scores, one line per run ({_seeds(shown)}); grey: {shown[0].label}. "
        "Across: epochs trained.",
        partial(plots.each_curve, shown, metric),
    )


def _with_curves(rows: Sequence[Row]) -> tuple[str, list[Row]]:
    """The validation metric of the rows, and those that have its curve."""
    metric = next((row.metric for row in rows if plots.has_curve(row, row.metric)), "")
    return metric, [row for row in rows if plots.has_curve(row, metric)]


def speed(dataset: str, rows: Sequence[Row], mask: str, metric: str, looks: dict[str, Look]) -> Chart | None:
    """Time to 95 % and 100 % of the final validation score, and accuracy; None if fewer than two rows have both."""
    times = {row.label: (minutes_to(row, 0.95), minutes_to(row, 1.0)) for row in rows if row.test(mask, metric)}
    shown = [row for row in rows if None not in times.get(row.label, (None,))]
    if len(shown) < 2:
        return None
    devices = list(dict.fromkeys(record.device for row in shown for record in row.records))
    mixed = f" The runs were made on {listing(devices)}: compare times of one device." if len(devices) > 1 else ""
    return _draw(
        f"speed-{slug(dataset)}",
        "Line chart",
        f"Test {metric} on {dataset} against the minutes to 95 % and to all of the final validation score",
        _extremes(shown, lambda row: row.test(mask, metric)),
        f"means over seeds ({_seeds(shown)}): a line from 95 % (open marker) to the score that was chosen (filled)."
        f"{_lacking(rows, shown)}{_below(shown, mask, metric)}{untimed(shown)} Mask: {mask}.{mixed}",
        partial(plots.speed, shown, [times[row.label] for row in shown], metric, mask, looks),
    )


def cost(dataset: str, rows: Sequence[Row], field: str, mask: str, metric: str, looks: dict[str, Look]) -> Chart | None:
    """Accuracy against one of :data:`COSTS`; None if fewer than two rows have both."""
    prices = plots.costs(rows, field)
    shown = [row for row in rows if row.label in prices and row.test(mask, metric)]
    if len(shown) < 2:
        return None
    name = COSTS[field]
    return _draw(
        f"cost-{slug(field)}-{slug(dataset)}",
        "Scatter chart",
        f"Test {metric} against {name.replace(',', ' in')} on {dataset}",
        _extremes(shown, lambda row: row.test(mask, metric)),
        f"means over seeds ({_seeds(shown)}{_spread(shown, 'bars')}). Filled and joined: the Pareto front, whose "
        f"models no other one beats in one respect without losing in the other.{_lacking(rows, shown)}"
        f"{_below(shown, mask, metric)}{untimed(shown) if field == 'seconds' else ''} Mask: {mask}.",
        partial(plots.cost, shown, field, name, metric, mask, looks),
    )


def grouping(dataset: str, groups: Grouping, mask: str, looks: dict[str, Look]) -> Chart:
    """The values of models in groups of users or items."""
    return _draw(
        f"{groups.name}-{slug(dataset)}",
        "Line chart" if groups.ordered else "Scatter chart",
        f"{groups.title} on {dataset}: {groups.value}",
        f"{_range(groups.names)}; a table below has the values.",
        f"mean of {count(len(groups.seeds), 'seed')}, n: {groups.unit}s. Mask: {mask}. {groups.note}".rstrip(),
        partial(plots.grouping, groups, looks),
    )


def ablation(dataset: str, group: str, rows: Sequence[Row], mask: str, metric: str) -> Chart | None:
    """What the parts of a model contribute; None if fewer than two rows were tested."""
    shown = [row for row in rows if row.test(mask, metric)]
    if len(shown) < 2:
        return None
    return _draw(
        f"ablation-{slug(group)}-{slug(dataset)}",
        "Bar chart",
        f"Ablation {group} on {dataset}: test {metric}",
        _extremes(shown, lambda row: row.test(mask, metric)),
        f"mean over seeds ({_seeds(shown)}{_spread(shown, 'lines')}); in brackets: difference from {shown[0].label}. "
        f"Mask: {mask}.",
        partial(plots.ablation, shown, mask, metric),
    )


def sweep(found: Sweep) -> Chart | None:
    """Validation scores by hyper-parameter; None if there are none."""
    if found.chosen is None:
        return None
    rows = [point.row for point in found.points]
    return _draw(
        found.name,
        "Chart",
        f"{found.model} on {found.dataset}: validation {found.metric} by {listing(list(found.keys))}",
        _extremes(rows, lambda row: row.valid(row.metric)),
        f"{count(len(rows), 'point')} ({_seeds(rows)}); marked: the point with the best validation score.",
        partial(plots.sweep, found),
    )


def _seeds(rows: Sequence[Row]) -> str:
    """The number of runs behind each value."""
    numbers = sorted({len(row.seeds) for row in rows})
    if len(numbers) == 1:
        return f"n = {count(numbers[0], 'seed')}"
    return f"n = {numbers[0]} to {numbers[-1]} seeds"


def _greyed(shown: Sequence[Row]) -> str:
    return f"; coloured: the best {plots.MOST_COLOURED} at test" if len(shown) > plots.MOST_COLOURED else ""


def _below(rows: Sequence[Row], mask: str, metric: str) -> str:
    """Which models a chart of many leaves out, because they lie below its axis."""
    scores = {row.label: mean(row.test(mask, metric)) or 0.0 for row in rows}
    least = plots.least_shown(list(scores.values()), metric)
    below = [label for label, score in scores.items() if least is not None and score < least]
    return f" Below the axis: {listing(below)}." if below else ""


def _spread(rows: Sequence[Row], marks: str) -> str:
    """What the marks of spread mean, if there are any."""
    return f"; {marks}: standard deviation" if any(len(row.seeds) > 1 for row in rows) else ""


def _lacking(rows: Sequence[Row], shown: Sequence[Row]) -> str:
    """Which rows are not in a chart because they lack a value."""
    labels = [row.label for row in rows if row not in shown]
    return f" Left out, without a recorded value: {listing(labels)}." if labels else ""


def _range(names: Sequence[str]) -> str:
    return f"{len(names)} groups from {names[0]} to {names[-1]}" if len(names) > 1 else f"one group, {names[0]}"


def _extremes(rows: Sequence[Row], scores: Callable[[Row], list[float]]) -> str:
    """The best and the worst of the rows shown."""
    values = {row.label: mean(found) for row in rows if (found := scores(row))}
    if not values:
        return "no scores."
    low, high = min(values, key=values.get), max(values, key=values.get)
    if values[low] == values[high]:
        return f"{len(values)}, all with {number(values[high])}."
    return f"of {len(values)}, highest {high} with {number(values[high])}, lowest {low} with {number(values[low])}."
