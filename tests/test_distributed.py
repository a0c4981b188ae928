"""One run by several processes equals the same run by one: losses, parameters, graphs, scores, checkpoints.

Two processes on the CPU (gloo), started once for all models. Everything else is as RecBole does it: its trainer, its
loaders, DistributedDataParallel.
"""

from __future__ import annotations

import os
import socket
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.data.interaction import Interaction
from recbole.utils import ModelType, get_model, get_trainer, init_seed

from recbole_mambarec import registry
from recbole_mambarec.checkpoint import random_state
from recbole_mambarec.layers import losses, rows
from recbole_mambarec.testing.planted import QUICK, write_planted

WORLD = 2
# an odd number of users, so that the shares are filled up
SHAPE = {"groups": 3, "users_per_group": 11, "items_per_group": 10}
STEPS, EPOCHS, ROWS = 3, 2, 32
# gradient descent, as Adam turns the rounding error of a gradient near zero into a step of full length
SETTINGS = QUICK | {"learner": "sgd", "learning_rate": 0.5, "embedding_size": 8, "train_batch_size": ROWS, "gpu_id": ""}
OF_MODEL = {
    "GRCN": {"reg_weight": 0.1},
    "VBPR": {"reg_weight": 0.5},
    "LGMRec": {"reg_weight": 0.1, "cl_weight": 0.01},
    # at three times this rate rounding grows to differences
    "MambaRec": {"reg_weight": 0.1, "cl_weight": 0.5, "mmd_weight": 1.0, "lr_boost": 1.0},
    "MGCN": {"reg_weight": 0.1, "cl_weight": 0.5},
    "GUME": {"reg_weight": 0.1, "cl_weight": 0.5, "user_weight": 0.5},
    "SLMRec": {"ssl_weight": 0.5},
    "PGL": {"cl_weight": 0.5},
    # the profile view's cosine reaches into its last epoch
    "ThreeViews": {"cl_weight": 0.5, "reg_weight": 5.0, "n_negatives": 20, "profile_lr": 0.1, "profile_steps": 5},
    "DualGNN": {"reg_weight": 0.5},
    "DRAGON": {"reg_weight": 0.5},
    "MENTOR": {"reg_weight": 0.5, "align_weight": 0.5, "cl_weight": 0.5, "learning_rate": 0.1},
    "SOIL": {"cl_weight": 0.5, "user_cl_weight": 0.5},
    "DGMRec": {"inter_weight": 0.5, "intra_weight": 0.5, "align_weight": 0.5},
    "DAMRS": {"neighbor_weight": 0.1},
    "REARM": {"cl_weight": 0.5, "diff_weight": 0.01, "self_dropout": 0.0, "mutual_dropout": 0.0, "learning_rate": 0.02},
    "LIRDRec": {"reg_weight": 0.5},
    "SELFCFED_LGN": {"reg_weight": 0.01},
    # later steps of the diffusion weigh thousands
    "DiffMM": {"cl_weight": 0.5, "reg_weight": 0.01, "keep_rate": 0.5, "hidden_dim": 16, "diffusion_steps": 1},
    # the discriminator is trained, and the learnt graphs have edges
    "MMSSL": {"adversarial_weight": 0.01, "cl_weight": 0.3, "picked_share": 0.1, "discriminator_lr": 1e-6},
    # its losses are sums over the batch
    "LayerGCN": {"reg_weight": 0.1, "learning_rate": 0.02},
    "MVGAE": {"variant": "paper", "dropout_prob": 0.0, "learning_rate": 0.02},
    "CRANE": {"reg_weight": 0.1, "cl_weight": 0.5, "prune_rate": 0.5, "unit_content": True, "learning_rate": 0.05},
}
OTHERS = ("BPR", "LightGCN")


def configuration(model: str, data_path: str, rank: int | None) -> Config:
    overrides = SETTINGS | OF_MODEL.get(model, {}) | {"data_path": data_path}
    if model not in registry.built_in():
        overrides = {key: value for key, value in overrides.items() if key != "knn_k"}
    config = Config(model, "planted", config_dict=overrides)
    if rank is not None:  # what Config enters after it has made the group, which exists here
        config.final_config_dict.update(single_spec=False, local_rank=rank, world_size=WORLD)
    return config


def batches(model: str, rank: int | None) -> list[Interaction]:
    """Batches whose first half belongs to the first process, the second to the second."""
    rng = np.random.default_rng(3)
    users, items = SHAPE["groups"] * SHAPE["users_per_group"], SHAPE["groups"] * SHAPE["items_per_group"]
    made = []
    for _ in range(STEPS):
        columns = [rng.integers(1, count + 1, ROWS) for count in (users, items, items)]
        # rows that stand there twice, also in different processes
        for column in columns[:2]:
            column[-3:] = column[:3]
        part = slice(None) if rank is None else slice(rank * ROWS // WORLD, (rank + 1) * ROWS // WORLD)
        fields = ("user_id", "item_id", "neg_item_id")
        made.append(Interaction({name: torch.from_numpy(column[part]) for name, column in zip(fields, columns)}))
    return made


class Loader(list):
    """The part of a loader of training batches that a trainer uses."""

    shuffle, generator = False, None


def train(model_name: str, data_path: str, rank: int | None) -> dict:
    """Some steps of training and a validation; returns everything that the processes must agree on."""
    config = configuration(model_name, data_path, rank)
    init_seed(config["seed"], True)
    loaders = data_preparation(config, create_dataset(config))
    init_seed(config["seed"] + (rank or 0), True)  # as run_recbole does
    model = get_model(model_name)(config, loaders[0]._dataset)
    trainer = get_trainer(config["MODEL_TYPE"], model_name)(config, model)
    out = {"losses": [], "evaluations": []}
    if model_name in registry.built_in():
        graphs = []
        for epoch in range(EPOCHS):
            out["losses"].append(trainer._train_epoch(Loader(batches(model_name, rank)), epoch))
            graph = getattr(model, "training_graph", None) or getattr(getattr(model, "user_graph", None), "drawn", None)
            graphs.append(None if graph is None else graph.csr().to_dense().clone())
        out["graphs"] = graphs
        out["random"] = random_state(torch.device("cpu"), None)
        trainer._save_checkpoint(0, verbose=False)
        out["file"] = trainer.saved_model_file
    else:
        # RecBole's models average over processes what they compute of their own part: only scores are compared
        for parameter in model.parameters():
            torch.manual_seed(1)
            parameter.data.copy_(torch.randn(parameter.shape))
    out["state"] = {name: value.clone() for name, value in model.state_dict().items()}
    for loader in loaders[1:]:
        out["evaluations"].append(dict(trainer.evaluate(loader, load_best_model=False)))
    return out


def process(rank: int, folder: str, port: int, queue) -> None:
    os.chdir(folder)
    sys.argv = sys.argv[:1]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=WORLD, init_method=f"tcp://localhost:{port}")
    results = {name: train(name, folder, rank) for name in (*registry.built_in(), *OTHERS)}
    torch.save({"results": results, "functions": of_functions(rank)}, f"{folder}/results-{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def of_functions(rank: int | None) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Every loss that compares rows with each other or adds them up: mean over processes, and the gradient."""
    found = {}
    generator = torch.Generator().manual_seed(5)
    rows_of_all = [torch.randn(12, 5, generator=generator) for _ in range(3)]
    index = torch.randint(20, (12,), generator=generator)
    table = torch.randn(20, 5, generator=generator)
    part = slice(None) if rank is None else slice(rank * 6, rank * 6 + 6)
    functions = {
        "bpr": lambda a, b, c: losses.bpr(a, b, c),
        "info_nce": lambda a, b, c: losses.info_nce(a, b, 0.2),
        "info_nce_distinct": lambda a, b, c: losses.info_nce_distinct(a, b, index[part], 0.2),
        "dot_nce": lambda a, b, c: losses.dot_nce(a, b, 0.5),
        "info_nce_among": lambda a, b, c: losses.info_nce_among(a, table, index[part], 0.3),
        "cosine_distance": lambda a, b, c: losses.cosine_distance(a, b),
        "mmd_gaussian": lambda a, b, c: losses.mmd_gaussian(a, b, 1.5),
        "l2_half": lambda a, b, c: losses.l2_half(a, b, c, batch_size=12),
        "embedding_norm": lambda a, b, c: losses.embedding_norm(*map(rows.all_rows, (a, b, c))),
    }
    for name, function in functions.items():
        leaves = [x.clone().requires_grad_() for x in rows_of_all]
        loss = function(*(x[part] for x in leaves))
        loss.backward()
        value, gradient = (
            loss.detach().clone(),
            torch.stack([x.grad if x.grad is not None else x * 0 for x in leaves]).detach(),
        )
        if rank is not None:
            for tensor in (value, gradient):
                dist.all_reduce(tensor)
                tensor /= WORLD
        found[name] = value, gradient
    return found


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """Results of both processes, and of one process alone."""
    folder = tmp_path_factory.mktemp("together")
    write_planted(folder, **SHAPE)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    context = torch.multiprocessing.get_context("spawn")
    torch.multiprocessing.spawn(process, args=(str(folder), port, context.SimpleQueue()), nprocs=WORLD, join=True)
    both = [torch.load(folder / f"results-{rank}.pt", weights_only=False) for rank in range(WORLD)]
    return SimpleNamespace(folder=str(folder), both=both)


@pytest.fixture
def one(together):
    made = {}

    def run(model: str) -> dict:
        return made.setdefault(model, train(model, together.folder, None))

    return run


NAMES = registry.built_in()


@pytest.mark.parametrize("model", NAMES)
def test_losses_and_parameters_are_those_of_one_process(together, one, model):
    alone = one(model)
    for process_ in together.both:
        shared = process_["results"][model]
        for mine, theirs in zip(shared["losses"], alone["losses"]):
            assert mine == pytest.approx(theirs, rel=2e-5, abs=2e-6)
        assert shared["state"].keys() == alone["state"].keys()
        for name, value in alone["state"].items():
            torch.testing.assert_close(
                shared["state"][name], value, rtol=1e-3, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
            )


@pytest.mark.parametrize("model", [name for name in NAMES if get_model(name).type is not ModelType.TRADITIONAL])
def test_training_changed_the_compared_parameters(together, one, model):
    config = configuration(model, together.folder, None)
    init_seed(config["seed"], True)
    loaders = data_preparation(config, create_dataset(config))
    init_seed(config["seed"], True)
    before = get_model(model)(config, loaders[0]._dataset).state_dict()
    after = one(model)["state"]
    moved = max((after[n].double() - v.double()).abs().max().item() for n, v in before.items())
    assert moved > 1e-3


@pytest.mark.parametrize("model", [name for name in ("FREEDOM", "PGL", "COHESION", "CRANE") if name in NAMES])
def test_every_process_draws_the_same_graph(together, one, model):
    first, second = (process_["results"][model]["graphs"] for process_ in together.both)
    for a, b, c in zip(first, second, one(model)["graphs"]):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
        torch.testing.assert_close(a, c, rtol=0, atol=0)
    assert not torch.equal(first[0], first[1])


@pytest.mark.parametrize("model", [*NAMES, *OTHERS])
def test_scores_are_those_of_one_process(together, one, model):
    alone = one(model)["evaluations"]
    for process_ in together.both:
        assert process_["results"][model]["evaluations"] == alone


def test_the_first_process_writes_the_checkpoint(together):
    for model in NAMES:
        files = {process_["results"][model]["file"] for process_ in together.both}
        assert len(files) == 1
        state = torch.load(os.path.join(together.folder, *files), weights_only=True)
        assert state["model"] == model and state["resume"]["epoch"] == 0
        # negatives differ, what torch draws does not
        mine, other = (process_["results"][model]["random"] for process_ in together.both)
        assert not torch.equal(mine["numpy"][1], other["numpy"][1])
        assert torch.equal(mine["torch"], other["torch"])


@pytest.mark.parametrize("name", list(of_functions(None)))
def test_losses_of_parts_average_to_the_loss_of_the_whole(together, name):
    value, gradient = of_functions(None)[name]
    for process_ in together.both:
        shared_value, shared_gradient = process_["functions"][name]
        torch.testing.assert_close(shared_value, value, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(shared_gradient, gradient, rtol=1e-4, atol=1e-6)
