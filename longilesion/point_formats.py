"""Lists of named points as Grand Challenge, 3D Slicer and spreadsheets write them.

By the file's suffix: `.csv`, `.tsv` and `.txt` are tables, everything else is JSON: a Grand Challenge point list, or
Slicer's markups (.mrk.json).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import numpy as np
from pydantic import BaseModel, ConfigDict, FiniteFloat, ValidationError
from pydantic_core import from_json

from longilesion.csv_table import CellError, read_headed_table
from longilesion.errors import InputError
from longilesion.geometry import Grid, Triple
from longilesion.text_files import read_text

# Coordinate system of a point's three numbers: voxel indices x, y, z, or millimetres in one of two world frames.
Space: TypeAlias = Literal["voxels", "LPS", "RAS"]

# Coordinates are clipped to this magnitude: far outside every scan, and small enough not to overflow.
_FAR = 1e9
TABLES = (".csv", ".tsv", ".txt")
_EXPECTED = (
    'expected {"points": [{"name": lesion id, "point": [x, y, z]}, ...]} with finite voxel indices, '
    "3D Slicer's markups (.mrk.json) or a table (.csv) with the columns id, x, y, z"
)
_POINT_LIST_KEYS: Final = frozenset({"name", "type", "version", "points"})
# Slicer's default labels, which it numbers: F-1, F_1, MarkupsFiducial-1, "Point list-1".
_SLICER_LABEL = re.compile(r"(?:[^\W\d_]\D*)?(\d+)")
_SLICER_SPACES: Mapping[Any, Space] = {"LPS": "LPS", "RAS": "RAS", "1": "LPS", "0": "RAS", 1: "LPS", 0: "RAS"}

_ID_COLUMNS = ("id", "lesion_id", "lesion", "name", "label")
# Words that follow an axis' name in a heading, as in x_mm or "x (mm, RAS)"; without any, the unit is voxels.
_COLUMN_WORDS: Mapping[Space, tuple[tuple[str, ...], ...]] = {
    "voxels": ((), ("voxel",), ("voxels",), ("vox",), ("index",)),
    "LPS": (("mm",), ("lps",), ("lps", "mm")),
    "RAS": (("ras",), ("mm", "ras")),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedPoint:
    """A point as read from a file: its name, empty where it has none, and its three numbers, in `space`.

    `entry` is its position in the file, for messages.
    """

    entry: str
    name: str
    numbers: Triple
    space: Space

    def index_zyx(self, grid: Grid) -> Triple:
        """The point as a fractional voxel index of a grid; it may lie outside."""
        return index_in_space(self.numbers, self.space, grid)


def index_in_space(numbers: Triple, space: Space, grid: Grid) -> Triple:
    """Three numbers as a fractional voxel index of a grid; they may lie outside."""
    x, y, z = np.clip(numbers, -_FAR, _FAR).tolist()
    if space == "voxels":
        return z, y, x
    return grid.index_zyx((x, y, z) if space == "LPS" else (-x, -y, z))


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True)


class _Point(_Strict):
    name: str | int | None = None
    point: tuple[FiniteFloat, FiniteFloat, FiniteFloat]


class _PointList(_Strict):
    points: list[_Point] | None = None


class _ControlPoint(_Strict):
    label: str | None = None
    position: tuple[FiniteFloat, FiniteFloat, FiniteFloat] | None = None
    positionStatus: str = "defined"  # noqa: N815 - the name in the file


class _Markups(_Strict):
    type: Literal["Fiducial"]
    coordinateSystem: Literal["LPS", "RAS", "0", "1", 0, 1]  # noqa: N815
    coordinateUnits: Literal["mm"] = "mm"  # noqa: N815
    controlPoints: list[_ControlPoint]  # noqa: N815


class _SlicerFile(_Strict):
    markups: list[_Markups]


def read_points(path: Path, *, may_lack_points: bool) -> list[NamedPoint]:
    """Reads the points of a file.

    `may_lack_points` allows a Grand Challenge list whose `points` is missing or null, as the platform's schema does.
    Raises InputError for anything that is no list of points, or whose coordinate system is ambiguous.
    """
    if path.name.lower().endswith(TABLES):
        return _from_table(path)
    text = read_text(path, expected="a list of points")
    try:
        content = from_json(text)
    except ValueError:
        # Validation below raises the error, with a shorter message.
        content = None
    try:
        if isinstance(content, dict) and "markups" in content:
            return _from_slicer(path, _SlicerFile.model_validate_json(text))
        points = _PointList.model_validate_json(text).points
    except ValidationError as error:
        raise InputError(f"{path}: {_first(error)}; {_EXPECTED}") from error
    if points is None and not (may_lack_points and content.keys() <= _POINT_LIST_KEYS):
        found = "points null" if "points" in content else f"no points, but {', '.join(content) or 'nothing'}"
        raise InputError(f"{path}: {found}; {_EXPECTED}")
    return [
        NamedPoint(
            entry=f"{path}: points[{position}]",
            name="" if point.name is None else str(point.name).strip(),
            numbers=point.point,
            space="voxels",
        )
        for position, point in enumerate(points or ())
    ]


def _from_slicer(path: Path, file: _SlicerFile) -> list[NamedPoint]:
    """The points that were placed; others in the list have no position yet."""
    found = []
    for node, markups in enumerate(file.markups):
        for position, point in enumerate(markups.controlPoints):
            if point.positionStatus != "defined":
                continue
            entry = f"{path}: markups[{node}].controlPoints[{position}]"
            if point.position is None:
                raise InputError(f"{entry}: no position; expected three millimetres")
            label = (point.label or "").strip()
            numbered = _SLICER_LABEL.fullmatch(label)
            found.append(
                NamedPoint(
                    entry=entry,
                    name=numbered[1] if numbered else label,
                    numbers=point.position,
                    space=_SLICER_SPACES[markups.coordinateSystem],
                )
            )
    return found


def _from_table(path: Path) -> list[NamedPoint]:
    headings, rows = read_headed_table(path)
    space, axes = _axes(path, headings)
    named = [heading for heading in headings if _normalised(heading) in _ID_COLUMNS]
    if len(named) > 1:
        raise InputError(f"{path}: columns {' and '.join(named)}; expected one with the lesion's id")
    found = []
    for row in rows:
        if not any(row.cells.values()):
            continue
        try:
            numbers = row.point(*axes)
            if numbers is None:
                raise CellError(f"{', '.join(axes)} empty; expected a number in each")
        except CellError as error:
            raise InputError(f"{path}: line {row.line}: {error}") from error
        # Spreadsheets may write 7 as 7.0.
        name = row.text(named[0]).removesuffix(".0") if named else ""
        found.append(NamedPoint(entry=f"{path}: line {row.line}", name=name, numbers=numbers, space=space))
    return found


def _axes(path: Path, headings: Sequence[str]) -> tuple[Space, list[str]]:
    """The coordinate system of a table, and its columns of x, y and z."""
    found: dict[Space, dict[str, str]] = {}
    for heading in headings:
        axis, *words = _normalised(heading).split("_")
        space = next((space for space, known in _COLUMN_WORDS.items() if tuple(sorted(words)) in known), None)
        if axis not in ("x", "y", "z") or space is None:
            continue
        if axis in found.setdefault(space, {}):
            raise InputError(f"{path}: columns {found[space][axis]} and {heading}; expected one for each axis")
        found[space][axis] = heading
    if [len(columns) for columns in found.values()] != [3]:
        raise InputError(
            f"{path}: columns {', '.join(headings) or 'none'}; expected id, and either x, y, z (voxels), or "
            "x_mm, y_mm, z_mm (LPS), or x_ras, y_ras, z_ras (mm)"
        )
    ((space, columns),) = found.items()
    return space, [columns[axis] for axis in ("x", "y", "z")]


def _normalised(heading: str) -> str:
    return re.sub(r"[\W_]+", "_", heading.lower()).strip("_")


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")
    return f"{where}: {first['msg']}" if where else first["msg"]
