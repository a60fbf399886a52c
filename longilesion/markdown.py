"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def markdown_table(
    headings: Sequence[str], rows: Iterable[Sequence[str]], *, numbers_from: int | None = None
) -> list[str]:
    """The lines of a table, whose columns from `numbers_from` on are aligned to the right.

    Bars and line breaks in a cell are escaped.
    """
    texts = len(headings) if numbers_from is None else numbers_from
    return [_row(headings), _row(["---"] * texts + ["---:"] * (len(headings) - texts)), *map(_row, rows)]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(' '.join(cell.splitlines()).replace('|', chr(92) + '|') for cell in cells)} |"
