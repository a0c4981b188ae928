"""Params files: RecBole's format, read without evaluating it, and the files that come with the package."""

import math
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_mambarec import registry
from recbole_mambarec.config import default_properties
from recbole_mambarec.errors import UserError
from recbole_mambarec.experiments.search import shipped_space
from recbole_mambarec.experiments.space import Parameter, Space, read_space


def space(tmp_path, text: str) -> Space:
    file = tmp_path / "mine.hyper"
    file.write_text(text, encoding="utf-8")
    return read_space(file)


def test_every_type(tmp_path):
    read = space(
        tmp_path,
        "# a comment with many words\n\n"
        "layers choice [1, 2.5, 'word', None, True, [8, 4], {'image': 10}]\n"
        "learning_rate loguniform -8,0\n"
        "dropout_prob   uniform\t0, 0.5\n"
        "embedding_size quniform 32,128,32\n"
        "rate quniform 0,1,0.25\n",
    )
    by_name = {p.name: p for p in read.parameters}
    assert by_name["layers"].values == (1, 2.5, "word", None, True, [8, 4], {"image": 10})
    assert by_name["learning_rate"].values == (-8, 0)
    assert by_name["dropout_prob"].values == (0, 0.5)
    assert [type(by_name[name].value(64.0)) for name in ("embedding_size", "rate")] == [int, float]
    assert read.size is None


def test_a_quoted_list_is_the_list_that_recbole_makes_of_it(tmp_path):
    read = space(tmp_path, "mlp_hidden_size choice ['[64,32]','[128]']\n")
    assert [point["mlp_hidden_size"] for point in read.grid()] == [[64, 32], [128]]
    # RecBole's own search counts options by this form
    assert read.as_dict() == {"choice": {"mlp_hidden_size": ["[64,32]", "[128]"]}}


def test_the_grid_in_order(tmp_path):
    read = space(tmp_path, "a choice [1, 2]\nb choice ['x', 'y']\n")
    assert read.size == 4
    assert [tuple(point.values()) for point in read.grid()] == [(1, "x"), (1, "y"), (2, "x"), (2, "y")]


@given(
    st.lists(
        st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.booleans(), st.text()),
        min_size=1,
        unique_by=lambda value: (type(value), value),
    )
)
def test_a_drawn_option_is_found_again(options):
    parameter = Parameter("p", "choice", tuple(options))
    settings_ = [parameter.value(k) for k in range(len(options))]
    if len({(type(s), str(s)) for s in settings_}) == len(options):
        assert [parameter.drawn(setting) for setting in settings_] == list(range(len(options)))


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, unique=True))
def test_any_list_of_numbers_is_read_as_written(tmp_path_factory, numbers):
    file = tmp_path_factory.mktemp("space") / "numbers.hyper"
    file.write_text(f"p choice {numbers!r}\n", encoding="utf-8")
    assert read_space(file).parameters[0].values == tuple(numbers)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("learning_rate", "'learning_rate' is not a parameter: write 'name type value'"),
        ("learning_rate choice", "is not a parameter"),
        ("learning_rate normal 0,1", "type 'normal' of learning_rate is unknown: use one of choice, uniform"),
        ("p choice __import__('os').system('touch ran')", "the options of p are not a list"),
        ("p choice [x for x in range(3)]", "the options of p are not a list"),
        ("p choice [released, paper]", "the options of p are not a list"),
        ("p choice [1, 2", "the options of p are not a list"),
        ("p choice 3", "the options of p are not a list"),
        ("p choice [1e999]", "the options of p are not a list"),
        ("p choice [b'1', 2j]", "the options of p are not a list"),
        ("p choice []", "p has no options"),
        ("p choice [1, 2, 1]", "option 1 of p is listed twice"),
        ("p uniform 0", "p uniform takes 2 numbers"),
        ("p uniform low,high", "p uniform takes 2 numbers"),
        ("p uniform 0,inf", "p uniform takes 2 numbers"),
        ("p uniform 1,0", "the lower bound 1 of p is not below the upper bound 0"),
        ("p quniform 0,1,0", "the step 0 of p must be positive"),
        ("p quniform 0,1", "p quniform takes 3 numbers"),
        ("p loguniform 0,1000", "takes the logarithms of the bounds"),
    ],
)
def test_faulty_lines(tmp_path, line, sentence):
    with pytest.raises(UserError) as caught:
        space(tmp_path, f"a choice [1]\n{line}\n")
    assert sentence in str(caught.value) and "mine.hyper, line 2" in str(caught.value)
    assert "\n" not in str(caught.value) and not Path("ran").exists()


def test_equal_numbers_of_different_types_are_different_options(tmp_path):
    assert space(tmp_path, "p choice [True, 1, 1.0]\n").size == 3


def test_files_that_cannot_be_read(tmp_path):
    for text, sentence in (("", "has no parameter"), ("# nothing\n", "has no parameter")):
        with pytest.raises(UserError, match=sentence):
            space(tmp_path, text)
    with pytest.raises(UserError, match="a is listed twice"):
        space(tmp_path, "a choice [1]\na choice [2]\n")
    with pytest.raises(UserError, match="not found"):
        read_space(tmp_path / "none.hyper")
    (tmp_path / "binary.hyper").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot be read"):
        read_space(tmp_path / "binary.hyper")
    with pytest.raises(UserError, match="cannot be read"):
        read_space(tmp_path)


# ------------------------------------------------------------------------------------------------------------
# the shipped files


def test_every_built_in_model_has_a_space_that_recbole_reads():
    """RecBole's own reader takes a comment for a parameter and passes over lines of fewer than three words."""
    for name in registry.built_in():
        lines = shipped_space(name).read_text(encoding="utf-8").splitlines()
        assert lines and all(line.split(" ")[0].isidentifier() and len(line.split(" ")) > 2 for line in lines)


@pytest.mark.parametrize("model", registry.built_in())
def test_the_defaults_are_a_point_of_the_grid(model):
    defaults = default_properties("overall") | default_properties("model", model)
    shipped = read_space(shipped_space(model))
    assert {parameter.name: defaults[parameter.name] for parameter in shipped.parameters} in shipped.grid()


def test_the_table_of_sources_names_every_space_and_its_size():
    table = (shipped_space("MambaRec").parent / "README.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| (\w+) \| (.+) \|$", table, re.MULTILINE))
    assert rows.keys() - {"model"} == set(registry.built_in())
    for name in registry.built_in():
        assert [int(size) for size in re.findall(r"(\d+) points?", rows[name])] == [
            read_space(shipped_space(name)).size
        ]


def test_the_grid_of_mambarec():
    points = list(read_space(shipped_space("MambaRec")).grid())
    assert points == [
        {"mmd_weight": weight, "mmd_bandwidth": sigma} for weight in (0.1, 0.15, 0.2) for sigma in (1.0, 1.5, 2.0)
    ]


def test_a_model_without_a_space():
    with pytest.raises(UserError, match="no search space comes with BPR: name one with --params_file"):
        shipped_space("BPR")


def test_recboles_own_search_reads_files_without_running_them(tmp_path):
    pytest.importorskip("hyperopt")
    from hyperopt import space_eval
    from recbole.trainer import HyperTuning

    file = tmp_path / "mine.hyper"
    file.write_text("# three words here\nx choice [1, 2]\ny loguniform -2,0\nz quniform 1,9,2\nw uniform 0,1\n")
    tuning = HyperTuning(lambda *_: None, params_file=str(file), algo="random")
    drawn = space_eval(tuning.space, {"x": 1, "y": math.exp(-1), "z": 3.0, "w": 0.5})
    assert drawn == {"x": 2, "y": math.exp(-1), "z": 3.0, "w": 0.5}
    file.write_text("x choice [__import__('pathlib').Path('ran').touch()]\n")
    with pytest.raises(UserError, match="the options of x are not a list"):
        HyperTuning(lambda *_: None, params_file=str(file))
    assert not Path("ran").exists()
