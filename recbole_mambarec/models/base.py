"""What all multimodal models share: RecBole's signatures, feature tables, cached embeddings, epoch hooks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from types import MappingProxyType
from typing import cast

import torch
import torch.nn.functional as F
from recbole.model.abstract_recommender import GeneralRecommender
from recbole.utils import InputType
from torch import Tensor, nn

from recbole_mambarec import memory
from recbole_mambarec.config_checks import DEFAULT_USER_NEIGHBOURS
from recbole_mambarec.data.dataset import MultimodalDataset
from recbole_mambarec.errors import UserError
from recbole_mambarec.layers.containers import ModuleDict
from recbole_mambarec.layers.features import FeatureTable
from recbole_mambarec.models.cold import ColdItems, ColdScale, ColdUsers, scale_obstacle
from recbole_mambarec.trained_apart import TrainedApart
from recbole_mambarec.value_checks import check_choice

VARIANTS = ("released", "paper")


def variant_of(config) -> str:
    """The key ``variant``: ``released``, what the published code computes, or ``paper``, what the text describes.

    Raises:
        UserError: it is neither.
    """
    return check_choice("variant", config["variant"], VARIANTS)


class MultimodalRecommender(GeneralRecommender):
    """Base class of the models of this package.

    Subclasses define :meth:`embed` and :meth:`loss_parts` on the real users and items, numbered from 0. RecBole's ids,
    in which 0 is padding, are translated here and nowhere else, so padding cannot reach a graph, a BatchNorm, a loss or
    a ranking.

    The docstring of a model says in a few sentences what it does and then gives its formula: final embeddings (or the
    score) and loss, in the notation of docs/models.md.

    Args:
        config: RecBole configuration.
        dataset: the *training* split of a :class:`MultimodalDataset`.

    Raises:
        UserError: the dataset is of another class, has too few modalities or one whose name modules cannot hold, the
            configuration contradicts the model, or the run would not fit in memory.
    """

    input_type = InputType.PAIRWISE
    # how many modalities the model needs at least
    min_modalities = 0
    # whether the model makes features for items that lack a modality (impute_missing: learned)
    generates_missing = False
    # whether the id of an item without training interactions is part of its score (cold_items)
    uses_ids_of_new_items = True
    # what cold_scale makes longer: "embeddings" (those of scored_embeddings) or "weights"; None if it has no effect
    cold_scale_of: str | None = "embeddings"
    # what the model took to compute closed forms when it was built
    computing_seconds = 0.0
    # no paper's model, but this package's
    own_design = False
    # measured with python -m benchmarks.memory
    step_memory = memory.StepMemory()
    # names of parameters and buffers in checkpoints of earlier versions -> their present names
    former_names: Mapping[str, str] = MappingProxyType({})

    def __init__(self, config, dataset: MultimodalDataset) -> None:
        super().__init__(config, dataset)
        if not hasattr(dataset, "training_data"):
            raise UserError(
                f"{type(self).__name__} needs a MultimodalDataset, got {type(dataset).__name__}: "
                "create it with recbole.data.create_dataset after `import recbole_mambarec`"
            )
        self.data = dataset.training_data()
        self.modalities = self.data.modalities
        if len(self.modalities) < self.min_modalities:
            raise UserError(
                f"{type(self).__name__} is defined on item features and needs at least {self.min_modalities} modality: "
                "use a dataset that has one, or leave the key modalities unset"
            )
        for modality in self.modalities:
            _check_name(modality)
        if self.input_type is InputType.POINTWISE and (config["train_neg_sample_args"] or {}).get("distribution") in (
            "uniform",
            "popularity",
        ):
            raise UserError(f"{type(self).__name__} learns without negative items: leave train_neg_sample_args unset")
        memory.check(
            type(self).__name__,
            self.memory_of(config, self.data),
            config,
            self.data,
            lambda changed: self.memory_of(changed, self.data),
        )
        self.embedding_size = config["embedding_size"]
        self.batch_size = config["train_batch_size"]
        self.modality_dropout = config["modality_dropout"] or 0.0
        how, k = config["cold_items"] or "id", config["impute_neighbours"] or 10
        self._cold_items = None if how == "id" else ColdItems(self.data, how, k)
        self.cold_scale = config["cold_scale"] or 0.0
        lengthens = self.cold_scale > 0 and self.cold_scale_of == "embeddings"
        self._cold_scale = ColdScale(self.data, self.cold_scale) if lengthens else None
        how, k = config["cold_users"] or "id", config["user_neighbours"] or DEFAULT_USER_NEIGHBOURS
        self._cold_users = None if how == "id" else ColdUsers(self.data, how, k)
        self.loss_names: tuple[str, ...] = ()
        self._scored: tuple[Tensor, Tensor] | None = None

    # ------------------------------------------------------------------ what a model defines

    @classmethod
    def memory_of(cls, config, data) -> memory.StepMemory:
        """Memory of a training step under a configuration; by default ``step_memory``, whatever the configuration."""
        return cls.step_memory

    @abstractmethod
    def embed(self) -> tuple[Tensor, Tensor]:
        """Final embeddings of all real users ``(U, d)`` and items ``(I, d)``; a score is their inner product."""

    @abstractmethod
    def loss_parts(self, users: Tensor, positives: Tensor, negatives: Tensor | None) -> dict[str, Tensor]:
        """Weighted terms of the loss by name; their sum is minimised.

        Args:
            users, positives, negatives: node numbers from 0, shape ``(B,)`` each; ``negatives`` is None for a model
                whose ``input_type`` is pointwise, which learns from positive pairs alone.
        """

    def pre_epoch(self, epoch: int) -> None:
        """Called by the trainer before each training epoch, e.g. to redraw a graph."""

    def post_epoch(self, epoch: int) -> None:
        """Called by the trainer after each training epoch."""

    # ------------------------------------------------------------------ parts with optimizers of their own

    def trained_apart(self) -> dict[str, TrainedApart]:
        """Parts of the model that have an optimizer of their own, by name; the same ones whenever it is called.

        No other loss changes them, and theirs changes nothing else.
        """
        return {}

    def losses_before_epoch(self, epoch: int) -> Iterator[tuple[str, Tensor]]:
        """Losses of parts that are trained apart, by name; the trainer asks for them before :meth:`pre_epoch`.

        The trainer takes a step with each before it asks for the next, so that a generator computes each with the
        parameters that the one before has left. Between two losses, no context may be open (``torch.no_grad``).
        """
        return iter(())

    def losses_before_step(
        self, users: Tensor, positives: Tensor, negatives: Tensor | None
    ) -> Iterator[tuple[str, Tensor]]:
        """Like :meth:`losses_before_epoch`, before the step of each batch; arguments as for :meth:`loss_parts`."""
        return iter(())

    # ------------------------------------------------------------------ helpers for subclasses

    def id_embedding(self, count: int, width: int | None = None) -> nn.Embedding:
        """A trainable table ``(count, width)``, Xavier-uniform; the default ``width`` is d."""
        table = nn.Embedding(count, self.embedding_size if width is None else width)
        nn.init.xavier_uniform_(table.weight)
        return table

    def feature_dim(self, modality: str) -> int:
        """Width of a modality's raw features."""
        return self.data.features(modality).shape[1]

    def feature_tables(self, frozen: bool) -> ModuleDict[FeatureTable]:
        """One :class:`FeatureTable` per modality."""
        rate = self.modality_dropout
        return ModuleDict({m: FeatureTable(self.data.features(m), frozen, rate) for m in self.modalities})

    def check_cold_items(self) -> None:
        """Refuse values of ``cold_items`` and ``cold_scale`` that the model does not support.

        Raises:
            UserError: it does not.
        """
        if self._cold_items is not None:
            self._cold_items.check(self)
        reason = scale_obstacle(self, self.data) if self.cold_scale else None
        if reason is not None:
            raise UserError(f"cold_scale has no effect on {type(self).__name__}, which {reason}: leave it out")

    def tables_with_dropout(self) -> list[FeatureTable]:
        """The feature tables to which ``modality_dropout`` applies; none where it is 0.

        Raises:
            UserError: the key is set, and the model has no such table.
        """
        if self.modality_dropout == 0:
            return []
        tables = [module for module in self.modules() if isinstance(module, FeatureTable) and module.dropout > 0]
        if not tables:
            raise UserError(
                f"modality_dropout has no effect on {type(self).__name__}, which reads no features in training: "
                "leave it out"
            )
        return tables

    def branch_name(self, name: str) -> str:
        """``name`` for a branch that stands beside those of the modalities; ``name_`` where a modality is called so."""
        while name in self.modalities:
            name += "_"
        return name

    # ------------------------------------------------------------------ RecBole's signatures

    def forward(self) -> tuple[Tensor, Tensor]:
        """Same as :meth:`embed`."""
        return self.embed()

    def calculate_loss(self, interaction) -> tuple[Tensor, ...]:
        """Terms of the loss in the order of ``loss_names``; RecBole's trainer adds and logs them.

        With ``modality_dropout``, each item loses each of its modalities with that probability for this loss: the mean
        row of the modality stands in for its own in the feature tables. Graphs over features, losses of parts that are
        trained apart and evaluation keep all rows.
        """
        tables = self.tables_with_dropout()
        for table in tables:
            table.draw()
        try:
            parts = self.loss_parts(*self.nodes_of(interaction))
        finally:
            for table in tables:
                table.restore()
        self.loss_names = tuple(parts)
        return tuple(parts.values())

    def nodes_of(self, interaction) -> tuple[Tensor, Tensor, Tensor | None]:
        """Users, positive and negative items of a batch, numbered from 0, ``(B,)`` each."""
        negatives = interaction[self.NEG_ITEM_ID] - 1 if self.input_type is InputType.PAIRWISE else None
        return interaction[self.USER_ID] - 1, interaction[self.ITEM_ID] - 1, negatives

    def predict(self, interaction) -> Tensor:
        """Scores of user-item pairs, ``(B,)``."""
        users, items = self.scored_embeddings()
        rows, columns = interaction[self.USER_ID], interaction[self.ITEM_ID]
        return self.with_cold_users((users[rows] * items[columns]).sum(dim=1), rows, columns)

    def full_sort_predict(self, interaction) -> Tensor:
        """Scores of each user for all items, flattened ``(B * n_items,)``; the padding item scores minus infinity."""
        users, items = self.scored_embeddings()
        rows = interaction[self.USER_ID]
        scores = self.with_cold_users(users[rows] @ items.T, rows)
        scores[:, 0] = -torch.inf
        return scores.view(-1)

    def with_cold_users(self, scores: Tensor, users: Tensor, items: Tensor | None = None) -> Tensor:
        """Scores in which users without training interactions have those that the key ``cold_users`` gives them.

        Args:
            scores: of pairs, ``(B,)``, or of each user for all items, ``(B, n_items + 1)``.
            users, items: of the scores, in RecBole's numbering; ``items`` is None for all.
        """
        if self._cold_users is None:
            return scores
        return self._cold_users.to(scores.device).replaced(scores, users, items)

    def scored_embeddings(self) -> tuple[Tensor, Tensor]:
        """Final embeddings in RecBole's numbering (row 0 is padding, zero), computed once per evaluation.

        They are kept from the first call in evaluation mode until training resumes or weights are loaded. The keys
        ``cold_items`` and ``cold_scale`` apply to them alone.
        """
        if self._scored is not None:
            return self._scored
        cold = self._cold_items is not None and not self.training
        with cast(ColdItems, self._cold_items).replaced(self) if cold else nullcontext():
            users, items = (F.pad(x.float(), (0, 0, 1, 0)) for x in self.embed())
        if not self.training:
            items = self.with_new_items_scaled(items)
            self._scored = users.detach(), items.detach()
        return users, items

    def with_new_items_scaled(self, items: Tensor) -> Tensor:
        """Final embeddings ``(n_items + 1, d)``, in which items without training interactions are of ``cold_scale``."""
        return items if self._cold_scale is None else self._cold_scale.scaled(items)

    def train(self, mode: bool = True):
        """Set the mode and drop the embeddings kept for evaluation: weights may have changed."""
        self._scored = None
        return super().train(mode)

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs) -> None:
        self._scored = None
        for former, present in self.former_names.items():
            if prefix + former in state_dict:
                state_dict[prefix + present] = state_dict.pop(prefix + former)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def _check_name(modality: str) -> None:
    """Refuse a name under which torch's containers cannot hold what belongs to a modality."""
    if not modality or "." in modality or hasattr(nn.ModuleDict(), modality) or hasattr(nn.ParameterDict(), modality):
        raise UserError(
            f"'{modality}' cannot be the name of a modality: a name has no dot, and is none that torch's modules use "
            "themselves; rename the array and, if dataset.json lists it, its entry there"
        )
