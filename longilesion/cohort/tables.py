"""Files of a cohort's results: a row for each lesion (CSV, Parquet), and one for each case (CSV)."""

from __future__ import annotations

import csv
import importlib.util
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longilesion.cohort.lesions import COLUMNS, Column
from longilesion.cohort.summary import CASE_COLUMNS, CaseSummary
from longilesion.files import Check, check_text, written_together

if TYPE_CHECKING:
    import pyarrow as pa

LESIONS, LESIONS_PARQUET, CASES = "lesions.csv", "lesions.parquet", "cases.csv"
# Rows in memory at a time, which are a group of rows in the Parquet file.
_ROWS = 50_000


def has_parquet() -> bool:
    """Whether pyarrow is there, which Parquet needs."""
    return importlib.util.find_spec("pyarrow") is not None


def write_lesions(folder: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes the rows of all lesions, as Parquet where that can be; raises InputError where writing fails."""
    files: dict[Path, Check] = {folder / LESIONS: check_text}
    parquet_file = folder / LESIONS_PARQUET
    if has_parquet():
        files[parquet_file] = _check_parquet
    # One of an earlier run has other rows.
    without = {parquet_file} - files.keys()
    with (
        written_together(files, without=without) as temporaries,
        temporaries[0].open("w", encoding="utf-8", newline="") as text,
    ):
        table = csv.writer(text, lineterminator="\n")
        table.writerow([column.name for column in COLUMNS])
        with _parquet(temporaries[1:]) as parquet:
            for group in _groups(rows):
                table.writerows([[_text(row.get(column.name)) for column in COLUMNS] for row in group])
                parquet(group)


def write_cases(folder: Path, cases: Sequence[CaseSummary]) -> None:
    """Writes the rows of all cases; raises InputError where writing fails."""
    with (
        written_together({folder / CASES: check_text}) as (temporary,),
        temporary.open("w", encoding="utf-8", newline="") as text,
    ):
        table = csv.DictWriter(text, CASE_COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(case.row() for case in cases)


def schema() -> pa.Schema:
    """The schema of the Parquet file; each column's meaning and unit are in its metadata."""
    import pyarrow as pa

    kinds = {
        "text": pa.string(),
        "category": pa.dictionary(pa.int8(), pa.string()),
        "flag": pa.bool_(),
        "id": pa.uint16(),
        "number": pa.float64(),
        "point": pa.list_(pa.field("element", pa.float64()), 3),
    }
    return pa.schema(
        [pa.field(each.name, kinds[each.kind], nullable=each.is_nullable, metadata=_about(each)) for each in COLUMNS]
    )


def _about(column: Column) -> dict[str, str]:
    return {"meaning": column.meaning, **({"unit": column.unit} if column.unit else {})}


@contextmanager
def _parquet(paths: Sequence[Path]) -> Iterator[Any]:
    """What appends rows to a Parquet file, if there is a path; its groups of rows are compressed."""
    if not paths:
        yield lambda group: None
        return
    import pyarrow as pa
    from pyarrow import parquet

    columns = schema()
    with parquet.ParquetWriter(paths[0], columns, compression="zstd") as writer:
        yield lambda group: writer.write_table(pa.Table.from_pylist(group, schema=columns))


def _check_parquet(path: Path) -> None:
    from pyarrow import parquet

    # Reading everything compares the checksums of its pages.
    with parquet.ParquetFile(path) as file:
        for _ in file.iter_batches():
            pass


def _groups(rows: Iterable[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    group: list[Mapping[str, Any]] = []
    for row in rows:
        group.append(row)
        if len(group) == _ROWS:
            yield group
            group = []
    # Also without any row: a table has its columns.
    yield group


def _text(value: object) -> object:
    """A cell: points as three numbers with spaces, nothing for what is not known."""
    return " ".join(map(str, value)) if isinstance(value, tuple) else value
