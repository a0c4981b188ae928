"""Mistakes with devices are found without a GPU, in models that contain them on purpose."""

import numpy as np
import pytest
import torch

from recbole_mambarec.data.graphs.sparse import SparseGraph
from recbole_mambarec.data.user_features import Tokens, UserFeatures
from recbole_mambarec.models.mambarec import MambaRec
from recbole_mambarec.models.vbpr import VBPR
from recbole_mambarec.testing.contract import ModelContract
from recbole_mambarec.testing.data import model_config, random_dataset
from recbole_mambarec.testing.devices import CAN_SIMULATE_GPU, simulated_gpu

pytestmark = pytest.mark.skipif(not CAN_SIMULATE_GPU, reason="needs torch 2.13")


class LeftBehind(VBPR):
    """Adds a tensor that is not a buffer."""

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.popularity = torch.rand(self.data.n_items, 1)

    def embed(self):
        users, items = super().embed()
        return users, items * self.popularity


class MadeOnTheCPU(VBPR):
    """Creates a tensor without a device."""

    def loss_parts(self, users, positives, negatives):
        parts = super().loss_parts(users, positives, negatives)
        return parts | {"noise": parts["bpr"] * torch.rand(3).sum(dim=0, keepdim=True)}


class PicksFromTheCPU(VBPR):
    """Indexes a tensor on the CPU with one on the GPU."""

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.weights = torch.rand(self.data.n_items)

    def loss_parts(self, users, positives, negatives):
        parts = super().loss_parts(users, positives, negatives)
        return parts | {"weighted": self.weights[positives].sum()}


class ReadsAValue(VBPR):
    """Branches on a value, which waits for the GPU."""

    def loss_parts(self, users, positives, negatives):
        parts = super().loss_parts(users, positives, negatives)
        return parts if parts["bpr"].item() > 0 else {}


class HiddenGraph(VBPR):
    """Keeps a graph outside of the model's modules."""

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.graphs = [SparseGraph(self.data.bipartite.scipy())]

    def embed(self):
        users, items = super().embed()
        nodes = self.graphs[0].propagate(torch.cat([users, items]))
        return nodes[: len(users)], nodes[len(users) :]


class WrongStatistics(MambaRec):
    """A BatchNorm whose statistics are plain tensors."""

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        for dream in self.dream.values():
            mean = dream.mix_norm.running_mean
            del dream.mix_norm.running_mean
            dream.mix_norm.running_mean = mean


def check(kind, monkeypatch) -> None:
    """The contract, with ``kind`` in the place of the model that it is made of."""

    class Checked(ModelContract):
        name = kind.__mro__[1].__name__

    monkeypatch.setattr("recbole_mambarec.testing.contract.get_model", lambda name: kind)
    Checked().test_everything_is_on_the_device_of_the_model(frozen=True)


_TWO = "two (different )?devices"


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        (LeftBehind, _TWO),
        (MadeOnTheCPU, _TWO),
        (PicksFromTheCPU, "indexing has tensors on two devices: cpu, cuda:0"),
        (ReadsAValue, "_local_scalar_dense"),
        (HiddenGraph, "a sparse matrix on cpu is multiplied with a tensor on cuda:0"),
        (WrongStatistics, "a batch norm has tensors on two devices: cpu, cuda:0"),
    ],
)
def test_a_mistake_is_found(kind, sentence, monkeypatch):
    with pytest.raises(Exception, match=sentence):
        check(kind, monkeypatch)


@pytest.mark.parametrize("kind", [VBPR, MambaRec])
def test_without_a_mistake_nothing_is_found(kind, monkeypatch):
    check(type("Copy", (kind,), {}), monkeypatch)


@pytest.mark.parametrize("how", ["popularity", "features"])
def test_scores_of_cold_users_are_on_the_device_of_the_model(how):
    dataset = random_dataset()
    dataset.users, dataset.items = dataset.users[4:], dataset.items[4:]
    dataset.user_features = UserFeatures({"group": Tokens(np.arange(30) % 5)})
    model = VBPR(model_config("VBPR", cold_users=how), dataset)
    with simulated_gpu(model):
        rows = {name: torch.ones(4, dtype=torch.int64, device="cuda") for name in ("user_id", "item_id")}
        scores = model.eval().full_sort_predict(rows), model.predict(rows)
        assert {part.device.type for part in scores} == {"cuda"}
