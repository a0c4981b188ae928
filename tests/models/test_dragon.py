from typing import ClassVar

import torch

from recbole_mambarec.testing.contract import ModelContract
from recbole_mambarec.testing.data import random_dataset


class TestDRAGON(ModelContract):
    name = "DRAGON"
    settings: ClassVar = {"hidden_dim": 16, "epochs": 30}
    sizes: ClassVar = {"hidden_dim": 16}

    def test_items_pass_the_item_graph_as_often_as_asked_for(self):
        dataset = random_dataset()
        before, once, thrice = (self.build(dataset, n_mm_layers=n).eval().embed()[1] for n in (0, 1, 3))
        s = torch.tensor(self.build(dataset).item_graph.scipy().toarray())
        start = before / 2  # nothing is added but the items themselves
        torch.testing.assert_close(once, start + s @ start)
        torch.testing.assert_close(thrice, start + s @ s @ s @ start)
