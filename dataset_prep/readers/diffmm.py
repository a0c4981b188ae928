"""DiffMM's layout: three pickled sparse matrices of users x items, and one array per modality whose row k is item k.

::

    tiktok/
      trnMat.pkl, valMat.pkl, tstMat.pkl       scipy sparse matrices; nonzero entries are interactions
      image_feat.npy                           (items, width); also text_feat.npy, audio_feat.npy, ...

MMSSL and LLMRec call the matrices ``train_mat``, ``val_mat`` and ``test_mat``. The pickles are read without running
anything that they ask for, see :mod:`dataset_prep.pickles`.

Sources: https://github.com/HKUDS/DiffMM, https://github.com/HKUDS/MMSSL
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from recbole_mambarec_common.errors import UserError

from ..pickles import read_sparse
from ..tables import Interactions, Prepared
from ..tokens import check_name
from .numbered import find_features, other_layout, prepare_numbered

_FILES = (
    ("trnMat.pkl", "valMat.pkl", "tstMat.pkl"),
    ("train_mat", "val_mat", "test_mat"),
    ("train_mat.pkl", "val_mat.pkl", "test_mat.pkl"),
)


def read_diffmm(source: str | Path, name: str, *, max_bad: float = 0.01) -> Prepared:
    """Read a folder in DiffMM's layout and keep its split.

    Args:
        source: the folder.
        name: the name of the dataset.
        max_bad: the largest share of interactions that may be in two splits.

    Raises:
        UserError: something in the files is wrong; the message names the file.
    """
    check_name(name)
    files = _find_files(Path(source))
    matrices = [read_sparse(file) for file in files]
    for file, matrix in zip(files[1:], matrices[1:]):
        if matrix.shape != matrices[0].shape:
            raise UserError(
                f"{file.name} is {matrix.shape[0]} x {matrix.shape[1]}, but {files[0].name} is "
                f"{matrices[0].shape[0]} x {matrices[0].shape[1]} (users x items)"
            )
    users, items = (np.concatenate([getattr(m, side) for m in matrices]) for side in ("rows", "columns"))
    if not len(users):
        raise UserError(f"{', '.join(file.name for file in files)} hold no interactions")
    parts = np.repeat(np.arange(3, dtype=np.int8), [len(matrix.rows) for matrix in matrices])
    return prepare_numbered(
        name,
        Interactions(users.astype(np.int32), items.astype(np.int32), split=parts),
        file=files[0].name.replace("trn", "*").replace("train", "*"),
        features=find_features(Path(source)),
        tables=files,
        split=f"from the source ({', '.join(file.name for file in files)})",
        max_bad=max_bad,
        least=matrices[0].shape,
    )


def _find_files(source: Path) -> list[Path]:
    if not source.is_dir():
        raise UserError(f"there is no folder {source}")
    for names in _FILES:
        there = [(source / name).is_file() for name in names]
        if all(there):
            return [source / name for name in names]
        if any(there):
            missing = names[there.index(False)]
            raise UserError(f"{source} holds no {missing}, and a dataset needs all three of {', '.join(names)}")
    first = " or ".join(names[0] for names in _FILES[:2])
    raise UserError(f"{source} holds no {first}, so it is not in DiffMM's layout{other_layout(source)}")
