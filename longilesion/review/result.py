"""The result of a review: the segmentation that its decisions make of the networks' predictions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

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
from longilesion.review.outlines import ABSENT, Outline, draw_outlines, labelled_outlines, merge_outlines
from longilesion.review.predictions import FirstSegmentation, with_clicks
from longilesion.review.state import LesionState, ReviewState, root
from longilesion.review.volume import RasVolume
from longilesion.timing import Stopwatch


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
    outlines = labelled_outlines(maps, state, first, predicted, volumes)
    # What was drawn of a lesion before it merged goes with it; the other one's may include it.
    outlines = draw_outlines(outlines, maps, state, volumes, of_merged=True)
    outlines = merge_outlines(outlines, maps, state, volumes)
    outlines = draw_outlines(outlines, maps, state, volumes, of_merged=False)
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
    hosts = _hosts(labelled.lesions, state, outlines)
    outcomes = [_outcome(outcome, state.lesions, outlines, volumes, hosts=hosts) for outcome in labelled.lesions]
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


def _hosts(outcomes: Iterable[LesionOutcome], state: ReviewState, outlines: Mapping[int, Outline]) -> dict[int, int]:
    """The lesion whose outline includes that of each merged one: as a person says, or else as the networks found."""
    merged = state.merged
    for outcome in outcomes:
        lesion_id, into = outcome.prompt.lesion_id, outcome.merged_into
        if into is None or lesion_id in merged or len(outlines[lesion_id].voxels):
            continue
        # A person may have merged the two the other way round.
        if root(into, merged) != lesion_id:
            merged[lesion_id] = into
    return {lesion_id: root(lesion_id, merged) for lesion_id in merged}


def _outcome(
    outcome: LesionOutcome,
    lesions: Mapping[int, LesionState],
    outlines: Mapping[int, Outline],
    volumes: Mapping[ScanName, RasVolume],
    *,
    hosts: Mapping[int, int],
) -> LesionOutcome:
    """The outcome with what was merged and drawn; the networks' intervals are not those of such an outline."""
    lesion_id = outcome.prompt.lesion_id
    lesion, outline = lesions[lesion_id], outlines.get(lesion_id)
    if outline is None:
        return outcome
    volume_ml = len(outline.voxels) * volumes[outline.scan].grid.voxel_volume_ml
    host = hosts.get(lesion_id)
    parts = [other for other, each in lesions.items() if each.verdict == "merged" and hosts[other] == lesion_id]
    is_found = len(outline.voxels) > 0
    # Why the networks have found nothing is no reason any more where there is something now.
    was_empty = is_found and outcome.volume_followup_ml == 0
    notes = [f"by the networks {outcome.note}" if was_empty else outcome.note]
    if parts:
        notes.append(f"includes lesion {', '.join(map(str, parts))}, as the reader says")
    if outline.added or outline.removed:
        notes.append(f"drawn by hand: {outline.added} voxels added, {outline.removed} removed")
    changed = replace(
        outcome,
        volume_followup_ml=volume_ml,
        note="; ".join(note for note in notes if note),
        merged_into=host,
        is_present=outcome.is_present or is_found,
        band=None,
        uncertainty=None,
    )
    if lesion.verdict == "merged":
        return replace(changed, note=f"merged with lesion {host}, as the reader says")
    return changed if len(notes) > 1 else replace(outcome, merged_into=host)


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
