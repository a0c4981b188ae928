"""The folder of a bundle: its card, what is refused, and that there is never half of one."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp

from recbole_mambarec import Recommender
from recbole_mambarec.recommend.export import export
from recbole_mambarec.scoring.restore import restore
from recbole_mambarec_common.errors import UserError
from recbole_mambarec_serving.bundle import FORMAT, VERSION, training_history
from recbole_mambarec_serving.ids import Ids
from recbole_mambarec_serving.ranking import largest
from recbole_mambarec_serving.scoring import FoldIn, InnerProducts, TopLists
from tests import warm
from tests.helpers import posix
from tests.recommend.conftest import FUSION

pytest.importorskip("safetensors", reason="bundles need the extra [serve]")


@pytest.fixture
def bundle(bundles, tmp_path):
    """A copy of MambaRec's."""
    return Path(shutil.copytree(bundles["MambaRec"], tmp_path / "bundle"))


def test_the_card_says_what_the_model_is(trained, bundles):
    record = trained.record("MambaRec")
    card = Recommender.load(bundles["MambaRec"]).card
    assert card["format"] == f"{FORMAT}{VERSION}" and card["model"] == "MambaRec"
    assert card["scoring"] == {"kind": "embeddings"} and card["licence"] == "not stated"
    assert (card["users"], card["items"]) == (60, 48)
    assert card["data"]["dataset"] == "planted" and card["data"]["interactions"]["train"] == 360
    assert card["data"]["training"] == restore(trained.files["MambaRec"]).splits.fingerprint()
    assert card["configuration"]["epochs"] == 2 and card["versions"]["torch"]
    assert str(trained.root) not in json.dumps(card)  # nothing of this machine
    assert card["metrics"]["valid"] == pytest.approx(record.valid)
    for mask, values in record.test.items():
        assert card["metrics"]["test"][mask] == pytest.approx(values)
    readme = (bundles["MambaRec"] / "README.md").read_text(encoding="utf-8")
    assert "# MambaRec on planted" in readme and f"{record.valid['recall@5']:.4f}" in readme


@posix
def test_files_have_ordinary_permissions(bundles):
    assert {file.stat().st_mode & 0o777 for file in bundles["MambaRec"].iterdir()} == {0o666 & ~umask()}


def umask() -> int:
    present = os.umask(0)
    os.umask(present)
    return present


def test_what_kinds_of_models_store(bundles):
    kinds = {model: Recommender.load(bundles[model]).card["scoring"] for model in ("BPR", "EASE", "Pop", FUSION)}
    assert kinds["BPR"]["kind"] == "embeddings"
    assert kinds["EASE"] == {"kind": "item_weights", "parts": ["dense"]}
    assert kinds["Pop"] == {"kind": "lists", "depth": 48}
    assert kinds[FUSION]["weights"] == [0.6, 0.4] and kinds[FUSION]["normalisation"] == "zscore"
    assert [part["kind"] for part in kinds[FUSION]["parts"]] == ["embeddings", "item_weights"]


def damaged(folder, name, change):
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(change(data))


def edited(folder, **values):
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    (folder / "card.json").write_text(json.dumps(card | values), encoding="utf-8")


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (lambda b: edited(b, format=f"{FORMAT}{VERSION + 1}"), f"version {VERSION + 1}, and this installation reads"),
        (lambda b: edited(b, format="else"), "not a bundle of this package"),
        (lambda b: (b / "card.json").write_text("{"), "card.json is damaged"),
        (lambda b: (b / "card.json").unlink(), "it has no card.json"),
        (lambda b: (b / "users.parquet").unlink(), "is incomplete, users.parquet is missing"),
        (lambda b: damaged(b, "model.safetensors", lambda data: data[:-5]), "bytes instead of"),
        (
            lambda b: damaged(b, "seen.npz", lambda data: data[:-1] + b"?"),
            r"not the file that was exported \(SHA-256\)",
        ),
        (lambda b: edited(b, files={}), "card.json does not list items.parquet"),
        (lambda b: edited(b, scoring={"kind": "other"}), r"is damaged \(ValueError\)"),
        (lambda b: edited(b, scoring={"kind": "item_weights", "parts": ["dense"]}), r"is damaged \(KeyError\)"),
        (lambda b: edited(b, features={"image": "../features.0.npy"}), "is damaged"),
    ],
)
def test_a_damaged_bundle_is_refused_in_one_sentence(bundle, harm, sentence):
    harm(bundle)
    with pytest.raises(UserError, match=sentence):
        Recommender.load(bundle)


def test_what_is_no_bundle(tmp_path, trained):
    with pytest.raises(UserError, match="there is no bundle"):
        type(Recommender.load(trained.files["BPR"])).load(tmp_path / "none")
    with pytest.raises(UserError, match=r"it has no card\.json"):
        Recommender.load(tmp_path)
    with pytest.raises(UserError, match=r"cannot be opened"):
        Recommender.load(tmp_path / "none.pth")


def test_an_existing_folder_is_left_alone(trained, bundle):
    before = sorted(bundle.iterdir())
    with pytest.raises(UserError, match="exists already: name a new folder"):
        export(trained.files["MambaRec"], bundle)
    assert sorted(bundle.iterdir()) == before


def test_features_can_be_left_out(trained, tmp_path):
    made = export(trained.files["BPR"], tmp_path / "b", features=False, metrics=False, licence="CC0", progress=False)
    rec = Recommender.load(made)
    assert rec.card["licence"] == "CC0" and rec.card["metrics"] is None
    assert rec.item("i1").modalities == ("image", "text")
    with pytest.raises(UserError, match="features of the items of BPR are not at hand"):
        rec.similar_items("i1", by="image")
    with pytest.raises(UserError, match="features of the items of BPR are not at hand"):
        rec.add_items({"image": np.ones((1, 8))}, ["a"])


SLOW = """
import os, sys, time
from pathlib import Path
os.environ["RECBOLE_MAMBAREC_TRUST_CHECKPOINTS"] = "1"
import recbole_mambarec_serving.bundle as bundle
written = bundle._described
def slowly(file):
    Path(sys.argv[3]).touch()
    time.sleep(30)
    return written(file)
bundle._described = slowly
from recbole_mambarec.recommend.export import export
export(sys.argv[1], sys.argv[2], metrics=False, progress=False)
"""


@posix
def test_a_killed_export_leaves_no_bundle(trained, tmp_path):
    out, started = tmp_path / "bundle", tmp_path / "started"
    process = warm.Python("-c", SLOW, str(trained.files["BPR"]), str(out), str(started))
    deadline = time.monotonic() + 60
    while not started.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    assert started.exists()
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not out.exists()
    # and the next one is not in its way
    assert len(Recommender.load(export(trained.files["BPR"], out, metrics=False, progress=False))) == 48


# ------------------------------------------------------------------------------------------------------------
# parts


def test_largest_is_a_stable_sort():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 4, size=(50, 12)).astype(np.float32)
    scores[rng.random(scores.shape) < 0.3] = -np.inf
    scores[7] = -np.inf
    for k in (1, 5, 12):
        columns, values = largest(scores, k)
        for row, found, kept in zip(scores, columns, values):
            wanted = [place for place in np.argsort(-row, kind="stable")[:k] if row[place] > -np.inf]
            assert found.tolist() == wanted + [-1] * (k - len(wanted))
            assert kept.tolist() == row[wanted].tolist() + [-np.inf] * (k - len(wanted))


def test_normalisations_are_those_of_a_fusion():
    torch = pytest.importorskip("torch")
    from recbole_mambarec.scoring import fused
    from recbole_mambarec_serving import scoring

    scores = np.random.default_rng(0).integers(0, 6, size=(5, 9)).astype(np.float64)
    scores[3] = 2.0
    assert scoring.NORMALISATIONS.keys() == fused.NORMALISATIONS.keys()
    for name, function in scoring.NORMALISATIONS.items():
        wanted = fused.NORMALISATIONS[name](torch.from_numpy(scores)).numpy()
        np.testing.assert_allclose(function(scores), wanted, atol=1e-12)


def test_lists_refuse_what_they_do_not_know(bundles):
    rec = Recommender.load(bundles["Pop"])
    listed = rec.scoring.listed.toarray()
    for row, seen in zip(listed, rec.seen.toarray()):
        best = np.argsort(-np.where(seen > 0, -np.inf, row), kind="stable")[3:]
        row[[place for place in best if not seen[place]]] = 0.0
    rec.scoring = TopLists(sp.csr_array(listed), 3, "Pop")
    assert len(rec.recommend("u1", 3)) == 3
    for options in ({"k": 4}, {"k": 3, "among": ["i1", "i2", "i3", "i4", "i5", "i6", "i7", "i8", "i9", "i10"]}):
        with pytest.raises(UserError, match="only the 3 best items of each user are known of Pop"):
            rec.recommend("u1", **options)


def test_the_index_finds_nearly_what_exact_search_finds(trained, tmp_path):
    pytest.importorskip("faiss", reason="approximate search needs the extra [ann]")
    made = export(trained.files["MambaRec"], tmp_path / "b", ann=True, metrics=False, progress=False)
    rec = Recommender.load(made)
    assert rec.card["ann"]["recall@20"] > 0.95 and (made / "index.faiss").is_file()
    for exclude_seen in (True, False):
        exact = dict(rec.recommend(rec.users.tokens.tolist(), 10, exclude_seen=exclude_seen))
        about = dict(rec.recommend(rec.users.tokens.tolist(), 10, exclude_seen=exclude_seen, approximate=True))
        shares = [len({r.item for r in exact[u]} & {r.item for r in about[u]}) / 10 for u in exact]
        assert np.mean(shares) > 0.95
        assert all(
            [r.score for r in found] == sorted((r.score for r in found), reverse=True) for found in about.values()
        )
    with pytest.raises(UserError, match="approximate search knows no among and filter"):
        rec.recommend("u1", among=["i1"], approximate=True)
    with pytest.raises(UserError, match="EASE does not rank by embeddings, which an index could search"):
        export(trained.files["EASE"], tmp_path / "c", ann=True, metrics=False, progress=False)
    assert not (tmp_path / "c").exists()


def test_the_function_for_new_users_is_found_again():
    """Users who are a linear function of their items get exactly that."""
    rng = np.random.default_rng(0)
    history = sp.csr_array((rng.random((200, 30)) < 0.2).astype(np.float32))
    history = history[history.sum(axis=1) > 0]
    items, roots = rng.normal(size=(30, 4)).astype(np.float32), np.sqrt(np.maximum(history.sum(axis=0), 1))
    true = FoldIn(rng.normal(size=(8, 4)).astype(np.float32), rng.normal(size=4).astype(np.float32), roots)
    users = true.users(history, items)
    from recbole_mambarec.recommend.fold_in import fitted, overlap

    found = fitted(users, items, history)
    assert np.abs(found.users(history, items) - users).max() < 0.05 * np.abs(users).max()
    measured = overlap(InnerProducts(users, items, found), history, k=5)
    assert measured["overlap@5"] > 0.9 and measured["users"] == history.shape[0] // 5
    scoring = InnerProducts(users, items, true)
    one = history[[0]].indices
    parts = scoring.effects(one, 3, len(one)).sum() + true.bias @ items[3]
    assert parts == pytest.approx(scoring.fold_in(history[[0]])[0, 3], rel=1e-4)


def test_ids_and_history():
    ids = Ids("user", ["a", "b"])
    assert "a" in ids and "c" not in ids and len(ids) == 2
    seen = sp.csr_array(np.array([[1, 6, 0], [0, 3, 4]], dtype=np.uint8))
    assert training_history(seen).toarray().tolist() == [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    assert seen.toarray().tolist() == [[1, 6, 0], [0, 3, 4]]
