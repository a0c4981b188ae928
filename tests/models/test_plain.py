"""The fast model against the plain reading of the specification."""

import pytest
import torch

from benchmarks.plain import PlainMambaRec
from recbole_mambarec.models.mambarec import MambaRec
from recbole_mambarec.testing.data import batch, model_config, random_dataset


@pytest.mark.parametrize("frozen", [True, False])
def test_loss_and_gradients_equal_the_plain_form(frozen):
    dataset = random_dataset(n_users=30, n_items=25, dims={"image": 160, "text": 9})
    settings = {"embedding_size": 8, "knn_k": 4, "dropout_prob": 0.0, "freeze_features": frozen}
    config = model_config("MambaRec", mmd_weight=1.0, cl_weight=1.0, reg_weight=0.1, train_batch_size=16, **settings)
    torch.manual_seed(0)
    model = MambaRec(config, dataset).train()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    graphs = {m: model.item_graph[m] for m in model.modalities}
    graphs |= {"bipartite": model.bipartite, "user_item": model.user_item}
    tables = {m: torch.from_numpy(model.data.features(m)) for m in model.modalities}
    plain = PlainMambaRec(dataset.n_users, tables, graphs, config).copy_from(model).train()

    rows = torch.randint(0, len(dataset.users), (16,))
    users, items = torch.from_numpy(dataset.users)[rows], torch.from_numpy(dataset.items)[rows]
    negatives = torch.randint(0, dataset.n_items, (16,))
    ours = sum(model.calculate_loss(batch(users, items, negatives)))
    theirs = plain.loss(users, items, negatives)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    ours.backward()
    theirs.backward()
    pairs = [
        (model.user_embedding, plain.user_embedding),
        (model.item_embedding, plain.item_embedding),
        (model.projection["image"].reduce, plain.project["image"][0]),
        (model.dream["image"].dilated[1], plain.dream["image"].convolutions[2]),
        (model.dream["text"].mix, plain.dream["text"].mix),
        (model.fusion.attention[0], plain.query[0]),
    ]
    if not frozen:
        pairs.append((model.features["image"], plain.table["image"]))
    for fast, slow in pairs:
        expected = slow.weight.grad.reshape(fast.weight.shape)
        torch.testing.assert_close(fast.weight.grad, expected, atol=2e-5, rtol=1e-3)
