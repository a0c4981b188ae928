"""A small prepared dataset on disk whose right answer is known."""

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
    """Users of a group interact with items of their group alone, and an item's features point to its group.

    Item tokens are shuffled against lines and appear in the interactions in yet another order, so that only alignment
    by token can be right. Item ``i<n>`` belongs to group ``n % groups``, user ``u<n>`` likewise; the first feature of
    item ``i<n>`` is exactly n.

    Returns:
        The dataset's folder ``root/name``.
    """
    rng = np.random.default_rng(seed)
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    n_items = groups * items_per_group
    order = rng.permutation(n_items)
    (folder / f"{name}.item").write_text("item_id:token\n" + "".join(f"i{n}\n" for n in order), encoding="utf-8")
    for modality, dim in ({"image": 8, "text": 6} if modalities is None else modalities).items():
        centres = rng.normal(size=(groups, dim))
        matrix = centres[order % groups] + 0.1 * rng.normal(size=(n_items, dim))
        matrix[:, 0] = order
        np.save(folder / f"{name}.{modality}.npy", matrix.astype(np.float32))

    parts: dict[str, list[str]] = {"train": [], "valid": [], "test": []}
    for user in range(groups * users_per_group):
        own = np.arange(items_per_group) * groups + user % groups
        chosen = rng.permutation(own)[:8]
        for item, part in zip(chosen, ["train"] * 6 + ["valid", "test"]):
            parts[part].append(f"u{user}\ti{item}\n")
    for part, lines in parts.items():
        shuffled = [lines[k] for k in rng.permutation(len(lines))]
        text = "user_id:token\titem_id:token\n" + "".join(shuffled)
        (folder / f"{name}.{part}.inter").write_text(text, encoding="utf-8")
    return folder
