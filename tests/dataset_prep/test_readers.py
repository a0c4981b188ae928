"""Streaming readers: both parsers agree, every fault is counted, and any bytes give nothing worse than a UserError."""

from __future__ import annotations

import gzip
import json
import re

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from dataset_prep.lines import blocks, objects, parse_object
from dataset_prep.skips import Skips
from recbole_mambarec.errors import UserError

from . import raw

pl = pytest.importorskip("polars")

from dataset_prep.readers import amazon, amazon2014, amazon2018, amazon2023, batches, tabular  # noqa: E402

LAYOUT = amazon2018.LAYOUT


def read(path, layout=LAYOUT, literals=False, reader=None):
    skips = Skips(path.name)
    stream = batches.read_json_lines(path, layout, skips, literals) if reader is None else reader(path, skips)
    parts = list(stream)
    return (pl.concat(parts) if parts else None), skips


# --- lines ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 3, 7, 1 << 20])
@pytest.mark.parametrize("packed", [False, True])
def test_blocks_hold_whole_lines_and_lose_none(tmp_path, size, packed):
    content = b"\xef\xbb\xbfone\n\ntwo is longer\nthree\r\nlast without end"
    path = tmp_path / "f"
    path.write_bytes(gzip.compress(content) if packed else content)
    parts = list(blocks(path, size))
    assert all(part.endswith(b"\n") for part in parts)
    assert b"".join(parts) == content[3:] + b"\n"


def test_truncated_gzip_is_reported(tmp_path):
    path = tmp_path / "r.json.gz"
    path.write_bytes(gzip.compress(b'{"a": 1}\n' * 10_000)[:-20])
    with pytest.raises(UserError, match="ends in the middle of its gzip data"):
        list(blocks(path))


def test_damaged_gzip_is_reported(tmp_path):
    path = tmp_path / "r.json.gz"
    packed = bytearray(gzip.compress(b'{"a": 1}\n' * 10_000))
    packed[30:40] = b"\0" * 10
    path.write_bytes(bytes(packed))
    with pytest.raises(UserError, match=r"damaged gzip|middle of its gzip"):
        list(blocks(path))


def test_endless_line_is_refused(tmp_path, monkeypatch):
    import dataset_prep.lines as lines

    monkeypatch.setattr(lines, "MAX_LINE", 100)
    (tmp_path / "f").write_bytes(b"x" * 1000)
    with pytest.raises(UserError, match="has a line of more than"):
        list(blocks(tmp_path / "f", 50))


def test_nothing_is_evaluated(tmp_path):
    evil = f"{{'asin': __import__('pathlib').Path({str(tmp_path / 'made')!r}).touch()}}"
    path = tmp_path / "meta.json"
    path.write_text(evil + "\n" + "{'asin': 'B1'}\n")
    skips = Skips("meta.json")
    assert list(objects(path, skips, literals=True)) == [{"asin": "B1"}]
    assert dict(skips.counts) == {"not an object": 1} and not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "line",
    [
        "[" * 100_000,
        "{'a':" * 5_000,
        "-" * 50_000 + "1",
        "9" * 10_000,
        "{'a': 1e999999j}",
        "\x00",
        "{1: 2",
        "('a',)",
    ],
)
def test_hostile_lines_are_counted(tmp_path, line):
    path = tmp_path / "f"
    path.write_text(line + "\n")
    skips = Skips("f")
    got = list(objects(path, skips, literals=True))
    assert skips.lines == 1 and (len(got) + skips.counts.total()) == 1


# --- interactions ---------------------------------------------------------------------------------

FAULTY = {
    b"nonsense": "not an object",
    b"[1, 2]": "not an object",
    b'"text"': "not an object",
    b'{"reviewerID": "A1", "asin": ': "not an object",
    b'{"reviewerID": "A\xff", "asin": "B1", "overall": 1, "unixReviewTime": 1300000000}': "not UTF-8",
    b'{"asin": "B000000001", "overall": 1, "unixReviewTime": 1300000000}': "no id",
    b'{"reviewerID": "", "asin": "B000000001", "overall": 1, "unixReviewTime": 1300000000}': "no id",
    b'{"reviewerID": "NA", "asin": "B000000001", "overall": 1, "unixReviewTime": 1300000000}': "no id",
    b'{"reviewerID": ["A"], "asin": "B000000001", "overall": 1, "unixReviewTime": 1300000000}': "no id",
    b'{"reviewerID": "A\\tB", "asin": "B000000001", "overall": 1, "unixReviewTime": 13e8}': "id with a tab",
    b'{"reviewerID": "A\\nB", "asin": "B000000001", "overall": 1, "unixReviewTime": 13e8}': "id with a tab",
    b'{"reviewerID": "A", "asin": "B000000001", "unixReviewTime": 1300000000}': "no rating",
    b'{"reviewerID": "A", "asin": "B1", "overall": NaN, "unixReviewTime": 1300000000}': "no rating",
    b'{"reviewerID": "A", "asin": "B1", "overall": "good", "unixReviewTime": 1300000000}': "no rating",
    b'{"reviewerID": "A", "asin": "B1", "overall": 5.0}': "no timestamp",
    b'{"reviewerID": "A", "asin": "B1", "overall": 5.0, "unixReviewTime": 9999999999999}': "absurd timestamp",
    b'{"reviewerID": "A", "asin": "B1", "overall": 5.0, "unixReviewTime": -5}': "absurd timestamp",
}


@pytest.mark.parametrize("line", FAULTY)
def test_each_fault_is_counted_by_reason(tmp_path, line):
    good = json.dumps(raw.review("2018", 1, 2, 3.0, 1_300_000_000)).encode()
    path = raw.write_lines(tmp_path / "r.json", [good + b"\n", line + b"\n", b"\n", good + b"\n"])
    table, skips = read(path)
    assert skips.lines == 3 and skips.counts.total() == 1
    assert next(iter(skips.counts)).startswith(FAULTY[line])
    assert table.rows() == [(raw.user_id(1), raw.item_id(2), 3.0, 1_300_000_000.0)] * 2
    with pytest.raises(UserError, match="1 of 3 lines cannot be used"):
        skips.check(0.01)
    skips.check(0.34)


def test_timestamps_of_2023_become_seconds(tmp_path):
    path = raw.write_lines(tmp_path / "r.json", [raw.encode_line("2023", raw.review("2023", 0, 1, 4.0, 1_400_000_000))])
    table, _ = read(path, amazon2023.LAYOUT)
    assert table.rows() == [(raw.user_id(0), raw.item_id(1), 4.0, 1_400_000_000.123)]


def test_reviews_as_python_literals(tmp_path):
    record = raw.review("2014", 0, 1, 4.0, 1_400_000_000)
    path = raw.write_lines(tmp_path / "r.json", [repr(record).encode() + b"\n"])
    assert read(path, literals=True)[0].height == 1
    assert read(path)[1].counts == {"not an object": 1}


names = st.sampled_from(["reviewerID", "asin", "overall", "unixReviewTime", "other"])
ids = st.one_of(
    st.text(max_size=12), st.integers(0, 10**9), st.sampled_from(["A1B2C3D4E5", "B000000001", "null", "x\t"])
)
numbers = st.one_of(st.floats(), st.integers(-(10**20), 10**20), st.text(max_size=5), st.none(), st.booleans())
values = st.recursive(st.one_of(ids, numbers), lambda inner: st.lists(inner, max_size=2), max_leaves=3)
records = st.one_of(
    st.builds(
        lambda user, item, rating, time: {
            "reviewerID": user,
            "asin": item,
            "overall": rating,
            "unixReviewTime": time,
        },
        ids,
        ids,
        st.one_of(st.floats(1, 5), numbers),
        st.one_of(st.integers(10**9, 2 * 10**9), numbers),
    ),
    st.dictionaries(names, values, max_size=5),
)


@given(st.lists(records, min_size=1, max_size=6))
@settings(max_examples=100 * raw.FUZZ, deadline=None)
def test_the_fast_and_the_slow_parser_agree(written):
    block = "".join(json.dumps(record) + "\n" for record in written).encode()
    fast = batches._json_block(block, LAYOUT)
    if fast is None:
        return
    slow_skips, fast_skips = Skips("slow"), Skips("fast")
    slow = batches._json_by_line(block, LAYOUT, slow_skips, False)
    slow, fast = (batches.screen(t, LAYOUT, s) for t, s in ((slow, slow_skips), (fast, fast_skips)))
    assert fast.equals(slow, null_equal=True)
    assert fast_skips.counts == slow_skips.counts


# --- any bytes ------------------------------------------------------------------------------------

json_like = st.lists(
    st.one_of(
        st.binary(max_size=40),
        records.map(lambda record: json.dumps(record).encode()),
        records.map(lambda record: repr(record).encode("utf-8", "surrogatepass")),
        st.sampled_from(list(FAULTY)),
    ),
    max_size=8,
).map(b"\n".join)


@example(b"\x00\x00\x00\n(\xb5/\xfd", False)
@given(json_like, st.booleans())
@settings(max_examples=100 * raw.FUZZ, deadline=None)
def test_fuzz_json_lines(tmp_path_factory, content, literals):
    path = tmp_path_factory.getbasetemp() / "fuzz.json"
    path.write_bytes(content)
    try:
        table, skips = read(path, literals=literals)
    except UserError:
        return
    assert (0 if table is None else table.height) + skips.counts.total() == skips.lines


@given(
    st.one_of(
        st.binary(max_size=200),
        st.lists(st.lists(st.text(alphabet='ab",\n1.é\t', max_size=4), min_size=1, max_size=5), max_size=6).map(
            lambda rows: ("user,item,rating,time\n" + "\n".join(",".join(row) for row in rows)).encode()
        ),
    )
)
@settings(max_examples=100 * raw.FUZZ, deadline=None)
def test_fuzz_tables(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "fuzz.csv"
    path.write_bytes(content)
    layout = batches.Layout("user", "item", "rating", "time")
    try:
        table, skips = read(path, reader=lambda p, s: batches.read_delimited(p, layout, s, ","))
    except UserError:
        return
    assert (0 if table is None else table.height) + skips.counts.total() == skips.lines


@given(json_like)
@settings(max_examples=100 * raw.FUZZ, deadline=None)
def test_fuzz_metadata(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "meta.json"
    path.write_bytes(content)
    for module in amazon.VERSIONS.values():
        try:
            catalogue = amazon.read_metadata(path, module, {"B000000001"}, Skips("m"))
        except UserError:
            continue
        for item in catalogue.items.values():
            item.text().encode("utf-8")
            assert "\t" not in item.text() and "\n" not in item.clean_title()


@example(b",,,", False)
@given(st.binary(max_size=300), st.booleans())
@settings(max_examples=100 * raw.FUZZ, deadline=None)
def test_fuzz_gzip_and_recognition(tmp_path_factory, content, packed):
    # four cells in each line are a table of ratings
    assume(packed or not re.match(rb"\s*[^,\s][^,]*(,[^,]+){3}", content))
    path = tmp_path_factory.getbasetemp() / "any.gz"
    path.write_bytes(gzip.compress(content)[: 10 + len(content)] if packed else content)
    with pytest.raises(UserError):
        amazon.recognise(path)


deep = st.recursive(
    st.one_of(st.none(), st.booleans(), st.text(max_size=8), st.floats(), st.integers()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=8,
)


@given(
    deep,
    st.sampled_from(["title", "brand", "categories", "category", "description", "images", "imUrl", "details"]),
)
@settings(max_examples=100 * raw.FUZZ, deadline=None)
def test_odd_values_in_metadata_become_texts(value, key):
    for module in amazon.VERSIONS.values():
        item = module.item({"asin": "B1", "parent_asin": "B1", key: value})
        assert item.id == "B1" and isinstance(item.text(), str)
        assert all(url.startswith("http") for url in item.image_urls)


# --- metadata -------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", [amazon2014, amazon2018, amazon2023])
def test_metadata_of_each_version(module):
    item = module.item(raw.metadata(module.VERSION, 3))
    assert item.id == raw.item_id(3) and len(item.image_urls) == (2 if module is amazon2023 else 1)
    assert item.image_urls[0].endswith("/3.jpg")
    text = item.text()
    assert text.startswith("The ") and "Baby Toys" in text and "model1003" in text
    assert "<b>" not in text and "&amp;" not in text and text.count("Baby") == 1
    assert ("washable" in text) == (module is amazon2023)
    assert '"' not in text


def test_scripts_in_place_of_titles_are_dropped_in_2018():
    item = amazon2018.item({"asin": "B1", "title": "var aPageStart = (new Date()).getTime();", "brand": "Good"})
    assert item.clean_title() == "" and item.text() == "Good"


def test_long_texts_are_cut_to_what_readers_accept():
    assert len(amazon2018.item({"asin": "B1", "description": ["word " * 100_000]}).text()) <= 30_000


def test_repeated_items_are_counted(tmp_path):
    same, other = raw.metadata("2018", 1), {**raw.metadata("2018", 1), "title": "Other"}
    path = raw.write_lines(tmp_path / "m.json", [raw.encode_line("2018", one) for one in (same, same, other)])
    catalogue = amazon.read_metadata(path, amazon2018, {raw.item_id(1)}, Skips("m"))
    assert list(catalogue.repeated.values()) == [1, 1]
    assert catalogue.items[raw.item_id(1)].title == same["title"]


# --- recognition ----------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["2014", "2018", "2023"])
@pytest.mark.parametrize("packed", [False, True])
def test_versions_are_recognised(tmp_path, version, packed):
    reviews, meta = raw.write_category(tmp_path, version, packed=packed)
    assert version == amazon.recognise(reviews, meta).VERSION
    assert version == amazon.recognise(reviews).VERSION
    assert version == amazon.recognise_metadata(meta).VERSION


def test_versions_that_differ_are_refused(tmp_path):
    reviews, _ = raw.write_category(tmp_path / "a", "2014")
    _, meta = raw.write_category(tmp_path / "b", "2023")
    with pytest.raises(UserError, match=r"looks like 2014 and meta.json.gz like 2023"):
        amazon.recognise(reviews, meta)
    with pytest.raises(UserError, match="not a file of Amazon metadata"):
        amazon.recognise(reviews, reviews.parent / "reviews.json.gz")


@pytest.mark.parametrize("item_first", [False, True])
def test_ratings_tables_without_header(tmp_path, item_first):
    path = tmp_path / "ratings.csv"
    cells = [(raw.user_id(u), raw.item_id(i)) for u in range(3) for i in range(3)]
    lines = [",".join([*(pair[::-1] if item_first else pair), "4.0", "1300000000"]) for pair in cells]
    path.write_text("\n".join(lines) + "\n")
    module = amazon.recognise(path)
    table, skips = read(path, reader=lambda p, s: amazon.read_reviews(p, module, s))
    assert [row[:2] for row in table.rows()] == cells and not skips.counts and skips.lines == 9


def test_ratings_table_of_2023(tmp_path):
    path = tmp_path / "ratings.csv"
    path.write_text("user_id,parent_asin,rating,timestamp\n" + f"{raw.user_id(1)},{raw.item_id(2)},4.0,1300000000500\n")
    module = amazon.recognise(path)
    table, _ = read(path, reader=lambda p, s: amazon.read_reviews(p, module, s))
    assert table.rows() == [(raw.user_id(1), raw.item_id(2), 4.0, 1300000000.5)]


# --- any table ------------------------------------------------------------------------------------

ROWS = [("ann@home", "thing one", 4.0, 1_300_000_000), ("bob", 'say, "cheese"', 5.0, 1_300_000_060)]


def write_table(path, names=("user_id", "item_id", "rating", "timestamp"), rows=ROWS):
    frame = pl.DataFrame(rows, schema=list(names), orient="row")
    if path.suffix == ".parquet":
        frame.write_parquet(path)
    elif path.suffix == ".jsonl":
        frame.write_ndjson(path)
    else:
        frame.write_csv(path, separator="\t" if path.suffix == ".tsv" else ",")
    return path


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet", "jsonl"])
def test_tables_of_every_kind(tmp_path, ending):
    rows = [(user, item.replace('"', ""), rating, time) for user, item, rating, time in ROWS]
    path = write_table(tmp_path / f"t.{ending}", rows=rows)
    layout = tabular.layout_of(path)
    assert layout.time_unit == "s"
    table, skips = read(path, reader=lambda p, s: tabular.read_interactions(p, layout, s))
    assert table.rows() == [(u, i, r, float(t)) for u, i, r, t in rows]
    assert skips.lines == 2 and not skips.counts


def test_quotes_in_tables(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('user,item,rating,time\nu1,i1,3,1300000000\n"u,2","i\n2",3,1300000000\n"u,3",i3,3,1300000000\n')
    layout = tabular.layout_of(path)
    table, skips = read(path, reader=lambda p, s: tabular.read_interactions(p, layout, s))
    assert table["user"].to_list() == ["u1", "u,3"]
    assert skips.lines == 3 and list(skips.counts.values()) == [1]


@pytest.mark.parametrize(
    ("value", "unit", "seconds"),
    [
        (1_300_000_000, "s", 1.3e9),
        (1_300_000_000_250, "ms", 1_300_000_000.25),
        (1_300_000_000_250_000, "us", 1_300_000_000.25),
        (1_300_000_000_250_000_000, "ns", 1_300_000_000.25),
        ("2011-03-13T07:06:40Z", "iso", 1.3e9),
        ("2011-03-13 07:06:40", "iso", 1.3e9),
        ("2011-03-13 08:06:40+01:00", "iso", 1.3e9),
        ("2011-03-13", "iso", 1_299_974_400.0),
    ],
)
@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_units_of_time_are_guessed(tmp_path, value, unit, seconds, ending):
    path = write_table(tmp_path / f"t.{ending}", rows=[("user1", "item1", 3.0, value)])
    layout = tabular.layout_of(path)
    assert layout.time_unit == unit
    table, skips = read(path, reader=lambda p, s: tabular.read_interactions(p, layout, s))
    # nanoseconds are more than a float64 holds
    assert not skips.counts and table["timestamp"].to_list() == pytest.approx(
        [seconds], abs=1e-6 if unit == "ns" else 0
    )


def test_dates_in_parquet(tmp_path):
    from datetime import datetime

    path = write_table(tmp_path / "t.parquet", rows=[("user1", "item1", 3.0, datetime(2011, 3, 13, 7, 6, 40))])
    layout = tabular.layout_of(path)
    table, _ = read(path, reader=lambda p, s: tabular.read_interactions(p, layout, s))
    assert table["timestamp"].to_list() == [1.3e9]


def test_columns_are_guessed_or_must_be_named(tmp_path):
    path = write_table(tmp_path / "t.csv", names=("who", "what", "stars", "when"))
    with pytest.raises(UserError, match="which column holds the user"):
        tabular.layout_of(path)
    with pytest.raises(UserError, match="has no column nobody"):
        tabular.layout_of(path, user="nobody")
    layout = tabular.layout_of(path, user="who", item="what")
    assert (layout.rating, layout.timestamp) == ("stars", None)


def test_faulty_tables(tmp_path):
    with pytest.raises(UserError, match="there is no file"):
        tabular.layout_of(tmp_path / "none.csv")
    (tmp_path / "t.xlsx").write_bytes(b"PK")
    with pytest.raises(UserError, match="unknown kind of table"):
        tabular.layout_of(tmp_path / "t.xlsx")
    (tmp_path / "t.parquet").write_bytes(b"PAR1 nonsense")
    with pytest.raises(UserError, match="not a whole Parquet file"):
        tabular.layout_of(tmp_path / "t.parquet")
    (tmp_path / "t.csv").write_text("a,a\n1,2\n")
    with pytest.raises(UserError, match="does not name each column once"):
        tabular.layout_of(tmp_path / "t.csv")


def test_parse_object_takes_the_first_of_equal_keys():
    assert parse_object(b'{"a": 1, "a": 2}') == {"a": 1}
