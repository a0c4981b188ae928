"""DGMRec. What it generates is compared without noise, followed by a search for neighbours among the result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy

import numpy as np
import torch
from recbole.model.abstract_recommender import AbstractRecommender

from recbole_mambarec.testing.parity.adapter import Adapter, Run, Slot, TrainingPass
from recbole_mambarec.testing.parity.adapters.common import call, dense, pair, renamed, same
from recbole_mambarec.testing.parity.recorded import recorded
from recbole_mambarec.testing.parity.runner import Fixture

_MODEL = "recbole_mambarec.models.dgmrec"
_CONTRAST, _ITEMS = f"{_MODEL}.info_nce", f"{_MODEL}.info_nce_distinct"
_NORM, _RECONSTRUCTION = f"{_MODEL}.embedding_norm", f"{_MODEL}.reconstruction_error"
_ORDER = f"{_MODEL}.random_order"
_GENERATION = "recbole_mambarec.models.dgmrec_generation.mean_over_distinct"
_MODALITIES = ("image", "text")


def _slots(model: AbstractRecommender) -> dict[str, Slot | None]:
    slots: dict[str, Slot | None] = {
        "user_embedding.weight": Slot("user_embedding.weight"),
        "item_id_embedding.weight": Slot("item_embedding.weight"),
        **pair("shared_encoder", "disentangle.shared"),
    }
    for m, other in zip(_MODALITIES, _MODALITIES[::-1]):
        slots[f"{m}_embedding.weight"] = Slot(f"features.{m}.weight")
        slots[f"{m}_g_filter_trans.weight"] = Slot(f"disentangle.user_filter.{m}.weight")
        slots |= pair(f"{m}_encoder", f"disentangle.general.{m}") | pair(f"{m}_encoder_s", f"disentangle.specific.{m}")
        slots |= pair(f"{m}_decoder", f"decoder.{m}")
        slots |= {f"{m}_s_filter_trans.weight": None, f"user_{m}_prefer.weight": None}
        for layer in (0, 2):
            for theirs, ours in (("p_mu", "mean"), ("p_logvar", "log_variance")):
                name = f"{m}_estimator.{theirs}.{layer}"
                slots |= pair(f"item_{name}", f"gaussian.{m}.{ours}.{layer}")
                slots |= dict.fromkeys(pair(f"user_{name}", ""))
            maps = pair(f"{m}_gen.{layer}", f"generator.from_filter.{m}.{layer}")
            maps |= pair(f"{other}2{m}.{layer}", f"generator.from_modality.{m}.{other}.{layer}")
            slots |= maps if model.generator is not None else dict.fromkeys(maps)
    return slots


def _draws(fixture: Fixture, noise: bool) -> list:
    """In our order: noise before the decoders, orders of the items, noise before the maps that generate."""
    arrays = fixture.arrays
    names = [f"final_{m}" for m in _MODALITIES]
    maps = [f"{kind}_{m}" for kind in ("filter", "general") for m in _MODALITIES]
    drawn = {name: arrays[f"noise/draw_{name}"] for name in (*names, *maps) if f"noise/draw_{name}" in arrays}
    if not noise:
        drawn = {name: np.zeros_like(draw) for name, draw in drawn.items()}
    orders = [arrays[f"club/perm_{m}"] for m in _MODALITIES]
    return [*(drawn[name] for name in names), *orders, *(drawn[name] for name in maps if name in drawn)]


def _dependence(modality: str, number: int) -> Callable[[TrainingPass], object]:
    """How much the specific part of a modality tells of the general one, under the order that was drawn.

    In float64, as little is left of large sums: the published code's own rounding takes all of the tolerance.
    """

    def compute(made: TrainingPass) -> torch.Tensor:
        gaussian, order = deepcopy(made.model.gaussian[modality]).double(), call(_ORDER, number)(made)
        with torch.no_grad():
            general, specific = made.model._parts().items[modality].double().chunk(2, dim=1)
            mean = gaussian.mean(specific)
            gaps = (mean - general[order]).square() - (mean - general).square()
            return 0.5 * (gaps / gaussian.log_variance(specific).exp()).sum(dim=1).mean()

    return compute


def _generation_gap(number: int) -> Callable[[TrainingPass], object]:
    """A part that only files with missing modalities have."""
    return lambda made: call(_GENERATION, number)(made) if made.calls[_GENERATION] else None


def _item_graph(model: AbstractRecommender, modality: str) -> np.ndarray:
    """The graph of a modality, which is not blended with one of what is generated where nothing is."""
    graph = model.item_graph[modality]
    return dense(getattr(graph, "graph", graph))


def _results(model: AbstractRecommender, fixture: Fixture) -> Iterator[tuple[str, object]]:
    data = model.data
    yield "graph/norm_adj", dense(model.bipartite)
    counts = [np.bincount(data.users, minlength=data.n_users), np.bincount(data.items, minlength=data.n_items)]
    yield "graph/inverse_degree", 1 / (np.concatenate(counts) + 1e-7)
    for m in _MODALITIES:
        yield f"graph/{m}_knn", _item_graph(model, m)
    with torch.no_grad():
        parts = model.eval()._parts()
    for m in _MODALITIES:
        yield f"eval/{m}_general", parts.general[m]
        yield f"eval/{m}_specific", parts.specific[m]
    if model.generator is None:
        return
    only = [~data.present(m) & data.present(other) for m, other in zip(_MODALITIES, _MODALITIES[::-1])]
    with recorded([torch.zeros(int(rows.sum()), 2 * model.embedding_size) for rows in only if rows.any()]):
        model.generate()
    model.search()
    for m in _MODALITIES:
        yield f"generate/{m}_table", model.features[m].weight.detach()
        yield f"generate/{m}_knn", _item_graph(model, m)


ADAPTER = Adapter(
    slots=_slots,
    config=renamed(
        {
            "interModal": "inter_weight",
            "interModalTemp": "inter_temperature",
            "intraModal": "intra_weight",
            "intraModalTemp": "intra_temperature",
            "alignBM": "align_weight",
            "alignBMTemp": "align_temperature",
            "recon": "recon_weight",
            "reg": "reg_weight",
            "sampler": "club_weight",
            "additive": "generation_weight",
            "avg_lambda": "ii_refined_weight",
        }
    ),
    unused={
        "interModalDist": "read without effect",
        "missing_modal": "whether items lack a modality is seen in the data",
        "missing_imputation": "here the mean always stands in for what is missing",
        "new_items": "of another protocol",
        "infer_adj_update": "of another protocol",
    },
    parts={
        "bpr": same("bpr"),
        **{f"intra_{name}": call(_CONTRAST, number) for number, name in enumerate(("id", "general", *_MODALITIES))},
        "align_item": call(_CONTRAST, 4),
        "align_user": call(_CONTRAST, 5),
        "inter_user": call(_CONTRAST, 6),
        "inter_item": call(_ITEMS, 0),
        **{f"reg_{name}": call(_NORM, number) for number, name in enumerate((*_MODALITIES, "id"))},
        **{f"recon_{m}": call(_RECONSTRUCTION, number) for number, m in enumerate(_MODALITIES)},
        **{f"club_{m}": _dependence(m, number) for number, m in enumerate(_MODALITIES)},
        **{
            f"gen_{name}": _generation_gap(number)
            for number, name in enumerate((*_MODALITIES, "image2text", "text2image"))
        },
    },
    watched=(_CONTRAST, _ITEMS, _NORM, _RECONSTRUCTION, _ORDER, _GENERATION),
    runs={
        "train": Run(draws=lambda fixture: _draws(fixture, noise=False)),
        "noise": Run(draws=lambda fixture: _draws(fixture, noise=True)),
    },
    results=_results,
    # what is left of sums that are 10 000 times as large where the parameters are small
    noise={"*part/club_*": 7e-3},
)
