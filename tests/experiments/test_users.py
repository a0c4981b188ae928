"""Results per user: they agree with what RecBole reports, and with the files of the dataset."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from recbole_mambarec.errors import UserError
from recbole_mambarec.experiments import run, store, users
from recbole_mambarec.testing.planted import write_planted
from tests.experiments.test_run import RUNS, planned

pl = pytest.importorskip("polars")


def pairs(data: Path, part: str) -> list[tuple[str, str]]:
    lines = (data / f"{data.name}.{part}.inter").read_text().splitlines()[1:]
    return [tuple(line.split("\t")[:2]) for line in lines]


@pytest.fixture
def data(tmp_path):
    """Planted, with two test items for some users and items that lack a modality."""
    data = write_planted(tmp_path)
    valid = (data / "planted.valid.inter").read_text().splitlines()
    (data / "planted.valid.inter").write_text("\n".join(valid[:-20]) + "\n")
    with open(data / "planted.test.inter", "a", encoding="utf-8") as stream:
        stream.write("\n".join(valid[-20:]) + "\n")
    matrix = np.load(data / "planted.text.npy")
    matrix[:20] = np.nan
    np.save(data / "planted.text.npy", matrix)
    return data


@pytest.mark.parametrize(
    ("model", "topk", "mode"), [("MambaRec", [1, 3], "full"), ("BPR", [6, 20], "full"), ("BPR", [2, 5], "uni10")]
)
def test_the_means_over_users_are_the_reported_metrics(data, model, topk, mode):
    settings = {"metrics": ["Recall", "NDCG", "Hit"], "topk": topk, "valid_metric": f"Recall@{topk[1]}"}
    settings["eval_args"] = {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "RO", "group_by": "user", "mode": mode}
    record = run.execute(planned(data, model, epochs=2, **settings), RUNS)
    frame = users.read(RUNS.parent / record.per_user)
    assert record.test["train"] != record.test["train+valid"]
    for mask in store.MASKS:
        for metric, reported in record.test[mask].items():
            assert users.values(frame, mask, metric).mean() == pytest.approx(reported, abs=5.1e-7)
        assert 0 < record.test[mask][f"recall@{topk[1]}"] < 1  # or the test would show little


def test_known_and_new_items_are_measured_over_their_own_users(data):
    settings = {"metrics": ["Recall", "NDCG", "Hit"], "topk": [3, 9], "valid_metric": "Recall@9", "new_items": 0.3}
    record = run.execute(planned(data, "VBPR", epochs=2, **settings), RUNS)
    frame = users.read(RUNS.parent / record.per_user)
    for metric, reported in record.test["train"].items():
        everything, known, new = users.by_newness(frame, "train", metric)
        assert everything == users.Bucket("all", len(frame), pytest.approx(reported, abs=5.1e-7))
        name, k = metric.split("@")
        for bucket, is_new in ((known, False), (new, True)):
            found = []
            for row in frame.iter_rows(named=True):
                ranks = [rank for rank, count in zip(row["train:rank"], row["popularity"]) if (count == 0) == is_new]
                hits = [rank for rank in ranks if rank and rank <= int(k)]
                ideal = sum(1 / np.log2(place + 2) for place in range(min(len(ranks), int(k))))
                if ranks:
                    gain = sum(1 / np.log2(rank + 1) for rank in hits)
                    found.append({"recall": len(hits) / len(ranks), "hit": bool(hits), "ndcg": gain / ideal}[name])
            assert 10 < bucket.count == len(found) < len(frame) and bucket.value == pytest.approx(np.mean(found))


def test_the_table_agrees_with_the_files(data):
    record = run.execute(planned(data, "BPR", epochs=2, topk=[5, 10], valid_metric="Recall@10"), RUNS)
    frame = users.read(RUNS.parent / record.per_user)
    train, test = pairs(data, "train"), pairs(data, "test")
    active, popular = Counter(u for u, _ in train), Counter(i for _, i in train)
    tokens = (data / "planted.item").read_text().splitlines()[1:]
    assert sorted(frame["user"]) == sorted({user for user, _ in test}) and frame["items"].list.len().max() == 2
    for row in frame.iter_rows(named=True):
        assert row["train"] == active[row["user"]]
        assert sorted(row["items"]) == sorted(item for user, item in test if user == row["user"])
        assert row["popularity"] == [popular[item] for item in row["items"]]
        assert row["has:image"] == [True] * len(row["items"])
        assert row["has:text"] == [tokens.index(item) >= 20 for item in row["items"]]
        for mask in store.MASKS:
            ranks = row[f"{mask}:rank"]
            assert all(rank is None or 1 <= rank <= 10 for rank in ranks)
            for k in (5, 10):
                found = sum(rank is not None and rank <= k for rank in ranks)
                assert row[f"{mask}:recall@{k}"] == pytest.approx(found / len(ranks))
                assert row[f"{mask}:hit@{k}"] == float(found > 0)
    ranks = frame["train:rank"].explode()
    assert ranks.null_count() > 0 and ranks.max() > 5


def test_models_of_all_trainers_are_tested_on_the_same_split(tmp_path):
    """RecBole draws the split where the dataset brings none."""
    data = write_planted(tmp_path)
    parts = [(data / f"planted.{part}.inter").read_text().splitlines() for part in ("train", "valid", "test")]
    (data / "planted.inter").write_text("\n".join([parts[0][0], *(line for part in parts for line in part[1:])]) + "\n")
    for part in ("train", "valid", "test"):
        (data / f"planted.{part}.inter").unlink()
    frames = {}
    for model in ("MambaRec", "BPR"):
        for seed in (1, 2):
            record = run.execute(planned(data, model, epochs=1, seed=seed), RUNS)
            frames[model, seed] = users.read(RUNS.parent / record.per_user).sort("user")["user", "train", "items"]
    for seed in (1, 2):
        assert frames["MambaRec", seed].equals(frames["BPR", seed])
    assert not frames["BPR", 1].equals(frames["BPR", 2])


def test_the_file_is_small(tmp_path):
    """As many users as Amazon Baby has."""
    rng = np.random.default_rng(0)
    n = 19445
    tokens = ["".join(chr(65 + c) for c in row) for row in rng.integers(0, 26, (n, 14))]
    columns = {f"{m}:{x}@{k}": (rng.random(n) < 0.05) / 3 for m in store.MASKS for x in users.METRICS for k in (10, 20)}
    items = pl.Series([[f"B{i:09d}"] for i in rng.integers(0, 7050, n)])
    users.write(tmp_path / "x.parquet", pl.DataFrame({"user": tokens, "train": [3] * n, "items": items} | columns))
    assert (tmp_path / "x.parquet").stat().st_size < 1_000_000


# ------------------------------------------------------------------------------------------------------------
# groups


def table(**columns) -> pl.DataFrame:
    n = len(columns["train"])
    base = {"user": [f"u{k}" for k in range(n)], "items": [["i"]] * n, "popularity": [[1]] * n}
    return pl.DataFrame(base | columns)


def test_users_by_activity():
    frame = table(train=[3, 3, 3, 4, 5, 6, 7, 50], **{"train:recall@20": [0.0, 1, 0.5, 1, 1, 0, 0.5, 1]})
    assert users.by_activity(frame, "train", "Recall@20", count=2) == [
        users.Bucket("3-4", 4, 0.625),
        users.Bucket("5-50", 4, 0.625),
    ]
    buckets = users.by_activity(frame, "train", "recall@20")
    assert [(b.name, b.count) for b in buckets] == [("3", 3), ("4", 1), ("5-6", 2), ("7-50", 2)]
    assert [b.value for b in buckets] == pytest.approx([0.5, 1, 0.5, 0.75])


def test_equal_values_are_one_bucket():
    frame = table(train=[2] * 5, **{"train:recall@20": [0.0, 1, 1, 1, 1]})
    assert users.by_activity(frame, "train", "recall@20") == [users.Bucket("2", 5, 0.8)]


def test_test_items_by_popularity_and_modality():
    frame = table(
        train=[3, 3, 3],
        **{
            "popularity": [[1, 9], [2], [8]],
            "has:text": [[True, False], [True], [True]],
            "has:image": [[True, True], [True], [True]],
            "train:rank": [[None, 3], [12], [1]],
            "train:hit@10": [1.0, 0, 1],
            "train:hit@20": [1.0, 1, 1],
        },
    )
    assert users.by_popularity(frame, "train", 10, count=2) == [
        users.Bucket("1-2", 2, 0.0),
        users.Bucket("8-9", 2, 1.0),
    ]
    assert users.by_popularity(frame, "train", 20, count=2)[0].value == 0.5
    assert users.by_modality(frame, "train", 10) == [
        users.Bucket("with text", 3, pytest.approx(1 / 3)),
        users.Bucket("without text", 1, 1.0),
        users.Bucket("with image", 4, 0.5),
    ]
    with pytest.raises(UserError, match="no column 'train:hit@50'"):
        users.by_popularity(frame, "train", 50)


def test_faulty_files_and_missing_columns(tmp_path):
    with pytest.raises(UserError, match="results per user not found"):
        users.read(tmp_path / "none.parquet")
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(UserError, match="cannot be read as Parquet"):
        users.read(tmp_path / "torn.parquet")
    pl.DataFrame({"a": [1]}).write_parquet(tmp_path / "other.parquet")
    with pytest.raises(UserError, match="its columns are a"):
        users.read(tmp_path / "other.parquet")
    with pytest.raises(UserError, match="no column 'train:map@10': they have train:recall@20"):
        users.values(table(train=[1], **{"train:recall@20": [1.0]}), "train", "map@10")


def test_without_polars_there_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "polars", None)
    with pytest.raises(UserError, match=r"needs the package polars .*\[compare\]"):
        users.read(tmp_path / "x.parquet")
