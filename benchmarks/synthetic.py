"""Generated datasets of any size, in the proportions of the Amazon ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from recbole_mambarec_common.files import atomic_folder

# (users, items, interactions): Amazon Baby, Sports and Electronics, then larger ones in the proportions of Electronics
BABY, SPORTS, ELECTRONICS = (19_445, 7_050, 160_792), (35_598, 18_357, 296_337), (192_403, 63_001, 1_689_188)
WIDTHS = {"image": 4096, "text": 384}
_BLOCK = 4096


def sizes(items: int) -> tuple[int, int, int]:
    """(users, items, interactions) of a catalogue: one of the Amazon ones, or one in the proportions of Electronics."""
    for known in (BABY, SPORTS, ELECTRONICS):
        if known[1] == items:
            return known
    users, base, interactions = ELECTRONICS
    return users * items // base, items, interactions * items // base


def features(n_items: int, width: int, seed: int, dtype: str = "float32", rank: int = 64) -> np.ndarray:
    """Non-negative rows around ``n_items / 50`` centres in a space of ``rank`` decaying axes, plus noise in all axes.

    Encoders give such rows: few axes carry most of the variance, and items come in groups. Independent normal values,
    among which every item is as far from every other, have no neighbours worth the name.
    """
    rng = np.random.default_rng(seed)
    scale = (1.0 / np.sqrt(1.0 + np.arange(rank))).astype(np.float32)
    axes = rng.normal(size=(rank, width)).astype(np.float32) * scale[:, None]
    centres = rng.normal(size=(max(1, n_items // 50), rank)).astype(np.float32)
    matrix = np.empty((n_items, width), dtype=dtype)
    for start in range(0, n_items, _BLOCK):
        rows = slice(start, min(start + _BLOCK, n_items))
        count = rows.stop - rows.start
        point = centres[rng.integers(0, len(centres), count)] + 0.5 * rng.normal(size=(count, rank)).astype(np.float32)
        noise = 0.3 * rng.standard_normal((count, width), dtype=np.float32)
        matrix[rows] = np.maximum(point @ axes + noise, 0.0)
    return matrix


def write_dataset(
    folder: Path, size: tuple[int, int, int], widths: dict[str, int] | None = None, dtype: str = "float32"
) -> Path:
    """A prepared dataset at ``folder``: popular items, users with five items or more, one of which each is validation
    and one test, as in the public splits, where nearly every user is evaluated.

    Args:
        size: users, items, interactions (repeated pairs are dropped, so there are a few less).
        widths: modality -> width; :data:`WIDTHS` by default.
    """
    users, items, interactions = size
    rng = np.random.default_rng(0)
    who = np.concatenate([np.repeat(np.arange(users), 5), rng.integers(0, users, max(0, interactions - 5 * users))])
    what = np.concatenate([rng.permutation(items), (items * rng.random(len(who) - items) ** 2).astype(np.int64)])
    pairs = rng.permutation(np.unique(rng.permutation(who) * items + what))
    pairs = pairs[np.argsort(pairs // items, kind="stable")]
    first = np.searchsorted(pairs // items, np.arange(users))
    part = np.zeros(len(pairs), dtype=np.int8)
    part[first], part[first + 1] = 2, 1
    with atomic_folder(folder) as temporary:
        name = folder.name
        for number, split in enumerate(("train", "valid", "test")):
            lines = "\n".join(f"u{pair // items}\ti{pair % items}" for pair in pairs[part == number].tolist())
            text = f"user_id:token\titem_id:token\n{lines}\n"
            (temporary / f"{name}.{split}.inter").write_text(text, encoding="utf-8")
        listed = "".join(f"i{item}\n" for item in range(items))
        (temporary / f"{name}.item").write_text(f"item_id:token\n{listed}", encoding="utf-8")
        for seed, (modality, width) in enumerate((WIDTHS if widths is None else widths).items()):
            np.save(temporary / f"{name}.{modality}.npy", features(items, width, seed, dtype))
    return folder
