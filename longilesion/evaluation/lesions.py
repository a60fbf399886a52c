"""The score of every lesion: by its id, and by the best match regardless of ids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict
from scipy.optimize import linear_sum_assignment

from longilesion.case import LesionMap
from longilesion.diameter import AxialDiameters
from longilesion.evaluation.challenge import challenge_score, lesion_entries
from longilesion.evaluation.exam import BaselineLesion, Exam, Fate, Prediction, ScoringSettings
from longilesion.evaluation.fates import predicted_fates
from longilesion.evaluation.measures import (
    Outline,
    axial_diameters,
    centre_xyz_mm,
    hausdorff_95_mm,
    surface_dice,
)
from longilesion.evaluation.overlap import Overlap


class LesionScore(BaseModel):
    """One lesion of one exam.

    `diameter_mm` is the largest axial one in the truth, or in the baseline where the lesion is gone; short axes are
    perpendicular to it. Merged lesions
    share one outline, that of `true_id`, and its row has their measures: their predictions are united, as in
    Promptable LongiSeg (table 1). `challenge_dice` is the mean over the labels that touch the lesion, `match_...` is
    for the best match among single predicted labels, regardless of their ids. Values that are not defined are None,
    such as measures of an absent lesion, or distances to an empty outline.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    exam: str
    scan: str | None
    lesion_id: int
    true_id: int | None
    fate: Fate | None
    predicted_fate: Fate | None
    lesion_type: str | None
    is_target: bool | None
    diameter_mm: float | None
    click_error_mm: float | None
    presence: float | None
    baseline_volume_ml: float | None
    baseline_diameter_mm: float | None
    true_volume_ml: float
    predicted_volume_ml: float
    true_diameter_mm: float
    predicted_diameter_mm: float
    baseline_short_mm: float | None = None
    true_short_mm: float = 0.0
    predicted_short_mm: float = 0.0
    dice: float | None = None
    surface_dice: float | None = None
    hausdorff_95_mm: float | None = None
    challenge_dice: float | None = None
    match_id: int | None = None
    match_dice: float | None = None
    match_iou: float | None = None
    match_surface_dice: float | None = None
    match_hausdorff_95_mm: float | None = None
    is_detected: bool | None = None

    @property
    def is_present(self) -> bool | None:
        """Whether the lesion is present in the truth; None where it has merged into another."""
        return None if self.dice is None and self.true_id is not None else self.true_id is not None

    @property
    def is_persisting(self) -> bool:
        """Whether the lesion was there before and still is: of new ones that is not in question."""
        return bool(self.is_present) and self.fate != "new"

    @property
    def volume_error_ml(self) -> float | None:
        """Predicted minus true volume of a present lesion."""
        return None if self.dice is None else self.predicted_volume_ml - self.true_volume_ml

    @property
    def diameter_error_mm(self) -> float | None:
        """Predicted minus true diameter of a present lesion."""
        return None if self.dice is None else self.predicted_diameter_mm - self.true_diameter_mm

    @property
    def is_kept(self) -> float | None:
        """Whether a present lesion has an outline under its own id; None for others."""
        return float(self.predicted_volume_ml > 0) if self.is_present else None

    @property
    def is_recognised(self) -> float | None:
        """Whether a lesion that is gone has no predicted outline; None for others."""
        return float(self.predicted_volume_ml == 0) if self.is_present is False else None


def score_lesions(
    exam: Exam, prediction: Prediction, overlaps: Mapping[str, Overlap], settings: ScoringSettings
) -> list[LesionScore]:
    """A row per lesion and scan in which it is present, and one per lesion that is gone or merged into another."""
    fates = predicted_fates(exam, prediction, overlaps)
    rows = []
    for scan, overlap in overlaps.items():
        matches = best_matches(overlap)
        for true_id in overlap.truth:
            known = _known(exam, prediction, true_id) | {"predicted_fate": fates[true_id]}
            pair = _Pair.of(exam, prediction, scan, overlap, true_id)
            by_id = _by_id(exam, pair, settings)
            rows.append(LesionScore(**known, **by_id, **_by_match(pair, matches.get(true_id), by_id, settings)))
    measured = {row.lesion_id for row in rows}
    for lesion_id in exam.facts.keys() - measured:
        known = _known(exam, prediction, lesion_id) | {"predicted_fate": fates[lesion_id]}
        rows.append(LesionScore(**known, **_absent(exam, prediction, overlaps, lesion_id)))
    return sorted(rows, key=lambda row: (row.lesion_id, row.scan or ""))


def best_matches(overlap: Overlap, *, least_iou: float = 0.0) -> dict[int, int]:
    """The predicted label of each true lesion, so that every label is used once and the sum of Dice is highest.

    Only labels that overlap a lesion by an IoU of `least_iou` can be its match.
    """
    pairs = [pair for pair in overlap.shared if overlap.iou(*pair) >= least_iou]
    true_ids, predicted_ids = (sorted({pair[side] for pair in pairs}) for side in (0, 1))
    dice = np.zeros((len(true_ids), len(predicted_ids)))
    for true_id, label in pairs:
        dice[true_ids.index(true_id), predicted_ids.index(label)] = overlap.dice(true_id, label)
    if not dice.size:
        return {}
    rows, columns = linear_sum_assignment(dice, maximize=True)
    return {
        true_ids[row]: predicted_ids[column] for row, column in zip(rows, columns, strict=True) if dice[row, column] > 0
    }


def merged_ids(exam: Exam, true_id: int) -> set[int]:
    """The lesions that have merged into one in the truth."""
    return {true_id, *(lesion_id for lesion_id, fact in exam.facts.items() if fact.true_id == true_id)}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Pair:
    """A true lesion of one scan, and the labels predicted for it and for lesions that have merged into it."""

    scan: str
    true_id: int
    labels: tuple[int, ...]
    truth: Outline
    predicted: LesionMap
    overlap: Overlap

    @classmethod
    def of(cls, exam: Exam, prediction: Prediction, scan: str, overlap: Overlap, true_id: int) -> _Pair:
        return cls(
            scan=scan,
            true_id=true_id,
            labels=tuple(sorted(merged_ids(exam, true_id) & overlap.predicted.keys())),
            truth=Outline.of(exam.truth[scan], [true_id], [overlap.truth[true_id]]),
            predicted=prediction.maps[scan],
            overlap=overlap,
        )

    def outline(self, labels: tuple[int, ...]) -> Outline | None:
        """The predicted outline of some labels."""
        regions = [self.overlap.predicted[label] for label in labels]
        return Outline.of(self.predicted, labels, regions) if labels else None

    def surfaces(self, labels: tuple[int, ...], settings: ScoringSettings) -> tuple[float, float | None]:
        """Surface Dice and Hausdorff distance of the predicted outline of some labels."""
        outline = self.outline(labels)
        if outline is None:
            return 0.0, None
        share = surface_dice(self.truth, outline, tolerance_mm=settings.tolerance_mm)
        return share, hausdorff_95_mm(self.truth, outline)


def _by_id(exam: Exam, pair: _Pair, settings: ScoringSettings) -> dict[str, Any]:
    overlap, voxel_ml = pair.overlap, pair.truth.grid.voxel_volume_ml
    true_voxels = overlap.truth[pair.true_id].voxels
    predicted_voxels = sum(overlap.predicted[label].voxels for label in pair.labels)
    common = sum(overlap.shared.get((pair.true_id, label), 0) for label in pair.labels)
    outline = pair.outline(pair.labels)
    true, predicted = axial_diameters(pair.truth), AxialDiameters() if outline is None else axial_diameters(outline)
    share, distance_mm = pair.surfaces(pair.labels, settings)
    click = exam.clicks.get(pair.true_id)
    return {
        "scan": pair.scan,
        "diameter_mm": true.longest_mm,
        "click_error_mm": None
        if click is None or click.scan != pair.scan
        else float(np.linalg.norm(np.subtract(click.point_xyz_mm, centre_xyz_mm(pair.truth)))),
        "true_volume_ml": true_voxels * voxel_ml,
        "predicted_volume_ml": predicted_voxels * voxel_ml,
        "true_diameter_mm": true.longest_mm,
        "predicted_diameter_mm": predicted.longest_mm,
        "true_short_mm": true.perpendicular_mm,
        "predicted_short_mm": predicted.perpendicular_mm,
        "dice": 2 * common / (true_voxels + predicted_voxels),
        "surface_dice": share,
        "hausdorff_95_mm": distance_mm,
        "challenge_dice": challenge_score(lesion_entries(overlap, pair.true_id, voxel_ml=voxel_ml)).dice,
    }


def _by_match(pair: _Pair, match_id: int | None, by_id: Mapping[str, Any], settings: ScoringSettings) -> dict[str, Any]:
    labels = () if match_id is None else (match_id,)
    # Usually the label with the lesion's id is also the best match, and need not be measured again.
    is_same = labels == pair.labels
    share, distance_mm = (
        (by_id["surface_dice"], by_id["hausdorff_95_mm"]) if is_same else pair.surfaces(labels, settings)
    )
    iou = 0.0 if match_id is None else pair.overlap.iou(pair.true_id, match_id)
    return {
        "match_id": match_id,
        "match_dice": 0.0 if match_id is None else pair.overlap.dice(pair.true_id, match_id),
        "match_iou": iou,
        "match_surface_dice": share,
        "match_hausdorff_95_mm": distance_mm,
        "is_detected": iou >= settings.detection_iou,
    }


def _absent(exam: Exam, prediction: Prediction, overlaps: Mapping[str, Overlap], lesion_id: int) -> dict[str, Any]:
    outlines = [
        Outline.of(prediction.maps[scan], [lesion_id], [overlap.predicted[lesion_id]])
        for scan, overlap in overlaps.items()
        if lesion_id in overlap.predicted
    ]
    before = None if exam.baseline is None else exam.baseline.get(lesion_id)
    click = exam.clicks.get(lesion_id)
    predicted = max(map(axial_diameters, outlines), key=lambda each: each.longest_mm, default=AxialDiameters())
    return {
        "scan": None if click is None else click.scan,
        "diameter_mm": None if before is None else before.diameter_mm,
        "click_error_mm": None,
        "true_volume_ml": 0.0,
        "predicted_volume_ml": sum(float(outline.mask.sum()) * outline.grid.voxel_volume_ml for outline in outlines),
        "true_diameter_mm": 0.0,
        "predicted_diameter_mm": predicted.longest_mm,
        "predicted_short_mm": predicted.perpendicular_mm,
    }


def _known(exam: Exam, prediction: Prediction, lesion_id: int) -> dict[str, Any]:
    """The values of a row that do not depend on whether the lesion is present."""
    fact = exam.facts[lesion_id]
    nothing = BaselineLesion(volume_ml=0.0, diameter_mm=0.0)
    before = None if exam.baseline is None else exam.baseline.get(lesion_id, nothing)
    presence = [prediction.presence[member] for member in merged_ids(exam, lesion_id) if member in prediction.presence]
    return {
        "exam": exam.name,
        "lesion_id": lesion_id,
        "true_id": fact.true_id,
        "fate": fact.fate,
        "lesion_type": fact.lesion_type,
        "is_target": fact.is_target,
        "presence": max(presence, default=None),
        "baseline_volume_ml": None if before is None else before.volume_ml,
        "baseline_diameter_mm": None if before is None else before.diameter_mm,
        "baseline_short_mm": None if before is None else before.short_mm,
    }
