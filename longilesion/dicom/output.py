"""The results of a follow-up as DICOM files in one folder: segmentations of both time points, and a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pydicom.dataset import Dataset

from longilesion.case import Identity, LesionMap, lesion_regions
from longilesion.dicom.files import is_dicom
from longilesion.dicom.privacy import without_names
from longilesion.dicom.reading import find_lesions
from longilesion.dicom.report_output import State, check_report, make_report
from longilesion.dicom.segmentation import Segment, read_segments
from longilesion.dicom.segmentation_output import check_segmentation, make_segmentation, source_images
from longilesion.dicom.series import Series
from longilesion.dicom.stack import Stack
from longilesion.dicom.tracking import tracking_of
from longilesion.dicom.volume import identity_of
from longilesion.files import Check, written_together
from longilesion.response import Course, Measured

BASELINE_SEG, FOLLOWUP_SEG, REPORT = "baseline_seg.dcm", "followup_seg.dcm", "followup_sr.dcm"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Outlined:
    """A series and the lesions outlined on its voxels."""

    series: Series
    lesions: LesionMap


def write_results(
    folder: Path,
    followup: Outlined,
    measured: Mapping[int, Measured],
    *,
    lesion_ids: Sequence[int],
    course: Course | None,
    states: Mapping[int, State] | None = None,
    baseline: Outlined | None = None,
    segments: Mapping[int, Segment] | None = None,
) -> list[Path]:
    """Writes the follow-up's segmentation and report, and the baseline's segmentation where it came from no DICOM.

    `lesion_ids` are those that were looked for, `measured` those of them that are outlined; of the others, `states`
    has what they are where they are not gone. `segments` are those of the baseline's own segmentation. Candidates of a
    search are in the segmentation, not in the report. Without any outline there is no segmentation. Raises InputError
    where a file cannot be written, or does not read back as what was written.
    """
    with without_names():
        made = _made(folder, followup, measured, lesion_ids, course, states or {}, baseline, segments)
    with written_together({path: check for path, (_, check) in made.items()}) as temporaries, without_names():
        for temporary, (dataset, _) in zip(temporaries, made.values(), strict=True):
            dataset.save_as(temporary, enforce_file_format=True)
    return list(made)


def _made(
    folder: Path,
    followup: Outlined,
    measured: Mapping[int, Measured],
    lesion_ids: Sequence[int],
    course: Course | None,
    states: Mapping[int, State],
    baseline: Outlined | None,
    segments: Mapping[int, Segment] | None,
) -> dict[Path, tuple[Dataset, Check]]:
    """What is to be written, with the check of each file."""
    first: Identity = identity_of((baseline or followup).series)
    outlines = [each.lesions for each in (baseline, followup) if each is not None]
    ids = sorted({*lesion_ids, *measured, *(each for lesions in outlines for each in lesion_regions(lesions.ids))})
    tracking = tracking_of(ids, first, segments, candidates=followup.lesions.candidates)
    made: dict[Path, tuple[Dataset, Check]] = {}
    images: list[Dataset] = []
    for name, outlined, text in (
        (BASELINE_SEG, baseline if segments is None else None, "Lesions at baseline (research use only)"),
        (FOLLOWUP_SEG, followup, "Lesions at follow-up (research use only)"),
    ):
        if outlined is None:
            continue
        images = source_images(outlined.series)
        segmented = make_segmentation(outlined.series, outlined.lesions, tracking, images, description=text)
        if segmented is not None:
            exact = Stack.of(outlined.series).is_regular
            made[folder / name] = segmented, partial(check_segmentation, written=outlined.lesions, is_exact=exact)
    segmentation = made[folder / FOLLOWUP_SEG][0] if folder / FOLLOWUP_SEG in made else None
    report = make_report(
        sorted({*lesion_ids, *measured}),
        measured,
        course,
        tracking=tracking,
        segmentation=segmentation,
        states=states,
        # Those of the follow-up, the last of both.
        images=images,
        description="Response to therapy (research use only)",
    )
    made[folder / REPORT] = report, partial(check_report, lesions=len({*lesion_ids, *measured}))
    return made


def segments_of(path: Path | None) -> dict[int, Segment] | None:
    """The segments by lesion id of a mask that is a DICOM segmentation; None for any other."""
    if path is None or not is_dicom(path):
        return None
    file, kind = find_lesions(path)
    return {segment.lesion_id: segment for segment in read_segments(file)} if kind == "SEG" else None
