"""MMSSL. What the discriminator is shown was recorded with its noise."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import numpy as np
import torch
from recbole.model.abstract_recommender import AbstractRecommender

from recbole_mambarec.models.mmssl import similarities
from recbole_mambarec.testing.parity.adapter import Adapter, Run, Slot
from recbole_mambarec.testing.parity.adapters.common import call, dense, gradients_apart, pair, renamed, same, weighted
from recbole_mambarec.testing.parity.recorded import recorded
from recbole_mambarec.testing.parity.runner import Fixture

# number of the recorded draws of each pass
_PASSES = {"train": 0, "rebuilt": 2}
_CONTRAST = "recbole_mambarec.models.mmssl.info_nce_both"


def _config(published: dict) -> dict:
    names = {
        "embed_size": "embedding_size",
        "head_num": "n_heads",
        "drop_rate": "dropout_prob",
        "batch_size": "train_batch_size",
        "feat_reg_decay": "feature_reg_weight",
        "cl_rate": "cl_weight",
        "tau": "temperature",
        "G_rate": "adversarial_weight",
        "gp_rate": "penalty_weight",
        "real_data_tau": "real_temperature",
        "ui_pre_scale": "real_score_weight",
        "m_topk_rate": "picked_share",
        "T": "graph_steps",
    }
    layers = len(ast.literal_eval(published.pop("weight_size")))
    reg, *_ = ast.literal_eval(published.pop("regs"))
    dropout = [published.pop("G_drop1"), published.pop("G_drop2")]
    more = {"n_ui_layers": layers, "reg_weight": float(reg), "discriminator_dropout": dropout, "freeze_features": True}
    return renamed(names, **more)(published)


def _slots(model: AbstractRecommender) -> dict[str, Slot | None]:
    slots: dict[str, Slot | None] = {
        "user_id_embedding.weight": Slot("user_embedding.weight"),
        "item_id_embedding.weight": Slot("item_embedding.weight"),
        "weight_dict.w_self_attention_cat": Slot("attention.output"),
    }
    for modality in model.modalities:
        slots |= pair(f"{modality}_trans", f"projection.{modality}")
        slots[f"{modality}_embedding.weight"] = None
    for number, layer in enumerate((0, 4, 8)):
        slots |= pair(f"D.net.{layer}", f"discriminator.linear.{number}")
    for number, layer in enumerate((2, 6)):
        for part in ("weight", "bias"):
            slots[f"D.net.{layer}.{part}"] = Slot(f"discriminator.{part}.{number}")
    unused = ("w_q", "w_k", "w_v", "w_self_attention_item", "w_self_attention_user")
    slots |= {f"weight_dict.{name}": None for name in unused}
    return slots | {f"{name}.{part}": None for name in ("common_trans", "batch_norm") for part in ("weight", "bias")}


def _rebuild(model: AbstractRecommender, fixture: Fixture) -> None:
    """Go on with the graphs of the recorded picks, whose ties may be broken in another way."""
    picks = {m: torch.from_numpy(fixture.arrays[f"rebuilt/{m}_pairs"]) for m in model.modalities}
    model.load_other_parameter({"learnt": picks})


def _results(model: AbstractRecommender, fixture: Fixture) -> Iterator[tuple[str, object]]:
    yield "graph/user_item", dense(model.user_item)
    yield "graph/item_user", dense(model.item_user)
    with torch.no_grad():
        views = model.eval()._views()
    for name, sides in (("", views.features), ("_id", views.ids)):
        for modality, (users, items) in sides.items():
            yield f"eval/{modality}_user{name}", users
            yield f"eval/{modality}_item{name}", items
    for prefix, number in _PASSES.items():
        yield from _discriminated(fixture, prefix, number)
    yield from _rebuilt_graphs(fixture)


def _discriminated(fixture: Fixture, prefix: str, number: int) -> Iterator[tuple[str, object]]:
    """Loss and gradients of the discriminator, and the similarities that it sees."""
    model = fixture.build().train()
    if prefix == "rebuilt":
        _rebuild(model, fixture)
    users = torch.from_numpy(fixture.arrays["batch_users"])
    with recorded(torch.from_numpy(fixture.arrays[f"gan/draw_{what}_{number}"]) for what in ("real", "mix")):
        parts = model.discriminator_parts(users)
    yield f"{prefix}/discriminator_loss", sum(parts.values()).item()
    yield f"{prefix}/part/discriminator_fake", parts["fake"].item()
    yield f"{prefix}/part/discriminator_real", -parts["real"].item()
    yield f"{prefix}/part/penalty", (parts["penalty"] / model.penalty_weight).item()
    with torch.no_grad():
        for modality, rows in similarities(model._views().features, users, model.seen(users)).items():
            yield f"{prefix}/part/{modality}_similarity", rows
    folder = "grad" if prefix == "train" else f"{prefix}/grad"
    yield from gradients_apart(model, fixture, [("discriminator", sum(parts.values()))], folder)
    # nothing depends on it: the file has what rounding leaves
    yield f"{folder}/weight_dict.w_q", np.zeros_like(fixture.arrays["param/weight_dict.w_q"])


def _rebuilt_graphs(fixture: Fixture) -> Iterator[tuple[str, object]]:
    """Picks of the first step, and the graphs that the second and the third build."""
    model = fixture.build().train()
    model.pre_epoch(0)
    model.calculate_loss(fixture.batch())
    chosen = model.picked.collected
    users = torch.from_numpy(fixture.arrays["batch_users"])
    with torch.no_grad():
        looks = similarities(model._views().features, users, model.seen(users))
    for modality, (pairs,) in chosen.items():
        # ties may be broken in another way: what counts is how similar the picks are
        golden = torch.from_numpy(fixture.arrays[f"rebuilt/{modality}_pairs"])
        picked, published = (looks[modality].gather(1, ends[1].view(len(users), -1)) for ends in (pairs, golden))
        same_picks = torch.equal(pairs[0], golden[0]) and torch.allclose(picked, published, atol=1e-6)
        yield f"rebuilt/{modality}_pairs", golden if same_picks else pairs
    for _ in range(2):
        model.calculate_loss(fixture.batch())
    yield "rebuilt/next_image_graph_sum", float(model.other_parameter()["learnt"]["image"].shape[1])
    _rebuild(model, fixture)
    n_users, n_items = fixture.meta["n_users"], fixture.meta["n_items"]
    for weights, eye in ((model.item_embedding, n_items), (model.user_embedding, n_users)):
        weights.weight = torch.nn.Parameter(torch.eye(eye))
    for modality in model.modalities:
        with torch.no_grad():
            user_item, item_user = model._liked(modality)
        yield f"graph/{modality}_user_item", user_item
        yield f"graph/{modality}_item_user", item_user


ADAPTER = Adapter(
    slots=_slots,
    config=_config,
    unused={"layers": "the released layers compute the same again"},
    parts={
        "bpr": same("bpr"),
        "emb_weighted": same("reg"),
        "feature_reg_weighted": same("feature_reg"),
        "generator": weighted("adversarial", "adversarial_weight"),
        "cl_image": call(_CONTRAST, 0),
        "cl_text": call(_CONTRAST, 1),
    },
    watched=(_CONTRAST,),
    runs={"rebuilt": Run(change=_rebuild)},
    results=_results,
    inputs=("gan/draw_*",),
    # the difference of two scores near 50
    noise={"*/discriminator_loss": 4e-5},
)
