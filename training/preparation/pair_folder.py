"""A folder of a user's own scan pairs: pairs.csv, one line per pair of scans, and optionally lesions.csv."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from longilesion.case import SCAN_NAMES
from longilesion.csv_table import Row, read_table
from longilesion.errors import InputError
from training.preparation.assembly import made_patient, read_outlines
from training.preparation.lesion_rows import lines_by_lesion
from training.preparation.memory import memory_bytes
from training.preparation.outlined_rows import completed_rows
from training.preparation.patient import (
    TIME_NAMES,
    TIME_POINTS,
    DataSource,
    ImageFiles,
    Job,
    Made,
    PatientFiles,
    TimePoint,
)
from training.preparation.record import LeftOut, Record
from training.preparation.selection import EdgeRule

PAIRS, LESIONS = "pairs.csv", "lesions.csv"
PAIR_COLUMNS = ("patient", "case", "baseline", "baseline_mask", "followup", "followup_mask")
LESION_COLUMNS = ("case", "lesion_id", "fate")

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


def find_pairs(root: Path, *, edge: EdgeRule) -> DataSource:
    """Finds the cases of a folder; raises InputError where its tables cannot be read."""
    lines: dict[str, list[Row]] = {}
    for line in read_table(root / PAIRS, columns=PAIR_COLUMNS):
        lines.setdefault(_name(line, "case", root), []).append(line)
        _name(line, "patient", root)
    if not lines:
        raise InputError(f"{root / PAIRS}: no lines; expected one per pair of scans")
    lesions, warnings = _lesion_lines(root / LESIONS, lines)
    jobs, left_out = [], []
    for case_id, pairs in sorted(lines.items()):
        patient = pairs[0].text("patient")
        try:
            files = _files(root, case_id, pairs)
        except InputError as error:
            why = LeftOut(reason="pair of scans that cannot be used", detail=str(error))
            left_out.append(Record(name=case_id, patient=patient, left_out=why))
            continue
        make = partial(_made, files, lines=tuple(lesions.get(case_id, ())), edge=edge)
        scans = [image.image for images in files.images.values() for image in images.values()]
        jobs.append(Job(name=case_id, patient=patient, memory_bytes=memory_bytes(scans), make=make))
    return DataSource(
        kind="folder",
        place=str(root),
        jobs=tuple(jobs),
        arguments={"root": str(root.resolve()), "edge": edge},
        left_out=tuple(left_out),
        warnings=warnings,
    )


def _name(line: Row, column: str, root: Path) -> str:
    name = line.text(column)
    if not _NAME.fullmatch(name):
        raise InputError(
            f"{root / PAIRS}: line {line.line}: {column} {name!r}; expected a name of letters, digits, '_', '-' and '.'"
        )
    return name


def _lesion_lines(path: Path, cases: Iterable[str]) -> tuple[dict[str, list[Row]], tuple[str, ...]]:
    """The lines of the lesion table by case, and those that belong to none."""
    if not path.is_file():
        return {}, ()
    lines: dict[str, list[Row]] = {}
    for line in read_table(path, columns=LESION_COLUMNS):
        lines.setdefault(line.text("case"), []).append(line)
    return lines, tuple(
        f"{path.name}: line {lines[case_id][0].line}: case {case_id!r} is not in {PAIRS}"
        for case_id in lines
        if case_id not in cases
    )


def _files(root: Path, case_id: str, pairs: Sequence[Row]) -> PatientFiles:
    """The files of a case; raises InputError where its lines do not form a case."""
    images: dict[TimePoint, dict[int, ImageFiles]] = {time_point: {} for time_point in TIME_POINTS}
    patients = {line.text("patient") for line in pairs}
    if len(patients) > 1:
        raise InputError(f"{PAIRS}: case {case_id} of patients {', '.join(sorted(patients))}; expected one")
    scans = [_scan(line) for line in pairs]
    if sorted(scans) != list(range(len(scans))):
        found = ", ".join(SCAN_NAMES[scan] for scan in scans)
        raise InputError(f"{PAIRS}: case {case_id} with scans {found}; expected primary, and at most one secondary")
    for line, scan in zip(pairs, scans, strict=True):
        for time_point, image in _images(root, line):
            images[time_point][scan] = image
    for time_point in TIME_POINTS:
        if 0 not in images[time_point]:
            raise InputError(f"{PAIRS}: case {case_id} without a primary {TIME_NAMES[time_point]} scan; expected one")
    return PatientFiles(patient=patients.pop(), case_id=case_id, images=images)


def _scan(line: Row) -> int:
    name = line.text("scan") or SCAN_NAMES[0]
    if name not in SCAN_NAMES:
        raise InputError(f"{PAIRS}: line {line.line}: scan {name!r}; expected {' or '.join(SCAN_NAMES)}")
    return SCAN_NAMES.index(name)


def _images(root: Path, line: Row) -> Iterator[tuple[TimePoint, ImageFiles]]:
    """The images of a line; a secondary scan may exist at one time point only."""
    for time_point in TIME_POINTS:
        named = {column: line.text(column) for column in (time_point, f"{time_point}_mask")}
        if not any(named.values()):
            continue
        for column, name in named.items():
            if not name or not (root / name).is_file():
                found = f"no such file {root / name}" if name else "no file named"
                raise InputError(f"{PAIRS}: line {line.line}: {column}: {found}; expected a scan and its mask")
        image, mask = named.values()
        yield time_point, ImageFiles(image=root / image, mask=root / mask)


def _made(files: PatientFiles, *, lines: Sequence[Row], edge: EdgeRule) -> Made:
    outlines = read_outlines(files)
    by_lesion, nameless = lines_by_lesion(lines)
    return made_patient(files, completed_rows(by_lesion, nameless, outlines), outlines, edge=edge)
