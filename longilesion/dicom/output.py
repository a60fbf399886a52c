"""Results as DICOM files in one folder: segmentation and report of a time point, and the baseline's segmentation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from pydicom.dataset import Dataset

from longilesion.case import Absence, LesionMap, lesion_regions
from longilesion.dicom.decisions import Reading
from longilesion.dicom.files import is_dicom
from longilesion.dicom.privacy import without_names
from longilesion.dicom.reading import find_lesions
from longilesion.dicom.report_output import check_report, make_report
from longilesion.dicom.segmentation import Segment, read_segments
from longilesion.dicom.segmentation_output import check_segmentation, make_segmentation, source_images
from longilesion.dicom.series import Series
from longilesion.dicom.stack import Stack
from longilesion.dicom.tracking import Tracking, tracking_of
from longilesion.dicom.volume import identity_of
from longilesion.files import Files, write_together
from longilesion.response import Course, Measured

BASELINE_SEG, FOLLOWUP_SEG, REPORT = "baseline_seg.dcm", "followup_seg.dcm", "followup_sr.dcm"
TIME_POINT_SEG, TIME_POINT_REPORT = "seg.dcm", "sr.dcm"

RESULTS = (BASELINE_SEG, FOLLOWUP_SEG, REPORT)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Outlined:
    """A series and the lesions outlined on its voxels."""

    series: Series
    lesions: LesionMap

    @property
    def lesion_ids(self) -> set[int]:
        """Those that have an outline."""
        return set(lesion_regions(self.lesions.ids))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Findings:
    """What a report says of a time point: measures of the lesions that were looked for, and the response.

    `absences` has why lesions of `lesion_ids` are not `measured`; by default they are gone. Of the `course`, the last
    visit is reported. `reading` is None where no person has reviewed them.
    """

    lesion_ids: Sequence[int]
    measured: Mapping[int, Measured]
    absences: Mapping[int, Absence] = field(default_factory=dict)
    course: Course | None = None
    reading: Reading | None = None


def result_files(
    folder: Path,
    followup: Outlined,
    findings: Findings,
    *,
    baseline: Outlined | None = None,
    segments: Mapping[int, Segment] | None = None,
) -> Files:
    """The follow-up's segmentation and report, and the baseline's segmentation where it came from no DICOM.

    `segments` are those of the baseline's own segmentation. Candidates of a search are in the segmentation, not in the
    report. Without any outline there is no segmentation.
    """
    with without_names():
        outlines = [each for each in (baseline, followup) if each is not None]
        tracking = tracking_of(
            {*findings.lesion_ids, *findings.measured, *(each for one in outlines for each in one.lesion_ids)},
            identity_of(outlines[0].series),
            segments,
            candidates=followup.lesions.candidates,
        )
        files: Files = {}
        if baseline is not None and segments is None:
            images = source_images(baseline.series)
            text = _described("Lesions at baseline")
            segmented = make_segmentation(baseline.series, baseline.lesions, tracking, images, description=text)
            files |= _segmentation_file(folder / BASELINE_SEG, baseline, segmented)
        return files | _time_point(
            (folder / FOLLOWUP_SEG, folder / REPORT),
            followup,
            findings,
            tracking,
            ("Lesions at follow-up", "Response to therapy"),
        )


def write_time_point(
    folder: Path, outlined: Outlined, findings: Findings, tracking: Mapping[int, Tracking], *, number: int
) -> list[Path]:
    """Writes the segmentation and report of one of several time points; otherwise as `result_files`.

    Raises InputError where a file cannot be written, or does not read back as what was written.
    """
    with without_names():
        files = _time_point(
            (folder / TIME_POINT_SEG, folder / TIME_POINT_REPORT),
            outlined,
            findings,
            tracking,
            (f"Lesions at time point {number}", f"Response to therapy at time point {number}"),
        )
    return write_files(folder, files, among=(TIME_POINT_SEG, TIME_POINT_REPORT))


def write_files(folder: Path, files: Files, *, among: Sequence[str]) -> list[Path]:
    """Writes what there is of the files `among`; those of an earlier run that this one does not have are removed."""
    return write_together(files, without={folder / name for name in among} - set(files))


def _save(dataset: Dataset, path: Path) -> None:
    with without_names():
        dataset.save_as(path, enforce_file_format=True)


def _time_point(
    paths: tuple[Path, Path],
    outlined: Outlined,
    findings: Findings,
    tracking: Mapping[int, Tracking],
    texts: tuple[str, str],
) -> Files:
    """The segmentation, where there is any outline, and the report that refers to it."""
    seg_path, report_path = paths
    images = source_images(outlined.series)
    segmented = make_segmentation(
        outlined.series,
        outlined.lesions,
        tracking,
        images,
        description=_described(texts[0]),
        reading=findings.reading,
    )
    reported = sorted({*findings.lesion_ids, *findings.measured})
    report = make_report(
        reported,
        findings.measured,
        findings.course,
        tracking=tracking,
        segmentation=segmented,
        absences=findings.absences,
        images=images,
        description=_described(texts[1]),
        reading=findings.reading,
    )
    files = _segmentation_file(seg_path, outlined, segmented)
    return files | {report_path: (partial(_save, report), partial(check_report, lesions=len(reported)))}


def _segmentation_file(path: Path, outlined: Outlined, segmented: Dataset | None) -> Files:
    if segmented is None:
        return {}
    is_exact = Stack.of(outlined.series).is_regular
    check = partial(check_segmentation, written=outlined.lesions, is_exact=is_exact)
    return {path: (partial(_save, segmented), check)}


def _described(text: str) -> str:
    return f"{text} (research use only)"


def segments_of(path: Path | None) -> dict[int, Segment] | None:
    """The segments by lesion id of a mask that is a DICOM segmentation; None for any other."""
    if path is None or not is_dicom(path):
        return None
    file, kind = find_lesions(path)
    return {segment.lesion_id: segment for segment in read_segments(file)} if kind == "SEG" else None
