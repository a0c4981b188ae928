"""Patience that counts training steps as well as evaluations, and the warning about runs that have learned nothing."""

import logging

import pytest
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed

from recbole_mambarec import patience
from recbole_mambarec.testing.planted import QUICK, write_planted

STEPS = 3  # of an epoch of the planted data: 360 pairs in batches of 128


def prepare(folder, model="MambaRec", **overrides):
    settings = QUICK | {"data_path": str(folder.parent), "checkpoint_dir": str(folder / "saved")} | overrides
    config = Config(model, folder.name, config_dict=settings)
    init_seed(config["seed"], True)
    train, valid, _ = data_preparation(config, create_dataset(config))
    init_seed(config["seed"], True)
    trainer = get_trainer(config["MODEL_TYPE"], model)(config, get_model(model)(config, train._dataset))
    assert len(train) == STEPS
    return trainer, train, valid


def scores_of(trainer, scores):
    """Let validation return ``scores`` one after another; returns the list of those that were used."""
    given = []

    def evaluate(*args, **kwargs):
        given.append(scores[len(given)])
        return {trainer.valid_metric: given[-1]}

    trainer.evaluate = evaluate
    return given


@pytest.fixture
def folder(tmp_path):
    return write_planted(tmp_path)


@pytest.mark.parametrize("model", ["MambaRec", "BPR", "LightGCN", "NCL"])
def test_early_evaluations_do_not_count(folder, model):
    """Epochs 1 to 4 end after 3, 6, 9 and 12 steps, so four evaluations are too early, and three more are allowed."""
    settings = {"warm_up_step": 100, "num_clusters": 4} if model == "NCL" else {}
    trainer, train, valid = prepare(folder, model, epochs=30, stopping_step=3, stopping_min_steps=13, **settings)
    given = scores_of(trainer, [0.5] + [0.4] * 29)
    score, _ = trainer.fit(train, valid, saved=False)
    assert (len(given), score) == (8, 0.5)
    assert trainer.stopping_step == 3


@pytest.mark.parametrize("model", ["MambaRec", "BPR"])
@pytest.mark.parametrize(
    ("scores", "epochs"),
    [
        # a score that rises late starts the usual patience
        ([0.5] * 1 + [0.4] * 5 + [0.6] + [0.1] * 20, 7 + 4),
        # for one that rises early, the remaining early evaluations do not count
        ([0.5, 0.6] + [0.1] * 20, 4 + 4),
        ([0.1, 0.2, 0.3, 0.4, 0.5] + [0.1] * 20, 5 + 4),
    ],
)
def test_patience_after_a_better_score(folder, model, scores, epochs):
    trainer, train, valid = prepare(folder, model, epochs=27, stopping_step=3, stopping_min_steps=15)
    given = scores_of(trainer, scores)
    trainer.fit(train, valid, saved=False)
    assert len(given) == epochs


@pytest.mark.parametrize("settings", [{"stopping_min_steps": 0}, {"protocol": "recbole"}])
def test_recboles_patience_without_a_minimum_of_steps(folder, settings):
    trainer, train, valid = prepare(folder, "BPR", epochs=30, stopping_step=3, **settings)
    given = scores_of(trainer, [0.5] + [0.4] * 29)
    trainer.fit(train, valid, saved=False)
    assert len(given) == 5


def test_several_epochs_between_evaluations(folder):
    """Evaluations come after 6, 12, 18 steps: two are early."""
    trainer, train, valid = prepare(folder, epochs=60, stopping_step=1, stopping_min_steps=18, eval_step=2)
    given = scores_of(trainer, [0.5] + [0.4] * 29)
    trainer.fit(train, valid, saved=False)
    assert len(given) == 4


@pytest.mark.parametrize("stopped_after", [2, 5, 7])
def test_a_resumed_training_stops_where_the_whole_one_does(folder, stopped_after):
    scores = [0.3, 0.5, *[0.4] * 28]
    settings = {"stopping_step": 3, "stopping_min_steps": 15, "checkpoint_interval": 0}
    whole, train, valid = prepare(folder, epochs=30, **settings)
    given = scores_of(whole, scores)
    whole.fit(train, valid, verbose=False)
    assert len(given) == 8

    first, train, valid = prepare(folder, epochs=stopped_after, **settings)
    scores_of(first, scores)
    first.fit(train, valid, verbose=False)
    rest, train, valid = prepare(folder, epochs=30, resume_from=first.saved_model_file, **settings)
    given = scores_of(rest, scores[stopped_after:])
    rest.fit(train, valid, verbose=False)
    assert len(given) == 8 - stopped_after


@pytest.mark.parametrize("model", ["MambaRec", "BPR"])
@pytest.mark.parametrize(
    ("scores", "warned"), [([0.5, 0.4, 0.3], True), ([0.5, 0.4, 0.6], False), ([0.5], False), ([0.5, 0.5], False)]
)
def test_a_warning_if_the_best_epoch_is_the_first(folder, caplog, model, scores, warned):
    trainer, train, valid = prepare(folder, model, epochs=len(scores))
    scores_of(trainer, scores)
    with caplog.at_level(logging.WARNING):
        trainer.fit(train, valid, verbose=False, saved=False)
    said = [r.getMessage() for r in caplog.records if patience.FIRST_IS_BEST in r.getMessage()]
    assert len(said) == warned
    assert all(f"{model} on planted" in sentence for sentence in said)


def test_the_message_about_the_best_epoch_stays_right(folder, caplog):
    trainer, train, valid = prepare(folder, epochs=30, stopping_step=2, stopping_min_steps=18)
    scores_of(trainer, [0.1, 0.5] + [0.4] * 28)
    with caplog.at_level(logging.INFO):
        trainer.fit(train, valid, saved=False)
    assert "Finished training, best eval result in epoch 1" in caplog.text


def test_records_whose_best_epoch_is_the_first():
    curve = [{"epoch": 0, "valid": None}, {"epoch": 1, "valid": {"a": 1}}, {"epoch": 2, "valid": {"a": 0}}]
    assert patience.first_is_best(curve, 1)
    assert not patience.first_is_best(curve, 2)
    assert not patience.first_is_best(curve[:2], 1)
    assert not patience.first_is_best([], None)


def test_the_boost_goes_on_until_the_model_has_begun(folder):
    """A rate is chosen before the evaluation that precedes its epoch: the boost ends one epoch after the rise."""
    rates = {}
    for name, scores in {"rises": [0.5, 0.6, *[0.7] * 8], "starts late": [0.5, 0.4, 0.4, 0.4, 0.6, *[0.7] * 5]}.items():
        trainer, train, valid = prepare(
            folder, epochs=10, lr_decay_rate=1.0, lr_boost=2.0, lr_boost_epochs=3, lr_boost_steps=0
        )
        scores_of(trainer, scores)
        rates[name] = []
        trainer.model.pre_epoch = lambda _, t=trainer, n=name: rates[n].append(t.optimizer.param_groups[0]["lr"])
        trainer.fit(train, valid, saved=False)
    assert rates["rises"] == pytest.approx([0.02] * 3 + [0.01] * 7)
    assert rates["starts late"] == pytest.approx([0.02] * 6 + [0.01] * 4)
