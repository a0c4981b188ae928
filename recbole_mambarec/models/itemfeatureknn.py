"""ItemFeatureKNN: the items that are nearest to a user's items, by each modality for itself; nothing is trained."""

from __future__ import annotations

import scipy.sparse as sp

from recbole_mambarec.memory import StepMemory
from recbole_mambarec.models.item_to_item import ItemToItem, memory_of_lists
from recbole_mambarec.models.itemknncbf import content_neighbours, similarity_matrix
from recbole_mambarec.models.modality_shares import modality_shares


class ItemFeatureKNN(ItemToItem):
    """Item k-nearest-neighbours by features, our own form of the classical baseline.

    An item scores high for a user if it is among the nearest neighbours of many of their items. Unlike
    :class:`ItemKNNCBF`, which puts all modalities side by side as MMRec does, so that the one with the longest features
    decides, this model compares items in each modality for itself: scales and widths do not matter, and modalities can
    be weighed or left out. There is nothing to train.

    Score, with a_m the shares of the modalities and f_h the features of item h in modality m::

        s(u, i) = (R sum_m a_m K_m)_ui
        K_m,hi = f_h . f_i / (|f_h| |f_i| + shrink), but 0 beyond the n_neighbors largest with i != h

    Modalities count as ``modality_weights`` says or, by default, as much as their similarities explain of which items
    are used together in training. No item is its own neighbour, which would only lengthen the lists. An item that lacks
    a modality has no neighbours in it. Items without training interactions are found like any other.
    """

    def weights(self, config) -> list[sp.csr_array]:
        """The sum of the modalities' S."""
        k, shrink = config["n_neighbors"], config["shrink"]
        lists = {m: similarity_matrix(*content_neighbours(self.data, k, shrink, m)) for m in self.modalities}
        shares = modality_shares(config["modality_weights"], lists, self.data.history)
        return [sum(share * lists[m] for m, share in shares.items())]

    @classmethod
    def memory_of(cls, config, data) -> StepMemory:
        """That of the listed scores."""
        return memory_of_lists(config, config["n_neighbors"] * len(data.modalities))
