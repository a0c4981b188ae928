"""DAMRS. Of items that share equally many users the published choice is chance: the lists of the file are taken."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from recbole.model.abstract_recommender import AbstractRecommender

from recbole_mambarec.data.graphs.bipartite import interaction_matrix
from recbole_mambarec.models.damrs_graphs import behaviour_graph_of
from recbole_mambarec.testing.parity.adapter import Adapter, Slot, TrainingPass
from recbole_mambarec.testing.parity.adapters.common import dense, renamed, same, weighted
from recbole_mambarec.testing.parity.runner import Fixture

_NAMES = {"behaviour": "behaviour", "image": "image", "text": "text"}


def _slots(model: AbstractRecommender) -> dict[str, Slot | None]:
    slots: dict[str, Slot | None] = {
        "user_embedding.weight": Slot("user_embedding.weight"),
        "item_id_embedding.weight": Slot("item_embedding.weight"),
    }
    for m in ("image", "text"):
        slots |= {f"{m}_embedding.weight": None, f"{m}_trs.weight": None, f"{m}_trs.bias": None}
    return slots


def _prepare(model: AbstractRecommender, fixture: Fixture) -> None:
    lists = fixture.arrays["data/item_neighbours"]
    kept = lists >= 0
    rows = np.repeat(np.arange(len(lists)), kept.sum(axis=1))
    model.item_graph[model.behaviour] = behaviour_graph_of(rows, lists[kept], len(lists))


def _distinct(batch: dict) -> torch.Tensor:
    """Numbers of the batch's distinct items, ascending."""
    return (torch.cat([batch["item_id"], batch["neg_item_id"]]) - 1).unique()


def _neighbour(name: str) -> Callable[[TrainingPass], torch.Tensor]:
    def compute(made: TrainingPass) -> torch.Tensor:
        batch = torch.cat([made.batch["item_id"], made.batch["neg_item_id"]]) - 1
        with torch.no_grad():
            terms = made.model._neighbour_terms(made.model._views()[2], batch)
        return dict(zip(made.model.item_graph, terms))[_NAMES[name]]

    return compute


def _trust(number: int) -> Callable[[TrainingPass], torch.Tensor]:
    def compute(made: TrainingPass) -> torch.Tensor:
        users, positives, negatives = (made.batch[name] - 1 for name in ("user_id", "item_id", "neg_item_id"))
        with torch.no_grad():
            all_users, _, views = made.model._views()
            return made.model._trust(all_users[users], views, positives, negatives)[number]

    return compute


def _results(model: AbstractRecommender, fixture: Fixture) -> Iterator[tuple[str, object]]:
    data = model.data
    matrix = interaction_matrix(data.users, data.items, data.n_users, data.n_items)
    counts = (matrix.T @ matrix).toarray()
    np.fill_diagonal(counts, 0)
    yield "graph/item_co_counts", np.where(counts >= 2, counts, 0) if _drops(fixture) else counts
    yield "graph/norm_adj", dense(model.bipartite)
    for theirs, ours in _NAMES.items():
        yield f"graph/{theirs}" + ("" if theirs == "behaviour" else "_knn"), dense(model.item_graph[ours])
    with torch.no_grad():
        _, items, views = model.eval()._views()
        for theirs, ours in _NAMES.items():
            yield f"eval/{theirs}_embeddings", views[ours]
        yield "eval/item_graph_embeddings", items
        distinct = _distinct(fixture.batch())
        yield "train/distinct_items", distinct
        yield "train/distinct_users", (fixture.batch()["user_id"] - 1).unique()
        unit = {name: torch.nn.functional.normalize(view, dim=1) for name, view in views.items()}
        lists = model._lists(unit, distinct)
        shares = {name: (x[distinct] @ x.T).softmax(dim=1) for name, x in unit.items()}
        for theirs, ours in _NAMES.items():
            kinds = (f"train/labels/{theirs}_{kind}" for kind in ("common", "single"))
            (common, golden_common), (single, golden_single) = (
                (key, torch.from_numpy(fixture.arrays[key]).long()) for key in kinds
            )
            together = sum(shares.values()) + shares[ours]
            left = shares[ours].scatter(1, golden_common, 0.0)
            yield common, golden_common if _as_similar(together, golden_common) else lists[ours][0]
            yield single, golden_single if _as_similar(left, golden_single) else lists[ours][1]


def _as_similar(shares: torch.Tensor, golden: torch.Tensor) -> bool:
    """Whether no list of as many items is more similar: items that tie have no order, and any of them may be last."""
    best, theirs = shares.topk(golden.shape[1], dim=1).values, shares.gather(1, golden).sort(dim=1, descending=True)
    distinct = golden.sort(dim=1).values.diff(dim=1).gt(0).all()
    return bool(distinct) and torch.allclose(best, theirs.values, rtol=1e-5, atol=0)


def _drops(fixture: Fixture) -> bool:
    stored = fixture.arrays["graph/item_co_counts"]
    return not (stored == 1).any()


ADAPTER = Adapter(
    slots=_slots,
    config=renamed({}),
    unused={
        "item_graph_dict_file": "the name of a file",
        "item_topk": "the lists of the file are taken",
        "learning_rate": "of the optimizer",
    },
    parts={
        "bpr_weighted": same("bpr"),
        "kl": weighted("kl", "kl_weight"),
        **{f"neighbour_{name}": _neighbour(name) for name in _NAMES},
        "pos_weight": _trust(0),
        "neg_weight": _trust(1),
    },
    results=_results,
    prepare=_prepare,
    # of few items, the sum over all less that over the common ones leaves little
    noise={"train/part/neighbour_*": 3e-5, "grad/*": 3e-5},
)
