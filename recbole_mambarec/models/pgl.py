"""PGL: FREEDOM's graphs with features instead of item ids, and a contrast of two dropout masks."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch
from scipy.sparse.linalg import svds
from torch import Tensor, nn

from recbole_mambarec.data.graphs.bipartite import normalised_interactions
from recbole_mambarec.data.graphs.sparse import SparseGraph
from recbole_mambarec.data.training import TrainingData
from recbole_mambarec.errors import UserError
from recbole_mambarec.layers.containers import ModuleDict
from recbole_mambarec.layers.losses import bpr, info_nce
from recbole_mambarec.layers.noise import row_dropout
from recbole_mambarec.layers.propagation import light_gcn, propagate
from recbole_mambarec.layers.unit import unit_rows
from recbole_mambarec.memory import StepMemory
from recbole_mambarec.models.pruning import PrunedRecommender

# entries of the rebuilt graph that are computed at a time, and the magnitude from which they are kept
_BLOCK_VALUES, _THRESHOLD = 1 << 25, 1e-3


class PGL(PrunedRecommender):
    """PGL, "Mind Individual Information! Principal Graph Learning for Multimedia Recommendation" (AAAI 2025, doi
    10.1609/aaai.v39i12.33429).

    An item is the concatenation of its projected, normalised features, a user that of one free vector per modality.
    LightGCN trains on a principal subgraph and is evaluated on the whole graph, and items are also propagated over
    FREEDOM's frozen item graph. A contrastive term makes users and items recognise themselves under another dropout
    mask.

    Final embeddings and loss, where A is the subgraph in training, and each drop has a mask of its own::

        X = [unit(X_1) | ... | unit(X_M)];   Z = LightGCN([P_1 | ... | P_M; X])
        user = Z_u;   item = Z_i + S^n X
        loss = BPR + cl_weight (InfoNCE(drop(user), drop(user)) + InfoNCE(drop(item), drop(item))) / 2

    ``subgraph: local``, the better form, is 30 % of the edges, drawn anew in every epoch; ``global`` is
    :func:`principal_bipartite`, built once, without the published code's dense product over all nodes.

    The published code (MMRec) calls the weight of the contrastive term ``reg_weight`` (``cl_weight`` here) and the rate
    of the masks ``dropout`` (``dropout_prob``). As there, no L2 term is added, and the rank of the global graph is
    ``embedding_size``.
    """

    min_modalities = 1
    step_memory = StepMemory(users=(0, 9), items=(0, 7), batch=(0, 16))

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        d, data = self.embedding_size, self.data
        if config["subgraph"] not in ("local", "global"):
            raise UserError(f"subgraph '{config['subgraph']}' is unknown: use local or global")
        if config["subgraph"] == "global":
            self.prune_rate = 0.0
            try:
                self.training_graph = principal_bipartite(data, d)
            except ValueError as error:
                raise UserError(f"subgraph global: {error}; use subgraph local") from None
        self.n_ui_layers, self.n_mm_layers = config["n_ui_layers"], config["n_mm_layers"]
        self.cl_weight, self.temperature = config["cl_weight"], config["temperature"]
        self.user_embedding = ModuleDict({m: self.id_embedding(data.n_users) for m in self.modalities})
        self.features = self.feature_tables(frozen=config["freeze_features"])
        self.projection = nn.ModuleDict({m: nn.Linear(self.feature_dim(m), d) for m in self.modalities})
        self.dropout_prob = config["dropout_prob"]
        self.item_graph = data.mixed_item_graph(config["knn_k"], config["mm_image_weight"])

    def embed(self) -> tuple[Tensor, Tensor]:
        """:meth:`graph_view`."""
        return self.graph_view()

    def graph_view(self) -> tuple[Tensor, Tensor]:
        """LightGCN of features and preferences, plus features propagated over the item graph; width d per modality."""
        features = [unit_rows(self.projection[m](self.features[m]())) for m in self.modalities]
        items = torch.cat(features, dim=1)
        users = torch.cat([self.user_embedding[m].weight for m in self.modalities], dim=1)
        users, propagated = light_gcn(self.graph, users, items, self.n_ui_layers)
        return users, propagated + propagate(self.item_graph, items, self.n_mm_layers)

    def loss_parts(self, users: Tensor, positives: Tensor, negatives: Tensor) -> dict[str, Tensor]:
        """BPR, and the contrast of users and items with themselves under another dropout mask."""
        all_users, all_items = self.graph_view()
        u, p = all_users[users], all_items[positives]
        masked = [[row_dropout(x, self.dropout_prob, self.training) for _ in range(2)] for x in (u, p)]
        contrast = sum(info_nce(*pair, self.temperature) for pair in masked) / 2
        return {"bpr": bpr(u, p, all_items[negatives]), "contrastive": self.cl_weight * contrast}


def principal_bipartite(data: TrainingData, rank: int) -> SparseGraph:
    """The training graph rebuilt from few singular vectors, ``(U + I, U + I)``, symmetric, not normalised again.

    Of the ``rank`` leading singular values s_0 >= s_1 ... of the normalised adjacency, the vectors of the first quarter
    (q of them) are kept, each weighted with s_j * s_(rank - q + j); entries below 0.001 in magnitude are dropped. A
    bipartite adjacency has each singular value of its user x item block twice, so half of them are computed, and both
    numbers are rounded down to pairs: which vector of a pair comes first is arbitrary. At rank 64 at most 8 million
    entries can reach the threshold.

    Raises:
        ValueError: there are too few users or items for that many vectors, or less than one pair would be kept.
    """
    half, kept = rank // 2, rank // 8
    if kept == 0:
        raise ValueError(f"a quarter of {rank} singular vectors is no pair of them")
    if min(data.n_users, data.n_items) <= half:
        raise ValueError(
            f"{half} singular vectors need more than {half} users and items, got {data.n_users} and {data.n_items}"
        )
    left, values, right = leading_singular_vectors(data, half)
    left = left[:, :kept] * (values[:kept] * values[half - kept :])
    right = right[:kept]
    parts = []
    step = max(1, _BLOCK_VALUES // data.n_items)
    for first in range(0, data.n_users, step):
        dense = left[first : first + step] @ right
        dense[np.abs(dense) < _THRESHOLD] = 0.0
        parts.append(sp.csr_array(dense))
    block = sp.vstack(parts, format="csr")
    return SparseGraph(sp.block_array([[None, block], [block.T, None]], format="csr"), symmetric=True)


def leading_singular_vectors(data: TrainingData, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Singular vectors and values of the user x item block of the normalised training graph, largest first.

    Returns:
        Left vectors ``(n_users, count)``, values ``(count,)``, right vectors ``(count, n_items)``.
    """
    block = normalised_interactions(data.users, data.items, data.n_users, data.n_items)
    # a fixed starting vector: the result does not depend on numpy's global generator
    left, values, right = svds(block, k=count, v0=np.ones(min(data.n_users, data.n_items)))
    order = np.argsort(-values)
    return left[:, order], values[order], right[order]
