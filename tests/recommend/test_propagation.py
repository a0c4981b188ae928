"""Every model of this package ranks by embeddings or weights that are found, and takes new users."""

import numpy as np
import pytest
import scipy.sparse as sp
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, init_seed

from recbole_mambarec.models.item_to_item import ItemToItem
from recbole_mambarec.recommend.portable import portable
from recbole_mambarec.recommend.propagation import NotPropagated, user_embeddings
from recbole_mambarec.registry import built_in
from recbole_mambarec.scoring.scorer import ModelScorer
from recbole_mambarec.testing.planted import QUICK, write_planted
from recbole_mambarec_serving.scoring import Fused, InnerProducts, ItemWeights

# models whose new users have the embeddings of the linear function, and why
LINEAR = {"DiffMM": "it keeps what belongs to the users it was trained on"}  # graphs that it has generated


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_planted(root)
    return root


@pytest.mark.parametrize("name", sorted([*built_in(), "LightGCN", "BPR", "NGCF"]))
def test_new_users_of_each_model(root, name):
    values = {key: value for key, value in QUICK.items() if key != "knn_k"} | {"data_path": str(root), "state": "ERROR"}
    config = Config(name, "planted", config_dict=values | {"strict_keys": False})
    init_seed(config["seed"], config["reproducibility"])
    training = data_preparation(config, create_dataset(config))[0]._dataset
    model = get_model(name)(config, training)
    model.train()
    if hasattr(model, "pre_epoch"):
        model.pre_epoch(0)
    scorer = ModelScorer(model, config, training)
    history = sp.csr_array(training.inter_matrix(form="csr").astype(np.float32)[1:, 1:])
    scoring = portable(scorer, history)
    if isinstance(model, ItemToItem):
        assert isinstance(scoring, ItemWeights)
        return
    if isinstance(scoring, Fused):  # its views are folded in one by one
        assert name == "ThreeViews" and np.isfinite(scoring.fold_in(history[:2])).all()
        return
    assert isinstance(scoring, InnerProducts)
    try:
        found = user_embeddings(model, config, training, scoring.users, scoring.items, history, history[:2])
    except NotPropagated as reason:
        assert str(reason).startswith(LINEAR[name])
        return
    assert name not in LINEAR
    assert found.shape == (2, scoring.users.shape[1]) and np.isfinite(found).all()
