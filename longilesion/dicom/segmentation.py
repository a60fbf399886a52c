"""Lesion maps from DICOM SEG: binary, fractional and label map; overlapping and sparse segments."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import highdicom as hd
import numpy as np
from jaxtyping import Bool, Float32, UInt16
from numpy.typing import NDArray
from scipy import ndimage

from longilesion.case import HIGHEST_ID, LesionMap
from longilesion.dicom.damage import refused_if_damaged
from longilesion.dicom.segment_planes import segment_share
from longilesion.errors import InputError
from longilesion.geometry import Box, Grid, box_slices

# Lesions' masks by id, each in a box of the scan.
Masks: TypeAlias = dict[int, tuple[Box, Bool[np.ndarray, "_ _ _"]]]

# SNOMED CT and SNOMED RT: Morphologically Abnormal Structure.
_ABNORMAL = ("49755003", "M-01000")

# The label of a lesion's segment.
_LABEL = re.compile(r"lesion ([1-9]\d*)")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A segment of a lesion; both tracking identifiers are empty where it has none.

    Where all segments are called "lesion" and a number, as this package calls them, these are the lesions' ids, or else
    the segments' numbers are.
    """

    lesion_id: int
    number: int
    label: str
    tracking_id: str
    tracking_uid: str


def read_segments(path: Path) -> list[Segment]:
    """The segments of lesions: those that are said to be abnormal where some are, or else all.

    Raises InputError for a file that is no segmentation.
    """
    return _segments(path, _opened(path))


def read_segmentation(path: Path, like: Grid, *, frame_of_reference_uid: str = "") -> LesionMap:
    """A segmentation on the voxels of a scan.

    Voxels of two segments go to the smaller one. Raises InputError where the segmentation has another frame of
    reference than the scan (where both have one), no evenly spaced planes, or lies outside the scan.
    """
    segmentation = _opened(path)
    own = str(segmentation.get("FrameOfReferenceUID", ""))
    if own and frame_of_reference_uid and own != frame_of_reference_uid:
        raise InputError(f"{path}: segmentation of another frame of reference than its scan's; expected the same")
    masks: Masks = {}
    outside = []
    for segment in _segments(path, segmentation):
        share, grid = segment_share(path, segmentation, segment.number, like)
        if not share.any():
            continue
        found = _on_grid(share, grid, like)
        if found is None or not found[1].any():
            outside.append(segment.label)
        else:
            masks[segment.lesion_id] = found
    if outside:
        raise InputError(f"{path}: segments outside the scan: {', '.join(outside)}; expected them within it")
    ids = np.zeros(like.shape_zyx, np.uint16)
    overlap = painted(ids, masks)
    if overlap:
        _log.warning("%s: %d voxels in more than one segment, taken as the smaller one's", path, overlap)
    return LesionMap(ids=ids, grid=like)


def painted(ids: UInt16[np.ndarray, "z y x"], masks: Masks) -> int:
    """Paints masks into a map, the smallest last; the number of voxels of more than one."""
    overlap = 0
    for number in sorted(masks, key=lambda each: -int(masks[each][1].sum())):
        box, mask = masks[number]
        overlap += int(np.count_nonzero(ids[box][mask]))
        ids[box][mask] = number
    return overlap


def _segments(path: Path, segmentation: hd.seg.Segmentation) -> list[Segment]:
    # Segment 0 is the background of a label map.
    described = {
        number: segmentation.get_segment_description(number) for number in segmentation.segment_numbers if number
    }
    abnormal = {number for number, each in described.items() if each.segmented_property_category.value in _ABNORMAL}
    if left := [str(each.segment_label) for number, each in described.items() if abnormal and number not in abnormal]:
        _log.info("%s: segments left out as no lesions: %s", path, ", ".join(left))
    chosen = {number: each for number, each in described.items() if number in abnormal or not abnormal}
    named = {number: _LABEL.fullmatch(str(each.segment_label or "")) for number, each in chosen.items()}
    ids = {number: number if match is None else int(match[1]) for number, match in named.items()}
    if None in named.values() or len(set(ids.values())) < len(ids):
        ids = {number: number for number in chosen}
    if ids and not 0 < max(ids.values()) <= HIGHEST_ID:
        raise InputError(f"{path}: lesion {max(ids.values())}; expected numbers from 1 to {HIGHEST_ID}")
    return [
        Segment(
            lesion_id=ids[number],
            number=number,
            label=str(each.segment_label or ""),
            tracking_id=str(each.tracking_id or ""),
            tracking_uid=str(each.tracking_uid or ""),
        )
        for number, each in chosen.items()
    ]


def _opened(path: Path) -> hd.seg.Segmentation:
    with refused_if_damaged(path, "a complete segmentation"):
        return hd.seg.segread(path)


def _on_grid(
    share: Float32[np.ndarray, "z y x"], grid: Grid, like: Grid
) -> tuple[Box, Bool[np.ndarray, "z2 y2 x2"]] | None:
    """The part of another grid that a segment covers, and its mask there; None where it covers none.

    A voxel belongs to it where linear interpolation gives at least one half.
    """
    filled = np.argwhere(share)
    # A voxel beyond the outermost ones on each side, up to which interpolation reaches.
    low, high = filled.min(0) - 1, filled.max(0) + 1
    corners = np.array([np.where(choice, high, low) for choice in np.ndindex(2, 2, 2)])
    there = np.array([like.index_zyx(grid.world_xyz_mm(corner)) for corner in corners])
    start = np.clip(np.floor(there.min(0)), 0, like.shape_zyx).astype(int)
    stop = np.clip(np.ceil(there.max(0)) + 1, 0, like.shape_zyx).astype(int)
    if (stop <= start).any():
        return None
    # The index z, y, x in the segmentation of a voxel of the box: matrix @ index + offset.
    swapped = np.linalg.solve(grid.world_from_voxel, like.world_from_voxel)
    matrix = swapped[:3, :3][::-1, ::-1]
    offset = swapped[:3, 3][::-1] + matrix @ start
    z, y, x = (stop - start).tolist()
    sampled = ndimage.affine_transform(
        share, _clean(matrix), _clean(offset), output_shape=(z, y, x), order=1, mode="grid-constant"
    )
    return box_slices(start, stop), sampled >= 0.5 - 1e-4


def _clean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Whole numbers where rounding in headers has left them a little off, so that equal grids give equal voxels."""
    whole = np.rint(values)
    return np.where(np.abs(values - whole) < 1e-4, whole, values)
