"""A small RecBole dataset, with or without the arrays of this package."""

from __future__ import annotations

from pathlib import Path

import numpy as np

N_USERS, N_ITEMS = 20, 30


def write_plain(root: Path, more: dict[str, list[int]] | None = None, unseen: int = 0, features: bool = False) -> Path:
    """Write ``root/plain``: 20 users with 8 of 30 items each and ratings from 1 to 5.

    Args:
        more: further users, name -> numbers of the items that they have.
        unseen: items of the catalogue that nobody has.
        features: give the items an array, too.
    """
    rng = np.random.default_rng(3)
    folder = root / "plain"
    folder.mkdir()
    having = {f"u{user}": rng.choice(N_ITEMS, 8, replace=False) for user in range(N_USERS)} | (more or {})
    lines = [f"{user}\ti{item}\t{rng.integers(1, 6)}" for user, items in having.items() for item in items]
    (folder / "plain.inter").write_text("\n".join(["user_id:token\titem_id:token\trating:float", *lines]) + "\n")
    if unseen or features:
        items = [f"i{item}" for item in range(N_ITEMS + unseen)]
        (folder / "plain.item").write_text("\n".join(["item_id:token", *items]) + "\n")
    if features:
        np.save(folder / "plain.image.npy", rng.normal(size=(N_ITEMS + unseen, 6)).astype(np.float32))
    return folder
