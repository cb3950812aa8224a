"""Sizes are read to the byte, and shown so that people can read them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from passes import SpecError
from passes.bytes import parse_bytes, show_bytes, show_count

UNITS = {"": 1, "B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KiB": 2**10, "MiB": 2**20}
UNITS |= {"GiB": 2**30, "TiB": 2**40, "gib": 2**30, "mb": 10**6, "G": 10**9, "Gi": 2**30, " MB": 10**6}


@given(st.integers(min_value=1, max_value=2**60), st.sampled_from(sorted(UNITS)))
def test_a_whole_number_of_units_is_read_to_the_byte(count, unit):
    assert parse_bytes(f"{count}{unit}") == count * UNITS[unit]


@pytest.mark.parametrize(
    ("text", "count"), [("0.5GiB", 2**29), ("1.5kB", 1500), (" 8 GiB ", 2**33), ("1.23456MB", 1_234_560)]
)
def test_parts_of_a_unit_are_read(text, count):
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "GiB", "-1GB", "1e9", "8 gigs", "2GiBs", "1,5GB", "8iB", "nan", "1.GB"])
def test_what_is_no_size_is_refused_with_examples_of_sizes(text):
    with pytest.raises(SpecError, match=r"is no size of memory\. Write one such as 8GiB"):
        parse_bytes(text)


@pytest.mark.parametrize("text", ["0", "0GiB", "0.1B"])
def test_nothing_is_refused(text):
    with pytest.raises(SpecError, match="is no memory at all"):
        parse_bytes(text)


@given(st.integers(min_value=0, max_value=10**17))
def test_what_is_shown_is_within_a_twentieth_of_what_there_is(count):
    shown = show_bytes(count)
    assert len(shown) <= 7
    assert abs((parse_bytes(shown) if count else 0) - count) <= count / 20 + 0.5


@given(st.integers(min_value=0, max_value=10**17))
def test_a_count_is_shown_as_a_size_is_but_without_the_unit(count):
    assert show_count(count) == show_bytes(count).removesuffix("B").rstrip()
