"""The results of `longilesion segment` as DICOM."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from longilesion.case import Case, OutsideLesion
from longilesion.cli.scans import Scans
from longilesion.dicom.files import is_dicom
from longilesion.errors import InputError
from longilesion.files import check_writable
from longilesion.labelling import Labels

if TYPE_CHECKING:
    from longilesion.assessment import CaseResponse
    from longilesion.dicom.report_output import State
    from longilesion.pipeline import LesionOutcome, Segmentation


def check_dicom_output(folder: Path, followup: Path | None, labels: Labels) -> None:
    """Raises InputError where no DICOM can be written to a folder on the images of that follow-up.

    The follow-up is None where an archive gives it, which has nothing but DICOM.
    """
    if followup is not None and not (followup.exists() and is_dicom(followup)):
        raise InputError(
            f"{folder}: DICOM refers to images in DICOM; {followup} is none: expected an image to write to"
        )
    if labels == "binary":
        raise InputError("--labels binary with DICOM, whose segments are lesions; expected --labels lesion_ids")
    if folder.is_file():
        raise InputError(f"{folder}: a file; expected a folder, or nothing, to write DICOM files to")
    check_writable(folder)


def write_dicom(
    folder: Path, case: Case, segmentation: Segmentation, scans: Scans, response: CaseResponse
) -> list[Path]:
    """Writes the lesions of both time points and the response; returns the files.

    Raises InputError where a file cannot be written.
    """
    # Imported late, as few runs write DICOM.
    from longilesion.dicom.output import Outlined, segments_of, write_results
    from longilesion.dicom.series import chosen_series

    prior = case.baselines.get("primary")
    baseline = None
    if scans.baseline is not None and prior is not None and prior.lesions is not None and is_dicom(scans.baseline):
        baseline = Outlined(series=chosen_series(scans.baseline, scans.series.baseline), lesions=prior.lesions)
    return write_results(
        folder,
        Outlined(series=chosen_series(scans.followup, scans.series.followup), lesions=segmentation.maps["primary"]),
        # Labels are ids: `check_dicom_output`.
        response.followup or {},
        lesion_ids=[outcome.prompt.lesion_id for outcome in segmentation.lesions],
        course=response.course,
        states={outcome.prompt.lesion_id: state_of(outcome) for outcome in segmentation.lesions},
        baseline=baseline,
        segments=segments_of(scans.lesions),
    )


def state_of(outcome: LesionOutcome) -> State:
    """What a lesion is where it has no outline of its own."""
    if isinstance(outcome.prompt, OutsideLesion):
        return "outside"
    if outcome.merged_into is not None:
        return "merged"
    return "not outlined" if outcome.is_present else "gone"
