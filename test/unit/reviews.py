"""Small reviews for tests: a case in memory or in files, a journal, a session."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from longilesion.case import Case, ScanName
from longilesion.geometry import Grid, Triple
from longilesion.image_file import ImageFile
from longilesion.images import open_image
from longilesion.new_lesions import Search
from longilesion.review.decisions import Start
from longilesion.review.journal import Journal
from longilesion.review.session import Patient, Session
from test.unit.builders import ball, case_of, click, scan_with
from test.unit.case_folders import write_image, write_points
from test.unit.test_pipeline import bright_voxels

ROOT = Path(__file__).parents[2]

GRID = Grid.from_spacing((24, 56, 56), (3.0, 1.5, 1.5), origin_xyz_mm=(-40.0, -40.0, 500.0))
# By id: place and radius in either scan. Lesion 3 is gone, and nobody knows of 4.
BEFORE = {1: ((-20.0, -15.0, 520.0), 5.0), 2: ((20.0, 15.0, 550.0), 6.0), 3: ((-20.0, 20.0, 550.0), 5.0)}
AFTER = {1: ((-20.0, -15.0, 520.0), 6.0), 2: ((20.0, 15.0, 550.0), 4.5), 4: ((20.0, -20.0, 520.0), 6.0)}
CLICKS = {1: (-19.0, -15.0, 520.0), 2: (20.0, 15.0, 550.0), 3: (-20.0, 20.0, 550.0)}
UNKNOWN: Triple = (20.0, -20.0, 520.0)


def case() -> Case:
    before, after = scan_with(BEFORE, GRID), scan_with(AFTER, GRID)
    return case_of(
        [(lesion_id, click(BEFORE[lesion_id][0]), click(CLICKS[lesion_id])) for lesion_id in CLICKS],
        followups={"primary": after[0]},
        baselines={"primary": before},
    )


def write_review_case(folder: Path) -> Path:
    """The same as a folder in the layout of /input."""
    geometry = {"spacing_xyz_mm": (1.5, 1.5, 3.0), "origin_xyz_mm": (-40.0, -40.0, 500.0)}
    (before, lesions), (after, _) = scan_with(BEFORE, GRID), scan_with(AFTER, GRID)
    for slug, voxels in (
        ("primary-baseline-ct", before.hu),
        ("primary-baseline-ct-tumor-lesion-seg", lesions.ids.astype(np.uint8)),
        ("primary-followup-ct", after.hu),
    ):
        # Air around it, as in a scan.
        values = voxels.copy()
        if values.dtype == np.int16:
            values[:, :3] = values[:, :, :3] = -1000
        write_image(folder / "images" / slug / "scan.mha", values, **geometry)
    for name, points in (("baseline", {number: place for number, (place, _) in BEFORE.items()}), ("followup", CLICKS)):
        indices = {str(number): GRID.index_zyx(point)[::-1] for number, point in points.items()}
        write_points(folder / f"primary-{name}-lesion-clicks.json", indices)
    return folder


def scan_files(folder: Path) -> Mapping[ScanName, ImageFile]:
    (path,) = (write_review_case(folder) / "images" / "primary-followup-ct").iterdir()
    return {"primary": open_image(path)}


def journal_in(folder: Path, *, fingerprint: str = "the same", is_read_only: bool = False) -> Journal:
    start = Start(version="1", at=datetime(2026, 1, 31, tzinfo=UTC), fingerprint=fingerprint)
    return Journal(folder, start, is_read_only=is_read_only)


def session_in(folder: Path, *, search: Search | None = None, is_read_only: bool = False) -> Session:
    own = case()
    if search is not None:
        # A small part of the scan, as a search takes long.
        organ = ball(GRID, UNKNOWN, 12.0)
        own = replace(own, followups={"primary": replace(own.followups["primary"], organ=organ)})
    patient = Patient(case=own, scans=scan_files(folder / "input"))
    journal = journal_in(folder / "output", is_read_only=is_read_only)
    return Session(patient, bright_voxels(), journal, search=search, reader="A. Reader", is_read_only=is_read_only)


class Program:
    """`longilesion review` in a process of its own; `address` is what it has printed."""

    def __init__(self, *arguments: object) -> None:
        call = "from longilesion.cli import main; raise SystemExit(main())"
        words = ["review", "--no-browser", "--device", "cpu", "--precision", "float32", *arguments]
        self.process = subprocess.Popen(
            [sys.executable, "-c", call, *map(str, words)],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        lines = iter(self.process.stdout.readline, "")
        self.address = next((found[0] for line in lines if (found := re.search(r"http://\S+", line))), "")

    def ended(self, number: int) -> tuple[int, str]:
        """Ends it by a signal; the exit code, and what it has said on stderr."""
        self.process.send_signal(number)
        _, said = self.process.communicate(timeout=60)
        return self.process.returncode, said
