"""RecBole 1.2.1 on today's numpy, scipy, pandas, torch, ray and hyperopt.

RecBole 1.2.1 was released for numpy 1, pandas 2 and torch 2.5. Each function below mends one thing that newer
releases broke (or that never worked), is named after it, and says so in its docstring. Nothing here is copied
from RecBole: its functions are wrapped, and the modules that need another ``torch``, ``pandas`` or ``numpy``
get an :class:`_Overlay` of it under the global name they already use, so that no other code in the process is
affected.

:func:`apply` runs them all. It can be called any number of times, before or after RecBole is imported.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import pickle
import sys
import threading
import types
import warnings
import zipfile
from collections.abc import Callable, Mapping
from itertools import chain

import numpy as np
import pandas as pd
import scipy.sparse
import torch

from recbole_mambarec.errors import UserError

#: Set to ``1`` to let RecBole load checkpoints whose content can run code.
TRUST_VARIABLE = "RECBOLE_MAMBAREC_TRUST_CHECKPOINTS"

#: ``checkpoint["format"]`` of the plain-value checkpoints of this package starts with this.
CHECKPOINT_FORMAT = "recbole_mambarec.checkpoint/"


def apply() -> None:
    """Mend everything, in an order in which nothing is imported before it can be."""
    escapes_in_docstrings()
    numpy_aliases()
    scipy_dok_update()
    ray_at_import()
    ray_worker_arguments()
    pandas_copy_on_write()
    pandas_series_agg()
    torch_load()
    anomaly_detection()
    torch_grad_scaler()
    sparse_products_under_autocast()
    hyperopt_generator()
    hyperopt_params_file()
    distributed_on_cpu()
    distributed_checkpoint()
    distributed_children()
    distributed_folders()
    distributed_evaluation()
    collected_counts()
    popularity_metrics()


# ------------------------------------------------------------------------------------------------------------
# tools


class _Overlay(types.ModuleType):
    """A module with some attributes replaced, for one importing module; all else is the real module's."""

    def __init__(self, module: types.ModuleType, **replacements: object):
        super().__init__(module.__name__, module.__doc__)
        vars(self).update(replacements, _module=module)

    def __getattr__(self, name: str) -> object:
        return getattr(vars(self)["_module"], name)

    def __dir__(self) -> list[str]:
        return sorted({*vars(self), *dir(vars(self)["_module"])})


def _overlay(owner: types.ModuleType, name: str, **replacements: object) -> None:
    """Replace attributes of the module that ``owner`` knows as ``name``, for ``owner`` only."""
    current = getattr(owner, name)
    if isinstance(current, _Overlay):
        vars(current).update(replacements)
    else:
        setattr(owner, name, _Overlay(current, **replacements))


def wrap(owner: object, name: str, wrapper: Callable) -> None:
    """Make ``owner.name(*args)`` call ``wrapper(original, *args)``, once however often this is called."""
    original = getattr(owner, name)
    wrappers = getattr(original, "_wrappers_of_ours", ())
    if wrapper.__name__ in wrappers:
        return

    @functools.wraps(original)
    def wrapped(*args, **kwargs):
        return wrapper(original, *args, **kwargs)

    wrapped._wrappers_of_ours = (*wrappers, wrapper.__name__)
    setattr(owner, name, wrapped)


# ------------------------------------------------------------------------------------------------------------
# Python


def escapes_in_docstrings() -> None:
    """Keep Python from printing docstrings of RecBole.

    Some hold backslashes that are no escapes. Python 3.12 and newer warn of them whenever they compile the module: at
    the first import of what uv installed, and at each one where no bytecode can be written. Older ones do where
    warnings of deprecations are shown.
    """
    # the compiler knows the file, not the module
    for category in (SyntaxWarning, DeprecationWarning):
        warnings.filterwarnings(
            "ignore", "invalid escape sequence|.* is an invalid escape", category, r"(.*[\\/])?recbole[\\/.]"
        )


# ------------------------------------------------------------------------------------------------------------
# numpy and scipy

_NUMPY_ALIASES = {
    "bool8": np.bool_,
    "bytes0": np.bytes_,
    "cfloat": np.complex128,
    "complex_": np.complex128,
    "float_": np.float64,
    "int0": np.intp,
    "object0": np.object_,
    "singlecomplex": np.complex64,
    "str0": np.str_,
    "string_": np.bytes_,
    "uint0": np.uintp,
    "unicode_": np.str_,
    "void0": np.void,
}


def numpy_aliases() -> None:
    """Give back the scalar type aliases that numpy 2.0 removed, those that are missing.

    Every ``Config`` reads ``np.float_``, ``np.complex_`` and ``np.unicode_``: AttributeError.

    https://github.com/RUCAIBox/RecBole/issues/2215, https://github.com/RUCAIBox/RecBole/pull/2187
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # numpy 1.24 has some of them, with a warning
        for name, scalar_type in _NUMPY_ALIASES.items():
            if not hasattr(np, name):
                setattr(np, name, scalar_type)


def scipy_dok_update() -> None:
    """Give back ``dok_matrix._update(dict)``, which scipy 1.13 removed.

    GCMC, LightGCN, NCL, NGCF, SpectralCF, KGIN and MCCLK fill their adjacency matrix with it: AttributeError.

    https://github.com/RUCAIBox/RecBole/issues/2034
    """
    if not hasattr(scipy.sparse.dok_matrix, "_update"):
        scipy.sparse.dok_matrix._update = _dok_update


def _dok_update(self: scipy.sparse.dok_matrix, entries: Mapping) -> None:
    # as before: unchecked, because the public update() is slow where it is not forbidden (1.13)
    self._dict.update(entries)


# ------------------------------------------------------------------------------------------------------------
# ray


def ray_at_import() -> None:
    """Import ``recbole.quick_start`` without ray, which it only uses to report inside a ray trial.

    The module starts with ``from ray import tune``: without ray, or with one that does not import, nothing of RecBole's
    quick start can be used; with a good one it takes seconds. While the module is imported a stand-in is found instead,
    and ``tune.report`` goes to the real ray when there is one with a trial to report to (:class:`RayTune`).

    https://github.com/RUCAIBox/RecBole/issues/1518, https://github.com/RUCAIBox/RecBole/issues/1820
    """
    name = "recbole.quick_start.quick_start"
    if name not in sys.modules:
        # first all that quick_start needs besides ray: the stand-in is to be there for a moment only
        for needed in ("recbole.config", "recbole.data", "recbole.data.transform", "recbole.utils"):
            importlib.import_module(needed)
        stand_in = types.ModuleType("ray")
        stand_in.tune = RayTune
        missing = object()
        real = sys.modules.get("ray", missing)
        sys.modules["ray"] = stand_in
        try:
            importlib.import_module(name)
        finally:
            if real is missing:
                del sys.modules["ray"]
            else:
                sys.modules["ray"] = real
    sys.modules[name].tune = RayTune


def ray_worker_arguments() -> None:
    """Let a ``Config`` be made in a worker of ray, whose command line is ray's.

    ``Config`` takes every ``--key=value`` there for a setting, and what ray gives its workers (``--worker-id=...``) are
    keys that nobody knows.

    No upstream issue known.
    """
    config = importlib.import_module("recbole.config.configurator").Config
    wrap(config, "_load_cmd_line", _load_cmd_line_unless_rays)


def _load_cmd_line_unless_rays(original: Callable, self) -> dict:
    program = sys.argv[0].replace("\\", "/")
    return {} if program.endswith("ray/_private/workers/default_worker.py") else original(self)


class RayTune:
    """What RecBole uses of ``ray.tune``; quiet unless ray itself runs this process as a trial."""

    @staticmethod
    def report(**metrics: float) -> None:
        """Report ``metrics`` to the ray trial that runs this code, if any.

        RecBole passes keywords, as ray took them before 2.7.
        """
        tune = sys.modules.get("ray.tune")
        if tune is None:
            return
        if not hasattr(tune, "get_context"):
            warnings.warn("ray is older than 2.45: nothing is reported to it", stacklevel=2)
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # ray's, where it runs no trial
            trial_id = tune.get_context().get_trial_id()
        if trial_id is not None:
            tune.report(metrics)


# ------------------------------------------------------------------------------------------------------------
# pandas


def pandas_copy_on_write() -> None:
    """Fill missing features under pandas' copy-on-write, the default since pandas 3.0.

    ``Dataset`` fills them by ``frame[column].fillna(value, inplace=True)``, which now changes a temporary
    copy: float features keep their NaN (and give NaN scores) without an error, and a blank ``token_seq`` or
    ``float_seq`` is a crash ("'float' object has no attribute 'split'"). Besides, the tensors of a dataset
    share their memory with a frame's arrays, which are now read-only as other frames may share them, too.

    No upstream issue known; see https://pandas.pydata.org/docs/user_guide/copy_on_write.html
    """
    module = importlib.import_module("recbole.data.dataset.dataset")
    _overlay(module, "pd", read_csv=_read_csv_with_blank_sequences)
    wrap(module.Dataset, "_load_feat", _without_chained_assignment_warnings)
    wrap(module.Dataset, "_fill_nan", _fill_nan)
    wrap(module.Dataset, "_dataframe_to_interaction", _dataframe_to_interaction)


def _chained_fillna_is_lost() -> bool:
    frame = pd.DataFrame({"x": [np.nan]})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        frame["x"].fillna(0.0, inplace=True)
    return bool(frame["x"].isna().any())


def _read_csv_with_blank_sequences(*args, **kwargs) -> pd.DataFrame:
    """``pandas.read_csv`` of an atomic file that reads a blank sequence as an empty string."""
    frame = pd.read_csv(*args, **kwargs)
    if _chained_fillna_is_lost():
        sequences = [name for name in frame if str(name).endswith((":token_seq", ":float_seq"))]
        frame[sequences] = frame[sequences].fillna("")
    return frame


def _without_chained_assignment_warnings(original: Callable, *args, **kwargs):
    # pandas warns about the very lines that are made harmless here
    with warnings.catch_warnings():
        for category in ("ChainedAssignmentError", "SettingWithCopyWarning"):
            if hasattr(pd.errors, category):
                warnings.simplefilter("ignore", getattr(pd.errors, category))
        # pandas 2.2 and 2.3 announce what pandas 3 does
        warnings.filterwarnings("ignore", message="A value is trying to be set on a copy", category=FutureWarning)
        return original(*args, **kwargs)


def _fill_nan(original: Callable, self) -> None:
    """Fill tokens with 0 (the padding) and floats with their mean before RecBole tries to."""
    from recbole.utils import FeatureType

    if _chained_fillna_is_lost():
        for name in self.feat_name_list:
            feat = getattr(self, name)
            types_of = {field: self.field2type[field] for field in feat}
            fills = {field: 0 for field in feat if types_of[field] == FeatureType.TOKEN}
            fills |= {field: feat[field].mean() for field in feat if types_of[field] == FeatureType.FLOAT}
            setattr(self, name, feat.fillna(fills))
    _without_chained_assignment_warnings(original, self)


def _dataframe_to_interaction(original: Callable, self, data: pd.DataFrame):
    """Give every tensor memory of its own."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable", category=UserWarning)
        interaction = original(self, data)
    if _chained_fillna_is_lost():
        for name, values in interaction.interaction.items():
            interaction.interaction[name] = values.clone()
    return interaction


def pandas_series_agg() -> None:
    """Measure sequences one by one: since pandas 3.0 ``series.agg(len)`` is the length of the series.

    It was that of each element, and RecBole splits flattened sequences by it: every dataset with a
    ``token_seq`` (and normalising or discretising a ``float_seq``) is a crash ("Length of values ... does not
    match length of index").

    No upstream issue known; see https://github.com/pandas-dev/pandas/issues/53325
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # pandas 2 announces what pandas 3 does
        element_by_element = isinstance(pd.Series([[0]]).agg(len), pd.Series)
    if element_by_element:
        return
    for name in ("dataset", "kg_dataset", "sequential_dataset"):
        importlib.import_module(f"recbole.data.dataset.{name}").len = _len


def _len(values):
    """``len`` for modules that take the length of a series of sequences only as ``series.agg(len)``."""
    sequences = isinstance(values, pd.Series) and values.dtype == object
    return values.map(len) if sequences else len(values)


# ------------------------------------------------------------------------------------------------------------
# torch

_LOADING_MODULES = (
    "recbole.trainer.trainer",
    "recbole.model.context_aware_recommender.kd_dagfm",
    "recbole.model.general_recommender.convncf",
    "recbole.model.general_recommender.nais",
    "recbole.model.general_recommender.neumf",
    "recbole.model.general_recommender.ract",
    "recbole.model.sequential_recommender.s3rec",
)

_torch_load = torch.load
_written: dict[str, tuple[int, ...]] = {}
_swap_lock = threading.RLock()


def torch_load() -> None:
    """Let RecBole load its checkpoints, and only those whose content is known to be harmless.

    Since torch 2.6 ``torch.load`` refuses everything but plain values, and RecBole pickles its whole
    ``Config`` into every checkpoint: no training ends with its best model, and nothing can be resumed.
    Switching the check off (``weights_only=False``) would let any file run any code, so, for loads made by
    RecBole only:

    - a file of plain values is loaded;
    - else a file that this very process wrote through RecBole, unchanged since, is loaded in full;
    - else, with ``RECBOLE_MAMBAREC_TRUST_CHECKPOINTS=1``, any file is loaded in full;
    - else it is refused: :class:`UserError`, as for a missing or damaged file.

    Older torch loads any file in full; the rules are the same there.

    https://github.com/RUCAIBox/RecBole/issues/2215, https://github.com/RUCAIBox/RecBole/issues/2212
    """
    for name in _LOADING_MODULES:
        _overlay(importlib.import_module(name), "torch", load=load_checkpoint, save=_save_checkpoint)
    quick_start = importlib.import_module("recbole.quick_start.quick_start")
    wrap(quick_start, "load_data_and_model", _load_data_and_model)
    sys.modules["recbole.quick_start"].load_data_and_model = quick_start.load_data_and_model


def _fingerprint(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _remember_checkpoint(path: str | os.PathLike) -> None:
    """Note that ``path``, as it is now, was written by this run."""
    _written[os.path.realpath(path)] = _fingerprint(os.stat(path))


def _save_checkpoint(obj: object, f, *args, **kwargs) -> None:
    """``torch.save`` that remembers which files it wrote."""
    torch.save(obj, f, *args, **kwargs)
    if isinstance(f, (str, os.PathLike)):
        _remember_checkpoint(f)


def load_checkpoint(f, *args, **kwargs):
    """``torch.load`` with the policy of :func:`torch_load`.

    Raises:
        UserError: the file is missing, damaged, or can run code and is not trusted.
    """
    kwargs.pop("weights_only", None)
    if f is None:
        raise UserError(
            "a checkpoint is to be loaded and none is named: give the path of its file in the configuration"
        )
    if not isinstance(f, (str, os.PathLike)):
        return _torch_load(f, *args, weights_only=True, **kwargs)
    path = os.fspath(f)
    try:
        stream = open(path, "rb")  # noqa: SIM115 - closed below; only this line's OSError means "missing"
    except OSError as error:
        raise UserError(f"the checkpoint {path} cannot be opened: {error.strerror or error}.") from error
    # the handle that is checked is the one that is read: the name may come to mean another file in between
    with stream:
        trusted = _written.get(os.path.realpath(path)) == _fingerprint(os.fstat(stream.fileno()))
        trusted = trusted or os.environ.get(TRUST_VARIABLE) == "1"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # torch doubts RecBole's pickle protocol 4
                return _torch_load(stream, *args, weights_only=True, **kwargs)
        except Exception as error:
            failure = error
            if not trusted and isinstance(error, pickle.UnpicklingError) and _is_pickled(stream):
                raise UserError(
                    f"the checkpoint {path} holds more than plain values, which this process did not write; "
                    f"loading it would run code stored in it, so if you trust it, set {TRUST_VARIABLE}=1."
                ) from error
        if trusted:
            stream.seek(0)
            try:
                return _torch_load(stream, *args, weights_only=False, **kwargs)
            except Exception as error:
                failure = error
    reason = (str(failure).splitlines() or [""])[0].rstrip(".")
    raise UserError(
        f"the checkpoint {path} is damaged or not a checkpoint ({type(failure).__name__}: {reason})."
    ) from failure


def _is_pickled(stream) -> bool:
    """Whether the file is one of torch's two formats at all, a whole zip archive or bare pickles."""
    stream.seek(0)
    first = stream.read(1)
    return first == pickle.PROTO or (first == b"P" and zipfile.is_zipfile(stream))


def _load_data_and_model(original: Callable, *args, **kwargs):
    """Run RecBole's function, which imports torch by itself, with the policy of :func:`torch_load`.

    Other threads keep the ``torch.load`` they know.
    """
    thread = threading.get_ident()
    with _swap_lock:
        previous = torch.load

        def load(*load_args, **load_kwargs):
            if threading.get_ident() != thread:
                return previous(*load_args, **load_kwargs)
            # the model is moved to its device later, which need not be the one that it was trained on
            return _with_recbole_config(load_checkpoint(*load_args, **{"map_location": "cpu"} | load_kwargs))

        torch.load = load
        try:
            return original(*args, **kwargs)
        finally:
            torch.load = previous


def _with_recbole_config(checkpoint):
    """Give a checkpoint the ``Config`` that RecBole expects: of this package's plain values, or for this machine."""
    from recbole_mambarec.restored import Config, config_from_checkpoint, on_this_machine

    if isinstance(checkpoint, Mapping) and str(checkpoint.get("format")).startswith(CHECKPOINT_FORMAT):
        return {**checkpoint, "config": config_from_checkpoint(checkpoint["config"])}
    if isinstance(checkpoint, Mapping) and isinstance(checkpoint.get("config"), Config):
        return {**checkpoint, "config": on_this_machine(checkpoint["config"])}
    return checkpoint


def torch_grad_scaler() -> None:
    """Build gradient scalers without the warning that torch 2.4 and later give in every epoch.

    The trainer calls ``torch.cuda.amp.GradScaler``, deprecated for ``torch.amp.GradScaler("cuda")``, its base
    class. Without a GPU it is one for the CPU.

    No upstream issue of its own known; seen in https://github.com/RUCAIBox/RecBole/issues/2154
    """
    if hasattr(torch.amp, "GradScaler"):
        trainer = importlib.import_module("recbole.trainer.trainer")
        _overlay(trainer, "amp", GradScaler=_grad_scaler)


def _grad_scaler(*args, **kwargs) -> torch.amp.GradScaler:
    return torch.amp.GradScaler("cuda" if torch.cuda.is_available() else "cpu", *args, **kwargs)


def sparse_products_under_autocast() -> None:
    """Let LightGCN train with ``enable_amp`` on a CPU: its propagation stays in float32.

    Autocast turns the dense operand of ``torch.sparse.mm`` to bfloat16, and the backward pass of the sparse product
    then fails with "expected scalar type Float but found BFloat16". The rest of a step is autocast as before.

    No upstream issue known.
    """
    model = importlib.import_module("recbole.model.general_recommender.lightgcn").LightGCN
    wrap(model, "forward", _forward_in_float32)


def _forward_in_float32(original: Callable, self, *args, **kwargs):
    with torch.autocast(self.device.type, enabled=False):
        return original(self, *args, **kwargs)


# ------------------------------------------------------------------------------------------------------------
# metrics


def collected_counts() -> None:
    """Let the metrics that need counts be computed at all.

    ``Collector.get_data_struct`` moves everything that was collected to the CPU, the number of items (an int) and the
    interactions per item (a Counter) included: "'int' object has no attribute 'cpu'" with ItemCoverage, GiniIndex,
    AveragePopularity, ShannonEntropy or TailPercentage among the metrics.

    https://github.com/RUCAIBox/RecBole/issues/2131
    """
    wrap(importlib.import_module("recbole.evaluator.collector").Collector, "get_data_struct", _get_data_struct)


def _get_data_struct(original: Callable, self):
    collected = self.data_struct._data_dict
    counts = {name: collected.pop(name) for name in list(collected) if not torch.is_tensor(collected[name])}
    try:
        struct = original(self)
    finally:
        collected.update(counts)
    struct._data_dict.update(counts)
    return struct


# ------------------------------------------------------------------------------------------------------------
# hyperopt


def hyperopt_generator() -> None:
    """Let ``HyperTuning(algo="exhaustive")`` and its ``display_file`` work.

    The search samples with ``np.random.RandomState``, and hyperopt >= 0.2.7 calls ``integers`` on it, which
    only the newer ``Generator`` has. The plot asks for ``np.str``, gone since numpy 1.24 unless some
    ``Config`` put it back.

    https://github.com/RUCAIBox/RecBole/issues/1868
    """
    hyper_tuning = importlib.import_module("recbole.trainer.hyper_tuning")
    _overlay(hyper_tuning, "np", random=_Overlay(np.random, RandomState=_RandomState), str=str)


class _RandomState(np.random.RandomState):
    """A ``RandomState`` (for hyperopt < 0.2.7) that answers to ``Generator``'s name for ``randint``, too."""

    def integers(self, low: int, high: int | None = None, size=None):
        return self.randint(low, high, size)


def hyperopt_params_file() -> None:
    """Read the params files of ``HyperTuning`` as what they are documented to be.

    RecBole passes the options of a ``choice`` to ``eval``, which runs whatever stands there, and passes over lines that
    it does not understand without a word.

    No upstream issue known.
    """
    hyper_tuning = importlib.import_module("recbole.trainer.hyper_tuning")
    hyper_tuning.HyperTuning._build_space_from_file = staticmethod(_build_space_from_file)


def _build_space_from_file(file: str | os.PathLike) -> dict:
    from recbole.trainer import HyperTuning

    from recbole_mambarec.experiments.space import read_space

    return HyperTuning._build_space_from_dict(read_space(file).as_dict())


# ------------------------------------------------------------------------------------------------------------
# distributed runs


def distributed_on_cpu() -> None:
    """Let runs of several processes use gloo on machines (or with ``gpu_id: ""``) without CUDA devices.

    ``Config`` takes nccl and ``cuda:<rank>`` for granted, the trainer gives ``DistributedDataParallel`` a
    device number, which it refuses for CPU modules, and turns BatchNorm layers into SyncBatchNorm, which
    refuse CPU tensors.

    No upstream issue known.
    """
    wrap(importlib.import_module("recbole.config.configurator").Config, "_init_device", _init_device)
    trainer = importlib.import_module("recbole.trainer.trainer")
    _overlay(trainer, "torch", nn=_Overlay(torch.nn, SyncBatchNorm=_SyncBatchNorm))
    trainer.DistributedDataParallel = _DistributedDataParallel


def _init_device(original: Callable, self) -> None:
    """Ask RecBole which device a single process would get; if the CPU, set up the process group for it."""
    values = self.final_config_dict
    if "local_rank" not in values:
        return original(self)
    rank = values.pop("local_rank")
    original(self)
    values["local_rank"] = rank
    if values["device"].type != "cpu":
        return original(self)
    torch.distributed.init_process_group(
        backend="gloo",
        rank=rank + values["offset"],
        world_size=values["world_size"],
        init_method=f"tcp://{values['ip']}:{values['port']}",
    )
    values["single_spec"] = False
    if rank != 0:
        values.update(state="error", show_progress=False, verbose=False)
    return None


def _on_cpu(module: torch.nn.Module) -> bool:
    return all(tensor.device.type == "cpu" for tensor in chain(module.parameters(), module.buffers()))


class _DistributedDataParallel(torch.nn.parallel.DistributedDataParallel):
    def __init__(self, module: torch.nn.Module, device_ids: list | None = None, **kwargs):
        super().__init__(module, device_ids=None if _on_cpu(module) else device_ids, **kwargs)


class _SyncBatchNorm(torch.nn.SyncBatchNorm):
    @classmethod
    def convert_sync_batchnorm(cls, module: torch.nn.Module, process_group=None) -> torch.nn.Module:
        if _on_cpu(module):
            return module
        return torch.nn.SyncBatchNorm.convert_sync_batchnorm(module, process_group)


def distributed_checkpoint() -> None:
    """Let all processes of a run load the checkpoint that the first one wrote.

    Each process names the file after the second in which it built its trainer, so that another one looks for
    a file that nobody writes whenever a second ends in between, and it may read the file before it is
    complete.

    No upstream issue known.
    """
    trainer = importlib.import_module("recbole.trainer.trainer").Trainer
    wrap(trainer, "__init__", _share_checkpoint_name)
    wrap(trainer, "_save_checkpoint", _wait_for_checkpoint)


def _share_checkpoint_name(original: Callable, self, config, model) -> None:
    original(self, config, model)
    if not config["single_spec"]:
        name = [self.saved_model_file]
        torch.distributed.broadcast_object_list(name, src=0)
        self.saved_model_file = name[0]


def _wait_for_checkpoint(original: Callable, self, *args, **kwargs) -> None:
    original(self, *args, **kwargs)
    if not self.config["single_spec"]:
        # all processes come here after the same epochs: they decide upon the validation score they share
        torch.distributed.barrier()
        if self.config["local_rank"] != 0:
            # not there on another machine's disk; then this process cannot load it either
            with contextlib.suppress(FileNotFoundError):
                _remember_checkpoint(kwargs.get("saved_model_file", self.saved_model_file))


def distributed_children() -> None:
    """Mend RecBole in the processes that ``recbole.quick_start.run(nproc=...)`` starts, too.

    A started process imports what it needs to call RecBole's ``run_recboles``, which is RecBole alone. A
    function of this module in its place makes it import this package first.
    """
    quick_start = importlib.import_module("recbole.quick_start.quick_start")
    if quick_start.run_recboles is not run_recboles:
        run_recboles.original = quick_start.run_recboles
        quick_start.run_recboles = run_recboles
    sys.modules["recbole.quick_start"].run_recboles = run_recboles


def run_recboles(rank: int, *args) -> None:
    """RecBole's function of the same name; pickled by this module's name (:func:`distributed_children`)."""
    run_recboles.original(rank, *args)


def distributed_folders() -> None:
    """Let processes that start together make the same folder.

    ``ensure_dir`` looks whether a folder exists and then makes it; of two processes of a run, the slower one fails.

    No upstream issue known.
    """
    for name in ("utils.utils", "utils", "utils.logger", "trainer.trainer", "data.utils", "data.dataset.dataset"):
        module = importlib.import_module(f"recbole.{name}")
        if hasattr(module, "ensure_dir"):
            module.ensure_dir = _ensure_dir


def _ensure_dir(dir_path: str | os.PathLike) -> None:
    """Make the folder and its parents; one that exists is fine."""
    os.makedirs(dir_path, exist_ok=True)


# what a collector has one row or several of per sample that is evaluated
_COLLECTED = ("rec.topk", "rec.meanrank", "rec.items", "rec.score", "data.label")


def distributed_evaluation() -> None:
    """Let several processes arrive at the scores that one would.

    Each ranks for its share of the users, filled up with users of other shares to equal sizes, and RecBole averages the
    rounded scores of the shares, weighted with a count of batches that it takes for one of users. Here all processes
    get what all have collected, each user once, before anything is computed from it.

    No upstream issue known.
    """
    wrap(importlib.import_module("recbole.trainer.trainer").Trainer, "evaluate", _evaluate_together)
    collector = importlib.import_module("recbole.evaluator.collector").Collector
    wrap(collector, "get_data_struct", _get_data_struct_of_all)


def _evaluate_together(original: Callable, self, eval_data, *args, **kwargs):
    if not eval_data or self.config["single_spec"]:
        return original(self, eval_data, *args, **kwargs)
    self.eval_collector.samples_of_all = eval_data.sample_size
    try:
        return original(self, eval_data, *args, **kwargs)
    finally:
        del self.eval_collector.samples_of_all


def _get_data_struct_of_all(original: Callable, self):
    struct = original(self)
    samples = getattr(self, "samples_of_all", None)
    if samples is None:
        return struct
    collected = {key: value for key, value in struct._data_dict.items() if key in _COLLECTED}
    parts: list = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, collected)
    for key in collected:
        rows = [part[key] for part in parts]
        if sum(map(len, rows)) - samples in range(len(rows)):
            # sample k is row k // W of process k % W; those past the last one fill up the shares
            struct._data_dict[key] = torch.stack(rows, dim=1).flatten(0, 1)[:samples]
        else:  # several rows per sample
            struct._data_dict[key] = torch.cat(rows)
    return struct


# ------------------------------------------------------------------------------------------------------------
# speed


def anomaly_detection() -> None:
    """Switch autograd's anomaly detection off again after RecBole has switched it on for everybody.

    ``recbole.model.sequential_recommender.sine`` calls ``torch.autograd.set_detect_anomaly(True)`` when it is imported,
    which importing the package of sequential models does. Every backward pass of the process then checks every gradient
    for NaN, which took 38 % of a MambaRec step (RecBole checks the loss itself). Who wants the detection switches it on
    after importing this package.

    No upstream issue known.
    """
    module = importlib.import_module("recbole.model.sequential_recommender.sine")
    if not getattr(module, "_recbole_mambarec_anomaly", False):
        module._recbole_mambarec_anomaly = True
        torch.autograd.set_detect_anomaly(False)


def popularity_metrics() -> None:
    """Look items up in arrays for ``AveragePopularity`` and ``TailPercentage``; same values.

    RecBole loops over users x recommendations in Python, and searches a list in the loop; both metrics are computed
    after every epoch where they are asked for.

    No upstream issue known.
    """
    metrics = importlib.import_module("recbole.evaluator.metrics")
    wrap(metrics.AveragePopularity, "get_pop", _popularity_of)
    wrap(metrics.TailPercentage, "get_tail", _in_tail)


def _popularity_of(original: Callable, self, item_matrix: np.ndarray, item_count: Mapping) -> np.ndarray:
    counts = np.zeros(max(item_matrix.max(initial=0), *item_count, 0) + 1, dtype=item_matrix.dtype)
    counts[list(item_count)] = list(item_count.values())
    return counts[item_matrix]


def _in_tail(original: Callable, self, item_matrix: np.ndarray, count_items: Mapping) -> np.ndarray:
    # the original decides what the tail is: it is asked about each distinct item once
    distinct, where = np.unique(item_matrix, return_inverse=True)
    return original(self, distinct[:, None], count_items)[where.reshape(item_matrix.shape), 0]
