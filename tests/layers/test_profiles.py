import numpy as np
import pytest
import torch

from recbole_mambarec.data.graphs.bipartite import interaction_matrix
from recbole_mambarec.data.training import TrainingData
from recbole_mambarec.errors import UserError
from recbole_mambarec.layers.profiles import UserProfiles
from recbole_mambarec.testing.data import random_dataset


@pytest.fixture
def data() -> TrainingData:
    return random_dataset().training_data()


@pytest.fixture
def x(data) -> torch.Tensor:
    return torch.randn(data.n_items, 3, generator=torch.Generator().manual_seed(0))


def matrix_of(data) -> np.ndarray:
    return (interaction_matrix(data.users, data.items, data.n_users, data.n_items).toarray() > 0).astype(float)


@pytest.mark.parametrize("norm", ["mean", "sym"])
def test_without_an_item_is_the_sum_over_the_others(data, x, norm):
    known, profiles = matrix_of(data), UserProfiles(data, norm)
    users, items = (torch.from_numpy(nodes.astype(np.int64)) for nodes in data.pairs)
    rest = profiles.without(profiles(x)[users], x, users, items)
    degrees_u, degrees_i = known.sum(axis=1), known.sum(axis=0)
    for row, (user, item) in enumerate(zip(users.tolist(), items.tolist())):
        others = known[user].copy()
        others[item] = 0
        if norm == "mean":
            weights = others / max(others.sum(), 1)
        else:
            scale = np.sqrt(degrees_u[user] * np.maximum(degrees_i, 1))
            weights = others / scale
        np.testing.assert_allclose(rest[row], weights @ x.numpy(), atol=1e-5)


def test_an_unknown_norm(data):
    with pytest.raises(UserError, match="profile_norm 'max' is unknown: use one of mean, sym"):
        UserProfiles(data, "max")
