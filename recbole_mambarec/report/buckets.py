"""Accuracy by user activity, item popularity, newness, and modalities that items lack; averaged over seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from recbole_mambarec.errors import UserError
from recbole_mambarec.experiments import users
from recbole_mambarec.report.document import listing
from recbole_mambarec.report.load import Row, mean, text
from recbole_mambarec.report.metrics import base

if TYPE_CHECKING:
    import polars

Split = Callable[["polars.DataFrame"], list[users.Bucket]]


@dataclass(frozen=True)
class Grouping:
    """One way to divide users or test interactions into groups, and the value of each row in each group.

    Attributes:
        name: ``activity``, ``popularity``, ``new`` or ``modality``, the last with the mask where the rows have several.
        title, value, axis: the heading, what is measured, and by what the groups differ.
        unit: what ``counts`` count.
        names, counts: the names and sizes of the groups.
        ordered: whether the groups have an order.
        values: label -> mean over seeds in each group.
        seeds: the seeds of this mean.
        note: a sentence about seeds that were left out, or "".
    """

    name: str
    title: str
    value: str
    axis: str
    unit: str
    names: list[str]
    counts: list[int]
    ordered: bool
    values: dict[str, list[float]]
    seeds: list[int]
    note: str = ""


def groupings(rows: Sequence[Row], mask: str, metric: str, step: Callable = lambda: None) -> tuple[list[Grouping], str]:
    """(the groupings that the results per user of one dataset allow, why there is none by modality or "").

    Args:
        rows: the rows, all with results per user.
        metric: with a cut-off, e.g. ``recall@20``.
        step: called after each file.

    Raises:
        UserError: the rows have no seed in common or were tested on different users, or a file cannot be read.
    """
    cutoff = metric.partition("@")[2]
    if not cutoff.isdecimal():
        raise UserError(f"results per user exist for metrics with a cut-off, not for {metric}")
    by_user = metric if base(metric) in users.METRICS else f"hit@{cutoff}"
    found = f"share of test items found in the top {cutoff}"
    ways: dict[str, tuple[tuple, Split]] = {
        "activity": (
            ("By user activity", by_user, "training interactions of the user", "user", True),
            lambda frame: users.by_activity(frame, mask, by_user),
        ),
        "popularity": (
            ("By item popularity", found, "training interactions of the item", "test interaction", True),
            lambda frame: users.by_popularity(frame, mask, int(cutoff)),
        ),
        "new": (
            ("Known and new items", by_user, "training interactions of the item: some or none", "user", False),
            lambda frame: _if_some_are_new(users.by_newness(frame, mask, by_user)),
        ),
        "modality": (
            ("By modality", found, "whether the item has it", "test interaction", False),
            lambda frame: users.by_modality(frame, mask, int(cutoff)),
        ),
    }
    seeds = sorted(set.intersection(*(set(row.seeds) for row in rows)))
    if not seeds:
        raise UserError(f"{listing([row.label for row in rows])} have no seed in common")
    tables: dict[str, dict] = {name: {} for name in ways}
    for row in rows:
        for record in row.records:
            if record.seed in seeds:
                frame = users.read(record.per_user)
                for name, (_, split) in ways.items():
                    tables[name][row.label, record.seed] = split(frame)
                step()
    by_modality = tables.pop("modality")
    note = ""
    if not any(by_modality.values()):
        note = "by modality: the results per user do not say which items have one"
    elif not any(_lacked_modalities(by_modality).values()):
        note = "by modality: no tested item lacks one"
    # what items lack depends on the mask of a run, and rows of different masks are not comparable
    masks: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        masks.setdefault(_mask_of(row), []).append(row.label)
    # the name of a file stands for one mask, unless its contents have changed between runs
    named = [given for _, given in masks]
    (title, *rest), split = ways.pop("modality")
    for number, ((content, given), labels) in enumerate(masks.items(), start=1):
        several = len(masks) > 1
        given += f" ({content[:8]})" if named.count(given) > 1 else ""
        name, suffix = (f"modality-{number}", f", missing_modalities {given}") if several else ("modality", "")
        of_mask = {key: buckets for key, buckets in by_modality.items() if key[0] in labels}
        tables[name] = _lacked_modalities(of_mask)
        ways[name] = (title + suffix, *rest), split
    made = [
        _combined(name, texts, tables[name], seeds) for name, (texts, _) in ways.items() if any(tables[name].values())
    ]
    return made, note


def _mask_of(row: Row) -> tuple[str, str]:
    """What tells the mask of a row from others, and how it is called."""
    given = row.config.get("missing_modalities")
    if isinstance(given, dict) and "file" in given:
        return str(given.get("sha256", given["file"])), Path(given["file"]).name
    return text(given), text(given)


def _if_some_are_new(buckets: list[users.Bucket]) -> list[users.Bucket]:
    return buckets if buckets[-1].name == "new" else []


def _lacked_modalities(tables: dict[tuple, list[users.Bucket]]) -> dict[tuple, list[users.Bucket]]:
    """Only the modalities that some item lacks."""
    lacking = {
        bucket.name.removeprefix("without ")
        for buckets in tables.values()
        for bucket in buckets
        if bucket.name.startswith("without ")
    }
    return {
        key: [bucket for bucket in buckets if bucket.name.partition(" ")[2] in lacking]
        for key, buckets in tables.items()
    }


def _combined(name: str, texts: tuple, tables: dict[tuple[str, int], list[users.Bucket]], seeds: list[int]):
    title, value, axis, unit, ordered = texts
    groups = {key: [(bucket.name, bucket.count) for bucket in buckets] for key, buckets in tables.items()}
    labels = list(dict.fromkeys(label for label, _ in tables))
    for label, seed in tables:
        if groups[label, seed] != groups[labels[0], seed]:
            raise UserError(f"{label} and {labels[0]} were not tested on the same users with seed {seed}")
    same = [seed for seed in seeds if groups[labels[0], seed] == groups[labels[0], seeds[0]]]
    note = ""
    if len(same) < len(seeds):
        same = seeds[:1]
        note = f"Each seed splits the data anew and gives different groups: those of seed {seeds[0]} are shown."
    first = groups[labels[0], seeds[0]]
    return Grouping(
        name=name,
        title=title,
        value=value,
        axis=axis,
        unit=unit,
        names=[group for group, _ in first],
        counts=[count for _, count in first],
        ordered=ordered,
        values={
            label: [mean([tables[label, seed][number].value for seed in same]) for number in range(len(first))]
            for label in labels
        },
        seeds=same,
        note=note,
    )
