import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_mambarec_common.ids import mismatch, respelled, spelling

FORMS = [str, lambda n: f"{n}.0", lambda n: f"{n:08d}", lambda n: f" {n}\t", lambda n: f'"{n}"', lambda n: f"{n}.000"]


@given(st.integers(0, 10**7), st.sampled_from(FORMS), st.sampled_from(FORMS))
def test_spellings_of_the_same_number_are_equal(number, one, other):
    assert spelling(one(number)) == spelling(other(number))


@given(st.integers(0, 2**52), st.integers(0, 2**52))
def test_different_numbers_have_different_spellings(a, b):
    assert (spelling(f"{a}.0") == spelling(f"{b}")) == (a == b)


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("B00AX", "b00ax", True),
        ("\ufeffu1", "u1", True),
        ("26.5", "26", False),
        ("26.50", "26.5", False),
        ("1_000", "1000", False),
        ("nan", "NaN", True),
        ("inf", "0", False),
        ("i26", "26", False),
        (26.0, "26", True),
        ("9007199254740993", "9007199254740992", False),
        ("00", "0", True),
        ("caf\u00e9", "cafe\u0301", True),
    ],
)
def test_spellings(a, b, same):
    assert (spelling(a) == spelling(b)) is same


@given(st.sets(st.integers(0, 10**6), min_size=1))
def test_a_table_of_floats_is_recognised(numbers):
    used, known = [str(n) for n in numbers], {f"{n}.0" for n in numbers}
    here, there = respelled(used, known)
    assert float(here) == float(there)
    assert f"{len(used)} of the {len(used)} item ids of A are not in B" in mismatch(used, known, "item", "A", "B")


def test_missing_ids_alone_are_not_a_mismatch():
    known = {f"i{n}" for n in range(300)}
    assert mismatch(sorted(known), known, "item", "A", "B") is None
    assert mismatch([*sorted(known), "I7", "x", "y"], known, "item", "A", "B") is None  # one of three by chance
    assert "take both from the same dataset" in mismatch(["x", "y"], known, "user", "A", "B")
    assert "no id there" in mismatch(["x"], set(), "user", "A", "B")
