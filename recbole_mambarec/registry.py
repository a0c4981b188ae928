"""The models of this package, and how RecBole's own look-ups find them.

RecBole finds a model by importing ``recbole.model.<family>.<name in lower case>``, a trainer and a dataset by the names
``<Model>Trainer`` in ``recbole.trainer`` and ``<Model>Dataset`` in ``recbole.data.dataset``. Registration answers those
three look-ups and changes none of RecBole's functions.
"""

from __future__ import annotations

import ast
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import pkgutil
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

_FAMILY = "recbole.model.general_recommender"


@dataclass(frozen=True)
class Entry:
    """Where a model and its helpers live, as ``module:class`` names, imported on first use."""

    model: str
    trainer: str = "recbole_mambarec.trainer:MultimodalTrainer"
    dataset: str = "recbole_mambarec.data.dataset:MultimodalDataset"


# Adding a model: its file under models/, its YAML under properties/model/, its line here.
_BUILT_IN = {
    "MambaRec": Entry("recbole_mambarec.models.mambarec:MambaRec"),
    "CRANE": Entry("recbole_mambarec.models.crane:CRANE"),
    "VBPR": Entry("recbole_mambarec.models.vbpr:VBPR"),
    "FREEDOM": Entry("recbole_mambarec.models.freedom:FREEDOM"),
    "MGCN": Entry("recbole_mambarec.models.mgcn:MGCN"),
    "LGMRec": Entry("recbole_mambarec.models.lgmrec:LGMRec"),
    "MMGCN": Entry("recbole_mambarec.models.mmgcn:MMGCN"),
    "GRCN": Entry("recbole_mambarec.models.grcn:GRCN"),
    "SLMRec": Entry("recbole_mambarec.models.slmrec:SLMRec"),
    "PGL": Entry("recbole_mambarec.models.pgl:PGL"),
    "SMORE": Entry("recbole_mambarec.models.smore:SMORE"),
    "GUME": Entry("recbole_mambarec.models.gume:GUME"),
    "BM3": Entry("recbole_mambarec.models.bm3:BM3"),
    "COHESION": Entry("recbole_mambarec.models.cohesion:COHESION"),
}

_entries: dict[str, Entry] = {}


def register(name: str, entry: Entry) -> None:
    """Make a model known to RecBole under ``name`` (its class name).

    Raises:
        ValueError: the name, whatever its case, is taken by another model of this registry or by one of RecBole's.
    """
    if _entries.get(name) == entry:
        return
    taken = {known.lower() for known in _entries}.union(*_recbole_files().values())
    if name.lower() in taken:
        raise ValueError(f"model name '{name}' is taken: choose another")
    trainers = importlib.import_module("recbole.trainer")
    datasets = importlib.import_module("recbole.data.dataset")
    setattr(trainers, f"{name}Trainer", _load(entry.trainer))
    setattr(datasets, f"{name}Dataset", _load(entry.dataset))
    _entries[name] = entry


def register_built_in() -> None:
    """Register the models of this package and the finder that serves them."""
    if not any(isinstance(finder, _ModelFinder) for finder in sys.meta_path):
        sys.meta_path.append(_ModelFinder())
    for name, entry in _BUILT_IN.items():
        register(name, entry)


def names() -> list[str]:
    """Names of the registered models, in order of registration."""
    return list(_entries)


def recbole_models() -> list[str]:
    """Class names of RecBole's own models (those whose libraries are installed)."""
    from recbole.model.abstract_recommender import AbstractRecommender

    found = set()
    for family, files in _recbole_files().items():
        try:
            package = importlib.import_module(f"recbole.model.{family}")
        except Exception:  # the external ones need xgboost and lightgbm, which may be missing or broken
            continue
        for value in vars(package).values():
            if isinstance(value, type) and issubclass(value, AbstractRecommender) and value.__name__.lower() in files:
                found.add(value.__name__)
    return sorted(found)


def packages_missing_for(name: str) -> list[str]:
    """Packages without which RecBole cannot even look ``name`` up, a model of its own; empty for other names."""
    if import_failure(name) is None:
        return []
    # the family is imported as a whole
    family, files = next(item for item in _recbole_files().items() if name.lower() in item[1])
    folder = Path(importlib.util.find_spec("recbole").submodule_search_locations[0]) / "model" / family
    needed = set().union(*(_imports(folder / f"{file}.py") for file in files))
    return sorted(package for package in needed if importlib.util.find_spec(package) is None)


def import_failure(name: str) -> Exception | None:
    """What importing the family of ``name``, a model of RecBole's own, raises; None for other names."""
    for family, files in _recbole_files().items():
        if name.lower() not in files:
            continue
        try:
            importlib.import_module(f"recbole.model.{family}")
        except Exception as error:
            return error
    return None


def _imports(file: Path) -> set[str]:
    """The packages that a module imports when it is imported itself."""
    statements = ast.parse(file.read_text(encoding="utf-8")).body
    named = [alias.name for s in statements if isinstance(s, ast.Import) for alias in s.names]
    named += [s.module for s in statements if isinstance(s, ast.ImportFrom) and s.module and not s.level]
    return {module.partition(".")[0] for module in named}


def _recbole_files() -> dict[str, set[str]]:
    """RecBole's model families and the names of their files, read from the folders without importing them."""
    root = Path(importlib.util.find_spec("recbole").submodule_search_locations[0]) / "model"
    families = [folder for folder in sorted(root.glob("*_recommender")) if folder.is_dir()]
    return {f.name: {module.name for module in pkgutil.iter_modules([str(f)])} for f in families}


def _load(path: str) -> type:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


class _ModelFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Serves ``recbole.model.general_recommender.<name>`` for registered models.

    The module holds a reference to the class, which keeps its own module: there is one class object, and it pickles.
    """

    def find_spec(self, fullname, path=None, target=None):
        family, _, module = fullname.rpartition(".")
        if family == _FAMILY and any(name.lower() == module for name in _entries):
            return importlib.machinery.ModuleSpec(fullname, self, origin="recbole_mambarec")
        return None

    def exec_module(self, module: ModuleType) -> None:
        wanted = module.__name__.rpartition(".")[2]
        for name, entry in _entries.items():
            if name.lower() == wanted:
                setattr(module, name, _load(entry.model))
