"""The regular grid of a series' images, and where its slices come from: from one image each, or from two or more.

A series of evenly spaced images that lie exactly above each other is taken as it is. One with a tilted gantry, a
missing slice or a varying distance is sampled anew, linearly, on such a grid; it is refused where too much would have
to be made up.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import atan2, degrees

import numpy as np
from jaxtyping import Float64
from numpy.typing import NDArray

from longilesion.dicom.frame import Frame
from longilesion.dicom.series import Series, shared_position
from longilesion.errors import InputError
from longilesion.geometry import Grid, triple

# Headers round positions. A slice may be off its place on the grid by this share of the distance between slices.
_DEPTH_TOLERANCE = 0.1
# In the plane, by this share of a pixel over the whole series.
_PLANE_TOLERANCE = 0.5
# A wider gap than this is not made up from the slices on both sides, nor more than one missing slice.
_WIDEST_GAP_MM = 10.1
_MOST_MISSING = 1
# Scanners tilt by up to 30 degrees.
_MOST_TILT_DEGREES = 35.0
# The grid of unevenly spaced slices has their least distance, but no less than this share of the widest.
_LEAST_STEP = 0.2


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Slice:
    """One image of a stack: its place along the grid's z axis, and where its first pixel lies in the grid's plane."""

    frame: Frame
    depth: float
    shift_yx: tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stack:
    """The slices of a series in the order of a grid's z axis; `depth` and `shift_yx` are in the grid's voxels.

    `remarks` say what was sampled anew; where there are none, slice k of the grid is image k, pixel for pixel.
    """

    slices: tuple[Slice, ...]
    grid: Grid
    remarks: tuple[str, ...] = ()

    @classmethod
    def of(cls, series: Series) -> Stack:
        """Finds the grid; raises InputError, with the files, for images at one position, and too wide a gap."""
        frames, depths = series.frames, np.array(series.depths_mm)
        _check_positions(frames)
        first = frames[0]
        steps = np.diff(depths)
        remarks = []
        step = float(depths[-1] - depths[0]) / (len(depths) - 1)
        places = (depths - depths[0]) / step
        if np.abs(places - np.arange(len(depths))).max() > _DEPTH_TOLERANCE:
            step, remark = _even_step(frames, steps)
            remarks.append(remark)
            places = (depths - depths[0]) / step
        else:
            places = np.arange(len(depths), dtype=float)
        shifts = _shifts_yx(frames)
        spread = shifts.max(0) - shifts.min(0)
        if spread.max() > _PLANE_TOLERANCE:
            remarks.append(_shift_remark(frames, shifts * first.spacing_yx_mm, depths))
        else:
            shifts = np.zeros_like(shifts)
        low = np.floor(shifts.min(0) + 1e-6)
        above = np.ceil(shifts.max(0) - low - 1e-6).astype(int)
        z = int(np.floor(places[-1] + 1e-6)) + 1
        y_mm, x_mm = first.spacing_yx_mm
        axes = first.axes
        origin = first.position_xyz_mm + axes[:, 0] * low[1] * x_mm + axes[:, 1] * low[0] * y_mm
        return cls(
            slices=tuple(
                Slice(frame=frame, depth=float(place), shift_yx=(float(y), float(x)))
                for frame, place, (y, x) in zip(frames, places, shifts - low, strict=True)
            ),
            grid=Grid.from_spacing(
                (z, first.header.rows + int(above[0]), first.header.columns + int(above[1])),
                (step, y_mm, x_mm),
                origin_xyz_mm=triple(origin),
                direction=axes,
            ),
            remarks=tuple(remarks),
        )

    @property
    def is_regular(self) -> bool:
        """Whether slice k of the grid is image k, pixel for pixel."""
        return not self.remarks

    def neighbours(self, depth: int) -> Iterator[tuple[Slice, float]]:
        """The one or two images that slice `depth` of the grid is made of, with their weights."""
        depths = [each.depth for each in self.slices]
        after = int(np.searchsorted(depths, depth))
        if after == 0 or after == len(depths):
            yield self.slices[min(after, len(depths) - 1)], 1.0
            return
        weight = (depth - depths[after - 1]) / (depths[after] - depths[after - 1])
        for index, share in ((after - 1, 1 - weight), (after, weight)):
            if share > 1e-6:
                yield self.slices[index], share


def _check_positions(frames: Sequence[Frame]) -> None:
    shared = shared_position(frames)
    if shared is not None:
        first, second = shared
        raise InputError(
            f"{first.header.path} and {second.header.path}: two images of one acquisition at one position, "
            f"{first.position_xyz_mm}; expected one"
        )


def _even_step(frames: Sequence[Frame], steps: NDArray[np.float64]) -> tuple[float, str]:
    """The distance of a regular grid over unevenly spaced slices, and what is made up."""
    usual, widest = float(np.median(steps)), int(np.argmax(steps))
    gap = float(steps[widest])
    missing = round(gap / usual) - 1
    before, after = frames[widest].header.path.name, frames[widest + 1].header.path.name
    where = f"{gap:.4g} mm between {before} and {after}, usually {usual:.4g} mm"
    if gap > _WIDEST_GAP_MM or missing > _MOST_MISSING:
        raise InputError(
            f"{frames[0].header.path.parent}: slices missing ({where}); expected all of them, or gaps of one slice, of "
            f"at most {_WIDEST_GAP_MM:.0f} mm"
        )
    gaps = int((np.rint(steps / usual) == 2).sum())
    if gaps and np.abs(steps / usual - np.rint(steps / usual)).max() <= _DEPTH_TOLERANCE:
        return usual, f"{gaps} missing slice{'s' if gaps > 1 else ''} ({where}), interpolated from both neighbours"
    step = max(float(steps.min()), _LEAST_STEP * gap)
    return step, f"distances of {steps.min():.4g} to {gap:.4g} mm between slices, resampled to {step:.4g} mm"


def _shifts_yx(frames: Sequence[Frame]) -> Float64[np.ndarray, "n 2"]:
    """Where each image's first pixel lies in the first one's plane, in pixels."""
    axes = frames[0].axes
    offsets = np.array([np.subtract(frame.position_xyz_mm, frames[0].position_xyz_mm) for frame in frames])
    return np.asarray(offsets @ axes[:, [1, 0]] / frames[0].spacing_yx_mm)


def _shift_remark(frames: Sequence[Frame], shifts_mm: Float64[np.ndarray, "n 2"], depths: NDArray[np.float64]) -> str:
    """What makes the images not lie above each other; raises InputError where no tilt of a scanner could."""
    length = float(depths[-1] - depths[0])
    total = shifts_mm[-1] - shifts_mm[0]
    straight = np.outer((depths - depths[0]) / length, total)
    angle = degrees(atan2(float(np.linalg.norm(total)), length))
    most = float(np.linalg.norm(shifts_mm, axis=1).max())
    if angle > _MOST_TILT_DEGREES:
        raise InputError(
            f"{frames[0].header.path.parent}: images shifted by up to {most:.0f} mm against each other, {angle:.0f} "
            f"degrees off their normal; expected images above each other, or a gantry tilted by up to "
            f"{_MOST_TILT_DEGREES:g} degrees"
        )
    if np.linalg.norm(shifts_mm - straight, axis=1).max() <= _PLANE_TOLERANCE * min(frames[0].spacing_yx_mm):
        return f"gantry tilted by {angle:.1f} degrees, resampled to a grid with right angles"
    return f"images shifted by up to {most:.1f} mm against each other, resampled to one grid"
