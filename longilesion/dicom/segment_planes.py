"""The voxels of a segment of a DICOM SEG as an array on a lattice, which a tilted gantry makes oblique."""

from __future__ import annotations

from pathlib import Path

import highdicom as hd
import numpy as np
from jaxtyping import Float32, Float64
from pydicom.dataset import Dataset

from longilesion.errors import InputError
from longilesion.geometry import Grid

# Headers round positions: a plane may be off its place by this share of the distance to the next, or of a pixel.
_DEPTH_TOLERANCE, _PLANE_TOLERANCE = 0.1, 0.5


def segment_share(
    path: Path, segmentation: hd.seg.Segmentation, number: int, like: Grid
) -> tuple[Float32[np.ndarray, "z y x"], Grid]:
    """How far each voxel belongs to a segment, from 0 to 1, and the segmentation's grid.

    On images of a tilted gantry, the grid's z axis is not at right angles to the others; its planes are as far apart as
    the slices of the scan `like`, as those without any segment are often left out. Raises InputError where the planes
    are not evenly spaced along one line.
    """
    try:
        volume = segmentation.get_volume(segment_numbers=[number], combine_segments=False)
    except (RuntimeError, ValueError) as error:
        oblique = _oblique(segmentation, number, like.spacing_zyx_mm[0])
        if oblique is None:
            raise InputError(
                f"{path}: planes that are no regular volume ({error}); expected evenly spaced ones along a line"
            ) from error
        return oblique
    array = np.asarray(volume.array[..., 0], np.float32)
    # highdicom's indices are slice, row and column, in the same frame.
    matrix = np.asarray(volume.affine)[:, [2, 1, 0, 3]]
    z, y, x = array.shape
    return array, Grid(shape_zyx=(z, y, x), world_from_voxel=matrix)


def _oblique(
    segmentation: hd.seg.Segmentation, number: int, step_mm: float
) -> tuple[Float32[np.ndarray, "z y x"], Grid] | None:
    """The same from planes that are shifted against each other; None where they are no lattice."""
    frames = list(segmentation.PerFrameFunctionalGroupsSequence)
    shared = segmentation.SharedFunctionalGroupsSequence[0]
    orientations = {tuple(_of(frame, shared, "PlaneOrientationSequence").ImageOrientationPatient) for frame in frames}
    if len(orientations) != 1:
        return None
    along_rows, along_columns = np.array(orientations.pop(), float).reshape(2, 3)
    positions = np.array([_of(frame, shared, "PlanePositionSequence").ImagePositionPatient for frame in frames], float)
    line = _line(positions, np.cross(along_rows, along_columns), step_mm)
    y_mm, x_mm = map(float, _of(frames[0], shared, "PixelMeasuresSequence").PixelSpacing)
    if line is None:
        return None
    places, origin, step = line
    if np.abs(origin + places[:, None] * step - positions).max() > _PLANE_TOLERANCE * min(y_mm, x_mm):
        return None
    array = np.zeros((int(places.max()) + 1, segmentation.Rows, segmentation.Columns), np.float32)
    highest = float(segmentation.get("MaximumFractionalValue", 1))
    pixels = segmentation.pixel_array.reshape(len(frames), segmentation.Rows, segmentation.Columns)
    for frame, place, plane in zip(frames, places, pixels, strict=True):
        if segmentation.SegmentationType == "LABELMAP":
            array[place] = plane == number
        elif _of(frame, shared, "SegmentIdentificationSequence").ReferencedSegmentNumber == number:
            array[place] = plane / highest
    matrix = np.eye(4)
    matrix[:3] = np.stack([along_rows * x_mm, along_columns * y_mm, step, origin], axis=1)
    z, y, x = array.shape
    return array, Grid(shape_zyx=(z, y, x), world_from_voxel=matrix)


def _line(
    positions: Float64[np.ndarray, "n 3"], normal: Float64[np.ndarray, "3"], step_mm: float
) -> tuple[np.ndarray, Float64[np.ndarray, "3"], Float64[np.ndarray, "3"]] | None:
    """The places of planes on the straight line that fits them best, its origin, and its step from place to place.

    Planes may be missing. None where they are not evenly spaced along their normal, or where there is only one.
    """
    depths = positions @ normal
    apart = np.diff(np.unique(np.round(depths - depths.min(), 3)))
    if not len(apart):
        return None
    least = float(apart.min())
    between = round(least / step_mm)
    if between > 1 and abs(least - between * step_mm) <= _DEPTH_TOLERANCE * step_mm:
        least /= between
    places = np.rint((depths - depths.min()) / least).astype(int)
    (step, origin), *_ = np.linalg.lstsq(np.stack([places, np.ones_like(places)], axis=1).astype(float), positions)
    off = np.abs((positions - origin - places[:, None] * step) @ normal).max()
    return (places, origin, step) if off <= _DEPTH_TOLERANCE * least else None


def _of(frame: Dataset, shared: Dataset, name: str) -> Dataset:
    """The item of a functional group, which a frame has of its own, or all share."""
    item: Dataset = (frame if name in frame else shared)[name].value[0]
    return item
