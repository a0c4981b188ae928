"""The published numbers, and that a wrong model, file or adapter would not reproduce them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from recbole_mambarec import registry
from recbole_mambarec.config import properties_folder
from recbole_mambarec.errors import UserError
from recbole_mambarec.testing.parity.__main__ import main
from recbole_mambarec.testing.parity.adapter import NoAdapter, adapter_of, models_with_adapter
from recbole_mambarec.testing.parity.adapters import damrs
from recbole_mambarec.testing.parity.runner import Fixture, check, model_of
from tests import warm

FOLDER = Path(__file__).parent / "fixtures"
FIXTURES = sorted(FOLDER.glob("*.npz"))
ROOT = Path(__file__).resolve().parents[2]


def with_arrays(stem, tmp_path, **changed):
    """A copy of a file with some arrays changed by functions; None leaves one out."""
    with np.load(FOLDER / f"{stem}.npz") as stored:
        arrays = {name: stored[name] for name in stored.files}
    for key, by in changed.items():
        if by is None:
            del arrays[key]
        else:
            arrays[key] = by(arrays.get(key))
    target = tmp_path / f"{stem}.npz"
    np.savez(target, **arrays)
    return target


def with_config(stem, tmp_path, **changed):
    """A copy of a file with other hyper-parameters."""

    def change(config):
        meta = json.loads(str(config))
        return np.array(json.dumps(meta | {"config": meta["config"] | changed}))

    return with_arrays(stem, tmp_path, config=change)


def failed(path, find=adapter_of):
    return [result.quantity for result in check(path, find) if not result.ok]


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.stem)
def test_published_numbers_are_reproduced(path):
    results = check(path)
    assert len(results) >= (3 if path.stem in ("PGL_global", "ItemKNNCBF") else 8)
    assert not [result for result in results if not result.ok]


def test_every_model_is_compared_or_gives_a_reason():
    compared = {model_of(path).lower() for path in FIXTURES}
    assert compared == models_with_adapter()
    for name in (path.stem for path in (properties_folder() / "model").glob("*.yaml")):
        if name.lower() not in compared:
            with pytest.raises(NoAdapter, match=f"{name} is a design of its own"):
                adapter_of(name)


@pytest.mark.parametrize(
    ("stem", "key"),
    [
        *(("MambaRec_wide", key) for key in ("eval/scores", "train/loss", "grad/gate_v.0.weight", "graph/image_knn")),
        *(("MambaRec_wide", key) for key in ("mmd/value_bw1.5", "dream/map_eval_out", "train/part/cl_user")),
        *(("PGL_wide", key) for key in ("dropout/loss", "dropout/grad/text_trs.weight", "prune/graph", "prune/loss")),
        *(("PGL_global", key) for key in ("global/graph", "global/singular_values")),
        *(("SMORE_wide", key) for key in ("spectrum/fused", "dropout/part/cl_item", "train_bs32/reg_weighted")),
        *(("GUME_wide", key) for key in ("noise/part/gap", "noise/grad/separate_coarse.0.weight")),
        *(("BM3_wide", key) for key in ("eval/online_item_embeddings", "dropout/part/image_item")),
        *(("COHESION_wide", key) for key in ("grad/weight_u", "train/part/branch_weights", "graph/user_user")),
    ],
)
def test_a_wrong_number_is_noticed(tmp_path, stem, key):
    assert failed(with_arrays(stem, tmp_path, **{key: lambda x: x * 1.001})) == [key]


@pytest.mark.parametrize(
    ("stem", "key"),
    [
        ("PGL_wide", "dropout/mask_item_2"),
        ("SMORE_wide", "dropout/mask_fused"),
        ("BM3_wide", "dropout/mask_user"),
        ("GUME_wide", "noise/draw_extended_1"),
    ],
)
def test_every_recorded_draw_is_used(tmp_path, stem, key):
    """A row that is in the batch (or any, where rows are those of the batch) takes the place of the next one."""
    prefix = key.split("/")[0]
    changed = failed(with_arrays(stem, tmp_path, **{key: lambda x: np.roll(x, 1, axis=0)}))
    assert f"{prefix}/loss" in changed and all(name.startswith(f"{prefix}/") for name in changed)


def hyper_parameters():
    """Those that a file's numbers depend on, a file per model; the wide one where there is one."""
    files = {path.stem.removesuffix("_wide"): path for path in FIXTURES}
    # of the files about DGMRec, that with gaps depends on all
    del files["DGMRec"]
    for stem, path in files.items():
        fixture = Fixture(path)
        for key, value in fixture.published.items():
            batch_size = key == "train_batch_size" and not fixture.keys("train_bs")
            used = key not in fixture.adapter.unused and not batch_size
            # of the global form there is the graph alone
            if used and (stem != "PGL_global" or key in ("embedding_size", "mode")):
                yield pytest.param(path.stem, key, value, id=f"{path.stem}-{key}")


OTHER_CHOICES = {
    "mode": {"local": "global", "global": "local"},
    "fusion_mode": {"concat": "mean", "mean": "sum", "sum": "mean"},
    "weighting": {"equal": "alpha", "alpha": "equal", "normalized": "equal"},
    "act_fn": {"tanh": "gelu", "gelu": "tanh"},
    "cf_model": {"lightgcn": "ngcf"},
    "weight_size": {"[8, 8]": "[8, 8, 8]"},
    "dims": {"[10]": "[11]"},
    "regs": {"[1e-2,1e-5,1e-2]": "[1e-1,1e-5,1e-2]"},
}


@pytest.mark.parametrize(("stem", "key", "value"), hyper_parameters())
def test_every_hyper_parameter_comes_from_the_file(tmp_path, stem, key, value):
    """With another value, the numbers of the file are not reproduced, or it does not fit the model."""
    if isinstance(value, str):
        other = OTHER_CHOICES[key][value]
    elif isinstance(value, list):
        other = [*value, value[0]]
    else:
        other = value + 1 if isinstance(value, int) else value / 2 if value else 0.5
    path = with_config(stem, tmp_path, **{key: other})
    try:
        assert failed(path)
    except UserError as error:
        assert error  # shapes of parameters, or draws that nobody recorded


def test_a_hyper_parameter_without_a_place_is_refused(tmp_path):
    with pytest.raises(UserError, match="PGL has no key n_rounds: name it in the model's adapter"):
        check(with_config("PGL", tmp_path, n_rounds=3))


def test_a_parameter_without_a_place_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"BM3's adapter has no slot for more\.weight"):
        check(with_arrays("BM3", tmp_path, **{"param/more.weight": lambda _: np.ones(3)}))


def test_a_parameter_without_values_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no values for predictor\.bias of BM3"):
        check(with_arrays("BM3", tmp_path, **{"param/predictor.bias": None}))


def test_a_parameter_of_another_shape_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"param/image_trs\.weight is \(32, 8\), projection\.image\.weight \(8, 32\)"):
        check(with_arrays("BM3", tmp_path, **{"param/image_trs.weight": lambda x: x.T}))


def test_a_result_of_another_shape_is_a_failure(tmp_path):
    (result,) = [r for r in check(with_arrays("PGL", tmp_path, **{"eval/scores": np.transpose})) if not r.ok]
    assert result.quantity == "eval/scores" and result.reason == "its shape is (24, 40), ours (40, 24)"


def test_a_result_that_nothing_recomputes_is_a_failure(tmp_path):
    more = {key: lambda _: np.ones(3) for key in ("eval/unheard_of", "third/loss")}
    results = {r.quantity: r for r in check(with_arrays("MambaRec", tmp_path, **more)) if not r.ok}
    assert set(results) == set(more)
    assert all(result.reason == "nothing recomputes it" and result.share == np.inf for result in results.values())


def test_a_gradient_that_the_published_code_does_not_have_is_a_failure():
    """COHESION cuts its id branch from the gradient; here it is let in."""
    adapter = adapter_of("COHESION")
    let_in = replace(adapter, config=lambda published: adapter.config(published) | {"variant": "paper"})
    quantities = failed(FOLDER / "COHESION_wide.npz", lambda name: let_in)
    assert "params_without_grad/id_gcn.MLP.weight" in quantities
    assert "params_without_grad/image_embedding.weight" not in quantities


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda x: x[:-1], "draw 4 was recorded with shape"),
        (lambda x: x * 2, "draw 4 is no mask of dropout at rate 0.2"),
    ],
)
def test_draws_that_the_model_does_not_make_are_refused(tmp_path, change, sentence):
    with pytest.raises(UserError, match=sentence):
        check(with_arrays("PGL", tmp_path, **{"dropout/mask_item_2": change}))


def test_the_published_lists_of_co_users_have_our_counts():
    """Which of the users with equal counts come first is arbitrary in the lists, how much they share is not."""
    fixture = Fixture(FOLDER / "COHESION.npz")
    found = fixture.dataset().training_data().co_users(fixture.config["user_knn_k"])
    counts = fixture.arrays["data/user_neighbour_counts"][:, : fixture.config["user_knn_k"]]
    for user, (start, stop) in enumerate(zip(found.starts, found.starts[1:])):
        np.testing.assert_array_equal(found.counts[start:stop], counts[user][counts[user] > 0])


def test_the_command_lists_what_it_does_not_compare(tmp_path, capsys):
    names = ("NoSuchModel", "NorThisOne")
    others = [tmp_path / f"{model}.npz" for model in names]
    for model, other in zip(names, others):
        np.savez(other, config=np.array(json.dumps({"model": model, "config": {}})))
    wrong = with_arrays("BPR", tmp_path, **{"train/loss": lambda x: x + 1})

    assert main([str(wrong), *map(str, others)]) == 1
    shown = capsys.readouterr().out
    assert f"{wrong}: 8 arrays, 1 beyond tolerance" in shown and "FAIL train/loss" in shown
    for other, model in zip(others, names):
        assert f"{other}: not compared, this package has no {model}" in shown
    assert "1 files of 1 models: 8 arrays, 1 beyond tolerance; 2 files of models without an adapter" in shown

    assert main([str(FOLDER / "VBPR.npz"), *map(str, others)]) == 0
    assert main(["--models=VBPR", str(wrong), str(FOLDER / "VBPR.npz")]) == 0
    for arguments, sentence in (
        (others, "nothing was compared"),
        (["--models=SMORE", wrong], "none of the 1 files is about SMORE: there are BPR"),
        (["--models=NorThisOne", wrong, *others], "this package has no NorThisOne"),
        ([tmp_path / "missing.npz"], "no readable file of golden numbers"),
    ):
        with pytest.raises(UserError, match=sentence):
            main([str(argument) for argument in arguments])


def test_a_model_from_outside_brings_its_adapter(tmp_path, monkeypatch):
    def change(config):
        return np.array(json.dumps(json.loads(str(config)) | {"model": "Elsewhere"}))

    file = with_arrays("VBPR", tmp_path, config=change)
    theirs = replace(registry.entry("VBPR"), adapter="recbole_mambarec.testing.parity.adapters.vbpr:ADAPTER")
    monkeypatch.setitem(registry._entries, "Elsewhere", theirs)
    assert len(check(file)) >= 8 and not failed(file)
    monkeypatch.setitem(registry._entries, "Elsewhere", replace(theirs, adapter=None))
    with pytest.raises(NoAdapter, match="Elsewhere was registered without an adapter"):
        check(file)


@pytest.mark.parametrize("module", ["tests.parity", "recbole_mambarec.testing.parity"])
def test_the_module_is_a_command(tmp_path, module):
    command = ["-m", module, str(tmp_path / "missing.npz")]
    run = warm.python(*command, cwd=ROOT)
    assert run.returncode == 2 and "no readable file of golden numbers" in run.stderr
    assert "Traceback" not in run.stderr


def test_files_that_hold_no_golden_numbers_are_refused(tmp_path):
    (tmp_path / "x.npz").write_text("no archive")
    (tmp_path / "cut.npz").write_bytes((FOLDER / "BPR.npz").read_bytes()[:5000])
    for name in ("x.npz", "cut.npz"):
        with pytest.raises(UserError, match=rf"{name} is no readable file of golden numbers"):
            check(tmp_path / name)
    for config in ("{}", "[]", '"text"', '{"model": 3, "config": {}}'):
        with pytest.raises(UserError, match="no readable file of golden numbers"):
            check(with_arrays("BPR", tmp_path, config=lambda _, config=config: np.array(config)))


def test_of_equally_active_nodes_the_files_order_decides(tmp_path):
    """REARM: an item without neighbours receives from the first k of the file's list, which is not ordered by ids."""
    k, lonely = 5, 21
    with np.load(FOLDER / "REARM.npz") as stored:
        order, graph = stored["data/top_items"][::-1].copy(), stored["graph/item_co"].copy()
    graph[lonely] = 0
    graph[lonely, order[:k]] = 1 / k
    changed = {"data/top_items": order, "data/top_item_counts": np.full(len(order), 6.0), "graph/item_co": graph}
    path = with_arrays("REARM", tmp_path, **{name: lambda _, values=values: values for name, values in changed.items()})
    assert not failed(path)
    graph[lonely, order[:k]] = 0
    graph[lonely, np.sort(order)[:k]] = 1 / k
    assert failed(with_arrays("REARM", tmp_path, **{"graph/item_co": lambda _: graph})) == ["graph/item_co"]


def test_rearm_without_and_with_nothing_but_dropout(tmp_path):
    """Rates of 0 and 1 draw nothing."""
    for rate in (0.0, 1.0):
        changed = {f"dropout/mask_{name}": np.zeros_like for name in ("self_image", "self_text")}
        changed["dropout/rate_self"] = lambda _, rate=rate: np.float64(rate)
        # other losses than those at the recorded rate, and no error
        assert "dropout/loss" in failed(with_arrays("REARM", tmp_path, **changed))


@pytest.mark.parametrize("stem", ["LayerGCN", "BM3", "COHESION"])
def test_parts_are_told_from_a_loss_that_gives_them_no_weight(stem, tmp_path):
    """Loss and gradients are others then, and the parts the same."""
    wrong = failed(with_config(stem, tmp_path, reg_weight=0.0))
    assert "train/loss" in wrong and not [name for name in wrong if "/part/" in name]


@pytest.mark.parametrize("stem", ["BM3", "COHESION", "DiffMM", "MMSSL"])
def test_the_order_of_the_arrays_does_not_matter(stem, tmp_path):
    with np.load(FOLDER / f"{stem}.npz") as stored:
        arrays = {name: stored[name] for name in reversed(stored.files)}
    np.savez(tmp_path / f"{stem}.npz", **arrays)
    assert not failed(tmp_path / f"{stem}.npz")


def test_an_item_with_fewer_informative_neighbours_than_wanted(tmp_path):
    """TMLP: places that are not taken, -1 or the item itself, change nothing."""

    def padded(index):
        itself = np.arange(len(index))[:, None]
        return np.concatenate([index, np.full_like(itself, -1), itself], axis=1).astype(index.dtype)

    with np.load(FOLDER / "TMLP.npz") as stored:
        meta = json.loads(str(stored["config"]))
    meta["config"]["sampling_size"] += 2
    more = {"data/pruned_index": padded, "config": lambda _: np.array(json.dumps(meta))}
    assert not failed(with_arrays("TMLP", tmp_path, **more))


def test_lists_with_ties_are_as_good_as_others():
    shares = torch.tensor([[0.4, 0.3, 0.2, 0.2, 0.1]])
    assert damrs._as_similar(shares, torch.tensor([[3, 0, 1]])) and damrs._as_similar(shares, torch.tensor([[1, 0, 2]]))
    assert not damrs._as_similar(shares, torch.tensor([[0, 1, 4]]))
    assert not damrs._as_similar(shares, torch.tensor([[0, 0, 1]]))


def test_dgmrec_where_no_graph_is_blended(tmp_path):
    """The weight of the published settings for Clothing: the graphs of what is generated stay as they are."""
    wrong = failed(with_config("DGMRec_missing", tmp_path, avg_lambda=0.0))
    assert wrong == ["generate/image_knn", "generate/text_knn"]


def test_a_gradient_of_zero_and_none_are_the_same(tmp_path):
    """FREEDOM's feature tables, where its loss of features has no weight."""
    with np.load(FOLDER / "FREEDOM.npz") as stored:
        features = [
            name for name in stored.files if name.startswith(("grad/image", "grad/text")) and "bias" not in name
        ]
    assert len(features) == 4
    path = with_config("FREEDOM", tmp_path, reg_weight=0.0)
    assert set(features) <= set(failed(path))
    with np.load(path) as stored:
        arrays = {name: 0 * stored[name] if name in features else stored[name] for name in stored.files}
    np.savez(path, **arrays)
    assert not set(features) & set(failed(path))
