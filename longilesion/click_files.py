"""Point lists in the format of Grand Challenge, paired by lesion id over the scans of both time points.

`{"points": [{"name": "7", "point": [x, y, z]}, ...]}`: the name is the lesion id, the point a fractional voxel index.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, FiniteFloat, ValidationError

from longilesion.case import Click, ClickPair, ScanName
from longilesion.errors import InputError
from longilesion.geometry import Grid

HIGHEST_ID = 65535

_NAME = re.compile(r"(?:lesion[ _-]*)?(-?[0-9]+)", re.IGNORECASE)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ClickFile:
    """A point list, and the scan whose voxels its points count; `grid` is None where that scan is missing."""

    path: Path
    scan_name: ScanName
    grid: Grid | None


class _Point(BaseModel):
    model_config = ConfigDict(strict=True)

    name: str | int | None = None
    point: tuple[FiniteFloat, FiniteFloat, FiniteFloat]


class _PointList(BaseModel):
    model_config = ConfigDict(strict=True)

    points: list[_Point] | None = None


def read_click_pairs(*, baseline: Sequence[ClickFile], followup: Sequence[ClickFile]) -> tuple[ClickPair, ...]:
    """Reads the point lists of both time points and pairs their clicks by lesion id, sorted by id.

    Where no point of any list has a name, a point's id is its position among all points of its time point, from 1.
    A click outside its scan is moved to the border, with a warning. A baseline click whose scan is missing counts as
    none. Raises InputError for anything else that is no list of points with distinct ids.
    """
    lists = {file.path: _read_points(file.path) for file in (*baseline, *followup)}
    is_named = any(_is_named(point) for points in lists.values() for point in points)
    for file in followup:
        if file.grid is None and lists[file.path]:
            raise InputError(f"{file.path}: clicks without a scan; expected a {file.scan_name} follow-up scan")
    before = _clicks([(file, lists[file.path]) for file in baseline], is_named=is_named)
    after = _clicks([(file, lists[file.path]) for file in followup], is_named=is_named)
    return tuple(
        ClickPair(lesion_id=lesion_id, baseline=before.get(lesion_id), followup=after.get(lesion_id))
        for lesion_id in sorted(before.keys() | after.keys())
    )


def _read_points(path: Path) -> list[_Point]:
    try:
        return _PointList.model_validate_json(path.read_bytes()).points or []
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; expected a list of clicks") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")
        found = f"{where}: {first['msg']}" if where else first["msg"]
        expected = 'expected {"points": [{"name": lesion id, "point": [x, y, z]}, ...]} with finite voxel indices'
        raise InputError(f"{path}: {found}; {expected}") from error


def _is_named(point: _Point) -> bool:
    return point.name is not None and str(point.name).strip() != ""


def _clicks(lists: Sequence[tuple[ClickFile, list[_Point]]], *, is_named: bool) -> dict[int, Click | None]:
    """The clicks of one time point by lesion id; None for those whose scan is missing."""
    clicks: dict[int, Click | None] = {}
    for file, points in lists:
        for position, point in enumerate(points):
            entry = f"{file.path}: points[{position}]"
            lesion_id = _lesion_id(point, entry) if is_named else len(clicks) + 1
            if lesion_id in clicks:
                raise InputError(f"{entry}: lesion {lesion_id} a second time; expected one click per lesion")
            clicks[lesion_id] = None if file.grid is None else _click(point, file.scan_name, file.grid, entry)
    return clicks


def _lesion_id(point: _Point, entry: str) -> int:
    match = _NAME.fullmatch(str(point.name).strip()) if _is_named(point) else None
    if match is None:
        raise InputError(f'{entry}: name {point.name!r}; expected a lesion id such as "7" or "Lesion 7"')
    lesion_id = int(match[1])
    if not 1 <= lesion_id <= HIGHEST_ID:
        raise InputError(f"{entry}: lesion id {lesion_id}; expected 1 to {HIGHEST_ID}")
    return lesion_id


def _click(point: _Point, scan_name: ScanName, grid: Grid, entry: str) -> Click:
    index_zyx = point.point[::-1]
    inside = grid.contains(index_zyx)
    if not inside:
        size = " x ".join(map(str, grid.shape_zyx[::-1]))
        _log.warning("%s: %s lies outside its scan of %s voxels; moved to the border", entry, list(point.point), size)
    return Click(
        scan_name=scan_name,
        point_xyz_mm=grid.world_xyz_mm(index_zyx if inside else grid.clamped(index_zyx)),
        clamped=not inside,
    )
