"""Masks: drawn in proportion, written and read back, and refused where they belong to other data."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_mambarec_common.errors import UserError
from recbole_mambarec_common.masks import (
    Rule,
    draw,
    kind_of,
    kinds_of,
    mask_key,
    popularity_groups,
    read_mask,
    write_mask,
)

ITEMS = [f"i{n}" for n in range(8)]
BOTH = ["image", "text"]


def lacking(mask):
    """The modalities that each item lacks."""
    return [frozenset(m for m in mask if mask[m][row]) for row in range(len(next(iter(mask.values()))))]


@given(
    st.floats(0, 1),
    st.integers(1, 4),
    st.integers(0, 3),
    st.lists(st.integers(0, 3), min_size=1, max_size=120),
)
def test_every_group_has_the_rate_and_the_kinds_of_the_whole(rate, n_modalities, seed, groups):
    modalities, groups = ["a1", "b1", "c1", "d1"][:n_modalities], np.array(groups)
    mask = draw(Rule(rate, None, seed), modalities, groups)
    kinds = np.array(lacking(mask), dtype=object)
    for group in np.unique(groups):
        found = kinds[groups == group]
        hidden = round(rate * len(found))
        assert sum(map(bool, found)) == hidden
        for size in range(1, n_modalities + 1):
            combinations = list(itertools.combinations(modalities, size))
            for kind in combinations:
                share = 1 / n_modalities / len(combinations)
                # at most one item per other kind out of step
                assert abs(sum(k == frozenset(kind) for k in found) - share * hidden) <= 2


@given(st.floats(0, 1), st.floats(0, 1), st.integers(0, 3))
def test_masks_of_a_seed_are_nested(first, second, seed):
    groups = np.arange(40) % 2
    small, large = (draw(Rule(rate, None, seed), BOTH, groups) for rate in sorted((first, second)))
    for before, after in zip(lacking(small), lacking(large)):
        assert before in (frozenset(), after)


def test_rate_zero_and_rate_one():
    groups = np.zeros(9, dtype=int)
    assert lacking(draw(Rule(0.0), BOTH, groups)) == [frozenset()] * 9
    assert all(lacking(draw(Rule(1.0), BOTH, groups)))
    assert lacking(draw(Rule(1.0, ("all",)), BOTH, groups)) == [frozenset(BOTH)] * 9


def test_kinds():
    groups = np.zeros(100, dtype=int)
    found = lacking(draw(Rule(0.5, ("text", "image+text")), BOTH, groups))
    assert {kind: found.count(kind) for kind in set(found)} == {
        frozenset(): 50,
        frozenset(["text"]): 25,
        frozenset(BOTH): 25,
    }
    assert kind_of("tv", BOTH) == ("text", "image") and kind_of("a", BOTH) == ("audio",)
    # a modality with the name of a letter is meant first
    assert kind_of("t", ["t", "v"]) == ("t",)
    assert [len(kind) for kind in kinds_of(None, ["x", "y", "z"])] == [1, 1, 1, 2, 2, 2, 3]


@pytest.mark.parametrize(
    ("kinds", "modalities", "sentence"),
    [
        (("audio",), BOTH, "no modality 'audio'"),
        (("imge",), BOTH, "'imge' names no modalities"),
        (("text", "text"), BOTH, "different combinations"),
        (("text+text",), BOTH, "names no modalities"),
        (None, [], "the dataset has none"),
    ],
)
def test_faulty_kinds(kinds, modalities, sentence):
    with pytest.raises(UserError, match=sentence):
        draw(Rule(0.5, kinds), modalities, np.zeros(4, dtype=int))


def test_the_least_popular_items_are_cold():
    counts = np.array([5, 0, 9, 1, 9, 2, 2, 0, 3, 1])
    assert popularity_groups(counts).tolist() == [1, 0, 1, 0, 1, 0, 0, 0, 0, 0]


masks = st.lists(st.lists(st.booleans(), min_size=8, max_size=8), min_size=2, max_size=2).filter(
    lambda rows: any(map(any, rows))
)


@given(masks)
def test_a_mask_reads_back_as_it_was_written(tmp_path_factory, rows):
    mask = dict(zip(BOTH, np.array(rows)))
    path = tmp_path_factory.mktemp("masks") / "m.csv"
    write_mask(path, mask, ITEMS, "by hand")
    found = read_mask(path, ITEMS, BOTH)
    assert {m: hidden.tolist() for m, hidden in found.items()} == {m: hidden.tolist() for m, hidden in mask.items()}
    assert mask_key(found) == mask_key(mask)
    # a modality that is added later changes nothing
    assert not read_mask(path, ITEMS, [*BOTH, "audio"])["audio"].any()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("m.csv", "item_id,modality\ni1,text\n#5,all\ni3,image\n"),
        ("m.tsv", "item_id:token\tmodality\ni1\ttext\n#5\timage+text\ni3\tv\n"),
        ("m.yaml", "text: [i1]\nall: ['#5']\nimage: [i3]\naudio: [i2]\n"),
    ],
)
def test_forms_of_a_file(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    found = read_mask(tmp_path / name, ["i1", "i2", "i3", "#5"], BOTH)
    assert found["text"].tolist() == [True, False, False, True]
    assert found["image"].tolist() == [False, False, True, True]


def test_published_masks_name_items_by_number(tmp_path):
    np.savez(tmp_path / "m.npz", t=[1, 2], v=[0], all=[3], ta=[4])
    expected = {"image": [True, False, False, True, False], "text": [False, True, True, True, True]}
    for items, numbered in ((list("abcde"), True), (list("01234"), False)):
        found = read_mask(tmp_path / "m.npz", items, BOTH, numbered)
        assert {m: hidden.tolist() for m, hidden in found.items()} == expected
    # numbers are ids where ids are numbers, in whatever order they are listed
    assert read_mask(tmp_path / "m.npz", list("43210"), BOTH)["text"].tolist() == expected["text"][::-1]
    with pytest.raises(UserError, match="are no numbers: name them by id"):
        read_mask(tmp_path / "m.npz", list("abcde"), BOTH)
    for items in (list("abcd"), list("0123")):
        with pytest.raises(UserError, match="names item 4, which is not among the 4 items"):
            read_mask(tmp_path / "m.npz", items, BOTH, numbered=True)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("m.csv", "item_id,modality\ni1,text\nzz,text\n", "1 items that the dataset does not have, e.g. 'zz'"),
        ("m.csv", "item_id,modality\nx1,text\nx2,text\n", "only 0 of the 2 item ids"),
        ("m.csv", "item_id,modality\ni1,texts\n", "'texts' names no modalities"),
        ("m.csv", "item_id,modality\ni1,audio\n", "hides nothing that the dataset has"),
        ("m.csv", "item,modality\ni1,text\n", "first line must be item_id,modality"),
        ("m.csv", "item_id,modality\ni1\n", "an item and a modality in every line"),
        ("m.csv", "", "first line must be"),
        ("m.csv", "# items: 0123\nitem_id,modality\ni1,text\n", "another list of items"),
        ("m.csv", "# content: 0123\nitem_id,modality\ni1,text\n", "changed after it was drawn"),
        ("m.yaml", "- i1\n", "must map modalities to lists"),
        ("m.yaml", "text: [i1", "is not YAML"),
        ("m.yaml", "text: [i1]\ntext: [i2]\n", "the key 'text' occurs twice"),
        ("m.csv", "# content: 0123\nitem_id,modality\ni1,all\n", "changed after it was drawn"),
        ("m.npz", b"PK\x03\x04broken", "not an archive of arrays"),
        ("m.npz", b"PK\x03\x04" + bytes(50), "not an archive of arrays"),
        ("m.npz", {"items": np.array([1])}, "give it as new_items"),
        ("m.npz", {"t": np.array([1.5])}, "must hold numbers of items"),
        ("m.csv", b"\xff\xfe\x00", "is not a mask"),
        (None, None, "there is no file"),
    ],
)
def test_faulty_files(tmp_path, name, content, sentence):
    path = tmp_path / (name or "none.csv")
    if isinstance(content, dict):
        np.savez(path, **content)
    elif isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=sentence) as error:
        read_mask(path, ITEMS, BOTH)
    assert "\n" not in str(error.value)
