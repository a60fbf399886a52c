"""The page for people, of `longilesion segment` and `longilesion follow`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from longilesion.case import Case, LesionMap, Scan
from longilesion.images import read_lesion_map, read_scan
from longilesion.response import Lesion

if TYPE_CHECKING:
    from longilesion.course import CourseRecord
    from longilesion.html_report.page import Load
    from longilesion.pipeline import Segmentation
    from longilesion.timeline import TimePoint


def write_case_page(
    path: Path,
    case: Case,
    segmentation: Segmentation,
    scans: tuple[Path | None, Path],
    *,
    model: Path,
    facts: Mapping[int, Lesion],
) -> None:
    """Writes the page of a baseline and its follow-up, which were read from `scans`."""
    # Imported late, here and below, as matplotlib takes a second to load.
    from longilesion.course import course_of, record_of
    from longilesion.html_report.page import write_page
    from longilesion.timeline import time_points

    points = time_points(case, segmentation)
    names = [str(name) for name in scans if name is not None]
    records = []
    for number, (point, name) in enumerate(zip(points, names, strict=True), start=1):
        identity = point.visit.baselines["primary"].scan.identity
        on = None if identity is None else identity.date
        records.append(record_of(point, number=number, scan=name, made_of="", on=on))
    write_page(path, course_of(records, facts)[0], [_shown(point) for point in points], model=model.name)


def write_course_page(path: Path, course: CourseRecord, scans: Sequence[Path], folder: Path, *, model: Path) -> None:
    """Writes the page of a course whose maps are in a folder; `scans` are those of all time points in order of time."""
    from longilesion.html_report.page import write_page

    loads = [
        None if record.error is not None else _read(scans[record.number - 1], folder, record.number)
        for record in course.time_points
    ]
    write_page(path, course, loads, model=model.name)


def _shown(point: TimePoint) -> Load:
    return lambda: (point.visit.baselines["primary"].scan, point.lesions)


def _read(path: Path, folder: Path, number: int) -> Load:
    from longilesion.timeline_folder import map_path

    def read() -> tuple[Scan, LesionMap]:
        scan = read_scan(path)
        return scan, read_lesion_map(map_path(folder, number), like=scan.grid)

    return read
