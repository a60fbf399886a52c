"""What the commands print for people: a line a lesion, as wide as the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

# Said of a lesion whose place may be wrong.
LOOK_AT_IT = "low: look at it"
_PIPED_WIDTH = 100


def console() -> Console:
    """The standard output; where it is no terminal, as wide as the tables need."""
    standard = Console()
    return standard if standard.is_terminal else Console(width=_PIPED_WIDTH)


def line_table(*headings: str, right: tuple[str, ...]) -> Table:
    """A table whose rows are single lines: what does not fit ends in an ellipsis; `right` are flush right, and fit."""
    table = Table()
    for heading in headings:
        is_right = heading in right
        table.add_column(
            heading,
            justify="right" if is_right else "left",
            no_wrap=True,
            overflow="ellipsis",
            min_width=len(heading) if is_right else None,
        )
    return table
