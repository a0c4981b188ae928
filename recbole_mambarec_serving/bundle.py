"""A trained model as a folder of plain files, which are read without running code.

====================  =================================================================================================
``card.json``         model, configuration, data, metrics, versions, licence; size and SHA-256 of each other file
``model.safetensors``  embeddings, or whatever else scores need (``scoring`` in the card says what)
``users.parquet``     ``user_id``, in the order of the rows
``items.parquet``     ``item_id``, ``title``, ``image``, ``popularity``, and ``has_<modality>`` for each modality
``seen.npz``          what each user has, CSR of uint8: bit 1 in training, 2 in validation, 4 in test
``features.<n>.npy``  features of a modality as rows of length 1, float16, if they were exported
``index.faiss``       an index for approximate search, if it was asked for
``README.md``         the card for people
====================  =================================================================================================
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from recbole_mambarec_command.requirements import is_installed
from recbole_mambarec_common.errors import UserError
from recbole_mambarec_common.extras import need
from recbole_mambarec_common.files import atomic_folder
from recbole_mambarec_serving.approximate import ItemIndex
from recbole_mambarec_serving.catalogue import Catalogue
from recbole_mambarec_serving.features import Features
from recbole_mambarec_serving.ids import Ids
from recbole_mambarec_serving.packing import pack, unpack
from recbole_mambarec_serving.ranking import largest
from recbole_mambarec_serving.scoring import Scoring

if TYPE_CHECKING:
    from recbole_mambarec_serving.recommender import Recommender

#: without its version
FORMAT = "recbole_mambarec.bundle/"
#: of the bundles that are written; all up to it are read
VERSION = 1
CARD, MODEL, USERS, ITEMS, SEEN, README, INDEX = (
    "card.json",
    "model.safetensors",
    "users.parquet",
    "items.parquet",
    "seen.npz",
    "README.md",
    "index.faiss",
)
EXTRA = "serve"
_HAS = "has_"
# rows of features that are converted at a time
_BLOCK_ROWS = 4096


class StoredFeatures:
    """Features of a bundle; they stay on disk.

    Args:
        files: modality -> ``.npy`` file of float16 rows.
    """

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._arrays = {m: np.load(path, mmap_mode="r", allow_pickle=False) for m, path in files.items()}
        self.widths = {m: int(array.shape[1]) for m, array in self._arrays.items()}

    def rows(self, modality: str, start: int, stop: int) -> np.ndarray:
        """See :meth:`~recbole_mambarec_serving.features.Features.rows`."""
        return self._arrays[modality][start:stop].astype(np.float32)


# ------------------------------------------------------------------------------------------------------------
# writing


def write_bundle(path: str | Path, recommender: Recommender, card: Mapping[str, Any], readme: str) -> Path:
    """Write a bundle, whole or not at all: an interrupted process leaves a hidden temporary folder at most.

    Args:
        path: the folder, which must not exist.
        recommender: its scoring is of a kind that :func:`~recbole_mambarec_serving.packing.pack` knows.
        card: plain values for ``card.json``, besides what is added here: format, scoring, files, features.
        readme: text of ``README.md``.

    Raises:
        UserError: the folder exists, or a package is missing.
    """
    path = Path(path)
    check_new_folder(path)
    safetensors = need("safetensors.numpy", EXTRA)
    need("pyarrow", EXTRA)
    plain, arrays = pack(recommender.scoring)
    with atomic_folder(path) as folder:
        safetensors.save_file(arrays, folder / MODEL)
        _write_table(folder / USERS, {"user_id": recommender.users.tokens.tolist()})
        _write_table(folder / ITEMS, _columns(recommender.catalogue))
        sp.save_npz(folder / SEEN, recommender.seen)
        named = _write_features(folder, recommender.features, len(recommender))
        if recommender.index is not None:
            recommender.index.write(folder / INDEX)
        (folder / README).write_text(readme, encoding="utf-8")
        files = {file.name: _described(file) for file in sorted(folder.iterdir())}
        counts = {"users": len(recommender.users), "items": len(recommender)}
        whole = {"format": f"{FORMAT}{VERSION}", "model": recommender.name, **card, **counts}
        whole |= {"scoring": plain, "features": named, "files": files}
        text = json.dumps(whole, indent=2, ensure_ascii=False, allow_nan=False)
        (folder / CARD).write_text(text + "\n", encoding="utf-8")
        permissions = (folder / CARD).stat().st_mode
        for file in folder.iterdir():
            file.chmod(permissions)  # safetensors makes private files
            with open(file, "r+b") as written:
                os.fsync(written.fileno())
        check_new_folder(path)  # another process may have been faster
    return path


def check_new_folder(path: Path) -> None:
    """Refuse to write over anything.

    Raises:
        UserError: there is something at the path.
    """
    if path.exists():
        raise UserError(f"{path} exists already: name a new folder for the bundle, or remove it first")


def _columns(catalogue: Catalogue) -> dict[str, Sequence | np.ndarray]:
    nothing = [None] * len(catalogue)
    columns: dict[str, Sequence | np.ndarray] = {
        "item_id": catalogue.ids.tokens.tolist(),
        "title": catalogue.titles or nothing,
        "image": catalogue.images or nothing,
        "popularity": catalogue.popularity,
    }
    return columns | {f"{_HAS}{modality}": there for modality, there in catalogue.modalities.items()}


def _write_table(path: Path, columns: Mapping[str, Sequence | np.ndarray]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {"popularity": pa.int64()}
    arrays = {
        name: pa.array(values, type=pa.bool_() if name.startswith(_HAS) else types.get(name, pa.string()))
        for name, values in columns.items()
    }
    pq.write_table(pa.table(arrays), path)


def _write_features(folder: Path, features: Features | None, n_items: int) -> dict[str, str]:
    """Write the rows in float16; modality -> name of the file."""
    named: dict[str, str] = {}
    for number, (modality, width) in enumerate({} if features is None else features.widths.items()):
        named[modality] = f"features.{number}.npy"
        written = np.lib.format.open_memmap(folder / named[modality], "w+", np.float16, (n_items, width))
        for start in range(0, n_items, _BLOCK_ROWS):
            stop = min(start + _BLOCK_ROWS, n_items)
            written[start:stop] = features.rows(modality, start, stop)
        written.flush()
        del written
    return named


def _described(file: Path) -> dict[str, object]:
    return {"bytes": file.stat().st_size, "sha256": _digest(file)}


def _digest(file: Path) -> str:
    with open(file, "rb") as stream:
        digest = hashlib.sha256()
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


# ------------------------------------------------------------------------------------------------------------
# reading


def read_card(path: str | Path) -> dict[str, Any]:
    """The card of a bundle.

    Raises:
        UserError: the folder is no bundle, or a later version has written it.
    """
    folder = Path(path)
    if not folder.exists():
        raise UserError(f"there is no bundle {folder}: `recbole-mambarec export` writes one")
    if not folder.is_dir():
        raise UserError(f"{folder} is a file, and a bundle is a folder: `recbole-mambarec export` makes one of a model")
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{folder} is not a bundle: it has no {CARD}") from None
    except ValueError:
        raise UserError(f"{folder / CARD} is damaged: export the bundle again") from None
    text = str(card.get("format")) if isinstance(card, dict) else ""
    version = text.removeprefix(FORMAT)
    if not text.startswith(FORMAT) or not version.isdecimal():
        raise UserError(f"{folder} is not a bundle of this package: its card has another format")
    if int(version) > VERSION:
        raise UserError(
            f"{folder} is a bundle of version {version}, and this installation reads versions up to {VERSION}: "
            "upgrade recbole-mambarec"
        )
    return card


def read_bundle(path: str | Path, cls: type[Recommender], verify: bool = True) -> Recommender:
    """Load a bundle, without running code in it.

    Args:
        cls: the class of the result.
        verify: compare each file with its digest in the card, which reads it once more; sizes are always compared.

    Raises:
        UserError: it is no bundle, incomplete, damaged or of a later version, or a package is missing.
    """
    folder, card = Path(path), read_card(path)
    safetensors, parquet = need("safetensors.numpy", EXTRA), need("pyarrow.parquet", EXTRA)
    try:
        _check_files(folder, card["files"], verify)
        if not set(card["features"].values()) <= set(card["files"]):
            raise ValueError("features lie in other files")
        arrays = safetensors.load_file(folder / MODEL)
        users = Ids("user", parquet.read_table(folder / USERS)["user_id"].to_pylist())
        catalogue = _catalogue(parquet.read_table(folder / ITEMS))
        seen = sp.csr_array(sp.load_npz(folder / SEEN))
        scoring = _scoring(card, arrays, seen, users, catalogue)
        features = StoredFeatures({m: folder / file for m, file in card["features"].items()})
        for modality, width in features.widths.items():
            if features.rows(modality, 0, len(catalogue) + 1).shape != (len(catalogue), width):
                raise ValueError("features have another number of rows")
        index = ItemIndex.read(folder / INDEX) if INDEX in card["files"] and is_installed("faiss") else None
    except UserError:
        raise
    except Exception as error:  # of half a dozen readers, for files that are whole but not what the card says
        raise UserError(f"{folder} is damaged ({type(error).__name__}): export the bundle again") from error
    made = cls(str(card["model"]), scoring, users, catalogue, seen, features if features.widths else None, card)
    made.index = index
    return made


def _check_files(folder: Path, files: Mapping[str, Mapping], verify: bool) -> None:
    missing = {MODEL, USERS, ITEMS, SEEN} - set(files)
    if missing:
        raise UserError(f"{folder / CARD} does not list {sorted(missing)[0]}: export the bundle again")
    for name, described in files.items():
        file = folder / name
        if Path(name).name != name or not file.is_file():
            raise UserError(f"{folder} is incomplete, {name} is missing: export the bundle again")
        if file.stat().st_size != described["bytes"]:
            raise UserError(
                f"{file} has {file.stat().st_size} bytes instead of {described['bytes']}: copy or export it again"
            )
        if verify and _digest(file) != described["sha256"]:
            raise UserError(f"{file} is not the file that was exported (SHA-256): copy or export it again")


def _catalogue(table: Any) -> Catalogue:
    names = [name for name in table.column_names if name.startswith(_HAS)]
    return Catalogue(
        Ids("item", table["item_id"].to_pylist()),
        _texts(table["title"].to_pylist()),
        _texts(table["image"].to_pylist()),
        table["popularity"].to_numpy().astype(np.int64),
        {name.removeprefix(_HAS): np.asarray(table[name].to_pylist(), dtype=bool) for name in names},
    )


def _texts(values: list[str | None]) -> list[str | None] | None:
    return values if any(value is not None for value in values) else None


def _scoring(
    card: Mapping[str, Any], arrays: Mapping[str, np.ndarray], seen: sp.csr_array, users: Ids, catalogue: Catalogue
) -> Scoring:
    seen.check_format(full_check=True)
    if seen.shape != (len(users), len(catalogue)):
        raise ValueError("seen.npz has another number of users or items")
    return unpack(card["scoring"], arrays, training_history(seen), catalogue.popularity, str(card["model"]))


def training_history(seen: sp.csr_array) -> sp.csr_array:
    """The training interactions among what users have: 1.0 as float32, ``(n_users, n_items)``."""
    history = sp.csr_array(((seen.data & 1).astype(np.float32), seen.indices, seen.indptr), shape=seen.shape, copy=True)
    history.eliminate_zeros()
    return history


def lists_of(scoring: Scoring, seen: sp.csr_array, depth: int, block: int) -> Iterator[sp.csr_array]:
    """The ``depth`` best unseen items of each user and all seen ones with their scores, a block of users at a time."""
    n_users, n_items = seen.shape
    for start in range(0, n_users, block):
        rows = np.arange(start, min(start + block, n_users))
        scores, own = scoring.scores(rows), seen[rows]
        of = np.repeat(np.arange(len(rows)), np.diff(own.indptr))
        known = scores[of, own.indices]
        scores[of, own.indices] = -np.inf
        columns, values = largest(scores, min(depth, n_items))
        listed, places = np.nonzero(columns >= 0)
        data = np.concatenate([known, values[listed, places]]).astype(np.float32)
        where = np.concatenate([of, listed]), np.concatenate([own.indices, columns[listed, places]])
        yield sp.csr_array((data, where), shape=(len(rows), n_items))
