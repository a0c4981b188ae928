"""Clipping gives the same steps with and without a scaled loss."""

import copy

import pytest
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.trainer import trainer as trainers
from recbole.utils import get_model, get_trainer, init_seed
from torch import nn

from recbole_mambarec.clipping import clip_gradients
from recbole_mambarec.testing.planted import QUICK, write_planted


def trained(folder, model, scaled, norm, **overrides):
    """Parameters before and after two epochs."""
    settings = {"learner": "sgd", "clip_grad_norm": {"max_norm": norm}, "state": "ERROR"}
    settings |= QUICK | {"data_path": str(folder.parent), "epochs": 2, "learning_rate": 0.5} | overrides
    config = Config(model, folder.name, config_dict=settings)
    init_seed(config["seed"], True)
    train, *_ = data_preparation(config, create_dataset(config))
    init_seed(config["seed"], True)
    trainer = get_trainer(config["MODEL_TYPE"], model)(config, get_model(model)(config, train.dataset))
    trainer.enable_scaler = scaled
    before = copy.deepcopy(dict(trainer.model.named_parameters()))
    trainer.fit(train, None, verbose=False, saved=False)
    return before, dict(trainer.model.named_parameters())


@pytest.fixture
def scales(monkeypatch):
    """The factors of the losses."""
    seen, step = [], torch.amp.GradScaler.step

    def noted(scaler, *args, **kwargs):
        seen.append(scaler.get_scale())
        return step(scaler, *args, **kwargs)

    monkeypatch.setattr(torch.amp.GradScaler, "step", noted)
    return seen


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        ("BPR", {}),
        ("LightGCN", {}),
        ("MultiVAE", {}),
        # two optimizers, of which each leaves the other's gradients alone
        ("RecVAE", {"n_enc_epochs": 2, "n_dec_epochs": 1, "dropout_prob": 0.0}),
        # a loop of its own
        ("NCL", {"m_step": 5, "warm_up_step": 0, "num_clusters": 4, "hyper_layers": 1}),
        ("MambaRec", {}),
        ("VBPR", {}),
    ],
)
@pytest.mark.parametrize(("norm", "rate"), [(1e-3, 0.5), (1e9, 1e-3)])
def test_a_scaled_loss_changes_no_step(tmp_path, scales, model, settings, norm, rate):
    if model == "NCL":
        pytest.importorskip("faiss")
    folder, settings = write_planted(tmp_path), settings | {"learning_rate": rate}
    before, expected = trained(folder, model, False, norm, **settings)
    assert set(scales) == {1.0}
    scales.clear()
    _, parameters = trained(folder, model, True, norm, **settings)
    assert min(scales) >= 1024
    for name, value in expected.items():
        torch.testing.assert_close(parameters[name], value, rtol=1e-4, atol=1e-7)
    assert any(not torch.equal(value, before[name]) for name, value in expected.items())


def test_clipping_cuts_the_gradients_down(tmp_path):
    folder = write_planted(tmp_path)
    moved = []
    for norm in (1e-3, 1e-2):
        before, after = trained(folder, "BPR", True, norm, epochs=1)
        moved.append(sum(((after[name] - before[name]) ** 2).sum() for name in after).sqrt().item())
    # rate x length x steps, in nearly one direction
    assert moved[1] == pytest.approx(10 * moved[0], rel=0.05)


@pytest.mark.parametrize("scaled", [False, True])
def test_sparse_gradients(scaled):
    lengths, results = [], []
    for sparse in (False, True):
        torch.manual_seed(3)
        table = nn.Embedding(6, 4, sparse=sparse)
        optimizer = torch.optim.SGD(table.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler("cpu", enabled=scaled)
        scaler.scale((table(torch.tensor([1, 1, 4])) ** 2).sum()).backward()
        lengths.append(clip_gradients(table.parameters(), scaler, optimizer, max_norm=0.5))
        scaler.step(optimizer)
        results.append(table.weight.detach())
    torch.testing.assert_close(lengths[1], lengths[0])
    torch.testing.assert_close(results[1], results[0])
    assert lengths[0] > 0.5


def test_the_name_in_recboles_module_can_be_called_by_others():
    parameter = nn.Parameter(torch.ones(4))
    parameter.grad = torch.full((4,), 3.0)
    assert trainers.clip_grad_norm_([parameter], 1.0) == 6
    assert parameter.grad.norm() == pytest.approx(1.0, rel=1e-5)
