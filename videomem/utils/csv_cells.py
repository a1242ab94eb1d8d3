"""CSV that spreadsheets do not execute: text that a spreadsheet would take for a formula gets an apostrophe in front.

`plain_cell` removes it. Text that already begins with apostrophes before such a character gets one more, so that every
text is read as it was written. Numbers, also those in text such as `-1`, are written as they are.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

_FORMULA = re.compile(r"'*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
_NUMBER = re.compile(r"[+-](?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")


def csv_lines(rows: Iterable[Iterable[Any]]) -> str:
    """CSV text of rows of text, numbers and None, which is an empty cell."""
    lines: list[str] = []
    # With this end of lines the writer puts quotes around both of its characters within a cell.
    writer = csv.writer(SimpleNamespace(write=lines.append), lineterminator="\r\n")
    writer.writerows([safe_cell(value) for value in row] for row in rows)
    return "".join(f"{line[:-2]}\n" for line in lines)


def safe_cell(value: Any) -> Any:
    """A value as it is written: `=1+1` becomes `'=1+1`."""
    is_formula = isinstance(value, str) and _FORMULA.match(value) and not _NUMBER.fullmatch(value)
    return f"'{value}" if is_formula else value


def plain_cell(text: str) -> str:
    """The text that `safe_cell` was given: `'=1+1` becomes `=1+1`."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text
