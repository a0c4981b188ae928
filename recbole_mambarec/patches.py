"""Every change that importing this package makes to RecBole, in the order in which it is made.

:data:`PATCHES` has two parts: :data:`recbole_mambarec.compat.PATCHES`, without which RecBole does not run with today's
libraries, and the patches below, which give RecBole the features of this package: models, defaults, checks, protocols.
Each of these functions lies in the module of its feature. docs/patches.md is the same list as a page, which
``python -m tools.patches_page`` writes.
"""

from __future__ import annotations

from recbole_mambarec import compat
from recbole_mambarec.compat.patching import Patch, apply_all

_HERE = "recbole_mambarec"
_CONFIG = "recbole.config.configurator.Config"
_DATASET = "recbole.data.dataset.dataset.Dataset"
_DATASETS = "recbole.data.dataset"
_LOADERS = "recbole.data.dataloader"
_QUICK_START = "recbole.quick_start"
_SAMPLER = "recbole.sampler.sampler"
_TRAINER = "recbole.trainer.trainer"

_FEATURES = (
    Patch(
        f"{_HERE}.config:install",
        (
            "recbole.utils.argument_list.dataset_arguments",
            f"{_CONFIG}._load_config_files",
            f"{_CONFIG}._convert_config_dict",
            f"{_CONFIG}._get_model_and_dataset",
            f"{_CONFIG}._load_internal_config_dict",
            f"{_CONFIG}._set_default_parameters",
            f"{_CONFIG}._init_device",
        ),
        "The defaults of this package lie below what a user gives, and mistakes in a configuration are explained.",
    ),
    Patch(
        f"{_HERE}.run_names:install",
        (
            f"{_TRAINER}.get_local_time",
            "recbole.utils.logger.get_local_time",
            "recbole.utils.utils.get_local_time",
            f"{_TRAINER}.get_tensorboard",
        ),
        "Two runs that start in the same second would share their checkpoint, log and TensorBoard folder.",
    ),
    Patch(
        f"{_HERE}.clipping:install",
        (f"{_TRAINER}.clip_grad_norm_",),
        "With `enable_scaler`, RecBole clips gradients that are still multiplied by the scale.",
    ),
    Patch(
        f"{_HERE}.case_study:install",
        ("recbole.utils.case_study.full_sort_scores",),
        "`full_sort_scores` fails for users without items in the split at hand.",
    ),
    Patch(
        f"{_HERE}.protocol:install",
        (f"{_SAMPLER}.Sampler.get_used_ids",),
        "The key `mask_valid_in_test` decides whether validation items are ranked at test, REARM's key"
        " `negatives_skip_held_out` whether held-out items can be negatives.",
    ),
    Patch(
        f"{_HERE}.startup_log:install",
        (f"{_TRAINER}.Trainer.fit", f"{_TRAINER}.NCLTrainer.fit"),
        "The log of a run says which protocol it follows, which items are ranked at test, and what a preset has given.",
    ),
    Patch(
        f"{_HERE}.patience:install",
        (
            f"{_TRAINER}.Trainer.patience",
            f"{_TRAINER}.Trainer.fit",
            f"{_TRAINER}.NCLTrainer.fit",
            f"{_TRAINER}.Trainer._valid_epoch",
        ),
        "The key `stopping_min_steps` keeps small datasets from stopping before they have begun to learn.",
    ),
    Patch(
        f"{_HERE}.resume:install",
        (f"{_TRAINER}.Trainer.resume_checkpoint", f"{_TRAINER}.Trainer.fit", f"{_TRAINER}.NCLTrainer.fit"),
        "RecBole resumes from a checkpoint of another configuration, or of other data, without saying so.",
    ),
    Patch(
        f"{_HERE}.data.loading:install",
        ("recbole.data.utils.get_dataloader",),
        "Models that are registered here get faster loaders of the same batches.",
    ),
    Patch(
        f"{_HERE}.data.checks:install",
        (
            f"{_DATASET}._data_processing",
            f"{_DATASET}._reset_index",
            f"{_SAMPLER}.Sampler.get_used_ids",
            f"{_SAMPLER}.RepeatableSampler.get_used_ids",
            f"{_SAMPLER}.KGSampler.get_used_ids",
            f"{_LOADERS}.general_dataloader.FullSortEvalDataLoader.__init__",
            f"{_LOADERS}.general_dataloader.NegSampleEvalDataLoader.__init__",
            f"{_TRAINER}.Trainer.fit",
            f"{_LOADERS}.general_dataloader.TrainDataLoader.__init__",
            f"{_LOADERS}.user_dataloader.UserDataLoader.__init__",
        ),
        "Configuration and data that do not fit each other end in a KeyError, an endless loop, or wrong scores.",
    ),
    Patch(
        f"{_HERE}.data.reading:install",
        (
            f"{_DATASET}._load_feat",
            f"{_DATASET}._load_data",
            f"{_DATASETS}.kg_dataset.KnowledgeBasedDataset._load_kg",
            f"{_DATASETS}.kg_dataset.KnowledgeBasedDataset._load_link",
        ),
        "Byte order marks, encodings and files that do not fit each other silently lose columns or rows.",
    ),
    Patch(
        f"{_HERE}.data.time_order:install",
        (
            f"{_DATASET}._load_feat",
            f"{_DATASET}._remove_duplication",
            f"{_DATASET}._filter_by_field_value",
            f"{_DATASET}._remap_ID_all",
            f"{_DATASET}._dataframe_to_interaction",
            f"{_DATASET}.time_based_split",
            "recbole.data.interaction.Interaction.sort",
        ),
        "RecBole orders interactions by timestamps rounded to float32, with steps of 128 seconds today.",
    ),
    Patch(
        f"{_HERE}.data.new_items:install",
        (f"{_DATASET}.build", f"{_SAMPLER}.Sampler._uni_sampling"),
        "The key `new_items` leaves out training interactions, and training does not draw such items as negatives.",
    ),
    Patch(
        f"{_HERE}.experiments.new_item_ranking:install",
        (f"{_TRAINER}.Trainer.evaluate", f"{_TRAINER}.Trainer._full_sort_batch_eval"),
        "The keys `new_items` and `rank_items`: results of known and new items, rankings of new items alone.",
    ),
    Patch(
        f"{_HERE}.data.reuse:install",
        (
            f"{_CONFIG}.__getitem__",
            f"{_CONFIG}.__contains__",
            "recbole.data.utils.importlib.import_module",
            "recbole.data.utils.os.path.exists",
            f"{_DATASET}.save",
            f"{_DATASET}.build",
            f"{_DATASETS}.sequential_dataset.SequentialDataset.build",
            "recbole.data.utils.load_split_dataloaders",
            "recbole.data.utils.save_split_dataloaders",
            "recbole.data.load_split_dataloaders",
            "recbole.data.save_split_dataloaders",
        ),
        "RecBole reads saved datasets and splits back although the files or the settings have changed.",
    ),
    Patch(
        f"{_HERE}.data.split_check:install",
        (f"{_DATASET}._data_processing", f"{_DATASET}.build"),
        "RecBole does not notice test items that are also trained on, or filters that have no effect.",
    ),
    Patch(
        f"{_HERE}.mistakes:install",
        (
            f"{_QUICK_START}.quick_start.run_recbole",
            f"{_QUICK_START}.run_recbole",
            f"{_QUICK_START}.quick_start.objective_function",
            f"{_QUICK_START}.objective_function",
        ),
        "A user's mistake that RecBole notices is explained in one sentence instead of a traceback.",
    ),
    Patch(
        f"{_HERE}.restored:install",
        (f"{_QUICK_START}.quick_start.load_data_and_model", f"{_QUICK_START}.load_data_and_model"),
        "`load_data_and_model` loads checkpoints of this package, by the same rules as RecBole's trainers.",
        process_wide="`torch.load` is another function while `load_data_and_model` runs, which other threads do not "
        "notice: their calls are passed on",
    ),
    Patch(
        f"{_HERE}.experiments.space:install",
        ("recbole.trainer.hyper_tuning.HyperTuning._build_space_from_file",),
        "RecBole evaluates the text of a params file as code, and skips lines that it does not understand.",
    ),
    Patch(
        f"{_HERE}.registry:install",
        ("sys.meta_path", "recbole.trainer.__getattr__", "recbole.data.dataset.__getattr__"),
        "RecBole's look-ups find the registered models, their trainers and datasets.",
        process_wide="an importer that answers for modules `recbole.model.general_recommender.<registered model>`",
    ),
)

#: All patches, in their order.
PATCHES = (*compat.PATCHES, *_FEATURES)


def apply() -> None:
    """Apply :data:`PATCHES`; before or after RecBole is imported, any number of times."""
    apply_all(PATCHES)
