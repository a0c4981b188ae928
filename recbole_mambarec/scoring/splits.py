"""The splits of a dataset as one run has them: interactions by raw ids, masks, and RecBole's loaders."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch
from recbole.config import Config
from recbole.data import create_dataset, create_samplers, data_preparation
from recbole.data.dataset import Dataset
from recbole.data.utils import get_dataloader
from recbole.utils import EvaluatorType, ModelType

from recbole_mambarec.data.fingerprint import config_data_hash
from recbole_mambarec.data.new_items import items_without_training
from recbole_mambarec.errors import UserError
from recbole_mambarec.experiments.store import MASKS, UNMASKED
from recbole_mambarec.resume import training_data_key
from recbole_mambarec.scoring.scorer import Ids

PARTS = ("train", "valid", "test")


class Splits:
    """Training, validation and test of the dataset that a configuration names.

    Attributes:
        config: RecBole's, of the run.
        whole: RecBole's dataset before it was split.
        train, valid, test: RecBole's loaders; that of the test split with the mask of the configuration.
        users, items: raw ids, in the order of the rows and columns of matrices here and of scorers of the run.
        mask: under which the configuration tests, one of :data:`~recbole_mambarec.experiments.store.MASKS` or
            :data:`~recbole_mambarec.experiments.store.UNMASKED`.
        data_hash: fingerprint of the dataset's files.
        not_ranked: items that the configuration leaves out of every ranking (``rank_items: new``), bool ``(n_items,)``;
            None if there are none.

    Raises:
        UserError: the data are not ranked as a whole for each user, or the split has no validation or test part.
    """

    def __init__(self, config: Config) -> None:
        _check_ranked(config)
        self.config, self.data_hash = config, config_data_hash(config)
        self.whole = create_dataset(config)
        self.train, self.valid, self.test = data_preparation(config, self.whole)
        for part, loader in (("validation", self.valid), ("test", self.test)):
            if not len(loader._dataset):
                raise UserError(f"the run of {config['model']} has no {part} split: run it again with one (eval_args)")
        dataset = self.dataset
        self.users = Ids("user", dataset.field2id_token[dataset.uid_field][1:])
        self.items = Ids("item", dataset.field2id_token[dataset.iid_field][1:])
        self.mask = UNMASKED if config["repeatable"] else mask_of(config)
        new = items_without_training(dataset)
        self.not_ranked = None if new is None or config["rank_items"] != "new" else torch.from_numpy(~new[1:])

    @property
    def dataset(self) -> Dataset:
        """RecBole's training split."""
        return self.train._dataset

    def tests(self) -> dict:
        """Mask -> test loader, for all masks under which recorded runs are tested."""
        return loaders_by_mask(self.config, self.whole, self.train, self.valid, self.test)

    def interactions(self, part: str) -> sp.csr_array:
        """The interactions of one of :data:`PARTS`: bool, ``(n_users, n_items)``."""
        dataset = dict(zip(PARTS, (self.train, self.valid, self.test)))[part]._dataset
        users, items = (dataset.inter_feat[field].numpy() - 1 for field in (dataset.uid_field, dataset.iid_field))
        shape = len(self.users), len(self.items)
        return sp.coo_array((np.ones(len(users), dtype=bool), (users, items)), shape=shape).tocsr()

    def seen(self, mask: str) -> sp.csr_array:
        """What a mask removes from each user's ranking: bool, ``(n_users, n_items)``."""
        seen = sp.csr_array((len(self.users), len(self.items)), dtype=bool)
        for part in () if mask == UNMASKED else mask.split("+"):
            seen = seen + self.interactions(part)
        return seen

    def fingerprint(self) -> str:
        """Fingerprint (hexadecimal) of what a training reads of these data, see :mod:`recbole_mambarec.resume`."""
        return training_data_key(self.train, self.valid)

    def difference(self, other: Splits) -> str | None:
        """What makes results on these splits and on others incomparable, as a clause; None if nothing does."""
        if self.config["dataset"] != other.config["dataset"]:
            return f"they are of different datasets ({self.config['dataset']} and {other.config['dataset']})"
        if self.data_hash != other.data_hash:
            return f"their files of '{self.config['dataset']}' differ"
        if self.mask != other.mask:
            return f"they are tested under different masks ({self.mask} and {other.mask})"
        if (self.not_ranked is None) != (other.not_ranked is None):
            return "one of them ranks new items alone (rank_items), and the other one all"
        for own, theirs in ((self.items, other.items), (self.users, other.users)):
            if not own.has_same(theirs):
                return f"they know different {own.what}s ({len(own)} and {len(theirs)})"
        rows = other.users.positions(self.users.tokens.tolist())
        columns = other.items.positions(self.items.tokens.tolist())
        for part in PARTS:
            if (self.interactions(part) != other.interactions(part)[rows][:, columns]).nnz:
                return f"their {part} splits differ, such as those that are drawn with different seeds"
        return None


def mask_of(config: Config) -> str:
    """The mask at test that a configuration asks for; its default is RecBole's."""
    return MASKS[0] if config["mask_valid_in_test"] is False else MASKS[1]


def loaders_by_mask(config: Config, dataset: Dataset, train, valid, test) -> dict:
    """Mask -> test loader of the same split, for all masks under which recorded runs are tested.

    Args:
        dataset: the result of ``create_dataset``.
        train, valid, test: RecBole's loaders of its split.
    """
    if config["repeatable"]:
        return {UNMASKED: test}
    loaders = {mask_of(config): test}
    built, before = [loader._dataset for loader in (train, valid, test)], config["mask_valid_in_test"]
    try:
        for mask in (mask for mask in MASKS if mask not in loaders):
            config["mask_valid_in_test"] = mask == "train+valid"
            sampler = create_samplers(config, dataset, built)[2]
            loaders[mask] = get_dataloader(config, "test")(config, test._dataset, sampler, shuffle=False)
    finally:
        config["mask_valid_in_test"] = before
    return {mask: loaders[mask] for mask in MASKS}


def _check_ranked(config: Config) -> None:
    model = config["model"]
    if config["MODEL_TYPE"] == ModelType.SEQUENTIAL:
        raise UserError(
            f"{model} is a sequential model, which scores what comes next in a sequence, not users: leave it out"
        )
    modes = config["eval_args"]["mode"]
    modes = set(modes.values()) if isinstance(modes, dict) else {modes}
    if config["eval_type"] != EvaluatorType.RANKING or modes != {"full"}:
        raise UserError(
            f"{model} was not evaluated by ranking the whole catalogue (mode full in eval_args, and ranking metrics): "
            "leave it out, or run it so"
        )
