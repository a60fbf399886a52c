"""The pages for people, of `longilesion segment` and `longilesion follow`: the report, and the interactive one."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from longilesion.case import Case
from longilesion.cli.course_run import Plan
from longilesion.response import Lesion

if TYPE_CHECKING:
    from longilesion.course import CourseRecord
    from longilesion.html_report.page import Load
    from longilesion.pipeline import Segmentation
    from longilesion.timeline import TimePoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Pages:
    """Which pages to write; the report refers to the other one where there are both."""

    report: Path | None
    viewer: Path | None

    @property
    def wanted(self) -> list[Path]:
        """Their files."""
        return [path for path in (self.report, self.viewer) if path is not None]


def write_case_pages(
    pages: Pages,
    case: Case,
    segmentation: Segmentation,
    names: Sequence[str],
    *,
    model: Path,
    facts: Mapping[int, Lesion],
) -> None:
    """Writes the pages of a case; `names` are those of its scans, the baseline's first where there is one."""
    # Imported late, here and below, as few runs need it.
    from longilesion.course import course_of, record_of
    from longilesion.timeline import time_points

    points = time_points(case, segmentation)
    records = []
    for number, (point, name) in enumerate(zip(points, names, strict=True), start=1):
        identity = point.visit.baselines["primary"].scan.identity
        on = None if identity is None else identity.date
        records.append(record_of(point, number=number, scan=name, made_of="", on=on))
    _write(pages, course_of(records, facts)[0], [_shown(point) for point in points], model=model)


def write_course_pages(pages: Pages, course: CourseRecord, plan: Plan, *, model: Path) -> None:
    """Writes the pages of a course that has been gone through."""
    loads = [None if record.error is not None else _read(plan, record.number) for record in course.time_points]
    _write(pages, course, loads, model=model)


def _write(pages: Pages, course: CourseRecord, loads: Sequence[Load | None], *, model: Path) -> None:
    if len(pages.wanted) > 1:
        # Both pages show the same scans, of which the report holds all in memory.
        loads = [None if load is None else cache(load) for load in loads]
    # The viewer first, so that the report refers to a page that is there.
    if pages.viewer is not None:
        from longilesion.html_report.viewer import write_viewer

        write_viewer(pages.viewer, course, loads)
    if pages.report is not None:
        # Matplotlib takes a second to load.
        from longilesion.html_report.page import write_page

        address = None if pages.viewer is None else _address(pages.viewer, pages.report)
        write_page(pages.report, course, loads, model=model.name, viewer=address)


def _address(page: Path, of: Path) -> str:
    """The address of a page as seen from another one, so that both can be moved together."""
    return quote(Path(os.path.relpath(page.resolve(), of.resolve().parent)).as_posix())


def _shown(point: TimePoint) -> Load:
    return lambda: (point.visit.baselines["primary"].scan, point.lesions)


def _read(plan: Plan, number: int) -> Load:
    return lambda: (plan.read(number), plan.read_lesions(number))
