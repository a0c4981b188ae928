"""Recommendations from a checkpoint and from its bundle: they are the evaluator's lists."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from recbole.utils.case_study import full_sort_scores

from recbole_mambarec import Recommender
from recbole_mambarec.compat.checkpoints import TRUST_VARIABLE
from recbole_mambarec.experiments import run
from recbole_mambarec.experiments.plan import resolve
from recbole_mambarec.experiments.store import MASKS
from recbole_mambarec.recommend.export import export
from recbole_mambarec.scoring.restore import restore
from recbole_mambarec_common.errors import UserError
from recbole_mambarec_serving import UnknownItem, UnknownUser
from tests.recommend.conftest import FUSION, MODELS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def live(trained):
    """Model -> recommender over its checkpoint."""

    class Live(dict):
        def __missing__(self, model):
            self[model] = Recommender.load(trained.files[model])
            return self[model]

    return Live()


def evaluated(run, loader):
    """Scores of all users as RecBole's case study has them, masked: ``(n_users, n_items)``."""
    model = run.model
    if model is None:
        from recbole_mambarec.scoring.scorer import ScorerModel

        model = ScorerModel(run.config, run.splits.dataset, run.scorer)
    users = np.arange(1, len(run.splits.users) + 1)
    return full_sort_scores(users, model, loader, device=run.config["device"]).cpu()[:, 1:]


@pytest.mark.parametrize("model", [*MODELS, FUSION])
def test_lists_are_those_of_the_evaluator(trained, live, model):
    """Bit for bit, under both masks; where scores are equal, in the order of the catalogue."""
    run, k, ties = restore(trained.files[model]), 10, 0
    for mask, loader in run.splits.tests().items():
        scores = evaluated(run, loader)
        wanted = scores.topk(k, dim=1)
        lists = dict(live[model].recommend(live[model].users.tokens.tolist(), k, exclude_seen=mask))
        for user, values, row, columns in zip(run.splits.users.tokens, wanted.values, scores, wanted.indices):
            found = lists[user]
            assert [r.score for r in found] == values.tolist()
            places = live[model].items.positions([r.item for r in found])
            ties += len(set(values.tolist())) < k
            if len(set(row.tolist())) == len(row) - int(row.isinf().sum()) + 1:  # no two are equal
                assert places.tolist() == columns.tolist()
            order = np.lexsort((np.arange(len(row)), -row.numpy()))
            assert places.tolist() == order[:k].tolist()
    assert ties or model != "Pop"


@pytest.mark.parametrize("model", [*MODELS, FUSION])
def test_a_bundle_gives_the_same_lists(live, bundles, model):
    bundle, one = Recommender.load(bundles[model]), live[model]
    for mask in (*MASKS, True, False):
        users = one.users.tokens
        for wanted, found in zip(*(each.ranked(users, 10, exclude_seen=mask) for each in (one, bundle))):
            # the order of scores that differ by rounding may be another
            np.testing.assert_allclose(found.scores, wanted.scores, rtol=1e-4, atol=1e-5)
            assert (found.items == wanted.items).mean() > 0.98


BLOCKED = """
import json, sys

class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "recbole", "pandas", "recbole_mambarec", "dataset_prep"):
            raise ImportError(f"{name} was imported")

sys.meta_path.insert(0, Refused())
from recbole_mambarec_serving import Recommender
rec = Recommender.load(sys.argv[1])
print(json.dumps({user: [[r.item, r.score] for r in found] for user, found in rec.recommend(rec.users.tokens, 5)}))
rec.recommend_for(["3"], 3), rec.similar_items("3", 3), rec.explain("1", "3")
"""


def test_from_movielens_to_a_process_without_torch_and_recbole(tmp_path, monkeypatch):
    monkeypatch.setenv(TRUST_VARIABLE, "1")
    pytest.importorskip("safetensors", reason="bundles need the extra [serve]")
    values = {"epochs": 1, "show_progress": False, "state": "ERROR", "checkpoint_dir": str(tmp_path)}
    assert run.execute(resolve("BPR", "ml-100k", 999, values), tmp_path / "runs.jsonl").is_finished
    (file,) = tmp_path.glob("*.pth")
    live = Recommender.load(file)
    bundle = export(file, tmp_path / "bundle", metrics=False, progress=False)
    command = [sys.executable, "-c", BLOCKED, str(bundle)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert list(found) == live.users.tokens.tolist() and len(found) == 943
    assert live.item("1").title == "Toy Story" and live.search_items("toy story")[0].id == "1"
    for user, wanted in live.recommend(list(found), 5):
        assert [item for item, _ in found[user]] == [r.item for r in wanted]
        assert [score for _, score in found[user]] == pytest.approx([r.score for r in wanted], rel=1e-4)


def test_users_are_read_block_by_block(live, monkeypatch):
    rec = live["BPR"]
    monkeypatch.setattr("recbole_mambarec_serving.recommender.BLOCK_VALUES", 4 * len(rec))
    asked = []

    def users():
        for user in rec.users.tokens:
            asked.append(user)
            yield user

    pairs = rec.recommend(users(), 3)
    assert not asked
    user, found = next(pairs)
    assert len(asked) == 4 and user == asked[0]
    assert [r.item for r in found] == [r.item for r in rec.recommend(user, 3)]
    assert len(list(pairs)) == len(rec.users) - 1
    assert list(rec.recommend([], 3)) == []


def test_what_is_left_out(trained, live):
    rec = live["BPR"]
    user, everything = rec.users.tokens[3], len(rec)
    parts = {part: set() for part in ("train", "valid", "test")}
    for part, items in parts.items():
        for line in (trained.root / "planted" / f"planted.{part}.inter").read_text().splitlines()[1:]:
            if line.split("\t")[0] == user:
                items.add(line.split("\t")[1])

    def items(**options):
        return [r.item for r in rec.recommend(user, everything, **options)]

    whole = items(exclude_seen=False)
    assert len(set(whole)) == everything
    for mask in ("train", "valid", "train+valid", "train+valid+test"):
        seen = set().union(*(parts[part] for part in mask.split("+")))
        assert items(exclude_seen=mask) == [item for item in whole if item not in seen]
    assert items() == items(exclude_seen="train+valid+test")
    some = {"i1", "i7", "i13"}
    assert items(among=some, exclude_seen=False) == [item for item in whole if item in some]
    assert items(filter=lambda info: info.id in some and info.id != "i7", exclude_seen=False) == [
        item for item in whole if item in some - {"i7"}
    ]


def test_titles_pictures_and_search(live, bundles):
    for rec in (live["MambaRec"], Recommender.load(bundles["MambaRec"])):
        bare = next(info for info in map(rec.item, rec.items.tokens.tolist()) if info.title is None)
        assert bare.image is None and bare.modalities == ("image", "text")
        token = next(token for token in ("i1", "i2") if token != bare.id)
        info = rec.item(token)
        assert info.title == f"Thing number {token[1:]}" and info.image == f"https://example.org/{token}.jpg"
        assert info.popularity > 0
        assert rec.search_items(token)[0].id == token
        found = rec.search_items("THING NUMBER 3", limit=5)
        assert len(found) == 5 and all("number 3" in each.title for each in found)
        assert [each.popularity for each in found] == sorted((e.popularity for e in found), reverse=True)
        assert rec.search_items("nothing like that") == []
        assert rec.search_users("U1", 3)[0].startswith("u1") and len(rec.search_users("u", 7)) == 7
        assert any(r.title for r in rec.recommend("u1", 5))


def test_similar_items_are_those_of_plain_cosines(trained, live, bundles):
    tokens = [line.split("\t")[0] for line in (trained.root / "planted/planted.item").read_text().splitlines()[1:]]
    features = np.load(trained.root / "planted/planted.image.npy").astype(np.float64)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    for rec in (live["MambaRec"], Recommender.load(bundles["MambaRec"])):
        cosines = dict(zip(tokens, features @ features[tokens.index("i5")]))
        found = rec.similar_items("i5", 4, by="image")
        best = sorted((token for token in tokens if token != "i5"), key=lambda token: -cosines[token])
        assert [r.item for r in found] == best[:4]
        assert [r.score for r in found] == pytest.approx([cosines[token] for token in best[:4]], abs=2e-3)
    embeddings = restore(trained.files["MambaRec"]).model.scored_embeddings()[1][1:].double()
    wanted = torch.nn.functional.cosine_similarity(embeddings, embeddings[[rec.items.positions(["i5"])[0]]])
    by_model = {r.item: r.score for r in rec.similar_items("i5", len(rec))}
    for token, cosine in zip(rec.items.tokens.tolist(), wanted.tolist()):
        assert token == "i5" or by_model[token] == pytest.approx(cosine, abs=1e-5)


@pytest.mark.parametrize("model", ["EASE", "MultiEASE"])
def test_fold_in_of_a_closed_form_is_exact(trained, live, bundles, model):
    for rec in (live[model], Recommender.load(bundles[model])):
        for user in rec.users.tokens[:5]:
            history = [item for item, _ in rec.explain(user, "i1").by_item]
            wanted = rec.recommend(user, 10, exclude_seen="train")
            found = rec.recommend_for(history, 10)
            assert [r.item for r in found] == [r.item for r in wanted]
            assert [r.score for r in found] == pytest.approx([r.score for r in wanted], rel=1e-4)


@pytest.mark.parametrize(("model", "least"), [("MambaRec", 0.8), ("LightGCN", 0.8), ("BPR", 0.5)])
def test_a_known_user_who_is_folded_in_gets_nearly_their_own_list(live, bundles, model, least):
    rec = live[model]
    assert "propagation" in rec.fold_in_by
    shares = []
    for user in rec.users.tokens[:12]:
        history = [item for item, _ in rec.explain(user, "i1").by_item]
        own = {r.item for r in rec.recommend(user, 10, exclude_seen="train")}
        shares.append(len(own & {r.item for r in rec.recommend_for(history, 10)}) / 10)
    assert np.mean(shares) >= least
    bundle = Recommender.load(bundles[model])
    assert "linear" in bundle.fold_in_by and bundle.card["fold_in"]["overlap@20"] >= least - 0.1
    assert bundle.card["fold_in"]["users"] == 12  # a fifth, which the function was not fitted to
    # what the user has is left out, or not
    assert not {"i1", "i5"} & {r.item for r in bundle.recommend_for(["i1", "i5"], 40)}
    assert {"i1", "i5"} & {r.item for r in bundle.recommend_for(["i1", "i5"], 40, exclude_seen=False)}


def test_folding_in_leaves_no_trace(live):
    rec = live["LightGCN"]
    before, torch_state = rec.recommend("u1", 5), torch.get_rng_state()
    numpy_state = np.random.get_state()[1].copy()  # noqa: NPY002
    rec.recommend_for(["i1", "i2"], 5)
    assert rec.recommend("u1", 5) == before
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002


@pytest.mark.parametrize("model", ["MambaRec", "EASE", FUSION])
def test_a_new_item_is_the_mean_of_the_nearest(trained, live, bundles, model):
    rng = np.random.default_rng(0)
    new = {"image": rng.normal(size=(2, 8)), "text": rng.normal(size=(2, 6))}
    new["text"][1] = np.nan
    tokens = [line.split("\t")[0] for line in (trained.root / "planted/planted.item").read_text().splitlines()[1:]]
    similarity = np.zeros((2, len(tokens)))
    for modality, rows in new.items():
        known = np.load(trained.root / "planted" / f"planted.{modality}.npy").astype(np.float64)
        known /= np.linalg.norm(known, axis=1, keepdims=True)
        similarity += np.nan_to_num(rows / np.linalg.norm(rows, axis=1, keepdims=True)) @ known.T
    for rec in (live[model], Recommender.load(bundles[model])):
        wider = rec.add_items(new, ["n1", "n2"])
        assert len(wider) == len(rec) + 2 and "n1" not in rec.items and wider.item("n2").modalities == ("image",)
        for place, token in enumerate(("n1", "n2")):
            nearest = [tokens[at] for at in np.argsort(-similarity[place])[:10]]
            scores = {r.item: r.score for r in rec.recommend("u1", len(rec), exclude_seen=False)}
            (found,) = wider.recommend("u1", 1, among=[token])
            assert found.score == pytest.approx(np.mean([scores[item] for item in nearest]), abs=1e-5)
        assert len(wider.recommend_for(["n1", "i1"], 4)) == 4
        assert wider.similar_items("n1", 3) and wider.similar_items("n1", 3, by="image")
        assert {item for item, _ in wider.explain("u1", "n1").by_item} <= set(tokens)
        again = wider.add_items({"image": new["image"][:1]}, ["n3"])
        assert len(again.recommend("u1", len(again), exclude_seen=False)) == len(rec) + 3


def test_refused_new_items(live):
    rec, good = live["MambaRec"], {"image": np.ones((1, 8))}
    for features, ids, sentence in [
        (good, ["i1"], "item 'i1' exists already"),
        (good, [], "new items need distinct ids"),
        ({"image": np.ones((2, 8))}, ["a", "a"], "new items need distinct ids"),
        ({"audio": np.ones((1, 8))}, ["a"], "there is no modality 'audio' here: use image or text"),
        ({"image": np.ones((1, 5))}, ["a"], r"must have the shape \(1, 8\)"),
        ({"image": np.full((1, 8), np.nan)}, ["a"], "new item 1 of 1 has no features"),
        ({"image": np.full((1, 8), np.inf)}, ["a"], "values that are no numbers"),
        ({}, ["a"], "new item 1 of 1 has no features"),
    ]:
        with pytest.raises(UserError, match=sentence):
            rec.add_items(features, ids)


def test_explanations_add_up(live, bundles):
    for rec in (live["MultiEASE"], Recommender.load(bundles["MultiEASE"])):
        found = rec.explain("u1", "i1")
        assert found.exact and found.score == pytest.approx(
            next(r.score for r in rec.recommend("u1", len(rec), exclude_seen=False) if r.item == "i1"), rel=1e-4
        )
        shares = [share for _, share in found.by_item]
        assert shares == sorted(shares, reverse=True) and sum(map(abs, shares)) == pytest.approx(1)
        # contributions are weights between items, so that their signed sum has the sign of the score
        assert np.sign(sum(shares)) == np.sign(found.score)
        assert set(found.by_modality) <= {"image", "text"} and sum(found.by_modality.values()) == pytest.approx(1)
    rec = live["MambaRec"]
    own = {item for item, _ in rec.explain("u1", "i1").by_item}
    # users and items of planted data have groups: an item of the user's group is carried by the user's items
    inside = next(item for item in rec.items.tokens if int(item[1:]) % 4 == 1 and item not in own)
    assert sum(share for _, share in rec.explain("u1", inside).by_item) > 0.5 and not rec.explain("u1", inside).exact


def test_what_is_unknown_is_named(live):
    rec = live["BPR"]
    with pytest.raises(UnknownUser, match="user 'nobody' is not in the data"):
        rec.recommend("nobody")
    with pytest.raises(UnknownItem, match="item 'nothing' is not in the data"):
        rec.similar_items("nothing")
    for call in (
        lambda: rec.recommend("u1", among=["nothing"]),
        lambda: rec.recommend_for(["nothing"]),
        lambda: rec.explain("u1", "nothing"),
        lambda: rec.item("nothing"),
    ):
        with pytest.raises(UnknownItem):
            call()
    for k in (0, len(rec) + 1, 2.5, True):
        with pytest.raises(UserError, match=f"k must be a whole number from 1 to {len(rec)}"):
            rec.recommend("u1", k)
    with pytest.raises(UserError, match="name at least one"):
        rec.recommend_for([])
    with pytest.raises(UserError, match="items cannot be compared by 'audio': use one of model, image, text"):
        rec.similar_items("i1", by="audio")
    with pytest.raises(UserError, match="exclude_seen must be"):
        rec.recommend("u1", exclude_seen="some")
    with pytest.raises(UserError, match="no index for approximate search of BPR is here"):
        rec.recommend("u1", approximate=True)


def test_a_model_without_embeddings_or_weights_says_so(live, bundles):
    one = live["Pop"]
    assert one.fold_in_by is None
    for call in (lambda: one.recommend_for(["i1"]), lambda: one.similar_items("i1"), lambda: one.explain("u1", "i1")):
        with pytest.raises(UserError, match="Pop ranks by neither embeddings nor weights"):
            call()
    bundle = Recommender.load(bundles["Pop"])
    for call in (lambda: bundle.recommend_for(["i1"]), lambda: bundle.similar_items("i1")):
        with pytest.raises(UserError, match="ranks by neither embeddings nor weights between items"):
            call()
    with pytest.raises(UserError, match="new items cannot be scored by Pop"):
        bundle.add_items({"image": np.ones((1, 8))}, ["a"])
