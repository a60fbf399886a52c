"""An interactive page: two time points side by side in three planes each (NiiVue), with the lesions' outlines.

The page holds everything that it needs. Scans are smaller in it than they are: their intensities are rounded, and large
ones have fewer voxels.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8, UInt16
from scipy.ndimage import maximum_filter, minimum_filter

from longilesion.case import LesionMap, Scan, lesion_regions
from longilesion.course import CourseRecord, LesionRecord
from longilesion.display import joined_grid, joined_hu, joined_ids, joining_factors
from longilesion.errors import InputError
from longilesion.files import check_text, written_together
from longilesion.geometry import Grid, Triple
from longilesion.html_report.page import Load, measures_text
from longilesion.html_report.templates import environment
from longilesion.nifti import nifti_bytes
from longilesion.shipped import VIEWER_FILE


@dataclass(frozen=True, slots=True, kw_only=True)
class _Embedded:
    """A time point in the page: its scan and outlines as base64 of gzipped NIfTI."""

    number: int
    title: str
    scan: str
    outlines: str


def write_viewer(path: Path, course: CourseRecord, loads: Sequence[Load | None]) -> None:
    """Writes the page; raises InputError where it cannot be written, or no time point could be gone through.

    `loads` are in the order of the time points.
    """
    page = make_viewer(course, loads)
    with written_together({path: check_text}) as (temporary,):
        temporary.write_text(page, encoding="utf-8")


def make_viewer(course: CourseRecord, loads: Sequence[Load | None]) -> str:
    """The page as HTML."""
    embedded: list[_Embedded] = []
    places: dict[int, dict[int, Triple]] = {lesion_id: {} for lesion_id in course.lesion_ids}
    for point, load in zip(course.time_points, loads, strict=True):
        if load is None:
            continue
        scan, lesions = load()
        on = "" if point.on is None else f", {point.on}"
        title = f"scan {point.number}{on}"
        embedded.append(_embedded(scan, lesions, number=point.number, title=title))
        centres = _centres_xyz_mm(lesions)
        for row in point.lesions:
            place = centres.get(row.id, row.place_xyz_mm)
            if place is not None and not row.is_outside:
                places[row.id][point.number] = place
    if not embedded:
        raise InputError("no scan could be gone through; expected one to show")
    rows = [_row(course, lesion_id, places[lesion_id]) for lesion_id in course.lesion_ids]
    rows.sort(key=lambda row: (not row["look"], row["id"]))
    page = (
        environment()
        .get_template("viewer.html.j2")
        .render(
            course=course,
            points=embedded,
            data={"lesions": rows, "numbers": [each.number for each in embedded]},
            # A script ends at this text, wherever it is.
            niivue=VIEWER_FILE.read_text(encoding="utf-8").replace("</script", "<\\/script"),
        )
    )
    return page + "\n"


def _row(course: CourseRecord, lesion_id: int, places_xyz_mm: dict[int, Triple]) -> dict[str, Any]:
    """What the page knows of a lesion; its places are in NIfTI's frame, in which x and y run the other way."""
    by_number = {
        point.number: row
        for point, row in zip(course.time_points, course.of(lesion_id), strict=True)
        if row is not None
    }
    return {
        "id": lesion_id,
        "look": any(row.unsure for row in by_number.values()),
        "places": {number: [-x, -y, z] for number, (x, y, z) in places_xyz_mm.items()},
        "texts": {number: _text(row) for number, row in by_number.items()},
    }


def _text(row: LesionRecord) -> str:
    if row.is_outside:
        return "outside the scan"
    return measures_text(row) if row.longest_mm > 0 else "none"


def _embedded(scan: Scan, lesions: LesionMap, *, number: int, title: str) -> _Embedded:
    hu, grid = scan.grid.lps_view(scan.hu)
    ids, _ = lesions.grid.lps_view(lesions.ids)
    factors = joining_factors(grid)
    coarse = joined_grid(grid, factors)
    return _Embedded(
        number=number,
        title=title,
        scan=_base64(joined_hu(hu, factors), coarse),
        outlines=_base64(_edges(joined_ids(ids, factors)), coarse),
    )


def _edges(ids: UInt16[np.ndarray, "z y x"]) -> UInt8[np.ndarray, "z y x"]:
    """The voxels of lesions that touch another id or none in their slice."""
    edges = np.zeros(ids.shape, np.uint8)
    for region in lesion_regions(ids).values():
        start, stop = np.maximum(np.array(region.start_zyx) - 1, 0), np.array(region.stop_zyx) + 1
        box = tuple(slice(low, high) for low, high in zip(start.tolist(), stop.tolist(), strict=True))
        own = ids[box]
        size = (1, 3, 3)
        edges[box] |= (own > 0) & (
            maximum_filter(own, size=size, mode="constant") != minimum_filter(own, size=size, mode="constant")
        )
    return edges


def _base64(values: np.ndarray, grid: Grid) -> str:
    return base64.b64encode(nifti_bytes(values, grid)).decode("ascii")


def _centres_xyz_mm(lesions: LesionMap) -> dict[int, Triple]:
    """For each lesion its voxel nearest to its centre of gravity."""
    centres = {}
    for lesion_id, region in lesion_regions(lesions.ids).items():
        voxels = np.argwhere(lesions.ids[region.box] == lesion_id) + np.array(region.start_zyx)
        nearest = voxels[np.linalg.norm(voxels - voxels.mean(axis=0), axis=1).argmin()]
        centres[lesion_id] = lesions.grid.world_xyz_mm(nearest)
    return centres
