"""From probabilities to a label map: presence, components, merged lesions, overlaps.

Works in each lesion's own box, never on the whole volume, and in the scan's LPS view.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import cc3d
import numpy as np
from jaxtyping import Bool, Float32, Shaped, UInt16
from numpy.typing import NDArray

from longilesion.case import LesionMap, LesionPrediction
from longilesion.config import Thresholds
from longilesion.geometry import ZYX, Box, Grid, Triple, box_slices, voxel_index
from longilesion.uncertainty import DEVIATIONS, Band
from longilesion.voi import occupied_box, paste_probability

Labels = Literal["lesion_ids", "binary"]

# Two prompts outline one lesion if they share this much of the smaller outline; less is two lesions that touch.
MERGED_SHARE = 0.5
_CONNECTIVITY: Final = 18
# A narrow outline with less of the volume than this counts as so much: its logarithm is needed.
_LEAST_SHARE = 0.02


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LabelledScan:
    """One scan's label map; per lesion id the volume and mean probability of its voxels, and a note if it has none.

    `merged_into` names, for each lesion that was merged into another, the one whose label is used. `bands` are those of
    lesions whose deviation is known.
    """

    lesions: LesionMap
    volumes_ml: Mapping[int, float]
    probabilities: Mapping[int, float]
    notes: Mapping[int, str]
    merged_into: Mapping[int, int]
    bands: Mapping[int, Band]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Outline:
    """One lesion's mask and probability in the box of its voxels, which begins at `start_zyx` of the scan."""

    lesion_id: int
    click_zyx: Triple
    start_zyx: ZYX
    probability: Float32[np.ndarray, "z y x"]
    mask: Bool[np.ndarray, "z y x"]

    @property
    def box(self) -> Box:
        return box_slices(self.start_zyx, np.add(self.start_zyx, self.mask.shape))


def label_lesions(
    predictions: Sequence[LesionPrediction], grid: Grid, thresholds: Thresholds, *, labels: Labels = "lesion_ids"
) -> LabelledScan:
    """Writes the outlines of all lesions of one scan into one map.

    A lesion below the presence threshold gets no voxels. Of the others each keeps the component (18 neighbours)
    nearest to its click in millimetres, as in LongiNet (section 2.4). Prompts whose outlines are one and the same
    component, as those of merged lesions are, give one label, that of the nearest click. A voxel that two lesions
    claim is assigned to the one of higher probability, then to that of the nearer click.
    """
    notes: dict[int, str] = {}
    merged_into: dict[int, int] = {}
    outlines: list[_Outline] = []
    _, lps = grid.lps_view(np.empty(grid.shape_zyx, np.bool_))
    for prediction in predictions:
        lesion_id = prediction.prompt.lesion_id
        if prediction.is_gone(thresholds.presence_threshold):
            notes[lesion_id] = f"gone: presence {prediction.presence:.2f} below {thresholds.presence_threshold:.2f}"
            continue
        outline = _outline(prediction, lps, thresholds.threshold)
        if outline is None:
            notes[lesion_id] = f"no voxel reaches probability {thresholds.threshold:.2f}"
        else:
            outlines.append(outline)
    kept = []
    for group in _merged_groups(outlines):
        merged = _merged(group, lps)
        kept.append(merged)
        for outline in group:
            if outline.lesion_id != merged.lesion_id:
                merged_into[outline.lesion_id] = merged.lesion_id
                notes[outline.lesion_id] = f"merged with lesion {merged.lesion_id}"
    ids = np.zeros(grid.shape_zyx, np.uint16)
    view, _ = grid.lps_view(ids)
    _write(kept, view, lps)
    by_id = {prediction.prompt.lesion_id: prediction for prediction in predictions}
    volumes: dict[int, float] = {}
    probabilities: dict[int, float] = {}
    bands: dict[int, Band] = {}
    for outline in kept:
        own = _largest_piece(view, outline)
        volumes[outline.lesion_id] = float(own.sum()) * grid.voxel_volume_ml
        if own.any():
            probabilities[outline.lesion_id] = float(outline.probability[own].mean())
            band = _band(by_id[outline.lesion_id], outline, lps, thresholds.threshold)
            bands |= {} if band is None else {outline.lesion_id: band}
        else:
            notes[outline.lesion_id] = "all its voxels belong to lesions of higher probability"
    if labels == "binary":
        np.minimum(ids, 1, out=ids)
    return LabelledScan(
        lesions=LesionMap(ids=ids, grid=grid),
        volumes_ml=volumes,
        probabilities=probabilities,
        notes=notes,
        merged_into=merged_into,
        bands=bands,
    )


def _band(prediction: LesionPrediction, outline: _Outline, lps: Grid, threshold: float) -> Band | None:
    """The band of a lesion that is outlined; None where nothing is known of its deviation."""
    if prediction.deviation is None:
        return None
    volume_ml, length_mm = _measures(outline, lps)
    narrow, wide = (
        _outline(replace(prediction, probability=prediction.probability + far * prediction.deviation), lps, threshold)
        for far in (np.float32(-DEVIATIONS), np.float32(DEVIATIONS))
    )
    narrow_ml, narrow_mm = (0.0, 0.0) if narrow is None else _measures(narrow, lps)
    wide_ml, wide_mm = (0.0, 0.0) if wide is None else _measures(wide, lps)
    # The component nearest to the click may be another one in each of them.
    return Band(
        narrow_ml=min(max(narrow_ml, _LEAST_SHARE * volume_ml), volume_ml),
        wide_ml=max(wide_ml, volume_ml),
        narrow_mm=min(narrow_mm, length_mm),
        wide_mm=max(wide_mm, length_mm),
    )


def _measures(outline: _Outline, lps: Grid) -> tuple[float, float]:
    """Its volume and longest axial diameter."""
    # Imported here, as --help needs this module's names without waiting for SciPy.
    from longilesion.diameter import axial_diameter_mm

    stop = np.add(outline.start_zyx, outline.mask.shape)
    window = lps.window(outline.start_zyx, voxel_index(stop))
    return float(outline.mask.sum()) * lps.voxel_volume_ml, axial_diameter_mm(outline.mask, window)


def _outline(prediction: LesionPrediction, lps: Grid, threshold: float) -> _Outline | None:
    """The component nearest to the click; None where nothing reaches the threshold."""
    probability, window = paste_probability(_likely_part(prediction, lps, threshold), lps)
    mask = probability >= threshold
    if not mask.any():
        return None
    click = lps.index_zyx(prediction.prompt.followup.point_xyz_mm)
    components, count = _connected(mask)
    if count > 1:
        voxels = np.argwhere(mask)
        nearest = voxels[_distances_mm(voxels + [axis.start for axis in window], click, lps).argmin()]
        mask = components == components[tuple(nearest)]
    box = occupied_box(mask)
    z, y, x = (axis.start + inner.start for axis, inner in zip(window, box, strict=True))
    return _Outline(
        lesion_id=prediction.prompt.lesion_id,
        click_zyx=click,
        start_zyx=(z, y, x),
        probability=probability[box],
        mask=mask[box],
    )


def _likely_part(prediction: LesionPrediction, lps: Grid, threshold: float) -> LesionPrediction:
    """The part of the lattice on which the voxels of the scan above the threshold depend: usually a small one."""
    box = occupied_box(prediction.probability >= threshold)
    # A scan voxel averages lattice voxels up to `reach` away: it may lie that far outside the box, and then depends on
    # lattice voxels as far again.
    reach = np.maximum(1, np.ceil(np.divide(lps.spacing_zyx_mm, prediction.grid.spacing_zyx_mm)))
    low = np.maximum(0, [axis.start for axis in box] - 2 * reach)
    high = np.minimum(prediction.grid.shape_zyx, [axis.stop for axis in box] + 2 * reach)
    start, stop = ((z, y, x) for z, y, x in np.stack([low, high]).astype(int).tolist())
    part = prediction.probability[box_slices(start, stop)]
    return replace(prediction, probability=part, grid=prediction.grid.window(start, stop), deviation=None)


def _merged_groups(outlines: Sequence[_Outline]) -> list[list[_Outline]]:
    """Groups of outlines that are one lesion, directly or through others."""
    groups: list[list[_Outline]] = []
    for outline in outlines:
        same = [group for group in groups if any(_is_same_lesion(outline, other) for other in group)]
        groups = [group for group in groups if group not in same]
        groups.append([*(member for group in same for member in group), outline])
    return groups


def _is_same_lesion(first: _Outline, second: _Outline) -> bool:
    shared = _shared_box(first, second)
    if shared is None:
        return False
    overlap = int(np.count_nonzero(first.mask[shared[0]] & second.mask[shared[1]]))
    smaller = min(int(first.mask.sum()), int(second.mask.sum()))
    return overlap >= MERGED_SHARE * smaller


def _shared_box(first: _Outline, second: _Outline) -> tuple[Box, Box] | None:
    """The intersection of two boxes, in each one's own indices."""
    low = np.maximum(first.start_zyx, second.start_zyx)
    high = np.minimum(np.add(first.start_zyx, first.mask.shape), np.add(second.start_zyx, second.mask.shape))
    if (low >= high).any():
        return None
    return box_slices(low - first.start_zyx, high - first.start_zyx), box_slices(
        low - second.start_zyx, high - second.start_zyx
    )


def _merged(group: Sequence[_Outline], lps: Grid) -> _Outline:
    """The union of a group's outlines, with the label of the click nearest to it."""
    if len(group) == 1:
        return group[0]
    start = np.min([outline.start_zyx for outline in group], axis=0)
    stop = np.max([np.add(outline.start_zyx, outline.mask.shape) for outline in group], axis=0)
    mask = np.zeros(stop - start, np.bool_)
    probability = np.zeros(stop - start, np.float32)
    for outline in group:
        place = box_slices(outline.start_zyx - start, np.add(outline.start_zyx, outline.mask.shape) - start)
        mask[place] |= outline.mask
        np.maximum(probability[place], outline.probability, out=probability[place])
    voxels = np.argwhere(mask) + start
    centre = voxels.mean(axis=0)

    def remoteness(outline: _Outline) -> tuple[float, float, int]:
        # Clicks inside the lesion are all at distance 0 from it; the more central one decides.
        to_voxels = float(_distances_mm(voxels, outline.click_zyx, lps).min())
        inside = max(lps.spacing_zyx_mm)
        to_centre = float(_distances_mm(centre[None], outline.click_zyx, lps)[0])
        return max(to_voxels, inside), to_centre, outline.lesion_id

    z, y, x = start.tolist()
    return replace(min(group, key=remoteness), start_zyx=(z, y, x), probability=probability, mask=mask)


def _write(outlines: Sequence[_Outline], view: UInt16[np.ndarray, "z y x"], lps: Grid) -> None:
    """Writes outlines into the map; the higher probability wins, then the nearer click, then the lower id."""
    for outline in outlines:
        claimed = outline.mask.copy()
        for other in outlines:
            shared = None if other is outline else _shared_box(outline, other)
            if shared is None:
                continue
            mine, theirs = outline.probability[shared[0]], other.probability[shared[1]]
            loses = theirs > mine
            tied = np.argwhere((theirs == mine) & outline.mask[shared[0]] & other.mask[shared[1]])
            if len(tied):
                voxels = tied + [axis.start for axis in shared[0]] + np.array(outline.start_zyx)
                own, others = (_distances_mm(voxels, lesion.click_zyx, lps) for lesion in (outline, other))
                loses[tuple(tied.T)] = (others < own) | ((others == own) & (other.lesion_id < outline.lesion_id))
            claimed[shared[0]] &= ~(loses & other.mask[shared[1]])
        view[outline.box][claimed] = outline.lesion_id


def _largest_piece(view: UInt16[np.ndarray, "z y x"], outline: _Outline) -> Bool[np.ndarray, "a b c"]:
    """The largest component of a lesion's voxels; smaller ones that an overlap has separated are erased."""
    region = view[outline.box]
    own = region == outline.lesion_id
    pieces, count = _connected(own)
    if count <= 1:
        return np.asarray(own)
    largest = pieces == 1 + int(np.bincount(pieces.ravel())[1:].argmax())
    region[own & ~largest] = 0
    return np.asarray(largest)


def _connected(mask: Bool[np.ndarray, "z y x"]) -> tuple[NDArray[np.integer], int]:
    components, count = cc3d.connected_components(mask, connectivity=_CONNECTIVITY, return_N=True)
    return components, int(count)


def _distances_mm(voxels: Shaped[np.ndarray, "n 3"], point_zyx: Triple, lps: Grid) -> NDArray[np.float64]:
    offsets = (voxels - np.asarray(point_zyx)) * np.array(lps.spacing_zyx_mm)
    return np.asarray(np.linalg.norm(offsets, axis=1))
