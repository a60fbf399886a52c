"""Sources of predictions: files that a method has written, or a model that is run on the cases."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from longilesion.case import Case
from longilesion.ensemble import Ensemble
from longilesion.errors import InputError
from longilesion.evaluation.exam import Exam, Prediction
from longilesion.evaluation.folders import ExamFiles, PredictionFiles, content_of, find_predictions
from longilesion.evaluation.reading import read_prediction
from longilesion.grand_challenge import read_case
from longilesion.pipeline import Segmentation, segment_case

_log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True, eq=False)
class FilesMethod:
    """Predictions in a folder; `warnings` list missing and surplus files."""

    name: str
    warnings: list[str]
    exams: dict[str, PredictionFiles]

    @classmethod
    def of(cls, folder: Path, exams: Sequence[ExamFiles], *, name: str) -> FilesMethod:
        """Finds the predictions for exams; missing ones, and files that belong to no exam, become warnings.

        Raises InputError where the folder has no prediction for any exam.
        """
        found, extra = find_predictions(folder, exams)
        if not found:
            names = ", ".join(exam.name for exam in exams[:3]) + (", ..." if len(exams) > 3 else "")
            raise InputError(
                f"{folder}: no prediction for any of the {len(exams)} exams, found {content_of(folder)}; "
                f"expected maps of {names}"
            )
        warnings = [f"{path}: belongs to no exam; left out" for path in extra]
        for exam in exams:
            maps = found[exam.name].maps if exam.name in found else {}
            warnings += [
                f"{folder}: no prediction for {exam.name}, {scan} scan; counted as empty"
                for scan in exam.truth
                if scan not in maps
            ]
            warnings += [
                f"{path}: a scan of {exam.name} that the truth lacks; left out"
                for scan, path in maps.items()
                if scan not in exam.truth
            ]
        return cls(name=name, warnings=warnings, exams=found)

    def predict(self, files: ExamFiles, exam: Exam) -> Prediction:
        """Reads the exam's maps; none where they are missing."""
        if files.name not in self.exams:
            return Prediction(maps={}, presence={}, merged_into={})
        return read_prediction(self.exams[files.name], exam)


@dataclass(slots=True, kw_only=True, eq=False)
class ModelMethod:
    """A model that segments every case, with its follow-up clicks or without any."""

    name: str
    ensemble: Ensemble
    has_followup_clicks: bool
    warnings: list[str]

    def predict(self, files: ExamFiles, exam: Exam) -> Prediction:
        """Segments the exam's case; raises InputError where there is none, or its grid is not that of the truth."""
        if files.case is None:
            raise InputError(f"{files.name}: no input beside the truth; expected a case to segment")
        case, followup_files = read_case(files.case)
        if not self.has_followup_clicks:
            case = without_followup_clicks(case)
        for scan, path in followup_files.items():
            grid, tolerance_mm = case.followups[scan].grid, min(case.followups[scan].grid.spacing_zyx_mm) / 2
            if scan in exam.truth and not grid.matches(exam.truth[scan].grid, tolerance_mm=tolerance_mm):
                raise InputError(f"{path}: other voxels than {files.truth[scan]}; expected the scan of the truth")
        for missing in sorted(exam.truth.keys() - case.followups.keys()):
            warning = f"{files.case}: no {missing} follow-up scan, which the truth has; counted as empty"
            _log.warning("%s", warning)
            self.warnings.append(warning)
        return prediction_of(segment_case(case, self.ensemble))


Method: TypeAlias = FilesMethod | ModelMethod


def prediction_of(result: Segmentation) -> Prediction:
    """The pipeline's result as a prediction."""
    return Prediction(
        maps={str(scan): lesions for scan, lesions in result.maps.items()},
        presence={lesion.prompt.lesion_id: lesion.presence for lesion in result.lesions if lesion.presence is not None},
        merged_into={
            lesion.prompt.lesion_id: lesion.merged_into for lesion in result.lesions if lesion.merged_into is not None
        },
    )


def without_followup_clicks(case: Case) -> Case:
    """The case as in the first interactive step: without follow-up clicks and lesions known only by these."""
    clicks = tuple(replace(pair, followup=None) for pair in case.clicks if pair.baseline is not None)
    return replace(case, clicks=clicks)
