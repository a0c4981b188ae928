"""Small prepared datasets on disk whose right answer is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np

# settings under which the planted dataset trains in a second or two
QUICK = {
    "epochs": 12,
    "train_batch_size": 128,
    "learning_rate": 0.01,
    "embedding_size": 16,
    "stopping_step": 50,
    "show_progress": False,
    "knn_k": 5,
}


def write_planted(
    root: Path,
    name: str = "planted",
    modalities: dict[str, int] | None = None,
    groups: int = 4,
    users_per_group: int = 15,
    items_per_group: int = 12,
    seed: int = 0,
) -> Path:
    """Users interact only with items of their own group, and an item's features reveal its group.

    Lines of the ``.item`` file are shuffled, and the interactions list items in yet another order, so that only
    alignment by token can be right. Item ``i<n>`` belongs to group ``n % groups``, user ``u<n>`` likewise; the first
    feature of item ``i<n>`` is exactly n.

    Returns:
        The dataset's folder ``root/name``.
    """
    rng = np.random.default_rng(seed)
    widths = {"image": 8, "text": 6} if modalities is None else modalities
    folder = _write_items(root / name, groups * items_per_group, groups, widths, rng, numbered=True)
    parts: dict[str, list[tuple[int, int]]] = {"train": [], "valid": [], "test": []}
    for user in range(groups * users_per_group):
        own = np.arange(items_per_group) * groups + user % groups
        for item, part in zip(rng.permutation(own)[:8], ["train"] * 6 + ["valid", "test"]):
            parts[part].append((user, item))
    return _write_parts(folder, parts, rng)


def write_halves(
    root: Path,
    name: str = "halves",
    groups: int = 8,
    users_per_half: int = 8,
    items_per_half: int = 6,
    seed: int = 0,
) -> Path:
    """Groups of items with similar features; each user trains on one half of a group and is tested on the other half.

    No chain of training interactions joins the two halves of a group, so that collaborative filtering cannot tell the
    items a user is tested on from those of any other group: only features can.

    Returns:
        The dataset's folder ``root/name``.
    """
    rng = np.random.default_rng(seed)
    folder = _write_items(root / name, 2 * groups * items_per_half, groups, {"image": 16, "text": 12}, rng)
    parts: dict[str, list[tuple[int, int]]] = {"train": [], "valid": [], "test": []}
    for user in range(2 * groups * users_per_half):
        group, half = user % groups, user // groups % 2
        items = np.arange(2 * items_per_half) * groups + group
        own, other = rng.permutation(items[half::2]), rng.permutation(items[1 - half :: 2])
        # all but one of the half, in which users therefore overlap without being equal
        parts["train"] += [(user, item) for item in own[:-1]]
        parts["valid"] += [(user, item) for item in other[:2]]
        parts["test"] += [(user, item) for item in other[2:4]]
    return _write_parts(folder, parts, rng)


def _write_items(
    folder: Path, n_items: int, groups: int, widths: dict[str, int], rng: np.random.Generator, numbered: bool = False
) -> Path:
    """Items in a shuffled order, with features near the centre of their group.

    ``numbered``: the first feature is the item's number.
    """
    folder.mkdir(parents=True, exist_ok=True)
    order = rng.permutation(n_items)
    lines = "".join(f"i{n}\n" for n in order)
    (folder / f"{folder.name}.item").write_text("item_id:token\n" + lines, encoding="utf-8")
    for modality, dim in widths.items():
        centres = rng.normal(size=(groups, dim))
        matrix = centres[order % groups] + 0.1 * rng.normal(size=(n_items, dim))
        if numbered:
            matrix[:, 0] = order
        np.save(folder / f"{folder.name}.{modality}.npy", matrix.astype(np.float32))
    return folder


def _write_parts(folder: Path, parts: dict[str, list[tuple[int, int]]], rng: np.random.Generator) -> Path:
    """The interactions of each part of the split, shuffled."""
    for part, pairs in parts.items():
        lines = "".join("u{}\ti{}\n".format(*pairs[k]) for k in rng.permutation(len(pairs)))
        (folder / f"{folder.name}.{part}.inter").write_text("user_id:token\titem_id:token\n" + lines, encoding="utf-8")
    return folder
