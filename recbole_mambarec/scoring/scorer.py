"""What scores blocks of users for all items: the protocol, and the models of RecBole and this package as such."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from recbole.config import Config
from recbole.data.dataset import Dataset
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import AbstractRecommender, GeneralRecommender
from recbole.utils import InputType, ModelType
from torch import Tensor, nn

from recbole_mambarec.errors import UserError
from recbole_mambarec_serving.ids import Ids


class Scorer(Protocol):
    """Scores users for all items.

    Attributes:
        name: for messages.
        users, items: raw ids; a user's row and an item's column are their positions there, from 0 and without padding.
    """

    name: str
    users: Ids
    items: Ids

    def scores(self, users: np.ndarray) -> Tensor:
        """Scores of the users in rows ``users`` ``(B,)``, floating-point ``(B, n_items)``; more is better.

        Only the order of a user's scores has a meaning, and nothing is masked.
        """
        ...


class ModelScorer:
    """A trained model of RecBole or this package as a :class:`Scorer`; the model is set to evaluation.

    Args:
        model: it has ``full_sort_predict``, or ``predict`` alone.
        config: of the model.
        dataset: its training split.
    """

    def __init__(self, model: AbstractRecommender, config: Config, dataset: Dataset) -> None:
        self.model, self.name = model.eval(), str(config["model"])
        self.config, self._device, self._pairs = config, config["device"], int(config["eval_batch_size"])
        self._dataset = dataset
        self.users = Ids("user", dataset.field2id_token[dataset.uid_field][1:])
        self.items = Ids("item", dataset.field2id_token[dataset.iid_field][1:])

    @torch.no_grad()
    def scores(self, users: np.ndarray) -> Tensor:
        """See :meth:`Scorer.scores`; on the device of the model."""
        ids = torch.as_tensor(users, dtype=torch.int64) + 1
        interaction = self._dataset.join(Interaction({self._dataset.uid_field: ids})).to(self._device)
        try:
            scores = self.model.full_sort_predict(interaction)
        except NotImplementedError:
            scores = self._of_pairs(interaction)
        # models that compute with numpy leave them on the CPU
        return scores.view(len(ids), -1)[:, 1:].to(self._device)

    def _of_pairs(self, interaction: Interaction) -> Tensor:
        """Scores of a model that only scores pairs, ``(B * (n_items + 1),)``, the padding item included."""
        catalogue = self._dataset.get_item_feature().to(self._device)
        pairs = interaction.repeat_interleave(len(catalogue))
        pairs.update(catalogue.repeat(len(interaction)))
        parts = [self.model.predict(pairs[start : start + self._pairs]) for start in range(0, len(pairs), self._pairs)]
        return torch.cat([part.reshape(-1) for part in parts])


class Reordered:
    """A scorer with its rows and columns in another order.

    Attributes:
        base: the scorer.
        rows, columns: of the base, for each row and column here.

    Raises:
        UserError: the ids are not the same.
    """

    def __init__(self, scorer: Scorer, users: Ids, items: Ids) -> None:
        for own, other in ((scorer.users, users), (scorer.items, items)):
            if not own.has_same(other):
                raise UserError(
                    f"{scorer.name} knows other {own.what}s ({len(own)}) than the model beside it ({len(other)})"
                )
        self.name, self.users, self.items, self.base = scorer.name, users, items, scorer
        self.rows = scorer.users.positions(users.tokens.tolist())
        self.columns = torch.from_numpy(scorer.items.positions(items.tokens.tolist()))

    def scores(self, users: np.ndarray) -> Tensor:
        """See :meth:`Scorer.scores`."""
        scores = self.base.scores(self.rows[users])
        return scores[:, self.columns.to(scores.device)]


def in_order(scorer: Scorer, users: Ids, items: Ids) -> Scorer:
    """The scorer, with the given order of rows and columns.

    Raises:
        UserError: it knows other users or items.
    """
    if np.array_equal(scorer.users.tokens, users.tokens) and np.array_equal(scorer.items.tokens, items.tokens):
        return scorer
    return Reordered(scorer, users, items)


class ScorerModel(GeneralRecommender):
    """A scorer as a model of RecBole, for its evaluation, its case study and whatever else takes a model.

    Args:
        config, dataset: of a run with the users and items of the scorer in the same order.
    """

    type = ModelType.TRADITIONAL
    input_type = InputType.POINTWISE

    def __init__(self, config: Config, dataset: Dataset, scorer: Scorer) -> None:
        super().__init__(config, dataset)
        self.scorer = scorer
        # optimizers, which RecBole's trainer builds even to evaluate, refuse a model without parameters
        self.placeholder = nn.Parameter(torch.zeros(1))
        self._users_at_once = max(1, int(config["eval_batch_size"]) // self.n_items)

    def full_sort_predict(self, interaction: Interaction) -> Tensor:
        """Scores of each user for all items, flattened ``(B * n_items,)``; the padding item scores minus infinity."""
        scores = self.scorer.scores(interaction[self.USER_ID].cpu().numpy() - 1)
        return F.pad(scores, (1, 0), value=-torch.inf).view(-1)

    def predict(self, interaction: Interaction) -> Tensor:
        """Scores of user-item pairs, ``(B,)``."""
        users, rows = np.unique(interaction[self.USER_ID].cpu().numpy() - 1, return_inverse=True)
        items = interaction[self.ITEM_ID].cpu().numpy() - 1
        found: list[tuple[np.ndarray, Tensor]] = []
        for start in range(0, len(users), self._users_at_once):
            wanted = np.flatnonzero((rows >= start) & (rows < start + self._users_at_once))
            scores = self.scorer.scores(users[start : start + self._users_at_once])
            found.append((wanted, scores[rows[wanted] - start, items[wanted]]))
        order = np.argsort(np.concatenate([wanted for wanted, _ in found]))
        return torch.cat([scores for _, scores in found])[torch.from_numpy(order)].to(interaction[self.USER_ID].device)
