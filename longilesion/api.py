"""Python interface: segmentation and diagnosis of image files; `longilesion` exports it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from longilesion.case_files import SeriesChoice, read_case
from longilesion.diagnosis_settings import Phase
from longilesion.ensemble import Ensemble, load_detector, load_ensemble
from longilesion.errors import InputError
from longilesion.labelling import Labels
from longilesion.organs import LIVER, confined
from longilesion.pipeline import Segmentation, segment_case, with_types

if TYPE_CHECKING:
    from longilesion.diagnosis.bundle import DiagnosisModel
    from longilesion.diagnosis.findings import Diagnosis


def segment(
    followup: str | Path,
    *,
    baseline: str | Path | None = None,
    lesions: str | Path | None = None,
    baseline_clicks: str | Path | None = None,
    followup_clicks: str | Path | None = None,
    baseline_series: str | None = None,
    followup_series: str | None = None,
    same_patient: bool = False,
    ensemble: Ensemble | None = None,
    labels: Labels = "lesion_ids",
    refine_clicks: bool = False,
    split_components: bool = False,
    find_new: bool = False,
    organs: str | Path | None = None,
    detector: Ensemble | None = None,
    types: DiagnosisModel | None = None,
) -> Segmentation:
    """Outlines the lesions of a baseline scan in a follow-up scan, as `longilesion segment` does, and writes nothing.

    The files are those of the command, DICOM among them, of which `baseline_series` and `followup_series` choose one of
    several, and `same_patient` accepts ids or dates that contradict each other. `lesions`, clicks or both determine
    which lesions to segment. The result's `maps["primary"]` has the voxels of the follow-up scan, its `lesions` the
    outcome of each lesion. Without `ensemble` the shipped model is loaded at every call; pass one from `load_ensemble`
    to segment several cases. With `find_new`, `detector` (by default the shipped one, if there is one, else the
    ensemble) searches for lesions that nobody clicked, in the masks of the folder `organs` if that is given; the
    result's `candidates` are what it finds. With `types`, a model from `load_diagnosis_bundle`, the result's `types`
    are those of the lesions in the liver, whose mask is in `organs`.

    Raises InputError for files that cannot be used, BundleError for a model that cannot.
    """
    if lesions is None and baseline_clicks is None and followup_clicks is None and not find_new:
        raise InputError("nothing to look for; expected lesions, baseline_clicks, followup_clicks or find_new")
    if not find_new and ((organs is not None and types is None) or detector is not None):
        raise InputError("organs or a detector without a search; expected find_new=True too")
    if types is not None and (organs is None or labels == "binary"):
        raise InputError("types without organs, or with binary labels; expected organs, and labels of lesion ids")
    case = read_case(
        Path(followup),
        _path(baseline),
        _path(lesions),
        baseline_clicks=_path(baseline_clicks),
        followup_clicks=_path(followup_clicks),
        split_components=split_components,
        series=SeriesChoice(baseline=baseline_series, followup=followup_series),
        same_patient=same_patient,
    )
    ensemble = ensemble or load_ensemble()
    livers = {} if organs is None or types is None else confined(case, Path(organs), [LIVER]).followups
    search = None
    if find_new:
        from longilesion.new_lesions import Search

        search = Search(detector=detector or load_detector(ensemble))
        if organs is not None:
            case = confined(case, Path(organs))
    segmentation = segment_case(case, ensemble, labels=labels, refine_clicks=refine_clicks, search=search)
    return segmentation if types is None else with_types(segmentation, livers, types)


def diagnose(
    phases: Mapping[Phase, str | Path], *, liver: str | Path | None = None, model: DiagnosisModel | None = None
) -> Diagnosis:
    """Finds the liver's lesions in an exam's phases and tells their types, as `longilesion diagnose` does.

    Writes nothing. `liver` is the mask on the voxels of the venous scan, or of the one that takes its place. Without
    `model` the shipped one is loaded at every call; pass one from `load_diagnosis_bundle` to diagnose several exams.
    Research use only, trained on synthetic lesions.

    Raises InputError for files that cannot be used, BundleError for a model that cannot.
    """
    # Imported late: the libraries of registration take long to load.
    from longilesion.diagnosis.bundle import load_diagnosis_bundle
    from longilesion.diagnosis.diagnose import diagnose as diagnosed
    from longilesion.diagnosis.phases import read_phases

    exam = read_phases({phase: Path(path) for phase, path in phases.items()}, _path(liver))
    return diagnosed(exam, model or load_diagnosis_bundle())


def _path(name: str | Path | None) -> Path | None:
    return None if name is None else Path(name)
