"""The record of a run that trains a model of lesion types."""

from __future__ import annotations

from training.diagnosis.recipe import DiagnosisRecipe
from training.run_folder import AnyRunRecord


class DiagnosisRecord(AnyRunRecord):
    """The record of a run of `training.diagnosis.train`, whose livers held out it has not seen."""

    recipe: DiagnosisRecipe
    held_out: tuple[str, ...]
