"""Cells of CSV files: no formula for a spreadsheet, numbers as numbers, and text that is read as it was written."""

from __future__ import annotations

import csv
from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from videomem.utils.csv_cells import csv_lines, plain_cell, safe_cell

TEXTS = st.text(st.sampled_from("'=+-@\t\r\n1.e a,\""), max_size=6) | st.text(max_size=4)


@given(TEXTS)
def test_text_is_read_as_it_was_written(text: str) -> None:
    assert plain_cell(safe_cell(text)) == text


@given(st.lists(TEXTS, min_size=1, max_size=4))
def test_no_cell_is_a_formula(texts: list[str]) -> None:
    (cells,) = csv.reader(StringIO(csv_lines([["first", *texts]]), newline=""))
    assert [plain_cell(cell) for cell in cells] == ["first", *texts]
    for cell in cells:
        assert not cell.startswith(("=", "+", "-", "@", "\t", "\r")) or float(cell) is not None


@pytest.mark.parametrize("text", ["=1+1", "+1+1", "-1+1", "@SUM(A1)", "\t=1", "-", "+a", "-1-1", "=", "\uff1d1"])
def test_text_that_a_spreadsheet_would_execute_gets_an_apostrophe(text: str) -> None:
    assert safe_cell(text) == f"'{text}"


@pytest.mark.parametrize("value", [-1.5, 3, None, "-1", "+1.5", "-1e-05", "move_left", "a=b", "'quoted'", ""])
def test_numbers_and_other_text_are_written_as_they_are(value: object) -> None:
    assert safe_cell(value) == value
