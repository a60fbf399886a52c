"""Reading and writing clicks as point lists, paired by lesion id over the scans of both time points."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longilesion.case import HIGHEST_ID, Baseline, Click, ClickPair, ScanName
from longilesion.contradictions import contradiction, points_outside
from longilesion.errors import InputError
from longilesion.geometry import Grid
from longilesion.point_formats import NamedPoint, read_points

_NAME = re.compile(r"(?:lesion[ _-]*)?(-?[0-9]+)", re.IGNORECASE)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ClickFile:
    """A point list, and the scan that its points refer to; `grid` is None where that scan is missing.

    `prior` is the baseline scan with its outlined lesions, against which baseline clicks are checked.
    """

    path: Path
    scan_name: ScanName
    grid: Grid | None
    prior: Baseline | None = None


def read_click_pairs(
    *, baseline: Sequence[ClickFile], followup: Sequence[ClickFile], may_lack_points: bool = True
) -> tuple[ClickPair, ...]:
    """Reads the point lists of both time points and pairs their clicks by lesion id, sorted by id.

    Where no point of any list has a name, a point's id is its position among all points of its time point, from 1.
    A click outside its scan is moved to the border. One warning per file lists these, and the clicks that lie outside
    the outlines of their lesions, with the probable reason. A baseline click whose scan is missing counts as none.
    `may_lack_points` accepts a Grand Challenge list without `points` as an empty one. Raises InputError for anything
    else that is no list of points with distinct ids.
    """
    lists = {file.path: read_points(file.path, may_lack_points=may_lack_points) for file in (*baseline, *followup)}
    is_named = any(point.name for points in lists.values() for point in points)
    for file in followup:
        if file.grid is None and lists[file.path]:
            raise InputError(f"{file.path}: clicks without a scan; expected a {file.scan_name} follow-up scan")
    before = _points_by_id([lists[file.path] for file in baseline], is_named=is_named)
    after = _points_by_id([lists[file.path] for file in followup], is_named=is_named)
    priors = {file.scan_name: file.prior for file in baseline if file.prior is not None}
    for file, points in (*zip(baseline, before, strict=True), *zip(followup, after, strict=True)):
        _warn(file, points, priors if file.prior is not None else {})
    earlier, later = _clicks(baseline, before), _clicks(followup, after)
    return tuple(
        ClickPair(lesion_id=lesion_id, baseline=earlier.get(lesion_id), followup=later.get(lesion_id))
        for lesion_id in sorted(earlier.keys() | later.keys())
    )


def point_list(clicks: Mapping[int, Click], grid: Grid) -> dict[str, Any]:
    """Clicks by lesion id in the format of Grand Challenge, as x, y, z voxel indices of a grid.

    Rounding to three decimals is accurate enough, and cannot move a click out of the scan.
    """
    points = [
        {"name": str(lesion_id), "point": [round(index, 3) for index in grid.index_zyx(click.point_xyz_mm)[::-1]]}
        for lesion_id, click in clicks.items()
    ]
    version = {"major": 1, "minor": 0}
    return {"name": "Points of interest", "type": "Multiple points", "points": points, "version": version}


def _points_by_id(lists: Sequence[Sequence[NamedPoint]], *, is_named: bool) -> list[dict[int, NamedPoint]]:
    """The points of one time point's files by lesion id, file by file."""
    found: list[dict[int, NamedPoint]] = []
    taken: set[int] = set()
    for points in lists:
        found.append({})
        for point in points:
            lesion_id = _lesion_id(point) if is_named else len(taken) + 1
            if lesion_id in taken:
                raise InputError(f"{point.entry}: lesion {lesion_id} a second time; expected one click per lesion")
            taken.add(lesion_id)
            found[-1][lesion_id] = point
    return found


def _lesion_id(point: NamedPoint) -> int:
    match = _NAME.fullmatch(point.name)
    if match is None:
        raise InputError(f'{point.entry}: name {point.name or None!r}; expected a lesion id such as "7" or "Lesion 7"')
    lesion_id = int(match[1])
    if not 1 <= lesion_id <= HIGHEST_ID:
        raise InputError(f"{point.entry}: lesion id {lesion_id}; expected 1 to {HIGHEST_ID}")
    return lesion_id


def _warn(file: ClickFile, points: Mapping[int, NamedPoint], priors: Mapping[ScanName, Baseline]) -> None:
    if file.grid is None:
        return
    said, are_doubtful = contradiction(points, file.scan_name, priors)
    # Where the outline takes precedence, or the click is not trusted, a click outside the scan does not matter.
    outlined = {lesion_id for prior in priors.values() for lesion_id in prior.regions}
    unknown = {lesion_id: point for lesion_id, point in points.items() if lesion_id not in outlined}
    findings = [said, "" if are_doubtful else points_outside(unknown, file.grid)]
    if any(findings):
        _log.warning("%s: %s", file.path, "; ".join(filter(None, findings)))


def _clicks(files: Sequence[ClickFile], points: Sequence[Mapping[int, NamedPoint]]) -> dict[int, Click | None]:
    """The clicks of one time point by lesion id; None for those whose scan is missing."""
    return {
        lesion_id: None if file.grid is None else _click(point, file.scan_name, file.grid)
        for file, own in zip(files, points, strict=True)
        for lesion_id, point in own.items()
    }


def _click(point: NamedPoint, scan_name: ScanName, grid: Grid) -> Click:
    index_zyx = point.index_zyx(grid)
    inside = grid.contains(index_zyx)
    return Click(
        scan_name=scan_name,
        point_xyz_mm=grid.world_xyz_mm(index_zyx if inside else grid.clamped(index_zyx)),
        clamped=not inside,
    )
