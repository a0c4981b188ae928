"""What the ``.user`` file says of users, and how similar users are by it (``cold_users: features``).

The file is read here and not by RecBole. Columns that RecBole loads (``load_col``) are joined to every batch, their
missing numbers become the mean, and users without any interaction get ids, which would change what is drawn for the
others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
import scipy.sparse as sp

from recbole_mambarec.data.atomic import Layout, first_lines, typed_columns
from recbole_mambarec.data.folder import read_atomic
from recbole_mambarec.errors import UserError
from recbole_mambarec_common.ids import LEAST_SHARE, mismatch

# digits of a similarity that count: users who are equally similar must not differ by rounding
_DIGITS = 9


class Column(Protocol):
    """Values of the users in one column.

    Attributes:
        codes: int64 ``(n_users,)``: equal for equal values, -1 where there is none.
    """

    @property
    def codes(self) -> np.ndarray: ...

    def similarities(self, of: np.ndarray, among: np.ndarray) -> np.ndarray:
        """From 0 to 1, between each of some users and each of others, float64 ``(len(of), len(among))``.

        It is 0 where one of the two has no value.
        """
        ...


@dataclass(frozen=True)
class Tokens:
    """A column of the type token: users are similar if they have the same one."""

    codes: np.ndarray

    def similarities(self, of: np.ndarray, among: np.ndarray) -> np.ndarray:
        """See :meth:`Column.similarities`."""
        mine = self.codes[of][:, None]
        return ((mine == self.codes[among]) & (mine >= 0)).astype(np.float64)


@dataclass(frozen=True)
class TokenSets:
    """A column of the type token_seq: the similarity is the cosine of the multi-hot rows.

    Attributes:
        rows: multi-hot, divided by their lengths: float64 ``(n_users, n_tokens)``.
    """

    codes: np.ndarray
    rows: sp.csr_array

    def similarities(self, of: np.ndarray, among: np.ndarray) -> np.ndarray:
        """See :meth:`Column.similarities`."""
        return (self.rows[of] @ self.rows[among].T).toarray()


@dataclass(frozen=True)
class Numbers:
    """A column of the type float: the similarity is 1 / (1 + the distance in standard deviations).

    Attributes:
        values: in standard deviations, float64 ``(n_users,)``; NaN where there is none.
    """

    codes: np.ndarray
    values: np.ndarray

    def similarities(self, of: np.ndarray, among: np.ndarray) -> np.ndarray:
        """See :meth:`Column.similarities`."""
        return np.nan_to_num(1.0 / (1.0 + np.abs(self.values[of][:, None] - self.values[among])))


@dataclass(frozen=True)
class UserFeatures:
    """The columns by which users are compared.

    Attributes:
        columns: by name; users are numbered from 0.
    """

    columns: Mapping[str, Column]

    @property
    def codes(self) -> np.ndarray:
        """The codes of all columns, int64 ``(n_users, n_columns)``: users with equal rows are alike."""
        return np.stack([column.codes for column in self.columns.values()], axis=1)

    def similarities(self, of: np.ndarray, among: np.ndarray) -> np.ndarray:
        """The sum over the columns, float64 ``(len(of), len(among))``."""
        total = np.zeros((len(of), len(among)))
        for column in self.columns.values():
            total += column.similarities(of, among)
        return total.round(_DIGITS)


def read_user_features(config, folder: Path, name: str, users: Sequence[str]) -> UserFeatures:
    """The columns of ``<name>.user`` that the key ``user_features`` names; where it is unset, all but the id.

    Columns of the type float_seq cannot be compared, and are left out where the key is unset.

    Args:
        users: raw ids in the order of the result. Somebody whom the file does not list has no values; of somebody
            listed twice, the first line counts.

    Raises:
        UserError: there is no such file or column, it cannot be compared or read, or the file lists none of the users.
    """
    path, layout = folder / f"{name}.user", Layout.of(config)
    types = _types(path, layout)
    wanted = config["user_features"]
    if wanted is None:
        wanted = [column for column, kind in types.items() if kind in _MAKE]
    there = ", ".join(types) or "none"
    unknown = [column for column in wanted if column not in types]
    if unknown:
        raise UserError(f"user_features: {path} has no column '{unknown[0]}'; besides the id, it has {there}")
    lists = [column for column in wanted if types[column] not in _MAKE]
    if lists:
        raise UserError(
            f"user_features: '{lists[0]}' is of the type {types[lists[0]]}, by which users are not compared: name "
            f"columns of the types {', '.join(_MAKE)}"
        )
    if not wanted:
        raise UserError(
            f"cold_users 'features' needs a column of the types {', '.join(_MAKE)} in {path} (besides the id, it has "
            f"{there}): add one and name it in user_features, or use cold_users=popularity"
        )
    table = read_atomic(path, layout, missing=True).drop_duplicates(layout.user).set_index(layout.user)
    listed = set(table.index)
    if sum(user not in listed for user in users) >= LEAST_SHARE * len(users):
        wrong = mismatch(users, listed, "user", "the interactions", str(path))
        if wrong:
            raise UserError(wrong)
    table = table.reindex(users)
    separator = config["seq_separator"] or " "
    return UserFeatures({c: _MAKE[types[c]](table[c], f"{path}: '{c}'", separator) for c in wanted})


def _types(path: Path, layout: Layout) -> dict[str, str]:
    """Column -> type, of all columns but the id."""
    if not path.is_file():
        raise UserError(
            f"cold_users 'features' compares users by the columns of {path}, which does not exist: add it, or use "
            "cold_users=popularity"
        )
    header, _ = first_lines(path, layout)
    if layout.user not in typed_columns(path, header, layout):
        raise UserError(f"{path} has no column '{layout.user}': name the id column with USER_ID_FIELD")
    types = dict(field.split(":", 1) for field in header.split(layout.separator))
    return {column: kind for column, kind in types.items() if column != layout.user}


def _tokens(values: pd.Series, where: str, separator: str) -> Tokens:
    return Tokens(_codes(values))


def _token_sets(values: pd.Series, where: str, separator: str) -> TokenSets:
    sets = [sorted({*filter(None, text.split(separator))}) if isinstance(text, str) else [] for text in values]
    sizes = np.array([len(tokens) for tokens in sets])
    tokens, columns = np.unique([token for each in sets for token in each], return_inverse=True)
    lengths = np.repeat(np.sqrt(np.maximum(sizes, 1)), sizes)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    rows = sp.csr_array((1.0 / lengths, columns, starts), shape=(len(sets), len(tokens)))
    return TokenSets(_codes(pd.Series([separator.join(each) or None for each in sets])), rows)


def _numbers(values: pd.Series, where: str, separator: str) -> Numbers:
    numbers = pd.to_numeric(values, errors="coerce").to_numpy(dtype=np.float64, copy=True)
    other = values[np.isnan(numbers) & values.notna().to_numpy()]
    if len(other):
        raise UserError(f"{where} is declared as float and has the value '{other.iloc[0]}': correct it, or write token")
    numbers[~np.isfinite(numbers)] = np.nan
    found = numbers[np.isfinite(numbers)]
    deviation = found.std() if len(found) else 0.0
    return Numbers(_codes(pd.Series(numbers)), numbers / (deviation or 1.0))


def _codes(values: pd.Series) -> np.ndarray:
    return pd.factorize(values)[0].astype(np.int64)


# the types of columns that can be compared
_MAKE: dict[str, Callable[[pd.Series, str, str], Column]] = {
    "token": _tokens,
    "token_seq": _token_sets,
    "float": _numbers,
}
