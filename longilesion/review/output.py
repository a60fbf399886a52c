"""The files of a review: a lesion map for each follow-up scan, the run report, and review.json, written together."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from longilesion.case import ScanName
from longilesion.files import Check, valid, written_together
from longilesion.image_file import ImageFile
from longilesion.images import WRITABLE, check_lesion_map, write_lesion_map
from longilesion.report import RunReport, make_report
from longilesion.response import Lesion
from longilesion.review.record import ReviewRecord
from longilesion.review.result import Reviewed

REPORT, RECORD = "report.json", "review.json"


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
) -> list[Path]:
    """Writes all files or none, and returns them; raises InputError where that fails."""
    maps = reviewed.segmentation.maps
    report = make_report(reviewed.case, reviewed.segmentation, seconds=seconds, facts=facts)
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
    return list(checks)


def _suffix(path: Path) -> str:
    name = path.name.lower()
    found = [suffix for suffix in WRITABLE if name.endswith(suffix)]
    return max(found, key=len, default=".mha" if name.endswith(".mhd") else ".nii.gz")
