"""Clicks that contradict their scan or the outlines of their lesions, and the probable reason.

A reason is another interpretation of a file's numbers, such as another axis order or frame. It is reported where nearly
all points are consistent under that interpretation.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from longilesion.case import NEAR_MM, Baseline, ScanName
from longilesion.geometry import Grid, Triple
from longilesion.point_formats import NamedPoint, Space, index_in_space

# Share of a file's points that an interpretation has to explain.
_NEARLY_ALL = 0.8
# The other clicks of a scan are doubtful where at least so many, and more than half of all, contradict their outlines.
_FEWEST_DOUBTFUL = 2
_FEW_NAMES = 8
_SPACES: Mapping[Space, str] = {
    "voxels": "voxel indices",
    "LPS": "world millimetres (LPS)",
    "RAS": "world millimetres (RAS)",
}


def is_elsewhere(prior: Baseline, lesion_id: int, point_xyz_mm: Triple) -> bool:
    """Whether a click lies farther from its lesion's outline than 10 mm, or in the outline of another lesion.

    A click inside the outline's bounding box counts as near, for instance in the middle of a ring-shaped lesion.
    """
    at_point = prior.lesions_at(point_xyz_mm)
    if lesion_id in at_point:
        return False
    return bool(at_point) or not _is_near(prior, lesion_id, point_xyz_mm)


def are_doubtful(elsewhere: Sequence[bool]) -> bool:
    """Whether so many clicks of a scan contradict their outlines that its clicks without an outline are unreliable."""
    return sum(elsewhere) >= _FEWEST_DOUBTFUL and 2 * sum(elsewhere) > len(elsewhere)


def contradiction(
    points: Mapping[int, NamedPoint], scan_name: ScanName, priors: Mapping[ScanName, Baseline]
) -> tuple[str, bool]:
    """A warning about the clicks of a baseline scan that contradict their outlines, empty if there are none.

    Also returns whether these make the scan's other clicks doubtful.
    """
    outlined = {
        lesion_id: point
        for lesion_id, point in points.items()
        if any(lesion_id in prior.regions for prior in priors.values())
    }
    if scan_name not in priors:
        return "", False
    prior = priors[scan_name]
    grid = prior.scan.grid
    read = {lesion_id: grid.world_xyz_mm(point.index_zyx(grid)) for lesion_id, point in points.items()}
    is_wrong = {lesion_id: is_elsewhere(prior, lesion_id, read[lesion_id]) for lesion_id in outlined}
    elsewhere = [lesion_id for lesion_id, wrong in is_wrong.items() if wrong]
    if not elsewhere:
        return "", False
    doubtful = are_doubtful(list(is_wrong.values()))
    guess = ""
    for words, places in _other_readings(outlined, prior).items():
        if _is_nearly_all([_is_near(prior, lesion_id, place) for lesion_id, place in places.items()]):
            guess = f", as if their points were {words}"
            break
    else:
        if _are_names_mixed_up(prior, elsewhere, read):
            guess = ", but in or at those of other lesions, as if their names (ids) were rotated or mixed up"
    others = points.keys() - outlined.keys()
    rest = f", and clicks without an outline are not trusted ({_named(others)})" if doubtful and others else ""
    found = f"{len(elsewhere)} of {len(outlined)} clicks lie outside the outlines of their lesions"
    return f"{found} ({_named(elsewhere)}){guess}; the outlines' centres are used{rest}", doubtful


def points_outside(points: Mapping[int, NamedPoint], grid: Grid) -> str:
    """A warning about the points outside a scan, which are moved to its border; empty if there are none.

    It gives a reason where at least half of the points lie far outside; an inaccurate click may lie just outside.
    """
    read = {lesion_id: point.index_zyx(grid) for lesion_id, point in points.items()}
    outside = [lesion_id for lesion_id, index in read.items() if not grid.contains(index)]
    if not outside:
        return ""
    guess = ""
    if 2 * sum(_beyond_mm(grid, index) > NEAR_MM for index in read.values()) >= len(points):
        for words, indices in _other_indices(points, grid).items():
            if _is_nearly_all([grid.contains(index) for index in indices.values()]):
                guess = f", as if the points were {words}"
                break
    size = " x ".join(map(str, grid.shape_zyx[::-1]))
    where = _named(outside)
    if len(outside) == 1:
        where += " at " + ", ".join(f"{number:.6g}" for number in points[outside[0]].numbers)
    clicks = "click lies" if len(outside) == 1 else "clicks lie"
    return f"{len(outside)} {clicks} outside its scan of {size} voxels ({where}){guess}; moved to the border"


def _other_indices(points: Mapping[int, NamedPoint], grid: Grid) -> dict[str, dict[int, Triple]]:
    """The voxel indices of a file's points under other interpretations of its numbers, by their description."""
    indices = {
        "in z, y, x order": {
            lesion_id: index_in_space(point.numbers[::-1], point.space, grid) for lesion_id, point in points.items()
        }
    }
    said = {point.space for point in points.values()}
    for space, words in _SPACES.items():
        if space not in said:
            indices[words] = {
                lesion_id: index_in_space(point.numbers, space, grid) for lesion_id, point in points.items()
            }
    return indices


def _other_readings(points: Mapping[int, NamedPoint], prior: Baseline) -> dict[str, dict[int, Triple]]:
    """The same as world points of the scan."""
    grid = prior.scan.grid
    return {
        words: {lesion_id: grid.world_xyz_mm(index) for lesion_id, index in indices.items()}
        for words, indices in _other_indices(points, grid).items()
    }


def _is_near(prior: Baseline, lesion_id: int, point_xyz_mm: Triple) -> bool:
    """Whether a point lies in a lesion's box, or near its outline."""
    region = prior.regions.get(lesion_id)
    if region is None:
        return False
    index = prior.scan.grid.index_zyx(point_xyz_mm)
    low, high = np.subtract(region.start_zyx, 0.5), np.subtract(region.stop_zyx, 0.5)
    is_in_box = bool(np.all(low <= index) and np.all(index <= high))
    return is_in_box or lesion_id in prior.lesions_near(point_xyz_mm, NEAR_MM)


def _are_names_mixed_up(prior: Baseline, elsewhere: Sequence[int], read: Mapping[int, Triple]) -> bool:
    """Whether nearly all contradicting clicks lie at another lesion, or another click lies at theirs."""
    meant = {}
    for lesion_id, point in read.items():
        near = prior.lesions_near(point, NEAR_MM)
        if near and (nearest := min(near, key=near.__getitem__)) != lesion_id:
            meant[lesion_id] = nearest
    explained = [lesion_id in meant or lesion_id in meant.values() for lesion_id in elsewhere]
    return len(prior.regions) > 1 and _is_nearly_all(explained)


def _beyond_mm(grid: Grid, index_zyx: Triple) -> float:
    return float(np.linalg.norm(np.subtract(index_zyx, grid.clamped(index_zyx)) * grid.spacing_zyx_mm))


def _is_nearly_all(explained: Sequence[bool]) -> bool:
    return sum(explained) >= math.ceil(_NEARLY_ALL * len(explained))


def _named(lesion_ids: Collection[int]) -> str:
    ids = sorted(lesion_ids)
    more = f" and {len(ids) - _FEW_NAMES} more" if len(ids) > _FEW_NAMES else ""
    return f"lesion{'s' if len(ids) > 1 else ''} {', '.join(map(str, ids[:_FEW_NAMES]))}{more}"
