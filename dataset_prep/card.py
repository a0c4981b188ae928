"""``dataset.json``, the card of a prepared dataset, and its summary for the terminal."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from recbole_mambarec_command import __version__
from recbole_mambarec_command.requirements import distribution_of, version_of
from recbole_mambarec_common.card import CARD_FORMAT
from recbole_mambarec_common.files import sha256_file
from recbole_mambarec_common.terminal import table

from .tables import SPLITS, Interactions

FORMAT = f"{CARD_FORMAT}1"


def describe_file(path: Path) -> dict:
    """Size in bytes and SHA-256 of a file: what the card says of its sources and its own files."""
    return {"bytes": path.stat().st_size, "sha256": sha256_file(path)}


def describe_source(path: Path) -> dict:
    """As :func:`describe_file`, with the name of the file (without its folder, which differs between machines)."""
    return {"name": path.name, **describe_file(path)}


def count(interactions: Interactions, n_items: int) -> dict:
    """The counts of the card; ``n_items`` is the size of the catalogue.

    ``density`` is interactions / (users x items). ``users_without_training_item`` counts users that occur,
    ``items_without_training_user`` items of the whole catalogue; both are absent if there is no split.
    """
    distinct = interactions.counts()
    users = distinct["users"]
    counts: dict = {
        "users": users,
        "items": n_items,
        "items_without_interaction": n_items - distinct["items"],
        "interactions": len(interactions),
        "density": round(len(interactions) / (users * n_items), 8) if users and n_items else 0.0,
    }
    if interactions.split is not None:
        training = interactions.split == 0
        counts["per_split"] = {
            name: int(np.count_nonzero(interactions.split == number)) for number, name in enumerate(SPLITS)
        }
        counts["users_without_training_item"] = users - len(np.unique(interactions.users[training]))
        counts["items_without_training_user"] = n_items - len(np.unique(interactions.items[training]))
    return counts


def versions(*modules: str) -> dict[str, str]:
    """Versions of what the bytes of a prepared dataset depend on: this package, numpy and ``modules``."""
    # from metadata, because importing scikit-learn takes seconds
    others = {module: version_of(distribution_of(module)) for module in ("numpy", *modules)}
    return {"recbole_mambarec": __version__, **others}


def summary(card: dict) -> str:
    """The card as text: a table as in the papers, then split, steps, modalities, and what was left out."""
    counts = card["counts"]
    parts = [
        table(
            ["dataset", "users", "items", "interactions", "density"],
            [
                [
                    card["name"],
                    f"{counts['users']:,}",
                    f"{counts['items']:,}",
                    f"{counts['interactions']:,}",
                    f"{100 * counts['density']:.3f} %",
                ]
            ],
        )
    ]
    if "per_split" in counts:
        parts.append("split: " + ", ".join(f"{name} {n:,}" for name, n in counts["per_split"].items()))
    if card.get("steps"):
        rows = [
            [step["step"], *(f"{step[key]:,}" for key in ("users", "items", "interactions"))] for step in card["steps"]
        ]
        parts.append(table(["after step", "users", "items", "interactions"], rows))
    if card["modalities"]:
        rows = []
        for name, facts in card["modalities"].items():
            n_rows, width = facts["shape"]
            rows.append(
                [
                    name,
                    f"{n_rows:,} x {width:,}",
                    facts["dtype"],
                    f"{facts['missing']:,} ({100 * facts['missing'] / max(n_rows, 1):.1f} %)",
                    facts.get("encoder", "as given"),
                ]
            )
        parts.append(table(["modality", "shape", "type", "items without", "made by"], rows))
    notes = [f"{reason}: {n:,}" for reason, n in card.get("dropped", {}).items() if n]
    if notes:
        parts.append("left out:\n" + "\n".join(f"  {note}" for note in notes))
    for key, sentence in (
        (
            "users_without_training_item",
            "users have no training item, so nothing can be learnt about them",
        ),
        ("items_without_training_user", "items occur in no training interaction"),
    ):
        if counts.get(key):
            parts.append(f"note: {counts[key]:,} {sentence}")
    notes = list(card.get("notes", []))
    for facts in card["modalities"].values():
        notes += facts.get("notes", [])
    parts.extend(f"note: {note}" for note in notes)
    return "\n\n".join(parts)
