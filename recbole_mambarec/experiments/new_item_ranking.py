"""Evaluation with the key ``new_items``: results of all, known and new items, and rankings of new items alone."""

from __future__ import annotations

from collections.abc import Callable
from logging import getLogger
from typing import NamedTuple

import numpy as np
import torch
from recbole.trainer import Trainer

from recbole_mambarec.compat.patching import wrap
from recbole_mambarec.data.new_items import items_without_training
from recbole_mambarec.experiments import users
from recbole_mambarec_common.terminal import table


def install() -> None:
    """Wrap RecBole's evaluation; a second call changes nothing."""
    wrap(Trainer, "evaluate", _evaluate)
    wrap(Trainer, "_full_sort_batch_eval", _rank_new_items)


def _evaluate(original: Callable, trainer: Trainer, eval_data, *args, **kwargs):
    """RecBole's ``evaluate``; after the test, the log says how known and new items were ranked."""
    new = items_without_training(getattr(eval_data, "_dataset", None))
    if new is None:
        return original(trainer, eval_data, *args, **kwargs)
    trainer.items_not_ranked = torch.from_numpy(~new) if trainer.config["rank_items"] == "new" else None
    # lists of items take time to collect, which validations would spend in every epoch
    is_test = getattr(getattr(eval_data, "_sampler", None), "phase", None) == "test"
    if not is_test or not trainer.config["single_spec"]:
        return original(trainer, eval_data, *args, **kwargs)
    with users.captured(trainer) as tops:
        result = original(trainer, eval_data, *args, **kwargs)
    if tops:
        getLogger().info("test by items:\n" + by_newness(tops[-1], eval_data, new, trainer.config))
    return result


def _rank_new_items(original: Callable, trainer: Trainer, batched_data):
    interaction, scores, positive_u, positive_i = original(trainer, batched_data)
    left_out = vars(trainer).get("items_not_ranked")
    if left_out is not None:
        scores[:, left_out.to(scores.device)] = -torch.inf
    return interaction, scores, positive_u, positive_i


def by_newness(top: users.TopK, loader, new: np.ndarray, config) -> str:
    """A table of the metrics of all, known and new items, see :func:`groups_of_items`."""
    lines = []
    for group in groups_of_items(top, loader, new, config):
        means = (f"{value:.4f}" if group.users else "-" for value in group.scores.values())
        lines.append([group.name, f"{group.users:,}", *means])
    return table(["items", "users", *(f"{m}@{k}" for m in users.METRICS for k in config["topk"])], lines)


class ItemGroup(NamedTuple):
    """Scores of a group of test items.

    Attributes:
        name: ``all``, ``known`` or ``new``.
        users: how many users have such a test item.
        scores: metric -> mean over these users, as if such items were all of their test items; NaN if there are none.
    """

    name: str
    users: int
    scores: dict[str, float]


def groups_of_items(top: users.TopK, loader, new: np.ndarray, config) -> list[ItemGroup]:
    """Scores of all, known and new items, each over the users that have such a test item.

    Args:
        top: recommendations for the users of ``loader``.
        new: which items have no training interaction, bool ``(item_num,)``.
    """
    groups = []
    for name, chosen in (("all", np.ones_like(new)), ("known", ~new), ("new", new)):
        part, scores = users.of_items(top, loader, chosen), {}
        for metric in users.METRICS:
            by_user = users.metric_of(metric, config, part) if len(part.positives) else None
            for k in config["topk"]:
                scores[f"{metric}@{k}"] = float("nan") if by_user is None else float(by_user[:, k - 1].mean())
        groups.append(ItemGroup(name, len(part.positives), scores))
    return groups
