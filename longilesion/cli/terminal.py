"""Terminal output of the commands: tables with a line per lesion, as wide as the terminal."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress_bar import ProgressBar
from rich.status import Status
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from longilesion.case_run import Models

# Note on a lesion whose position may be wrong.
LOOK_AT_IT = "low: look at it"


def console(*, piped_width: int = 140) -> Console:
    """The standard output, with a fixed width where it is no terminal."""
    standard = Console()
    return standard if standard.is_terminal else Console(width=piped_width)


def line_table(*headings: str, numbers: Collection[str]) -> Table:
    """A table with a line per row; columns of numbers are aligned right, and the last one, of notes, is cut to fit."""
    table = Table(pad_edge=False)
    for heading in headings:
        is_last = heading == headings[-1]
        table.add_column(heading, justify="right" if heading in numbers else "left", no_wrap=not is_last)
    return table


def note(text: str) -> Text:
    """A cell of a single line; text that does not fit is cut with an ellipsis."""
    return Text(text, no_wrap=True, overflow="ellipsis")


def progress(status: Status, doing: str) -> Callable[[int, int], None]:
    """Shows how many windows are done, and of all, in place of the spinner's text."""

    def show(done: int, total: int) -> None:
        bar = Table.grid(padding=(0, 1))
        bar.add_row(doing, ProgressBar(total=total, completed=done, width=40), f"{done} of {total} windows")
        status.update(bar)

    return show


def with_progress(models: Models, status: Status) -> Models:
    """The models, whose search shows how far it is."""
    if models.search is None:
        return models
    return replace(models, search=replace(models.search, progress=progress(status, "searching")))
