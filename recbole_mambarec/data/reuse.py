"""Saved datasets and splits, which are read back only if building them again would give the same.

RecBole keeps the dataset that it has read (``save_dataset``) and the loaders that it has built (``save_dataloaders``)
as pickles, and every later run in the same folder reads them back if a list of settings agrees. It ignores the files of
the dataset, settings that are missing from the list, and the number of processes that share the data; a run that saves
its loaders draws other random numbers than one that does not; and a pickle from elsewhere can run code.

Here a file holds tensors and plain values (:mod:`~recbole_mambarec.data.saved`) and records everything that they were
made from (:func:`_origin`). It is read back if all of that is still the same; otherwise the data are built again, and a
line in the log says so. A run therefore gets the same data with and without the file. Instead of the loaders, the split
is kept, from which each process builds its own loaders: they have a state, belong to a process, and are quickly built.

A file that ``dataset_save_path`` or ``dataloaders_save_path`` names must be usable, and anything else is an error; if
it does not exist, the data are built and a warning says so. Files are written under RecBole's names into
``checkpoint_dir``.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib
import json
import os
import types
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from logging import getLogger
from pathlib import Path

import torch
from recbole.config import Config
from recbole.data import dataset as recbole_datasets
from recbole.data import utils as recbole_data
from recbole.data.dataset import Dataset
from recbole.utils import set_color

from recbole_mambarec.checkpoint import plain, random_state, restore_random_state
from recbole_mambarec.compat.patching import Overlay, is_wrapped, overlay, wrap
from recbole_mambarec.data.fingerprint import code_hash, config_data_hash
from recbole_mambarec.data.saved import NotPackable, digest, pack, read, unpack, write
from recbole_mambarec.errors import UserError

# settings that only say where something is, or that are applied to what was read back
_IRRELEVANT_SETTINGS = ("data_path", "checkpoint_dir", "cache_dir", "topk", "feature_memory")
# attributes that are not contents of a dataset; features of items and users are read from their files again
_NOT_CONTENTS = ("config", "logger", "item_features", "user_features", "dataset_path", "origin", "kept")
_GENERATORS = ("python", "numpy", "torch")
_OURS = ("recbole.", "recbole_mambarec.")

# names of the settings that were read while they are being collected; None if they are not
_read: ContextVar[set[str] | None] = ContextVar("recbole_mambarec_settings_read", default=None)
_building: ContextVar[bool] = ContextVar("recbole_mambarec_building", default=False)


def install() -> None:
    """Replace RecBole's saving and loading; a second call changes nothing."""
    wrap(Config, "__getitem__", _note_setting)
    wrap(Config, "__contains__", _note_setting)
    overlay(recbole_data, "importlib", import_module=_import_module)
    # RecBole itself finds none of its files
    overlay(recbole_data, "os", path=Overlay(os.path, exists=_no_file))
    wrap(Dataset, "save", _already_saved)
    for kind in vars(recbole_datasets).values():
        if isinstance(kind, type) and issubclass(kind, Dataset) and "build" in vars(kind):
            wrap(kind, "build", _build_or_read_back)
    for module in (recbole_data, importlib.import_module("recbole.data")):
        wrap(module, "load_split_dataloaders", _load_split_dataloaders)
        wrap(module, "save_split_dataloaders", _save_split_dataloaders)


def _no_file(path: str) -> bool:
    return False


# ------------------------------------------------------------------------------------------------------------
# what data are made from


def _note_setting(original: Callable, self: Config, key: str):
    noted = _read.get()
    if noted is not None:
        noted.add(key)
    return original(self, key)


@contextlib.contextmanager
def _settings_read(config: Config) -> Iterator[dict]:
    """A dict that holds, once the block has ended, the settings that were read in it, with their values."""
    values = plain(config.final_config_dict)
    noted: set[str] = set()
    found: dict = {}
    token = _read.set(noted)
    try:
        yield found
    finally:
        _read.reset(token)
    found.update({key: values.get(key) for key in sorted(noted.difference(_IRRELEVANT_SETTINGS))})


def settings_of(dataset: Dataset) -> set[str]:
    """Names of the settings that ``create_dataset`` read for a dataset; it depends on no others."""
    return set(dataset.origin["settings"])


def _origin(source: str | None, kind: type, settings: dict, before: dict[str, str]) -> dict:
    """Everything that a dataset, or a split of one, depends on, as plain values and tensors.

    Args:
        source: fingerprint of the dataset's files, or of the contents of the dataset that was split.
        kind: the class.
        settings: the settings that were read while it was built, with their values.
        before: fingerprints of the random generators before. For those that were drawn from, the result has these
            fingerprints and, as ``after``, their states afterwards (see
            :func:`~recbole_mambarec.checkpoint.random_state`).
    """
    after = _random()
    drawn = {name: state for name, state in before.items() if state != _digests(after)[name]}
    origin = {"source": source, "kind": f"{kind.__module__}.{kind.__qualname__}", "settings": settings}
    return origin | {"code": code_hash(), "random": drawn, "after": {name: after[name] for name in drawn}}


def _random() -> dict:
    return random_state(torch.device("cpu"), None)


def _digests(state: dict) -> dict[str, str]:
    return {name: digest(state[name]) for name in _GENERATORS}


def _difference(origin: dict, config: Config, kind: type, source: str | None) -> str | None:
    """Why building from ``origin`` would give something else now, as a clause; None if it would not."""
    values, state = plain(config.final_config_dict), _digests(_random())
    changed = [key for key, value in origin["settings"].items() if json.dumps(value) != json.dumps(values.get(key))]
    if origin["code"] != code_hash():
        return "it was written by other versions of RecBole, this package or their libraries"
    if origin["kind"] != f"{kind.__module__}.{kind.__qualname__}":
        return f"it holds a {origin['kind'].rpartition('.')[2]}, and this model needs a {kind.__qualname__}"
    if changed:
        return f"it was written with other settings ({', '.join(changed)})"
    if source is None or origin["source"] != source:
        return "the data have changed since it was written"
    if any(state[name] != before for name, before in origin["random"].items()):
        return (
            "it was drawn with other random numbers, because the seed differs or init_seed was not called immediately "
            "before"
        )
    return None


def _restore_random(origin: dict) -> None:
    """Set the random generators that were drawn from to the states that building the data would leave."""
    restore_random_state(_random() | origin["after"], torch.device("cpu"), None)


class _File:
    """A file that data are saved in and read back from.

    Args:
        path: the file under RecBole's name.
        key: the setting that can name another file.
        name: the content, as RecBole's log calls it.
        what: the content, as our messages call it.
    """

    def __init__(self, config: Config, path: Path, key: str, name: str, what: str) -> None:
        self.config, self.default, self.key, self.name, self.what = config, path, key, name, what
        self.named = config[key] or None
        self.path = Path(self.named or path)

    def exists(self) -> bool:
        """Whether there is something to read; warns if a file that the user named is missing."""
        exists = self.path.is_file()
        if self.named and not exists:
            getLogger().warning(f"{self.key} names {self.path}, which does not exist: the {self.what} is built again")
        return exists

    def contents(self, kind: type, source: str | None) -> dict | None:
        """The content of the file, if building it now would give the same; otherwise None, and the log says why.

        Args:
            kind, source: as in :func:`_origin`.

        Raises:
            UserError: it cannot be used, and the user named it.
        """
        reason, damaged = _unsupported(kind), False
        if reason is None:
            try:
                kept = read(self.path)
                reason = _difference(kept["origin"], self.config, kind, source)
                if reason is None:
                    parts = ("contents", "parts") if "parts" in kept else ("contents",)
                    return kept | {name: unpack(kept[name], self.config) for name in parts}
            except Exception as error:
                # whatever is wrong with a file from elsewhere, the run continues without it
                reason, damaged = str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}", True
        if self.named:
            raise UserError(
                f"{self.key} names {self.path}, which cannot be used ({reason}): leave {self.key} out to build the "
                f"{self.what} again"
            )
        log = getLogger().warning if damaged else getLogger().info
        log(f"The {self.what} is built again, not read from [{self.path}]: {reason}")
        return None

    def keep(self, origin: dict, contents: Callable[[], dict]) -> None:
        """Write the file, in the first of several processes; warns if the content cannot be written."""
        try:
            kept = contents()
        except NotPackable as error:
            self.warn_not_saved(f"it holds a {error}, which cannot be expressed as plain values")
            return
        if self.config["local_rank"] in (None, 0):
            getLogger().info(set_color(f"Saving {self.name} into", "pink") + f": [{self.default}]")
            write(self.default, {"origin": origin, **kept})

    def warn_not_saved(self, reason: str) -> None:
        """Warn that nothing is written."""
        getLogger().warning(f"The {self.what} is not saved: {reason}")


def _contents(dataset: Dataset) -> dict:
    """The attributes of a dataset that are its contents."""
    return {name: value for name, value in vars(dataset).items() if name not in _NOT_CONTENTS}


def _unsupported(kind: type) -> str | None:
    """Why datasets of a class cannot be saved, as a clause; None if they can."""
    if f"{kind.__module__}.".startswith(_OURS):
        return None
    return f"{kind.__qualname__} is a dataset of another package, so what it depends on is unknown"


# ------------------------------------------------------------------------------------------------------------
# datasets


def _import_module(name: str):
    """``importlib.import_module`` for ``create_dataset``, which looks the class of a dataset up in a module."""
    module = importlib.import_module(name)
    return _Makers(module) if module is recbole_datasets else module


class _Makers:
    """The classes of a module, as functions that read a saved object back if there is a valid one."""

    def __init__(self, module: types.ModuleType) -> None:
        self._module = module

    def __getattr__(self, name: str) -> object:
        kind = getattr(self._module, name)

        @functools.wraps(kind, updated=())  # RecBole names the file after the class
        def make(config: Config) -> Dataset:
            return _make_dataset(kind, config)

        return make


def _files_hash(config: Config) -> str | None:
    """Fingerprint of the files of a dataset; None if there are none yet."""
    try:
        return config_data_hash(config)
    except UserError:
        return None


def _make_dataset(kind: type, config: Config) -> Dataset:
    """``kind(config)``, or the same read back."""
    path = Path(config["checkpoint_dir"], f"{config['dataset']}-{kind.__name__}.pth")
    file = _File(config, path, "dataset_save_path", "filtered dataset", "dataset")
    source = None
    if file.exists():
        source = _files_hash(config)
        kept = file.contents(kind, source)
        if kept is not None:
            return _restored_dataset(kind, config, file, kept)
    saves = bool(config["save_dataset"])
    source = source or (_files_hash(config) if saves else None)
    before = _digests(_random()) if saves else {}
    with _settings_read(config) as settings:
        dataset = kind(config)
    dataset.origin = _origin(source, kind, settings, before) if saves else {"settings": settings}
    if saves:
        _keep_dataset(dataset, file)
    return dataset


def _keep_dataset(dataset: Dataset, file: _File) -> None:
    now = _files_hash(dataset.config)
    # RecBole may have just downloaded them
    dataset.origin["source"] = dataset.origin["source"] or now
    reason = _unsupported(type(dataset))
    if dataset.origin["source"] != now:
        reason = "its files changed while they were being read"
    if reason is None:
        file.keep(dataset.origin, lambda: {"contents": pack(_contents(dataset))})
    else:
        file.warn_not_saved(reason)
    dataset.kept = True


def _restored_dataset(kind: type[Dataset], config: Config, file: _File, kept: dict) -> Dataset:
    dataset = object.__new__(kind)
    state = kept["contents"] | {"config": config, "logger": getLogger(), "dataset_path": config["data_path"]}
    state |= {"origin": kept["origin"], "kept": True}
    if hasattr(kind, "__setstate__"):
        dataset.__setstate__(state)
    else:
        vars(dataset).update(state)
    _restore_random(kept["origin"])
    getLogger().info(set_color("Load filtered dataset from", "pink") + f": [{file.path}]")
    return dataset


def _already_saved(original: Callable, self: Dataset) -> None:
    """``Dataset.save``, which ``create_dataset`` calls for a dataset that has already been saved or read back.

    Raises:
        UserError: it is called elsewhere; what a dataset was made from is known only where it is built.
    """
    if not vars(self).pop("kept", False):
        raise UserError(
            "save() cannot tell what this dataset was made from, or whether it has changed since: set "
            "save_dataset=True to have create_dataset save it"
        )


# ------------------------------------------------------------------------------------------------------------
# splits


def _build_or_read_back(original: Callable, self: Dataset) -> list[Dataset]:
    """``Dataset.build``, or the same split read back."""
    if _building.get():  # the method of the base class
        return original(self)
    token = _building.set(True)
    try:
        return _split(original, self)
    finally:
        _building.reset(token)


def _split(original: Callable, dataset: Dataset) -> list[Dataset]:
    config, kind = dataset.config, type(dataset)
    path = Path(config["checkpoint_dir"], f"{config['dataset']}-for-{config['model']}-dataloader.pth")
    file = _File(config, path, "dataloaders_save_path", "split dataloaders", "split of the data")
    exists, saves = file.exists(), bool(config["save_dataloaders"])
    if not exists and not saves:
        return original(dataset)
    try:
        source = digest(pack(_contents(dataset)))
    except NotPackable as error:
        source, not_packable = None, f"the dataset holds a {error}, which cannot be expressed as plain values"
    else:
        not_packable = _unsupported(kind)
    if exists:
        kept = file.contents(kind, source)
        if kept is not None:
            return _restored_split(dataset, file, kept)
    if not saves:
        return original(dataset)
    before = _digests(_random())
    with _settings_read(config) as settings:
        parts = original(dataset)
    if not_packable:
        file.warn_not_saved(not_packable)
    else:
        file.keep(_origin(source, kind, settings, before), lambda: _packed_split(dataset, parts))
    return parts


def _packed_split(dataset: Dataset, parts: list[Dataset]) -> dict:
    """The dataset after it was split, and the attributes in which its parts differ from it."""
    whole = _contents(dataset)
    own = [{k: v for k, v in _contents(part).items() if k not in whole or whole[k] is not v} for part in parts]
    return {"contents": pack(whole), "parts": pack(own)}


def _restored_split(dataset: Dataset, file: _File, kept: dict) -> list[Dataset]:
    for name in _contents(dataset):
        del vars(dataset)[name]
    vars(dataset).update(kept["contents"])
    parts = []
    for own in kept["parts"]:
        parts.append(copy.copy(dataset))
        vars(parts[-1]).update(own)
    _restore_random(kept["origin"])
    getLogger().info(set_color("Load split dataloaders from", "pink") + f": [{file.path}]")
    return parts


def _load_split_dataloaders(original: Callable, config: Config) -> None:
    """None, so that ``data_preparation`` splits the data and builds the loaders; the split may be a saved one."""
    return


def _save_split_dataloaders(original: Callable, config: Config, dataloaders: tuple) -> None:
    """Does nothing, because the split was saved when it was made.

    Raises:
        UserError: it was not.
    """
    if not config["save_dataloaders"]:
        raise UserError(
            "loaders can be saved only where they are built: set save_dataloaders=True to have data_preparation save "
            "them"
        )
    kind = type(dataloaders[0]._dataset)
    if not is_wrapped(kind.build, _build_or_read_back):
        getLogger().warning(f"The split of the data is not saved: {_unsupported(kind)}")
