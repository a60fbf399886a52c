"""`python -m benchmarks.review`: seconds from a moved click to the outline in `longilesion review`, on a sample case.

The time is that of the whole request: the decision's line on the disk, the preview, the new list, and the outline's
voxels; the browser then draws them.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table
from starlette.testclient import TestClient

from longilesion.ensemble import load_ensemble
from longilesion.geometry import Triple
from longilesion.grand_challenge import read_case
from longilesion.images import open_image
from longilesion.review.decisions import Start
from longilesion.review.journal import Journal
from longilesion.review.server import make_app
from longilesion.review.session import Patient, Session
from longilesion.shipped import SHIPPED_MODEL

SAMPLE = Path(__file__).parents[1] / "test" / "cases" / "interface_1" / "input"
PORT, TOKEN = 8123, "benchmark"
ORIGIN = f"http://127.0.0.1:{PORT}"


@dataclass
class Arguments:
    """What to measure."""

    case: Path = SAMPLE
    """Folder of a case in the layout of /input."""
    model: Path = SHIPPED_MODEL
    """Folder of a model."""
    moves: int = 8
    """How often a click is moved once the first has been."""


def move(browser: TestClient, lesion_id: int, point_xyz_mm: Triple, scan: str) -> float:
    """Moves a click by request, gets the new outline, and returns the seconds of both."""
    content = {"kind": "move", "lesion": lesion_id, "scan": scan, "point_xyz_mm": point_xyz_mm}
    begun = time.perf_counter()
    answer = browser.post("/api/decisions", json=content, headers={"Origin": ORIGIN})
    answer.raise_for_status()
    browser.get(f"/api/outlines/{lesion_id}").raise_for_status()
    return time.perf_counter() - begun


def main(arguments: Arguments) -> None:
    """Prints a table."""
    ensemble = load_ensemble(arguments.model)
    case, scans = read_case(arguments.case)
    patient = Patient(case=case, scans={name: open_image(path) for name, path in scans.items()})
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder), Start(version="", at=datetime.now(UTC), fingerprint=""))
        begun = time.perf_counter()
        session = Session(patient, ensemble, journal)
        started = time.perf_counter() - begun
        browser = TestClient(make_app(session, Path(folder), token=TOKEN, port=PORT), base_url=ORIGIN)
        browser.get(f"/?token={TOKEN}")
        generator = np.random.default_rng(0)
        firsts, later, full = [], [], []
        for lesion_id, predicted in session.first.predicted.items():
            click = predicted.prompt.followup
            x, y, z = click.point_xyz_mm
            firsts.append(move(browser, lesion_id, (x + 1, y, z), click.scan_name))
            begun = time.perf_counter()
            session.wait()
            full.append(time.perf_counter() - begun)
        for number in range(arguments.moves):
            lesion_id = sorted(session.first.predicted)[number % len(session.first.predicted)]
            click = session.first.predicted[lesion_id].prompt.followup
            x, y, z = np.add(click.point_xyz_mm, generator.normal(0, 3, 3)).tolist()
            later.append(move(browser, lesion_id, (x, y, z), click.scan_name))
            session.wait()
        session.close()
    table = Table("", "seconds, median", "least", "most", title=f"{len(firsts)} lesions of {arguments.case}")
    for name, seconds in (
        ("the first segmentation, before the page is shown", [started]),
        ("a moved click to its outline: the very first", firsts[:1]),
        ("the first of each other lesion", firsts[1:]),
        ("later ones", later),
        ("from there to the full outline", full),
    ):
        if seconds:
            table.add_row(name, f"{median(seconds):.2f}", f"{min(seconds):.2f}", f"{max(seconds):.2f}")
    Console(width=110).print(table)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
