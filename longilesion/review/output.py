"""The files of a review, written together: maps of the follow-up scans, run report, review.json, DICOM if wished."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from longilesion.assessment import CaseResponse, case_response
from longilesion.case import ScanName
from longilesion.files import Files, valid, write_together
from longilesion.image_file import ImageFile
from longilesion.images import WRITABLE, check_lesion_map, write_lesion_map
from longilesion.report import make_report
from longilesion.response import Lesion
from longilesion.review.record import ReviewRecord
from longilesion.review.result import Reviewed

REPORT, RECORD = "report.json", "review.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class DicomOutput:
    """A review's files in DICOM in a folder, with how each is written and its check; `names` are all there may be."""

    names: tuple[str, ...]
    files: Callable[[Path, Reviewed, CaseResponse, ReviewRecord], Files]


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
    files: Files = {
        folder / file: (
            partial(write_lesion_map, lesion_map=maps[name], like=scans[name]),
            partial(check_lesion_map, written=maps[name]),
        )
        for name, file in map_names(scans).items()
    }
    for file, content in ((REPORT, report), (RECORD, record)):
        text = content.model_dump_json(indent=2) + "\n"
        files[folder / file] = partial(Path.write_text, data=text, encoding="utf-8"), valid(type(content))
    if dicom is None:
        return write_together(files)
    files |= dicom.files(folder, reviewed, response, record)
    return write_together(files, without={folder / name for name in dicom.names} - set(files))


def _suffix(path: Path) -> str:
    name = path.name.lower()
    found = [suffix for suffix in WRITABLE if name.endswith(suffix)]
    return max(found, key=len, default=".mha" if name.endswith(".mhd") else ".nii.gz")
