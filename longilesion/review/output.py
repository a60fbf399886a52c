"""The files of a review, written together: maps of the follow-up scans, run report, review.json, DICOM if wished."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from longilesion.assessment import CaseResponse, case_response
from longilesion.case import ScanName
from longilesion.files import Check, valid, written_together
from longilesion.image_file import ImageFile
from longilesion.images import WRITABLE, check_lesion_map, write_lesion_map
from longilesion.report import RunReport, make_report
from longilesion.response import Lesion
from longilesion.review.record import ReviewRecord
from longilesion.review.result import Reviewed

REPORT, RECORD = "report.json", "review.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class DicomOutput:
    """What writes a review into a folder in DICOM: all files or none, and returns them; `names` has all."""

    names: tuple[str, ...]
    write: Callable[[Path, Reviewed, CaseResponse, ReviewRecord], list[Path]]


def map_names(scans: Mapping[ScanName, ImageFile]) -> dict[ScanName, str]:
    """The files of the maps, in the format of their scans, or NIfTI where maps cannot be written in that."""
    return {
        name: f"lesions{'' if name == 'primary' else f'_{name}'}{_suffix(image.path)}" for name, image in scans.items()
    }


def write_results(
    folder: Path,
    reviewed: Reviewed,
    record: ReviewRecord,
    scans: Mapping[ScanName, ImageFile],
    *,
    seconds: Mapping[str, float],
    facts: Mapping[int, Lesion],
    dicom: DicomOutput | None = None,
) -> list[Path]:
    """Writes all files or none, and returns them; raises InputError where that fails."""
    maps = reviewed.segmentation.maps
    response = case_response(reviewed.case, reviewed.segmentation, facts)
    report = make_report(reviewed.case, reviewed.segmentation, seconds=seconds, facts=facts, response=response)
    checks: dict[Path, Check] = {
        folder / file: partial(check_lesion_map, written=maps[name]) for name, file in map_names(scans).items()
    }
    checks |= {folder / REPORT: valid(RunReport), folder / RECORD: valid(ReviewRecord)}
    with written_together(checks) as temporaries:
        *map_files, report_file, record_file = temporaries
        for (name, image), file in zip(scans.items(), map_files, strict=True):
            write_lesion_map(file, maps[name], like=image)
        for file, content in ((report_file, report), (record_file, record)):
            file.write_text(content.model_dump_json(indent=2) + "\n", encoding="utf-8")
        # Last: where it cannot be written, the other files stay as they were, too.
        in_dicom = [] if dicom is None else dicom.write(folder, reviewed, response, record)
    return [*checks, *in_dicom]


def _suffix(path: Path) -> str:
    name = path.name.lower()
    found = [suffix for suffix in WRITABLE if name.endswith(suffix)]
    return max(found, key=len, default=".mha" if name.endswith(".mhd") else ".nii.gz")
