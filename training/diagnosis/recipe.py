"""A recipe of a model of lesion types: the model's settings, and how to train it."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from longilesion.diagnosis_settings import DiagnosisSettings
from longilesion.settings import Settings
from training.diagnosis.settings import DiagnosisLossSettings
from training.recipe import IntensityAugmentation, OptimizerSettings, Precision, SpatialAugmentation
from training.recipe_file import recipe_of


class WindowSettings(Settings):
    """What is cut out of an exam for a training sample."""

    lesion_share: float = Field(
        default=0.8, ge=0, le=1, description="of the windows, where exams have lesions, that show at least one's centre"
    )
    hidden_share: float = Field(
        default=0.0, ge=0, lt=1, description="how often each phase but the venous one is hidden, where there are more"
    )


class ExamAugmentation(Settings):
    """Augmentation of a window; with all off it is the identity."""

    spatial: SpatialAugmentation = Field(default=SpatialAugmentation(), description="of all phases alike")
    joint_intensity: IntensityAugmentation = Field(default=IntensityAugmentation(), description="of all alike")
    intensity: IntensityAugmentation = Field(default=IntensityAugmentation(), description="of each phase apart")


class ExamValidationSettings(Settings):
    """Interval of validation, and number of exams."""

    every: int = Field(default=1000, ge=1, description="steps")
    exams: int = Field(default=24, ge=1, description="at most")


class DiagnosisRecipe(Settings):
    """Everything that a training run depends on besides its exams and its seed."""

    name: str
    steps: int = Field(gt=0)
    batch_size: int = Field(gt=0)
    average_decay: float = Field(default=0.999, ge=0, lt=1, description="of the exponential average of weights")
    precision: Precision = "bf16-mixed"
    windows: WindowSettings = WindowSettings()
    augmentation: ExamAugmentation = ExamAugmentation()
    validation: ExamValidationSettings = ExamValidationSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    loss: DiagnosisLossSettings = DiagnosisLossSettings()
    model: DiagnosisSettings


def read_diagnosis_recipe(path: Path) -> DiagnosisRecipe:
    """Reads a recipe of a model of lesion types; raises InputError that names the first wrong entry."""
    return recipe_of(path, DiagnosisRecipe)
