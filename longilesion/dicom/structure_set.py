"""Lesion maps from RTSTRUCT: closed planar contours, filled on the voxels of a scan."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pydicom
from jaxtyping import Bool, Float64
from pydicom.dataset import Dataset

from longilesion.case import HIGHEST_ID, LesionMap
from longilesion.dicom.damage import refused_if_damaged
from longilesion.dicom.segmentation import Masks, painted
from longilesion.errors import InputError
from longilesion.geometry import Grid, box_slices

# Values of RTROIInterpretedType that are said of what is no lesion.
_NO_LESIONS = (
    *("EXTERNAL", "ORGAN", "AVOIDANCE", "SUPPORT", "FIXATION", "BOLUS", "CONTROL", "MARKER", "REGISTRATION"),
    *("ISOCENTER", "CAVITY", "CONTRAST_AGENT", "BRACHY_CHANNEL", "BRACHY_ACCESSORY", "BRACHY_SRC_APP", "DOSE_REGION"),
)
_CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
# A contour may leave its plane by this share of the distance between slices.
_TOLERANCE = 0.25

_log = logging.getLogger(__name__)


def read_structure_set(path: Path, like: Grid, *, frame_of_reference_uid: str = "") -> LesionMap:
    """A structure set on the voxels of a scan; a lesion's id is its ROI's number.

    Regions of another kind (an organ, the body) are left out where some are lesions. Contours in one plane that lie in
    each other are holes. Voxels of two regions go to the smaller one. Raises InputError where it has another frame of
    reference than the scan, contours across slices, or lies outside the scan.
    """
    names: dict[int, str] = {}
    frames = set()
    with refused_if_damaged(path):
        dataset = _opened(path)
        for roi in dataset.get("StructureSetROISequence", []):
            names[int(roi.ROINumber)] = str(roi.get("ROIName", "")) or f"ROI {roi.ROINumber}"
            frames.add(str(roi.get("ReferencedFrameOfReferenceUID", "")))
        contours = _contours(path, dataset)
        chosen = _lesions(path, dataset, names, list(contours))
    frames -= {""}
    if frames and frame_of_reference_uid and frame_of_reference_uid not in frames:
        raise InputError(f"{path}: structure set of another frame of reference than its scan's; expected the same")
    masks: Masks = {}
    for number in chosen:
        if not 0 < number <= HIGHEST_ID:
            raise InputError(f"{path}: ROI {number}; expected numbers from 1 to {HIGHEST_ID}")
        points = [_indices(like, contour) for contour in contours[number]]
        name = names.get(number, f"ROI {number}")
        _check_planes(path, name, points)
        found = _filled(points, like)
        if found is None:
            raise InputError(f"{path}: {name} lies outside the scan, or covers no voxel; expected it within the scan")
        masks[number] = found
    ids = np.zeros(like.shape_zyx, np.uint16)
    overlap = painted(ids, masks)
    if overlap:
        _log.warning("%s: %d voxels in more than one region, taken as the smaller one's", path, overlap)
    return LesionMap(ids=ids, grid=like)


def _opened(path: Path) -> Dataset:
    dataset = pydicom.dcmread(path, force=True)
    if dataset.get("Modality") != "RTSTRUCT":
        raise InputError(f"{path}: DICOM of modality {dataset.get('Modality') or '-'}; expected SEG or RTSTRUCT")
    return dataset


def _contours(path: Path, dataset: Dataset) -> dict[int, list[Float64[np.ndarray, "n 3"]]]:
    """The closed contours of each region, in LPS mm."""
    found: dict[int, list[Float64[np.ndarray, "n 3"]]] = {}
    for roi in dataset.get("ROIContourSequence", []):
        number = int(roi.ReferencedROINumber)
        for contour in roi.get("ContourSequence", []):
            points = np.array(contour.get("ContourData", []), np.float64)
            if contour.get("ContourGeometricType") not in _CLOSED or points.size < 9:
                continue
            if points.size % 3 or not np.isfinite(points).all():
                raise InputError(f"{path}: contour of ROI {number} with {points.size} numbers; expected x, y, z each")
            found.setdefault(number, []).append(points.reshape(-1, 3))
    if not found:
        raise InputError(f"{path}: structure set without closed contours; expected outlined lesions")
    return found


def _lesions(path: Path, dataset: Dataset, names: dict[int, str], numbers: Sequence[int]) -> list[int]:
    kinds = {
        int(each.ReferencedROINumber): str(each.get("RTROIInterpretedType", "") or "").upper()
        for each in dataset.get("RTROIObservationsSequence", [])
    }
    lesions = [number for number in numbers if kinds.get(number, "") not in _NO_LESIONS]
    left = [names.get(number, str(number)) for number in numbers if number not in lesions]
    if lesions and left:
        _log.info("%s: regions left out as no lesions: %s", path, ", ".join(left))
    return lesions or list(numbers)


def _indices(grid: Grid, points_xyz_mm: Float64[np.ndarray, "n 3"]) -> Float64[np.ndarray, "n 3"]:
    """Fractional voxel indices z, y, x."""
    offset = points_xyz_mm - grid.world_from_voxel[:3, 3]
    return np.linalg.solve(grid.world_from_voxel[:3, :3], offset.T).T[:, ::-1]


def _check_planes(path: Path, name: str, contours: Sequence[Float64[np.ndarray, "n 3"]]) -> None:
    off = max(float(np.ptp(points[:, 0])) for points in contours)
    if off > _TOLERANCE:
        raise InputError(f"{path}: {name} has contours across {off + 1:.1f} slices; expected contours within slices")


def _filled(
    contours: Sequence[Float64[np.ndarray, "n 3"]], grid: Grid
) -> tuple[tuple[slice, slice, slice], Bool[np.ndarray, "z y x"]] | None:
    """The box of a region's voxels and its mask there; None where it has none.

    A slice without a contour of its own takes those of the nearest plane, up to half of their usual distance away.
    """
    everything = np.concatenate(list(contours))
    planes: dict[int, list[Float64[np.ndarray, "n 3"]]] = {}
    for points in contours:
        # Planes that a header's rounding tells apart are one.
        planes.setdefault(round(float(points[:, 0].mean()) / _TOLERANCE), []).append(points)
    places = np.array(sorted(planes)) * _TOLERANCE
    reach = 0.5 * max(1.0, float(np.median(np.diff(places))) if len(places) > 1 else 1.0) + 1e-6
    low = np.floor([places[0] - reach, *everything[:, 1:].min(0)])
    high = np.ceil([places[-1] + reach, *everything[:, 1:].max(0)]) + 1
    start = np.clip(low, 0, grid.shape_zyx).astype(int)
    stop = np.clip(high, 0, grid.shape_zyx).astype(int)
    if (stop <= start).any():
        return None
    mask = np.zeros(stop - start, bool)
    of_plane: dict[int, Bool[np.ndarray, "y x"]] = {}
    for index in range(start[0], stop[0]):
        nearest = int(np.argmin(np.abs(places - index)))
        if abs(places[nearest] - index) > reach:
            continue
        if nearest not in of_plane:
            key = sorted(planes)[nearest]
            of_plane[nearest] = _inside([points[:, 1:] - start[1:] for points in planes[key]], mask.shape[1:])
        mask[index - start[0]] = of_plane[nearest]
    return (box_slices(start, stop), mask) if mask.any() else None


def _inside(polygons: Sequence[Float64[np.ndarray, "n 2"]], shape_yx: tuple[int, ...]) -> Bool[np.ndarray, "y x"]:
    """The pixels whose centres lie in an odd number of polygons (y, x in pixels).

    Along a row, every edge that crosses it turns the inside into the outside.
    """
    rows, columns = shape_yx
    turns = np.zeros((rows, columns + 1), np.int32)
    for polygon in polygons:
        for (y0, x0), (y1, x1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
            # Half-open, so that a row through a corner is crossed once.
            crossed = np.arange(max(int(np.ceil(min(y0, y1))), 0), min(int(np.ceil(max(y0, y1))), rows))
            if crossed.size:
                at = np.ceil(x0 + (crossed - y0) * (x1 - x0) / (y1 - y0)).clip(0, columns).astype(int)
                np.add.at(turns, (crossed, at), 1)
    return np.asarray(np.cumsum(turns, axis=1)[:, :columns] % 2 == 1)
