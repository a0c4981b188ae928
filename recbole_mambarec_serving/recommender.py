"""Recommendations by raw ids, from whatever scores users for items."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, overload

import numpy as np
import scipy.sparse as sp

from recbole_mambarec_common.errors import UserError
from recbole_mambarec_serving.approximate import ItemIndex
from recbole_mambarec_serving.catalogue import Catalogue
from recbole_mambarec_serving.features import Features, MoreFeatures, check_new, cosines, means_of_nearest
from recbole_mambarec_serving.ids import Ids
from recbole_mambarec_serving.ranking import BLOCK_VALUES, largest
from recbole_mambarec_serving.scoring import InnerProducts, Scoring, WithNewItems
from recbole_mambarec_serving.types import Explanation, ItemInfo, Ranked, Recommendation

# users whom an index is asked for at a time
_SEARCHED_USERS = 256
# known items whose mean a new item is; the default of impute_neighbours
NEIGHBOURS = 10
#: bit of an entry of ``seen`` -> the part of the split
SEEN_BITS = {"train": 1, "valid": 2, "test": 4}
#: by which :meth:`Recommender.similar_items` compares items unless a modality is named
BY_MODEL = "model"


class Recommender:
    """Ranks a catalogue for users, by raw ids. Its methods change nothing, so that several threads may share it.

    Args:
        name: of the model.
        scoring: scores by row and column.
        users: raw ids of the rows.
        catalogue: the items of the columns.
        seen: what each user has, uint8 ``(n_users, n_items)``, bits as in :data:`SEEN_BITS`.
        features: by which items can be compared; None if they are not at hand.
        card: what is known of the model, as plain values.

    Attributes:
        index: for approximate search; None if there is none.
    """

    def __init__(
        self,
        name: str,
        scoring: Scoring,
        users: Ids,
        catalogue: Catalogue,
        seen: sp.csr_array,
        features: Features | None = None,
        card: dict[str, Any] | None = None,
    ) -> None:
        self.name, self.users, self.catalogue, self.features = name, users, catalogue, features
        self.card: dict[str, Any] = card or {}
        self.scoring, self.seen = scoring, seen
        self.index: ItemIndex | None = None

    @classmethod
    def load(
        cls, path: str | Path, data_path: str | Path | None = None, changed: Mapping[str, object] | None = None
    ) -> Recommender:
        """Load a bundle, the folder that ``recbole-mambarec export`` writes. No code in it is run.

        Args:
            data_path, changed: are for checkpoints, which ``recbole_mambarec.Recommender`` loads, too.

        Raises:
            UserError: there is no such folder, a file in it is missing or damaged, or a later version has written it;
                or something is to be changed.
        """
        if changed:
            raise UserError(
                f"{path} is a bundle, which has the {next(iter(changed))} that it was exported with: give another "
                "value to recbole-mambarec export"
            )
        from recbole_mambarec_serving.bundle import read_bundle  # which builds a Recommender

        return read_bundle(path, cls)

    def __len__(self) -> int:
        """Number of items."""
        return len(self.catalogue)

    @property
    def items(self) -> Ids:
        """Raw ids of the items."""
        return self.catalogue.ids

    @property
    def fold_in_by(self) -> str | None:
        """How :meth:`recommend_for` scores a new user, as the end of a sentence; None if it cannot."""
        return self.scoring.fold_in_by

    # ------------------------------------------------------------------ known users

    @overload  # a str is an iterable of str, too
    def recommend(  # type: ignore[overload-overlap]
        self,
        users: str,
        k: int = 20,
        *,
        exclude_seen: bool | str = True,
        among: Iterable[str] | None = None,
        filter: Callable[[ItemInfo], bool] | None = None,
        approximate: bool = False,
    ) -> list[Recommendation]: ...
    @overload
    def recommend(
        self,
        users: Iterable[str],
        k: int = 20,
        *,
        exclude_seen: bool | str = True,
        among: Iterable[str] | None = None,
        filter: Callable[[ItemInfo], bool] | None = None,
        approximate: bool = False,
    ) -> Iterator[tuple[str, list[Recommendation]]]: ...
    def recommend(
        self,
        users: str | Iterable[str],
        k: int = 20,
        *,
        exclude_seen: bool | str = True,
        among: Iterable[str] | None = None,
        filter: Callable[[ItemInfo], bool] | None = None,
        approximate: bool = False,
    ) -> list[Recommendation] | Iterator[tuple[str, list[Recommendation]]]:
        """The best items of one user, or of many.

        Items with equal scores are in the order of the catalogue. A list is shorter than ``k`` where fewer items are
        left for the user.

        Args:
            users: one raw id; or several, which are read and ranked block by block, so that there may be any number.
            exclude_seen: leave out what the user has in the data: True for all of it, or a mask under which models are
                evaluated, ``train`` or ``train+valid``.
            among: rank only these items.
            filter: rank only the items for which this is true; it is asked once for each item of the catalogue.
            approximate: search the index of a bundle that was exported with one; a list may then miss an item
                (``card["ann"]`` says how often), and equal scores at its end may be others. Not with ``among`` and
                ``filter``.

        Returns:
            A list for one user; for several, an iterator of (user, list).

        Raises:
            UnknownUser: the model was not trained on the user; :meth:`recommend_for` needs no training.
            UnknownItem: ``among`` names an item that does not exist.
            UserError: ``k`` is not from 1 to the number of items.
        """
        if isinstance(users, str):
            (ranked,) = self.ranked(
                [users], k, exclude_seen=exclude_seen, among=among, filter=filter, approximate=approximate
            )
            return self.lists(ranked)[0]
        blocks = self.ranked(users, k, exclude_seen=exclude_seen, among=among, filter=filter, approximate=approximate)
        return ((str(user), found) for block in blocks for user, found in zip(block.users, self.lists(block)))

    def ranked(
        self,
        users: Iterable[str],
        k: int = 20,
        *,
        exclude_seen: bool | str = True,
        among: Iterable[str] | None = None,
        filter: Callable[[ItemInfo], bool] | None = None,
        approximate: bool = False,
    ) -> Iterator[Ranked]:
        """Like :meth:`recommend` for many users, as arrays, block by block."""
        self._check_k(k)
        bits, allowed = _bits(exclude_seen), self._allowed(among, filter)
        if approximate:
            if allowed is not None:
                raise UserError("approximate search knows no among and filter: leave them out, or search exactly")
            if self.index is None:
                raise UserError(
                    f"no index for approximate search of {self.name} is here: export a bundle with --ann, and install "
                    "the extra [ann], with which it is read"
                )
            return self._found(self.index, iter(users), k, bits)
        return self._blocks(iter(users), k, bits, allowed)

    def _found(self, index: ItemIndex, users: Iterator[str], k: int, bits: int) -> Iterator[Ranked]:
        assert isinstance(self.scoring, InnerProducts)  # nothing else has an index
        while block := list(islice(users, _SEARCHED_USERS)):
            rows = self.users.positions(block)
            yield Ranked(np.asarray(block, dtype=object), *index.ranked(self.scoring, rows, k, self._seen(rows, bits)))

    def _blocks(self, users: Iterator[str], k: int, bits: int, allowed: np.ndarray | None) -> Iterator[Ranked]:
        step = max(1, BLOCK_VALUES // max(1, len(self)))
        while block := list(islice(users, step)):
            rows = self.users.positions(block)
            scores = self.scoring.scores(rows)
            left_out = self._mask(scores, self._seen(rows, bits), allowed)
            items, values = largest(scores, k)
            if self.scoring.depth is not None:
                self._check_complete(items, len(self) - left_out)
            yield Ranked(np.asarray(block, dtype=object), items, values)

    def _seen(self, rows: np.ndarray, bits: int) -> sp.csr_array | None:
        if not bits:
            return None
        seen = self.seen[rows]
        seen.data = seen.data & bits
        return seen

    def _mask(self, scores: np.ndarray, seen: sp.csr_array | None, allowed: np.ndarray | None) -> np.ndarray:
        """Make scores of items that are not ranked minus infinity; returns their number for each user."""
        if np.isnan(scores).any():
            raise UserError(f"{self.name} gives scores that are no numbers: train it again")
        masked = np.zeros(scores.shape, dtype=bool)
        if seen is not None:
            rows = np.repeat(np.arange(len(scores)), np.diff(seen.indptr))
            masked[rows[seen.data > 0], seen.indices[seen.data > 0]] = True
        if allowed is not None:
            masked[:, ~allowed] = True
        scores[masked] = -np.inf
        return masked.sum(axis=1)

    def _check_complete(self, items: np.ndarray, eligible: np.ndarray) -> None:
        """Refuse lists that are short only because no more scores are known."""
        if ((items >= 0).sum(axis=1) < np.minimum(items.shape[1], eligible)).any():
            raise UserError(
                f"only the {self.scoring.depth} best items of each user are known of {self.name}, too few for k="
                f"{items.shape[1]}: ask for fewer or among more items, or export with a larger depth"
            )

    def lists(self, ranked: Ranked) -> list[list[Recommendation]]:
        """The lists of a block, without the places that are empty."""
        tokens, title = self.items.tokens, self.catalogue.title
        return [
            [Recommendation(str(tokens[i]), float(s), title(i)) for i, s in zip(items, scores) if i >= 0]
            for items, scores in zip(ranked.items.tolist(), ranked.scores.tolist())
        ]

    def _check_k(self, k: int) -> None:
        if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or not 1 <= k <= len(self):
            raise UserError(f"k must be a whole number from 1 to {len(self)}, the number of items, got {k!r}")

    def _allowed(self, among: Iterable[str] | None, filter: Callable[[ItemInfo], bool] | None) -> np.ndarray | None:
        """Which items may be ranked, bool ``(n_items,)``; None for all."""
        if among is None and filter is None:
            return None
        allowed = np.ones(len(self), dtype=bool)
        if among is not None:
            allowed[:] = False
            allowed[self.items.positions([among] if isinstance(among, str) else among)] = True
        if filter is not None:
            for item in np.flatnonzero(allowed):
                allowed[item] = bool(filter(self.catalogue.info(int(item))))
        return allowed

    # ------------------------------------------------------------------ items, and users by their items

    def similar_items(self, item: str, k: int = 10, by: str = BY_MODEL) -> list[Recommendation]:
        """The items that are most similar to one, without itself.

        Args:
            by: ``model``: by what the model has learnt, i.e. the cosine of embeddings, or the weights between items of
                a closed form. The name of a modality: by the cosine of the features; items without it are left out.

        Raises:
            UnknownItem: there is no such item.
            UserError: ``k`` is too large; there is no such modality, or the item lacks it; or the model does not
                compare items.
        """
        (ranked,) = self.similar([item], k, by)
        if by != BY_MODEL and by not in self.item(item).modalities:
            raise UserError(f"item '{item}' lacks the modality {by}: compare by another")
        return self.lists(ranked)[0]

    def similar(self, items: Iterable[str], k: int = 10, by: str = BY_MODEL) -> Iterator[Ranked]:
        """Like :meth:`similar_items` for many items, as arrays, block by block; an item stands for the user there.

        An item that lacks the modality has an empty list here.
        """
        self._check_k(k)
        if by != BY_MODEL and by not in self.catalogue.modalities:
            names = ", ".join([BY_MODEL, *self.catalogue.modalities])
            raise UserError(f"items cannot be compared by '{by}': use one of {names}")
        return self._similar_blocks(iter(items), k, by)

    def _similar_blocks(self, items: Iterator[str], k: int, by: str) -> Iterator[Ranked]:
        step = max(1, BLOCK_VALUES // len(self))
        while block := list(islice(items, step)):
            columns = self.items.positions(block)
            scores = self.scoring.similar(columns) if by == BY_MODEL else self._cosines(columns, by)
            scores[np.arange(len(columns)), columns] = -np.inf
            yield Ranked(np.asarray(block, dtype=object), *largest(scores, k))

    def _cosines(self, columns: np.ndarray, modality: str) -> np.ndarray:
        features, there = self._features(), self.catalogue.modalities[modality]
        own = np.concatenate([features.rows(modality, column, column + 1) for column in columns.tolist()])
        scores = cosines(features, modality, own, len(self))
        scores[~there[columns]] = -np.inf
        scores[:, ~there] = -np.inf
        return scores

    def _features(self) -> Features:
        if self.features is None:
            raise UserError(f"the features of the items of {self.name} are not at hand: export them with the bundle")
        return self.features

    def recommend_for(
        self,
        items: Sequence[str],
        k: int = 20,
        *,
        exclude_seen: bool = True,
        among: Iterable[str] | None = None,
        filter: Callable[[ItemInfo], bool] | None = None,
    ) -> list[Recommendation]:
        """The best items for a user of whom only some items are known: fold-in.

        :attr:`fold_in_by` says how. For closed forms, the scores are what the model itself would give.

        Args:
            items: of the user; the order and repetitions have no meaning.
            exclude_seen: leave these items out.
            k, among, filter: as for :meth:`recommend`.

        Raises:
            UnknownItem: an item is unknown.
            UserError: there are no items, ``k`` is too large, or the model does not know other users than its own.
        """
        self._check_k(k)
        history = self._history(items)
        allowed = self._allowed(among, filter)
        scores = self.scoring.fold_in(history)
        self._mask(scores, history if exclude_seen else None, allowed)
        found, values = largest(scores, k)
        return self.lists(Ranked(np.array([""], dtype=object), found, values))[0]

    def _history(self, items: Sequence[str]) -> sp.csr_array:
        columns = np.unique(self.items.positions([items] if isinstance(items, str) else items))
        if not len(columns):
            raise UserError("a user is folded in by their items: name at least one")
        values = np.ones(len(columns), dtype=np.float32)
        return sp.csr_array((values, columns, [0, len(columns)]), shape=(1, len(self)))

    # ------------------------------------------------------------------ new items

    def add_items(self, features: Mapping[str, np.ndarray], ids: Sequence[str]) -> Recommender:
        """A recommender that knows more items, by their features and without training.

        A new item is the mean of the 10 known items with training interactions that are most similar to it (by the
        cosine of the features, averaged over the modalities that both have): of their embeddings, their weights or,
        whatever the model is, their scores. It is a new object, so that others can go on using this one meanwhile.

        Args:
            features: modality -> array ``(n, width)``; a row of NaN where an item lacks the modality.
            ids: raw ids of the new items, ``(n,)``.

        Raises:
            UserError: an id is taken or named twice, the features do not fit, or they are not at hand.
        """
        ids = [str(token) for token in ids]
        if len(set(ids)) < len(ids) or not ids:
            raise UserError("new items need distinct ids, one at least")
        taken = [token for token in ids if token in self.items]
        if taken:
            raise UserError(f"item '{taken[0]}' exists already: give new items other ids")
        if self.scoring.depth is not None:
            raise UserError(f"new items cannot be scored by {self.name}, of which only lists of known items are here")
        known, n_items = self._features(), len(self)
        given = check_new(known, features, len(ids))
        means = means_of_nearest(known, n_items, given, self.catalogue.popularity > 0, NEIGHBOURS)
        return Recommender(
            self.name,
            WithNewItems(self.scoring, means),
            self.users,
            self.catalogue.with_items(ids, {m: np.asarray(rows.any(axis=1)) for m, rows in given.items()}),
            sp.csr_array((self.seen.data, self.seen.indices, self.seen.indptr), (len(self.users), n_items + len(ids))),
            MoreFeatures(known, n_items, given, len(ids)),
            self.card,
        )

    # ------------------------------------------------------------------ why, what

    def explain(self, user: str, item: str) -> Explanation:
        """Which of the user's training items carry the score of an item, and in which modalities it resembles them.

        Raises:
            UnknownUser, UnknownItem: the user or the item is unknown.
            UserError: only lists are known of the model.
        """
        (row,), (column,) = self.users.positions([user]), self.items.positions([item])
        mine = self.seen[[row]]
        history = mine.indices[mine.data & SEEN_BITS["train"] > 0].astype(np.int64)
        score = float(self.scoring.scores(np.array([row]))[0, column])
        if not len(history):
            return Explanation(score, [])
        effects = self.scoring.effects(history, int(column), len(history))
        whole = float(np.abs(effects).sum()) or 1.0
        order = np.argsort(-effects, kind="stable")
        by_item = [(str(self.items.tokens[history[place]]), float(effects[place]) / whole) for place in order]
        return Explanation(score, by_item, self._by_modality(history, int(column)), self.scoring.is_exact)

    def _by_modality(self, history: np.ndarray, column: int) -> dict[str, float]:
        """Mean cosine of the item with the user's items in each modality, negative ones as 0, scaled to a sum of 1."""
        if self.features is None:
            return {}
        found = {}
        for modality, there in self.catalogue.modalities.items():
            own = [int(place) for place in history if there[place] and place != column]
            if there[column] and own:
                rows = np.concatenate([self.features.rows(modality, place, place + 1) for place in own])
                target = self.features.rows(modality, column, column + 1)[0]
                found[modality] = max(0.0, float((rows @ target).mean()))
        whole = sum(found.values())
        return {modality: value / whole for modality, value in found.items()} if whole else {}

    def item(self, item: str) -> ItemInfo:
        """What is known of an item.

        Raises:
            UnknownItem: there is no such item.
        """
        return self.catalogue.info(int(self.items.positions([item])[0]))

    def search_items(self, text: str, limit: int = 20) -> list[ItemInfo]:
        """Items whose id or title contains the text, in whatever case; the best matches and most popular first."""
        return [self.catalogue.info(place) for place in self.catalogue.search(text, limit)]

    def search_users(self, text: str, limit: int = 20) -> list[str]:
        """Users whose id contains the text, in whatever case; those whose id begins with it first."""
        wanted, begins, contain = text.strip().casefold(), [], []
        for token in self.users.tokens.tolist():
            folded = token.casefold()
            if folded.startswith(wanted):
                begins.append(token)
                if len(begins) >= limit:
                    break
            elif wanted in folded:
                contain.append(token)
        return [*begins, *contain][:limit]


def _bits(exclude_seen: bool | str) -> int:
    """The bits of ``seen`` that a value of ``exclude_seen`` means."""
    if isinstance(exclude_seen, str):
        parts = exclude_seen.split("+")
        if not set(parts) <= set(SEEN_BITS):
            raise UserError(
                f"exclude_seen must be true, false or parts of the split such as train+valid, got '{exclude_seen}'"
            )
    else:
        parts = list(SEEN_BITS) if exclude_seen else []
    return sum(SEEN_BITS[part] for part in set(parts))
