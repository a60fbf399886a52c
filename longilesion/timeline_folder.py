"""The results of a series of time points in a folder: maps, records, the course; what is done is not done again."""

from __future__ import annotations

import csv
import io
from functools import partial
from pathlib import Path

from pydantic import ValidationError

from longilesion.case import Baseline, Click, EarlierVisit, LesionMap, Scan
from longilesion.course import CourseRecord, LesionRecord, TimePointRecord
from longilesion.files import Check, check_text, valid, written_together
from longilesion.image_file import ImageFile
from longilesion.images import check_lesion_map, read_lesion_map, write_lesion_map
from longilesion.timeline import TimePoint

COURSE, TABLE = "course.json", "lesions.csv"


def map_path(folder: Path, number: int) -> Path:
    """The file of a time point's map."""
    return folder / f"{number:02d}_lesions.nii.gz"


def record_path(folder: Path, number: int) -> Path:
    """The file of a time point's record."""
    return folder / f"{number:02d}.json"


def finished(folder: Path, number: int, wanted: str) -> TimePointRecord | None:
    """The record of a time point that is done, with this fingerprint, and whose map is there; None otherwise."""
    path = record_path(folder, number)
    try:
        record = TimePointRecord.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
    is_there = record.error is None and map_path(folder, number).is_file()
    return record if is_there and record.fingerprint == wanted else None


def write_time_point(folder: Path, record: TimePointRecord, lesions: LesionMap, like: ImageFile) -> None:
    """Writes a time point's map and record together; raises InputError where they cannot be written."""
    paths: dict[Path, Check] = {
        map_path(folder, record.number): partial(check_lesion_map, written=lesions),
        record_path(folder, record.number): valid(TimePointRecord),
    }
    with written_together(paths) as (map_file, record_file):
        write_lesion_map(map_file, lesions, like=like)
        record_file.write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")


def write_failure(folder: Path, record: TimePointRecord) -> None:
    """Writes the record of a time point that could not be gone through, and removes a map of before."""
    with written_together({record_path(folder, record.number): valid(TimePointRecord)}) as (temporary,):
        temporary.write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")
    map_path(folder, record.number).unlink(missing_ok=True)


def read_time_point(folder: Path, record: TimePointRecord, scan: Scan) -> TimePoint:
    """A time point that is done, as later ones need it."""
    lesions = read_lesion_map(map_path(folder, record.number), like=scan.grid)
    clicks = {
        lesion.id: Click(scan_name="primary", point_xyz_mm=lesion.place_xyz_mm)
        for lesion in record.lesions
        if lesion.place_xyz_mm is not None
    }
    baseline = Baseline.of(scan, lesions)
    return TimePoint(visit=EarlierVisit(baselines={"primary": baseline}, clicks=clicks), lesions=lesions)


def write_course(folder: Path, course: CourseRecord) -> None:
    """Writes the course, and a table with a row for each lesion at each time point."""
    table = io.StringIO()
    columns = ["time_point", "on", *LesionRecord.model_fields]
    writer = csv.DictWriter(table, columns, lineterminator="\n")
    writer.writeheader()
    for record in course.time_points:
        for lesion in record.lesions:
            values = lesion.model_dump()
            place = lesion.place_xyz_mm
            values["place_xyz_mm"] = "" if place is None else " ".join(f"{value:.2f}" for value in place)
            writer.writerow({"time_point": record.number, "on": record.on or "", **values})
    paths = {folder / COURSE: valid(CourseRecord), folder / TABLE: check_text}
    with written_together(paths) as (course_file, table_file):
        course_file.write_text(course.model_dump_json(indent=1) + "\n", encoding="utf-8")
        table_file.write_text(table.getvalue(), encoding="utf-8")
