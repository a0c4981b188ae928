"""Sources that name (almost) none of the items are refused with the likely reason; 26 and 26.0 are matched."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset_prep.__main__ import main
from dataset_prep.check import check_dataset
from dataset_prep.features import set_modality
from dataset_prep.fetch import addresses_of
from dataset_prep.images_b import read_b
from dataset_prep.match import join
from recbole_mambarec.errors import UserError

from . import raw

pl = pytest.importorskip("polars")

from dataset_prep.options import Options  # noqa: E402
from dataset_prep.prepare import prepare  # noqa: E402
from dataset_prep.readers.amazon import AmazonReviews  # noqa: E402
from dataset_prep.readers.tabular import InteractionTable  # noqa: E402

PLAIN = Options(k_core=1, split="none")


def write_table(path, header, rows):
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n", encoding="utf-8")
    return path


def tables(folder, item, other, n_items=20):
    """(interactions, items): the id of item number n is ``item(n)`` in one and ``other(n)`` in the other."""
    folder.mkdir(parents=True, exist_ok=True)
    interactions = [(f"user{u}", item(i), r, t) for u, i, r, t in raw.pairs(n_items=n_items)]
    described = [(other(n), raw.text_of(n)) for n in range(n_items)]
    return (
        write_table(folder / "clicks.csv", "user_id,item_id,rating,timestamp", interactions),
        write_table(folder / "goods.csv", "item_id,title", described),
    )


def titles(folder, name="tiny"):
    lines = (folder / f"{name}.item").read_text(encoding="utf-8").splitlines()[1:]
    return dict(line.split("\t")[:2] for line in lines)


@pytest.mark.parametrize(
    ("item", "other"),
    [
        (lambda n: f"{n + 95}.0", lambda n: n + 95),
        (lambda n: n + 95, lambda n: f"{n + 95}.00"),
    ],
)
def test_whole_numbers_and_floats_are_matched_with_a_note(tmp_path, capsys, item, other):
    clicks, goods = tables(tmp_path, item, other)
    words = ["csv", "--interactions", str(clicks), "--items", str(goods), "--name", "tiny", "--k-core", "1"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    # '100' is the first id in alphabetical order
    assert f"goods.csv: '{other(5)}' is read as item '{item(5)}'" in out
    got = titles(tmp_path / "out" / "tiny")
    assert got == {str(item(n)): raw.text_of(n) for n in range(20)}
    assert check_dataset(tmp_path / "out" / "tiny")[1] == []


def test_parquet_column_read_as_floats(tmp_path):
    """A column of whole numbers with one empty cell is a column of floats."""
    rows = raw.pairs(n_items=20)
    items = [float(i + 7) for _, i, _, _ in rows[:-1]] + [None]
    frame = pl.DataFrame({"user": [f"u{u}" for u, *_ in rows], "item": items})
    frame.write_parquet(tmp_path / "clicks.parquet")
    goods = write_table(tmp_path / "goods.csv", "item,title", [(n + 7, raw.text_of(n)) for n in range(20)])
    source = InteractionTable(tmp_path / "clicks.parquet", goods)
    folder, card, _ = prepare(source, "tiny", tmp_path / "out", options=PLAIN)
    assert card["dropped"]["clicks.parquet: no id"] == 1
    assert all(titles(folder).values()) and "whole numbers" in card["notes"][0]


MISSES = {
    "mixed": (lambda n: f"{n}.0", lambda n: n if n < 19 else "x19", r"'0' and '0\.0' differ in '\.0'"),
    "mixed decimals": (lambda n: f"{n}.0" if n else "0.00", lambda n: n, r"differ in '\.0'"),
    "too large for a float": (lambda n: f"{2**53 + 2 * n}.0", lambda n: 2**53 + 2 * n, r"differ in '\.0'"),
    "leading zeros": (lambda n: f"{n + 663713001:010d}", lambda n: n + 663713001, "differ in leading zeros"),
    "case": (raw.item_id, lambda n: raw.item_id(n).lower(), "'b000000000' and 'B000000000' differ in upper and lower"),
    "quotes": (raw.item_id, lambda n: f"'{raw.item_id(n)}'", "differ in quotes"),
    "blanks": (lambda n: f"item {n}", lambda n: f"item{n}", "differ in blanks"),
    "ending": (lambda n: f"v{n}x", lambda n: f"covers/v{n}x.jpg", "differ in a folder or a file ending"),
    "prefix": (lambda n: f"{n + 1}", lambda n: f"item_{n + 1}", "differ in a prefix before the number"),
    "several": (lambda n: f"AB{n}", lambda n: f" 'ab {n}'", "differ in more than one way"),
    "other category": (raw.item_id, lambda n: f"C{n:09d}", "seems to belong to another category, version or dataset"),
    "nothing": (raw.item_id, lambda n: f"{n * 7919:x}-q", "'0-q', .* seems to belong to another"),
}


@pytest.mark.parametrize("case", MISSES)
def test_a_near_miss_is_explained(tmp_path, case):
    item, other, sentence = MISSES[case]
    clicks, goods = tables(tmp_path, item, other)
    with pytest.raises(UserError, match=sentence) as caught:
        prepare(InteractionTable(clicks, goods), "tiny", tmp_path / "out", options=PLAIN)
    assert str(caught.value).startswith("goods.csv names none of the dataset's items") and "\n" not in str(caught.value)
    assert not (tmp_path / "out" / "tiny").exists()


def test_a_match_of_under_one_percent_is_refused(tmp_path):
    items = [f"item{n:04d}" for n in range(400)]
    clicks = write_table(tmp_path / "c.csv", "user,item", [(f"u{n % 9}", item) for n, item in enumerate(items)])
    for n_described, accepted in ((3, False), (4, True)):
        goods = [*items[:n_described], *(f"other{n}" for n in range(50))]
        path = write_table(tmp_path / "g.csv", "item,title", [(one, f"a good thing {one}") for one in goods])
        if accepted:
            _, card, _ = prepare(InteractionTable(clicks, path), "tiny", tmp_path / "out", options=PLAIN)
            assert card["modalities"]["text"]["missing"] == 396
        else:
            with pytest.raises(UserError, match=r"names 3 of 400, under 1 %, of the dataset's items"):
                prepare(InteractionTable(clicks, path), "tiny", tmp_path / "out", options=PLAIN)


def test_a_note_names_items_that_are_written_differently(tmp_path):
    clicks, goods = tables(tmp_path, lambda n: n if n < 12 else f"{n}.0", lambda n: n)
    _, card, _ = prepare(InteractionTable(clicks, goods), "tiny", tmp_path / "out", options=PLAIN)
    assert card["notes"][0] == "goods.csv: 8 items are not in it, but '12' there may be the item '12.0'"


def test_metadata_of_another_category(tmp_path):
    reviews, meta = raw.write_category(tmp_path / "raw", "2018")
    meta.write_bytes(b"")
    lines = [raw.encode_line("2018", {**raw.metadata("2018", n), "asin": f"C{n:09d}"}) for n in range(20)]
    raw.write_lines(meta, lines)
    with pytest.raises(UserError, match=r"meta.json.gz names none .* another category"):
        prepare(AmazonReviews(reviews, meta), "tiny", tmp_path / "out", options=PLAIN)
    with pytest.raises(UserError, match=r"meta.json.gz names none"):
        addresses_of(meta, [raw.item_id(n) for n in range(20)])


def test_image_features_of_another_category(tmp_path):
    path = raw.write_b(tmp_path / "other.b", [f"C{n:09d}".encode() for n in range(6)], np.ones((6, 4096)))
    reviews, meta = raw.write_category(tmp_path / "raw", "2014")
    words = ["amazon", "--reviews", str(reviews), "--meta", str(meta), "--name", "tiny", "--image-features", str(path)]
    with pytest.raises(UserError, match=r"other.b names none .*'B000000000'.*'C000000000'.* another category"):
        main([*words, "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out" / "tiny").exists()
    with pytest.raises(UserError, match="upper and lower case"):
        read_b(path, [f"c{n:09d}" for n in range(6)], tmp_path / "rows.npy", max_bad=0.01)


def test_a_table_without_texts_is_refused(tmp_path):
    clicks, _ = tables(tmp_path, raw.item_id, raw.item_id)
    bare = write_table(tmp_path / "bare.csv", "item_id,price", [(raw.item_id(n), n) for n in range(20)])
    with pytest.raises(UserError, match=r"bare.csv has no text for any item: .*--text-columns"):
        prepare(InteractionTable(clicks, bare), "tiny", tmp_path / "out", options=PLAIN)


# --- arrays ---------------------------------------------------------------------------------------


@pytest.fixture
def dataset(tmp_path):
    """12 items with the ids 3, 4, ..., 14 in alphabetical order: 10, 11, ..., 14, 3, ..., 9."""
    rows = [(f"u{n % 5}", n % 12 + 3) for n in range(60)]
    clicks = write_table(tmp_path / "c.csv", "user,item", rows)
    return prepare(InteractionTable(clicks, None), "tiny", tmp_path / "out", options=PLAIN)[0]


def save(path, n):
    np.save(path, np.arange(2.0 * n, dtype=np.float32).reshape(n, 2))
    return path


def test_an_array_needs_ids_if_the_items_are_not_in_numerical_order(dataset, tmp_path):
    with pytest.raises(UserError, match=r"'3' follows '14'.*--first-id"):
        set_modality(dataset, "image", array=save(tmp_path / "a.npy", 12))
    card = set_modality(dataset, "image", array=save(tmp_path / "a.npy", 30), first_id=1)
    assert card["modalities"]["image"]["missing"] == 0
    ids = list(ids_of(dataset))
    got = np.load(dataset / "tiny.image.npy")
    np.testing.assert_array_equal(got, np.load(tmp_path / "a.npy")[[int(item) - 1 for item in ids]])
    # with its own list of items, the rows are taken to be in its order
    card = set_modality(dataset, "audio", array=save(tmp_path / "a.npy", 12), ids=dataset / "tiny.item")
    np.testing.assert_array_equal(np.load(dataset / "tiny.audio.npy"), np.load(tmp_path / "a.npy"))
    with pytest.raises(UserError, match="give one of them"):
        set_modality(dataset, "image", array=tmp_path / "a.npy", ids=dataset / "tiny.item", first_id=1)


def ids_of(folder):
    return [line.split("\t")[0] for line in (folder / "tiny.item").read_text().splitlines()[1:]]


def test_ids_as_floats_and_near_misses(dataset, tmp_path):
    array = save(tmp_path / "a.npy", 12)
    ids = tmp_path / "ids.txt"
    ids.write_text("\ufeff" + "".join(f"{n + 3}.0\n" for n in range(12)), encoding="utf-8")
    card = set_modality(dataset, "image", array=array, ids=ids)
    assert "'10.0' is read as item '10'" in card["modalities"]["image"]["notes"][0]
    np.testing.assert_array_equal(
        np.load(dataset / "tiny.image.npy"), np.load(array)[[int(item) - 3 for item in ids_of(dataset)]]
    )
    before = raw.content(dataset.parent)
    for text, sentence in (
        ("".join(f"0{n + 3}\n" for n in range(12)), "leading zeros"),
        ("".join(f"x{n}\n" for n in range(100, 112)), "another category"),
        ("1\n1\n" * 6, "names an item twice"),
    ):
        ids.write_text(text)
        with pytest.raises(UserError, match=sentence):
            set_modality(dataset, "image", array=array, ids=ids)
    ids.write_bytes(b"3\n4\n\xe9\n")
    with pytest.raises(UserError, match=r"byte 5, in line 3, is 0xe9"):
        set_modality(dataset, "image", array=array, ids=ids)
    np.save(array, np.full((12, 2), np.nan))
    with pytest.raises(UserError, match="0 of 12 items have a row"):
        set_modality(dataset, "image", array=array, first_id=3)
    assert raw.content(dataset.parent) == before


def test_notes_of_a_modality_are_printed_and_in_the_card(dataset, tmp_path, capsys):
    (tmp_path / "ids.txt").write_text("".join(f"{n + 3}.0\n" for n in range(12)))
    words = ["features", str(dataset), "--modality", "image", "--array", str(save(tmp_path / "a.npy", 12))]
    assert main([*words, "--ids", str(tmp_path / "ids.txt")]) == 0
    assert "note: ids.txt: '10.0' is read as item '10'" in capsys.readouterr().out
    assert check_dataset(dataset)[1] == []
    assert json.loads((dataset / "dataset.json").read_text())["modalities"]["image"]["notes"]


tokens = st.one_of(
    st.integers(0, 30).map(str),
    st.integers(0, 30).map(lambda n: f"{n}.0"),
    st.integers(0, 30).map(lambda n: f"{n:04d}"),
    st.text(alphabet="aB1. '", min_size=1, max_size=4),
)


@given(st.lists(tokens, min_size=1, max_size=12, unique=True), st.lists(tokens, max_size=12))
@settings(max_examples=100 * raw.FUZZ, deadline=None)
def test_fuzz_join(items, names):
    """Each item gets a distinct name, the same one or the same number, or the error is one sentence."""
    try:
        theirs, note = join(items, names, "s")
    except UserError as error:
        assert "\n" not in str(error) and not set(items) & set(names)
        return
    assert len(set(theirs)) == len(items) == len(theirs) and set(theirs) & set(names)
    if theirs == items:
        assert note is None or "there may be the item" in note
    else:
        assert [float(name) for name in theirs] == [float(item) for item in items]
        assert all(name.partition(".")[0] == item.partition(".")[0] for name, item in zip(theirs, items))
