"""COHESION.

The published loss has a weight per user that affects no score: the adapter adds it. The published user graph repeats
neighbours at random, in evaluation too: it is built here from the lists and the draw of the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from recbole.model.abstract_recommender import AbstractRecommender
from torch import Tensor, nn

from recbole_mambarec.testing.parity.adapter import Adapter, Slot, TrainingPass
from recbole_mambarec.testing.parity.adapters.common import FEATURE_WIDTH, neighbour_graphs, pair, renamed, same
from recbole_mambarec.testing.parity.adapters.drawn_users import drawn_user_graph, user_graph_results
from recbole_mambarec.testing.parity.runner import Fixture

_RANKING = "recbole_mambarec.models.cohesion.bpr"
_BRANCHES = {"ids": "id_gcn", "image": "v_gcn", "text": "t_gcn"}


def _config(published: dict) -> dict:
    # the published code has 64 and 256
    names = {"dim_latent": "embedding_size", "num_layer": "n_ui_layers"}
    return renamed(names, hidden_dim=4 * published["dim_latent"])(published)


def _slots(model: AbstractRecommender) -> dict[str, Slot | None]:
    slots: dict[str, Slot | None] = {"weight_u": Slot("weight_u"), "id_feat": Slot("item_embedding")}
    for branch, published in _BRANCHES.items():
        slots[f"{published}.preference"] = Slot(f"preference.{branch}")
        slots |= pair(f"{published}.MLP", f"mlp.{branch}.0") | pair(f"{published}.MLP_1", f"mlp.{branch}.2")
    # registered and never read
    return slots | {f"{modality}_embedding.weight": None for modality in model.modalities}


def _prepare(model: AbstractRecommender, fixture: Fixture) -> None:
    model.weight_u = nn.Parameter(torch.empty(fixture.meta["n_users"], 2, 1))
    model.user_graph.each_once = model.user_graph.drawn = drawn_user_graph(fixture)


def _missing_loss(model: AbstractRecommender, batch: dict, config: dict) -> dict[str, Tensor]:
    return {"reg_weight_u": config["reg_weight"] * model.weight_u.square().mean()}


def _preference(modality: str) -> Callable[[TrainingPass], float]:
    """The regulariser less the squares of the other modalities."""

    def compute(made: TrainingPass) -> float:
        others = [m for m in made.model.modalities if m != modality]
        squares = (made.model.preference[m][made.batch["user_id"] - 1].square().mean().item() for m in others)
        return made.unweighted("reg", "reg_weight") - sum(squares)

    return compute


def _branch_scores(items: int) -> Callable[[TrainingPass], Tensor]:
    """Weighted inner products of the batch with its positive (1) or negative (2) items."""

    def compute(made: TrainingPass) -> Tensor:
        arguments = made.calls[_RANKING][0].args
        return (arguments[0] * arguments[items]).sum(dim=1)

    return compute


def _branch_weights(made: TrainingPass) -> Tensor:
    """The factor that each branch of the batch's users had in the ranking, ``(B, branches)``."""
    with torch.no_grad():
        users = made.model.embed()[0][made.batch["user_id"] - 1]
    weighted, plain = (x.unflatten(1, (len(_BRANCHES), -1)) for x in (made.calls[_RANKING][0].args[0], users))
    return (weighted * plain).sum(dim=2) / plain.square().sum(dim=2)


def _results(model: AbstractRecommender, fixture: Fixture) -> Iterator[tuple[str, object]]:
    yield from neighbour_graphs(model, fixture)
    yield from user_graph_results(model, fixture)
    with torch.no_grad():
        for branch in _BRANCHES:
            yield f"eval/branch_{branch}", model._branch(branch)


ADAPTER = Adapter(
    slots=_slots,
    config=_config,
    unused={
        "embedding_size": "the width is dim_latent",
        "feat_embed_dim": FEATURE_WIDTH,
        "dropout": "the published grid prunes no edges",
    },
    parts={
        "bpr2": same("bpr"),
        "pos_scores": _branch_scores(1),
        "neg_scores": _branch_scores(2),
        "branch_weights": _branch_weights,
        "reg_image_pref": _preference("image"),
        "reg_text_pref": _preference("text"),
        "reg_weight_u": lambda made: made.model.weight_u.square().mean(),
    },
    watched=(_RANKING,),
    results=_results,
    prepare=_prepare,
    missing_loss=_missing_loss,
)
