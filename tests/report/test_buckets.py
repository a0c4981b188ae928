"""Groups of users and of test items, from the results per user of several rows."""

from dataclasses import replace

import polars as pl

from recbole_mambarec.report import buckets, load
from tests.report.test_load import run


def row_with_users(folder, label, has_text, ranks, **config):
    """Three users with a test item each."""
    path = folder / f"{label}.parquet"
    columns = {
        "user": ["a", "b", "c"],
        "train": [1, 2, 3],
        "train:recall@20": [float(rank is not None) for rank in ranks],
        "train:hit@20": [float(rank is not None) for rank in ranks],
        "items": [["x"], ["y"], ["z"]],
        "popularity": [[1], [2], [3]],
        "has:text": [[has] for has in has_text],
        "train:rank": [[rank] for rank in ranks],
    }
    pl.DataFrame(columns, schema_overrides={"train:rank": pl.List(pl.UInt16)}).write_parquet(path)
    return replace(run(label=label, **config), per_user=str(path))


def test_what_items_lack_is_grouped_by_mask(tmp_path):
    """Rows of one mask are compared with each other, and all rows by activity and popularity."""
    made = [
        row_with_users(tmp_path, "whole", [True, True, True], [1, 2, 3]),
        row_with_users(tmp_path, "low A", [True, True, False], [1, 2, None], missing_modalities=0.2),
        row_with_users(tmp_path, "low B", [True, True, False], [1, None, 3], missing_modalities=0.2),
        row_with_users(
            tmp_path, "file", [True, False, False], [1, None, 3], missing_modalities={"file": "m.csv", "sha256": "0"}
        ),
    ]
    found, note = buckets.groupings(load.rows(made), "train", "recall@20")
    assert note == ""
    assert [(g.name, g.title) for g in found] == [
        ("activity", "By user activity"),
        ("popularity", "By item popularity"),
        ("modality-2", "By modality, missing_modalities 0.2"),
        ("modality-3", "By modality, missing_modalities m.csv"),
    ]
    assert list(found[0].values) == ["whole", "low A", "low B", "file"]
    assert found[2].names == ["with text", "without text"] and found[2].counts == [2, 1]
    assert found[2].values == {"low A": [1.0, 0.0], "low B": [0.5, 1.0]}
    assert found[3].values == {"file": [1.0, 0.5]}
    # a file is known by its contents: the same one under another path, and another one of the same name
    for label, path, content in (("moved", "x/m.csv", "0"), ("changed", "m.csv", "1234567890")):
        given = {"file": path, "sha256": content}
        made.append(row_with_users(tmp_path, label, [True, False, False], [1, 2, 3], missing_modalities=given))
    found, _ = buckets.groupings(load.rows(made[3:]), "train", "recall@20")
    assert [(g.title, list(g.values)) for g in found[2:]] == [
        ("By modality, missing_modalities m.csv (0)", ["file", "moved"]),
        ("By modality, missing_modalities m.csv (12345678)", ["changed"]),
    ]
    found, note = buckets.groupings(load.rows(made[:1]), "train", "recall@20")
    assert [g.name for g in found] == ["activity", "popularity"] and note == "by modality: no tested item lacks one"


def test_known_and_new_items_have_users_of_their_own(tmp_path):
    made = row_with_users(tmp_path, "a", [True, True, True], [1, None, 3])
    (before, *_), _ = buckets.groupings(load.rows([made]), "train", "recall@20")
    assert before.name == "activity"
    frame = pl.read_parquet(made.per_user).with_columns(popularity=pl.Series([[1], [2], [0]]))
    frame.write_parquet(made.per_user)
    found, _ = buckets.groupings(load.rows([made]), "train", "recall@20")
    (new,) = (g for g in found if g.name == "new")
    assert (new.names, new.counts, new.values) == (["all", "known", "new"], [3, 2, 1], {"a": [2 / 3, 0.5, 1.0]})
