"""Small cohorts, and what has to be the same whoever runs them."""

from __future__ import annotations

import json
from pathlib import Path

from longilesion import cli
from longilesion.cohort.record import CaseRecord
from test.unit.case_folders import files_under, write_case

TABLES = ("lesions.csv", "lesions.parquet")
MAP = "images/primary-followup-ct-tumor-lesion-seg/output.mha"


def write_cases(folder: Path, *, count: int = 4, bad: bool = True) -> Path:
    """Cases with lesions at other places, the second one in two follow-up scans; the last one is damaged."""
    for number in range(count):
        secondary = ("followup",) if number == 1 else ()
        clicks = {"1": (5.0, 4.0 + number / 2, 3.0), "4": (6.0, 6.0, 2.0)}
        write_case(folder / f"case{number}", secondary=secondary, followup_clicks=clicks)
    if bad:
        scan = write_case(folder / "damaged") / "images/primary-followup-ct/scan.mha"
        scan.write_bytes(scan.read_bytes()[:-20])
    return folder


def cohort(cases: Path, output: Path, bundle: Path, *options: object) -> int:
    words = ["cohort", cases, "--output", output, "--model", bundle, "--device", "cpu", "--precision", "float32"]
    return cli.main([str(word) for word in [*words, *options]])


def tables(output: Path) -> dict[str, bytes]:
    return {name: (output / name).read_bytes() for name in TABLES}


def maps(output: Path) -> dict[str, bytes]:
    return {name: (output / name).read_bytes() for name in files_under(output) if name.endswith(".mha")}


def record(output: Path, case: str) -> CaseRecord:
    return CaseRecord.model_validate_json((output / case / "case.json").read_bytes())


def lesions_of(report: Path) -> object:
    """What a report says of lesions and response; times and memory are each run's own."""
    content = json.loads(report.read_text())
    return {name: content[name] for name in ("lesions", "left_out", "candidates", "response")}


def left_behind(output: Path) -> list[str]:
    return [name for name in files_under(output) if Path(name).name.startswith(".")]
