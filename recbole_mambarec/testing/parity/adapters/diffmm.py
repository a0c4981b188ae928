"""DiffMM. Steps and noise of the diffusion, and what was dropped from the generated graphs, were recorded."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import numpy as np
import torch
from recbole.model.abstract_recommender import AbstractRecommender

from recbole_mambarec.errors import UserError
from recbole_mambarec.models.diffmm import CONTRASTS, FEATURE_MAPS
from recbole_mambarec.testing.parity.adapter import Adapter, Slot
from recbole_mambarec.testing.parity.adapters.common import dense, gradients_apart, pair, renamed, same, weighted
from recbole_mambarec.testing.parity.runner import Fixture

_CONTRAST = ("user", "item")


def _config(published: dict) -> dict:
    if published.pop("sampling_noise"):
        raise UserError("DiffMM is here without noise in the reverse steps")
    hidden = ast.literal_eval(published.pop("dims"))
    if len(hidden) != 1:
        raise UserError(f"DiffMM's denoisers are here with one hidden layer, not {len(hidden)}")
    names = {
        "latdim": "embedding_size",
        "batch": "train_batch_size",
        "gnn_layer": "n_ui_layers",
        "reg": "reg_weight",
        "ssl_reg": "cl_weight",
        "temp": "temperature",
        "keepRate": "keep_rate",
        "d_emb_size": "step_embedding_size",
        "norm": "unit_rows",
        "steps": "diffusion_steps",
        "e_loss": "graph_loss_weight",
        "ris_lambda": "residual_weight",
        "ris_adj_lambda": "generated_weight",
    }
    more = {
        "feature_map": FEATURE_MAPS[published.pop("trans")],
        "contrast": CONTRASTS[published.pop("cl_method")],
        "hidden_dim": hidden[0],
        "dropout_prob": 0.0,
        "freeze_features": True,
    }
    return renamed(names, **more)(published)


def _slots(model: AbstractRecommender) -> dict[str, Slot | None]:
    slots: dict[str, Slot | None] = {
        "uEmbeds": Slot("user_embedding.weight"),
        "iEmbeds": Slot("item_embedding.weight"),
        "modal_weight": Slot("modality_weight"),
    }
    for m in model.modalities:
        if model.projection[m].bias is None:
            slots[f"{m}_trans"] = Slot(f"projection.{m}.weight", transposed=True)
        else:
            slots |= pair(f"{m}_trans", f"projection.{m}")
        for published, ours in (("emb_layer", "embedding"), ("in_layers.0", "input"), ("out_layers.0", "output")):
            slots |= pair(f"denoise_{m}.{published}", f"denoiser.{m}.{ours}")
    return slots


def _use_recorded_graphs(model: AbstractRecommender, fixture: Fixture) -> None:
    """The generated graphs of the file; its draws are in an order of their own."""
    for m in model.modalities:
        items = torch.from_numpy(fixture.arrays[f"rebuild/{m}_edges"])
        if items.shape[1] != model.rebuild_k:
            raise UserError(f"{fixture.path}: rebuild_k is {model.rebuild_k}, but users have {items.shape[1]} edges")
        model._connect(m, items, _kept(model, fixture, m))


def _kept(model: AbstractRecommender, fixture: Fixture, modality: str) -> torch.Tensor | None:
    if model.keep_rate == 1:
        return None
    rows, columns = fixture.arrays[f"rebuild/{modality}_order"]
    draws = fixture.arrays[f"rebuild/draw_{modality}"][np.lexsort((columns, rows))]
    return torch.from_numpy(draws) + model.keep_rate >= 1


def _diffused(fixture: Fixture, prefix: str, folder: str, dropout: bool) -> Iterator[tuple[str, object]]:
    """Loss and gradients of the denoisers for all users in one block."""
    model = fixture.build()
    rows = model.seen(torch.arange(fixture.meta["n_users"]))
    total = torch.zeros(())
    for m in model.modalities:
        steps, noise = (torch.from_numpy(fixture.arrays[f"diffusion/{what}_{m}"]) for what in ("steps", "noise"))
        mask = torch.from_numpy(fixture.arrays[f"dropout/mask_{m}"]) if dropout else None
        clean, graph = model.denoising_loss(m, rows, steps, noise, mask)
        yield f"{prefix}/part/denoise_{m}", clean.item()
        yield f"{prefix}/part/graph_{m}", graph.item()
        total = total + clean + model.graph_loss_weight * graph
    yield f"{prefix}/diffusion_loss", total.item()
    yield from gradients_apart(model, fixture, [("denoisers", total)], folder)


def _rebuilt(model: AbstractRecommender, fixture: Fixture) -> Iterator[tuple[str, object]]:
    """Denoised rows of all users, and the graphs of their largest entries."""
    users = torch.arange(fixture.meta["n_users"])
    for m in model.modalities:
        noise = fixture.arrays.get(f"rebuild/noise_{m}") if model.sampling_steps else None
        if model.sampling_steps and noise is None:
            raise UserError(f"{fixture.path} has no noise for sampling_steps {model.sampling_steps}")
        with torch.no_grad():
            scores = model.generate(m, users, None if noise is None else torch.from_numpy(noise))
        yield f"rebuild/{m}_scores", scores
        items = scores.topk(model.rebuild_k, dim=1).indices
        yield f"rebuild/{m}_edges", items
        model._connect(m, items, None)
        yield f"rebuild/{m}_full", dense(model.generated[m])
        model._connect(m, items, _kept(model, fixture, m))
        yield f"graph/{m}", dense(model.generated[m])


def _results(model: AbstractRecommender, fixture: Fixture) -> Iterator[tuple[str, object]]:
    yield "graph/norm_adj", dense(model.bipartite)
    diffusion = model.diffusion
    constants = {
        "betas": diffusion.betas,
        "alphas_cumprod": diffusion.signal.square(),
        "posterior_mean_coef1": diffusion.of_clean,
        "posterior_mean_coef2": diffusion.of_noisy,
    }
    for name, values in constants.items():
        yield f"diffusion/{name}", values
    yield from _diffused(fixture, "train", "grad", False)
    if "dropout/rate" in fixture.arrays:
        yield from _diffused(fixture, "dropout", "dropout/grad", True)
    with torch.no_grad():
        final, views = model.eval().views()
    users, items = (torch.from_numpy(fixture.arrays[f"batch_{side}"]) for side in ("users", "pos"))
    for m, view in views.items():
        yield f"eval/{m}_embeddings", view
        for side, value in zip(_CONTRAST, model.contrasts(final, view, users, items)):
            yield f"train/part/cl_{side}_{m}", value
    for side, value in zip(_CONTRAST, model.contrasts(*views.values(), users, items)):
        yield f"train/part/cl_{side}", value
    yield from _rebuilt(model, fixture)


ADAPTER = Adapter(
    slots=_slots,
    config=_config,
    parts={"bpr": same("bpr"), "cl_weighted": same("contrastive"), "reg_raw": weighted("reg", "reg_weight")},
    results=_results,
    prepare=_use_recorded_graphs,
    inputs=("diffusion/steps_*", "diffusion/noise_*", "rebuild/noise_*", "rebuild/draw_*", "rebuild/*_order"),
)
