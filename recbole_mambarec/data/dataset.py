"""RecBole's ``Dataset`` with item features per modality."""

from __future__ import annotations

import math
from pathlib import Path

from recbole.data.dataset import Dataset
from recbole.utils import set_color

from recbole_mambarec.data.atomic import Layout
from recbole_mambarec.data.cache import ArrayCache, default_cache_folder
from recbole_mambarec.data.derive import derive_modality
from recbole_mambarec.data.folder import item_tokens, modality_files
from recbole_mambarec.data.imputation import imputed
from recbole_mambarec.data.missing import all_modalities, hidden_items
from recbole_mambarec.data.modality import ItemFeatures, Modality
from recbole_mambarec.data.strays import stray_features
from recbole_mambarec.data.training import TrainingData
from recbole_mambarec.data.user_features import UserFeatures, read_user_features
from recbole_mambarec.errors import UserError
from recbole_mambarec.value_checks import list_of_names
from recbole_mambarec_common.ids import mismatch

# how many files that look like features but are not read are named in a message
_STRAYS_SHOWN = 3


def wanted_modalities(config, folder: Path, name: str) -> list[str]:
    """The modalities that a run on the dataset ``name`` in ``folder`` uses, in order.

    Raises:
        UserError: the key ``modalities`` names one that the dataset does not have; or the dataset has none, and the key
            does not say that ids alone are to be used. The message names files that look like features.
    """
    arrays, recipes = modality_files(folder, name), config["derive_modalities"] or {}
    wanted = modality_names(config["modalities"])
    found = list(arrays) or list(recipes)
    unknown = [modality for modality in wanted or () if modality not in arrays and modality not in recipes]
    if found and wanted is None:
        return found
    if wanted is not None and not unknown:
        return wanted
    strays = "; ".join(stray_features(folder, name)[:_STRAYS_SHOWN])
    if unknown:
        available = ", ".join([*arrays, *(r for r in recipes if r not in arrays)]) or "none"
        also = f"; {strays}" if strays else ""
        raise UserError(f"dataset '{name}' has no modality '{unknown[0]}': {folder} offers {available}{also}")
    needs = f"a modality is an array {folder / name}.<modality>.npy or a recipe in derive_modalities"
    ids_alone = "" if getattr(config.model_class, "min_modalities", 0) else " (modalities: [] asks for ids alone)"
    raise UserError(
        f"{config['model']} learns from item features, and dataset '{name}' has none: {strays or needs}{ids_alone}"
    )


class MultimodalDataset(Dataset):
    """Interactions as RecBole reads them, plus one feature table per modality aligned to RecBole's item ids.

    Configuration keys: ``modalities`` (names, in order; ``[]`` for none; unset: all that the folder has),
    ``derive_modalities`` (recipes for datasets without arrays, see :mod:`recbole_mambarec.data.derive`),
    ``feature_memory`` (larger arrays stay on disk), ``missing_modalities`` and ``impute_missing``
    (:mod:`~recbole_mambarec.data.missing`, :mod:`~recbole_mambarec.data.imputation`), ``cache_dir``, and
    ``user_features`` where ``cold_users`` is ``features`` (:mod:`~recbole_mambarec.data.user_features`).

    Attributes:
        item_features: modality -> :class:`ItemFeatures`, rows in internal item order.
        user_features: the columns by which users are compared, rows in internal user order without padding; None where
            they are not.
    """

    def _from_scratch(self) -> None:
        super()._from_scratch()
        self._load_features()

    def _load_data(self, token, dataset_path) -> None:
        super()._load_data(token, dataset_path)
        if self.item_feat is not None:
            self._check_catalogue(Path(dataset_path) / f"{token}.item")

    def _check_catalogue(self, item_file: Path) -> None:
        """Refuse what RecBole would silently drop: interactions of unlisted items, and lines inside quotation marks."""
        read = set(self.item_feat[self.iid_field])
        lost = [item for item in item_tokens(item_file, Layout.of(self.config)) if item not in read]
        if lost:
            raise UserError(
                f"RecBole reads only {len(read)} items of {item_file}, not e.g. '{lost[0]}': "
                "remove quotation marks and empty or 'NA' ids from the file"
            )
        used = self.inter_feat[self.iid_field].dropna().unique()
        unknown = [item for item in used if item not in read]
        if unknown:
            raise UserError(
                mismatch(used, read, "item", "the interactions", str(item_file))
                or f"{len(unknown)} items of the interactions have no line in {item_file}, e.g. '{unknown[0]}': "
                "add a line (and a row to each array)"
            )

    def _load_features(self) -> None:
        self._load_item_features()
        self.user_features: UserFeatures | None = None
        if self.config["cold_users"] == "features":
            users = self.field2id_token[self.uid_field][1:].tolist()
            self.user_features = read_user_features(self.config, Path(self.dataset_path), self.dataset_name, users)

    def _load_item_features(self) -> None:
        folder, name = Path(self.dataset_path), self.dataset_name
        if max(self.config["topk"]) >= self.item_num:
            raise UserError(f"topk {self.config['topk']} asks for more items than the {self.item_num - 1} of '{name}'")
        arrays, recipes = modality_files(folder, name), self.config["derive_modalities"] or {}
        wanted = wanted_modalities(self.config, folder, name)
        if wanted and set(arrays) <= set(wanted):
            for sentence in stray_features(folder, name)[:_STRAYS_SHOWN]:
                self.logger.warning(sentence)
        item_file, layout = folder / f"{name}.item", Layout.of(self.config)
        self.item_features: dict[str, ItemFeatures] = {}
        tokens = item_tokens(item_file, layout) if wanted else None
        mask = hidden_items(self.config, folder, name, tokens, all_modalities(self.config, arrays)) if wanted else None
        for modality in wanted:
            if modality in arrays:
                features = Modality.load(modality, arrays[modality], tokens)
            else:
                features = derive_modality(modality, recipes[modality], item_file, layout, self._cache())
            limit = self.config["feature_memory"]
            memory = math.inf if limit is None else limit * 2**20
            hidden = None if mask is None else mask[modality]
            aligned = features.align(self.field2token_id[self.iid_field], self.item_num, memory, hidden)
            self.item_features[modality] = aligned
            share = f", missing for {aligned.missing_share:.1%} of the items" if aligned.missing_share else ""
            self.logger.info(set_color(f"modality {modality}", "blue") + f": {aligned.matrix.shape[1]} features{share}")

    def join(self, df):
        """RecBole's ``join``, skipped where the item table has ids alone, so that there is nothing to join."""
        only_ids = self.item_feat is None or set(self.item_feat.columns) == {self.iid_field}
        return df if only_ids and self.user_feat is None else super().join(df)

    def _cache(self) -> ArrayCache:
        return ArrayCache(self.config["cache_dir"] or default_cache_folder())

    def training_data(self) -> TrainingData:
        """The interactions of *this* split and the features as :class:`TrainingData`; call it on the training split."""
        data = TrainingData(
            self.inter_feat[self.uid_field].numpy() - 1,
            self.inter_feat[self.iid_field].numpy() - 1,
            self.user_num - 1,
            self.item_num - 1,
            self.item_features,
            self._cache(),
            progress=bool(self.config["show_progress"]),
            knn_search=self.config["knn_search"],
            user_features=self.user_features,
        )
        return imputed(data, self.config["impute_missing"], self.config["impute_neighbours"])

    def __copy__(self) -> MultimodalDataset:
        # RecBole copies a dataset for each split; the copies share the features
        copied = type(self).__new__(type(self))
        copied.__dict__.update(self.__dict__)
        return copied

    def __getstate__(self) -> dict:
        # a pickled dataset must neither carry gigabytes nor keep the features of arrays that have changed
        state = self.__dict__.copy()
        state.pop("item_features", None)
        state.pop("user_features", None)
        return state

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._load_features()


def modality_names(value: object) -> list[str] | None:
    """The key ``modalities`` as a list, see :func:`~recbole_mambarec.value_checks.list_of_names`."""
    return list_of_names("modalities", value)
