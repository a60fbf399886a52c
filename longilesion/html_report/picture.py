"""A lesion at a time point: its plane as a picture, its outline and its diameters as lines over it."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from contourpy import contour_generator
from jaxtyping import Float32
from PIL import Image

from longilesion.case import LesionMap, LesionRegion, Scan
from longilesion.diameter import AxialDiameters, Ends, axial_diameters
from longilesion.geometry import Grid, Triple, box_slices
from longilesion.registered import sample_share
from longilesion.voi import sample_shown

PIXELS = 160
# Length of a picture's side: a lesion and what surrounds it.
_LEAST_MM, _DIAMETERS = 50.0, 2.2
# Windows (lowest and highest HU): of lung where most of the picture is less dense than the limit, else of soft tissue.
_LUNG_HU, _SOFT_HU = (-1200.0, 400.0), (-160.0, 240.0)
_LUNG_BELOW_HU = -400.0

Line = tuple[tuple[float, float], tuple[float, float]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Shown:
    """What there is of a lesion at a time point: the scan, the outlines, and where to look if it has none."""

    scan: Scan
    lesions: LesionMap
    region: LesionRegion | None
    place_xyz_mm: Triple | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A PNG as a data address, and lines over it, x, y in its pixels; `slice_number` counts from the lowest one, 1."""

    address: str
    outline: tuple[str, ...]
    longest: Line | None
    perpendicular: Line | None
    slice_number: int
    slices: int


def pictures(lesion_id: int, shown: Sequence[Shown | None]) -> list[Picture | None]:
    """The lesion at each time point, all in the same scale and window; None where there is nothing to look at."""
    measured = [None if each is None else _measured(lesion_id, each) for each in shown]
    length_mm = max([_LEAST_MM, *(_DIAMETERS * each.diameters.longest_mm for each in measured if each is not None)])
    sampled = [
        None if each is None or plane is None else _sampled(each, plane, length_mm)
        for each, plane in zip(shown, measured, strict=True)
    ]
    densities = [float(np.median(hu[seen])) for hu, seen, _ in filter(None, sampled) if seen.any()]
    window = _LUNG_HU if densities and float(np.median(densities)) < _LUNG_BELOW_HU else _SOFT_HU
    found: list[Picture | None] = []
    for each, plane, picture in zip(shown, measured, sampled, strict=True):
        if each is None or plane is None or picture is None:
            found.append(None)
        else:
            hu, seen, lattice = picture
            found.append(_picture(lesion_id, each, plane, lattice, _png(hu, seen, window)))
    return found


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Plane:
    """The slice of a lesion's longest diameter, in the grid in LPS order."""

    grid: Grid
    centre_zyx: Triple
    diameters: AxialDiameters
    corner_yx: tuple[int, int]


def _measured(lesion_id: int, shown: Shown) -> _Plane | None:
    view, lps = shown.lesions.grid.lps_view(shown.lesions.ids)
    if shown.region is None:
        if shown.place_xyz_mm is None:
            return None
        z, y, x = lps.index_zyx(shown.place_xyz_mm)
        centre = float(np.clip(round(z), 0, lps.shape_zyx[0] - 1)), y, x
        return _Plane(grid=lps, centre_zyx=centre, diameters=AxialDiameters(), corner_yx=(0, 0))
    voxels = np.argwhere(shown.lesions.ids[shown.region.box] == lesion_id) + np.array(shown.region.start_zyx)
    there = np.array(
        [lps.index_zyx(shown.lesions.grid.world_xyz_mm(voxel)) for voxel in (voxels.min(0), voxels.max(0))]
    )
    low = np.rint(there.min(0)).astype(int)
    high = np.rint(there.max(0)).astype(int) + 1
    start, stop = tuple(low.tolist()), tuple(high.tolist())
    mask = view[low[0] : high[0], low[1] : high[1], low[2] : high[2]] == lesion_id
    diameters = axial_diameters(mask, lps.window(start, stop))
    place = diameters.slice or 0
    y, x = np.argwhere(mask[place]).mean(0) + low[1:]
    return _Plane(
        grid=lps,
        centre_zyx=(float(low[0] + place), float(y), float(x)),
        diameters=diameters,
        corner_yx=(int(low[1]), int(low[2])),
    )


def _sampled(shown: Shown, plane: _Plane, length_mm: float) -> tuple[Float32[np.ndarray, "y x"], np.ndarray, Grid]:
    """The plane's Hounsfield units, where the scan shows it, and the lattice of its pixels."""
    _, *steps_mm = plane.grid.spacing_zyx_mm
    step = np.array([1.0, *(length_mm / PIXELS / np.array(steps_mm))])
    start = np.array(plane.centre_zyx) - step * [0, (PIXELS - 1) / 2, (PIXELS - 1) / 2]
    lattice = plane.grid.lattice(start_zyx=start, step_zyx=step, shape_zyx=(1, PIXELS, PIXELS))
    hu, seen = sample_shown(shown.scan, lattice)
    return hu[0], seen[0], lattice


def _picture(lesion_id: int, shown: Shown, plane: _Plane, lattice: Grid, address: str) -> Picture:
    outline: tuple[str, ...] = ()
    if shown.region is not None:
        region, grid = shown.region, shown.lesions.grid
        # A voxel around it, so that the outline has an outside.
        start = np.maximum(np.array(region.start_zyx) - 1, 0).tolist()
        stop = np.minimum(np.array(region.stop_zyx) + 1, grid.shape_zyx).tolist()
        window = grid.window((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))
        share = sample_share(shown.lesions.ids[box_slices(start, stop)] == lesion_id, window, lattice)[0]
        if share.min() < 0.5 <= share.max():
            lines = contour_generator(z=share).lines(0.5)
            outline = tuple(" ".join(f"{x:.1f},{y:.1f}" for x, y in np.asarray(line)) for line in lines)
    found = plane.diameters
    return Picture(
        address=address,
        outline=outline,
        longest=_line(found.longest_ends, plane, lattice),
        perpendicular=_line(found.perpendicular_ends, plane, lattice),
        slice_number=int(plane.centre_zyx[0]) + 1,
        slices=plane.grid.shape_zyx[0],
    )


def _line(ends: Ends | None, plane: _Plane, lattice: Grid) -> Line | None:
    """A diameter in the picture's pixels."""
    if ends is None:
        return None
    points = []
    for y, x in ends:
        world = plane.grid.world_xyz_mm((plane.centre_zyx[0], y + plane.corner_yx[0], x + plane.corner_yx[1]))
        _, row, column = lattice.index_zyx(world)
        points.append((round(column, 1), round(row, 1)))
    return points[0], points[1]


def _png(hu: Float32[np.ndarray, "y x"], seen: np.ndarray, window: tuple[float, float]) -> str:
    low, high = window
    grey = np.clip((hu - low) / (high - low), 0, 1) * 255
    image = Image.fromarray(np.where(seen, grey, 0).astype(np.uint8))
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
