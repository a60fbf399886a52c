"""The outlines of a review in its maps: as they are labelled, merged by a person, and drawn by hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int64, UInt16

from longilesion.case import ScanName
from longilesion.pipeline import PredictedLesion
from longilesion.review.predictions import FirstSegmentation
from longilesion.review.state import ReviewState, root
from longilesion.review.volume import RasVolume, ras_view

# A lesion without voxels, and the verdicts that leave one without any.
NO_VOXELS: Int64[np.ndarray, " n"] = np.empty(0, np.int64)
ABSENT = ("gone", "not_a_lesion")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Outline:
    """A lesion's voxels in a follow-up scan (indices by `RasVolume`).

    `added` and `removed` count the voxels in which a drawing by hand differs from what it was drawn on.
    """

    scan: ScanName
    voxels: Int64[np.ndarray, " n"]
    added: int = 0
    removed: int = 0


def labelled_outlines(
    maps: Mapping[ScanName, UInt16[np.ndarray, "z y x"]],
    state: ReviewState,
    first: FirstSegmentation,
    predicted: Mapping[int, PredictedLesion],
    volumes: Mapping[ScanName, RasVolume],
) -> dict[int, Outline]:
    """The voxels of each lesion in the maps; candidates are written into these where there is no lesion."""
    outlines: dict[int, Outline] = {}
    for name, ids in maps.items():
        volume = volumes[name]
        own = [each for each in predicted.values() if each.prompt.followup.scan_name == name]
        found = volume.lesions(ids, [volume.box_of(each.prediction.grid) for each in own])
        for each in own:
            lesion_id = each.prompt.lesion_id
            outlines[lesion_id] = Outline(scan=name, voxels=found.get(lesion_id, NO_VOXELS))
        view, _ = ras_view(ids, volume.scan.grid)
        for candidate in first.segmentation.candidates:
            lesion_id = candidate.lesion_id
            if candidate.scan_name != name or state.lesions[lesion_id].verdict in ABSENT:
                continue
            box = volume.box_of(candidate.candidate.grid)
            voxels = volume.lesions(first.segmentation.maps[name].ids, [box]).get(lesion_id, NO_VOXELS)
            free = voxels[view[volume.positions(voxels)] == 0]
            view[volume.positions(free)] = lesion_id
            outlines[lesion_id] = Outline(scan=name, voxels=free)
    return outlines


def merge_outlines(
    outlines: dict[int, Outline],
    maps: Mapping[ScanName, UInt16[np.ndarray, "z y x"]],
    state: ReviewState,
    volumes: Mapping[ScanName, RasVolume],
) -> dict[int, Outline]:
    """The outlines with those of merged lesions added to the ones that these have merged with, in the maps as well."""
    merged, targets = dict(outlines), state.merged
    for lesion_id, lesion in state.lesions.items():
        into = root(lesion_id, targets)
        if lesion.verdict != "merged" or lesion_id not in outlines:
            continue
        own = outlines[lesion_id]
        view, _ = ras_view(maps[own.scan], volumes[own.scan].scan.grid)
        view[volumes[own.scan].positions(own.voxels)] = into
        merged[lesion_id] = replace(own, voxels=NO_VOXELS)
        target = merged.get(into, Outline(scan=own.scan, voxels=NO_VOXELS))
        merged[into] = replace(target, voxels=np.union1d(target.voxels, own.voxels))
    return merged


def draw_outlines(
    outlines: dict[int, Outline],
    maps: Mapping[ScanName, UInt16[np.ndarray, "z y x"]],
    state: ReviewState,
    volumes: Mapping[ScanName, RasVolume],
    *,
    of_merged: bool,
) -> dict[int, Outline]:
    """The outlines with what was drawn by hand, in the maps as well; voxels of other lesions stay theirs."""
    by_hand = {
        lesion_id: lesion
        for lesion_id, lesion in state.lesions.items()
        if (lesion.added or lesion.removed)
        and lesion_id in outlines
        and lesion.verdict not in ABSENT
        and (lesion.verdict == "merged") == of_merged
    }
    views = {name: ras_view(ids, volumes[name].scan.grid)[0] for name, ids in maps.items()}
    drawn = dict(outlines)
    # First for all lesions, as what was erased of one may have been painted as another since.
    for lesion_id, lesion in by_hand.items():
        own = drawn[lesion_id]
        removed = np.intersect1d(own.voxels, np.array(sorted(lesion.removed), np.int64))
        views[own.scan][volumes[own.scan].positions(removed)] = 0
        drawn[lesion_id] = replace(own, voxels=np.setdiff1d(own.voxels, removed), removed=len(removed))
    for lesion_id, lesion in by_hand.items():
        own = drawn[lesion_id]
        view, volume = views[own.scan], volumes[own.scan]
        wanted = np.array(sorted(lesion.added), np.int64)
        wanted = wanted[wanted < view.size]
        added = wanted[view[volume.positions(wanted)] == 0]
        view[volume.positions(added)] = lesion_id
        drawn[lesion_id] = replace(own, voxels=np.union1d(own.voxels, added), added=len(added))
    return drawn
