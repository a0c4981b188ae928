"""From runs to a report: each section, or why it is left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tqdm import tqdm

from recbole_mambarec.errors import UserError
from recbole_mambarec.experiments.group import unlike
from recbole_mambarec.experiments.store import MASKS
from recbole_mambarec.report import buckets, metrics, plots, provenance, published, sweeps, tables
from recbole_mambarec.report.document import Chart, Omission, Report, Section, Table, count, listing
from recbole_mambarec.report.load import Row, Runs, datasets, identity, reason
from recbole_mambarec.report.paired import Tests, test_all
from recbole_mambarec.report.style import looks
from recbole_mambarec.report.tables import slug


class Nothing(Exception):
    """A section has no data; the message says why."""


@dataclass(frozen=True)
class Options:
    """What a user can ask for.

    Attributes:
        mask: what is taken out of the ranking at test (:data:`~recbole_mambarec.experiments.store.MASKS`).
        metrics: the columns; None: all that are recorded.
        reference: label or model that differences are taken to; None: the best other one.
        group: the group that the main table shows; None: all that compare models.
        published: show published scores beside.
        charts: draw.
    """

    mask: str = "train"
    metrics: Sequence[str] | None = None
    reference: str | None = None
    group: str | None = None
    published: bool = True
    charts: bool = True
    title: str = "Comparison of models"


class Builder:
    """Makes the sections of one report.

    Args:
        runs: what is reported.
        options: how.
        command: the command line that makes the report again.

    Raises:
        UserError: an option names something that the records do not have.
    """

    def __init__(self, runs: Runs, options: Options, command: str) -> None:
        self.runs, self.options, self.command = runs, options, command
        self.mask = options.mask
        self.rows = runs.comparison(options.group)
        self.sweeps = sweeps.find([*self.rows, *(row for group in runs.ablations().values() for row in group)], runs.trials)
        self.ablations = self._ablations()
        everything = [
            *self.rows,
            *(row for group in self.ablations.values() for row in group),
            *(point.row for sweep in self.sweeps for point in sweep.points),
        ]
        self.everything = list({id(row): row for row in everything}.values())
        self.metrics, self.beyond = metrics.choose(self.everything, self.mask, options.metrics)
        self.leading = metrics.leading(self.everything, self.metrics)
        if options.reference is not None and tables.find(self.rows, options.reference) is None:
            have = listing(list(dict.fromkeys(row.label for row in self.rows))) or "nothing"
            raise UserError(f"--reference={options.reference} is not in the main table: it has {have}")
        self.provenance = provenance.trace(self.everything)
        self.looks = looks(list(dict.fromkeys(row.label for row in self.rows)))
        self.tests = Tests({}, {}, {})

    def _ablations(self) -> dict[str, list[Row]]:
        """Groups of one model that are no grids, which are shown as such, nor the main table."""
        grids = [{identity(point.row.config) for point in sweep.points} for sweep in self.sweeps]
        return {
            name: rows
            for name, rows in self.runs.ablations().items()
            if name != self.options.group
            and not any({identity(row.config) for row in here} <= grid for here in datasets(rows).values() for grid in grids)
        }

    def report(self) -> Report:
        """All sections that have data."""
        parts = (
            ("Main results", self.main),
            ("Beyond accuracy", self.beyond_accuracy),
            ("Improvements", self.improvements),
            ("Significance", self.significance),
            ("Learning curves", self.learning_curves),
            ("Accuracy against cost", self.cost),
            ("Users and items", self.groups),
            ("Ablation", self.ablation),
            ("Hyper-parameter sensitivity", self.sensitivity),
            ("Runs", self.origin),
        )
        files = sum(record["per_user"] is not None for row in self.rows for record in row.records)
        tested = len(datasets(self.rows)) * len(self.metrics)
        sections, omissions = [], []
        with tqdm(total=len(parts) + files + tested, desc="Report", delay=2, unit="part") as self.bar:
            for title, make in parts:
                self.bar.set_postfix_str(title)
                try:
                    sections.append(make(title))
                except Nothing as reason:
                    omissions.append(Omission(title, str(reason)))
                self.bar.update()
        return Report(self.options.title, self._summary(), sections, omissions, self.command)

    def _step(self) -> None:
        self.bar.update()

    def _summary(self) -> list[str]:
        shown = {row.records[0]["dataset"]: None for row in self.everything}
        seeds = sorted({seed for row in self.everything for seed in row.seeds})
        lines = [
            f"{count(sum(len(row.records) for row in self.everything), 'finished run')} on {listing(list(shown))}, "
            f"{count(len(seeds), 'seed')} ({', '.join(map(str, seeds))}). Epochs and hyper-parameters were chosen on the "
            f"validation split. At test {tables.MASKED[self.mask]}."
        ]
        return lines + [f"{note}." for note in unlike(self.rows)]

    # ------------------------------------------------------------------ sections

    def main(self, title: str) -> Section:
        self._need_rows()
        if not self.metrics:
            raise Nothing(f"the records have no accuracy metric under the mask {self.mask}")
        better = [name for name in self.metrics if not metrics.smaller_is_better(name)]
        self.tests = test_all(self.rows, self.mask, better, self._step)
        table = tables.scores(
            "main",
            f"Test scores, mean over seeds. {self.provenance.of(self.rows)}",
            self.rows,
            self.metrics,
            self.mask,
            self.tests,
            lambda dataset: published.read(dataset, self.mask) if self.options.published else {},
        )
        return Section("main", title, tables=[table])

    def beyond_accuracy(self, title: str) -> Section:
        self._need_rows()
        if not self.beyond:
            raise Nothing("the records have no such metric; the key beyond_accuracy adds coverage, Gini and popularity")
        table = tables.beyond(self.rows, self.beyond, self.mask, self.provenance.of(self.rows))
        return Section("beyond", title, tables=[table])

    def improvements(self, title: str) -> Section:
        self._need_rows()
        if not any(len(here) > 1 for here in datasets(self.rows).values()):
            raise Nothing("there is one model, nothing to compare it with")
        rows = [row for here in datasets(self.rows).values() if len(here) > 1 for row in here]
        origin = self.provenance.of(rows)
        table = tables.deltas(rows, self.metrics, self.mask, self.options.reference, origin)
        return Section("improvements", title, tables=[table])

    def significance(self, title: str) -> Section:
        self._need_rows()
        origin = self.provenance.of(self.rows)
        families = {"user": self.tests.by_user, "seed": self.tests.by_seed}
        made = [tables.significance(found, unit, origin) for unit, found in families.items() if found]
        reasons = [f"Not by user on {name}: {reason}." for name, reason in self.tests.reasons.items()]
        if not made:
            raise Nothing(" ".join(reasons) or "no metric was tested")
        if not families["seed"]:
            reasons.append("Not over seeds: the models have fewer than two seeds in common.")
        return Section("significance", title, text=reasons, tables=made)

    def learning_curves(self, title: str) -> Section:
        self._need_rows()
        self._need_charts()
        charts = []
        for dataset, rows in datasets(self.rows).items():
            shown = [row for row in rows if plots.has_curve(row, row.metric)]
            for metric in dict.fromkeys(row.metric for row in shown):
                here = [row for row in shown if row.metric == metric]
                what = f"Validation {metric} by epoch on {dataset}"
                charts.append(
                    self._chart(
                        f"curves-{slug(dataset)}-{slug(metric)}",
                        f"{what}; one line per run ({_runs(here)}), the marker at the epoch that was chosen.",
                        f"Line chart. {what}: {_extremes(here, lambda row: row.valid(metric))}",
                        here,
                        lambda here=here, metric=metric: plots.curves(here, metric, self.looks),
                    )
                )
        if not charts:
            raise Nothing("no record holds the validation scores of its epochs")
        return Section("curves", title, charts=charts)

    def cost(self, title: str) -> Section:
        self._need_rows()
        fields = {"seconds": "training time, minutes", "peak_memory_gib": "peak memory, GiB"}
        charts, rows = [], [row for row in self.rows if any(row.field(field) for field in fields)]
        if not rows:
            raise Nothing("no record holds seconds or memory")
        for dataset, here in datasets(rows).items():
            for field, name in fields.items() if self.options.charts and self.leading else ():
                priced = plots.costs(here, field)
                shown = [row for row in here if row.label in priced and row.test(self.mask, self.leading)]
                if len(shown) < 2:
                    continue
                what = f"Test {self.leading} against {name.replace(',', ' in')} on {dataset}"
                charts.append(
                    self._chart(
                        f"cost-{slug(field)}-{slug(dataset)}",
                        f"{what}; means over seeds ({_runs(shown)}), bars: standard deviation. Filled and joined: Pareto "
                        "front, which no other model beats in one without losing in the other.",
                        f"Scatter chart. {what}: {_extremes(shown, lambda row: row.test(self.mask, self.leading))}",
                        shown,
                        lambda s=shown, f=field, n=name: plots.cost(s, f, n, self.leading, self.mask, self.looks),
                    )
                )
        return Section("cost", title, tables=[tables.cost(rows, self.provenance.of(rows))], charts=charts)

    def groups(self, title: str) -> Section:
        self._need_rows()
        if self.leading is None:
            raise Nothing("the records have no accuracy metric")
        made: list[Table] = []
        charts, text = [], []
        for dataset, rows in datasets(self.rows).items():
            try:
                found = buckets.groupings(rows, self.mask, self.leading, self._step)
            except UserError as error:
                text.append(f"Left out on {dataset}: {reason(error)}.")
                continue
            if not any(groups.name == "modality" for groups in found):
                text.append(f"By modality, left out on {dataset}: no item that is tested there lacks one.")
            origin = self.provenance.of(rows)
            for groups in found:
                table = tables.grouping(dataset, groups, self.mask, origin)
                made.append(table)
                if self.options.charts:
                    what = f"{groups.title} on {dataset}: {groups.value}"
                    seeds = f"mean of {count(len(groups.seeds), 'seed')}"
                    charts.append(
                        self._chart(
                            table.name,
                            f"{what}; {seeds}, n: {groups.unit}s. {groups.note}".rstrip(),
                            f"Chart. {what}, in {len(groups.names)} groups from {groups.names[0]} to {groups.names[-1]}; "
                            "the values are in the table of the same name.",
                            rows,
                            lambda groups=groups: plots.grouping(groups, self.looks),
                        )
                    )
        if not made:
            raise Nothing(" ".join(text))
        return Section("groups", title, text=text, tables=made, charts=charts)

    def ablation(self, title: str) -> Section:
        if not self.ablations:
            raise Nothing("no group of runs is of one model in several forms (run_recbole_group.py --group=FILE)")
        made, charts = [], []
        for group, rows in self.ablations.items():
            if self.leading is None:
                continue
            made.append(tables.ablation(group, rows, self.metrics, self.mask, self.leading, self.provenance.of(rows)))
            for dataset, here in datasets(rows).items():
                shown = [row for row in here if row.test(self.mask, self.leading)]
                if self.options.charts and len(shown) > 1:
                    what = f"Ablation {group} on {dataset}: test {self.leading}"
                    charts.append(
                        self._chart(
                            f"ablation-{slug(group)}-{slug(dataset)}",
                            f"{what}; mean over seeds ({_runs(shown)}), lines: standard deviation, in brackets: difference "
                            f"to {shown[0].label}.",
                            f"Bar chart. {what}: {_extremes(shown, lambda row: row.test(self.mask, self.leading))}",
                            shown,
                            lambda shown=shown: plots.ablation(shown, self.mask, self.leading),
                        )
                    )
        if not made:
            raise Nothing(f"the records have no accuracy metric under the mask {self.mask}")
        return Section("ablation", title, tables=made, charts=charts)

    def sensitivity(self, title: str) -> Section:
        if not self.sweeps:
            raise Nothing(
                "no runs of one model differ in a few numbers alone, and there is no record of a search (give the "
                "trials.jsonl of run_hyper.py, too)"
            )
        made, charts = [], []
        for sweep in self.sweeps:
            rows = [point.row for point in sweep.points]
            table = tables.sweep(sweep, MASKS, self.provenance.of(rows))
            made.append(table)
            if self.options.charts and sweep.chosen is not None:
                what = f"{sweep.model} on {sweep.dataset}: validation {sweep.metric} by {listing(list(sweep.keys))}"
                charts.append(
                    self._chart(
                        table.name,
                        f"{what}; n = {count(len(rows), 'point')} ({_runs(rows)}); marked: chosen on validation.",
                        f"Chart. {what}: {_extremes(rows, lambda row: row.valid(row.metric))}",
                        rows,
                        lambda sweep=sweep: plots.sweep(sweep),
                    )
                )
        return Section("sensitivity", title, tables=made, charts=charts)

    def origin(self, title: str) -> Section:
        rows = self.everything
        versions = provenance.versions(rows)
        text = ["Versions: " + ", ".join(f"{name} {' and '.join(found)}" for name, found in versions.items()) + "."]
        revisions = provenance.revisions(rows)
        if revisions:
            text.append(f"Source revision{'s' * (len(revisions) > 1)}: {', '.join(revisions)}.")
        text += [f"Data of {name}: SHA-256 {fingerprint}." for name, fingerprint in provenance.data(rows)]
        text += [
            f"Failed: {r['label']} on {r['dataset']}, seed {r['seed']}: {r['error']}." for r in self.runs.failed
        ]
        return Section("runs", title, text=text, commands=[*self.provenance.commands, ("report", self.command)])

    # ------------------------------------------------------------------ helpers

    def _need_rows(self) -> None:
        if not self.rows:
            raise Nothing("no group of the records compares models")

    def _need_charts(self) -> None:
        if not self.options.charts:
            raise Nothing("it is a chart")

    def _chart(self, name: str, caption: str, alt: str, rows: Sequence[Row], make: Callable) -> Chart:
        return plots.draw(name, f"{caption} {self.provenance.of(rows)}", alt, make)


def _runs(rows: Sequence[Row]) -> str:
    """How many runs are behind something."""
    numbers = sorted({len(row.seeds) for row in rows})
    if len(numbers) == 1:
        return f"n = {count(numbers[0], 'seed')}"
    return f"n = {numbers[0]} to {numbers[-1]} seeds"


def _extremes(rows: Sequence[Row], scores: Callable[[Row], list[float]]) -> str:
    """The best and the worst of what is shown, for those who do not see it."""
    values = {row.label: sum(found) / len(found) for row in rows if (found := scores(row))}
    if not values:
        return "no scores."
    low, high = min(values, key=values.get), max(values, key=values.get)
    return f"{count(len(values), 'entry').replace('entrys', 'entries')}, highest {high} {values[high]:.4f}, lowest {low} {values[low]:.4f}."
