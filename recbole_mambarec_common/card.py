"""The card of a prepared dataset: ``dataset.json``, written by ``dataset_prep`` and read by both packages."""

from __future__ import annotations

import json
from pathlib import Path

from recbole_mambarec_common.errors import UserError
from recbole_mambarec_common.files import what_it_is

CARD_NAME = "dataset.json"
#: What the entry ``format`` of every card starts with; a version number follows.
CARD_FORMAT = "recbole_mambarec.dataset/"


def read_card(folder: Path) -> dict | None:
    """The contents of ``dataset.json``, or None where there is none.

    Raises:
        UserError: the file is not a card of a format that this version reads.
    """
    path = folder / CARD_NAME
    if not path.is_file():
        return None
    try:
        card = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, OSError, RecursionError) as error:
        what = what_it_is(path)
        if what and what != "JSON text":
            raise UserError(f"{path} is {what}") from None
        raise UserError(f"{path} is not readable JSON ({error}): prepare the dataset again or remove it") from None
    if not isinstance(card, dict) or not str(card.get("format", "")).startswith(CARD_FORMAT):
        raise UserError(f"{path} is not a dataset card (its format is not '{CARD_FORMAT}...'): remove or rename it")
    return card
