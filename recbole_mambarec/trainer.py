"""RecBole's ``Trainer`` with a learning rate schedule, epoch hooks, named losses and plain checkpoints."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from typing import cast

import numpy as np
import torch
import torch.distributed as dist
from recbole.trainer import Trainer
from recbole.utils import ModelType, set_color
from tqdm import tqdm

from recbole_mambarec.allocator import keep_freed_memory
from recbole_mambarec.checkpoint import (
    BestEpoch,
    plain,
    random_state,
    read_checkpoint,
    restore_random_state,
    write_checkpoint,
)
from recbole_mambarec.clipping import clip_gradients
from recbole_mambarec.data.loading import to_device
from recbole_mambarec.errors import UserError
from recbole_mambarec.ranking import HitCollector
from recbole_mambarec.resume import check_configuration, data_of
from recbole_mambarec.trained_apart import Descent, TrainedApart

# steps between two checks of the losses for NaN: a check waits for the device
_STEPS_BETWEEN_CHECKS = 64


class MultimodalTrainer(Trainer):
    """Trains a :class:`~recbole_mambarec.models.base.MultimodalRecommender`; the loop over epochs is RecBole's.

    Configuration keys: ``lr_decay_rate``, ``lr_decay_epochs`` (the rate of epoch e is ``learning_rate *
    lr_decay_rate^(e / lr_decay_epochs)``), ``lr_boost``, ``lr_boost_epochs`` (a further factor on the rate of the first
    epochs, for at least ``lr_boost_steps`` steps, and as long as no evaluation is better than the first),
    ``resume_from`` (checkpoint to continue from), ``checkpoint_interval``.

    Checkpoints (:mod:`recbole_mambarec.checkpoint`): at an improvement, the parameters are copied in memory. The file,
    which has that copy and the state of the run, is written after the first epoch, then between two epochs whenever
    ``checkpoint_interval`` seconds have passed, and at the end. However a run ends, the file continues it exactly from
    the epoch after which it was written; before an exception or an interrupt leaves, the best epoch is added to it.

    A model may train parts of itself apart (:meth:`~recbole_mambarec.models.base.MultimodalRecommender.trained_apart`):
    each has an optimizer, which takes a step per loss that the model gives for it before an epoch or before a batch.
    Learner, schedule, clipping, precision and checkpoints are those of the other parameters.
    """

    start_epoch: int
    eval_step: int
    saved_model_file: str

    def __init__(self, config, model) -> None:
        # before hours of training
        model.tables_with_dropout()
        model.check_cold_items()
        self._parts = model.trained_apart()
        self._apart_ids = {id(p) for part in self._parts.values() for p in part.parameters}
        if not config["single_spec"]:
            # buffers that are not saved are built from the data in every process: there is no need to send them
            saved = model.state_dict()
            model._ddp_params_and_buffers_to_ignore = [
                *(name for name, _ in model.named_buffers() if name not in saved),
                # it waits in each step for the gradients of all others
                *(name for name, parameter in model.named_parameters() if id(parameter) in self._apart_ids),
            ]
        super().__init__(config, model)
        if model.type is ModelType.TRADITIONAL:
            # one epoch, whatever the configuration says, is evaluated
            self.epochs, self.eval_step = 1, min(self.eval_step, 1)
        if not config["single_spec"]:
            # the buffers of the first process have just been sent; from then on, all processes compute the same ones
            self.distributed_model.broadcast_buffers = False
            for parameter in (p for part in self._parts.values() for p in part.parameters):
                dist.broadcast(parameter.data, src=0)
        keep_freed_memory()
        # updated once the training data are known
        self._boosted_epochs = config["lr_boost_epochs"]
        schedule = _schedule(config)

        def factor(epoch: int) -> float:
            return schedule(epoch, epoch < self._boosted_epochs or self._has_not_begun)

        self._main = Descent(self.optimizer, factor)
        self.scheduler = self._main.scheduler
        self._apart = {
            name: Descent(self._optimizer_of(part), part.schedule or factor) for name, part in self._parts.items()
        }
        #: name of a part that is trained apart -> sum of its losses in the latest epoch
        self.losses_apart: dict[str, float] = {}
        self._sums_apart: dict[str, torch.Tensor] = {}
        self.eval_collector = HitCollector(config)
        self._loader_generator: torch.Generator | None = None
        # from the checkpoint with which the next call of fit continues
        self._random: dict | None = None
        self._last_valid_result: dict | None = None
        self._best: BestEpoch | None = None
        self._finished_epoch = -1
        # of the running call of fit: whether this process writes files, and when it wrote the last one
        self._fitting = self._saves = self._verbose = False
        self._written_at = -math.inf
        self._written_best: int | None = None

    @property
    def _has_not_begun(self) -> bool:
        """There have been several evaluations, and none of them is better than the first."""
        return self.patience is not None and self.patience.first_is_best(self.cur_step)

    def _build_optimizer(self, **kwargs):
        if self._parts and "params" not in kwargs:
            kwargs["params"] = [p for p in self.model.parameters() if id(p) not in self._apart_ids]
        optimizer = super()._build_optimizer(**kwargs)
        if type(optimizer) is torch.optim.Adam:
            # one pass over parameter, gradient and moments instead of six, for the same update
            group = optimizer.param_groups[0]
            optimizer = torch.optim.Adam(
                group["params"], lr=group["lr"], weight_decay=group["weight_decay"], fused=True
            )
        return optimizer

    def _optimizer_of(self, part: TrainedApart) -> torch.optim.Optimizer:
        given = {"learning_rate": part.learning_rate, "weight_decay": part.weight_decay}
        chosen = {key: value for key, value in given.items() if value is not None}
        optimizer = self._build_optimizer(params=part.parameters, **chosen)
        for group in optimizer.param_groups:
            group.update(part.options)
        return optimizer

    def fit(self, train_data, valid_data=None, verbose=True, saved=True, show_progress=False, callback_fn=None):
        """RecBole's ``fit``, continued from the checkpoint that the key ``resume_from`` names, if any.

        Raises:
            UserError: the checkpoint cannot be continued (:meth:`resume_checkpoint`), or not on these data.
        """
        self._loader_generator = train_data.generator
        self._boosted_epochs = max(self._boosted_epochs, -(-self.config["lr_boost_steps"] // len(train_data)))
        if self.config["resume_from"] and self.start_epoch == 0:
            own_file = self.saved_model_file
            self.resume_checkpoint(self.config["resume_from"])
            # the given checkpoint stays unchanged
            self.saved_model_file = own_file
        if self._random is not None:
            # only now does the generator exist that shuffles the data
            restore_random_state(self._random, self.device, self._loader_generator)
            self._random = None
        self._fitting, self._saves, self._verbose = True, saved and self._writes_files, verbose
        self._written_at, self._written_best = -math.inf, None
        try:
            result = super().fit(train_data, valid_data, verbose, saved, show_progress, callback_fn)
            if self._saves:
                self._write(self.saved_model_file)
        except BaseException:
            if self._saves:
                self._add_best_epoch()
            raise
        finally:
            self._fitting, self._saves, self._best = False, False, None
        self._wait_for_file()
        return result

    def _train_epoch(self, train_data, epoch_idx, loss_func=None, show_progress=False):
        # here, between two epochs, everything that RecBole decides after an epoch is known
        due = time.monotonic() - self._written_at >= (self.config["checkpoint_interval"] or 0)
        if self._saves and due and self._finished_epoch >= 0:
            self._write(self.saved_model_file)
        if not self.config["single_spec"]:
            self._share_random_state(epoch_idx)
            if train_data.shuffle:
                train_data.sampler.set_epoch(epoch_idx)
        self._sums_apart = {}
        if self._parts:
            self.model.train()
            self._descend_apart(self.model.losses_before_epoch(epoch_idx), self._scaler())
        self.model.pre_epoch(epoch_idx)
        batches = train_data
        if show_progress:
            title = set_color(f"Train {epoch_idx:>5}", "pink")
            batches = tqdm(train_data, total=len(train_data), ncols=100, desc=title)
        losses = self._train_steps(batches, epoch_idx, loss_func or self.model.calculate_loss)
        self.model.post_epoch(epoch_idx)
        for descent in self._descents:
            descent.scheduler.step()
        self._finished_epoch = epoch_idx
        self.losses_apart = {name: total.item() for name, total in self._sums_apart.items()}
        if self.config["single_spec"]:
            return losses
        self.losses_apart = {
            name: cast(float, self._mean_over_processes(total)) for name, total in self.losses_apart.items()
        }
        return self._mean_over_processes(losses)

    @property
    def _descents(self) -> list[Descent]:
        return [self._main, *self._apart.values()]

    def _scaler(self) -> torch.amp.GradScaler:
        return torch.amp.GradScaler(self.device.type, enabled=self.enable_scaler)

    def _share_random_state(self, epoch: int) -> None:
        """Give the torch generators of all processes the same state, and their numpy generators different ones.

        So all processes draw the same graphs and masks (:mod:`~recbole_mambarec.layers.noise`) and different negative
        items. A checkpoint has the state of the first process, from which those of the others follow.
        """
        states = [torch.get_rng_state()]
        if self.device.type == "cuda":
            states.append(torch.cuda.get_rng_state(self.device))
        dist.broadcast_object_list(states, src=0)
        torch.set_rng_state(states[0])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(states[1], self.device)
        if dist.get_rank() > 0:
            # RecBole samples negatives from numpy's global generator
            np.random.seed([self.config["seed"], epoch, dist.get_rank()])  # noqa: NPY002

    def _mean_over_processes(self, losses: tuple[float, ...] | float) -> tuple[float, ...] | float:
        mean = torch.tensor(losses, dtype=torch.float64, device=self.device)
        dist.all_reduce(mean)
        mean /= dist.get_world_size()
        return tuple(mean.tolist()) if mean.ndim else mean.item()

    def _train_steps(self, batches, epoch: int, loss_of) -> tuple[float, ...] | float:
        """Take one step per batch; returns the sums of the losses, which stay on the device meanwhile."""
        self.model.train()
        scaler = self._scaler()
        total = None
        for number, interaction in enumerate(batches, start=1):
            losses = self._step(interaction, loss_of, scaler)
            total = losses if total is None else total + losses
            if number % _STEPS_BETWEEN_CHECKS == 0:
                self._check_losses(total, epoch)
        self._check_losses(total, epoch)
        return tuple(total.tolist()) if total.ndim else total.item()

    def _step(self, interaction, loss_of, scaler: torch.amp.GradScaler) -> torch.Tensor:
        """Take the step of a batch; returns its losses, ``(terms,)`` or a scalar, float64.

        Under ``enable_amp`` the forward pass runs in bfloat16, for which the loss need not be scaled.
        """
        interaction = to_device(interaction, self.device)
        if self._parts:
            self._descend_apart(self.model.losses_before_step(*self.model.nodes_of(interaction)), scaler)
        self.optimizer.zero_grad()
        synchronising = 0
        if not self.config["single_spec"]:
            self.set_reduce_hook()
            synchronising = self.sync_grad_loss()
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.enable_amp):
            losses = loss_of(interaction)
        losses = torch.stack(losses) if isinstance(losses, tuple) else losses
        # what is trained apart gets no gradient from the loss of the others
        scaler.scale(losses.sum() + synchronising).backward(inputs=self._main.parameters if self._parts else None)
        self._descend(self._main, scaler)
        return losses.detach().double()

    def _descend(self, descent: Descent, scaler: torch.amp.GradScaler) -> None:
        if self.clip_grad_norm:
            clip_gradients(descent.parameters, scaler, descent.optimizer, **self.clip_grad_norm)
        scaler.step(descent.optimizer)
        scaler.update()

    def _descend_apart(self, losses: Iterator[tuple[str, torch.Tensor]], scaler: torch.amp.GradScaler) -> None:
        """Take a step for each loss, before the model computes the next one."""
        while True:
            with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.enable_amp):
                found = next(losses, None)
            if found is None:
                return
            name, loss = found
            descent = self._apart[name]
            descent.optimizer.zero_grad()
            scaler.scale(loss).backward(inputs=descent.parameters)
            if not self.config["single_spec"]:
                descent.average_gradients()
            self._descend(descent, scaler)
            self._sums_apart[name] = self._sums_apart.get(name, 0.0) + loss.detach().double()

    def _check_losses(self, total: torch.Tensor, epoch: int) -> None:
        """Stop if a loss has become NaN, from which no later step can recover."""
        if any(loss.isnan().any() for loss in (total, *self._sums_apart.values())):
            raise UserError(f"the loss became NaN in epoch {epoch}: lower learning_rate or the weights of its terms")

    def _valid_epoch(self, valid_data, show_progress=False):
        score, result = super()._valid_epoch(valid_data, show_progress)
        # RecBole saves before it assigns best_valid_result
        self._last_valid_result = dict(result)
        return score, result

    def _full_sort_batch_eval(self, batched_data):
        return super()._full_sort_batch_eval(to_device(batched_data, self.device))

    def evaluate(self, eval_data, load_best_model=True, model_file=None, show_progress=False):
        """RecBole's ``evaluate``; only the parameters of a checkpoint are loaded."""
        if eval_data and load_best_model:
            path = model_file or self.saved_model_file
            state = read_checkpoint(path)
            self._load({key: state[key] for key in ("state_dict", "other_parameter")}, path)
            self.logger.info(f"Loading model structure and parameters from {path}")
        return super().evaluate(eval_data, False, None, show_progress)

    # ------------------------------------------------------------------ named losses

    def _generate_train_loss_output(self, epoch_idx, s_time, e_time, losses) -> str:
        text = super()._generate_train_loss_output(epoch_idx, s_time, e_time, losses)
        if isinstance(losses, tuple):
            # from the last to the first, so that train_loss1 does not match in train_loss10
            for number, name in reversed(list(enumerate(self.model.loss_names, start=1))):
                text = text.replace(f"train_loss{number}", name)
        decimals = self.config["loss_decimal_place"] or 4
        for name, loss in self.losses_apart.items():
            text = text.removesuffix("]") + f", {set_color(name, 'blue')}: {loss:.{decimals}f}]"
        return text

    def _add_train_loss_to_tensorboard(self, epoch_idx, losses, tag="Loss/Train") -> None:
        if isinstance(losses, tuple):
            for name, loss in zip(self.model.loss_names, losses):
                super()._add_train_loss_to_tensorboard(epoch_idx, loss, f"{tag}/{name}")
            losses = sum(losses)
        for name, loss in self.losses_apart.items():
            super()._add_train_loss_to_tensorboard(epoch_idx, loss, f"{tag}/{name}")
        super()._add_train_loss_to_tensorboard(epoch_idx, losses, tag)

    # ------------------------------------------------------------------ checkpoints

    @property
    def _writes_files(self) -> bool:
        """Whether this process writes files: of several processes, the first one does."""
        return self.config["single_spec"] or self.config["local_rank"] == 0

    def _wait_for_file(self) -> None:
        if not self.config["single_spec"]:
            dist.barrier()  # no process may load the file before it is there

    def _save_checkpoint(self, epoch, verbose=True, **kwargs) -> None:
        """RecBole calls this at an improvement: copy the parameters; outside ``fit``, also write the file."""
        if self._writes_files:
            # RecBole passes -1 if nothing is left to train
            if self._best is None or epoch >= 0:
                result = self._last_valid_result
                self._best = BestEpoch.of(self.model, epoch, float(self.best_valid_score), plain(result), self._best)
            if not self._fitting:
                self._verbose, self._finished_epoch = verbose, epoch
                self._write(kwargs.get("saved_model_file", self.saved_model_file))
                self._best = None
        if not self._fitting:
            self._wait_for_file()

    def _write(self, path: str, resume: dict | None = None) -> None:
        """Write the file.

        It has the best epoch so far (before the first evaluation, the latest one) and ``resume``.
        """
        epoch, result = self._finished_epoch, plain(self.best_valid_result)
        best = self._best or BestEpoch(
            epoch,
            float(self.best_valid_score),
            result,
            self.model.state_dict(),
            self.model.other_parameter(),
        )
        if resume is None:
            resume = {
                "epoch": epoch,
                "cur_step": self.cur_step,
                "best_valid_score": float(self.best_valid_score),
                "best_valid_result": result,
                "state_dict": None if best.epoch == epoch else self.model.state_dict(),
                "other_parameter": self.model.other_parameter(),
                "optimizer": self.optimizer.state_dict(),
                "optimizers_apart": {name: descent.optimizer.state_dict() for name, descent in self._apart.items()},
                "scheduler": {"last_epoch": self.scheduler.last_epoch},
                "random": random_state(self.device, self._loader_generator),
                "data": data_of(self.config),
            }
        write_checkpoint(path, self.config["model"], plain(self.config.final_config_dict), best, resume)
        self._written_at, self._written_best = time.monotonic(), best.epoch
        if self._verbose:
            self.logger.info(set_color("Saving current", "blue") + f": {path}")

    def _add_best_epoch(self) -> None:
        """Before an exception leaves: put a newer best epoch into the file, whose ``resume`` stays the same."""
        if self._written_best is None or self._best is None or self._best.epoch == self._written_best:
            return
        try:
            self._write(self.saved_model_file, read_checkpoint(self.saved_model_file)["resume"])
        except (OSError, RuntimeError, UserError) as error:
            self.logger.warning(
                f"epoch {self._best.epoch} could not be added to {self.saved_model_file} ({error}): "
                f"its best epoch is {self._written_best}"
            )

    def _load(self, state: dict, path: str) -> None:
        """Load the parameters and, if ``state`` has them, the states of the optimizers."""
        try:
            self.model.load_state_dict(state["state_dict"])
            if "optimizer" in state:
                # copies, because an optimizer writes into its state, which is still mapped from the file
                self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
                states = state.get("optimizers_apart", {})
                if states.keys() != self._apart.keys():
                    raise ValueError(f"it has optimizers for {sorted(states)}, the model for {sorted(self._apart)}")
                for name, descent in self._apart.items():
                    descent.optimizer.load_state_dict(copy.deepcopy(states[name]))
        except (RuntimeError, ValueError) as error:
            raise UserError(
                f"{path} does not fit this model and dataset ({str(error).splitlines()[-1].strip()}): "
                "resume with the configuration it was written with"
            ) from None
        self.model.load_other_parameter(state["other_parameter"])

    def resume_checkpoint(self, resume_file) -> None:
        """Continue from a checkpoint of this class: weights, optimizer, schedule, patience and random state.

        Raises:
            UserError: there is no such file; it is not a checkpoint of this class, or one of another model or shape; or
                its configuration differs in a way that would change the run
                (:func:`~recbole_mambarec.resume.check_configuration`). ``fit`` refuses other data.
        """
        path = str(resume_file)
        state = read_checkpoint(path)
        if state["model"] != self.config["model"]:
            raise UserError(f"{path} holds a {state['model']}, not a {self.config['model']}: resume with its own model")
        changed = check_configuration(path, state["config"], self.config)
        # into the model, which raises an error if the parameters do not fit
        self._load(state, path)
        if self._writes_files:
            score, result = state["best_valid_score"], state["best_valid_result"]
            self._best = BestEpoch.of(self.model, state["epoch"], score, result)
        resume = state["resume"]
        self._load(resume, path)
        self.saved_model_file = path
        self.start_epoch = resume["epoch"] + 1
        self._finished_epoch = resume["epoch"]
        self.cur_step = resume["cur_step"]
        self.best_valid_score = resume["best_valid_score"]
        self.best_valid_result = self._last_valid_result = resume["best_valid_result"]
        for descent in self._descents:
            descent.scheduler.last_epoch = resume["scheduler"]["last_epoch"]
            if changed:
                descent.apply_configuration()
        self.resumed_from = (path, resume.get("data"))
        self._random = resume["random"]
        self.logger.info(f"Checkpoint loaded. Resume training from epoch {self.start_epoch}")


def _schedule(config) -> Callable[[int, bool], float]:
    """A function of an epoch, and of whether it is boosted, that gives the factor on the learning rate."""
    keys = ("lr_decay_rate", "lr_decay_epochs", "lr_boost")
    rate, epochs, boost = values = [config[key] for key in keys]
    for key, value in zip(keys, values):
        if not value > 0:
            raise UserError(f"{key} must be positive, got {value}")
    return lambda epoch, boosted: rate ** (epoch / epochs) * (boost if boosted else 1.0)
