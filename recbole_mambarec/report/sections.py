"""The sections of a report, or the reasons why they are left out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

from tqdm import tqdm

from recbole_mambarec.errors import UserError
from recbole_mambarec.experiments.group import measurement_differences
from recbole_mambarec.experiments.store import MASKS, UNMASKED
from recbole_mambarec.report import (
    buckets,
    charts,
    findings,
    kinds,
    load,
    metrics,
    provenance,
    published,
    sweeps,
    tables,
)
from recbole_mambarec.report.document import (
    Chart,
    Omission,
    Report,
    Section,
    Table,
    count,
    listing,
    slug,
    with_unique_names,
)
from recbole_mambarec.report.load import Row, Runs, datasets, identity, without_folders
from recbole_mambarec.report.paired import Paired, compare_all
from recbole_mambarec.report.style import looks

Part = TypeVar("Part", Table, Chart)

SECTIONS = {
    "main": "Main results",
    "beyond": "Beyond accuracy",
    "improvements": "Improvements",
    "significance": "Significance",
    "curves": "Learning curves",
    "cost": "Accuracy and cost",
    "groups": "Users and items",
    "ablation": "Ablation",
    "sensitivity": "Hyper-parameter sensitivity",
    "runs": "Runs",
}

# rows of a table that a page shows without a click
_LONGEST_OPEN = 12


class NoData(Exception):
    """A section has no data; the message says why."""


@dataclass(frozen=True)
class Options:
    """What a user can choose.

    Attributes:
        mask: the items removed from the ranking at test (:data:`~recbole_mambarec.experiments.store.MASKS`).
        metrics: the columns; None for all that were recorded.
        reference: label or model to which others are compared; None for the best of the others.
        group: the group in the main table; None for all that compare models.
        published: also show published scores.
        brief: tables only, for a page about one dataset: both masks, significance only of the leading metric.
        sections: names of the sections; None for all.
        variants: a row for each configuration of a label, instead of the one that validation chooses; always so for a
            chosen group.
        title: the title of the report.
    """

    mask: str = "train"
    metrics: Sequence[str] | None = None
    reference: str | None = None
    group: str | None = None
    published: bool = True
    brief: bool = False
    sections: Sequence[str] | None = None
    variants: bool = False
    title: str = "Comparison of models"


def _folded(section: Section) -> Section:
    """Long tables besides the main one are folded on a page."""
    if section.name == "main":
        return section
    long = [sum(len(block.rows) for block in table.blocks) > _LONGEST_OPEN for table in section.tables]
    return replace(section, tables=[replace(table, folded=fold) for table, fold in zip(section.tables, long)])


def _configured(rows: Iterable[Row]) -> set[tuple[str, str, str]]:
    """(dataset, model, configuration) of each row, which identify runs regardless of label and group."""
    return {(row.dataset, row.model, identity(row.config)) for row in rows}


class Builder:
    """Builds the sections of one report, with a method for each of :data:`SECTIONS`.

    Args:
        runs: the runs to report.
        options: the user's choices.
        command: the command line that writes the report.

    Raises:
        UserError: an option names something that the records do not have.
    """

    def __init__(self, runs: Runs, options: Options, command: str) -> None:
        self.failed, self.options, self.command = runs.failed, options, command
        self.mask = options.mask
        for name in options.sections or ():
            if name not in SECTIONS:
                raise UserError(f"there is no section '{name}': there are {', '.join(SECTIONS)}")
        self.rows = runs.comparison(options.group)
        ablations = runs.ablations()
        self.sweeps = sweeps.find([*self.rows, *(row for group in ablations.values() for row in group)], runs.trials)
        self.ablations = self._without_grids(ablations)
        if options.group is not None:
            self.sweeps = [sweep for sweep in self.sweeps if self._is_in_group(sweep)]
        self.choices: list[str] = []
        if not options.variants and options.group is None:
            self._choose()
        self.everything = self._shown()
        self.metrics, self.other_metrics = metrics.choose(self.everything, self.mask, options.metrics)
        self.leading = metrics.leading(self.everything, self.metrics)
        self.rows = kinds.ordered(self.rows, self.mask, self.leading)
        if options.reference is not None and tables.find(self.rows, options.reference) is None:
            available = listing(list(dict.fromkeys(row.label for row in self.rows))) or "nothing"
            raise UserError(f"--reference={options.reference} is not in the main table: it has {available}")
        self.provenance = provenance.trace(self.everything)
        # the best models of the first dataset, whatever their kind, get the colours that differ most
        by_score = kinds.ordered(self.rows, self.mask, self.leading, by_kind=False)
        self.looks = looks(list(dict.fromkeys(row.label for row in by_score)))

    def _choose(self) -> None:
        """Keep the configuration of each label that validation chooses."""
        metric = next((row.metric for row in self.rows), "")
        self.rows, self.choices = load.chosen_by_validation(self.rows, metric, metrics.smaller_is_better(metric))

    def _is_in_group(self, sweep: sweeps.Sweep) -> bool:
        """Whether it is a search, or a grid that contains a run of the chosen group."""
        return sweep.searched or bool(_configured(self.rows) & _configured(point.row for point in sweep.points))

    def _without_grids(self, ablations: dict[str, list[Row]]) -> dict[str, list[Row]]:
        """Groups of one model that are neither grids, which have a section of their own, nor the main table."""
        grids = [_configured(point.row for point in sweep.points) for sweep in self.sweeps]

        def is_grid(rows: list[Row]) -> bool:
            parts = [_configured(here) for here in datasets(rows).values()]
            return any(part <= grid for part in parts for grid in grids)

        return {name: rows for name, rows in ablations.items() if name != self.options.group and not is_grid(rows)}

    def _shown(self) -> list[Row]:
        """The rows in all chosen sections, each once."""
        wanted = set(self.options.sections or SECTIONS)
        found: dict[tuple, Row] = {}
        for row in [
            *(self.rows if wanted - {"ablation", "sensitivity", "runs"} else ()),
            *(row for group in self.ablations.values() for row in group if "ablation" in wanted),
            *(point.row for sweep in self.sweeps for point in sweep.points if "sensitivity" in wanted),
        ]:
            # a point of a sweep may be one of the other rows with fewer seeds
            found.setdefault(row.identity, row)
        return list(found.values())

    def report(self) -> Report:
        """All sections that have data."""
        wanted = [name for name in SECTIONS if name in {*(self.options.sections or SECTIONS), "runs"}]
        if self.options.brief:
            wanted = [name for name in wanted if name != "curves"]
        files = sum(record.per_user is not None for row in self.rows for record in row.records)
        tested = len(datasets(self.rows)) * len(self.metrics)
        sections, omissions = [], []
        with tqdm(total=len(wanted) + files + tested, desc="Report", delay=2, unit="part") as self._bar:
            for name in wanted:
                title = SECTIONS[name]
                self._bar.set_postfix_str(title, refresh=False)
                try:
                    sections.append(getattr(self, name)(title))
                except NoData as reason:
                    omissions.append(Omission(title, str(reason)))
                self._step()
        names = list(datasets(self.everything))
        sections = sections if self.options.brief else [_folded(section) for section in sections]
        return Report(self.options.title, names, self._summary(), with_unique_names(sections), omissions, self.command)

    def _step(self) -> None:
        self._bar.update()

    def _summary(self) -> list[str]:
        runs = count(sum(len(row.records) for row in self.everything), "finished run")
        names = listing(list(dict.fromkeys(row.records[0].dataset for row in self.everything)))
        seeds = sorted({seed for row in self.everything for seed in row.seeds})
        tested = self.tests if "main" in (self.options.sections or SECTIONS) else None
        return [
            *findings.sentences(self.rows, self.mask, self.leading, tested),
            f"{runs} on {names}, {count(len(seeds), 'seed')} ({', '.join(map(str, seeds))}). "
            "Epochs were chosen on the validation split.",
            *([f"{count(len(self.failed), 'run')} failed and are in no table; see Runs."] if self.failed else []),
            *self.choices,
            *(f"{note}." for note in measurement_differences(self.rows)),
        ]

    # ------------------------------------------------------------------ sections

    def main(self, title: str) -> Section:
        self._need_rows()
        if not self.metrics:
            raise NoData(f"the records have no accuracy metric under the mask {self.mask}")
        table = tables.scores(
            "main",
            "Test scores, mean over seeds.",
            self.rows,
            self.metrics,
            self.mask,
            self.tests,
            lambda dataset: published.read(dataset, self.mask) if self.options.published else {},
        )
        return Section("main", title, tables=[self._traced(table, self.rows), *self._other_masks()])

    def _other_masks(self) -> list[Table]:
        caption = "The same runs under the other mask."
        # under repeatable: True nothing is masked, so there is no other mask
        masks = [mask for mask in MASKS if mask != self.mask and metrics.recorded(self.rows, mask)[0]]
        masks = masks if self.options.brief else []
        made = [tables.scores(f"main-{slug(m)}", caption, self.rows, self.metrics, m) for m in masks]
        return [replace(table, notes=[*table.notes, "Significance is not tested under this mask."]) for table in made]

    def beyond(self, title: str) -> Section:
        self._need_rows()
        if not self.other_metrics:
            raise NoData("the records have no such metric: the key beyond_accuracy adds coverage, Gini and popularity")
        table = tables.beyond(self.rows, self.other_metrics, self.mask)
        return Section("beyond", title, tables=[self._traced(table, self.rows)])

    def improvements(self, title: str) -> Section:
        self._need_rows()
        rows = [row for here in datasets(self.rows).values() if len(here) > 1 for row in here]
        if not rows or not self.metrics:
            raise NoData("there is only one model" if self.metrics else "no accuracy metric was recorded")
        table = tables.deltas(rows, self.metrics, self.mask, self.options.reference)
        return Section("improvements", title, tables=[self._traced(table, rows)])

    @cached_property
    def tests(self) -> Paired:
        """Paired tests of everything in the main table."""
        return compare_all(self.rows, self.mask, self.metrics, self._step)

    def significance(self, title: str) -> Section:
        self._need_rows()
        families = {"user": self.tests.by_user, "seed": self.tests.by_seed}
        if self.options.brief:
            families = {
                unit: {column: family for column, family in found.items() if column[1] == self.leading}
                for unit, found in families.items()
            }
        made = [self._traced(tables.significance(found, unit), self.rows) for unit, found in families.items() if found]
        reasons = self.tests.not_tested()
        if not made:
            raise NoData(" ".join(reasons) or "no metric was tested")
        if not families["seed"]:
            reasons.append("Not over seeds: the models have fewer than two seeds in common.")
        return Section("significance", title, text=reasons, tables=made)

    def curves(self, title: str) -> Section:
        self._need_rows()
        made = self._drawn(
            (chart(name, here, self.looks), here)
            for name, here in self._best_first()
            for chart in (charts.curves, charts.each_curve)
        )
        if not made:
            raise NoData("no record holds the validation scores of its epochs")
        return Section("curves", title, charts=made)

    def cost(self, title: str) -> Section:
        self._need_rows()
        rows = [row for row in self.rows if any(row.field(field) for field in charts.COSTS)]
        if not rows:
            raise NoData("no record holds seconds or memory")
        drawn = [] if self.options.brief or self.leading is None else list(self._best_first())
        made = self._drawn(
            (charts.cost(name, here, field, self.mask, self.leading, self.looks), here)
            for name, here in drawn
            for field in charts.COSTS
        )
        made += self._drawn(
            (charts.speed(name, here, self.mask, self.leading, self.looks), here) for name, here in drawn
        )
        return Section("cost", title, tables=[self._traced(tables.cost(rows), rows)], charts=made)

    def groups(self, title: str) -> Section:
        self._need_rows()
        if self.leading is None:
            raise NoData("the records have no accuracy metric")
        section = Section("groups", title)
        for dataset, rows in self._by_dataset():
            usable = [row for row in rows if row.has_users and row.test(self.mask, self.leading)]
            if len(usable) < len(rows):
                lacking = listing([row.label for row in rows if row not in usable])
                section.text.append(f"Left out on {dataset}: {lacking}, without results per user under this mask.")
            if not usable:
                continue
            try:
                found, note = buckets.groupings(usable, self.mask, self.leading, self._step)
            except UserError as error:
                section.text.append(f"Left out on {dataset}: {without_folders(error)}.")
                continue
            if note:
                section.text.append(f"Left out on {dataset}: {note}.")
            for groups in found:
                section.tables.append(self._traced(tables.grouping(dataset, groups, self.mask), usable))
                if not self.options.brief:
                    chart = charts.grouping(dataset, groups, self.mask, self.looks)
                    section.charts.append(self._traced(chart, usable))
        if not section.tables:
            raise NoData(" ".join(section.text))
        return section

    def ablation(self, title: str) -> Section:
        if not self.ablations:
            raise NoData("no group of runs has variants of one model (compare --group=FILE)")
        if self.leading is None:
            raise NoData(f"the records have no accuracy metric under the mask {self.mask}")
        section = Section("ablation", title)
        for group, rows in self.ablations.items():
            table = tables.ablation(group, rows, self.metrics, self.mask, self.leading)
            section.tables.append(self._traced(table, rows))
            drawn = {} if self.options.brief else datasets(rows)
            section.charts.extend(
                self._drawn(
                    (charts.ablation(dataset, group, here, self.mask, self.leading), here)
                    for dataset, here in drawn.items()
                )
            )
        return section

    def sensitivity(self, title: str) -> Section:
        if not self.sweeps:
            raise NoData(
                "no runs of one model differ only in a few numbers, and there is no record of a search (also give the "
                "trials.jsonl of tune)"
            )
        section = Section("sensitivity", title)
        for sweep in self.sweeps:
            rows = [point.row for point in sweep.points]
            section.tables.append(self._traced(tables.sweep(sweep, (*MASKS, UNMASKED)), rows))
            if not self.options.brief:
                section.charts.extend(self._drawn([(charts.sweep(sweep), rows)]))
        return section

    def runs(self, title: str) -> Section:
        rows = self.everything
        versions = provenance.versions(rows)
        revisions = provenance.revisions(rows)
        text = [
            f"Versions: {', '.join(f'{name} {listing(found)}' for name, found in versions.items())}.",
            *([f"Source revision{'s' * (len(revisions) > 1)}: {', '.join(revisions)}."] if revisions else []),
            *(f"Data of {name}: SHA-256 {fingerprint}." for name, fingerprint in provenance.data(rows)),
            *(f"Failed: {r.label} on {r.dataset}, seed {r.seed}: {r.error}." for r in self.failed),
        ]
        return Section("runs", title, text=text, commands=[*self.provenance.commands, ("report", self.command)])

    # ------------------------------------------------------------------ helpers

    def _need_rows(self) -> None:
        if not self.rows:
            raise NoData("no group of the records compares models")

    def _by_dataset(self) -> Iterable[tuple[str, list[Row]]]:
        return datasets(self.rows).items()

    def _best_first(self) -> Iterable[tuple[str, list[Row]]]:
        """The rows of each dataset by score, whatever their kind: charts colour the first."""
        return datasets(kinds.ordered(self.rows, self.mask, self.leading, by_kind=False)).items()

    def _traced(self, part: Part, rows: Sequence[Row]) -> Part:
        """A table or chart with its origin, which a brief page only gives at its end."""
        return part if self.options.brief else replace(part, origin=self.provenance.of(rows))

    def _drawn(self, made: Iterable[tuple[Chart | None, Sequence[Row]]]) -> list[Chart]:
        """The charts that exist, with the origin of the rows that they show."""
        return [self._traced(chart, rows) for chart, rows in made if chart is not None]
