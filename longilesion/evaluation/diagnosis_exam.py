"""A diagnosed exam beside its truth: which lesions were found and as which type, and the patient's probabilities."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pydantic import BaseModel, ConfigDict

from longilesion.case import LesionMap
from longilesion.diagnosis.findings import Diagnosis, TypedLesion
from longilesion.diagnosis_settings import LESION_TYPES, LesionType
from longilesion.evaluation.lesions import best_matches
from longilesion.evaluation.overlap import Overlap

# From this intersection over union on, a lesion counts as found.
MATCH_IOU = 0.1


class DiagnosedLesion(BaseModel):
    """A true lesion, a predicted one, or both where they match; what belongs to an absent one is None."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    true_id: int | None
    predicted_id: int | None
    true_type: LesionType | None
    predicted_type: LesionType | None
    true_volume_ml: float | None
    predicted_volume_ml: float | None
    iou: float | None
    dice: float | None
    score: float | None
    probabilities: dict[LesionType, float] | None

    @property
    def is_match(self) -> bool:
        """Whether a true lesion was found."""
        return self.true_id is not None and self.predicted_id is not None


class DiagnosedExam(BaseModel):
    """One patient: the true types, every true and predicted lesion, and the probability of each type.

    `dice` is that of all lesions' voxels together, None where there are no true ones. `patient` and `by_volume` are as
    in `Diagnosis`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    types: tuple[LesionType, ...]
    dice: float | None
    patient: dict[LesionType, float]
    by_volume: dict[LesionType, float]
    lesions: tuple[DiagnosedLesion, ...]

    @classmethod
    def of(cls, name: str, truth: LesionMap, types: Mapping[int, LesionType], diagnosis: Diagnosis) -> DiagnosedExam:
        """Matches predicted lesions to true ones, one to one, so that the sum of Dice is highest, from an IoU of 0.1.

        Both maps have the same voxels, `types` and `diagnosis.typed` all ids of their map.
        """
        overlap = Overlap.of(truth.ids, diagnosis.lesions.ids)
        voxels = sum(region.voxels for side in (overlap.truth, overlap.predicted) for region in side.values())
        typed = {lesion.lesion_id: lesion for lesion in diagnosis.typed}
        return cls(
            name=name,
            types=tuple(each for each in LESION_TYPES if each in types.values()),
            dice=2 * sum(overlap.shared.values()) / voxels if overlap.truth else None,
            patient=dict(diagnosis.patient),
            by_volume=dict(diagnosis.by_volume),
            lesions=tuple(_lesions(overlap, types, typed, voxel_ml=truth.grid.voxel_volume_ml)),
        )


def _lesions(
    overlap: Overlap, types: Mapping[int, LesionType], typed: Mapping[int, TypedLesion], *, voxel_ml: float
) -> Iterator[DiagnosedLesion]:
    """The true lesions by id, each with its match, then the predicted ones that match none."""
    matches = best_matches(overlap, least_iou=MATCH_IOU)
    pairs: list[tuple[int | None, int | None]] = [(true_id, matches.get(true_id)) for true_id in sorted(overlap.truth)]
    pairs += [(None, label) for label in sorted(overlap.predicted.keys() - matches.values())]
    for true_id, label in pairs:
        found = None if label is None else typed[label]
        yield DiagnosedLesion(
            true_id=true_id,
            predicted_id=label,
            true_type=None if true_id is None else types[true_id],
            predicted_type=None if found is None else found.type,
            true_volume_ml=None if true_id is None else overlap.truth[true_id].voxels * voxel_ml,
            predicted_volume_ml=None if label is None else overlap.predicted[label].voxels * voxel_ml,
            iou=None if true_id is None or label is None else overlap.iou(true_id, label),
            dice=None if true_id is None or label is None else overlap.dice(true_id, label),
            score=None if found is None else found.score,
            probabilities=None
            if found is None
            else {each: found.probabilities[each] for each in LESION_TYPES if each in found.probabilities},
        )
