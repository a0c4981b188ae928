"""RecBole's case study for every user, not only for users with items in the split at hand."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import numpy as np
import torch
from recbole.data.dataloader import FullSortEvalDataLoader
from torch import Tensor

from recbole_mambarec.compat.patching import wrap
from recbole_mambarec.errors import UserError


def install() -> None:
    """Let ``full_sort_scores`` and ``full_sort_topk`` rank for any user; a second call changes nothing.

    RecBole knows the items to leave out of a ranking only for the users that the loader evaluates, so that a user
    without items in that split ends in a TypeError. For such a user, the whole catalogue is now ranked without the
    items that count as used in the loader's phase: in validation the training items, at test those of validation, too,
    unless ``mask_valid_in_test`` is False. A sequential model needs the user's sequence, which only an evaluated user
    has in the loader: RecBole leaves out the others, so that the rows of the result no longer match the users.

    No upstream issue known.
    """
    wrap(importlib.import_module("recbole.utils.case_study"), "full_sort_scores", _scores_of_any_user)


def _scores_of_any_user(original: Callable, uid_series, model, test_data, device=None) -> Tensor:
    """RecBole's function.

    Raises:
        UserError: an id is not the internal id of a user; the loader does not rank the catalogue; or the model is
            sequential and the loader has no sequence of a user.
    """
    users = _internal_ids(uid_series, test_data.dataset)
    if not isinstance(test_data, FullSortEvalDataLoader):
        raise UserError(
            f"full_sort_topk and full_sort_scores need a loader that ranks the whole catalogue, not a "
            f"{type(test_data).__name__}: evaluate with mode full in eval_args"
        )
    if test_data.is_sequential:
        evaluated = test_data.dataset.inter_feat[test_data.uid_field].numpy()
        missing = users[~np.isin(users, evaluated)]
        if len(missing):
            raise UserError(
                f"user {_name(missing[0], test_data.dataset)} has no sequence in this split, from which a sequential "
                "model could recommend: leave the user out, or pass the loader of a split with such a sequence"
            )
    else:
        _complete_history(users, test_data)
    return original(users, model, test_data, device)


def _internal_ids(uid_series, dataset) -> np.ndarray:
    """The ids as an int64 array, shape ``(users,)``."""
    try:
        users: np.ndarray = torch.as_tensor(uid_series).cpu().numpy().reshape(-1)
    except (TypeError, ValueError, RuntimeError):  # tokens
        users = np.array([], dtype=object)
    if not len(users) or not np.issubdtype(users.dtype, np.integer):
        raise UserError(
            f"users must be given by their internal ids, whole numbers from 1 to {dataset.user_num - 1}, got "
            f"{uid_series!r}: dataset.token2id('{dataset.uid_field}', ...) finds them"
        )
    unknown = users[(users < 1) | (users >= dataset.user_num)]
    if len(unknown):
        raise UserError(
            f"there is no user with the internal id {unknown[0]}: ids are from 1 to {dataset.user_num - 1}, and "
            f"dataset.token2id('{dataset.uid_field}', ...) finds them"
        )
    return users.astype(np.int64)


def _name(user: int, dataset) -> str:
    return f"'{dataset.id2token(dataset.uid_field, user)}' (internal id {user})"


def _complete_history(users: np.ndarray, loader) -> None:
    """Fill in the used items of those ``users`` that the loader does not evaluate; evaluations do not read them."""
    history, used = loader.uid2history_item, loader._sampler.used_ids
    for user in np.unique(users):
        if history[user] is None:
            history[user] = torch.from_numpy(np.fromiter(sorted(used[user]), dtype=np.int64))
