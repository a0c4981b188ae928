"""What the adapters of DualGNN, DRAGON and MENTOR share."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from recbole.model.abstract_recommender import AbstractRecommender
from torch import Tensor

from recbole_mambarec.testing.parity.adapter import Slot, TrainingPass
from recbole_mambarec.testing.parity.adapters.common import pair, same
from recbole_mambarec.testing.parity.adapters.drawn_users import drawn_user_graph
from recbole_mambarec.testing.parity.runner import Fixture

PUBLISHED = {"image": "v_gcn", "text": "t_gcn"}


WIDTH = "the width is dim_latent"


def branch_config(published: dict) -> dict:
    """Our keys; the published code has 64 and 256 for widths."""
    config = {name: value for name, value in published.items() if name != "dim_latent"}
    return config | {"embedding_size": published["dim_latent"], "hidden_dim": 4 * published["dim_latent"]}


def branch(published: str, ours: str) -> dict[str, Slot]:
    """Slots of one branch."""
    return {
        f"{published}.preference": Slot(f"{ours}.preference"),
        **pair(f"{published}.MLP", f"{ours}.mlp.0"),
        **pair(f"{published}.MLP_1", f"{ours}.mlp.2"),
    }


def branch_slots(model: AbstractRecommender, *unused: str) -> dict[str, Slot | None]:
    """Slots of the branches and the users' weights; ``unused`` are prefixes that the published code never reads."""
    slots: dict[str, Slot | None] = {"weight_u": Slot("user_weight")}
    for modality in model.modalities:
        slots |= branch(PUBLISHED[modality], f"branch.{modality}")
    return slots | {f"{name}{part}": None for name in unused for part in ("", ".weight", ".bias")}


def _preference(modality: str) -> Callable[[TrainingPass], Tensor]:
    return lambda made: made.model.branch[modality].preference[made.batch["user_id"] - 1].square().mean()


BRANCH_PARTS = {
    "bpr2": same("bpr"),
    "reg_image_pref": _preference("image"),
    "reg_text_pref": _preference("text"),
    "reg_weight_u": lambda made: made.model.user_weight.square().mean(),
}


def take_drawn_users(model: AbstractRecommender, fixture: Fixture) -> None:
    """Give the model the user graph of the file."""
    graph = drawn_user_graph(fixture)
    model.user_graph.each_once = model.user_graph.drawn = graph


def branch_results(model: AbstractRecommender) -> Iterator[tuple[str, object]]:
    """Nodes of the branches."""
    with torch.no_grad():
        for modality, nodes in model._modal_nodes().items():
            yield f"eval/branch_{modality}", np.asarray(nodes)
