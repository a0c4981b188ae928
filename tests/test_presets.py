"""Published best settings: asked for by name, or used on the data set that they are for, and never silently."""

import json
import logging

import numpy as np
import pytest
from recbole.config import Config
from recbole.quick_start import run_recbole
from recbole.utils import get_model

from recbole_mambarec import presets, registry
from recbole_mambarec.config import default_properties
from recbole_mambarec.errors import UserError
from recbole_mambarec.experiments import group
from recbole_mambarec.experiments.plan import resolve
from recbole_mambarec.experiments.search import Search, shipped_space
from recbole_mambarec.experiments.space import read_space
from recbole_mambarec.testing.data import batch, model_config, random_dataset
from recbole_mambarec.testing.planted import QUICK, write_planted
from recbole_mambarec_common.card import CARD_FORMAT

SPORTS = {"users": 35598, "items": 18357, "interactions": 296337}
DATA_SETS = {"baby", "sports", "clothing", "electronics"}
WITH_PRESETS = [name for name in registry.built_in() if presets.presets_of(name)]


@pytest.fixture
def folder(tmp_path):
    return write_planted(tmp_path)


@pytest.fixture
def given(folder):
    return {"data_path": str(folder.parent), "show_progress": False}


def with_counts(folder, **counts):
    """Write a card with these counts."""
    card = {"format": f"{CARD_FORMAT}1", "name": folder.name, "counts": counts, "modalities": {}}
    (folder / "dataset.json").write_text(json.dumps(card))


# ------------------------------------------------------------------------------------------------------------
# the files


@pytest.mark.parametrize("model", WITH_PRESETS)
def test_presets_set_the_same_keys_of_their_model_for_known_data_sets(given, model):
    names = presets.presets_of(model)
    # CRANE's default form is not the published code
    assert names.keys() == {"released"} if model == "CRANE" else names.keys() <= DATA_SETS
    assert len({frozenset(values) for values in names.values()}) == 1
    for name, values in names.items():
        made = Config(model, "planted", config_dict=given | {"preset": name})
        assert {key: made[key] for key in values} == values and made["preset"] == name


@pytest.mark.parametrize(
    ("model", "name"), [(model, name) for model in WITH_PRESETS for name in presets.presets_of(model)]
)
def test_a_model_takes_its_presets(model, name):
    dataset = random_dataset(n_users=100, n_items=80, dims={"image": 64, "text": 40})
    made = get_model(model)(model_config(model, **presets.presets_of(model)[name]), dataset)
    rng = np.random.default_rng(0)
    loss = made.calculate_loss(batch(dataset.users, dataset.items, rng.integers(0, 80, len(dataset.items))))
    assert all(part.isfinite() for part in (loss if isinstance(loss, tuple) else (loss,)))


@pytest.mark.parametrize("model", [name for name in WITH_PRESETS if "baby" in presets.presets_of(name)])
def test_the_defaults_are_the_settings_for_baby(model):
    defaults = default_properties("model", model)
    assert all(defaults[key] == value for key, value in presets.presets_of(model)["baby"].items())


# ------------------------------------------------------------------------------------------------------------
# choosing


def test_a_preset_lies_above_the_defaults_and_below_the_user(given):
    made = Config("SMORE", "planted", config_dict=given | {"preset": "Sports", "cl_weight": 0.5})
    assert (made["n_ui_layers"], made["cl_weight"], made["dropout_prob"]) == (3, 0.5, 0.0)
    assert Config("SMORE", "planted", config_dict=given)["n_ui_layers"] == 4


def test_the_data_set_is_recognised_by_the_counts_on_its_card(folder, given):
    def layers(**settings):
        made = Config("SMORE", "planted", config_dict=given | settings)
        return made["n_ui_layers"], made["preset"]

    assert layers() == (4, None)
    with_counts(folder, **SPORTS)
    assert layers() == layers(preset="auto") == (3, "sports")
    assert layers(n_ui_layers=7) == (7, "sports")
    assert layers(preset="none") == layers(preset=None) == (4, None)
    assert layers(preset="baby") == (4, "baby")
    with_counts(folder, **SPORTS | {"interactions": 296338})
    assert layers() == (4, None)


def test_a_recognised_data_set_for_which_the_model_has_nothing(folder, given):
    with_counts(folder, users=39387, items=23033, interactions=278677)
    for model in ("BM3", "VBPR", "BPR"):
        assert Config(model, "planted", config_dict=given)["preset"] is None


@pytest.mark.parametrize(
    ("model", "preset", "sentence"),
    [
        ("SMORE", "sport", r"SMORE has no preset 'sport' \(did you mean sports\?\): it has baby, sports, clothing"),
        ("BM3", "clothing", "BM3 has no preset 'clothing': it has baby, sports, electronics"),
        ("FREEDOM", "sports", "FREEDOM has no presets, so leave preset=sports out: .* LGMRec, PGL, SMORE, GUME, BM3"),
        ("BPR", "sports", "BPR has no presets, so leave preset=sports out"),
        ("SMORE", 3, "preset must be a name, got 3"),
    ],
)
def test_what_there_is_not(given, model, preset, sentence):
    with pytest.raises(UserError, match=sentence):
        Config(model, "planted", config_dict=given | {"preset": preset})


# ------------------------------------------------------------------------------------------------------------
# runs


def test_a_preset_is_the_same_run_as_its_values(folder, given):
    values = presets.presets_of("SMORE")["sports"]
    by_hand = resolve("SMORE", "planted", overrides=given | values)
    by_name = resolve("SMORE", "planted", overrides=given | {"preset": "sports"})
    assert by_name.key == by_hand.key != resolve("SMORE", "planted", overrides=given).key
    # what a record says can be given again, whatever becomes of the preset
    assert by_name.overrides == by_hand.overrides and "preset" not in by_name.config
    with_counts(folder, **SPORTS)
    recognised = resolve("SMORE", "planted", overrides=given)
    assert recognised.key == by_hand.key and "n_ui_layers" not in recognised.overrides


def test_a_comparison_gives_a_preset_to_the_models_that_have_any(given):
    lines = {model: (model, {}) for model in ("BPR", "FREEDOM", "PGL", "SMORE")}
    runs = {run.label: run for run in group.plan(lines, ["planted"], [999], given | {"preset": "sports"})}
    assert (runs["SMORE"].config["n_ui_layers"], runs["PGL"].config["dropout_prob"]) == (3, 0.05)
    assert not any("preset" in runs[name].given for name in ("BPR", "FREEDOM"))


def test_a_search_varies_what_a_preset_sets(given):
    search = Search(resolve("PGL", "planted", overrides=given | {"preset": "sports"}), read_space(shipped_space("PGL")))
    run = search.run({"dropout_prob": 0.1, "cl_weight": 0.5})
    assert (run.config["dropout_prob"], run.config["cl_weight"]) == (0.1, 0.5)
    assert run.overrides["dropout_prob"] == 0.1


def test_the_log_says_what_a_preset_gives(folder, given, caplog):
    caplog.set_level(logging.INFO)
    settings = QUICK | given | {"epochs": 1, "cl_weight": 0.2}
    with_counts(folder, **SPORTS)
    run_recbole("PGL", "planted", config_dict=settings)
    (line,) = [r.message for r in caplog.records if r.message.startswith("preset ")]
    assert line == (
        "preset sports of PGL (recognised by the counts on the dataset's card; preset=none declines it) gives "
        "dropout_prob=0.05; your own cl_weight=0.2 stays"
    )
    (line,) = [r.message for r in caplog.records if r.message.startswith("protocol ")]
    assert line.startswith("protocol multimodal: defaults of the published multimodal tables; validation items are not")
    caplog.clear()
    run_recbole("PGL", "planted", config_dict=settings | {"preset": "none", "mask_valid_in_test": False})
    assert not [r for r in caplog.records if r.message.startswith("preset ")]
    assert "validation items are ranked at test, as in published tables (mask_valid_in_test=False)" in caplog.text


# ------------------------------------------------------------------------------------------------------------
# other packages


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("sports: {n_ui_layers: many}\n", "preset sports of SMORE: n_ui_layers must be a whole number from 0"),
        ("sports: {n_layer: 1}\n", "preset sports of SMORE sets 'n_layer', which the model does not read"),
        ("sports: 3\n", "mine.yaml: 'sports' is not a preset"),
        ("auto: {n_ui_layers: 1}\n", "mine.yaml: 'auto' is not a preset"),
    ],
)
def test_a_file_with_faults(given, tmp_path, monkeypatch, text, sentence):
    (tmp_path / "mine.yaml").write_text(text)
    changed = vars(registry.entry("SMORE")) | {"presets": tmp_path / "mine.yaml"}
    monkeypatch.setitem(registry._entries, "SMORE", registry.Entry(**changed))
    with pytest.raises(UserError, match=sentence):
        Config("SMORE", "planted", config_dict=given | {"preset": "sports"})


def test_another_package_brings_presets_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    (tmp_path / "mine.yaml").write_text("sports: {reg_weight: 0.5}\n")
    registry.register_outside("nowhere.model:Elsewhere", {}, {"presets": tmp_path / "mine.yaml"})
    chosen = presets.choose("Elsewhere", "sports", None)
    assert chosen.values == {"reg_weight": 0.5} and chosen.asked_for
    with pytest.raises(UserError, match=r"presets of the model Another .*none\.yaml"):
        registry.register_outside("nowhere.model:Another", {}, {"presets": tmp_path / "none.yaml"})
