from recbole_mambarec.testing.contract import ModelContract
from recbole_mambarec.testing.data import random_dataset


class TestBM3(ModelContract):
    name = "BM3"
    ranking_loss = "pairs"
    baby_parameters = 33_570_688
    features_cannot_rank = (
        "the targets of the features carry no gradient: features train the shared predictor but move no embedding, and "
        "embeddings alone are in the scores"
    )

    def test_targets_get_no_gradient(self):
        dataset = random_dataset()
        model = self.build(dataset, reg_weight=0.0, cl_weight=0.0)
        for parameter in model.predictor.parameters():
            parameter.data.zero_()
        sum(model.calculate_loss(self.some_batch(dataset))).backward()
        # with a predictor of zeros the online side passes no gradient, so only targets could
        assert not model.user_embedding.weight.grad.any() and not model.item_embedding.weight.grad.any()
