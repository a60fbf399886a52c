"""Clicks that contradict the scan or the outlines that they belong to, and a guess why.

A guess is another way to read a file's numbers. It is said where that puts nearly all of them where they should be.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from longilesion.case import NEAR_MM, Baseline, ScanName
from longilesion.geometry import Grid, Triple
from longilesion.point_formats import NamedPoint, Space, index_in_space

# How many points of a file a guess has to explain.
_NEARLY_ALL = 0.9
_FEW_NAMES = 8
_SPACES: Mapping[Space, str] = {
    "voxels": "voxel indices",
    "LPS": "world millimetres (LPS)",
    "RAS": "world millimetres (RAS)",
}


def contradiction(
    points: Mapping[int, NamedPoint], scan_name: ScanName, priors: Mapping[ScanName, Baseline]
) -> tuple[list[int], str]:
    """The lesions whose baseline clicks, in one scan, lie elsewhere than their outlines, and a sentence that says so.

    A click is elsewhere if it lies farther from its outline than 10 mm, or in the outline of another lesion.
    """
    outlined = {
        lesion_id: point
        for lesion_id, point in points.items()
        if any(lesion_id in prior.regions for prior in priors.values())
    }
    if scan_name not in priors or not outlined:
        return [], ""
    prior = priors[scan_name]
    grid = prior.scan.grid
    read = {lesion_id: point.index_zyx(grid) for lesion_id, point in outlined.items()}
    elsewhere = [lesion_id for lesion_id, index in read.items() if _is_elsewhere(prior, lesion_id, index)]
    if not elsewhere:
        return [], ""
    guess = ""
    for words, readings in _other_readings(outlined, grid).items():
        if _is_nearly_all([_is_near(prior, lesion_id, index) for lesion_id, index in readings.items()]):
            guess = f", as if their points were {words}"
            break
    else:
        if _are_names_mixed_up(prior, {lesion_id: read[lesion_id] for lesion_id in elsewhere}):
            guess = ", but in or at those of other lesions, as if their names were mixed up"
    lie = f"{len(elsewhere)} of {len(outlined)} clicks lie outside the outlines of their lesions"
    return elsewhere, f"{lie} ({_named(elsewhere)}){guess}; the outlines' centres are used"


def points_outside(points: Mapping[int, NamedPoint], grid: Grid, *, is_guessed: bool) -> str:
    """A sentence on the points outside a scan, which are moved to its border, with a guess why; empty without any.

    The guess is wanted only where at least half of the points lie well outside: a noisy click may lie at the border.
    """
    read = {lesion_id: point.index_zyx(grid) for lesion_id, point in points.items()}
    outside = [lesion_id for lesion_id, index in read.items() if not grid.contains(index)]
    if not outside:
        return ""
    far = [lesion_id for lesion_id in outside if _beyond_mm(grid, read[lesion_id]) > NEAR_MM]
    guess = ""
    if is_guessed and 2 * len(far) >= len(points):
        for words, readings in _other_readings(points, grid).items():
            if _is_nearly_all([grid.contains(index) for index in readings.values()]):
                guess = f", as if the points were {words}"
                break
    size = " x ".join(map(str, grid.shape_zyx[::-1]))
    clicks = "click lies" if len(outside) == 1 else "clicks lie"
    where = _named(outside)
    if len(outside) == 1:
        where += " at " + ", ".join(f"{number:.6g}" for number in points[outside[0]].numbers)
    return f"{len(outside)} {clicks} outside its scan of {size} voxels ({where}){guess}; moved to the border"


def _other_readings(points: Mapping[int, NamedPoint], grid: Grid) -> dict[str, dict[int, Triple]]:
    """The voxel indices of a file's points if its numbers were something else than it says."""
    readings = {
        "in z, y, x order": {
            lesion_id: index_in_space(point.numbers[::-1], point.space, grid) for lesion_id, point in points.items()
        }
    }
    said = {point.space for point in points.values()}
    for space, words in _SPACES.items():
        if space not in said:
            readings[words] = {
                lesion_id: index_in_space(point.numbers, space, grid) for lesion_id, point in points.items()
            }
    return readings


def _is_elsewhere(prior: Baseline, lesion_id: int, index_zyx: Triple) -> bool:
    point = prior.scan.grid.world_xyz_mm(index_zyx)
    if prior.holds(lesion_id, point):
        return False
    return not _is_near(prior, lesion_id, index_zyx) or any(prior.holds(other, point) for other in prior.regions)


def _is_near(prior: Baseline, lesion_id: int, index_zyx: Triple) -> bool:
    """Whether a point lies in a lesion's outline or near it, or inside its box: the middle of a ring is no error."""
    region = prior.regions.get(lesion_id)
    if region is None:
        return False
    low, high = np.subtract(region.start_zyx, 0.5), np.subtract(region.stop_zyx, 0.5)
    is_in_box = bool(np.all(low <= index_zyx) and np.all(index_zyx <= high))
    return is_in_box or lesion_id in prior.lesions_near(prior.scan.grid.world_xyz_mm(index_zyx), NEAR_MM)


def _are_names_mixed_up(prior: Baseline, read: Mapping[int, Triple]) -> bool:
    """Whether nearly all of these points lie in or near the outlines of other lesions, no two in the same one."""
    nearest = [_nearest_lesion(prior, index) for index in read.values()]
    found = [lesion_id for lesion_id in nearest if lesion_id is not None]
    return len(set(found)) == len(found) and _is_nearly_all([lesion_id is not None for lesion_id in nearest])


def _nearest_lesion(prior: Baseline, index_zyx: Triple) -> int | None:
    near = prior.lesions_near(prior.scan.grid.world_xyz_mm(index_zyx), NEAR_MM)
    return min(near, key=near.__getitem__) if near else None


def _beyond_mm(grid: Grid, index_zyx: Triple) -> float:
    return float(np.linalg.norm(np.subtract(index_zyx, grid.clamped(index_zyx)) * grid.spacing_zyx_mm))


def _is_nearly_all(explained: Sequence[bool]) -> bool:
    return sum(explained) >= math.ceil(_NEARLY_ALL * len(explained))


def _named(lesion_ids: Collection[int]) -> str:
    ids = sorted(lesion_ids)
    more = f" and {len(ids) - _FEW_NAMES} more" if len(ids) > _FEW_NAMES else ""
    return f"lesion{'s' if len(ids) > 1 else ''} {', '.join(map(str, ids[:_FEW_NAMES]))}{more}"
