"""Defaults below the user's settings, protocols, and explanations of misspelt names."""

import pytest
import torch
import yaml
from recbole.config import Config

from recbole_mambarec import renamed
from recbole_mambarec.config import default_properties
from recbole_mambarec.errors import UserError
from recbole_mambarec.testing.planted import write_planted


def config(tmp_path, model="MambaRec", dataset="planted", files=None, **values):
    return Config(model, dataset, config_file_list=files, config_dict={"data_path": str(tmp_path), **values})


def test_command_line_beats_dict_beats_files_beats_ours(tmp_path, monkeypatch):
    write_planted(tmp_path)
    file = tmp_path / "user.yaml"
    file.write_text("knn_k: 3\nmmd_weight: 0.3\ncl_weight: 0.3\n")
    monkeypatch.setattr("sys.argv", ["x", "--cl_weight=0.1"])
    made = config(tmp_path, files=[str(file)], mmd_weight=0.2, cl_weight=0.2)
    assert (made["knn_k"], made["mmd_weight"], made["cl_weight"]) == (3, 0.2, 0.1)
    assert made["n_ui_layers"] == 4 and made["seed"] == 999


@pytest.mark.parametrize("model", ["MambaRec", "BPR", "LightGCN"])
def test_one_protocol_for_all_models_on_a_prepared_dataset(tmp_path, model):
    write_planted(tmp_path)
    made = config(tmp_path, model)
    shared = ("seed", "epochs", "stopping_step", "valid_metric", "metrics", "topk", "train_batch_size")
    ours = default_properties("overall")
    assert {key: made[key] for key in shared} == {key: ours[key] for key in shared}
    assert made["benchmark_filename"] == ["train", "valid", "test"]
    assert made["eval_batch_size"] == 8388608


def test_a_model_that_scores_pairs_gets_smaller_evaluation_batches(tmp_path):
    write_planted(tmp_path)
    assert config(tmp_path, "NeuMF")["eval_batch_size"] == 1 << 19
    assert config(tmp_path, "NeuMF", eval_batch_size=77)["eval_batch_size"] == 77


def test_recboles_models_on_recboles_datasets_are_left_alone():
    made = Config("BPR", "ml-100k")
    assert (made["seed"], made["valid_metric"], made["stopping_step"], made["epochs"]) == (2020, "MRR@10", 10, 300)
    assert made["modalities"] is None


def test_the_protocol_can_be_asked_for_and_declined(tmp_path):
    write_planted(tmp_path)
    assert Config("BPR", "ml-100k", config_dict={"protocol": "multimodal"})["valid_metric"] == "Recall@20"
    declined = config(tmp_path, protocol="recbole")
    assert (declined["valid_metric"], declined["seed"], declined["n_ui_layers"]) == ("MRR@10", 2020, 4)
    with pytest.raises(UserError, match="protocol 'fair' is unknown: use multimodal or recbole"):
        config(tmp_path, protocol="fair")


def test_the_protocol_in_force_is_in_the_configuration(tmp_path):
    write_planted(tmp_path)
    assert config(tmp_path)["protocol"] == config(tmp_path, "BPR")["protocol"] == "multimodal"
    assert Config("BPR", "ml-100k")["protocol"] == "recbole"


def test_the_old_name_of_the_protocol_keeps_its_mask_and_says_so(tmp_path, caplog):
    write_planted(tmp_path)
    renamed.warn_once.cache_clear()
    made = config(tmp_path, protocol="published")
    assert (made["protocol"], made["mask_valid_in_test"]) == ("multimodal", True)
    assert "protocol published is now called multimodal, because its mask at test is not that of" in caplog.text


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [("MambaRek", "MambaRec"), ("mambarec", "MambaRec"), ("LightGNC", "LightGCN"), ("bpr", "BPR")],
)
def test_a_misspelt_model_lists_the_near_ones(name, suggestion):
    with pytest.raises(UserError, match=f"did you mean .*{suggestion}"):
        Config(name, "ml-100k")


def test_a_model_that_resembles_nothing_lists_ours():
    with pytest.raises(UserError, match="choose one of MambaRec"):
        Config("Qqqqqqqqqq", "ml-100k")


def test_a_misspelt_key_is_an_error_and_can_be_a_warning(tmp_path, caplog):
    write_planted(tmp_path)
    with pytest.raises(UserError, match="'mmd_wieght' is unknown: did you mean 'mmd_weight'"):
        config(tmp_path, mmd_wieght=0.1)
    with pytest.raises(UserError, match="did you mean 'learning_rate'"):
        config(tmp_path, "BPR", learning_rat=0.1)
    config(tmp_path, mmd_wieght=0.1, strict_keys=False)
    assert "mmd_wieght" in caplog.text


def test_a_key_that_resembles_nothing_is_a_warning(tmp_path, caplog):
    write_planted(tmp_path)
    config(tmp_path, zebra=1)
    assert "nothing reads the configuration key 'zebra'" in caplog.text


def test_keys_of_our_trainer_are_refused_for_recboles_models(tmp_path):
    write_planted(tmp_path)
    with pytest.raises(UserError, match="lr_decay_rate has no effect on BPR"):
        config(tmp_path, "BPR", lr_decay_rate=0.9)


def test_the_message_about_a_missing_dataset_folder(tmp_path):
    write_planted(tmp_path)
    with pytest.raises(UserError, match=r"dataset 'babi' not found: .*holds planted.*dataset_prep"):
        config(tmp_path, dataset="babi")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_missing_gpu_is_refused(tmp_path):
    write_planted(tmp_path)
    with pytest.raises(UserError, match="gpu_id=0 asks for a GPU but"):
        config(tmp_path, gpu_id="0")
    assert config(tmp_path, gpu_id="")["device"].type == "cpu"
    assert config(tmp_path)["device"].type == "cpu"


@pytest.mark.parametrize("value", [0, -5, "many"])
def test_an_impossible_evaluation_batch(tmp_path, value):
    write_planted(tmp_path)
    with pytest.raises(UserError, match="eval_batch_size must be a positive number"):
        config(tmp_path, eval_batch_size=value)


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("embedding_size", "abc", "embedding_size must be a whole number from 1, got 'abc'"),
        ("embedding_size", 0, "embedding_size must be a whole number from 1"),
        ("embedding_size", 64.0, "embedding_size must be a whole number"),
        ("knn_k", True, "knn_k must be a whole number"),
        ("knn_k", None, "knn_k must be a whole number from 1, got None"),
        ("n_mm_layers", -1, "n_mm_layers must be a whole number from 0"),
        ("mmd_weight", float("nan"), "mmd_weight must be a number from 0"),
        ("cl_weight", -0.1, "cl_weight must be a number from 0"),
        ("freeze_features", "yes", "freeze_features must be True or False"),
        ("learning_rate", "fast", "learning_rate must be a number"),
        ("topk", [0], "topk must be a whole number from 1 or a list"),
        ("metrics", ["Recal"], "there is no metric 'Recal', use one of .*Recall"),
        ("eval_args", 5, "eval_args must be a mapping"),
        ("valid_metric", "Recall@7", "valid_metric 'Recall@7' is not computed: .* cut-offs 10, 20"),
        ("valid_metric", "MRR@10", "valid_metric 'MRR@10' is not computed"),
        ("learner", "adamm", "learner 'adamm' is unknown: use one of adam"),
    ],
)
def test_refused_values_of_own_keys(tmp_path, key, value, sentence):
    write_planted(tmp_path)
    with pytest.raises(UserError, match=sentence):
        config(tmp_path, **{key: value})


def test_metrics_beyond_accuracy_come_by_one_key(tmp_path):
    write_planted(tmp_path)
    added = ["ItemCoverage", "GiniIndex", "AveragePopularity", "TailPercentage"]
    assert config(tmp_path)["metrics"] == ["Recall", "NDCG"]
    assert config(tmp_path, beyond_accuracy=True)["metrics"] == ["Recall", "NDCG", *added]
    some = config(tmp_path, beyond_accuracy=True, metrics=["giniindex", "Recall"])["metrics"]
    assert some == ["giniindex", "Recall", "ItemCoverage", "AveragePopularity", "TailPercentage"]
    # RecBole's own models on its own datasets have the key, too, and its values are checked there as well
    theirs = Config("BPR", "ml-100k", config_dict={"beyond_accuracy": True, "metrics": "MRR"})
    assert theirs["metrics"] == ["MRR", *added]
    with pytest.raises(UserError, match="beyond_accuracy must be True or False"):
        Config("BPR", "ml-100k", config_dict={"beyond_accuracy": 1})


def test_every_model_has_documented_defaults():
    from recbole_mambarec.config import properties_folder

    for path in properties_folder().rglob("*.yaml"):
        keys = [line for line in path.read_text().splitlines() if line and line[0] not in " #"]
        assert yaml.safe_load(path.read_text())
        if path.parent.name not in ("dataset", "group", "preset", "published"):
            undocumented = [line for line in keys if "#" not in line]
            assert not undocumented, f"{path.name}: {undocumented}"
