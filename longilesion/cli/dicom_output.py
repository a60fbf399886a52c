"""The results of `longilesion segment`, `longilesion follow` and `longilesion review` as DICOM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from longilesion.case import Case
from longilesion.cli.course_run import Plan
from longilesion.cli.scans import Scans
from longilesion.dicom.files import is_dicom
from longilesion.errors import InputError
from longilesion.files import check_writable
from longilesion.labelling import Labels

if TYPE_CHECKING:
    from longilesion.assessment import CaseResponse
    from longilesion.course import TimePointRecord
    from longilesion.dicom.decisions import Reading
    from longilesion.files import Files
    from longilesion.pipeline import Segmentation
    from longilesion.response import Course
    from longilesion.review.output import DicomOutput
    from longilesion.review.record import ReviewRecord
    from longilesion.review.result import Reviewed


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
    folder: Path,
    case: Case,
    segmentation: Segmentation,
    scans: Scans,
    response: CaseResponse,
) -> list[Path]:
    """Writes the lesions of both time points and the response; returns the files.

    Raises InputError where a file cannot be written.
    """
    # Imported late, as few runs write DICOM.
    from longilesion.dicom.output import RESULTS, write_files

    return write_files(folder, _files(folder, case, segmentation, scans, response), among=RESULTS)


def _files(
    folder: Path,
    case: Case,
    segmentation: Segmentation,
    scans: Scans,
    response: CaseResponse,
    reading: Reading | None = None,
) -> Files:
    """The files of a result, with what readers have decided of it."""
    from longilesion.dicom.output import Findings, Outlined, result_files, segments_of
    from longilesion.dicom.series import chosen_series

    prior = case.baselines.get("primary")
    baseline = None
    if scans.baseline is not None and prior is not None and prior.lesions is not None and is_dicom(scans.baseline):
        baseline = Outlined(series=chosen_series(scans.baseline, scans.series.baseline), lesions=prior.lesions)
    findings = Findings(
        lesion_ids=[outcome.prompt.lesion_id for outcome in segmentation.lesions],
        # Labels are ids: `check_dicom_output`.
        measured=response.followup or {},
        absences={each.prompt.lesion_id: each.absence for each in segmentation.lesions if each.absence is not None},
        course=response.course,
        reading=reading,
    )
    followup = Outlined(
        series=chosen_series(scans.followup, scans.series.followup), lesions=segmentation.maps["primary"]
    )
    return result_files(folder, followup, findings, baseline=baseline, segments=segments_of(scans.lesions))


def review_dicom(scans: Scans) -> DicomOutput:
    """What writes a review in DICOM."""
    # Imported late, as few runs write DICOM.
    from longilesion.dicom.decisions import Reading
    from longilesion.dicom.output import BASELINE_SEG, FOLLOWUP_SEG, REPORT, segments_of
    from longilesion.review.output import DicomOutput

    def files(folder: Path, reviewed: Reviewed, response: CaseResponse, record: ReviewRecord) -> Files:
        lesions = [*record.lesions, *record.candidates]
        reading = Reading(
            readers=tuple(sorted({each.reader for each in lesions if each.reader})),
            is_complete=record.is_complete,
            decisions={each.id: each.decision for each in lesions},
            drawn=frozenset(each.id for each in lesions if each.voxels_added or each.voxels_removed),
        )
        return _files(folder, reviewed.case, reviewed.segmentation, scans, response, reading)

    has_outlines = scans.baseline is not None and is_dicom(scans.baseline) and scans.lesions is not None
    baseline = (BASELINE_SEG,) if has_outlines and segments_of(scans.lesions) is None else ()
    return DicomOutput(names=(*baseline, FOLLOWUP_SEG, REPORT), files=files)


def check_course_dicom(plan: Plan) -> None:
    """Raises InputError where no scan of a course is DICOM."""
    if not any(path.exists() and is_dicom(path) for path in plan.scans):
        raise InputError("--dicom without any scan in DICOM; expected one to write results to")


def write_course_dicom(
    plan: Plan, records: Sequence[TimePointRecord], course: Course | None, *, first: TimePointRecord
) -> None:
    """Writes the lesions and the response of each time point whose scan is DICOM, into a folder each.

    The outlines of the `first` one were given; where they are DICOM, they are not written again. Raises InputError
    where a file cannot be written.
    """
    from longilesion.dicom.output import Findings, Outlined, segments_of, write_time_point
    from longilesion.dicom.series import chosen_series
    from longilesion.dicom.tracking import tracking_of
    from longilesion.dicom.volume import identity_of

    done = [record for record in records if record.error is None]
    series = {
        record.number: chosen_series(plan.path(record.number), plan.series.get(record.number))
        for record in done
        if is_dicom(plan.path(record.number))
    }
    if not series:
        return
    segments = segments_of(plan.lesions)
    lesions = {lesion.id: lesion.is_candidate for record in done for lesion in record.lesions}
    candidates = sorted(lesion_id for lesion_id, is_candidate in lesions.items() if is_candidate)
    tracking = tracking_of(
        lesions, identity_of(series.get(first.number, next(iter(series.values())))), segments, candidates=candidates
    )
    for visit, record in enumerate(done):
        if record.number not in series or (record is first and segments is not None):
            continue
        outlined = plan.read_lesions(record.number)
        known = [lesion for lesion in record.lesions if not lesion.is_candidate]
        findings = Findings(
            lesion_ids=[lesion.id for lesion in known],
            measured={lesion.id: lesion.measured for lesion in known if lesion.measured.is_there},
            absences={lesion.id: lesion.absence for lesion in known if lesion.absence is not None},
            course=None if course is None or visit == 0 else replace(course, assessments=course.assessments[:visit]),
        )
        write_time_point(
            plan.folder / f"{record.number:02d}.dcm",
            Outlined(series=series[record.number], lesions=replace(outlined, candidates=tuple(candidates))),
            findings,
            tracking,
            number=record.number,
        )
