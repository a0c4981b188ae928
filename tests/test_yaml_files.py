"""Unusual and faulty configuration files, read by RecBole's ``Config`` and by the command line."""

import pytest
from recbole.config import Config

from recbole_mambarec.cli import read_config_files
from recbole_mambarec.errors import UserError
from recbole_mambarec.experiments.group import read_group
from recbole_mambarec.experiments.space import read_space

NOTE = "# Größe der Schritte\nlearning_rate: 0.25\n"


def configured(path, model="BPR"):
    return Config(model, "ml-100k", config_file_list=[str(path)])


@pytest.mark.parametrize("model", ["BPR", "LightGCN", "MambaRec"])
def test_a_byte_order_mark_changes_nothing(tmp_path, model):
    path = tmp_path / "settings.yaml"
    path.write_text(NOTE.split("\n", 1)[1], encoding="utf-8-sig")
    assert configured(path, model)["learning_rate"] == 0.25
    assert read_config_files(str(path))[1] == {"learning_rate": 0.25}


def test_a_file_with_comments_only_sets_nothing(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text("# nothing yet\n")
    assert configured(path)["learning_rate"] == Config("BPR", "ml-100k")["learning_rate"]
    assert read_config_files(str(path))[1] == {}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (NOTE.encode("latin-1"), "not UTF-8 text"),
        (NOTE.encode("utf-16"), "text in UTF-16"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (b"- a\n- b\n", "not a YAML mapping of keys to values but a list"),
        (b"- [epochs, 3]\n", "not a YAML mapping of keys to values but a list"),
        (b"learning_rate\n", "not a YAML mapping of keys to values but a str"),
        (b"a: [1\n", "and cannot be read"),
    ],
)
def test_faulty_configuration_files(tmp_path, content, sentence):
    path = tmp_path / "settings.yaml"
    path.write_bytes(content)
    for read in (configured, lambda path: read_config_files(str(path))):
        with pytest.raises(UserError) as caught:
            read(path)
        assert f"configuration file '{path}'" in str(caught.value) and sentence in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(UserError, match="not found"):
        configured(tmp_path / "none.yaml")


def test_byte_order_marks_of_groups_and_spaces(tmp_path):
    (tmp_path / "group.yaml").write_text("model: BPR\nruns: {a: {}}\n", encoding="utf-8-sig")
    assert read_group(str(tmp_path / "group.yaml"))[1] == {"a": ("BPR", {})}
    (tmp_path / "x.hyper").write_text("learning_rate choice [0.1,0.2]\n", encoding="utf-8-sig")
    assert [parameter.name for parameter in read_space(tmp_path / "x.hyper").parameters] == ["learning_rate"]
