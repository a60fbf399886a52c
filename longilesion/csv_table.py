"""Reading CSV tables, also as spreadsheets write them: rows of named cells, and conversion of cells."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from longilesion.case import HIGHEST_ID
from longilesion.errors import InputError
from longilesion.geometry import Triple, triple
from longilesion.text_files import read_text

_BOOLEANS = {"true": True, "1": True, "1.0": True, "yes": True, "false": False, "0": False, "0.0": False, "no": False}
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")


class CellError(ValueError):
    """A cell that its column's type does not allow; the message names the column and the content."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Row:
    """A row of a table, its cells by column; empty cells, and pandas' marks for missing values, are empty text."""

    line: int
    cells: Mapping[str, str]

    def text(self, column: str) -> str:
        """The cell's text; empty where the table has no such column."""
        return self.cells.get(column, "")

    def whole(self, column: str) -> int | None:
        """A whole number, also as spreadsheets write it (7.0); None for an empty cell."""
        text = self.text(column)
        if not text:
            return None
        number = float(text) if _NUMBER.fullmatch(text) else np.nan
        if not number.is_integer():
            raise CellError(f"{column} {text!r}; expected a whole number")
        return int(number)

    def lesion_id(self, column: str) -> int | None:
        """A lesion id; None for an empty cell."""
        number = self.whole(column)
        if number is not None and not 1 <= number <= HIGHEST_ID:
            raise CellError(f"{column} {number}; expected a lesion id from 1 to {HIGHEST_ID}")
        return number

    def boolean(self, column: str) -> bool | None:
        """True or false; None for an empty cell."""
        text = self.text(column)
        if text and text.lower() not in _BOOLEANS:
            raise CellError(f"{column} {text!r}; expected True or False")
        return _BOOLEANS.get(text.lower())

    def point(self, *columns: str) -> Triple | None:
        """Three numbers, from one cell ("x y z") or from one cell each; None where all cells are empty."""
        cells = [self.text(column) for column in columns]
        if not any(cells):
            return None
        parts = cells if len(cells) > 1 else [part for part in re.split(r"[\s,;()\[\]]+", cells[0]) if part]
        point = [float(part) if _NUMBER.fullmatch(part) else np.nan for part in parts]
        if len(point) != 3 or not np.isfinite(point).all():
            raise CellError(f"{', '.join(columns)} {' '.join(cells)!r}; expected three numbers x y z")
        return triple(point)


def read_table(path: Path, *, columns: Sequence[str]) -> list[Row]:
    """Reads a table with commas, semicolons or tabs; raises InputError where it lacks one of the columns."""
    headings, rows = read_headed_table(path)
    missing = [column for column in columns if column not in headings]
    if missing:
        found, expected = ", ".join(headings) or "nothing", " and ".join((", ".join(columns[:-1]), columns[-1]))
        raise InputError(f"{path}: no column {missing[0]}, columns {found}; expected {expected}")
    return rows


def read_headed_table(path: Path) -> tuple[list[str], list[Row]]:
    """Reads any table with commas, semicolons or tabs: its headings, and its rows."""
    text = read_text(path, expected="a table (CSV)")
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    lines = csv.DictReader(io.StringIO(text, newline=None), delimiter=delimiter)
    try:
        rows = [(lines.line_num, line) for line in lines]
    except csv.Error as error:
        raise InputError(f"{path}: line {lines.line_num + 1}: {error}; expected a table (CSV)") from error
    headings = [name.strip() for name in lines.fieldnames or () if name.strip()]
    for name in headings:
        if headings.count(name) > 1:
            raise InputError(f"{path}: column {name} a second time; expected each once")
    return headings, [
        Row(
            line=number,
            cells={name.strip(): _cell(cell) for name, cell in line.items() if name and isinstance(cell, str)},
        )
        for number, line in rows
    ]


def _cell(text: str) -> str:
    return "" if text.strip().lower() in ("nan", "none", "<na>") else text.strip()
