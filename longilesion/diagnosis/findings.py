"""What a diagnosis finds: lesions with the probabilities of their types, and a patient's probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from longilesion.case import LesionMap
from longilesion.diagnosis_settings import LesionType, likeliest


@dataclass(frozen=True, slots=True, kw_only=True)
class TypedLesion:
    """A lesion of the map: `probabilities` of the types sum to 1, `score` is the probability that it is a lesion."""

    lesion_id: int
    probabilities: Mapping[LesionType, float]
    score: float
    volume_ml: float
    diameter_mm: float

    @property
    def type(self) -> LesionType:
        """The most probable type."""
        return likeliest(self.probabilities)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Diagnosis:
    """Lesions on the reference phase's voxels, and for each type the probability that the patient has it.

    `patient` is LiverMax (section 2.2); `by_volume` the type's share of their volume, its comparison.
    """

    lesions: LesionMap
    typed: tuple[TypedLesion, ...]
    patient: Mapping[LesionType, float]
    by_volume: Mapping[LesionType, float]
