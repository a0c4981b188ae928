"""RecBole's data loaders without their Python loops: the same batches, in a fraction of the time.

Random numbers are drawn from the same generators in the same order, so that a seed gives the same batches as with
RecBole's own loaders.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import numpy as np
import torch
from recbole.data import utils as recbole_data
from recbole.data.dataloader import FullSortEvalDataLoader, TrainDataLoader
from recbole.data.interaction import Interaction
from recbole.sampler import Sampler
from torch import Tensor

from recbole_mambarec import registry
from recbole_mambarec.compat.patching import wrap


def install() -> None:
    """Use these loaders for the models of this package; a second call changes nothing."""
    wrap(recbole_data, "get_dataloader", _faster_loader)


def _faster_loader(original: Callable, config, phase: str) -> type:
    loader = original(config, phase)
    return _FASTER.get(loader, loader) if config["model"] in registry.names() else loader


class PairLoader(TrainDataLoader):
    """Training pairs with sampled negatives, in the order and with the negatives of RecBole's loader."""

    def __iter__(self) -> Iterator[Interaction]:
        return super().__iter__() if self.num_workers else self._batches()

    def _batches(self) -> Iterator[Interaction]:
        # torch's own iterator draws a seed for its workers first; the sampler draws once more when it is exhausted
        torch.empty((), dtype=torch.int64).random_(generator=self.generator)
        order = np.fromiter(self.sampler, dtype=np.int64)
        for start in range(0, len(order), self.step):
            yield self.collate_fn(order[start : start + self.step])

    def collate_fn(self, index) -> Interaction:
        """The batch of the interactions at the positions ``index``."""
        rows = torch.as_tensor(index)
        columns = self._dataset.inter_feat.interaction
        pairs = Interaction({name: values[rows] for name, values in columns.items()})
        return self._neg_sampling(self.transform(self._dataset, self._dataset.join(pairs)))

    @functools.cached_property
    def _used(self) -> np.ndarray:
        """Codes ``user * n_items + item`` of the items not to be drawn for a user, sorted; then a larger number."""
        items = self._sampler.used_ids
        sizes = np.fromiter(map(len, items), dtype=np.int64, count=len(items))
        codes = np.repeat(np.arange(len(items)), sizes) * self._dataset.item_num
        codes += np.fromiter(chain.from_iterable(items), dtype=np.int64, count=len(codes))
        codes.sort()
        return np.append(codes, np.iinfo(np.int64).max)

    def _neg_sampling(self, inter_feat: Interaction) -> Interaction:
        arguments = self.neg_sample_args
        if type(self._sampler) is not Sampler or arguments.get("dynamic") or "none" in map(str, arguments.values()):
            return super()._neg_sampling(inter_feat)
        users = inter_feat[self.uid_field].repeat(self.neg_sample_num).numpy()
        return self.sampling_func(inter_feat, torch.from_numpy(self.draw_negatives(users)))

    def draw_negatives(self, users: np.ndarray) -> np.ndarray:
        """For each of ``users`` an item without an interaction, int64, drawn as by RecBole's sampler."""
        items = np.zeros(len(users), dtype=np.int64)
        left = np.arange(len(users))
        while len(left):
            items[left] = self._sampler.sampling(len(left))
            codes = users[left] * self._dataset.item_num + items[left]
            left = left[self._used[np.searchsorted(self._used, codes)] == codes]
        return items


class RankingLoader(FullSortEvalDataLoader):
    """Users, with the items that are masked in their ranking and the items to be found."""

    # RecBole's arrays while it builds the loader, then ItemsOfUsers
    uid2positive_item: Any
    uid2history_item: Any

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.uid2positive_item = ItemsOfUsers(self.uid2positive_item)
        self.uid2history_item = ItemsOfUsers(self.uid2history_item)

    def _set_user_property(self, uid, used_item: set, positive_item: set) -> None:
        """Called by RecBole for each user while the loader is built."""
        if uid is None:
            return
        history = used_item - positive_item
        self.uid2items_num[uid] = len(positive_item)
        for arrays, items in ((self.uid2positive_item, positive_item), (self.uid2history_item, history)):
            arrays[uid] = np.fromiter(items, dtype=np.int32, count=len(items))

    def collate_fn(self, index) -> tuple[Interaction, tuple[Tensor, Tensor], Tensor, Tensor]:
        """The users at the positions ``index``; rows are numbered within the batch."""
        users = self.user_df[np.asarray(index)]
        ids = users[self.uid_field].numpy()
        return users, self.uid2history_item.pairs(ids), *self.uid2positive_item.pairs(ids)


class ItemsOfUsers:
    """Items by user id, indexed like RecBole's array of int64 tensors (by one id or many), in a fifth of the memory.

    Args:
        arrays: (users,) of dtype object: an int32 array of each user's items, None for users without any.
    """

    def __init__(self, arrays: np.ndarray) -> None:
        self.arrays = arrays

    def __len__(self) -> int:
        return len(self.arrays)

    def __getitem__(self, users) -> Tensor | list[Tensor] | None:
        users = np.asarray(users)
        return [_tensor(items) for items in self.arrays[users]] if users.ndim else _tensor(self.arrays[users])

    def __setitem__(self, user: int, items: Tensor) -> None:
        self.arrays[user] = items.numpy().astype(np.int32)

    def pairs(self, users: np.ndarray) -> tuple[Tensor, Tensor]:
        """(rows, items) of all items of ``users``; row k belongs to the k-th of them."""
        items = self.arrays[users]
        rows = np.repeat(np.arange(len(items)), [len(array) for array in items])
        return torch.from_numpy(rows), _tensor(np.concatenate(items))


def _tensor(items: np.ndarray | None) -> Tensor | None:
    return None if items is None else torch.from_numpy(items.astype(np.int64))


_FASTER = {TrainDataLoader: PairLoader, FullSortEvalDataLoader: RankingLoader}


def to_device(batch, device: torch.device):
    """A batch (tensors, ``Interaction`` or tuples of them) on ``device``, without waiting for its pending work."""
    if device.type != "cuda":
        return batch.to(device) if isinstance(batch, Interaction) else batch
    if isinstance(batch, Interaction):
        return Interaction({name: to_device(values, device) for name, values in batch.interaction.items()})
    if isinstance(batch, Tensor):
        # the copy overlaps with computation only from pinned memory
        return batch.pin_memory().to(device, non_blocking=True)
    return tuple(to_device(part, device) for part in batch)
