"""A folder with everything that the commands of the documentation read, small."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from dataset_prep.__main__ import main as prepare
from tests.dataset_prep import raw

_N_USERS, _N_ITEMS = 30, 20
#: the id of a user of the dataset baby
A_USER = raw.user_id(7)


def fill(folder: Path) -> None:
    """Write datasets and raw files under the names that the pages use."""
    rng = np.random.default_rng(5)
    downloads = folder / "downloads"
    raw.write_mmrec(downloads / "baby", n_users=_N_USERS, n_items=_N_ITEMS, maps=True)
    assert prepare(["mmrec", str(downloads / "baby"), "--name=baby", f"--out={folder / 'dataset'}"]) == 0
    np.savez(folder / "baby-0.666.npz", t=[1, 2, 3], v=[4, 5], tv=[6], all=[6])
    np.savez(folder / "baby-new-items.npz", items=[1, 2, 3])
    _with_times(folder / "dataset" / "reviews")
    _lattice(downloads / "sports", rng)
    _diffmm(downloads / "tiktok", rng)
    reviews, metadata = raw.write_category(folder / "amazon", "2014", n_items=_N_ITEMS)
    reviews.replace(folder / "reviews_Baby_5.json.gz")
    metadata.replace(folder / "meta_Baby.json.gz")
    ids = [raw.item_id(number).encode() for number in range(_N_ITEMS)]
    raw.write_b(folder / "image_features_Baby.b", ids, rng.normal(size=(_N_ITEMS, 4096)))
    _tables(folder)
    (folder / "my-ablation.yaml").write_text("model: FREEDOM\nruns:\n  FREEDOM: {}\n  no pruning: {prune_rate: 0.0}\n")


def _with_times(folder: Path) -> None:
    """A dataset whose interactions have times from 2001 to 2014; one item was first seen in the last year."""
    folder.mkdir()
    of_all = [(user, item) for user in range(_N_USERS) for item in _some(user)]
    times = [(user, item, 1_400_000_000 if item == 0 else 10**9 + 10**6 * user + item) for user, item in of_all]
    lines = ["user_id:token\titem_id:token\ttimestamp:float", *(f"u{u}\ti{i}\t{t}" for u, i, t in times)]
    (folder / "reviews.inter").write_text("\n".join(lines) + "\n")
    items = [f"i{item}" for item in range(_N_ITEMS)]
    (folder / "reviews.item").write_text("\n".join(["item_id:token", *items]) + "\n")
    np.save(folder / "reviews.text.npy", np.random.default_rng(1).normal(size=(_N_ITEMS, 6)))


def _some(user: int) -> list[int]:
    return np.random.default_rng(user).permutation(_N_ITEMS)[:8].tolist()


def _parts() -> list[dict[int, list[int]]]:
    """User -> items of training, validation and test."""
    return [{user: _some(user)[slice(*cut)] for user in range(_N_USERS)} for cut in ((0, 6), (6, 7), (7, 8))]


def _lattice(folder: Path, rng: np.random.Generator) -> None:
    folder.mkdir(parents=True)
    for name, part in zip(("train", "val", "test"), _parts()):
        (folder / f"{name}.json").write_text(json.dumps(part))
    _features(folder, rng)


def _diffmm(folder: Path, rng: np.random.Generator) -> None:
    folder.mkdir(parents=True)
    for name, part in zip(("trnMat", "valMat", "tstMat"), _parts()):
        matrix = np.zeros((_N_USERS, _N_ITEMS), dtype=np.float32)
        for user, items in part.items():
            matrix[user, items] = 1
        (folder / f"{name}.pkl").write_bytes(pickle.dumps(sp.coo_matrix(matrix)))
    _features(folder, rng)


def _features(folder: Path, rng: np.random.Generator) -> None:
    for name in ("image", "text"):
        np.save(folder / f"{name}_feat.npy", rng.normal(size=(_N_ITEMS, 6)))


def _tables(folder: Path) -> None:
    """Ratings, two tables of items, and an array with the ids of its rows."""
    ratings = [
        f"u{user},{item},5,{10**9 + place}" for user in range(_N_USERS) for place, item in enumerate(_some(user))
    ]
    (folder / "ratings.csv").write_text("\n".join(["user_id,item_id,rating,timestamp", *ratings]) + "\n")
    titles = [f"{item},{raw.text_of(item)},crime" for item in range(_N_ITEMS)]
    for name in ("movies.csv", "items.csv"):
        (folder / name).write_text("\n".join(["item_id,title,genres", *titles]) + "\n")
    (folder / "items.txt").write_text("".join(f"{raw.item_id(item)}\n" for item in range(_N_ITEMS)))
    np.save(folder / "audio.npy", np.random.default_rng(2).normal(size=(_N_ITEMS, 4)))
