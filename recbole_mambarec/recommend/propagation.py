"""New users of a graph model, by the propagation of the model itself over their nodes, with everything else fixed.

The model is built again on its training interactions and those of the new users. Its parameters are the trained ones;
rows that tables of users have more are filled in, see :func:`_widened`. Of what this model computes, the embeddings of
the new users are kept, and they are scored against the trained embeddings of the items.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch
from recbole.config import Config
from recbole.data.dataset import Dataset
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import AbstractRecommender
from torch import Tensor

from recbole_mambarec.models.base import MultimodalRecommender
from recbole_mambarec.recommend.embeddings import final_embeddings
from recbole_mambarec.recommend.fold_in import fitted

# the largest change of the known users' embeddings, as a share of their length, that a few more nodes may cause
_CHANGE = 0.05


class NotPropagated(Exception):
    """The model cannot be extended by users; the message says why, as the end of a sentence."""


def user_embeddings(
    model: AbstractRecommender,
    config: Config,
    dataset: Dataset,
    users: np.ndarray,
    items: np.ndarray,
    history: sp.csr_array,
    new: sp.csr_array,
    without: np.ndarray | None = None,
) -> np.ndarray:
    """Final embeddings of new users, float32 ``(n_new, d)``.

    Args:
        model, config, dataset: trained, and the training split.
        users, items: the model's final embeddings of its own users and of the items.
        history: training interactions, float32 ``(n_users, n_items)``.
        new: those of the new users, ``(n_new, n_items)``.
        without: rows of known users from whom nothing is learnt about tables; a check folds them in.

    Raises:
        NotPropagated: the model has no such extension.
    """
    wider = _built(model, config, _with_users(dataset, new))
    trained, present = model.state_dict(), wider.state_dict()
    (n_users, n_items), n_new = history.shape, new.shape[0]
    learnt_from = np.setdiff1d(np.arange(n_users), [] if without is None else without)
    for name, values in present.items():
        present[name] = _widened(name, trained[name], values, items, history, new, learnt_from)
    wider.load_state_dict(present)
    wider.eval()
    shape = n_users + n_new, n_items
    of_users = next((pair[0] for pair in final_embeddings(wider) if tuple(map(len, pair)) == shape), None)
    if of_users is None:
        raise NotPropagated("it has no embeddings of the new users")
    change = np.linalg.norm(of_users[:n_users] - users, axis=1) / np.maximum(np.linalg.norm(users, axis=1), 1e-12)
    if not np.median(change) <= _CHANGE:
        raise NotPropagated(f"built again, it gives known users other embeddings ({np.median(change):.0%})")
    return of_users[n_users:]


def _built(model: AbstractRecommender, config: Config, dataset: Dataset) -> AbstractRecommender:
    """The same model on other data, without a trace in the random generators."""
    state, final = np.random.get_state(), config.final_config_dict  # noqa: NPY002
    others: dict[str, object] = {}
    if isinstance(model, MultimodalRecommender):
        # scores of cold users are not asked for, and the features are those that the trained model has, filled in
        others["cold_users"] = "id"
        if model.data.is_imputed:
            dataset.item_features = {m: model.data.padded_features(m) for m in model.data.modalities}
            others["impute_missing"] = "mean"
    before = {key: final.get(key) for key in others}
    with torch.random.fork_rng():
        try:
            final.update(others)
            wider = type(model)(config, dataset).to(config["device"])
        finally:
            final.update(before)
            np.random.set_state(state)  # noqa: NPY002
    if isinstance(model, MultimodalRecommender):  # what RecBole's own models keep there are embeddings
        try:
            wider.load_other_parameter(model.other_parameter())
        except ValueError as error:  # a graph that was learnt has another shape
            raise NotPropagated(f"it keeps what belongs to the users it was trained on ({error})") from None
    return wider


def _with_users(dataset: Dataset, new: sp.csr_array) -> Dataset:
    """The training split with more users."""
    pairs, first = new.tocoo(), len(dataset.field2id_token[dataset.uid_field])
    inter, columns = dataset.inter_feat, {}
    for field in inter.columns:
        filled = inter[field].new_zeros((len(pairs.row), *inter[field].shape[1:]))
        columns[field] = torch.cat([inter[field], filled])
    columns[dataset.uid_field][len(inter) :] = torch.from_numpy(pairs.row.astype(np.int64)) + first
    columns[dataset.iid_field][len(inter) :] = torch.from_numpy(pairs.col.astype(np.int64)) + 1
    extended = dataset.copy(Interaction(columns))
    tokens = dataset.field2id_token[dataset.uid_field]
    more = np.array([f"new user {place}" for place in range(new.shape[0])], dtype=object)
    extended.field2id_token = {**dataset.field2id_token, dataset.uid_field: np.concatenate([tokens, more])}
    return extended


def _widened(
    name: str,
    trained: Tensor,
    built: Tensor,
    items: np.ndarray,
    history: sp.csr_array,
    new: sp.csr_array,
    learnt_from: np.ndarray,
) -> Tensor:
    """The trained values of a parameter, with rows for the new users.

    A new user's row is what a least-squares fit over the known users predicts from their items' final embeddings (see
    :class:`~recbole_mambarec_serving.scoring.FoldIn`).

    Args:
        built: of the wider model, whose shape is to be had.
        items, history, new: as for :func:`user_embeddings`.
        learnt_from: rows of the known users to fit to.
    """
    if trained.shape == built.shape:
        return trained
    (n_users, n_items), n_new = history.shape, new.shape[0]
    rows, rest = len(trained) if trained.ndim else 0, built.shape[1:]
    # users alone, or users before items; RecBole's models have a padding row before each
    first = {n_users: 0, n_users + n_items: 0, n_users + 1: 1, n_users + n_items + 2: 1}.get(rows)
    if first is None or built.shape != (rows + n_new, *rest) or trained.shape[1:] != rest:
        raise NotPropagated(f"its '{name}' belongs to the users it was trained on")
    last = first + n_users
    table = trained[first:last].float().cpu().numpy().reshape(n_users, -1)
    filled = fitted(table[learnt_from], items, history[learnt_from]).users(new, items).reshape(n_new, *rest)
    return torch.cat([trained[:last], torch.from_numpy(filled).to(trained), trained[last:]])
