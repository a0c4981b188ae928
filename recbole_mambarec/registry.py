"""The models of this package and of other packages, what belongs to each, and how RecBole finds them.

RecBole finds a model by importing ``recbole.model.<family>.<name in lower case>``, a trainer and a dataset by the names
``<Model>Trainer`` in ``recbole.trainer`` and ``<Model>Dataset`` in ``recbole.data.dataset``. These three look-ups find
registered models, too; no function of RecBole is changed.

Other packages announce their models as entry points of the group ``recbole_mambarec.models``. The names are read from
their metadata, and a package is imported when one of its models is used.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import pkgutil
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from logging import getLogger
from pathlib import Path
from types import ModuleType
from typing import Any

from recbole_mambarec.compat.patching import record
from recbole_mambarec.defaults import properties_folder
from recbole_mambarec.errors import UserError, one_line

_FAMILY = "recbole.model.general_recommender"
#: entry points of this group are named after models; loading one makes its package call ``recbole_mambarec.register``
GROUP = "recbole_mambarec.models"


@dataclass(frozen=True)
class Entry:
    """A model and what belongs to it.

    Attributes:
        model, trainer, dataset: ``module:class``, imported on first use.
        defaults: YAML file of the model's configuration keys.
        search_space: params file (:mod:`~recbole_mambarec.experiments.space`).
        presets: YAML file of published best settings (:mod:`~recbole_mambarec.presets`).
        published: folder of files ``<dataset>.yaml`` with scores that others have published.
        adapter: ``module:attribute``, for comparison with golden numbers (:mod:`recbole_mambarec.testing.parity`).
    """

    model: str
    trainer: str = "recbole_mambarec.trainer:MultimodalTrainer"
    dataset: str = "recbole_mambarec.data.dataset:MultimodalDataset"
    defaults: Path | None = None
    search_space: Path | None = None
    presets: Path | None = None
    published: Path | None = None
    adapter: str | None = None


# The models of this package. Everything that a new one needs is listed in docs/adding-a-model.md.
_BUILT_IN = {
    "MambaRec": "recbole_mambarec.models.mambarec:MambaRec",
    "CRANE": "recbole_mambarec.models.crane:CRANE",
    "VBPR": "recbole_mambarec.models.vbpr:VBPR",
    "FREEDOM": "recbole_mambarec.models.freedom:FREEDOM",
    "MGCN": "recbole_mambarec.models.mgcn:MGCN",
    "LGMRec": "recbole_mambarec.models.lgmrec:LGMRec",
    "MMGCN": "recbole_mambarec.models.mmgcn:MMGCN",
    "GRCN": "recbole_mambarec.models.grcn:GRCN",
    "SLMRec": "recbole_mambarec.models.slmrec:SLMRec",
    "PGL": "recbole_mambarec.models.pgl:PGL",
    "SMORE": "recbole_mambarec.models.smore:SMORE",
    "GUME": "recbole_mambarec.models.gume:GUME",
    "BM3": "recbole_mambarec.models.bm3:BM3",
    "COHESION": "recbole_mambarec.models.cohesion:COHESION",
    "LATTICE": "recbole_mambarec.models.lattice:LATTICE",
    "DualGNN": "recbole_mambarec.models.dualgnn:DualGNN",
    "DRAGON": "recbole_mambarec.models.dragon:DRAGON",
    "MENTOR": "recbole_mambarec.models.mentor:MENTOR",
    "LayerGCN": "recbole_mambarec.models.layergcn:LayerGCN",
    "SELFCFED_LGN": "recbole_mambarec.models.selfcfed_lgn:SELFCFED_LGN",
    "MMGCF": "recbole_mambarec.models.mmgcf:MMGCF",
    "LIRDRec": "recbole_mambarec.models.lirdrec:LIRDRec",
    "TMLP": "recbole_mambarec.models.tmlp:TMLP",
    "MMSSL": "recbole_mambarec.models.mmssl:MMSSL",
    "DiffMM": "recbole_mambarec.models.diffmm:DiffMM",
    "SOIL": "recbole_mambarec.models.soil:SOIL",
    "DAMRS": "recbole_mambarec.models.damrs:DAMRS",
    "MVGAE": "recbole_mambarec.models.mvgae:MVGAE",
    "REARM": "recbole_mambarec.models.rearm:REARM",
    "ItemKNNCBF": "recbole_mambarec.models.itemknncbf:ItemKNNCBF",
    "ItemFeatureKNN": "recbole_mambarec.models.itemfeatureknn:ItemFeatureKNN",
    "MultiEASE": "recbole_mambarec.models.multiease:MultiEASE",
    "GraphFilter": "recbole_mambarec.models.graphfilter:GraphFilter",
    "ThreeViews": "recbole_mambarec.models.threeviews:ThreeViews",
    "DGMRec": "recbole_mambarec.models.dgmrec:DGMRec",
}

_entries: dict[str, Entry] = {}
# announced models that could not be loaded, and why
_broken: dict[str, UserError] = {}


def register(name: str, entry: Entry) -> None:
    """Make a model known to RecBole under ``name`` (its class name).

    Raises:
        ValueError: the name, in upper or lower case, is taken by another registered model, by one that an installed
            package announces, or by one of RecBole's.
    """
    if _entries.get(name) == entry:
        return
    owner = _owner(name)
    announced = _announced().get(name.lower(), ())
    # a package that has been imported, or is being imported just now, may be the one that registers the model
    rivals = [p for p in announced if _top(p.value) != _top(entry.model) and _top(p.value) not in sys.modules]
    if owner is None and rivals:
        owner = _package(rivals[0])
    if owner is not None:
        raise ValueError(f"model name '{name}' of {entry.model} is taken by {owner}: choose another")
    _entries[name] = entry


def register_outside(model: type | str, classes: dict[str, type | str | None], files: dict) -> None:
    """Register a model of another package, see :func:`recbole_mambarec.register`.

    Args:
        classes: fields of :class:`Entry` that are classes; None: the default.
        files: fields of :class:`Entry` that are files or folders; None: there is none.

    Raises:
        ValueError: the name is taken.
        UserError: a file or folder does not exist.
    """
    path = _path(model)
    name = path.rpartition(":")[2]
    root = _folder_of(path)
    given: dict[str, Any] = {field: _path(value) for field, value in classes.items() if value is not None}
    for field, file in files.items():
        if file is None:
            continue
        given[field] = target = root / file
        if not (target.is_dir() if field == "published" else target.is_file()):
            kind = "folder" if field == "published" else "file"
            raise UserError(f"{field} of the model {name} is not a {kind}: {target} does not exist")
    register(name, Entry(path, **given))


def _path(target: type | str) -> str:
    """``module:class`` of a class."""
    return target if isinstance(target, str) else f"{target.__module__}:{target.__qualname__}"


def _folder_of(path: str) -> Path:
    """The folder of the top-level module of ``module:class``, which need not be imported yet."""
    top = _top(path)
    loaded = sys.modules.get(top)
    file = getattr(loaded, "__file__", None)
    if loaded is None:
        spec = importlib.util.find_spec(top)
        file = None if spec is None else spec.origin
    return Path(file).resolve().parent if file else Path.cwd()


def install() -> None:
    """Register the models of this package and let RecBole find all models; a second call changes nothing."""
    record(sys, "meta_path")
    if not any(isinstance(finder, _ModelFinder) for finder in sys.meta_path):
        sys.meta_path.append(_ModelFinder())
    folder = properties_folder()
    for name, model in _BUILT_IN.items():
        _entries[name] = Entry(
            model,
            defaults=folder / "model" / f"{name}.yaml",
            search_space=folder / "tuning" / f"{name}.hyper",
            presets=preset if (preset := folder / "preset" / f"{name}.yaml").is_file() else None,
            published=folder / "published",
        )
    _add_lazy_attributes(importlib.import_module("recbole.trainer"), "Trainer", lambda entry: entry.trainer)
    _add_lazy_attributes(importlib.import_module("recbole.data.dataset"), "Dataset", lambda entry: entry.dataset)


def built_in() -> list[str]:
    """Names of the models of this package."""
    return list(_BUILT_IN)


def names() -> list[str]:
    """Names of all models besides RecBole's own: those of this package, registered ones, announced ones."""
    announced = [points[0].name for points in _announced().values() if len(points) == 1]
    return [*_entries, *(name for name in announced if name not in _entries)]


def entry(name: str) -> Entry:
    """The entry of a model; the package that announces it is imported.

    Raises:
        KeyError: there is no such model.
        UserError: its package cannot be imported or does not register it, or two packages announce the name.
    """
    if name not in _entries:
        points = [point for point in _announced().get(name.lower(), ()) if point.name == name]
        if not points:
            raise KeyError(name)
        if name not in _broken:
            try:
                _import(name)
            except UserError as error:
                _broken[name] = error
        if name in _broken:
            raise _broken[name]
    return _entries[name]


def entries() -> dict[str, Entry]:
    """All models by name; one that cannot be loaded is left out, with a warning the first time."""
    found = {}
    for name in names():
        warned = name in _broken
        try:
            found[name] = entry(name)
        except UserError as error:
            if not warned:
                getLogger().warning(str(error))
    return found


def packages() -> dict[str, str]:
    """Announced model -> name and version of its package; nothing is imported."""
    return {points[0].name: " and ".join(map(_package, points)) for points in _announced().values()}


def versions(name: str) -> dict[str, str]:
    """Name -> version of the package that announces a model; empty for other models."""
    points = [point for point in _announced().get(name.lower(), ()) if point.name == name and point.dist is not None]
    return {point.dist.name: point.dist.version for point in points}


def load(name: str, path: str) -> Any:
    """Import ``module:attribute``, one of the paths in a model's entry.

    Raises:
        UserError: it cannot be imported, and the model belongs to another package.
    """
    module, _, attribute = path.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except Exception as error:
        if name in _BUILT_IN:
            raise
        raise UserError(f"{path} of the model {name}{_of_package(name)} {_cannot_be_imported(error)}") from error


def _import(name: str) -> None:
    """Import the package that announces a model, so that it registers it."""
    points = _announced()[name.lower()]
    if len(points) > 1:
        raise UserError(
            f"the packages {' and '.join(map(_package, points))} both contain a model {name}: uninstall one"
        )
    point = points[0]
    try:
        loaded = point.load()
        if name not in _entries and isinstance(loaded, type):
            register(name, Entry(_path(loaded)))
    except Exception as error:
        raise UserError(f"the model {name}{_of_package(name)} {_cannot_be_imported(error)}") from error
    if name not in _entries:
        raise UserError(
            f"the package {_package(point)} announces a model {name}, but importing {point.value} registers no model "
            f"of that name: call recbole_mambarec.register there"
        )


def _cannot_be_imported(error: Exception) -> str:
    """The rest of a sentence about a failed import: the error and the line that raised it."""
    machinery = (__file__, importlib.__file__)
    stack = traceback.extract_tb(error.__traceback__)
    frames = [frame for frame in stack if frame.filename not in machinery and frame.filename[0] != "<"]
    where = f"; {Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ""
    return f"cannot be imported ({type(error).__name__}: {one_line(error)}{where}): repair or uninstall that package"


def _of_package(name: str) -> str:
    points = _announced().get(name.lower(), ())
    return f" of the package {_package(points[0])}" if points else ""


def _package(point: metadata.EntryPoint) -> str:
    return point.value if point.dist is None else f"{point.dist.name} {point.dist.version}"


def _top(path: str) -> str:
    """The top-level module of ``module:attribute``."""
    return path.partition(":")[0].partition(".")[0].strip()


@functools.cache
def _announced() -> dict[str, tuple[metadata.EntryPoint, ...]]:
    """Name in lower case -> the entry points of that name; there should be one.

    An entry point whose name belongs to a model of this package or of RecBole is left out, with a warning.
    """
    found: dict[str, tuple[metadata.EntryPoint, ...]] = {}
    for point in sorted(metadata.entry_points(group=GROUP), key=lambda point: (point.name, point.value)):
        owner = _owner(point.name, besides=_top(point.value))
        if owner is None:
            found[point.name.lower()] = (*found.get(point.name.lower(), ()), point)
        else:
            getLogger().warning(
                f"the model {point.name} of the package {_package(point)} is left out, because its name is taken by "
                f"{owner}: uninstall the package, or use a release in which the model has another name"
            )
    return found


def _owner(name: str, besides: str | None = None) -> str | None:
    """What a name, in upper or lower case, already belongs to: a registered model, or one of RecBole's.

    Args:
        besides: top-level module whose models do not count.
    """
    for registered, entry in _entries.items():
        if registered.lower() == name.lower() and _top(entry.model) != besides:
            return entry.model
    families = [family for family, files in _recbole_files().items() if name.lower() in files]
    return f"RecBole's recbole.model.{families[0]}.{name.lower()}" if families else None


def _add_lazy_attributes(module: ModuleType, suffix: str, path: Callable[[Entry], str]) -> None:
    """Make ``module.<Model><suffix>`` the class that ``path`` names of a model's entry, imported when it is used."""
    record(module, "__getattr__")
    if hasattr(vars(module).get("__getattr__"), "_recbole_mambarec"):
        return

    def __getattr__(attribute: str) -> object:
        name = attribute.removesuffix(suffix)
        if name == attribute or name not in names():
            raise AttributeError(f"module '{module.__name__}' has no attribute '{attribute}'")
        found = load(name, path(entry(name)))
        setattr(module, attribute, found)
        return found

    vars(__getattr__)["_recbole_mambarec"] = True
    vars(module)["__getattr__"] = __getattr__


def recbole_models() -> list[str]:
    """Class names of RecBole's own models whose libraries are installed."""
    from recbole.model.abstract_recommender import AbstractRecommender

    found = set()
    for family, files in _recbole_files().items():
        try:
            package = importlib.import_module(f"recbole.model.{family}")
        except Exception:  # one family needs xgboost and lightgbm, which may be missing or broken
            continue
        for value in vars(package).values():
            if isinstance(value, type) and issubclass(value, AbstractRecommender) and value.__name__.lower() in files:
                found.add(value.__name__)
    return sorted(found)


def packages_missing_for(name: str) -> list[str]:
    """Missing packages that the family of ``name``, one of RecBole's models, imports; empty for other names."""
    if import_failure(name) is None:
        return []
    # the family is imported as a whole
    family, files = next(item for item in _recbole_files().items() if name.lower() in item[1])
    folder = Path(importlib.util.find_spec("recbole").submodule_search_locations[0]) / "model" / family
    needed = set().union(*(_imports(folder / f"{file}.py") for file in files))
    return sorted(package for package in needed if importlib.util.find_spec(package) is None)


def import_failure(name: str) -> Exception | None:
    """The error of importing the family of ``name``, one of RecBole's models; None without one, or for other names."""
    for family, files in _recbole_files().items():
        if name.lower() not in files:
            continue
        try:
            importlib.import_module(f"recbole.model.{family}")
        except Exception as error:
            return error
    return None


def _imports(file: Path) -> set[str]:
    """The packages that a module imports at its top level."""
    statements = ast.parse(file.read_text(encoding="utf-8")).body
    named = [alias.name for s in statements if isinstance(s, ast.Import) for alias in s.names]
    named += [s.module for s in statements if isinstance(s, ast.ImportFrom) and s.module and not s.level]
    return {module.partition(".")[0] for module in named}


def _recbole_files() -> dict[str, set[str]]:
    """RecBole's model families and the names of their files, read from the folders without importing them."""
    root = Path(importlib.util.find_spec("recbole").submodule_search_locations[0]) / "model"
    families = [folder for folder in sorted(root.glob("*_recommender")) if folder.is_dir()]
    return {f.name: {module.name for module in pkgutil.iter_modules([str(f)])} for f in families}


class _ModelFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Provides ``recbole.model.general_recommender.<name>`` for registered and announced models.

    That module refers to the class, whose ``__module__`` stays the real one: there is one class, and it can be pickled.
    """

    def find_spec(self, fullname, path=None, target=None):
        family, _, module = fullname.rpartition(".")
        if family == _FAMILY and module in {name.lower() for name in (*_entries, *_announced())}:
            return importlib.machinery.ModuleSpec(fullname, self, origin="recbole_mambarec")
        return None

    def exec_module(self, module: ModuleType) -> None:
        lower_name = module.__name__.rpartition(".")[2]
        announced = (point.name for point in _announced().get(lower_name, ()))
        for name in dict.fromkeys([*(name for name in _entries if name.lower() == lower_name), *announced]):
            setattr(module, name, load(name, entry(name).model))
