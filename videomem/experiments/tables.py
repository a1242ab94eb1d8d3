"""Tables of results, written to HTML pages, CSV files and W&B, and the formatting of their numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from videomem.statistics.results import Estimate
from videomem.utils.csv_cells import csv_lines
from videomem.utils.text import p_text

Kind = Literal["text", "share", "gain", "p", "count", "number"]

Plain = str | float | int | None
Cell = Plain | Estimate

NOTHING = "–"  # noqa: RUF001


@dataclass(frozen=True)
class Column:
    """A column. `share` is formatted in percent, `gain` in points with a sign, and an `Estimate` with its interval."""

    name: str
    kind: Kind = "text"


@dataclass(frozen=True)
class Table:
    """Columns and rows."""

    name: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]


class TerminalTable(NamedTuple):
    """A table with its title, for the terminal."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]


def percent(share: float | None) -> str:
    """0.8431 as `84.3`."""
    return NOTHING if share is None or not math.isfinite(share) else f"{100 * share:.1f}"


def points(gain: float | None) -> str:
    """0.1234 as `+12.3`, with the minus sign U+2212. A value that rounds to zero has no sign."""
    if gain is None or not math.isfinite(gain):
        return NOTHING
    text = f"{100 * gain:+.1f}".replace("-", "\N{MINUS SIGN}")
    return "0.0" if text[1:] == "0.0" else text


def p_value(p: float | None) -> str:
    if p is None or not math.isfinite(p):
        return NOTHING
    return p_text(p).removeprefix("p ").removeprefix("= ")


def number(value: float | None) -> str:
    """Three significant digits."""
    if value is None or not math.isfinite(value):
        return NOTHING
    text = f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return text.replace("-", "\N{MINUS SIGN}")


def interval(estimate: Estimate | None, kind: Kind = "gain") -> str:
    """The 95 % interval as `+10.1 to +14.5`."""
    if estimate is None or not (math.isfinite(estimate.low) and math.isfinite(estimate.high)):
        return "no interval"
    write = percent if kind == "share" else points
    return f"{write(estimate.low)} to {write(estimate.high)}"


def show(value: Cell, kind: Kind) -> str:
    """A formatted value; an `Estimate` without its interval."""
    if isinstance(value, Estimate):
        value = value.value
    if value is None or isinstance(value, str):
        return value or NOTHING
    if kind == "count":
        return f"{value:,}"
    return {"share": percent, "gain": points, "p": p_value}.get(kind, number)(value)


def flat(table: Table) -> tuple[list[str], list[list[Plain]]]:
    """Columns and rows of plain values; an `Estimate` has columns for value, 95 % interval, and p (if it is a gain)."""
    names: list[str] = []
    columns: list[list[Plain]] = []
    for place, column in enumerate(table.columns):
        cells = [row[place] for row in table.rows]
        names.append(column.name)
        columns.append([cell.value if isinstance(cell, Estimate) else cell for cell in cells])
        if any(isinstance(cell, Estimate) for cell in cells):
            for part in ("low", "high") if column.kind == "share" else ("low", "high", "p"):
                names.append(f"{column.name}: {part}")
                columns.append([getattr(cell, part) if isinstance(cell, Estimate) else None for cell in cells])
    return names, [list(row) for row in zip(*columns, strict=True)]


def csv_text(table: Table) -> str:
    columns, rows = flat(table)
    return csv_lines([columns, *rows])
