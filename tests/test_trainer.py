"""Schedule, named losses, plain checkpoints, resuming."""

import os
import pickletools
import signal
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.data.dataloader import TrainDataLoader
from recbole.trainer import Trainer
from recbole.utils import InputType, get_model, get_trainer, init_seed

from recbole_mambarec.checkpoint import plain, read_checkpoint
from recbole_mambarec.errors import UserError
from recbole_mambarec.testing.planted import QUICK, write_planted
from recbole_mambarec.testing.waits import Waits
from tests import warm
from tests.helpers import posix


def prepare(folder, **overrides):
    config = Config("MambaRec", folder.name, config_dict=QUICK | {"data_path": str(folder.parent)} | overrides)
    init_seed(config["seed"], True)
    train, valid, test = data_preparation(config, create_dataset(config))
    init_seed(config["seed"], True)
    model = get_model("MambaRec")(config, train._dataset)
    trainer = get_trainer(config["MODEL_TYPE"], "MambaRec")(config, model)
    return trainer, train, valid, test


@pytest.fixture
def folder(tmp_path):
    return write_planted(tmp_path)


def test_an_epoch_equals_that_of_recboles_loop(folder):
    ours, train, *_ = prepare(folder, lr_decay_rate=1.0)
    losses = ours._train_epoch(train, 0)
    theirs, train, *_ = prepare(folder, lr_decay_rate=1.0)
    plain_loader = TrainDataLoader(theirs.config, train._dataset, train._sampler, shuffle=True)
    expected = Trainer._train_epoch(theirs, plain_loader, 0)
    assert len(train) > 2
    assert losses == expected
    for name, value in theirs.model.state_dict().items():
        torch.testing.assert_close(ours.model.state_dict()[name], value, atol=0, rtol=0)


@pytest.mark.parametrize("amp", [False, True])
def test_no_step_waits_for_the_device(folder, amp):
    """Reading a value waits for the device; the losses are read once, at the end of the epoch."""
    trainer, train, *_ = prepare(folder, enable_amp=amp)
    with Waits() as waits:
        trainer._train_epoch(train, 0)
    assert waits.seen == ["_local_scalar_dense"]


def test_a_loss_that_becomes_nan_ends_the_run(folder):
    trainer, train, valid, _ = prepare(folder, learning_rate=1e30)
    with pytest.raises(UserError, match=r"became NaN in epoch \d: lower learning_rate"):
        trainer.fit(train, valid, verbose=False)


def test_the_learning_rate_decays_continuously(folder):
    trainer, train, *_ = prepare(folder, epochs=3, lr_decay_rate=0.5, lr_decay_epochs=2, lr_boost=1.0)
    rates = []
    trainer.model.pre_epoch = lambda epoch: rates.append(trainer.optimizer.param_groups[0]["lr"])
    trainer.fit(train, verbose=False, saved=False)
    assert rates == pytest.approx([0.01, 0.01 * 0.5**0.5, 0.005])


def test_the_first_epochs_may_have_a_higher_rate(folder):
    rates = {}
    for name, settings in {
        "off": {"lr_boost": 1.0},
        "on": {"lr_boost": 3.0, "lr_boost_epochs": 2, "lr_boost_steps": 0},
    }.items():
        trainer, train, *_ = prepare(folder, epochs=4, lr_decay_rate=0.5, lr_decay_epochs=2, **settings)
        rates[name] = []
        trainer.model.pre_epoch = lambda _, t=trainer, n=name: rates[n].append(t.optimizer.param_groups[0]["lr"])
        trainer.fit(train, verbose=False, saved=False)
    assert rates["on"] == pytest.approx([rate * factor for rate, factor in zip(rates["off"], (3, 3, 1, 1))])


@pytest.mark.parametrize(("epochs", "steps", "boosted"), [(1, 0, 1), (1, 3, 1), (1, 4, 2), (2, 9, 3), (3, 6, 3)])
def test_the_boost_lasts_a_number_of_steps_at_least(folder, epochs, steps, boosted):
    """An epoch of these data has three steps."""
    trainer, train, *_ = prepare(
        folder, epochs=5, lr_decay_rate=1.0, lr_boost=2.0, lr_boost_epochs=epochs, lr_boost_steps=steps
    )
    rates = []
    trainer.model.pre_epoch = lambda epoch: rates.append(trainer.optimizer.param_groups[0]["lr"])
    trainer.fit(train, verbose=False, saved=False)
    assert rates == pytest.approx([0.02] * boosted + [0.01] * (5 - boosted))


def test_hooks_are_called_around_each_epoch(folder):
    trainer, train, *_ = prepare(folder, epochs=2)
    calls = []
    trainer.model.pre_epoch = lambda epoch: calls.append(("pre", epoch))
    trainer.model.post_epoch = lambda epoch: calls.append(("post", epoch))
    trainer.fit(train, verbose=False, saved=False)
    assert calls == [("pre", 0), ("post", 0), ("pre", 1), ("post", 1)]


def test_losses_are_logged_by_name(folder, caplog):
    trainer, train, valid, _ = prepare(folder, epochs=1)
    scalars = []
    trainer.tensorboard.add_scalar = lambda tag, value, epoch: scalars.append(tag)
    caplog.set_level("INFO")
    trainer.fit(train, valid)
    line = next(r.getMessage() for r in caplog.records if "training" in r.getMessage())
    assert [line.count(f"{name}") for name in ("bpr", "reg", "contrastive", "mmd", "train_loss")] == [1, 1, 1, 1, 0]
    assert {"Loss/Train", "Loss/Train/bpr", "Loss/Train/mmd"} <= set(scalars)


def test_a_checkpoint_holds_tensors_and_plain_values_only(folder):
    trainer, train, valid, _ = prepare(folder, epochs=2)
    trainer.fit(train, valid, verbose=False)
    allowed = {"collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter"}
    with zipfile.ZipFile(trainer.saved_model_file) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith("data.pkl")]
        names = {arg for op, arg, _ in pickletools.genops(archive.read(name)) if op.name == "GLOBAL"}
    assert {n for n in names if not n.startswith("torch ")} <= allowed
    state = torch.load(trainer.saved_model_file, weights_only=True)
    assert state["config"]["MODEL_INPUT_TYPE"] == "PAIRWISE" and state["config"]["device"] == "cpu"
    assert set(state["best_valid_result"]) == {"recall@10", "recall@20", "ndcg@10", "ndcg@20"}


def test_an_interrupted_save_leaves_the_old_checkpoint(folder, monkeypatch):
    trainer, train, valid, _ = prepare(folder, epochs=1)
    trainer.fit(train, valid, verbose=False)
    before = Path(trainer.saved_model_file).read_bytes()

    def fail(state, path):
        Path(path).write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="no space"):
        trainer._save_checkpoint(1)
    assert Path(trainer.saved_model_file).read_bytes() == before
    assert len(list(Path(trainer.saved_model_file).parent.iterdir())) == 1


def test_resuming_continues_exactly_where_the_run_was(folder):
    whole, train, valid, _ = prepare(folder, epochs=6)
    whole.fit(train, valid, verbose=False)

    first, train, valid, _ = prepare(folder, epochs=3)
    first.fit(train, valid, verbose=False)
    # the checkpoint of the best epoch, which with this seed is the last one
    assert read_checkpoint(first.saved_model_file)["epoch"] == 2
    kept = Path(first.saved_model_file).with_name("kept.pth")
    Path(first.saved_model_file).rename(kept)
    content = kept.read_bytes()

    second, train, valid, _ = prepare(folder, epochs=6, resume_from=str(kept))
    best, result = second.fit(train, valid, verbose=False)
    assert sorted(second.train_loss_dict) == [3, 4, 5]
    for epoch in (3, 4, 5):
        assert second.train_loss_dict[epoch] == pytest.approx(whole.train_loss_dict[epoch], rel=1e-6)
    assert best == whole.best_valid_score and dict(result) == dict(whole.best_valid_result)
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(second.model.state_dict()[name], value, atol=1e-6, rtol=1e-5)
    assert kept.read_bytes() == content


def scores(trainer, values):
    """Let the validation scores of the epochs be ``values``."""
    evaluate, left = trainer._valid_epoch, iter(values)

    def valid_epoch(*args, **kwargs):
        evaluate(*args, **kwargs)
        score = next(left)
        trainer._last_valid_result = {"recall@20": score}
        return score, trainer._last_valid_result

    trainer._valid_epoch = valid_epoch


def parameters(trainer):
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def assert_same(state, expected):
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(state[name], value, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("interval", "written"), [(0, [0, 1, 2, 3, 4, 5]), (3600, [0, 5])])
def test_improvements_stay_in_memory_until_the_interval_is_over(folder, monkeypatch, interval, written):
    trainer, train, valid, _ = prepare(folder, epochs=6, checkpoint_interval=interval)
    scores(trainer, range(6))
    saved, save = [], torch.save
    monkeypatch.setattr(torch, "save", lambda state, path: (saved.append(state["resume"]["epoch"]), save(state, path)))
    copies = []
    trainer.model.pre_epoch = lambda epoch: copies.append(trainer._best)
    trainer.fit(train, valid, verbose=False)
    assert saved == written
    # one copy in memory, overwritten
    assert len({best.state_dict["user_embedding.weight"].data_ptr() for best in copies[1:]}) == 1


def test_the_file_holds_the_best_epoch_and_continues_after_the_last(folder):
    trainer, train, valid, test = prepare(folder, epochs=4)
    scores(trainer, [0.1, 0.3, 0.2, 0.2])
    best = {}
    trainer.model.pre_epoch = lambda epoch: best.update(parameters(trainer)) if epoch == 2 else None
    trainer.fit(train, valid, verbose=False)
    state = read_checkpoint(trainer.saved_model_file)
    assert (state["epoch"], state["best_valid_score"], state["best_valid_result"]) == (1, 0.3, {"recall@20": 0.3})
    assert (state["resume"]["epoch"], state["resume"]["cur_step"]) == (3, 2)
    assert_same(state["state_dict"], best)
    assert_same(state["resume"]["state_dict"], parameters(trainer))
    trainer.evaluate(test)
    assert_same(parameters(trainer), best)


CRASH = """
import os, signal, sys
sys.argv = ["crash"]
from pathlib import Path
from tests.test_trainer import prepare
trainer, train, valid, _ = prepare(Path({folder!r}), epochs=6, checkpoint_interval={interval}, checkpoint_dir="crashed")
steps = []
step = trainer.optimizer.step
def step_or_die(*args, **kwargs):
    steps.append(1)
    if len(steps) == {steps}:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(*args, **kwargs)
trainer.optimizer.step = step_or_die
trainer.fit(train, valid, verbose=False)
"""


@posix
@pytest.mark.parametrize(("interval", "continued"), [(0, [4, 5]), (3600, [1, 2, 3, 4, 5])])
def test_a_killed_run_continues_exactly(folder, interval, continued):
    whole, train, valid, test = prepare(folder, epochs=6)
    whole.fit(train, valid, verbose=False)
    # in the middle of epoch 4
    code = CRASH.format(folder=str(folder), interval=interval, steps=4 * len(train) + 2)
    done = warm.python("-c", code, env=os.environ | {"PYTHONPATH": str(warm.ROOT)})
    assert done.returncode == -signal.SIGKILL, done.stderr
    (file,) = Path("crashed").glob("*.pth")

    crashed, train, valid, test = prepare(folder, epochs=6)
    best_so_far = crashed.evaluate(test, model_file=file)
    assert best_so_far["recall@20"] > 0
    second, train, valid, test = prepare(folder, epochs=6, resume_from=str(file))
    best, result = second.fit(train, valid, verbose=False)
    assert sorted(second.train_loss_dict) == continued
    for epoch in continued:
        assert second.train_loss_dict[epoch] == pytest.approx(whole.train_loss_dict[epoch], rel=1e-6)
    assert best == whole.best_valid_score and dict(result) == dict(whole.best_valid_result)
    assert_same(parameters(second), parameters(whole))
    assert second.evaluate(test) == whole.evaluate(test)


def test_an_interrupt_adds_the_best_epoch_and_keeps_the_state_to_resume(folder):
    whole, train, valid, _ = prepare(folder, epochs=5)
    scores(whole, [0.1, 0.2, 0.4, 0.3, 0.2])
    whole.fit(train, valid, verbose=False)

    first, train, valid, _ = prepare(folder, epochs=5, checkpoint_interval=3600, checkpoint_dir="interrupted")
    scores(first, [0.1, 0.2, 0.4])
    best = {}

    def interrupt(epoch):
        if epoch == 3:
            best.update(parameters(first))
            raise KeyboardInterrupt

    first.model.pre_epoch = interrupt
    with pytest.raises(KeyboardInterrupt):
        first.fit(train, valid, verbose=False)
    state = read_checkpoint(first.saved_model_file)
    assert (state["epoch"], state["resume"]["epoch"], state["resume"]["best_valid_score"]) == (2, 0, 0.1)
    assert_same(state["state_dict"], best)

    second, train, valid, _ = prepare(folder, epochs=5, resume_from=first.saved_model_file, checkpoint_dir="second")
    scores(second, [0.2, 0.4, 0.3, 0.2])
    second.fit(train, valid, verbose=False)
    ours, theirs = (read_checkpoint(t.saved_model_file) for t in (second, whole))
    assert ours["epoch"] == theirs["epoch"] == 2
    assert ours["resume"]["cur_step"] == theirs["resume"]["cur_step"] == 2
    assert_same(ours["state_dict"], theirs["state_dict"])
    assert_same(ours["resume"]["state_dict"], theirs["resume"]["state_dict"])


def test_before_the_first_evaluation_the_file_holds_the_latest_epoch(folder):
    whole, train, valid, _ = prepare(folder, epochs=4, eval_step=4)
    whole.fit(train, valid, verbose=False)
    first, train, valid, _ = prepare(folder, epochs=4, eval_step=4, checkpoint_interval=0, checkpoint_dir="first")

    def interrupt(epoch):
        if epoch == 2:
            raise KeyboardInterrupt

    first.model.pre_epoch = interrupt
    with pytest.raises(KeyboardInterrupt):
        first.fit(train, valid, verbose=False)
    state = read_checkpoint(first.saved_model_file)
    assert state["epoch"] == state["resume"]["epoch"] == 1
    second, train, valid, _ = prepare(folder, epochs=4, eval_step=4, resume_from=first.saved_model_file)
    assert second.fit(train, valid, verbose=False)[0] == whole.best_valid_score
    assert_same(parameters(second), parameters(whole))


def test_a_run_without_validation_keeps_its_last_epoch(folder):
    trainer, train, *_ = prepare(folder, epochs=3)
    trainer.fit(train, verbose=False)
    state = read_checkpoint(trainer.saved_model_file)
    assert state["epoch"] == state["resume"]["epoch"] == 2
    assert_same(state["state_dict"], parameters(trainer))


def test_a_checkpoint_of_the_first_format_is_continued(folder):
    """It was written at the best epoch, from which it continues."""
    first, train, valid, _ = prepare(folder, epochs=2)
    scores(first, [0.1, 0.2])
    first.fit(train, valid, verbose=False)
    state = read_checkpoint(first.saved_model_file)
    old = {**state.pop("resume"), "model": state["model"], "config": state["config"]}
    torch.save(old | {"format": "recbole_mambarec.checkpoint/1", "state_dict": state["state_dict"]}, "old.pth")
    second, train, valid, test = prepare(folder, epochs=3, resume_from="old.pth", checkpoint_dir="second")
    second.fit(train, valid, verbose=False)
    assert sorted(second.train_loss_dict) == [2]
    assert second.evaluate(test, model_file="old.pth") == first.evaluate(test)


def test_resuming_a_finished_run_still_evaluates_its_best_epoch(folder):
    first, train, valid, test = prepare(folder, epochs=2)
    first.fit(train, valid, verbose=False)
    expected = first.evaluate(test)
    again, train, valid, test = prepare(folder, epochs=2, resume_from=first.saved_model_file)
    _, result = again.fit(train, valid, verbose=False)
    assert again.evaluate(test) == expected and result


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda path: path.unlink(), "not found"),
        (lambda path: path.write_bytes(path.read_bytes()[:500]), "damaged"),
        (lambda path: torch.save({"weights": torch.ones(2)}, path), "its format is not"),
        (lambda path: torch.save({"object": InputType.PAIRWISE}, path), "not a checkpoint of this package"),
    ],
)
def test_files_that_cannot_be_resumed(folder, spoil, sentence):
    first, train, valid, _ = prepare(folder, epochs=1)
    first.fit(train, valid, verbose=False)
    path = Path(first.saved_model_file)
    spoil(path)
    trainer, train, valid, _ = prepare(folder, epochs=2, resume_from=str(path))
    with pytest.raises(UserError, match=sentence) as caught:
        trainer.fit(train, valid)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_of_another_shape(folder, tmp_path):
    first, train, valid, _ = prepare(folder, epochs=1)
    first.fit(train, valid, verbose=False)
    larger = write_planted(tmp_path / "larger", users_per_group=16)
    trainer, train, valid, _ = prepare(larger, epochs=2, resume_from=first.saved_model_file)
    with pytest.raises(UserError, match="does not fit this model and dataset"):
        trainer.fit(train, valid)


@pytest.mark.parametrize("key", ["lr_decay_rate", "lr_boost"])
def test_an_impossible_schedule(folder, key):
    with pytest.raises(UserError, match=f"{key} must be positive, got 0"):
        prepare(folder, **{key: 0})


def test_plain_values():
    value = {"a": np.float64(1.5), 2: (InputType.PAIRWISE, torch.device("cpu"), {1}), "n": None, "b": np.bool_(True)}
    assert plain(value) == {"a": 1.5, "2": ["PAIRWISE", "cpu", [1]], "n": None, "b": True}
    assert type(plain(value)["a"]) is float
