import numpy as np
import torch

from recbole_mambarec.layers.seen_items import SeenItems


def test_rows_of_the_matrix_for_all_items_or_some():
    matrix = np.random.default_rng(0).random((7, 9)) < 0.4
    seen = SeenItems(*np.nonzero(matrix), 7, 9)
    users, items = torch.tensor([3, 0, 3, 6]), torch.tensor([8, 2, 5])
    np.testing.assert_array_equal(seen(users), matrix[users].astype(float))
    np.testing.assert_array_equal(seen(users, among=items), matrix[users][:, items].astype(float))
