"""Volumes as people read them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longilesion.course import LesionRecord
from longilesion.html_report.page import measures_text
from longilesion.volume_text import volume_text


@given(ml=st.floats(0.001, 1e5))
def test_volumes_are_plain_numbers_of_three_digits(ml: float) -> None:
    text = volume_text(ml)
    assert text.replace(".", "", 1).isdigit()
    assert float(text) == pytest.approx(ml, rel=0.0051)


def test_nothing_is_zero_and_very_little_is_not() -> None:
    assert volume_text(0.0) == "0"
    assert volume_text(0.0004) == "<0.001"


def test_measures_of_large_lesions_have_no_exponents() -> None:
    row = LesionRecord(
        id=1,
        volume_ml=1234.5,
        longest_mm=160.0,
        short_mm=120.0,
        error_mm=12.0,
        volume_low_ml=650.0,
        volume_high_ml=2345.0,
    )
    # Two digits of the ends were "6.5e+02 to 2.3e+03".
    assert measures_text(row) == "160.0 x 120.0 ± 12.0 mm, 1234 (650 to 2345) ml"
