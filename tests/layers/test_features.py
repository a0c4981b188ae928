import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from recbole_mambarec.data.rows import ItemRows, side_by_side
from recbole_mambarec.layers.features import FeatureBlocks, FeatureTable


def on_disk(tmp_path, n=50, dim=6, dtype=np.float16):
    """Rows in a random order, the last one without features; the table that they make."""
    rng = np.random.default_rng(0)
    np.save(tmp_path / "x.npy", rng.normal(size=(n, dim)).astype(dtype))
    order = np.append(rng.permutation(n), -1)
    rows = ItemRows(np.load(tmp_path / "x.npy", mmap_mode="r"), order, np.full(dim, 0.5, np.float32))
    return rows, np.concatenate([np.load(tmp_path / "x.npy")[order[:-1]], np.full((1, dim), 0.5)]).astype(np.float32)


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr("recbole_mambarec.layers.features.BLOCK_VALUES", 20)


def test_a_frozen_table_is_neither_trained_nor_saved(tmp_path):
    frozen, trained = (FeatureTable(np.ones((2, 3), np.float32), f) for f in (True, False))
    stored = FeatureTable(on_disk(tmp_path)[0], frozen=True)
    for table in (frozen, stored):
        assert not list(table.parameters()) and table.state_dict() == {}
    assert list(trained.state_dict()) == ["weight"]
    assert [t.extra_repr() for t in (frozen, trained, stored)] == [
        "2 x 3, frozen",
        "2 x 3, trainable",
        "51 x 6, frozen, on disk",
    ]


def test_a_table_does_not_write_into_the_dataset():
    source = np.ones((2, 3), np.float32)
    FeatureTable(source, frozen=False).weight.data.zero_()
    assert source.all()


def test_a_trainable_table_is_filled_from_disk(tmp_path):
    rows, dense = on_disk(tmp_path)
    table = FeatureTable(rows, frozen=False)
    assert table().dtype == torch.float32
    np.testing.assert_array_equal(table().detach().numpy(), dense)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_products_and_gradients_are_those_of_the_whole_table(tmp_path, small_blocks, dtype, bias):
    rows, dense = on_disk(tmp_path, dtype=dtype)
    blocks, whole = FeatureTable(rows, frozen=True)(), torch.from_numpy(dense)
    layer = nn.Linear(6, 4, bias=bias)
    weight = torch.randn(51, 4)
    results, gradients = [], []
    for x in (blocks, whole):
        y = layer(x) + F.normalize(x, dim=1) @ layer.weight.T
        results.append(y)
        gradients.append(torch.autograd.grad((y * weight).sum(), list(layer.parameters())))
    torch.testing.assert_close(*results, atol=1e-6, rtol=1e-5)
    for ours, expected in zip(*gradients):
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


def test_rows_are_picked_and_other_functions_get_the_whole_table(tmp_path, small_blocks):
    rows, dense = on_disk(tmp_path)
    blocks, whole = FeatureTable(rows, frozen=True)(), torch.from_numpy(dense)
    picked = torch.tensor([3, 50, 3])
    torch.testing.assert_close(blocks[picked], whole[picked])
    torch.testing.assert_close(blocks[2:5], whole[2:5])
    torch.testing.assert_close(torch.cat([blocks, whole]), torch.cat([whole, whole]))
    torch.testing.assert_close(F.normalize(blocks, dim=0), F.normalize(whole, dim=0))


def test_under_autocast_the_product_is_bfloat16_and_its_gradient_is_not(tmp_path, small_blocks):
    rows, dense = on_disk(tmp_path)
    layer = nn.Linear(6, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = layer(FeatureTable(rows, frozen=True)())
    assert ours.dtype == torch.bfloat16
    ours.float().square().sum().backward()
    gradient = layer.weight.grad.clone()
    layer.zero_grad()
    layer(torch.from_numpy(dense)).square().sum().backward()
    assert gradient.dtype == torch.float32
    torch.testing.assert_close(gradient, layer.weight.grad, atol=0.5, rtol=0.05)


def test_a_copy_of_a_table_reads_nothing(tmp_path):
    table = FeatureTable(on_disk(tmp_path)[0], frozen=True)
    assert copy.deepcopy(table)._on_disk is table._on_disk


def test_on_another_device_the_stored_type_is_kept(tmp_path):
    """The meta device stands for a GPU: what moves there is known without one."""
    for dtype, kind in ((np.float16, torch.float16), (np.float64, torch.float32)):
        table = FeatureTable(on_disk(tmp_path, dtype=dtype)[0], frozen=True).to("meta")
        assert table.weight.device.type == "meta" and table.weight.dtype == kind
        assert isinstance(table(), FeatureBlocks) == (kind == torch.float16)
        assert nn.Linear(6, 4, device="meta")(table()).shape == (51, 4)


def test_matrices_side_by_side(tmp_path):
    rows, dense = on_disk(tmp_path)
    other = np.arange(102, dtype=np.float32).reshape(51, 2)
    joined = side_by_side([rows, other])
    assert joined.shape == (51, 8) and joined.stored_dtype == np.float32
    np.testing.assert_array_equal(joined[10:13], np.concatenate([dense, other], axis=1)[10:13])
    assert isinstance(side_by_side([dense, other]), np.ndarray)


@pytest.mark.parametrize("stored", [False, True])
def test_dropout_replaces_rows_by_the_mean_until_it_ends(tmp_path, stored):
    rows, dense = on_disk(tmp_path)
    widths = [2, dense.shape[1] - 2]
    table = FeatureTable(rows if stored else dense, True, dropout=0.5, widths=widths)
    whole, mean = torch.from_numpy(dense), torch.from_numpy(dense.mean(axis=0))
    torch.manual_seed(0)
    table.draw()
    found = table()[:]
    for part, stand_in, given in zip(*(x.split(widths, dim=-1) for x in (found, mean, whole))):
        replaced = (part != given).any(dim=1)
        assert 0 < replaced.sum() < len(part)
        torch.testing.assert_close(part[replaced], stand_in.expand(int(replaced.sum()), -1), atol=1e-5, rtol=1e-5)
    assert not torch.equal(
        *((part != given).any(dim=1) for part, given in zip(found.split(widths, 1), whole.split(widths, 1)))
    )
    # the same draw for every reading, also of blocks that the backward pass reads after it has ended
    layer = torch.nn.Linear(dense.shape[1], 2)
    product = layer(table())
    torch.testing.assert_close(product, layer(found))
    table.restore()
    torch.testing.assert_close(table()[:], whole)
    product.sum().backward()
    torch.testing.assert_close(layer.weight.grad, found.sum(dim=0).expand(2, -1), atol=1e-4, rtol=1e-4)


def test_a_row_that_is_dropped_has_no_gradient():
    table = FeatureTable(np.ones((50, 3), np.float32), False, dropout=0.5)
    table.draw()
    kept = ~table._dropped[:, 0]
    table().sum().backward()
    assert torch.equal(table.weight.grad.bool().all(dim=1), kept) and not table.weight.grad[~kept].any()
