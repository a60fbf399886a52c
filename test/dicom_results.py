"""Results in DICOM for tests, as commands write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from longilesion.dicom.output import RESULTS, Findings, Outlined, result_files, write_files


def write_results(folder: Path, followup: Outlined, findings: Findings, **baseline: Any) -> list[Path]:
    return write_files(folder, result_files(folder, followup, findings, **baseline), among=RESULTS)
