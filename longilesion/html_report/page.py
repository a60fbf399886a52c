"""The page of a course: response, charts, and every lesion at every time point, the doubtful ones first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from longilesion.case import LesionMap, Scan, lesion_regions
from longilesion.course import CourseRecord, LesionRecord
from longilesion.files import check_text, written_together
from longilesion.html_report.charts import curve, spider, waterfall
from longilesion.html_report.picture import PIXELS, Picture, Shown, pictures
from longilesion.html_report.templates import environment
from longilesion.pipeline import remarks
from longilesion.volume_text import volume_text

# A confidence that is written as 1.00 need not be.
_SURE = 0.995

# A time point's scan and outlines, read only when its pictures are made; None where it could not be gone through.
Load = Callable[[], tuple[Scan, LesionMap]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A lesion at a time point, for the template."""

    number: int
    on: date | None
    picture: Picture | None
    alt: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LesionRow:
    """A lesion at all time points, for the template."""

    id: int
    look: bool
    notes: tuple[str, ...]
    rows: tuple[LesionRecord | None, ...]
    cells: tuple[Cell, ...]
    curve: str
    curve_text: str


def write_page(
    path: Path, course: CourseRecord, loads: Sequence[Load | None], *, model: str, viewer: str | None = None
) -> None:
    """Writes the page; raises InputError where it cannot be written.

    `loads` are in the order of the time points; `viewer` is the address of the interactive page, if there is one.
    """
    page = make_page(course, loads, model=model, viewer=viewer)
    with written_together({path: check_text}) as (temporary,):
        temporary.write_text(page, encoding="utf-8")


def make_page(course: CourseRecord, loads: Sequence[Load | None], *, model: str, viewer: str | None = None) -> str:
    """The page as HTML."""
    made = _pictures(course, loads)
    lesions = [_lesion(course, lesion_id, made[lesion_id]) for lesion_id in course.lesion_ids]
    lesions.sort(key=lambda lesion: (not lesion.look, lesion.id))
    charts = [
        (name, svg, text)
        for name, svg, text in (
            (
                "Change of each lesion from the first to the last scan; dotted: +20 % and -30 %.",
                waterfall(course),
                "Waterfall plot",
            ),
            ("Change of each lesion over time; solid: targets.", spider(course), "Spider plot"),
        )
        if svg is not None
    ]
    page = (
        environment()
        .get_template("page.html.j2")
        .render(course=course, lesions=lesions, charts=charts, pixels=PIXELS, model=model, viewer=viewer)
    )
    return page + "\n"


def _pictures(course: CourseRecord, loads: Sequence[Load | None]) -> dict[int, list[Picture | None]]:
    """Every lesion's pictures. Scans are held in memory together, as all pictures of a lesion share a window."""
    scans = [None if load is None else load() for load in loads]
    regions = [None if each is None else lesion_regions(each[1].ids) for each in scans]
    made = {}
    for lesion_id in course.lesion_ids:
        shown: list[Shown | None] = []
        for each, found, row in zip(scans, regions, course.of(lesion_id), strict=True):
            if each is None or found is None or row is None:
                shown.append(None)
            else:
                shown.append(
                    Shown(scan=each[0], lesions=each[1], region=found.get(lesion_id), place_xyz_mm=row.place_xyz_mm)
                )
        made[lesion_id] = pictures(lesion_id, shown)
    return made


def _lesion(course: CourseRecord, lesion_id: int, made: Sequence[Picture | None]) -> LesionRow:
    rows = course.of(lesion_id)
    cells = [
        Cell(
            number=point.number,
            on=point.on,
            picture=picture,
            alt=_alt(lesion_id, point.number, row, picture, error=point.error is not None),
            text=_text(row, error=point.error is not None),
        )
        for point, row, picture in zip(course.time_points, rows, made, strict=True)
    ]
    known = [row for row in rows if row is not None]
    kinds = {
        "target": lesion_id in course.targets,
        "new": any(lesion_id in each.new for each in course.responses),
        "lymph node": lesion_id in course.nodes,
        course.organs.get(lesion_id, ""): lesion_id in course.organs,
        "candidate, not confirmed": known[-1].is_candidate,
        _absent(known[-1]): known[-1].absence is not None,
    }
    lengths = [f"{row.longest_mm:.1f}" for row in known]
    return LesionRow(
        id=lesion_id,
        look=any(row.unsure for row in known),
        notes=tuple(name for name, holds in kinds.items() if holds),
        rows=tuple(rows),
        cells=tuple(cells),
        curve=curve(course, lesion_id),
        curve_text=f"Diameter of lesion {lesion_id} over time: {', '.join(lengths)} mm",
    )


def _absent(row: LesionRecord) -> str:
    """Why a lesion has no outline in the last scan."""
    return {"outside": "outside the scan", "merged": f"merged with {row.merged_into}"}.get(
        row.absence or "", row.absence or ""
    )


def _alt(lesion_id: int, number: int, row: LesionRecord | None, picture: Picture | None, *, error: bool) -> str:
    if picture is None or row is None:
        return "scan could not be gone through" if error else "not known yet" if row is None else "outside the scan"
    found = f"outlined, {row.longest_mm:.1f} mm" if row.longest_mm > 0 else "not found"
    return f"Lesion {lesion_id} in scan {number}, slice {picture.slice_number} of {picture.slices}: {found}"


def measures_text(row: LesionRecord) -> str:
    """Diameters and volume, with their 95 % intervals where these are known."""
    about = "" if row.error_mm is None else f" ± {row.error_mm:.1f}"
    ends = ""
    if row.volume_low_ml is not None and row.volume_high_ml is not None:
        ends = f" ({volume_text(row.volume_low_ml)} to {volume_text(row.volume_high_ml)})"
    return f"{row.longest_mm:.1f} x {row.short_mm:.1f}{about} mm, {volume_text(row.volume_ml)}{ends} ml"


def _text(row: LesionRecord | None, *, error: bool) -> str:
    """What is known of a lesion at a time point, in a line."""
    if row is None:
        return "failed" if error else "-"
    if row.is_outside:
        return "outside the scan"
    parts = [measures_text(row) if row.longest_mm > 0 else "none"]
    if row.presence is not None:
        parts.append(f"presence {row.presence:.2f}")
    if row.confidence is not None and row.confidence < _SURE:
        parts.append(f"confidence {row.confidence:.2f}")
    return "; ".join([*parts, *remarks(row.note)])
