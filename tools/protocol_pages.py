"""Missing modalities and new items: ``python -m tools.protocol_pages`` writes the tables of the two pages.

results/missing-modality.md and results/new-items.md consist of a text, results/notes/<page>, in which a line such as
``<!-- mask baby -->`` stands for a table. Runs are in results/missing-modality.jsonl and results/new-items.jsonl, the
same models with all features and items in the records of each dataset. What is said of groups of items, and the tests,
need the results per user, which `python -m tools.records restore` writes from the ranks that were kept.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from recbole_mambarec.experiments import users
from recbole_mambarec.experiments.paired_tests import holm
from recbole_mambarec.experiments.significance import over_users
from recbole_mambarec.experiments.store import TRAINED_WITH
from recbole_mambarec.report import load
from recbole_mambarec.report.document import listing
from recbole_mambarec.report.load import Row, mean
from tools.markdown import table

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results"
PAGES = "missing-modality", "new-items"
#: records of runs with all features and items
WHOLE = {"baby": "runs.jsonl", "lfm2k": "lfm2k.jsonl", "tiktok": "tiktok.jsonl"}
MASK, METRIC, SECOND, TOP = "train", "recall@20", "ndcg@20", 20
#: keys of the two protocols, without which a run is that of the whole data
_PROTOCOL = (
    *("missing_modalities", "impute_missing", "impute_neighbours"),
    *("new_items", "rank_items", "cold_items", TRAINED_WITH),
)
#: keys about the scores of new items, and the values that are not written out
_SCORING = {"cold_items": "id", "cold_scale": 0.0}
_PLACE = re.compile(r"<!-- (\w+) (\w+) -->\n")


def pages() -> dict[Path, str]:
    """Both pages, and their texts."""
    return {RESULTS / f"{name}.md": _page(name) for name in PAGES}


def _page(name: str) -> str:
    notes = (RESULTS / "notes" / f"{name}.md").read_text(encoding="utf-8")
    rows = _comparison(RESULTS / f"{name}.jsonl")
    head = f"<!-- Written by `python -m tools.protocol_pages`; the text is in results/notes/{name}.md. -->\n\n"

    def filled(place: re.Match) -> str:
        kind, dataset = place.groups()
        return _TABLES[kind]([row for row in rows if _dataset(row) == dataset])

    return head + _PLACE.sub(filled, notes)


# ------------------------------------------------------------------------------------------------------------
# tables


def masked(rows: Sequence[Row]) -> str:
    """One published mask: scores of each model with and without it, and what it finds of items that lack something."""
    rows = [row for row in rows if _file(row, "missing_modalities") and row.config.get("impute_missing") is None]
    rows = _best_first(load.chosen_by_validation(rows, METRIC, smaller=False)[0])
    groups = {row.label: _groups(row, lambda frame: users.by_modality(frame, MASK, TOP)) for row in rows}
    names = list(dict.fromkeys(name for found in groups.values() for name in found))
    header = ("model", "seeds", "all features", "with the mask", "change in R@20", *(f"found {name}" for name in names))
    body = []
    for row in rows:
        whole, score = _whole(row), _score(row, METRIC)
        before = _score(whole, METRIC) if whole else None
        change = f"{score / before - 1:+.1%}".replace("-", "−") if before else ""
        found = (_short(groups[row.label].get(name)) for name in names)
        body.append((row.model, str(len(row.seeds)), _pair(whole), _pair(row), change, *found))
    return table(header, body) + _tested(rows)


def rates(rows: Sequence[Row]) -> str:
    """Masks of a rate: Recall@20 of each model over the share of items that lack something."""
    by_model: dict[str, dict[float, Row]] = {}
    for row in rows:
        rate = row.config.get("missing_modalities")
        if isinstance(rate, float) and row.config.get("impute_missing") is None:
            by_model.setdefault(row.model, {})[rate] = row
    at = sorted({rate for found in by_model.values() for rate in found})
    body = []
    for model, found in by_model.items():
        whole = _whole(next(iter(found.values())))
        scores = [_score(found[rate], METRIC) if rate in found else None for rate in at]
        body.append((model, *map(_short, (_score(whole, METRIC) if whole else None, *scores))))
    body.sort(key=lambda cells: cells[-1], reverse=True)
    return table(("model", "0", *(f"{rate:g}" for rate in at)), body)


def imputations(rows: Sequence[Row]) -> str:
    """What is put in place of missing features: scores, and Wilcoxon's test by user against the default."""
    rows = [row for row in rows if _file(row, "missing_modalities")]
    models = dict.fromkeys(row.model for row in rows if row.config.get("impute_missing") is not None)
    body = []
    for model in models:
        ways = {row.config.get("impute_missing") or "mean": row for row in rows if row.model == model}
        mean_of_all = ways.pop("mean")
        body.append((model, "mean", _pair(mean_of_all), "", ""))
        p_values = holm([_p_value(row, mean_of_all) for row in ways.values()])
        for (way, row), p in zip(ways.items(), p_values):
            difference = f"{_score(row, METRIC) - _score(mean_of_all, METRIC):+.4f}".replace("-", "−")
            body.append((model, way, _pair(row), difference, f"{p:.2g}"))
    return table(("model", "`impute_missing`", "R@20 / N@20", "R@20 against `mean`", "p"), body)


def new_items(rows: Sequence[Row]) -> str:
    """A list of new items: all, known and new items, ranked together."""
    rows = [row for row in rows if row.config.get("rank_items") == "all"]
    by_user: Callable = lambda frame: users.by_newness(frame, MASK, METRIC)  # noqa: E731
    groups = {row.label: _groups(row, by_user) for row in rows}
    rows.sort(key=lambda row: groups[row.label]["all"], reverse=True)
    body = []
    for row in rows:
        whole, found = _whole(row), groups[row.label]
        before = _short(_score(whole, METRIC) if whole else None)
        cells = (_short(found[name]) for name in ("all", "known", "new"))
        body.append((row.model, _scoring(row), str(len(row.seeds)), before, *cells))
    header = ("model", "setting", "seeds", "no item is new", "all items", "known items", "new items")
    return table(header, body) + _tested(load.chosen_by_validation(rows, METRIC, smaller=False)[0])


def among_new(rows: Sequence[Row]) -> str:
    """New items ranked among themselves."""
    rows = _best_first([row for row in rows if row.config.get("rank_items") == "new"])
    return table(("model", "setting", "R@20 / N@20"), [(row.model, _scoring(row), _pair(row)) for row in rows])


_TABLES: dict[str, Callable[[Sequence[Row]], str]] = {
    "mask": masked,
    "rates": rates,
    "imputations": imputations,
    "new": new_items,
    "among": among_new,
}

# ------------------------------------------------------------------------------------------------------------
# parts of them


def _dataset(row: Row) -> str:
    """The dataset, whatever was ranked."""
    return row.records[0].dataset


def _file(row: Row, key: str) -> bool:
    value = row.config.get(key)
    return isinstance(value, dict) and "sha256" in value


def _whole(row: Row) -> Row | None:
    """The same model, configuration and seeds with all features and items."""
    others = [other for other in _comparison(RESULTS / WHOLE[_dataset(row)]) if other.model == row.model]
    return next((other.only(row.seeds) for other in others if _identity(other) == _identity(row)), None)


def _identity(row: Row) -> str:
    return load.identity({key: value for key, value in row.config.items() if key not in _PROTOCOL})


@cache
def _comparison(path: Path) -> list[Row]:
    return load.read([path]).comparison(load.COMPARISON)


def _scoring(row: Row) -> str:
    """The keys about the scores of new items that a row sets, marked if the model was trained without them."""
    keys = ", ".join(
        f"`{key}: {load.text(row.config[key])}`"
        for key, usual in _SCORING.items()
        if row.config.get(key) not in (None, usual)
    )
    return f"{keys} †".strip() if TRAINED_WITH in row.config else keys


def _best_first(rows: Sequence[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: _score(row, METRIC), reverse=True)


def _score(row: Row, metric: str) -> float:
    score = mean(row.test(MASK, metric))
    assert score is not None, f"{row.label} was not tested by {metric}"
    return score


def _pair(row: Row | None) -> str:
    return f"{_short(_score(row, METRIC))} / {_short(_score(row, SECOND))}" if row else ""


def _short(score: float | None) -> str:
    return "" if score is None else f"{score:.4f}".removeprefix("0")


def _groups(row: Row, split: Callable) -> dict[str, float]:
    """Mean over seeds of what a way to divide test items gives for each group."""
    values: dict[str, list[float]] = {}
    for record in row.records:
        for bucket in split(users.read(record.per_user)):
            values.setdefault(bucket.name, []).append(bucket.value)
    return {name: sum(found) / len(found) for name, found in values.items()}


def _tested(rows: Sequence[Row]) -> str:
    """A sentence on which models the best cannot be told from, by user."""
    family = over_users([record for row in rows for record in row.named()], ".", MASK, METRIC)
    equal = [each.label for each in family.comparisons if not each.significant]
    others = f"every other model but {listing(equal)}" if equal else "every other model"
    seeds = ", ".join(map(str, family.seeds))
    return (
        f"\n{family.best} is better by user than {others} (R@20, Wilcoxon's test, Holm's correction, "
        f"{family.pairs:,} users, seeds in common: {seeds}; of several settings, validation's choice).\n"
    )


def _p_value(row: Row, other: Row) -> float:
    records = [*row.named(), *other.named()]
    return over_users(records, ".", MASK, METRIC).comparisons[0].p_wilcoxon


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(ROOT))
