"""Scoring one prediction for one exam: the challenge's entries, a row per lesion, and the input of detection."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import cc3d
import numpy as np
from jaxtyping import UInt16

from longilesion.case import HIGHEST_ID, LesionMap
from longilesion.errors import InputError
from longilesion.evaluation.challenge import ChallengeScore, challenge_entries, challenge_score
from longilesion.evaluation.detection import ExamLesions
from longilesion.evaluation.exam import Exam, Instances, Prediction, ScoringSettings
from longilesion.evaluation.lesions import LesionScore, best_matches, merged_ids, score_lesions
from longilesion.evaluation.measures import Outline, largest_axial_diameter_mm
from longilesion.evaluation.overlap import Overlap


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ExamScore:
    """The scores of an exam that all later figures are computed from.

    `missing` are the scans without a predicted map. `unknown_labels` are predicted under ids that no lesion has;
    `extra_ml` is their volume, with that of lesions in scans where they are not.
    """

    exam: str
    challenge: ChallengeScore
    lesions: tuple[LesionScore, ...]
    detection: ExamLesions
    missing: tuple[str, ...]
    unknown_labels: int
    extra_ml: float
    has_baseline: bool


def score_exam(exam: Exam, prediction: Prediction, settings: ScoringSettings) -> ExamScore:
    """Scores an exam; a scan without a predicted map counts as one without predicted lesions."""
    missing = tuple(scan for scan in exam.truth if scan not in prediction.maps)
    prediction = replace(prediction, maps={scan: _map_of(exam, prediction, scan) for scan in exam.truth})
    overlaps = _overlaps(exam, prediction)
    if settings.matching == "overlap":
        prediction = _renamed(exam, prediction, overlaps)
        overlaps = _overlaps(exam, prediction)
    entries = [
        entry
        for scan, overlap in overlaps.items()
        for entry in challenge_entries(overlap, voxel_ml=exam.truth[scan].grid.voxel_volume_ml)
    ]
    unknown = [label for overlap in overlaps.values() for label in overlap.predicted if label not in exam.facts]
    return ExamScore(
        exam=exam.name,
        challenge=challenge_score(entries),
        lesions=tuple(score_lesions(exam, prediction, overlaps, settings)),
        detection=_detected(exam, prediction, overlaps, settings.instances),
        missing=missing,
        unknown_labels=len(unknown),
        extra_ml=_extra_ml(exam, overlaps),
        has_baseline=exam.baseline is not None,
    )


def _map_of(exam: Exam, prediction: Prediction, scan: str) -> LesionMap:
    truth = exam.truth[scan]
    # Pages of zeros that are never written take no memory.
    return prediction.maps.get(scan) or LesionMap(ids=np.zeros(truth.grid.shape_zyx, np.uint16), grid=truth.grid)


def _overlaps(exam: Exam, prediction: Prediction) -> dict[str, Overlap]:
    return {scan: Overlap.of(truth.ids, prediction.maps[scan].ids) for scan, truth in exam.truth.items()}


def _extra_ml(exam: Exam, overlaps: Mapping[str, Overlap]) -> float:
    """The predicted volume that is in no lesion's row."""
    return sum(
        region.voxels * exam.truth[scan].grid.voxel_volume_ml
        for scan, overlap in overlaps.items()
        for label, region in overlap.predicted.items()
        if label not in exam.facts or exam.facts[label].true_id not in (None, *overlap.truth)
    )


def _renamed(exam: Exam, prediction: Prediction, overlaps: Mapping[str, Overlap]) -> Prediction:
    """The prediction with each label under the id of the true lesion that it matches, others under unused ids.

    Where lesions have merged, the labels that overlap their outline most share the ids of all of them. A label that
    touches no lesion keeps its id if that belongs to a lesion that is gone.
    """
    taken = {*exam.facts, *(label for overlap in overlaps.values() for label in overlap.truth)}
    unused = (number for number in range(1, HIGHEST_ID + 1) if number not in taken)
    maps: dict[str, LesionMap] = {}
    outlined = {label for overlap in overlaps.values() for label in overlap.predicted}
    presence = {lesion_id: sure for lesion_id, sure in prediction.presence.items() if lesion_id not in outlined}
    for scan, overlap in overlaps.items():
        names = {label: true_id for true_id, label in best_matches(overlap).items()}
        spare = {true_id: sorted(merged_ids(exam, true_id) - {true_id}) for true_id in overlap.truth}
        for label in sorted(overlap.predicted.keys() - names.keys()):
            touched = {true_id: voxels for (true_id, other), voxels in overlap.shared.items() if other == label}
            members = spare[max(touched, key=lambda true_id: touched[true_id])] if touched else []
            is_gone = not touched and label in exam.facts and exam.facts[label].true_id is None
            name = label if is_gone else members.pop(0) if members else next(unused, None)
            if name is None:
                raise InputError(f"{exam.name}: more labels than ids; expected at most {HIGHEST_ID}")
            names[label] = name
        given = prediction.maps[scan]
        # Written box by box, as the rest of the map takes no memory as long as it is not written.
        maps[scan] = LesionMap(ids=np.zeros(given.ids.shape, np.uint16), grid=given.grid)
        for label, region in overlap.predicted.items():
            maps[scan].ids[region.box][given.ids[region.box] == label] = names[label]
        presence |= {names[label]: sure for label, sure in prediction.presence.items() if label in names}
    return Prediction(maps=maps, presence=presence, merged_into={})


def _detected(exam: Exam, prediction: Prediction, overlaps: Mapping[str, Overlap], instances: Instances) -> ExamLesions:
    parts = []
    for scan, truth in exam.truth.items():
        predicted, presence = prediction.maps[scan], prediction.presence
        overlap = overlaps[scan]
        if instances == "components":
            truth, _ = _components(truth, f"{exam.name}, {scan} scan, truth")
            predicted, label_of = _components(predicted, f"{exam.name}, {scan} scan, prediction")
            presence = {part: presence[label] for part, label in label_of.items() if label in presence}
            overlap = Overlap.of(truth.ids, predicted.ids)
        parts.append(_scan_lesions(truth, predicted, overlap, presence))
    return _together(parts)


def _scan_lesions(
    truth: LesionMap, predicted: LesionMap, overlap: Overlap, presence: Mapping[int, float]
) -> ExamLesions:
    places = ({label: place for place, label in enumerate(side)} for side in (overlap.truth, overlap.predicted))
    row_of, column_of = places
    iou = np.zeros((len(row_of), len(column_of)))
    for true_id, label in overlap.shared:
        iou[row_of[true_id], column_of[label]] = overlap.iou(true_id, label)
    true_mm, predicted_mm = (
        np.array([largest_axial_diameter_mm(Outline.of(lesions, [label], [region])) for label, region in side.items()])
        for lesions, side in ((truth, overlap.truth), (predicted, overlap.predicted))
    )
    true_ml, predicted_ml = (
        np.array([region.voxels for region in side.values()]) * truth.grid.voxel_volume_ml
        for side in (overlap.truth, overlap.predicted)
    )
    return ExamLesions(
        true_mm=true_mm,
        true_ml=true_ml,
        predicted_mm=predicted_mm,
        predicted_ml=predicted_ml,
        # Without a presence, the confidence is 1.
        confidence=np.array([presence.get(label, 1.0) for label in overlap.predicted], np.float64),
        iou=iou,
    )


def _together(parts: list[ExamLesions]) -> ExamLesions:
    """The lesions of several scans as one exam; lesions of different scans have no overlap."""
    true_mm, true_ml, predicted_mm, predicted_ml, confidence = (
        np.concatenate([np.empty(0), *(getattr(part, field) for part in parts)])
        for field in ("true_mm", "true_ml", "predicted_mm", "predicted_ml", "confidence")
    )
    iou = np.zeros((len(true_mm), len(predicted_mm)))
    row = column = 0
    for part in parts:
        rows, columns = part.iou.shape
        iou[row : row + rows, column : column + columns] = part.iou
        row, column = row + rows, column + columns
    return ExamLesions(
        true_mm=true_mm,
        true_ml=true_ml,
        predicted_mm=predicted_mm,
        predicted_ml=predicted_ml,
        confidence=confidence,
        iou=iou,
    )


def _components(lesions: LesionMap, source: str) -> tuple[LesionMap, dict[int, int]]:
    """The connected components of a map's labels, and the label of each."""
    found: UInt16[np.ndarray, "z y x"]
    components, count = cc3d.connected_components(lesions.ids, connectivity=18, return_N=True)
    if count > HIGHEST_ID:
        raise InputError(f"{source}: {count} connected components; expected at most {HIGHEST_ID}")
    found = components.astype(np.uint16)
    voxels = np.flatnonzero(found)
    labels = np.zeros(count + 1, np.int64)
    labels[found.ravel()[voxels]] = lesions.ids.ravel()[voxels]
    return LesionMap(ids=found, grid=lesions.grid), dict(enumerate(labels.tolist()))
