"""RecBole 1.2.1 on today's Python, numpy, scipy, pandas, torch, ray and hyperopt.

RecBole 1.2.1 was released for numpy 1, pandas 2 and torch 2.5. Each function that :data:`PATCHES` lists repairs one
thing that newer releases broke (or that never worked). There is a module per library, and one each for checkpoints, for
runs of several processes and for speed. Nothing here is copied from RecBole: its functions are wrapped, and modules
that need another ``torch``, ``pandas`` or ``numpy`` see an :class:`~recbole_mambarec.compat.patching.Overlay` of it
under the global name that they already use.

So other code in the process sees the libraries as they are, except where a patch says otherwise
(:attr:`~recbole_mambarec.compat.patching.Patch.process_wide`): names that numpy and scipy have removed exist again, one
warning about files of RecBole is suppressed, and anomaly detection is off after the import.

Modules of this package import each other, ``errors``, and nothing else of ``recbole_mambarec``.
"""

from __future__ import annotations

from recbole_mambarec.compat.checkpoints import LOADING_MODULES
from recbole_mambarec.compat.patching import Patch, apply_all

_HERE = "recbole_mambarec.compat"
_TRAINER = "recbole.trainer.trainer"
_DATASET = "recbole.data.dataset"

#: What :func:`apply` does, in an order in which no part of RecBole is imported before it can be.
PATCHES = (
    Patch(
        f"{_HERE}.python:docstring_escapes",
        ("warnings.filters",),
        "Python 3.12 prints docstrings of RecBole that contain backslashes.",
        process_wide="a filter for warnings about invalid escapes in files below a folder `recbole`",
    ),
    Patch(
        f"{_HERE}.numpy:scalar_aliases",
        (
            *("numpy.bool8", "numpy.bytes0", "numpy.cfloat", "numpy.complex_", "numpy.float_", "numpy.int0"),
            *("numpy.object0", "numpy.singlecomplex", "numpy.str0", "numpy.string_", "numpy.uint0", "numpy.unicode_"),
            "numpy.void0",
        ),
        "RecBole's `Config` reads aliases of scalar types that numpy 2 removed.",
        process_wide="the aliases exist again",
        condition="numpy 2 and newer; some also since numpy 1.24",
    ),
    Patch(
        f"{_HERE}.scipy:dok_matrix_update",
        ("scipy.sparse.dok_matrix._update",),
        "LightGCN and six other models fill their adjacency matrix with a method that scipy removed.",
        process_wide="the method exists again",
        condition="scipy 1.13 and newer",
    ),
    Patch(
        f"{_HERE}.ray:at_import",
        ("recbole.quick_start.quick_start.tune",),
        "RecBole's quick start imports ray, which may be missing, broken or slow.",
        process_wide="`ray` is a stand-in in `sys.modules` while `recbole.quick_start` is being imported",
    ),
    Patch(
        f"{_HERE}.ray:worker_arguments",
        ("recbole.config.configurator.Config._load_cmd_line",),
        "`Config` takes the arguments of a ray worker for settings.",
    ),
    Patch(
        f"{_HERE}.pandas:copy_on_write",
        (
            f"{_DATASET}.dataset.pd.read_csv",
            f"{_DATASET}.dataset.Dataset._load_feat",
            f"{_DATASET}.dataset.Dataset._fill_nan",
            f"{_DATASET}.dataset.Dataset._dataframe_to_interaction",
        ),
        "Under copy-on-write, missing features stay NaN, and tensors share read-only memory with frames.",
    ),
    Patch(
        f"{_HERE}.pandas:series_agg",
        (f"{_DATASET}.dataset.len", f"{_DATASET}.kg_dataset.len", f"{_DATASET}.sequential_dataset.len"),
        "`series.agg(len)` has become the length of the series, and columns of sequences cannot be read.",
        condition="pandas 3 and newer",
    ),
    Patch(
        f"{_HERE}.checkpoints:trusted_loading",
        tuple(f"{module}.torch.{name}" for module in LOADING_MODULES for name in ("load", "save")),
        "torch 2.6 refuses RecBole's checkpoints, and loading any pickle would run code stored in it.",
    ),
    Patch(
        f"{_HERE}.speed:anomaly_detection",
        (),
        "Importing RecBole's SINE makes every backward pass of the process check for NaN.",
        process_wide="autograd's anomaly detection is off after the import, and can be switched on again",
    ),
    Patch(
        f"{_HERE}.torch:grad_scaler",
        (f"{_TRAINER}.amp.GradScaler",),
        "RecBole's gradient scaler warns in every epoch.",
    ),
    Patch(
        f"{_HERE}.torch:sparse_products_under_autocast",
        ("recbole.model.general_recommender.lightgcn.LightGCN.forward",),
        "With `enable_amp` on a CPU, the backward pass of LightGCN's sparse product fails.",
    ),
    Patch(
        f"{_HERE}.hyperopt:random_generator",
        ("recbole.trainer.hyper_tuning.np.random.RandomState", "recbole.trainer.hyper_tuning.np.str"),
        "hyperopt calls `integers`, which RecBole's random generator lacks, and the plot uses `np.str`.",
    ),
    Patch(
        f"{_HERE}.distributed:on_cpu",
        (
            "recbole.config.configurator.Config._init_device",
            f"{_TRAINER}.torch.nn.SyncBatchNorm",
            f"{_TRAINER}.DistributedDataParallel",
        ),
        "RecBole runs several processes on CUDA devices only.",
    ),
    Patch(
        f"{_HERE}.distributed:one_checkpoint",
        (f"{_TRAINER}.Trainer.__init__", f"{_TRAINER}.Trainer._save_checkpoint"),
        "Processes of one run may look for different checkpoints, or read one that is incomplete.",
    ),
    Patch(
        f"{_HERE}.distributed:patched_children",
        ("recbole.quick_start.quick_start.run_recboles", "recbole.quick_start.run_recboles"),
        "A started process would import RecBole without its patches.",
    ),
    Patch(
        f"{_HERE}.distributed:shared_folders",
        (
            *("recbole.utils.utils.ensure_dir", "recbole.utils.ensure_dir", "recbole.utils.logger.ensure_dir"),
            *(f"{_TRAINER}.ensure_dir", "recbole.data.utils.ensure_dir", f"{_DATASET}.dataset.ensure_dir"),
        ),
        "Processes that create the same folder at the same time fail.",
    ),
    Patch(
        f"{_HERE}.distributed:joint_evaluation",
        (f"{_TRAINER}.Trainer.evaluate", "recbole.evaluator.collector.Collector.get_data_struct"),
        "Scores of several processes differ from those of one.",
    ),
    Patch(
        f"{_HERE}.metrics:counts_in_the_collector",
        ("recbole.evaluator.collector.Collector.get_data_struct",),
        "Metrics of coverage and popularity fail, because a count has no method `cpu`.",
    ),
    Patch(
        f"{_HERE}.speed:popularity_metrics",
        (
            "recbole.evaluator.metrics.AveragePopularity.get_pop",
            "recbole.evaluator.metrics.TailPercentage.get_tail",
        ),
        "RecBole loops over users x recommendations in Python; the values are the same.",
    ),
)


def apply() -> None:
    """Apply :data:`PATCHES`; before or after RecBole is imported, any number of times."""
    apply_all(PATCHES)
