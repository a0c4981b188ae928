"""A model from outside with three optimizers: each trains its part alone, and a run continues exactly."""

import types
from pathlib import Path

import pytest
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed
from torch import nn

import recbole_mambarec
from recbole_mambarec import registry
from recbole_mambarec.checkpoint import read_checkpoint
from recbole_mambarec.data.loading import to_device
from recbole_mambarec.errors import UserError
from recbole_mambarec.layers.losses import bpr
from recbole_mambarec.models.base import MultimodalRecommender
from recbole_mambarec.testing.planted import QUICK, write_planted
from recbole_mambarec.trained_apart import TrainedApart


class Adversarial(MultimodalRecommender):
    """Matrix factorisation with a critic that is trained before each step and a scale that is trained before epochs."""

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        self.user_embedding = self.id_embedding(self.data.n_users)
        self.item_embedding = self.id_embedding(self.data.n_items)
        self.critic = nn.Linear(self.embedding_size, 1)
        self.scale = nn.Parameter(torch.ones(self.embedding_size))

    def trained_apart(self):
        return {
            "critic": TrainedApart(self.critic.parameters(), 0.02, 0.1, {"betas": (0.5, 0.9)}),
            "scale": TrainedApart([self.scale]),
        }

    def losses_before_epoch(self, epoch):
        for _ in range(2):
            yield "scale", ((self.scale - self.item_embedding.weight.mean(dim=0)) ** 2).sum()

    def losses_before_step(self, users, positives, negatives):
        rows = self.item_embedding.weight
        for _ in range(2):
            yield "critic", self.critic(rows[negatives]).mean() - self.critic(rows[positives]).mean()

    def embed(self):
        return self.user_embedding.weight, self.item_embedding.weight * self.scale

    def loss_parts(self, users, positives, negatives):
        u, i = self.embed()
        fooled = self.critic(self.item_embedding.weight[positives]).square().mean()
        return {"bpr": bpr(u[users], i[positives], i[negatives]), "fooled": fooled}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    (tmp_path / "Adversarial.yaml").write_text("embedding_size: 16\n")
    recbole_mambarec.register(Adversarial, defaults=tmp_path / "Adversarial.yaml")
    return write_planted(tmp_path)


def prepare(folder, model="Adversarial", **overrides):
    settings = {key: value for key, value in QUICK.items() if key != "knn_k"} | {"data_path": str(folder.parent)}
    config = Config(model, folder.name, config_dict=settings | {"epochs": 4} | overrides)
    init_seed(config["seed"], True)
    train, valid, _ = data_preparation(config, create_dataset(config))
    init_seed(config["seed"], True)
    made = get_model(model)(config, train._dataset)
    return get_trainer(config["MODEL_TYPE"], model)(config, made), train, valid


def parameters(trainer):
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def assert_same(state, expected, **tolerance):
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(state[name], value, **({"atol": 1e-6, "rtol": 1e-5} | tolerance))


@pytest.mark.parametrize("clip", [None, 0.01])
def test_an_epoch_is_that_of_a_loop_written_out(folder, clip):
    """With plain optimizers, whose parameters nothing else changes."""
    settings = {"clip_grad_norm": {"max_norm": clip} if clip else None, "weight_decay": 0.2, "lr_boost": 1.0}
    ours, train, _ = prepare(folder, **settings)
    losses = ours._train_epoch(train, 0)

    theirs, train, _ = prepare(folder, **settings)
    model = theirs.model
    ids = [model.user_embedding.weight, model.item_embedding.weight]
    optimizers = {
        "critic": torch.optim.Adam(model.critic.parameters(), lr=0.02, weight_decay=0.1, betas=(0.5, 0.9)),
        "scale": torch.optim.Adam([model.scale], lr=0.01, weight_decay=0.2),
        None: torch.optim.Adam(ids, lr=0.01, weight_decay=0.2),
    }
    totals = dict.fromkeys(optimizers, 0.0)

    def step(name, loss):
        model.zero_grad()
        loss.backward()
        own = optimizers[name].param_groups[0]["params"]
        if clip:
            nn.utils.clip_grad_norm_(own, clip)
        optimizers[name].step()
        totals[name] += loss.item()

    for name, loss in model.losses_before_epoch(0):
        step(name, loss)
    for rows in train:
        rows = to_device(rows, torch.device("cpu"))
        for name, loss in model.losses_before_step(*model.nodes_of(rows)):
            step(name, loss)
        step(None, sum(model.calculate_loss(rows)))
    assert_same(parameters(ours), parameters(theirs))
    assert sum(losses) == pytest.approx(totals.pop(None)) and ours.losses_apart == pytest.approx(totals)


@pytest.mark.parametrize("interval", [0, 3600])
def test_a_run_continues_exactly(folder, interval):
    whole, train, valid = prepare(folder, lr_decay_rate=0.5, lr_decay_epochs=2)
    whole.fit(train, valid, verbose=False)
    first, train, valid = prepare(
        folder, epochs=2, lr_decay_rate=0.5, lr_decay_epochs=2, checkpoint_interval=interval, checkpoint_dir="first"
    )
    first.fit(train, valid, verbose=False)
    file = first.saved_model_file
    second, train, valid = prepare(folder, lr_decay_rate=0.5, lr_decay_epochs=2, resume_from=file)
    best, result = second.fit(train, valid, verbose=False)
    assert best == whole.best_valid_score and dict(result) == dict(whole.best_valid_result)
    assert_same(parameters(second), parameters(whole))
    assert second.losses_apart == pytest.approx(whole.losses_apart, rel=1e-5)


def test_other_rates_are_used_when_a_run_continues(folder):
    first, train, valid = prepare(folder, epochs=1, lr_boost=1.0)
    first.fit(train, valid, verbose=False)
    second, *_ = prepare(folder, learning_rate=0.5, weight_decay=0.3, lr_boost=1.0)
    second.resume_checkpoint(first.saved_model_file)
    found = {
        name: (group["lr"], group["weight_decay"])
        for name, descent in {"main": second._main, **second._apart}.items()
        for group in descent.optimizer.param_groups
    }
    # what the model says itself does not follow the configuration
    assert found == {"main": (0.5, 0.3), "scale": (0.5, 0.3), "critic": (0.02, 0.1)}


def test_a_checkpoint_without_its_optimizers_is_refused(folder):
    first, train, valid = prepare(folder, epochs=1)
    first.fit(train, valid, verbose=False)
    state = read_checkpoint(first.saved_model_file)
    del state["resume"]["optimizers_apart"]["scale"]
    torch.save(state, "damaged.pth")
    second, *_ = prepare(folder)
    with pytest.raises(UserError, match=r"it has optimizers for \['critic'\], the model for \['critic', 'scale'\]"):
        second.resume_checkpoint("damaged.pth")


def test_the_schedule_is_that_of_all_optimizers(folder):
    trainer, train, _ = prepare(folder, epochs=3, lr_decay_rate=0.5, lr_decay_epochs=1, lr_boost=1.0)
    rates = []
    trainer.model.pre_epoch = lambda epoch: rates.append(
        tuple(descent.optimizer.param_groups[0]["lr"] for descent in trainer._descents)
    )
    trainer.fit(train, verbose=False, saved=False)
    assert rates == [pytest.approx((0.01 * f, 0.02 * f, 0.01 * f)) for f in (1, 0.5, 0.25)]


class _OwnSchedule(Adversarial):
    """The critic learns in the first two epochs, whatever the others do."""

    def falling(self, epoch):
        return max(0.0, 1.0 - epoch / 2)

    def trained_apart(self):
        return super().trained_apart() | {"critic": TrainedApart(self.critic.parameters(), 0.02, schedule=self.falling)}


def test_a_part_may_have_a_schedule_of_its_own(folder, monkeypatch):
    """Also where a run continues."""
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    recbole_mambarec.register(_OwnSchedule, defaults=folder.parent / "Adversarial.yaml")

    def run(**overrides):
        settings = {"lr_decay_rate": 0.5, "lr_decay_epochs": 1, "lr_boost": 1.0}
        trainer, train, valid = prepare(folder, model="_OwnSchedule", **settings | overrides)
        rates = []
        trainer.model.pre_epoch = lambda epoch: rates.append(
            tuple(descent.optimizer.param_groups[0]["lr"] for descent in trainer._descents)
        )
        trainer.fit(train, valid, verbose=False)
        return trainer, rates

    expected = [pytest.approx(each) for each in ((0.01, 0.02, 0.01), (0.005, 0.01, 0.005), (0.0025, 0.0, 0.0025))]
    whole, rates = run(epochs=3)
    assert rates == expected
    first, _ = run(epochs=1, checkpoint_dir="first")
    second, rates = run(epochs=3, resume_from=first.saved_model_file)
    assert rates == expected[1:]
    assert_same(parameters(second), parameters(whole))


@pytest.mark.parametrize("norm", [1e-2, 1e9])
def test_a_scaled_loss_changes_no_step(folder, norm):
    made = []
    for scaled in (False, True):
        trainer, train, _ = prepare(folder, epochs=2, learner="sgd", clip_grad_norm={"max_norm": norm})
        trainer.enable_scaler = scaled
        trainer.fit(train, verbose=False, saved=False)
        made.append(parameters(trainer))
    assert_same(*made, rtol=1e-4, atol=1e-6)


def test_losses_are_logged_by_name(folder, caplog):
    trainer, train, valid = prepare(folder, epochs=1)
    caplog.set_level("INFO")
    trainer.fit(train, valid)
    line = next(r.getMessage() for r in caplog.records if "training" in r.getMessage())
    assert [line.count(name) for name in ("bpr", "fooled", "critic", "scale")] == [1, 1, 1, 1]


def test_a_loss_that_becomes_nan_ends_the_run(folder):
    trainer, train, _ = prepare(folder)

    def losses(self, users, positives, negatives):
        yield "critic", self.critic.weight.sum() * torch.nan

    trainer.model.losses_before_step = types.MethodType(losses, trainer.model)
    with pytest.raises(UserError, match="became NaN in epoch 0"):
        trainer.fit(train, verbose=False, saved=False)
    assert not list(Path("saved").glob("*.pth"))
