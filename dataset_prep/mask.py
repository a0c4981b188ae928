"""Draw a mask over the items of a prepared dataset and write it as a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from recbole_mambarec_common.errors import UserError
from recbole_mambarec_common.masks import DEFAULT_SEED, Rule, draw, popularity_groups, write_mask
from recbole_mambarec_common.terminal import table

from .folder import interaction_files, read_card, read_items, rows


def draw_mask(folder: str | Path, rule: Rule, out: str | Path | None = None) -> tuple[Path, str]:
    """Write a mask; returns its path and how many items lack what, as text.

    Args:
        folder: of the dataset.
        rule: how it is drawn.
        out: the file; None: ``<name>.missing-<rate>.csv`` in the folder, with kinds and seed if they are not the usual.

    Raises:
        UserError: the folder is not a prepared dataset, the rule does not fit its modalities, or it hides nothing or
            everything.
    """
    folder = Path(folder)
    card = read_card(folder)
    modalities, items = list(card["modalities"]), read_items(folder, card["name"])["item_id"]
    mask = draw(rule, modalities, popularity_groups(_training_counts(folder, card, items)))
    hidden = np.stack(list(mask.values()))
    if not hidden.any():
        raise UserError(f"a mask of rate {rule.rate:g} hides nothing: give a rate above 0")
    if hidden.all():
        raise UserError(f"a mask of rate {rule.rate:g} would hide every modality of every item: give a rate below 1")
    more = "".join(f"-{kind}" for kind in rule.kinds or ()) + (f"-seed{rule.seed}" if rule.seed != DEFAULT_SEED else "")
    path = Path(out) if out else folder / f"{card['name']}.missing-{rule.rate:g}{more}.csv"
    write_mask(path, mask, items, str(rule))
    return path, _summary(modalities, hidden)


def _training_counts(folder: Path, card: dict, items: list[str]) -> np.ndarray:
    """Training interactions of each item (all interactions of a dataset without a split)."""
    row_of = {item: row for row, item in enumerate(items)}
    lines = rows(folder / interaction_files(card)[0])
    next(lines, None)
    return np.bincount([row_of[item] for _, item, *_ in lines], minlength=len(items))


def _summary(modalities: list[str], hidden: np.ndarray) -> str:
    """How many items lack each combination of modalities; ``hidden``: bool ``(modalities, items)``."""
    kinds, counts = np.unique(hidden.T, axis=0, return_counts=True)
    lines = []
    for kind, count in zip(kinds, counts):
        lacking = " + ".join(name for name, lacks in zip(modalities, kind) if lacks)
        lines.append([lacking or "nothing", f"{count:,}", f"{count / hidden.shape[1]:.1%}"])
    return table(["lacking", "items", "share"], lines)
