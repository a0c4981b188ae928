import torch

from recbole_mambarec.layers.fusion import BehaviourGuidedFusion
from recbole_mambarec.testing.contract import ModelContract
from recbole_mambarec.testing.data import random_dataset


class TestMGCN(ModelContract):
    name = "MGCN"
    baby_parameters = 33_587_392

    def test_the_final_embedding_is_the_sum_of_the_views(self):
        model = self.build().eval()
        views = model._views()
        assert isinstance(model.fusion, BehaviourGuidedFusion)
        torch.testing.assert_close(torch.cat(model.embed()), views.behaviour + views.side)

    def test_without_modalities_both_views_are_the_behaviour(self):
        views = self.build(random_dataset(dims={}))._views()
        assert torch.equal(views.side, views.behaviour)

    def test_frozen_features_are_not_trained(self):
        names = [name for name, _ in self.build(freeze_features=True).named_parameters()]
        assert not [name for name in names if name.startswith("features")]
