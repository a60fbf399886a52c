"""The result of a review: the segmentation that its decisions make of the networks' predictions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int64, UInt16

from longilesion.case import Case, Click, LesionMap, LesionPrompt, OutsideLesion, ScanName
from longilesion.ensemble import Ensemble
from longilesion.new_lesions import NewLesion
from longilesion.pipeline import (
    LesionOutcome,
    PredictedLesion,
    Segmentation,
    baseline_volume_ml,
    label_predictions,
)
from longilesion.review.predictions import FirstSegmentation, with_clicks
from longilesion.review.state import LesionState, ReviewState
from longilesion.review.volume import RasVolume, ras_view
from longilesion.timing import Stopwatch

# A lesion without voxels, and one that has none and no outcome but that.
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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reviewed:
    """The segmentation, the case that it is of, and the outlines by id, candidates among them.

    The case has the clicks that were set, and none of what is not a lesion.
    """

    case: Case
    segmentation: Segmentation
    outlines: Mapping[int, Outline]


def review_result(
    case: Case,
    state: ReviewState,
    first: FirstSegmentation,
    predicted: Mapping[int, PredictedLesion],
    ensemble: Ensemble,
    volumes: Mapping[ScanName, RasVolume],
    *,
    is_shown_only: bool = False,
) -> Reviewed:
    """Labels the predictions of all lesions that are there, then merges and draws as was decided.

    Where nothing was decided this is the first segmentation. `predicted` has every lesion that has a place in the scans
    and is no candidate. For what is only shown, intervals are left out, as they take long, and so is what is not a
    lesion in the case's outlines.
    """
    of_lesions = {lesion_id: lesion for lesion_id, lesion in state.lesions.items() if not lesion.is_candidate}
    clicks = {lesion_id: lesion.click for lesion_id, lesion in of_lesions.items() if lesion.click is not None}
    strangers = {lesion_id for lesion_id, lesion in of_lesions.items() if lesion.verdict == "not_a_lesion"}
    reported = with_clicks(case, clicks)
    if not is_shown_only:
        reported = _without(reported, strangers)
    there = [
        _quick(predicted[lesion_id]) if is_shown_only else predicted[lesion_id]
        for lesion_id, lesion in of_lesions.items()
        if lesion_id in predicted and lesion.verdict not in ABSENT
    ]
    outside = {lesion_id: each for lesion_id, each in first.outside.items() if lesion_id not in predicted}
    asked = [each for lesion_id, each in outside.items() if of_lesions[lesion_id].verdict not in ABSENT]
    labelled = label_predictions(reported, there, asked, ensemble, Stopwatch())
    maps = {name: each.ids for name, each in labelled.maps.items()}
    outlines = _outlines(maps, state, first, predicted, volumes)
    # What was drawn of a lesion before it merged goes with it; the other one's may include it.
    outlines = _drawn(outlines, maps, state, volumes, of_merged=True)
    outlines = _merged(outlines, maps, state, volumes)
    outlines = _drawn(outlines, maps, state, volumes, of_merged=False)
    candidates = tuple(
        each for each in first.segmentation.candidates if state.lesions[each.lesion_id].verdict == "untouched"
    )
    confirmed = [
        _confirmed(reported, each, outlines[each.lesion_id], volumes)
        for each in first.segmentation.candidates
        if state.lesions[each.lesion_id].verdict in ("confirmed", "drawn")
    ]
    known = outside | dict(predicted)
    gone = [
        _gone(case, known[lesion_id])
        for lesion_id, lesion in of_lesions.items()
        if lesion.verdict == "gone" and lesion_id in known
    ]
    outcomes = [_outcome(outcome, state.lesions, outlines, volumes) for outcome in labelled.lesions]
    segmentation = replace(
        labelled,
        maps={
            name: LesionMap(
                ids=ids,
                grid=labelled.maps[name].grid,
                candidates=tuple(sorted(each.lesion_id for each in candidates if each.scan_name == name)),
            )
            for name, ids in maps.items()
        },
        lesions=tuple(sorted([*outcomes, *gone, *confirmed], key=lambda outcome: outcome.prompt.lesion_id)),
        left_out=tuple(lesion_id for lesion_id in labelled.left_out if lesion_id not in known),
        candidates=candidates,
        seconds=first.segmentation.seconds,
    )
    return Reviewed(case=reported, segmentation=segmentation, outlines=outlines)


def scan_of(lesion_id: int, lesion: LesionState, first: FirstSegmentation) -> ScanName | None:
    """The follow-up scan that a lesion lies in; None where that is outside all."""
    if lesion.click is not None:
        return lesion.click.scan_name
    if lesion_id in first.predicted:
        return first.predicted[lesion_id].prompt.followup.scan_name
    found = (each.scan_name for each in first.segmentation.candidates if each.lesion_id == lesion_id)
    return next(found, None)


def _quick(predicted: PredictedLesion) -> PredictedLesion:
    return replace(predicted, prediction=replace(predicted.prediction, deviation=None))


def _without(case: Case, lesion_ids: set[int]) -> Case:
    """The case without lesions, in clicks and outlines."""
    if not lesion_ids:
        return case
    baselines = {}
    for name, prior in case.baselines.items():
        known = lesion_ids & prior.regions.keys()
        if not known or prior.lesions is None:
            baselines[name] = prior
            continue
        ids = prior.lesions.ids.copy()
        ids[np.isin(ids, sorted(known))] = 0
        regions = {lesion_id: region for lesion_id, region in prior.regions.items() if lesion_id not in known}
        baselines[name] = replace(prior, lesions=replace(prior.lesions, ids=ids), regions=regions)
    clicks = tuple(pair for pair in case.clicks if pair.lesion_id not in lesion_ids)
    return replace(case, baselines=baselines, clicks=clicks)


def _outlines(
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


def _merged(
    outlines: dict[int, Outline],
    maps: Mapping[ScanName, UInt16[np.ndarray, "z y x"]],
    state: ReviewState,
    volumes: Mapping[ScanName, RasVolume],
) -> dict[int, Outline]:
    """The outlines with those of merged lesions added to the ones that these have merged with, in the maps as well."""
    merged = dict(outlines)
    for lesion_id, lesion in state.lesions.items():
        into = _root(lesion_id, state.lesions)
        if lesion.verdict != "merged" or lesion_id not in outlines:
            continue
        own = outlines[lesion_id]
        view, _ = ras_view(maps[own.scan], volumes[own.scan].scan.grid)
        view[volumes[own.scan].positions(own.voxels)] = into
        merged[lesion_id] = replace(own, voxels=NO_VOXELS)
        target = merged.get(into, Outline(scan=own.scan, voxels=NO_VOXELS))
        if target.scan == own.scan:
            merged[into] = replace(target, voxels=np.union1d(target.voxels, own.voxels))
    return merged


def _root(lesion_id: int, lesions: Mapping[int, LesionState]) -> int:
    """The lesion that one has merged with, directly or through others; itself where it has not."""
    while (into := lesions[lesion_id].merged_into) is not None:
        lesion_id = into
    return lesion_id


def _drawn(
    outlines: dict[int, Outline],
    maps: Mapping[ScanName, UInt16[np.ndarray, "z y x"]],
    state: ReviewState,
    volumes: Mapping[ScanName, RasVolume],
    *,
    of_merged: bool,
) -> dict[int, Outline]:
    """The outlines with what was drawn by hand, in the maps as well; voxels of other lesions stay theirs."""
    drawn = dict(outlines)
    for lesion_id, lesion in state.lesions.items():
        if not (lesion.added or lesion.removed) or lesion.verdict in ABSENT or lesion_id not in outlines:
            continue
        if (lesion.verdict == "merged") != of_merged:
            continue
        own = drawn[lesion_id]
        volume = volumes[own.scan]
        view, _ = ras_view(maps[own.scan], volume.scan.grid)
        wanted = np.array(sorted(lesion.added), np.int64)
        wanted = wanted[wanted < view.size]
        added = wanted[view[volume.positions(wanted)] == 0]
        removed = np.intersect1d(own.voxels, np.array(sorted(lesion.removed), np.int64))
        view[volume.positions(added)] = lesion_id
        view[volume.positions(removed)] = 0
        voxels = np.setdiff1d(np.union1d(own.voxels, added), removed)
        drawn[lesion_id] = replace(own, voxels=voxels, added=len(added), removed=len(removed))
    return drawn


def _outcome(
    outcome: LesionOutcome,
    lesions: Mapping[int, LesionState],
    outlines: Mapping[int, Outline],
    volumes: Mapping[ScanName, RasVolume],
) -> LesionOutcome:
    """The outcome with what was merged and drawn; the networks' intervals are not those of such an outline."""
    lesion_id = outcome.prompt.lesion_id
    lesion, outline = lesions[lesion_id], outlines.get(lesion_id)
    if outline is None:
        return outcome
    volume_ml = len(outline.voxels) * volumes[outline.scan].grid.voxel_volume_ml
    parts = [other for other, state in lesions.items() if state.merged_into == lesion_id]
    notes = [outcome.note]
    if parts:
        notes.append(f"includes lesion {', '.join(map(str, parts))}, as the reader says")
    if outline.added or outline.removed:
        notes.append(f"drawn by hand: {outline.added} voxels added, {outline.removed} removed")
    changed = replace(
        outcome,
        volume_followup_ml=volume_ml,
        note="; ".join(note for note in notes if note),
        band=None,
        uncertainty=None,
    )
    if lesion.verdict == "merged":
        into = lesion.merged_into
        return replace(changed, merged_into=into, note=f"merged with lesion {into}, as the reader says")
    return changed if len(notes) > 1 else outcome


def _gone(case: Case, lesion: PredictedLesion | OutsideLesion) -> LesionOutcome:
    prompt = lesion if isinstance(lesion, OutsideLesion) else lesion.prompt
    return LesionOutcome(
        prompt=prompt,
        place_xyz_mm=lesion.prediction.prompt.followup.point_xyz_mm if isinstance(lesion, PredictedLesion) else None,
        presence=lesion.prediction.presence if isinstance(lesion, PredictedLesion) else None,
        probability=0.0,
        volume_baseline_ml=baseline_volume_ml(case, prompt),
        volume_followup_ml=0.0,
        note="gone, as the reader says",
        similarity=lesion.similarity if isinstance(lesion, PredictedLesion) else None,
    )


def _confirmed(case: Case, found: NewLesion, outline: Outline, volumes: Mapping[ScanName, RasVolume]) -> LesionOutcome:
    """A candidate that a person has confirmed: a new lesion, clicked where the search has found it."""
    click = Click(scan_name=found.scan_name, point_xyz_mm=found.candidate.centre_xyz_mm)
    prompt = LesionPrompt(lesion_id=found.lesion_id, followup=click, baseline=None, propagated=False, confidence=1.0)
    return LesionOutcome(
        prompt=prompt,
        place_xyz_mm=click.point_xyz_mm,
        presence=None,
        probability=found.candidate.score,
        volume_baseline_ml=baseline_volume_ml(case, prompt),
        volume_followup_ml=len(outline.voxels) * volumes[outline.scan].grid.voxel_volume_ml,
        note="found by the search, confirmed by the reader",
        is_present=True,
    )
