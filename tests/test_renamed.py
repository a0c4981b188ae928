"""Keys that had another name: understood wherever they can be given, and runs stay the runs that they were."""

import json
from pathlib import Path

import pytest
from recbole.config import Config

from recbole_mambarec import registry, renamed
from recbole_mambarec.checkpoint import plain
from recbole_mambarec.config import default_properties
from recbole_mambarec.errors import UserError
from recbole_mambarec.experiments import group, store
from recbole_mambarec.experiments.plan import resolve
from recbole_mambarec.experiments.search import Search
from recbole_mambarec.experiments.space import read_space
from recbole_mambarec.renamed import RENAMED
from recbole_mambarec.report import load, sweeps
from recbole_mambarec.restored import config_from_checkpoint
from recbole_mambarec.resume import check_configuration
from recbole_mambarec.run_keys import neutral_values, run_key
from recbole_mambarec.testing.planted import write_planted

RESULTS = Path(__file__).resolve().parents[1] / "results"
CASES = [(model, renaming) for model, renamings in RENAMED.items() for renaming in renamings]
OLD_AND_NEW = [
    (model, renaming.old, old, renaming.new, new)
    for model, renaming in CASES
    for old, new in (renaming.values or ((2, 2),))
]


@pytest.fixture(autouse=True)
def _warn_again():
    renamed.warn_once.cache_clear()


@pytest.fixture
def given(tmp_path):
    """Settings with which the planted data is found."""
    write_planted(tmp_path)
    return {"data_path": str(tmp_path), "show_progress": False}


def raw_records() -> list[dict]:
    """The lines of this repository's records of runs and trials as they were written."""
    files = [RESULTS / "runs.jsonl", *sorted(RESULTS.glob("searches/*.jsonl"))]
    return [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]


# ------------------------------------------------------------------------------------------------------------
# the table


@pytest.mark.parametrize(("model", "renaming"), CASES)
def test_new_names_are_keys_of_the_model_and_old_ones_are_not(model, renaming):
    keys = default_properties("model", model)
    assert renaming.new in keys and renaming.old not in keys
    values = [new for _, new in renaming.values]
    assert not values or keys[renaming.new] in values


@pytest.mark.parametrize("model", registry.built_in())
def test_one_name_for_hops_over_each_graph(model):
    assert "n_layers" not in default_properties("model", model)


# ------------------------------------------------------------------------------------------------------------
# where keys are given


@pytest.mark.parametrize(("model", "old", "old_value", "new", "value"), OLD_AND_NEW)
def test_an_old_name_in_a_configuration(given, caplog, model, old, old_value, new, value):
    made = Config(model, "planted", config_dict=given | {old: old_value})
    assert made[new] == value and old not in made.final_config_dict
    (warning,) = [r.message for r in caplog.records if "is now called" in r.message]
    assert f"of {model} is now called {new}" in warning and old in warning
    # once is enough
    Config(model, "planted", config_dict=given | {old: old_value})
    assert caplog.text.count("is now called") == 1


def test_an_old_name_on_the_command_line_and_in_a_file(given, tmp_path, monkeypatch):
    file = tmp_path / "mine.yaml"
    file.write_text("routing: paper\n")
    monkeypatch.setattr("sys.argv", ["x", "--n_layers=1"])
    made = Config("GRCN", "planted", config_file_list=[str(file)], config_dict=given)
    assert (made["variant"], made["n_routing_rounds"]) == ("paper", 1)


@pytest.mark.parametrize(
    ("model", "settings", "sentence"),
    [
        ("MGCN", {"n_layers": 1, "n_mm_layers": 1}, "n_mm_layers of MGCN is given twice, also under its old name n_l"),
        ("MMGCN", {"train_id": "yes"}, "train_id must be one of False, True, got 'yes'; .* variant, which takes rel"),
        ("GRCN", {"routing": "none"}, "routing must be one of reference, paper, got 'none'"),
        ("BM3", {"n_layers": -1}, "n_ui_layers must be a whole number from 0"),
    ],
)
def test_what_cannot_be_meant(given, model, settings, sentence):
    with pytest.raises(UserError, match=sentence):
        Config(model, "planted", config_dict=given | settings)


def test_the_keys_of_recboles_models_are_their_own(given, caplog):
    assert Config("LightGCN", "planted", config_dict=given | {"n_layers": 1})["n_layers"] == 1
    assert "is now called" not in caplog.text


def test_an_old_name_for_several_models(given):
    """Who reads a key under this name, today or earlier, gets it; the others do not."""
    lines = {model: (model, {}) for model in ("LightGCN", "MGCN", "VBPR")}
    light, mgcn, vbpr = group.plan(lines, ["planted"], [999], given | {"n_layers": 3})
    assert (light.config["n_layers"], mgcn.config["n_mm_layers"]) == (3, 3)
    assert not {"n_layers", "n_mm_layers"} & set(vbpr.overrides)
    assert mgcn.overrides["n_mm_layers"] == 3


def test_old_names_in_a_group_file(given, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("model: COHESION\nruns:\n  all: {train_ids: True}\n  published: {}\n")
    trained, published = group.plan(group.read_group(str(file))[1], ["planted"], [999], given)
    assert (trained.config["variant"], published.config["variant"]) == ("paper", "released")


def test_old_names_in_a_search_space(given, tmp_path, caplog):
    file = tmp_path / "mine.hyper"
    file.write_text("n_layers choice [1, 2]\nrouting choice ['reference', 'paper']\n")
    search = Search(resolve("GRCN", "planted", overrides=given), read_space(file))
    assert list(search.space.grid())[1] == {"n_routing_rounds": 1, "variant": "paper"}
    assert "n_layers of GRCN is now called n_routing_rounds" in caplog.text
    file.write_text("n_layers choice [1, 2]\nn_routing_rounds choice [1, 2]\n")
    with pytest.raises(UserError, match="n_routing_rounds is in the search space twice, also under its old name"):
        Search(resolve("GRCN", "planted", overrides=given), read_space(file))


@pytest.mark.parametrize("model", RENAMED)
def test_a_checkpoint_of_an_earlier_version(given, model):
    changed = {renaming.new: (renaming.values or ((2, 2),))[0][1] for renaming in RENAMED[model]}
    config = Config(model, "planted", config_dict=given | changed)
    before = renamed.under_old_names(model, plain(config.final_config_dict))
    assert set(before) & renamed.old_names(model)
    assert plain(config_from_checkpoint(before).final_config_dict) == plain(config.final_config_dict)
    assert check_configuration("old.pth", before, config) == []


# ------------------------------------------------------------------------------------------------------------
# what is on record


def test_recorded_runs_keep_their_keys():
    """Under either name, a recorded configuration has the key that it always had."""
    counted = set()
    for raw in raw_records():
        new = renamed.under_new_names(raw["model"], raw["config"])
        keys = {run_key(raw["model"], config, raw["seed"], raw["data_hash"]) for config in (raw["config"], new)}
        assert len(keys) == 1
        if new != raw["config"]:
            assert renamed.under_old_names(raw["model"], new) == raw["config"]
            counted.add(raw["model"])
    assert counted == set(RENAMED)


def test_the_key_is_the_one_under_which_the_run_was_recorded():
    """Not only the same key for both names, but for every model the very one on record, from before keys were renamed.

    Some records have another key, because a key that is neutral today was counted then.
    """
    same = set()
    for raw in raw_records():
        config = renamed.under_new_names(raw["model"], raw["config"])
        if run_key(raw["model"], config, raw["seed"], raw["data_hash"]) == raw["key"]:
            same.add(raw["model"])
    assert same >= set(RENAMED)


@pytest.mark.parametrize("model", RENAMED)
def test_a_plain_run_of_today_is_the_recorded_one(given, model):
    """What the model's YAML says today is what the record of a run without overrides says."""
    recorded = [r for r in raw_records() if r["model"] == model and not r["overrides"] and r["dataset"] == "baby"]
    assert recorded
    today = renamed.under_old_names(model, resolve(model, "planted", overrides=given).config)
    same = set(renamed.under_old_names(model, default_properties("model", model))) - set(neutral_values(model))
    for record in recorded:
        # some were recorded under today's names
        config = renamed.under_old_names(model, record["config"])
        assert {key: today[key] for key in same} == {key: config.get(key) for key in same}


def test_records_are_read_under_todays_names():
    for record in store.read(RESULTS / "runs.jsonl"):
        names = {*record.config, *record.overrides}
        assert not names & (renamed.old_names(record.model) - {r.new for r in RENAMED.get(record.model, ())})


def test_runs_of_before_and_after_make_one_sweep(tmp_path):
    """A report puts them side by side under today's name."""
    path = tmp_path / "runs.jsonl"
    (raw,) = [r for r in raw_records() if r["model"] == "SMORE" and r["seed"] == 999 and r["group"] == "comparison"]
    new = renamed.under_new_names("SMORE", raw["config"])
    records = [raw]
    for hops in (2, 3):
        config = new | {"n_mm_layers": hops}
        key = run_key("SMORE", config, 999, raw["data_hash"])
        records.append(raw | {"key": key, "config": config, "overrides": {"n_mm_layers": hops}})
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    (sweep,) = sweeps.find(load.rows(load.read([path]).finished), [])
    assert sweep.keys == ("n_mm_layers",) and sweep.options(0) == [1, 2, 3]
