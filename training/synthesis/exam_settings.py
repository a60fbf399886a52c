"""Settings of synthetic exams of the liver in several contrast phases."""

from __future__ import annotations

from pydantic import Field, model_validator

from longilesion.config import PositiveTriple
from longilesion.diagnosis_settings import LesionType
from longilesion.settings import Settings
from training.synthesis.kinetics import Range
from training.synthesis.settings import LifenetSettings, MotionSettings


class MissingShares(Settings):
    """Shares of the exams without a phase; the venous one is always there."""

    non_contrast: float = Field(default=0.0, ge=0, le=1)
    arterial: float = Field(default=0.0, ge=0, le=1)
    delayed: float = Field(default=1 / 3, ge=0, le=1)


class ExamSettings(Settings):
    """What exams contain, and how their phases differ."""

    spacing_zyx_mm: PositiveTriple | None = Field(
        default=None, description="of all phases; that of the scan, with at least 1.5 mm within slices, if not given"
    )
    types: tuple[LesionType, ...] = Field(default=(), description="types that are drawn; all of them if empty")
    healthy_share: float = Field(default=0.08, ge=0, le=1, description="of the patients, who have no lesion")
    most_lesions: int = Field(default=6, ge=1, description="of a patient")
    second_share: float = Field(default=0.25, ge=0, le=1, description="of the patients with lesions of a second type")
    sizes: LifenetSettings = Field(default=LifenetSettings(), description="classes of sizes, and room for lesions")
    real_shape_share: float = Field(
        default=0.5, ge=0, le=1, description="of the irregular lesions that have a real one's shape, where there are"
    )
    missing: MissingShares = MissingShares()
    motion: MotionSettings = Field(
        default=MotionSettings(rotation_deg=1.0, deformation_mm=(0.2, 1.2)),
        description="between the venous phase and each other one",
    )
    breathing_mm: float = Field(
        default=3.0, ge=0, le=20, description="standard deviation of the diaphragm's height between the phases"
    )
    noise_hu: Range = Field(default=(5.0, 18.0), description="range of the noise's deviation in an exam")
    noise_factor: Range = Field(default=(0.8, 1.25), description="range of a phase's noise against the exam's")

    @model_validator(mode="after")
    def _check(self) -> ExamSettings:
        if len(set(self.types)) < len(self.types):
            raise ValueError("types names one twice")
        if self.spacing_zyx_mm is not None and min(self.spacing_zyx_mm) <= 0:
            raise ValueError("spacing_zyx_mm: expected a positive spacing along each axis")
        for name, (low, high) in (("noise_hu", self.noise_hu), ("noise_factor", self.noise_factor)):
            if not 0 <= low <= high:
                raise ValueError(f"{name}: expected a range of numbers from 0 on, not {low:g} to {high:g}")
        return self
