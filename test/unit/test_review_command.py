"""`longilesion review` as a program: what it refuses, how it ends, and that untouched it gives what segment gives."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pydicom
import pytest

from longilesion.cli import main
from longilesion.dicom.output import BASELINE_SEG, FOLLOWUP_SEG, REPORT
from longilesion.images import open_image, read_lesion_map, read_scan
from longilesion.review.journal import FILE_NAME
from test.dicom_series import write_series
from test.unit.reviews import Program, write_review_case

pytestmark = pytest.mark.usefixtures("restored_logging")


@pytest.fixture
def case_folder(tmp_path: Path) -> Path:
    return write_review_case(tmp_path / "case")


def single_files(case_folder: Path) -> list[object]:
    images = case_folder / "images"
    return [
        *("--followup", images / "primary-followup-ct" / "scan.mha"),
        *("--baseline", images / "primary-baseline-ct" / "scan.mha"),
        *("--lesions", images / "primary-baseline-ct-tumor-lesion-seg" / "scan.mha"),
        *("--followup-clicks", case_folder / "primary-followup-lesion-clicks.json"),
    ]


@pytest.fixture
def about(tmp_path: Path) -> Path:
    """What is known of lesions, one of which is not there."""
    (tmp_path / "about.csv").write_text("lesion,organ\n1,liver\n9,lung\n")
    return tmp_path / "about.csv"


@pytest.fixture
def program(case_folder: Path, tmp_path: Path, bundle: Path, about: Path) -> Iterator[Program]:
    begun = Program(*single_files(case_folder), "--output", tmp_path / "out", "--model", bundle, "--about", about)
    yield begun
    begun.process.kill()
    begun.process.communicate()


def refused(capfd: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line with which it refuses."""
    assert main(["review", "--no-browser", *map(str, arguments)]) == 1
    (line,) = capfd.readouterr().err.splitlines()
    return line


def post(program: Program, address: str, content: object) -> None:
    server, _, _ = program.address.partition("/?")
    with httpx.Client(base_url=server, headers={"Origin": server}) as browser:
        assert browser.get(program.address).status_code == 303
        assert browser.post(address, json=content).status_code == 200


def test_untouched_review_gives_what_segment_gives(
    program: Program, case_folder: Path, tmp_path: Path, bundle: Path, about: Path
) -> None:
    post(program, "/api/finish", None)
    out = tmp_path / "segmented.mha"
    arguments = [*single_files(case_folder), "--output", out, "--model", bundle, "--report", tmp_path / "segment.json"]
    exact = ["--device", "cpu", "--precision", "float32", "--about", about]
    assert main(["segment", *map(str, exact), *map(str, arguments)]) == 0
    ours, theirs = read_lesion_map(tmp_path / "out" / "lesions.mha"), read_lesion_map(out)
    assert set(np.unique(ours.ids)) == {0, 1, 2, 3}
    np.testing.assert_array_equal(ours.ids, theirs.ids)
    assert (tmp_path / "out" / "lesions.mha").read_bytes() == out.read_bytes()
    reports = [json.loads(path.read_text()) for path in (tmp_path / "out" / "report.json", tmp_path / "segment.json")]
    for part in ("lesions", "left_out", "candidates", "response"):
        assert reports[0][part] == reports[1][part]
    # Ctrl-C is how a review ends.
    code, said = program.ended(signal.SIGINT)
    assert code == 0
    (line,) = said.splitlines()
    assert "lesions 9 are neither outlined nor clicked" in line
    assert len((tmp_path / "out" / FILE_NAME).read_text().splitlines()) == 1


def test_review_goes_on_only_with_the_same_inputs_and_one_at_a_time(
    program: Program, case_folder: Path, tmp_path: Path, bundle: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    same = (*single_files(case_folder), "--output", tmp_path / "out", "--model", bundle)
    exact = ("--device", "cpu", "--precision", "float32")
    post(program, "/api/decisions", {"kind": "confirm", "lesion": 1})
    assert "open in another review" in refused(capfd, *same, *exact)
    program.ended(signal.SIGTERM)
    for changed in ("primary-followup-lesion-clicks.json", "images/primary-followup-ct/scan.mha"):
        shutil.copy(case_folder / changed, tmp_path / "before")
        with (case_folder / changed).open("ab") as file:
            file.write(b" ")
        assert "of a review of other scans, masks or clicks" in refused(capfd, *same, *exact)
        shutil.copy(tmp_path / "before", case_folder / changed)
    assert "another model, options or version" in refused(capfd, *same, *exact, "--split-components")
    # The same files, of which one is taken for another.
    otherwise = ["--baseline-clicks" if word == "--followup-clicks" else word for word in same]
    assert "of a review of other scans, masks or clicks" in refused(capfd, *otherwise, *exact)


def test_review_of_dicom_is_written_in_dicom(case_folder: Path, tmp_path: Path, bundle: Path) -> None:
    """One lesion is confirmed, then all are gone: what was written of the first result does not stay."""
    for name in ("baseline", "followup"):
        write_series(tmp_path / name, read_scan(case_folder / f"images/primary-{name}-ct/scan.mha"))
    files = single_files(case_folder)
    files[1], files[3] = tmp_path / "followup", tmp_path / "baseline"
    out = tmp_path / "out"
    program = Program(*files, "--output", out, "--model", bundle, "--dicom", "--reader", "A. Reader")
    names = (BASELINE_SEG, FOLLOWUP_SEG, REPORT)
    try:
        server, _, _ = program.address.partition("/?")
        with httpx.Client(base_url=server, headers={"Origin": server}, timeout=60) as browser:
            browser.get(program.address)
            browser.post("/api/decisions", json={"kind": "confirm", "lesion": 1}).raise_for_status()
            browser.post("/api/finish").raise_for_status()
            assert set(names) <= set(browser.get("/api/results").json())
            assert all((out / name).is_file() for name in names)
            downloaded = browser.get(f"/api/results/{FOLLOWUP_SEG}").raise_for_status().content
            (tmp_path / FOLLOWUP_SEG).write_bytes(downloaded)
            like = open_image(out / "lesions.nii.gz").grid
            written = read_lesion_map(out / "lesions.nii.gz", like=like).ids
            for path in (out / FOLLOWUP_SEG, tmp_path / FOLLOWUP_SEG):
                np.testing.assert_array_equal(read_lesion_map(path, like=like).ids, written)
            content = str(pydicom.dcmread(out / REPORT))
            assert "A. Reader^" in content
            assert "Confirmed" in content
            assert "Untouched" in content
            for lesion_id in (1, 2, 3):
                browser.post("/api/decisions", json={"kind": "gone", "lesion": lesion_id}).raise_for_status()
            browser.post("/api/finish").raise_for_status()
            assert [(out / name).is_file() for name in names] == [True, False, True]
            assert browser.get(f"/api/results/{FOLLOWUP_SEG}").status_code == 404
    finally:
        program.process.kill()
        program.process.communicate()


def test_without_its_server_it_says_what_to_install(
    case_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    line = refused(capfd, case_folder, "--output", tmp_path / "out")
    assert "needs uvicorn; expected `pip install 'longilesion[review]'`" in line
    assert not (tmp_path / "out").exists()


def test_wrong_options_are_refused(case_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = ("--output", tmp_path / "out")
    scan = case_folder / "images" / "primary-followup-ct" / "scan.mha"
    assert "nothing to review" in refused(capfd, *out)
    assert "nothing to look for" in refused(capfd, *out, "--followup", scan)
    assert "expected a case or single files" in refused(capfd, case_folder, *out, "--followup", scan)
    assert "is one of the inputs" in refused(capfd, case_folder, "--output", case_folder)
    for inside in (case_folder / "out", case_folder / "images" / "out"):
        assert f"{inside}: lies in {case_folder}" in refused(capfd, case_folder, "--output", inside)
        assert not inside.exists()
    assert f"--dicom with the case {case_folder}, which has no DICOM" in refused(capfd, case_folder, *out, "--dicom")
    assert "DICOM refers to images in DICOM" in refused(capfd, *single_files(case_folder), *out, "--dicom")
    assert "--organs without a search" in refused(capfd, case_folder, *out, "--organs", tmp_path)
    assert "missing: No such file or directory" in refused(capfd, tmp_path / "missing", *out)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        assert f"--port {taken}: Address already in use" in refused(capfd, case_folder, *out, "--port", taken)
    assert "--port 70000" in refused(capfd, case_folder, *out, "--port", 70_000)
