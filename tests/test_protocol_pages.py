"""Tables of the pages on missing modalities and new items, from records and results per user that are made here."""

from dataclasses import replace

import polars as pl
import pytest

from recbole_mambarec.experiments import store
from tests.report.test_load import run
from tools import protocol_pages

HASHED = {"file": "mask.npz", "sha256": "0"}


@pytest.fixture
def results(tmp_path, monkeypatch):
    """A folder of results with records that a test adds, and pages that have the given text."""
    monkeypatch.setattr(protocol_pages, "RESULTS", tmp_path)
    monkeypatch.setattr(protocol_pages, "WHOLE", {"d": "runs.jsonl"})
    protocol_pages._comparison.cache_clear()
    (tmp_path / "notes").mkdir()
    return tmp_path


def add(results, file, model, found, popularity=None, seed=1, **config):
    """A record of eight users with a test item each, whose item is found (1) or not (0), half without an image."""
    made = run(model, seed=seed, dataset="d", **config)
    hits = [float(hit) for hit in found]
    frame = pl.DataFrame(
        {
            "user": [f"u{n}" for n in range(8)],
            "train": [2] * 8,
            "train:recall@20": hits,
            "train:hit@20": hits,
            "items": [[f"i{n}"] for n in range(8)],
            "popularity": [[count] for count in popularity or [3] * 8],
            "has:image": [[n % 2 == 0] for n in range(8)],
            "train:rank": [[1 if hit else None] for hit in found],
        },
        schema_overrides={"train:rank": pl.List(pl.UInt16)},
    )
    path = results / "per_user" / f"{made.key}.parquet"
    path.parent.mkdir(exist_ok=True)
    frame.write_parquet(path)
    mean = sum(hits) / 8
    test = {"train": {"recall@20": mean, "ndcg@20": mean / 2}}
    valid = {"recall@20": mean}
    store.append(results / file, replace(made, per_user=f"per_user/{path.name}", test=test, valid=valid))


def table(results, page, place):
    """The rows of the table in place of a comment, and the text below it."""
    (results / "notes" / f"{page}.md").write_text(f"# Title\n\n<!-- {place} d -->\n\nThe end.\n")
    text = protocol_pages._page(page)
    assert text.startswith("<!-- Written by") and text.endswith("\nThe end.\n")
    lines = text.splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return rows[:1] + rows[2:], [line for line in lines if "better by user" in line]


def test_a_mask(results):
    add(results, "runs.jsonl", "A", [1, 1, 1, 1, 1, 1, 0, 0])
    add(results, "missing-modality.jsonl", "A", [1, 0, 1, 0, 1, 0, 0, 0], missing_modalities=HASHED)
    add(results, "missing-modality.jsonl", "B", [1, 1, 1, 1, 1, 1, 1, 0], missing_modalities=HASHED)
    add(results, "missing-modality.jsonl", "A", [0] * 8, missing_modalities=HASHED, impute_missing="zero")
    rows, tested = table(results, "missing-modality", "mask")
    assert rows[0][-2:] == ["found with image", "found without image"]
    assert rows[1:] == [
        ["B", "1", "", ".8750 / .4375", "", "1.0000", ".7500"],
        ["A", "1", ".7500 / .3750", ".3750 / .1875", "−50.0%", ".7500", ".0000"],
    ]
    assert tested == [
        "B is better by user than every other model but A (R@20, Wilcoxon's test, Holm's correction, 8 users, seeds "
        "in common: 1; of several settings, validation's choice)."
    ]


def test_rates(results):
    add(results, "runs.jsonl", "A", [1] * 8)
    for rate, found in ((0.4, [1, 1] + 6 * [0]), (0.2, [1] * 6 + [0, 0])):
        add(results, "missing-modality.jsonl", "A", found, missing_modalities=rate)
    add(results, "missing-modality.jsonl", "B", [1] * 4 + 4 * [0], missing_modalities=0.4)
    rows, _ = table(results, "missing-modality", "rates")
    assert rows == [["model", "0", "0.2", "0.4"], ["B", "", "", ".5000"], ["A", "1.0000", ".7500", ".2500"]]


def test_imputations(results):
    for way, found in ((None, [1] + 7 * [0]), ("zero", 8 * [0]), ("neighbours", 8 * [1])):
        add(results, "missing-modality.jsonl", "A", found, missing_modalities=HASHED, impute_missing=way)
    rows, _ = table(results, "missing-modality", "imputations")
    assert [row[:4] for row in rows[1:]] == [
        ["A", "mean", ".1250 / .0625", ""],
        ["A", "zero", ".0000 / .0000", "−0.1250"],
        ["A", "neighbours", "1.0000 / .5000", "+0.8750"],
    ]
    assert rows[1][4] == "" and float(rows[3][4]) < 0.05 < float(rows[2][4])


def test_new_items(results):
    """Means over seeds; all keys about the scores of new items are named, and the best by validation is tested."""
    popularity = [3] * 6 + [0, 0]
    add(results, "runs.jsonl", "A", [1] * 8, popularity)
    for seed, found in ((1, [1] * 4 + [0] * 4), (2, [1] * 6 + [0] * 2)):
        add(results, "new-items.jsonl", "A", found, popularity, seed, new_items=HASHED)
    add(results, "new-items.jsonl", "A", [1] * 7 + [0], popularity, new_items=HASHED, cold_items="content")
    add(results, "new-items.jsonl", "B", [0] * 8, popularity, new_items=HASHED, rank_items="new")
    add(results, "new-items.jsonl", "C", [0] * 8, popularity, new_items=HASHED)
    rows, tested = table(results, "new-items", "new")
    assert rows[1:] == [
        ["A", "`cold_items: content`", "1", "1.0000", ".8750", "1.0000", ".5000"],
        ["A", "", "2", "1.0000", ".6250", ".8333", ".0000"],
        ["C", "", "1", "", ".0000", ".0000", ".0000"],
    ]
    assert len(tested) == 1 and tested[0].startswith("A is better by user than every other model (")
    rows, _ = table(results, "new-items", "among")
    assert rows[1:] == [["B", "", ".0000 / .0000"]]
