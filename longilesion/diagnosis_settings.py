"""Settings of a model that tells the types of liver lesions: phases, types, lattice, network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

from pydantic import Field, model_validator

from longilesion.config import PositiveTriple
from longilesion.geometry import ZYX
from longilesion.network_settings import LesionQueriesSettings
from longilesion.settings import Settings

Phase: TypeAlias = Literal["non_contrast", "arterial", "venous", "delayed"]
# In order of time.
PHASES: tuple[Phase, ...] = ("non_contrast", "arterial", "venous", "delayed")

LesionType: TypeAlias = Literal["hcc", "icc", "metastasis", "haemangioma", "fnh", "calcification", "cyst", "other"]
# LIDIA's (section 3), in its order.
LESION_TYPES: tuple[LesionType, ...] = (
    "hcc",
    "icc",
    "metastasis",
    "haemangioma",
    "fnh",
    "calcification",
    "cyst",
    "other",
)
# Names of types for people.
TYPE_NAMES: Mapping[LesionType, str] = {
    "hcc": "HCC",
    "icc": "ICC",
    "metastasis": "metastasis",
    "haemangioma": "haemangioma",
    "fnh": "FNH",
    "calcification": "calcification",
    "cyst": "cyst",
    "other": "other",
}
MALIGNANT: frozenset[LesionType] = frozenset({"hcc", "icc", "metastasis"})
# Rare kinds together: neither malignant nor benign, and not alike.
RARE: LesionType = "other"

# On everything that this part of the project gives out, until weights of patients are there.
STATEMENT = "research use only, trained on synthetic lesions"


def likeliest(probabilities: Mapping[LesionType, float]) -> LesionType:
    """The most probable type."""
    return max(probabilities, key=lambda name: probabilities[name])


class DiagnosisSettings(Settings):
    """All settings of a model of lesion types.

    Classes are numbered 0 for no lesion, then by `types`. The network is slid over the liver on a lattice of the
    venous phase, to which the others are registered.
    """

    phases: tuple[Phase, ...] = Field(default=PHASES, min_length=1, description="those that the network can take")
    types: tuple[LesionType, ...] = Field(default=LESION_TYPES, min_length=2)
    shape_zyx: ZYX = Field(description="of a window")
    spacing_zyx_mm: PositiveTriple
    clip_hu: tuple[tuple[float, float], ...] = Field(
        default=((-100.0, 300.0),), min_length=1, description="HU windows, a channel of each phase from 0 to 1"
    )
    overlap: float = Field(default=0.5, ge=0, lt=1, description="share of a window that the next one covers again")
    threshold: float = Field(default=0.5, gt=0, lt=1, description="probability from which a voxel is in a lesion")
    least_score: float = Field(
        default=0.5,
        ge=0,
        lt=1,
        description="score (probability of any type, times the mask's mean) from which it is one",
    )
    least_diameter_mm: float = Field(default=3.0, ge=0, description="longest axial diameter of the smallest lesion")
    network: LesionQueriesSettings

    @model_validator(mode="after")
    def _check(self) -> DiagnosisSettings:
        if self.phases != tuple(phase for phase in PHASES if phase in self.phases):
            raise ValueError(f"phases is {list(self.phases)}; expected each once, in order of time")
        if len(set(self.types)) < len(self.types):
            raise ValueError("types names one twice")
        if any(low >= high for low, high in self.clip_hu):
            raise ValueError("clip_hu needs windows whose lower limit is below its upper one")
        if min(self.spacing_zyx_mm) <= 0:
            raise ValueError("spacing_zyx_mm: expected a positive spacing along each axis")
        for along, voxels, factor in zip("zyx", self.shape_zyx, self.network.encoder.factor_zyx, strict=True):
            if voxels < factor or voxels % factor:
                raise ValueError(f"shape_zyx: {voxels} along {along} is not a multiple of the network's {factor}")
        if self.shape_zyx == self.network.encoder.factor_zyx:
            raise ValueError("shape_zyx leaves one voxel to the network's coarsest level; expected two or more")
        return self
