from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from longilesion.markdown import markdown_table


@given(st.lists(st.tuples(st.text(), st.text(), st.text())), st.sampled_from([None, 0, 1, 2, 3]))
def test_every_row_is_a_line_of_as_many_cells_as_there_are_headings(
    rows: list[tuple[str, ...]], numbers_from: int | None
) -> None:
    lines = markdown_table(["a", "b|c", ""], rows, numbers_from=numbers_from)
    assert len(lines) == 2 + len(rows)
    for line in lines:
        assert len(line.splitlines()) == 1
        # Bars that no backslash takes away are borders.
        assert len(re.findall(r"(?<!\\)\|", line)) == 4
    numbers = 0 if numbers_from is None else 3 - numbers_from
    assert lines[1] == "| " + " | ".join(["---"] * (3 - numbers) + ["---:"] * numbers) + " |"


def test_table_reads_as_it_is_written() -> None:
    assert markdown_table(["", "found"], [("lesions", "3"), ("a|b", "4")], numbers_from=1) == [
        "|  | found |",
        "| --- | ---: |",
        "| lesions | 3 |",
        "| a\\|b | 4 |",
    ]
