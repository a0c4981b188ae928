"""The tables of a report."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from recbole_mambarec.experiments.fusion import GIVEN
from recbole_mambarec.experiments.significance import Family
from recbole_mambarec.experiments.store import TRAINED_WITH, UNMASKED
from recbole_mambarec.report.buckets import Grouping
from recbole_mambarec.report.document import MISSING, Block, Cell, Table, count, listing, number, slug, thousands
from recbole_mambarec.report.kinds import kind, untimed
from recbole_mambarec.report.load import Row, datasets, mean, spread, text
from recbole_mambarec.report.metrics import smaller_is_better
from recbole_mambarec.report.paired import Paired
from recbole_mambarec.report.published import Published
from recbole_mambarec.report.reached import minutes_to
from recbole_mambarec.report.significance import INTERVAL, limits, method
from recbole_mambarec.report.sweeps import Point, Sweep

SCALES = {
    "zscore": "their scores in standard deviations per user",
    "ranks": "their reciprocal ranks per user",
    "raw": "their raw scores",
}
MASKED = {
    "train": "validation items are ranked at test, as in published tables",
    "train+valid": "validation items are masked at test, RecBole's default",
    "none": "nothing is masked at test, as under RecBole's repeatable: True",
}


def _cell(values: Sequence[float], places: int = 4, **marks) -> Cell:
    return Cell(number(mean(values), places), number(spread(values), places) if len(values) > 1 else "", **marks)


def _about_spread(blocks: Sequence[Block]) -> str:
    """What ± means, if it is shown."""
    if not any(cell.spread for block in blocks for row in block.rows for cell in row):
        return ""
    return " ± is the standard deviation over seeds (n\N{NO-BREAK SPACE}−\N{NO-BREAK SPACE}1); a single seed has none."


def _ranked(means: Sequence[float | None], smaller: bool = False) -> list[str]:
    """``best``, ``second`` or "" for each value of a column, as far as they differ in the printed places."""
    shown = [None if value is None else round(value, 4) for value in means]
    order = sorted((value for value in shown if value is not None), reverse=not smaller)
    if len(order) < 2:
        return [""] * len(shown)
    # if two are best, there is no second
    names = {order[1]: "second"} | {order[0]: "best"}
    return [names.get(value, "") for value in shown]


def _seeds(row: Row) -> Cell:
    return Cell(str(len(row.seeds)))


# ------------------------------------------------------------------------------------------------------------
# accuracy


def scores(
    name: str,
    caption: str,
    rows: Sequence[Row],
    metrics: Sequence[str],
    mask: str,
    tests: Paired | None = None,
    published: Callable[[str], dict[str, Published]] = lambda dataset: {},
    ranked: bool = True,
    by_kind: bool = True,
) -> Table:
    """Test scores of the rows: mean and standard deviation over seeds.

    Args:
        tests: decide about stars; without them there are none.
        published: dataset -> model -> scores to show below the measured ones.
        ranked: whether to mark best and second.
        by_kind: whether to name the kinds of models; the rows come in their order (:func:`~.kinds.ordered`).
    """
    blocks: list[Block] = []
    sources: dict[str, dict[str, None]] = {}
    for dataset, here in datasets(rows).items():
        columns = [_column(here, dataset, mask, metric, tests, ranked) for metric in metrics]
        lines = [[Cell(row.label), _seeds(row), *cells] for row, *cells in zip(here, *columns)]
        kinds = [kind(row) for row in here]
        # of the whole catalogue
        whole = here[0].config.get("rank_items") != "new"
        published_scores = published(here[0].records[0].dataset) if whole else {}
        for model in dict.fromkeys(row.model for row in here if row.model in published_scores):
            cells = [Cell(number(published_scores[model].scores.get(metric)), aside=True) for metric in metrics]
            lines.append([Cell(f"{model}, published", aside=True), Cell("", aside=True), *cells])
            kinds.append("Published, other features")
            sources.setdefault(published_scores[model].source, {})[model] = None
        blocks.append(Block(dataset, lines, kinds if by_kind and len(set(kinds)) > 1 else []))
    notes = [f"Test split; {MASKED[mask]} (mask: {mask}).{_about_spread(blocks)}"]
    unmasked = [row.label for row in rows if mask != UNMASKED and any(UNMASKED in r.test for r in row.records)]
    if unmasked:
        notes.append(
            f"{listing(unmasked)}: tested under repeatable: True, where nothing is masked; see the mask '{UNMASKED}'."
        )
    if ranked:
        notes.append("Bold: best of the column on a dataset; underlined: second best.")
    if tests is not None:
        notes += [*fusions(rows), *reevaluations(rows)]
        starred = any(cell.star for block in blocks for line in block.rows for cell in line)
        tested = any(tests.family(dataset, metric) for dataset in datasets(rows) for metric in metrics)
        notes += [*(["No score has a star."] if tested and not starred else []), *tests.statements(rows, metrics)]
    if sources:
        names = "; ".join(f"{listing(list(models))} from {source}" for source, models in sources.items())
        notes.append(
            f"Published, other features: {names}. These are results of other code, on the public feature files, with "
            "validation items ranked at test; they are not considered for best and second best."
        )
    return Table(name, caption, ["model", "seeds", *metrics], blocks, notes=notes)


def reevaluations(rows: Sequence[Row]) -> list[str]:
    """A sentence on each row that is a trained model with other values of some keys: those of its training."""
    return [
        f"{row.label} on {row.dataset}: evaluated after the training, which had {listing(before)} and chose the epoch "
        "with it."
        for row in rows
        if (before := [f"{key}={text(value)}" for key, value in row.config.get(TRAINED_WITH, {}).items()])
    ]


def fusions(rows: Sequence[Row]) -> list[str]:
    """A sentence on each row that is a fusion of other runs: its parts, and what validation made their weights."""
    notes = []
    for row in rows:
        how = [record.fusion for record in row.records if record.fusion is not None]
        if how:
            labels = [part["label"] for part in how[0]["parts"]]
            weights = [mean([each["parts"][number]["weight"] for each in how]) for number in range(len(labels))]
            shares = listing([f"{label} {number(weight, 2)}" for label, weight in zip(labels, weights)])
            found = f"found on validation by {how[0]['metric']}" if how[0]["search"] != GIVEN else "given"
            several = ", means over seeds" if len(how) > 1 else ""
            scale = SCALES[how[0]["normalisation"]]
            notes.append(
                f"{row.label} on {row.dataset} is a fusion of runs, no model: {scale} with the weights "
                f"{shares} ({found}{several})."
            )
    return notes


def _column(
    rows: Sequence[Row], dataset: str, mask: str, metric: str, tests: Paired | None, ranked: bool
) -> list[Cell]:
    """The scores of one dataset in one metric."""
    values = [row.test(mask, metric) for row in rows]
    ranks = _ranked([mean(each) for each in values], smaller_is_better(metric)) if ranked else [""] * len(rows)
    return [
        _cell(each, rank=rank, star=rank == "best" and tests is not None and tests.star(dataset, metric, row.label))
        for row, each, rank in zip(rows, values, ranks)
    ]


def beyond(rows: Sequence[Row], metrics: Sequence[str], mask: str) -> Table:
    """Properties of the recommended lists as such (coverage, popularity, ...)."""
    table = scores("beyond", "Properties of the recommended lists, mean over seeds.", rows, metrics, mask, ranked=False)
    header = [*table.header[:2], *(f"{name} {'↓' if smaller_is_better(name) else '↑'}" for name in metrics)]
    note = "↑ more, ↓ less is usually wanted (RecBole's definitions); nothing is marked, as neither is better as such."
    return Table(table.name, table.caption, header, table.blocks, notes=[*table.notes, note])


def deltas(rows: Sequence[Row], metrics: Sequence[str], mask: str, reference: str | None) -> Table:
    """Relative differences of means from the reference, or from the best of the other rows.

    Args:
        reference: a label or model; on datasets without it, cells are empty.
    """
    blocks = []
    for dataset, here in datasets(rows).items():
        fixed = None if reference is None else find(here, reference)
        lines = []
        for row in here:
            others = [other for other in here if other is not row] if reference is None else [fixed] if fixed else []
            cells = [Cell("reference") if row is fixed else _delta(row, others, mask, metric) for metric in metrics]
            lines.append([Cell(row.label), *cells])
        blocks.append(Block(dataset, lines))
    against = f"from {reference}" if reference else "from the best of the other models in the column"
    caption = f"Relative difference {against}, in percent of its mean."
    note = f"Test split; {MASKED[mask]} (mask: {mask}). Means over each row's seeds."
    return Table("deltas", caption, ["model", *(f"{metric}, %" for metric in metrics)], blocks, notes=[note])


def _delta(row: Row, others: Sequence[Row], mask: str, metric: str) -> Cell:
    means = [value for other in others if (value := mean(other.test(mask, metric))) is not None]
    best = (min if smaller_is_better(metric) else max)(means, default=None)
    return Cell(_relative(mean(row.test(mask, metric)), best))


def find(rows: Sequence[Row], name: str) -> Row | None:
    """The row with this label, else the first row of this model; None if there is neither."""
    by_label = [row for row in rows if row.label == name]
    return next(iter([*by_label, *(row for row in rows if row.model == name)]), None)


def _relative(value: float | None, base: float | None, places: int = 1) -> str:
    if value is None or not base:
        return MISSING
    # a difference that rounds to zero has no sign
    change = round(100 * (value - base) / base, places) + 0.0
    return number(change, places) if change <= 0 else f"+{number(change, places)}"


def significance(families: dict[tuple[str, str], Family], unit: str) -> Table:
    """All comparisons with the best model, by dataset and metric."""
    blocks = []
    for (dataset, metric), family in families.items():
        heading = f"{dataset}, {metric}: {family.best} ({number(family.best_mean)}) against"
        lines = []
        for each in family.comparisons:
            low, high = each.interval
            cells = [
                Cell(number(each.mean)),
                Cell(number(each.difference), star=each.significant),
                Cell(f"{number(low)} to {number(high)}"),
                *(Cell(_p(p)) for p in (each.p_wilcoxon, each.p_t)),
                Cell(_effect(each.d_z)),
                Cell(_effect(each.rank_biserial)),
                Cell(thousands(each.nonzero)),
            ]
            lines.append([Cell(each.label), *cells])
        blocks.append(Block(heading, lines))
    methods: dict[str, None] = {}
    for (dataset, _), family in families.items():
        methods[f"{dataset}: {method(family)}. {limits(family)}".rstrip()] = None
    alpha = next(iter(families.values())).alpha
    header = ["model", "mean", "best − model", "95 % interval", "p, Wilcoxon", "p, t"]
    header += ["d_z", "rank-biserial", "pairs ≠"]
    notes = [
        f"* p < {alpha:g} by Wilcoxon's test. Both p-values are two-sided and corrected by Holm's procedure over the "
        f"comparisons of one block. Intervals: {INTERVAL}.",
        *methods,
        "d_z: mean difference over its standard deviation. Rank-biserial: 1 if every difference favours the best. "
        "Pairs ≠: pairs with a difference.",
    ]
    return Table(
        f"significance-{unit}",
        f"The best model compared with each of the others, paired by {unit}.",
        header,
        blocks,
        notes=notes,
    )


def _p(value: float) -> str:
    return "<0.0001" if value < 0.0001 else number(value)


def _effect(value: float) -> str:
    """An effect size; infinite if all differences are the same, undefined if there are none."""
    if value != value:
        return MISSING
    return ("∞" if value > 0 else "−∞") if value in (float("inf"), -float("inf")) else number(value, 3)


# ------------------------------------------------------------------------------------------------------------
# cost, groups, searches


def cost(rows: Sequence[Row]) -> Table:
    """Time, memory and size."""
    blocks = []
    for dataset, here in datasets(rows).items():
        lines = []
        for row in here:
            per_epoch = [r.seconds / r.epochs for r in row.records if r.seconds is not None and r.epochs]
            lines.append(
                [
                    Cell(row.label),
                    Cell(", ".join(dict.fromkeys(record.device for record in row.records))),
                    _seeds(row),
                    _cell([epoch + 1 for epoch in row.field("best_epoch")], 0),
                    _cell(row.field("epochs"), 0),
                    Cell(number(mean(per_epoch), 1)),
                    *(Cell(number(minutes_to(row, share), 1)) for share in (0.95, 1.0)),
                    _cell([seconds / 60 for seconds in row.field("seconds")], 1),
                    _cell(row.field("peak_memory_gib"), 2),
                    Cell(number(mean([parameters / 1e6 for parameters in row.field("parameters")]), 2)),
                ]
            )
        blocks.append(Block(dataset, lines))
    header = [
        "model",
        "device",
        "seeds",
        "best after",
        "epochs",
        "s / epoch",
        "min to 95 %",
        "min to best",
        "minutes",
        "peak GiB",
        "million parameters",
    ]
    notes = [
        "Time of training and validation in all epochs as recorded, whatever else the machine was doing; best after: "
        "number of epochs up to the chosen one; to best, to 95 %: until the validation score that was chosen, and 95 % "
        "of it, were first reached, mean over seeds; peak: memory of the process, or of the GPU if one was used."
        + untimed(rows)
        + _about_spread(blocks),
    ]
    return Table("cost", "Training cost and size.", header, blocks, words=2, notes=notes)


def grouping(dataset: str, groups: Grouping, mask: str) -> Table:
    """One row per model, one column per group."""
    header = ["model", *(f"{name} (n = {thousands(n)})" for name, n in zip(groups.names, groups.counts))]
    ranks = zip(*(_ranked(column) for column in zip(*groups.values.values())))
    lines = [
        [Cell(label), *(Cell(number(value), rank=rank) for value, rank in zip(values, best))]
        for (label, values), best in zip(groups.values.items(), ranks)
    ]
    caption = f"{groups.title} on {dataset}: {groups.value}, by {groups.axis}."
    notes = [
        f"Test split; {MASKED[mask]} (mask: {mask}). n: {groups.unit}s; mean of {count(len(groups.seeds), 'seed')} "
        f"({', '.join(map(str, groups.seeds))}). {groups.note}".rstrip(),
        "Bold: best of the column; underlined: second best.",
    ]
    return Table(f"{groups.name}-{slug(dataset)}", caption, header, [Block("", lines)], notes=notes)


def ablation(group: str, rows: Sequence[Row], metrics: Sequence[str], mask: str, leading: str) -> Table:
    """Scores of a group, and the difference of each row from the first."""
    table = scores(f"ablation-{slug(group)}", f"Ablation {group}.", rows, metrics, mask, by_kind=False)
    for block, here in zip(table.blocks, datasets(rows).values()):
        full = mean(here[0].test(mask, leading))
        for line, row in zip(block.rows, here):
            line.append(Cell(_relative(mean(row.test(mask, leading)), full)))
    first = next(iter(datasets(rows).values()))[0].label
    return Table(
        table.name, table.caption, [*table.header, f"{leading}, % from {first}"], table.blocks, notes=table.notes
    )


def sweep(found: Sweep, masks: Sequence[str]) -> Table:
    """All points of a sweep, in descending order of the validation score."""
    metric = found.metric
    tested = [mask for mask in masks if any(point.row.test(mask, metric) for point in found.points)]
    chosen = found.chosen

    def order(point: Point) -> float:
        value = mean(point.row.valid(metric))
        return float("inf") if value is None else -found.sign * value

    lines = []
    for point in sorted(found.points, key=order):
        cells = [Cell(text(value)) for value in point.values]
        cells += [_seeds(point.row), _cell(point.row.valid(metric), rank="best" if point is chosen else "")]
        cells += [_cell(point.row.test(mask, metric)) for mask in tested]
        lines.append(cells)
    header = [*found.keys, "seeds", f"validation {metric}", *(f"test {metric}, {mask} masked" for mask in tested)]
    return Table(
        found.name,
        f"{found.model} on {found.dataset} by {listing(list(found.keys))}.",
        header,
        [Block("", lines)],
        words=0,
        notes=choice(found, tested),
    )


def choice(found: Sweep, masks: Sequence[str]) -> list[str]:
    """Sentences on the point that validation chose, and on the one that the test split would have chosen."""
    metric, chosen = found.metric, found.chosen
    if chosen is None:
        return []

    def where(point: Point) -> str:
        return ", ".join(f"{key} = {text(value)}" for key, value in zip(found.keys, point.values))

    notes = [f"Bold: chosen on the validation split ({where(chosen)})."]
    if found.stopped:
        notes.append(f"{count(found.stopped, 'trial')} stopped early {'are' if found.stopped > 1 else 'is'} left out.")
    for mask in masks:
        of_chosen, best = mean(chosen.row.test(mask, metric)), found.best_on_test(mask)
        if of_chosen is None or best is None:
            continue
        claimed = mean(best.row.test(mask, metric))
        other = f"would have given {number(claimed)} ({where(best)}), {_relative(claimed, of_chosen)} %"
        notes.append(
            f"Test {metric} of the chosen point, mask {mask}: {number(of_chosen)}. Choosing on the test split "
            f"{'would have chosen the same point' if best is chosen else other}."
        )
    return notes
