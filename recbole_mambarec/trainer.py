"""RecBole's ``Trainer`` with a learning rate schedule, epoch hooks, named losses and plain checkpoints."""

from __future__ import annotations

import random
from enum import Enum

import numpy as np
import torch
import torch.distributed as dist
from recbole.trainer import Trainer
from recbole.utils import set_color

from recbole_mambarec.allocator import keep_freed_memory
from recbole_mambarec.errors import UserError
from recbole_mambarec.files import atomic_file

CHECKPOINT_FORMAT = "recbole_mambarec.checkpoint/1"


class MultimodalTrainer(Trainer):
    """Trains a :class:`~recbole_mambarec.models.base.MultimodalRecommender`; the loop is RecBole's.

    Configuration keys: ``lr_decay_rate``, ``lr_decay_epochs`` (the rate of epoch e is ``learning_rate *
    lr_decay_rate^(e / lr_decay_epochs)``), ``resume_from`` (checkpoint to continue from).
    """

    def __init__(self, config, model) -> None:
        self.shared = not config["single_spec"]
        if self.shared:
            # what is not saved was built from the data, in every process: DistributedDataParallel need not send it
            saved = model.state_dict()
            model._ddp_params_and_buffers_to_ignore = [name for name, _ in model.named_buffers() if name not in saved]
        super().__init__(config, model)
        if self.shared:
            # the first process's buffers have just been sent; from the same input, all compute the same ones
            self.distributed_model.broadcast_buffers = False
            # RecBole counts from 0 on every machine; negatives are drawn from numpy's generator, others in each process
            np.random.seed(config["seed"] + dist.get_rank())  # noqa: NPY002
        keep_freed_memory()
        rate, epochs = config["lr_decay_rate"], config["lr_decay_epochs"]
        if not (rate > 0 and epochs > 0):
            raise UserError(f"lr_decay_rate and lr_decay_epochs must be positive, got {rate} and {epochs}")
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda epoch: rate ** (epoch / epochs))
        self._loader_generator: torch.Generator | None = None
        self._last_valid_result: dict | None = None

    def _build_optimizer(self, **kwargs):
        optimizer = super()._build_optimizer(**kwargs)
        if type(optimizer) is torch.optim.Adam and not kwargs:
            # one pass over parameter, gradient and moments instead of six; same update
            group = optimizer.param_groups[0]
            optimizer = torch.optim.Adam(
                group["params"], lr=group["lr"], weight_decay=group["weight_decay"], fused=True
            )
        return optimizer

    def fit(self, train_data, *args, **kwargs):
        """RecBole's ``fit``, continued from the checkpoint of the key ``resume_from`` if there is one."""
        self._loader_generator = train_data.generator
        if self.config["resume_from"] and self.start_epoch == 0:
            own_file = self.saved_model_file
            self.resume_checkpoint(self.config["resume_from"])
            # keep the checkpoint that was given as it is; it is also the best so far until a better epoch is saved
            self._save_checkpoint(self.start_epoch - 1, verbose=False, saved_model_file=own_file)
            self.saved_model_file = own_file
        return super().fit(train_data, *args, **kwargs)

    def _train_epoch(self, train_data, epoch_idx, loss_func=None, show_progress=False):
        if self.shared:
            self._share_random_state()
        self.model.pre_epoch(epoch_idx)
        losses = super()._train_epoch(train_data, epoch_idx, loss_func, show_progress)
        self.model.post_epoch(epoch_idx)
        self.scheduler.step()
        if self.shared:
            mean = torch.tensor(losses, dtype=torch.float64, device=self.device)
            dist.all_reduce(mean)
            losses = tuple((mean / dist.get_world_size()).tolist())
        return losses

    def _share_random_state(self) -> None:
        """Give torch's generators of all processes the state of the first one's: graphs and masks of tables that are
        drawn in each are then the same, as are those of rows (:mod:`~recbole_mambarec.layers.noise`).
        """
        states = [torch.get_rng_state()]
        if self.device.type == "cuda":
            states.append(torch.cuda.get_rng_state(self.device))
        dist.broadcast_object_list(states, src=0)
        torch.set_rng_state(states[0])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(states[1], self.device)

    def _valid_epoch(self, valid_data, show_progress=False):
        score, result = super()._valid_epoch(valid_data, show_progress)
        # RecBole saves before it assigns best_valid_result
        self._last_valid_result = dict(result)
        return score, result

    # ------------------------------------------------------------------ named losses

    def _generate_train_loss_output(self, epoch_idx, s_time, e_time, losses) -> str:
        text = super()._generate_train_loss_output(epoch_idx, s_time, e_time, losses)
        if isinstance(losses, tuple):
            # from the last to the first, so that train_loss1 does not match in train_loss10
            for number, name in reversed(list(enumerate(self.model.loss_names, start=1))):
                text = text.replace(f"train_loss{number}", name)
        return text

    def _add_train_loss_to_tensorboard(self, epoch_idx, losses, tag="Loss/Train") -> None:
        if isinstance(losses, tuple):
            for name, loss in zip(self.model.loss_names, losses):
                super()._add_train_loss_to_tensorboard(epoch_idx, loss, f"{tag}/{name}")
            losses = sum(losses)
        super()._add_train_loss_to_tensorboard(epoch_idx, losses, tag)

    # ------------------------------------------------------------------ checkpoints

    def _save_checkpoint(self, epoch, verbose=True, **kwargs) -> None:
        """Write tensors and plain values only, so that loading the file can run no code; whole or not at all."""
        path = kwargs.pop("saved_model_file", self.saved_model_file)
        states = [self._random_state()]
        if self.shared:
            states = [None] * dist.get_world_size()
            dist.all_gather_object(states, self._random_state())
        if not self.shared or self.config["local_rank"] == 0:
            self._write_checkpoint(path, epoch, states)
            if verbose:
                self.logger.info(set_color("Saving current", "blue") + f": {path}")
        if self.shared:
            dist.barrier()  # no process may load the file before it is there

    def _write_checkpoint(self, path: str, epoch: int, random_states: list[dict]) -> None:
        state = {
            "format": CHECKPOINT_FORMAT,
            "model": self.config["model"],
            "config": plain(self.config.final_config_dict),
            "epoch": epoch,
            "cur_step": self.cur_step,
            "best_valid_score": float(self.best_valid_score),
            "best_valid_result": plain(self._last_valid_result),
            "state_dict": self.model.state_dict(),
            "other_parameter": self.model.other_parameter(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": {"last_epoch": self.scheduler.last_epoch},
            "random": random_states[0],
            "random_of_others": random_states[1:],
        }
        with atomic_file(path) as temporary:
            torch.save(state, temporary)

    def resume_checkpoint(self, resume_file) -> None:
        """Continue from a checkpoint of this class: weights, optimizer, schedule, patience and random state.

        Raises:
            UserError: no such file, not a checkpoint of this class, or one of another model or shape.
        """
        path = str(resume_file)
        state = read_checkpoint(path, self.device)
        if state["model"] != self.config["model"]:
            raise UserError(f"{path} holds a {state['model']}, not a {self.config['model']}: resume with its own model")
        try:
            self.model.load_state_dict(state["state_dict"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError) as error:
            raise UserError(
                f"{path} does not fit this model and dataset ({str(error).splitlines()[-1].strip()}): "
                "resume with the configuration it was written with"
            ) from None
        self.model.load_other_parameter(state["other_parameter"])
        self.saved_model_file = path
        self.start_epoch = state["epoch"] + 1
        self.cur_step = state["cur_step"]
        self.best_valid_score = state["best_valid_score"]
        self.best_valid_result = self._last_valid_result = state["best_valid_result"]
        self.scheduler.last_epoch = state["scheduler"]["last_epoch"]
        random_state = self._own_random_state(path, state)
        if random_state is not None:
            self._restore_random_state(random_state)
        self.logger.info(f"Checkpoint loaded. Resume training from epoch {self.start_epoch}")

    def _own_random_state(self, path: str, state: dict) -> dict | None:
        """The state that this process had when the checkpoint was written; None if there were fewer processes."""
        states = [state["random"], *state.get("random_of_others", [])]
        now, rank = (dist.get_world_size(), dist.get_rank()) if self.shared else (1, 0)
        if len(states) != now:
            self.logger.warning(
                f"{path} was written by {len(states)} process(es) and is resumed by {now}: from here on other random "
                "numbers are drawn than the run would have gone on with"
            )
        return states[rank] if rank < len(states) else None

    def _random_state(self) -> dict:
        """States of every generator that training draws from, as tensors and plain values."""
        version, internal, gauss = random.getstate()
        # RecBole samples negatives from numpy's global generator
        name, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002
        state = {
            "python": [version, list(internal), gauss],
            "numpy": [name, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached],
            "torch": torch.get_rng_state(),
        }
        if self.device.type == "cuda":
            state["cuda"] = torch.cuda.get_rng_state(self.device)
        if self._loader_generator is not None:
            state["loader"] = self._loader_generator.get_state()
        return state

    def _restore_random_state(self, state: dict) -> None:
        version, internal, gauss = state["python"]
        random.setstate((version, tuple(internal), gauss))
        name, keys, position, has_gauss, cached = state["numpy"]
        legacy = (name, keys.cpu().numpy().astype(np.uint32), position, has_gauss, cached)
        np.random.set_state(legacy)  # noqa: NPY002
        torch.set_rng_state(state["torch"].cpu())
        if "cuda" in state and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda"].cpu(), self.device)
        if "loader" in state and self._loader_generator is not None:
            self._loader_generator.set_state(state["loader"].cpu())


def read_checkpoint(path: str, device: torch.device | str = "cpu") -> dict:
    """A checkpoint written by :class:`MultimodalTrainer`; reading it runs no code stored in the file.

    Raises:
        UserError: there is no such file, or it is not such a checkpoint.
    """
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise UserError(f"checkpoint {path} not found") from None
    except Exception as error:  # torch raises half a dozen types for damaged or foreign files
        raise UserError(
            f"{path} is no checkpoint of this package, or it is damaged ({type(error).__name__}): resume from a file "
            "that a run of one of our models has saved"
        ) from error
    if not isinstance(state, dict) or state.get("format") != CHECKPOINT_FORMAT:
        raise UserError(f"{path} is no checkpoint of this package: expected format '{CHECKPOINT_FORMAT}'")
    return state


def plain(value: object) -> object:
    """``value`` as nested dicts, lists, numbers, strings and None; enums and devices by name, classes not at all."""
    if isinstance(value, np.generic):  # before float, of which numpy's float64 is a subclass
        return value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, dict):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [plain(entry) for entry in value]
    return str(value)
