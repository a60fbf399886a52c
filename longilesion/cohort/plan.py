"""The cases of a cohort, from a folder of cases in Grand Challenge's layout, or from a table of files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from longilesion import case_files, grand_challenge
from longilesion.case import Case, ScanName
from longilesion.csv_table import Row, read_headed_table
from longilesion.errors import InputError
from longilesion.run_options import RunOptions

# The columns of a table of cases; all but the first two may be missing or empty.
FILE_COLUMNS = ("followup", "baseline", "lesions", "baseline_clicks", "followup_clicks")
REQUIRED_COLUMNS = ("case", "followup")
# How many folders deep cases are looked for.
_DEPTH = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What all cases of a cohort have in common; `made_of` is the fingerprint of model, options and version."""

    options: RunOptions
    output: Path
    made_of: str

    def folder(self, case: str) -> Path:
        """Where a case's results are."""
        return self.output / case


@dataclass(frozen=True, slots=True, kw_only=True)
class CohortCase:
    """A case: its name, which is its folder of results too, and a folder in Grand Challenge's layout or single files.

    Paths are absolute, as workers have working directories of their own.
    """

    name: str
    folder: Path | None = None
    files: Mapping[str, Path] = field(default_factory=dict)

    @property
    def inputs(self) -> tuple[str | Path, ...]:
        """Everything that the case consists of, for a fingerprint: paths, and the columns that name them."""
        if self.folder is not None:
            return (self.folder,)
        return tuple(part for column in sorted(self.files) for part in (column, self.files[column]))

    def read(self) -> tuple[Case, dict[ScanName, Path]]:
        """The case, and the files of its follow-up scans; raises InputError."""
        if self.folder is not None:
            return grand_challenge.read_case(self.folder)
        get = self.files.get
        case = case_files.read_case(
            self.files["followup"],
            get("baseline"),
            get("lesions"),
            baseline_clicks=get("baseline_clicks"),
            followup_clicks=get("followup_clicks"),
        )
        return case, {"primary": self.files["followup"]}


def find_cases(source: Path, output: Path, *, reserved: tuple[str, ...] = ()) -> tuple[CohortCase, ...]:
    """The cases of a folder or a table, sorted by name; `reserved` names in the output are none of cases.

    Raises InputError where there is none, two have one name, or the output lies among the inputs.
    """
    if source.is_dir():
        inside = output.resolve()
        if inside == source.resolve() or source.resolve() in inside.parents:
            raise InputError(f"{output}: lies in {source}, where its results would be cases; expected another folder")
        cases = list(_cases_in(source.absolute()))
    elif source.suffix.lower() in (".csv", ".tsv"):
        cases = list(_cases_of(source))
    else:
        found = "a file of another kind" if source.exists() else "no such file or folder"
        raise InputError(f"{source}: {found}; expected a folder of cases, or a table (.csv)")
    if not cases:
        raise InputError(f"{source}: no case; expected a folder for each, or a row")
    for case in cases:
        if case.name.split("/")[0] in reserved:
            raise InputError(f"{source}: a case named {case.name}; expected another name, as results have this one")
    names = {case.name for case in cases}
    for name in sorted(names):
        above = [str(parent) for parent in PurePosixPath(name).parents if str(parent) in names]
        if above:
            raise InputError(f"{source}: case {name} lies in case {above[0]}; expected a folder of its own for each")
    return tuple(sorted(cases, key=lambda case: case.name))


def _cases_in(root: Path) -> Iterator[CohortCase]:
    alone = _case_folder(root)
    if alone is not None:
        yield CohortCase(name=root.name, folder=alone)
        return
    for folder in _subfolders(root):
        for found in _below(folder, _DEPTH):
            yield CohortCase(name=found.relative_to(root).as_posix(), folder=_case_folder(found) or found)


def _below(folder: Path, depth: int) -> list[Path]:
    """The folders of the cases in a folder; the folder itself where there is none, so that none is overlooked."""
    if depth == 0 or _case_folder(folder) is not None:
        return [folder]
    found = [case for each in _subfolders(folder) for case in _below(each, depth - 1)]
    return found if any(_case_folder(case) is not None for case in found) else [folder]


def _case_folder(folder: Path) -> Path | None:
    """The folder of a case's input: this one, or, as in prepared data and samples, `input` beside the truth."""
    if (folder / "images").is_dir() or (folder / "inputs.json").is_file():
        return folder
    return folder / "input" if (folder / "input").is_dir() else None


def _subfolders(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith((".", "__")))
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror}; expected a folder that can be read") from error


def _cases_of(table: Path) -> Iterator[CohortCase]:
    headings, rows = read_headed_table(table)
    missing = [column for column in REQUIRED_COLUMNS if column not in headings]
    if missing:
        found = ", ".join(headings) or "nothing"
        expected = f"{' and '.join(REQUIRED_COLUMNS)}, and any of {', '.join(FILE_COLUMNS[1:])}"
        raise InputError(f"{table}: no column {missing[0]}, columns {found}; expected {expected}")
    lines: dict[str, int] = {}
    for row in rows:
        case = _case_of(table, row)
        if case.name in lines:
            raise InputError(f"{table}: line {row.line}: case {case.name} as in line {lines[case.name]}; expected once")
        lines[case.name] = row.line
        yield case


def _case_of(table: Path, row: Row) -> CohortCase:
    name, parts = row.text("case"), PurePosixPath(row.text("case")).parts
    if not parts or name.startswith("/") or any(part.startswith(".") for part in parts):
        raise InputError(f"{table}: line {row.line}: case {name!r}; expected a name that can be that of a folder")
    if not row.text("followup"):
        raise InputError(f"{table}: line {row.line}: case {name} has no followup; expected a scan")
    folder = table.absolute().parent
    files = {column: folder / row.text(column) for column in FILE_COLUMNS if row.text(column)}
    return CohortCase(name="/".join(parts), files=files)
