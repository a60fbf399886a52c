"""The files of a diagnosis: label map, table, report and picture, all or none."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from longilesion.diagnosis.exam_folder import LESIONS_FILE
from longilesion.diagnosis.findings import Diagnosis
from longilesion.diagnosis.report import DiagnosisReport
from longilesion.diagnosis_settings import STATEMENT
from longilesion.files import Check, check_picture, check_text, valid, written_together
from longilesion.images import check_lesion_map, write_lesion_map

REPORT_FILE = "report.json"
TABLE_FILE = "lesions.csv"
PICTURE_FILE = "lesions.png"


def output_files(folder: Path, *, report: Path | None = None, picture: bool = False) -> list[Path]:
    """The files that `write_diagnosis` writes; the report may lie elsewhere."""
    files = [folder / LESIONS_FILE, folder / TABLE_FILE, folder / REPORT_FILE if report is None else report]
    return [*files, folder / PICTURE_FILE] if picture else files


def write_diagnosis(
    files: Sequence[Path],
    found: Diagnosis,
    report: DiagnosisReport,
    *,
    like: Path,
    draw: Callable[[Path], object] | None = None,
) -> None:
    """Writes `output_files`; the map has the header geometry of the reference scan's file `like`.

    `draw` writes the picture, if there is one. Raises InputError where writing fails.
    """
    map_check = partial(check_lesion_map, written=found.lesions)
    checks: tuple[Check, ...] = (map_check, check_text, valid(DiagnosisReport), check_picture)
    with written_together(dict(zip(files, checks, strict=False))) as (lesions, table, described, *drawn):
        write_lesion_map(lesions, found.lesions, like=like, description=STATEMENT)
        _write_table(table, found)
        described.write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
        for path in drawn:
            if draw is not None:
                draw(path)


def _write_table(path: Path, found: Diagnosis) -> None:
    """A row per lesion; the statement is in each, as a line of its own would be no table's."""
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        names = list(found.patient)
        rows.writerow(["lesion_id", "type", "score", "volume_ml", "diameter_mm", *names, "statement"])
        for lesion in found.typed:
            probabilities = [lesion.probabilities[name] for name in names]
            numbers = (lesion.score, lesion.volume_ml, lesion.diameter_mm, *probabilities)
            rows.writerow([lesion.lesion_id, lesion.type, *(f"{number:.4f}" for number in numbers), STATEMENT])
