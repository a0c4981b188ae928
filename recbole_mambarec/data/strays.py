"""Feature files in a dataset's folder whose name or format is not read."""

from __future__ import annotations

import re
from itertools import islice
from pathlib import Path

from recbole_mambarec.data.folder import modality_files
from recbole_mambarec_common.masks import names_items

_FORMATS = (
    *(".npy", ".npz", ".pt", ".pth", ".pkl", ".pickle", ".safetensors", ".h5", ".hdf5", ".mat", ".b"),
    *(".npy.gz", ".npy.zip", ".npy.dvc"),
)
# words that are not part of a modality's name
_NOISE = {"feat", "feats", "feature", "features", "emb", "embs", "embedding", "embeddings", "vec", "vectors", "final"}
_MODALITIES = {"image", "images", "img", "visual", "text", "txt", "textual", "audio", "acoustic", "video", "title"}
# at most this many entries of a folder are examined: a folder with an array per item has as many as there are items
_ENTRIES_EXAMINED = 10_000


def stray_features(folder: Path, name: str) -> list[str]:
    """One sentence for each file that looks like features of the dataset ``name`` and is not read as such.

    The sentence says what to call it. Arrays with the right name (``<name>.<modality>.npy``), masks and lists of new
    items are not mentioned.
    """
    if not folder.is_dir():
        return []
    entries, read = sorted(islice(folder.iterdir(), _ENTRIES_EXAMINED)), set(modality_files(folder, name).values())
    found = [
        _sentence(path, name)
        for path in entries
        if _format(path) and not path.is_dir() and path not in read and not names_items(path)
    ]
    for inner in entries:
        if inner.is_dir() and not inner.name.startswith("."):
            files = [path for path in islice(inner.iterdir(), _ENTRIES_EXAMINED) if _format(path)]
            if len(files) == 1:
                found.append(_sentence(files[0], name))
            elif files:
                modality = modality_of(inner.name, name)
                found.append(
                    f"{inner} holds {len(files)} files like {min(files).name}: stack them into one array "
                    f"{name}.{modality}.npy beside {name}.item, row k for its line k"
                )
    return found


def modality_of(stem: str, name: str) -> str:
    """The modality in a file name, without the name of the dataset: ``image_feat`` -> ``image``."""
    words = re.findall(r"[a-z]+", stem.lower().removeprefix(name.lower()))
    words = [word for word in words if word not in _NOISE]
    return next((word for word in words if word in _MODALITIES), words[-1] if words else "<modality>")


def _format(path: Path) -> str | None:
    lower = path.name.lower()
    return max((suffix for suffix in _FORMATS if lower.endswith(suffix)), key=len, default=None)


def _sentence(path: Path, name: str) -> str:
    suffix = _format(path)
    target = f"{name}.{modality_of(path.name[: -len(suffix)], name)}.npy"
    row = f"row k for line k of {name}.item"
    if suffix == ".npy":
        return f"{path} is not read under this name: call it {target} if it has {row}"
    if suffix == ".npy.dvc":
        return f"{path} is a DVC pointer: get the array with `dvc pull` and call it {target}"
    if suffix in (".npy.gz", ".npy.zip"):
        return f"{path} is compressed: unpack it and call it {target} if it has {row}"
    if suffix == ".b":
        return (
            f"{path} looks like Amazon's image features: `python -m dataset_prep features {path.parent} "
            f"--modality image --image-features {path}` reads it for a dataset prepared with dataset_prep"
        )
    return f"{path} has a format that is not read: save its array with numpy.save as {target}, {row}"
