"""Users without training interactions, ranked by what users have who are similar by columns of the ``.user`` file."""

import logging
import pickle

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, init_seed

from recbole_mambarec import Recommender
from recbole_mambarec.data.similar_users import of_similar_users
from recbole_mambarec.data.user_features import read_user_features
from recbole_mambarec.errors import UserError
from recbole_mambarec.experiments import run
from recbole_mambarec.experiments.fusion import fuse
from recbole_mambarec.experiments.fusion_parts import Part
from recbole_mambarec.experiments.plan import resolve
from recbole_mambarec.recommend.export import export
from recbole_mambarec.testing.planted import QUICK, write_planted

HEADER = "user_id:token\tage:float\tjob:token\tlikes:token_seq\tplace:float_seq"
USED = ("age", "job", "likes")
LOAD = {"inter": ["user_id", "item_id"], "item": ["item_id"], "user": ["user_id"]}


def similarity(one, other, deviation):
    """By the definition, of two people as (age, job, likes), None where there is no value."""
    total = 0.0
    if None not in (one[0], other[0]):
        total += 1 / (1 + abs(one[0] - other[0]) / (deviation or 1.0))
    total += one[1] is not None and one[1] == other[1]
    both = {*one[2]} & {*other[2]}
    return round(total + (len(both) / np.sqrt(len({*one[2]}) * len({*other[2]})) if both else 0.0), 9)


def reference(people, history, k):
    """Scores of the users without a history, user by user: user -> scores of all items."""
    ages = [person[0] for person in people if person[0] is not None]
    deviation, popularity = np.std(ages) if ages else 0.0, history.sum(axis=0)
    known = [user for user in range(len(people)) if history[user].any()]
    scores = {}
    for user in set(range(len(people))) - set(known):
        alike = {other: similarity(people[user], people[other], deviation) for other in known}
        left, counts = min(k, len(known)), {}
        for value in sorted({*alike.values()} - {0.0}, reverse=True):
            tied = [other for other in known if alike[other] == value]
            counts |= dict.fromkeys(tied, value * min(1, left / len(tied)))
            left -= len(tied)
            if left <= 0:
                break
        by_similar = sum((weight * history[other] for other, weight in counts.items()), np.zeros(history.shape[1]))
        scores[user] = by_similar / min(counts.values(), default=1.0) + popularity / (popularity.max() + 1)
    return scores


def write_users(folder, people):
    """The ``.user`` file, in another order than the interactions."""
    texts = [("NA" if a is None else a, job or "", " ".join(likes), "0.1 0.2") for a, job, likes in people.values()]
    lines = ["\t".join(map(str, (user, *cells))) for user, cells in zip(people, texts)]
    (folder / f"{folder.name}.user").write_text("\n".join([HEADER, *reversed(lines)]) + "\n", encoding="utf-8")


def a_person(rng):
    age = None if rng.random() < 0.2 else int(rng.integers(20, 24))
    job = None if rng.random() < 0.2 else str(rng.choice(["a", "b", "c"]))
    return age, job, [str(tag) for tag in rng.choice(["x", "y", "z"], rng.integers(0, 3), replace=False)]


def write_cold(root):
    """The planted dataset; training knows nothing of u3 and u7, of whom the latter has no features."""
    folder = write_planted(root)
    train = folder / "planted.train.inter"
    lines = [line for line in train.read_text().splitlines() if not line.startswith(("u3\t", "u7\t"))]
    train.write_text("\n".join(lines) + "\n")
    rng = np.random.default_rng(2)
    people = {f"u{n}": a_person(rng) for n in range(60) if n not in (7, 20)}
    people["u3"] = (21, "a", ["x", "z"])
    write_users(folder, people | {"stranger": (22, "b", [])})
    return folder, people


def split(folder, model="VBPR", **overrides):
    config = Config(model, folder.name, config_dict=QUICK | {"data_path": str(folder.parent)} | overrides)
    init_seed(config["seed"], True)
    return data_preparation(config, create_dataset(config))[0]._dataset


def everything(training, model="VBPR"):
    """Scores of all users for all items, without padding."""
    init_seed(1, True)
    made = get_model(model)(training.config, training).eval()
    users = torch.arange(1, training.user_num)
    return made.full_sort_predict({"user_id": users}).detach().view(len(users), -1)[:, 1:], made


@pytest.mark.parametrize("model", ["VBPR", "MultiEASE", "ThreeViews"])
def test_the_ranking_of_a_new_user_follows_from_the_files(tmp_path, caplog, model):
    folder, people = write_cold(tmp_path)
    with caplog.at_level(logging.WARNING):
        training = split(folder, model, cold_users="features", user_neighbours=9)
        scores, made = everything(training, model)
    assert list(training.user_features.columns) == [*USED]
    assert "nobody who is similar to 1 of the 2 users without training interactions by age, job, likes" in caplog.text
    users = training.id2token("user_id", range(1, training.user_num)).tolist()
    pairs = training.inter_feat["user_id"].numpy() - 1, training.inter_feat["item_id"].numpy() - 1
    history = np.zeros((60, 48))
    history[pairs] = 1
    expected = reference([people.get(user, (None, None, [])) for user in users], history, 9)
    cold = sorted(expected)
    assert [users[user] for user in cold] == sorted(["u3", "u7"], key=users.index)
    np.testing.assert_allclose(scores[cold], [expected[user] for user in cold], rtol=1e-6)
    # nobody's neighbours: popularity; items that no neighbour has: below the others, by popularity
    popularity = history.sum(axis=0)
    np.testing.assert_allclose(scores[users.index("u7")] * (popularity.max() + 1), popularity, rtol=1e-6)
    of_u3 = scores[users.index("u3")].numpy()
    assert ((of_u3 < 1) | (of_u3 >= 1 + popularity / (popularity.max() + 1) - 1e-6)).all() and (of_u3 < 1).any()
    # pair by pair, and for everybody else as without the key
    items = torch.arange(1, 49)
    for user in cold:
        found = made.predict({"user_id": torch.full_like(items, user + 1), "item_id": items})
        torch.testing.assert_close(found, scores[user], atol=0, rtol=0)
    plain, _ = everything(split(folder, model), model)
    others = np.setdiff1d(np.arange(60), cold)
    torch.testing.assert_close(scores[others], plain[others], atol=0, rtol=0)


people_strategy = st.tuples(
    st.none() | st.integers(20, 23).map(float),
    st.none() | st.sampled_from("ab"),
    st.lists(st.sampled_from("xyz"), max_size=2),
)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(people_strategy, st.sets(st.integers(0, 4))), min_size=1, max_size=9),
    st.integers(1, 4),
    st.integers(1, 3),
)
def test_any_values_may_be_missing(tmp_path_factory, everybody, k, at_once):
    people, items = [person for person, _ in everybody], [own for _, own in everybody]
    history = np.array([[item in own for item in range(5)] for own in items], dtype=np.float32)
    folder = tmp_path_factory.mktemp("people")
    named = {f"u{n}": person for n, person in enumerate(people)}
    write_users(folder, named)
    features = read_user_features({"seq_separator": " ", **NO_KEYS}, folder, folder.name, [*named])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("recbole_mambarec.data.similar_users._BLOCK_VALUES", at_once * len(people))
        rows, scores = of_similar_users(features, sp.csr_array(history), k)
    popularity = history.sum(axis=0)
    expected = reference(people, history, k)
    assert all(row < 0 for user, row in enumerate(rows) if user not in expected)
    for user, wanted in expected.items():
        found = scores[[rows[user]]].toarray()[0] if rows[user] >= 0 else 0.0
        np.testing.assert_allclose(found + popularity / (popularity.max() + 1), wanted, rtol=1e-6)


NO_KEYS = dict.fromkeys(
    ("user_features", "USER_ID_FIELD", "ITEM_ID_FIELD", "RATING_FIELD", "TIME_FIELD", "field_separator", "encoding")
)


def test_a_user_without_any_interaction_is_ranked_if_the_ids_are_loaded(tmp_path):
    folder, _ = write_cold(tmp_path)
    settings = {"cold_users": "features", "user_features": "job", "user_neighbours": 5}
    assert "stranger" not in split(folder, **settings).field2token_id["user_id"]
    training = split(folder, **settings, load_col=LOAD)
    scores, _ = everything(training)
    of_stranger = scores[training.token2id("user_id", "stranger") - 1]
    jobs = training.user_features.columns["job"].codes
    alike = np.flatnonzero(jobs == jobs[training.token2id("user_id", "stranger") - 1]) + 1
    theirs = np.isin(training.inter_feat["user_id"].numpy(), alike)
    assert len(scores) == 61 and len(alike) < 30
    assert (of_stranger >= 1).nonzero()[:, 0].tolist() == np.unique(training.inter_feat["item_id"][theirs] - 1).tolist()


def test_a_dataset_that_was_written_reads_the_columns_again(tmp_path):
    folder, _ = write_cold(tmp_path)
    training = split(folder, cold_users="features", user_features=["job", "age"])
    again = pickle.loads(pickle.dumps(training))
    assert list(again.user_features.columns) == ["job", "age"]
    np.testing.assert_array_equal(again.user_features.codes, training.user_features.codes)


def test_bundles_and_fusions_rank_as_the_models_do(tmp_path, monkeypatch):
    pytest.importorskip("safetensors", reason="bundles need the extra [serve]")
    folder, _ = write_cold(tmp_path)
    monkeypatch.chdir(tmp_path)
    values = {"data_path": str(tmp_path), "checkpoint_dir": str(tmp_path / "saved"), "epochs": 1, "state": "ERROR"}
    values |= {"topk": [5], "valid_metric": "Recall@5", "show_progress": False, "embedding_size": 8}
    values |= {"cold_users": "features", "user_neighbours": 9}
    files = []
    for model in ("VBPR", "MultiEASE"):
        record = run.execute(resolve(model, folder.name, 999, values), tmp_path / "runs.jsonl")
        assert record.is_finished, record.error
        (file,) = (tmp_path / "saved").glob(f"{model}-*.pth")
        files.append(file)
    parts = [Part(file) for file in files]
    files.append(fuse(parts, runs=tmp_path / "runs.jsonl", weights=[0.5, 0.5], per_user=False, progress=False).file)
    for number, file in enumerate((files[0], files[-1])):
        live = Recommender.load(file)
        bundle = Recommender.load(export(file, tmp_path / str(number), metrics=False, progress=False))
        for user in ("u3", "u7", "u8"):
            one, other = (
                [(r.item, pytest.approx(r.score, rel=1e-4)) for r in each.recommend(user, k=20)]
                for each in (live, bundle)
            )
            assert one == other, (file, user)
    assert bundle.scoring.kind == "fusion"


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"cold_users": "friends"}, "cold_users must be one of id, popularity, features"),
        ({"user_features": ["job"]}, "user_features has no effect without cold_users=features"),
        ({"cold_users": "features", "user_features": []}, "user_features names no column"),
        ({"cold_users": "features", "user_features": 3}, "user_features must be a list of names"),
        ({"cold_users": "features", "user_features": ["job", "job"]}, "user_features has a name twice"),
        ({"cold_users": "features", "user_neighbours": 0}, "user_neighbours must be a whole number from 1"),
        (
            {"cold_users": "features", "user_features": "jobs"},
            r"planted.user has no column 'jobs'; besides the id, it has age, job, likes, place",
        ),
        (
            {"cold_users": "features", "user_features": ["place"]},
            "'place' is of the type float_seq, by which users are",
        ),
    ],
)
def test_faulty_values(tmp_path, values, sentence):
    folder, _ = write_cold(tmp_path)
    with pytest.raises(UserError, match=sentence):
        split(folder, **values)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, r"compares users by the columns of .*planted.user, which does not exist"),
        ("user_id:token\nu1\n", r"needs a column of the types token, token_seq, float in .* it has none"),
        ("user_id:token\tplace:float_seq\nu1\t1 2\n", r"needs a column .* it has place"),
        ("user:token\tjob:token\nu1\ta\n", "planted.user has no column 'user_id'"),
        ("user_id:token\tage:float\nu1\t20\nu2\tyoung\n", "'age' is declared as float and has the value 'young'"),
        ("user_id:token\tjob:token\nU01\ta\n", "only 0 of the 60 user ids of the interactions are in"),
    ],
)
def test_faulty_files(tmp_path, text, sentence):
    folder, _ = write_cold(tmp_path)
    (folder / "planted.user").unlink()
    if text is not None:
        (folder / "planted.user").write_text(text)
    with pytest.raises(UserError, match=sentence):
        split(folder, cold_users="features")


def test_every_choice_is_a_run_of_its_own(tmp_path):
    folder, _ = write_cold(tmp_path)
    chosen = [{}, {"cold_users": "popularity"}, {"cold_users": "features"}]
    chosen += [{"cold_users": "features", **more} for more in ({"user_neighbours": 9}, {"user_features": ["job"]})]
    keys = [resolve("VBPR", folder.name, overrides={"data_path": str(tmp_path), **each}).key for each in chosen]
    assert len(set(keys)) == len(keys)
    text = {"data_path": str(tmp_path), "cold_users": "features", "user_features": "job"}
    assert resolve("VBPR", folder.name, overrides=text | {"user_neighbours": 100}).key == keys[-1]
