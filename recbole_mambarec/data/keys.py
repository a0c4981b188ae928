"""Configuration keys that decide which files and columns of a dataset are read."""

from __future__ import annotations

from recbole_mambarec.errors import UserError
from recbole_mambarec.value_checks import list_of_names

# RecBole's keys of the form {suffix of a file: columns}
_COLUMNS_OF_FILES = ("load_col", "unload_col", "unused_col")


def check_data_keys(given: dict) -> None:
    """Bring lists of names into the form that RecBole expects, in place, and refuse invalid values.

    A command line gives ``[part1,part2,part3]`` as text, in which RecBole would take each letter for a name.

    Raises:
        UserError: a key has a value of another type.
    """
    for key in ("benchmark_filename", "additional_feat_suffix"):
        if key in given:
            given[key] = list_of_names(key, given[key])
    parts = given.get("benchmark_filename")
    if parts is not None and len(parts) != 3:
        raise UserError(
            f"benchmark_filename must name three parts, to train, validate and test on, e.g. [train, valid, test], got "
            f"{parts}"
        )
    for key in _COLUMNS_OF_FILES:
        columns = given.get(key)
        if columns is None:
            continue
        if not isinstance(columns, dict):
            raise UserError(
                f"{key} must map kinds of files to columns, e.g. {{'inter': ['user_id', 'item_id'], 'item': '*'}}, got "
                f"{columns!r}"
            )
        given[key] = {suffix: _columns(f"{key}: {suffix}", names) for suffix, names in columns.items()}


def _columns(key: str, names: object) -> list[str] | str:
    return names if names == "*" else list_of_names(key, [] if names is None else names)
