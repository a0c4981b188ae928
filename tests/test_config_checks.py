"""Values and combinations of values that are refused, for models of this package and of RecBole."""

import math

import pytest
from recbole.config import Config
from recbole.quick_start import run_recbole as run_recbole_of_recbole

from recbole_mambarec.config import default_properties
from recbole_mambarec.config_checks import CHECKS, by_default, value_fault
from recbole_mambarec.errors import UserError
from recbole_mambarec.testing.planted import write_planted
from tests.plain_dataset import write_plain


def config(folder, model, dataset="planted", **values):
    return Config(model, dataset, config_dict={"data_path": str(folder), **values})


REFUSED = [
    ("seed", 2**32, "seed must be a whole number from 0 to 4294967295"),
    ("seed", None, "seed must be a whole number"),
    ("worker", -1, "worker must be a whole number from 0"),
    ("state", 3, "state must be text that is not empty"),
    ("data_path", None, "data_path must be a path"),
    ("show_progress", "no", "show_progress must be True or False"),
    ("epochs", 2.5, "epochs must be a whole number"),
    ("train_batch_size", 2**40, r"train_batch_size must be below 2\^31, got"),
    (
        "train_neg_sample_args",
        {"distribution": "popularity", "alpha": 1e6},
        r"\['alpha'\] must be a number from 0 to 10",
    ),
    ("train_batch_size", 0, "train_batch_size must be a whole number from 1"),
    ("learner", "sparse_adam", "'sparse_adam' needs sparse gradients, which no model here has: use adam"),
    ("learner", ["adam"], "learner must be the name of an optimizer"),
    ("learning_rate", math.inf, "learning_rate must be a number from 0"),
    ("weight_decay", -1e-4, "weight_decay must be a number from 0"),
    ("clip_grad_norm", 1.5, "clip_grad_norm must be a mapping such as"),
    ("clip_grad_norm", {"norm": 5}, "clip_grad_norm has no key 'norm'"),
    ("clip_grad_norm", {"norm_type": 2}, "clip_grad_norm lacks the key 'max_norm'"),
    ("train_neg_sample_args", "uniform", "train_neg_sample_args must be a mapping with the keys distribution"),
    ("train_neg_sample_args", {"distribution": "normal"}, r"\['distribution'\] must be one of uniform, popularity"),
    ("train_neg_sample_args", {"sample_num": 0}, r"\['sample_num'\] must be a whole number from 1"),
    ("train_neg_sample_args", {"dynamic": True}, "give their number as 'candidate_num'"),
    ("eval_step", "often", "eval_step must be a whole number from 0"),
    ("transform", "mirror", "transform must be one of mask_itemseq"),
    ("transform", "crop_itemseq", "changes sequences, but .* does not read any: leave it out"),
    ("eval_args", {"split": {"RS": [8, 2]}}, "must be a list of three shares"),
    ("eval_args", {"split": {"RS": [0, 0.5, 0.5]}}, "must be a list of three shares"),
    ("eval_args", {"split": {"LS": "both"}}, "must be one of valid_and_test, valid_only, test_only"),
    ("eval_args", {"split": "RS"}, r"eval_args\['split'\] must be {'RS'"),
    ("eval_args", {"order": "time"}, r"eval_args\['order'\] must be one of RO, TO"),
    ("eval_args", {"group_by": "session"}, r"eval_args\['group_by'\] must be one of user, none"),
    ("eval_args", {"mode": "pop"}, "must be full, labeled, uniN or popN"),
    ("eval_args", {"mode": {"valid": "uni0"}}, r"eval_args\['mode'\]\['valid'\] must be full"),
    ("eval_args", {"mode": "labeled"}, "ranks nothing, but the metric .* needs a ranking: use 'full'"),
    ("eval_args", {"modus": "full"}, "eval_args has no key 'modus': its keys are split"),
    ("metrics", [], "metrics must be a metric or a list of them"),
    ("metrics", ["Recall", 3], "there is no metric 3, use one of"),
    ("metrics", ["AUC"], "AUC compares scores with labels, and there are none in .*'full'"),
    ("metrics", ["Recall", "AUC"], "one run cannot compute both: keep one kind"),
    ("topk", [], "topk must be a whole number from 1 or a list"),
    ("topk", [5, "ten"], "topk must be a whole number from 1 or a list"),
    ("valid_metric", "NDCG", "valid_metric 'NDCG' lacks a cut-off: write NDCG@"),
    ("valid_metric", None, "valid_metric must be text that is not empty"),
    ("threshold", {"rating": "high"}, r"threshold\['rating'\] must be a number"),
    ("threshold", {"rating": 3, "stars": 1}, "threshold must name one column"),
    ("val_interval", {"rating": "3 to 5"}, r"val_interval\['rating'\] must be an interval such as"),
    ("val_interval", {"rating": "[5,3]"}, r"val_interval\['rating'\] must be an interval such as"),
    ("user_inter_num_interval", "5", "user_inter_num_interval must be an interval"),
    ("item_inter_num_interval", "[a,b]", "item_inter_num_interval must be an interval"),
    ("numerical_features", None, "numerical_features must be a list of names"),
    ("log_wandb", 5, "log_wandb must be True or False"),
    ("nproc", 2, r"nproc=2 has no effect in a configuration.*recbole_mambarec run --nproc=2"),
    ("derive_modalities", {"text": {"kind": "tfidf"}}, r"derive_modalities\['text'\] lacks the key 'fields'"),
    ("derive_modalities", {"text": "title"}, "must be a recipe such as"),
    ("derive_modalities", {"genre": {"kind": "category"}}, "names no column"),
    ("knn_search", "quick", "knn_search must be one of exact, approximate"),
    ("memory_limit", "8 GB", "memory_limit must be a number from 0"),
    ("modalities", 3, "modalities must be a list of names"),
]


@pytest.mark.parametrize("model", ["VBPR", "LightGCN"])
@pytest.mark.parametrize(("key", "value", "sentence"), REFUSED)
def test_refused_values(tmp_path, model, key, value, sentence):
    write_planted(tmp_path)
    with pytest.raises(UserError, match=sentence) as error:
        config(tmp_path, model, **{"data_path": str(tmp_path), key: value})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("key", "value", "sentence"), REFUSED)
def test_recboles_models_on_recboles_data_get_the_same_messages(tmp_path, key, value, sentence):
    with pytest.raises(UserError, match=sentence):
        Config("BPR", "ml-100k", config_dict={key: value})


@pytest.mark.parametrize(
    "values",
    [
        {"learner": "lamb"},  # Adam, with a warning
        {"clip_grad_norm": {"max_norm": 5, "norm_type": math.inf}},
        {"stopping_step": math.inf, "eval_step": 0, "epochs": 0},
        {"train_neg_sample_args": None},
        {"train_neg_sample_args": {"distribution": "popularity", "alpha": 0.5}},
        {"eval_args": {"group_by": None, "mode": {"test": "pop100"}}, "metrics": "MRR", "topk": 10},
        {"eval_args": {"mode": "labeled"}, "metrics": ["AUC", "LogLoss"], "valid_metric": "auc"},
        {"eval_args": {"mode": "uni50"}, "metrics": ["GAUC"], "valid_metric": "GAUC"},
        {
            "user_inter_num_interval": "[5,inf);(0, 2)",
            "item_inter_num_interval": [2, 90],
            "val_interval": {"rating": "[3,5]", "item_id": ["1", "2"]},
        },
        {"load_col": {"inter": ["user_id", "item_id"], "item": "*"}},
        {"seed": 2**32 - 1, "show_progress": 0, "state": "quiet", "gpu_id": "0,1"},
    ],
)
def test_what_recbole_can_work_with_passes_unchanged(values):
    made = Config("BPR", "ml-100k", config_dict=dict(values))
    for key, value in values.items():
        if key not in ("train_neg_sample_args", "eval_args", "metrics", "topk"):
            assert made[key] == value


@pytest.mark.parametrize(
    ("model", "values", "sentence"),
    [
        ("GRU4Rec", {"transform": "mask_itemseq"}, "transform 'mask_itemseq' needs mask_ratio, a number from 0 to 1"),
        ("SASRec", {"transform": "crop_itemseq", "eta": 3}, "transform 'crop_itemseq' needs eta"),
        ("GRU4Rec", {"num_layers": 0}, "num_layers must be a whole number from 1"),
        ("NeuMF", {"mlp_hidden_size": []}, "mlp_hidden_size must be a list of one or more whole numbers from 1"),
        ("NeuMF", {"mlp_hidden_size": (8, 4)}, "mlp_hidden_size must be a list"),
    ],
)
def test_values_that_a_model_of_recbole_cannot_work_with(model, values, sentence):
    with pytest.raises(UserError, match=sentence):
        Config(model, "ml-100k", config_dict=values | {"train_neg_sample_args": None} if model != "NeuMF" else values)


def test_threshold_where_nothing_reads_labels(tmp_path, caplog):
    write_planted(tmp_path)
    with pytest.raises(UserError, match=r"threshold has no effect, because.*val_interval={'rating': '\[4,inf\)'}"):
        config(tmp_path, "LightGCN", threshold={"rating": 4})
    # a model of RecBole on data of RecBole is trained as ever, with a warning
    Config("BPR", "ml-100k", config_dict={"threshold": {"rating": 4}})
    assert "threshold has no effect, because" in caplog.text
    caplog.clear()
    Config("FM", "ml-100k")  # trains on labels and is tested on them
    assert "threshold" not in caplog.text
    Config("FM", "ml-100k", config_dict={"eval_args": {"mode": "full"}, "metrics": "MRR", "valid_metric": "MRR@10"})
    assert "threshold has no effect on evaluation" in caplog.text


@pytest.mark.parametrize(
    ("model", "values", "sentence"),
    [
        ("GRU4Rec", {"eval_args": {"order": "RO"}}, "order'] must be TO for GRU4Rec"),
        ("GRU4Rec", {"eval_args": {"order": "TO", "split": {"RS": [8, 1, 1]}}}, "split'] must be {'LS'"),
        ("GRU4Rec", {"repeatable": False}, "repeatable must be True for GRU4Rec"),
        ("GRU4Rec", {"train_neg_sample_args": {"sample_num": 1}}, "loss_type CE compares with all items"),
        ("GRU4Rec", {"loss_type": "MSE"}, "loss_type must be CE or BPR"),
        ("GRU4Rec", {"embedding_size": "wide"}, "embedding_size must be a whole number from 1"),
        ("GRU4Rec", {"dropout_prob": 3}, "dropout_prob must be a number from 0 to 1"),
        ("NeuMF", {"mlp_hidden_size": 64}, "mlp_hidden_size must be a list of one or more whole numbers"),
        ("LightGCN", {"reg_weight": None}, "reg_weight must be a number"),
        ("SLIMElastic", {"positive_only": "maybe"}, "positive_only must be True or False"),
        ("NeuMF", {"LABEL_FIELD": "user_id"}, "USER_ID_FIELD and LABEL_FIELD both name the column 'user_id'"),
        ("VBPR", {"ITEM_ID_FIELD": "timestamp"}, "ITEM_ID_FIELD and TIME_FIELD both name the column 'timestamp'"),
    ],
)
def test_keys_of_recboles_models_are_checked_by_their_defaults(model, values, sentence):
    values = {"train_neg_sample_args": None} | values if model == "GRU4Rec" else values
    with pytest.raises(UserError) as error:
        Config(model, "ml-100k", config_dict=values)
    assert sentence in str(error.value)


def test_every_default_passes_its_own_check():
    for key, value in default_properties("overall").items():
        assert value_fault(key, value, value) is None, key
    made = Config("BPR", "ml-100k")
    for key in CHECKS:
        assert key not in made.internal_config_dict or value_fault(key, made.internal_config_dict[key]) is None, key


def test_defaults_of_all_of_recboles_models_pass():
    from pathlib import Path

    import recbole
    import yaml

    for path in sorted((Path(recbole.__file__).parent / "properties" / "model").glob("*.yaml")):
        for key, value in (yaml.safe_load(path.read_text()) or {}).items():
            if value is not None and key not in CHECKS:
                assert by_default(key, value)(key, value) is None, (path.name, key)
            if key in CHECKS:
                assert value_fault(key, value) is None, (path.name, key)


@pytest.mark.parametrize(
    ("model", "values", "sentence"),
    [
        ("BPR", {"val_interval": {"stars": "[3,inf)"}}, "val_interval names the column 'stars', which 'plain'"),
        ("BPR", {"val_interval": {"rating": ["3"]}}, r"val_interval\['rating'\] must be an interval"),
        ("BPR", {"val_interval": {"user_id": "[3,5]"}}, r"val_interval\['user_id'\] must be a list"),
        ("BPR", {"user_inter_num_interval": "[99,inf)"}, "no interaction of 'plain' is left after filtering by user"),
        ("LightGCN", {"eval_args": {"order": "TO"}}, "order'] TO needs times, and 'plain' has no column 'timestamp'"),
        ("BPR", {"topk": [60], "valid_metric": "MRR@60"}, r"topk \[60\] asks for more items than the 30"),
        ("LightGCN", {"train_neg_sample_args": None}, "learns from negative items, which train_neg_sample_args leaves"),
        ("FM", {}, "FM learns from labels, and 'plain' has no column 'label'"),
        ("FM", {"threshold": {"stars": 3}}, "threshold names the column 'stars'"),
        ("BPR", {"normalize_field": ["user_id"]}, "normalize_field names the column 'user_id', which is not a number"),
        ("BPR", {"USER_ID_FIELD": "who"}, "USER_ID_FIELD"),
        ("KGCN", {}, r"plain\.kg\] not found"),
        ("GRU4Rec", {"train_neg_sample_args": None}, "TO needs times"),
    ],
)
def test_mistakes_that_show_in_the_data_are_explained_for_recboles_models(tmp_path, model, values, sentence):
    write_plain(tmp_path)
    given = {"load_col": {"inter": ["user_id", "item_id", "rating"]}, "epochs": 1, "show_progress": False} | values
    if model == "KGCN":
        del given["load_col"]
    with pytest.raises(UserError, match=sentence):
        run_recbole_of_recbole(model, "plain", config_dict={"data_path": str(tmp_path), **given})


@pytest.mark.parametrize("model", ["BPR", "VBPR"])
@pytest.mark.parametrize("sampling", ["uniform", "popularity"])
def test_a_user_without_negative_items(tmp_path, model, sampling):
    everything = {"greedy": range(30)}
    write_plain(tmp_path, more=everything, unseen=0 if sampling == "uniform" else 2, features=model == "VBPR")
    columns = {"inter": ["user_id", "item_id"], "item": ["item_id"]}
    given = {"data_path": str(tmp_path), "epochs": 1, "show_progress": False, "load_col": columns}
    with pytest.raises(UserError, match=r"user 'greedy' of 'plain' has interacted with .*all.* items"):
        run_recbole_of_recbole(
            model, "plain", config_dict=given | {"train_neg_sample_args": {"distribution": sampling}}
        )
    if sampling == "popularity":  # sampled uniformly, two items are left
        run_recbole_of_recbole(model, "plain", config_dict=given)


def test_a_defect_keeps_its_traceback(tmp_path, monkeypatch):
    from recbole.model.general_recommender import BPR

    def broken(self, interaction):
        return {"loss": 1}["losses"]

    write_plain(tmp_path)
    monkeypatch.setattr(BPR, "calculate_loss", broken)
    with pytest.raises(KeyError, match="losses"):
        run_recbole_of_recbole("BPR", "plain", config_dict={"data_path": str(tmp_path), "show_progress": False})
