"""From a file to a scorer and its splits: checkpoints of this package and of RecBole, and files of fusions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from recbole.config import Config
from recbole.model.abstract_recommender import AbstractRecommender
from recbole.utils import ModelType, get_model, init_seed

from recbole_mambarec.checkpoint import CHECKPOINT_FORMAT, FUSION_FORMAT, is_fusion, plain
from recbole_mambarec.compat.checkpoints import load_checkpoint
from recbole_mambarec.data.fingerprint import hashed_file
from recbole_mambarec.data.saved import NotPackable, pack, unpack
from recbole_mambarec.errors import UserError
from recbole_mambarec.models.base import MultimodalRecommender
from recbole_mambarec.restored import config_from_checkpoint, on_this_machine
from recbole_mambarec.resume import data_of
from recbole_mambarec.scoring.changed import change, changes_data
from recbole_mambarec.scoring.fused import FusedScorer
from recbole_mambarec.scoring.scorer import ModelScorer, Scorer, ScorerModel
from recbole_mambarec.scoring.splits import Splits
from recbole_mambarec_common.files import atomic_file

# keys whose value may be a file, in the folder of the dataset or anywhere
_LISTS = ("new_items", "missing_modalities")
# what a training may have written beside its checkpoint, and its loading must not
_NOTHING_WRITTEN = {
    **{"save_dataset": False, "save_dataloaders": False},
    **{"dataset_save_path": None, "dataloaders_save_path": None},
}
#: stands for a model's name
FUSION = "Fusion"


@dataclass(frozen=True)
class Restored:
    """A trained model, as it scores, and the splits that it was trained and evaluated on.

    Attributes:
        path: the file.
        scorer, splits: with rows and columns in the same order.
        config: RecBole's, of the run; that of a fusion is of its first part.
        state: of a model, ``state_dict``, ``other_parameter`` and ``data`` (fingerprint) as the file has them.
        trained_with: of what is scored with other values of some keys, their values in the training.
    """

    path: Path
    scorer: Scorer
    splits: Splits
    config: Config
    state: dict = field(repr=False)
    trained_with: dict = field(default_factory=dict)

    @property
    def model(self) -> AbstractRecommender | None:
        """RecBole's model; None for a fusion, which has several."""
        return self.scorer.model if isinstance(self.scorer, ModelScorer) else None


def restore(
    path: str | Path, data_path: str | Path | None = None, changed: Mapping[str, object] | None = None
) -> Restored:
    """Load a checkpoint of a general model of this package or of RecBole, or a fusion.

    Reading a file of this package runs no code in it; the pickles that RecBole writes have to be trusted
    (:mod:`recbole_mambarec.compat.checkpoints`).

    Args:
        data_path: the folder that has the dataset's folder; None: where it was when the file was written.
        changed: other values of keys that do not change the training (:mod:`recbole_mambarec.scoring.changed`); of a
            fusion, each part gets them.

    Raises:
        UserError: the file is missing, damaged, not trusted or of another kind; the dataset is missing or has changed
            since; the model does not rank a catalogue for users, or does not support what is changed.
    """
    content = load_checkpoint(path, map_location="cpu")
    changed = changed or {}
    if is_fusion(content):
        return _fusion(Path(path), content, data_path, changed)
    if not isinstance(content, Mapping) or not {"config", "state_dict"} <= content.keys():
        raise UserError(f"{path} is not a checkpoint of a model: it has no configuration and parameters")
    return _model(Path(path), content, data_path, changed)


def write_fusion(path: str | Path, parts: Sequence[Restored], weights: Sequence[float], more: dict) -> None:
    """Write the parts that have a weight, as tensors and plain values, in one file, whole or not at all.

    Args:
        parts: of models, not of fusions.
        more: plain values beside ``parts``: ``normalisation``, and whatever describes the fusion.

    Raises:
        UserError: a model keeps values of a type that no file without code can hold.
    """
    entries = []
    for part, weight in zip(parts, weights):
        if weight:
            try:
                other = pack(part.state["other_parameter"])
            except NotPackable as error:
                raise UserError(
                    f"{part.scorer.name} keeps a {error} in its checkpoint, which a fusion's file cannot hold: leave "
                    "it out"
                ) from None
            config = plain(part.config.final_config_dict)
            entries.append(
                {
                    "weight": float(weight),
                    "config": config,
                    "state_dict": part.state["state_dict"],
                    "other_parameter": other,
                    "data": part.state["data"],
                }
            )
    with atomic_file(path) as temporary:
        torch.save({"format": FUSION_FORMAT, "model": FUSION, "parts": entries, **more}, temporary)


def load_fusion(path: str | Path) -> tuple:
    """What RecBole's ``load_data_and_model`` returns, for the file of a fusion."""
    run = restore(path)
    splits, config = run.splits, run.config
    config.final_config_dict.update(model=FUSION, MODEL_TYPE=ModelType.TRADITIONAL)
    model = ScorerModel(config, splits.dataset, run.scorer)
    return config, model, splits.whole, splits.train, splits.valid, splits.test


def _fusion(path: Path, content: Mapping, data_path: str | Path | None, changed: Mapping[str, object]) -> Restored:
    parts: list[Restored] = []
    for entry in content["parts"]:
        try:
            part = _model(path, entry, data_path, changed)
        except UserError as error:
            raise UserError(f"{entry['config']['model']}, a part of the fusion {path}: {error}") from error
        difference = parts[0].splits.difference(part.splits) if parts else None
        if difference:
            raise UserError(f"the parts of {path} no longer belong together: {difference}")
        parts.append(part)
    weights = [entry["weight"] for entry in content["parts"]]
    scorer = FusedScorer([part.scorer for part in parts], weights, content["normalisation"])
    before = {key: value for part in parts for key, value in part.trained_with.items()}
    return Restored(path, scorer, parts[0].splits, parts[0].config, {}, before)


def _model(path: Path, content: Mapping, data_path: str | Path | None, changed: Mapping[str, object]) -> Restored:
    config, data = _config(content, data_path)
    init_seed(config["seed"], config["reproducibility"])
    splits = Splits(config)
    if data not in (None, splits.fingerprint()):
        raise UserError(
            f"the data of {path} ({config['model']} on {config['dataset']}) have changed since it was trained: its "
            "interactions, its split or its items' features are others now"
        )
    before = change(config, changed)
    if changes_data(before):
        init_seed(config["seed"], config["reproducibility"])
        splits = Splits(config)
    init_seed(config["seed"], config["reproducibility"])
    model = get_model(config["model"])(config, splits.dataset).to(config["device"])
    if isinstance(model, MultimodalRecommender):
        model.check_cold_items()
    other = content.get("other_parameter")
    other = unpack(other, config) if isinstance(other, list) else other
    try:
        model.load_state_dict(content["state_dict"])
    except RuntimeError as error:
        raise UserError(
            f"the parameters of {path} do not fit {config['model']} on these data "
            f"({str(error).splitlines()[-1].strip()})"
        ) from None
    model.load_other_parameter(other)
    state = {"state_dict": content["state_dict"], "other_parameter": other, "data": data}
    return Restored(path, ModelScorer(model, config, splits.dataset), splits, config, state, before)


def _lists(config: Mapping, folder: Path) -> dict[str, dict]:
    """Keys that name a file, with the place where it is now: where it was, or in the folder of the dataset.

    Raises:
        UserError: it is in neither of them, or has changed.
    """
    found = {}
    for key in _LISTS:
        value = config.get(key)
        if isinstance(value, Mapping) and "file" in value:
            found[key] = hashed_file(key, value, folder)
    return found


def _config(content: Mapping, data_path: str | Path | None) -> tuple[Config, str | None]:
    """(the configuration of a model's entry, the fingerprint of the data that it was trained on, if known)."""
    given: Any = content["config"]
    if isinstance(given, Config):  # RecBole's own checkpoint
        config, data = on_this_machine(given), data_of(given)
        final = config.final_config_dict
        if data_path is not None:
            final["data_path"] = str(Path(data_path) / config["dataset"])
        final.update(_lists(final, Path(final["data_path"])) | _NOTHING_WRITTEN)
        return config, data
    if data_path is not None:
        given = given | {"data_path": str(Path(data_path) / given["dataset"])}
    given = given | _lists(given, Path(given["data_path"]))
    ours = str(content.get("format")).startswith(CHECKPOINT_FORMAT)
    config = config_from_checkpoint(given)
    config.final_config_dict.update(_NOTHING_WRITTEN)
    return config, (content.get("resume") or {}).get("data") if ours else content.get("data")
