"""The command that diagnoses exams, end to end on a tiny network, and its options."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path

import matplotlib.image
import nibabel
import numpy as np
import pytest
import torch

import longilesion
from longilesion import cli
from longilesion.case import Scan
from longilesion.diagnosis import registration
from longilesion.diagnosis.bundle import save_diagnosis_bundle
from longilesion.diagnosis.report import DiagnosisReport
from longilesion.diagnosis_settings import LESION_TYPES, PHASES, STATEMENT
from longilesion.images import open_image, read_lesion_map
from longilesion.networks.lesion_queries import LesionQueries
from test.unit.builders import ball
from test.unit.case_folders import files_under
from test.unit.diagnosis_builders import (
    block_scan,
    diagnosis_settings,
    in_place,
    query_settings,
    write_mask,
    write_scan,
)

pytestmark = pytest.mark.usefixtures("restored_logging")

# Of two tissues, so that there is something to register.
BALLS = {(0.0, -10.0, 130.0): 150, (10.0, -20.0, 150.0): -50}
VENOUS = block_scan(BALLS)
GRID = VENOUS.grid
ARTERIAL = block_scan({place: hu + 60 for place, hu in BALLS.items()}, seed=1)
LIVER = ball(GRID, GRID.centre_xyz_mm, 18.0)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of random weights that takes much for lesions."""
    torch.manual_seed(1)
    settings = diagnosis_settings(
        network=query_settings(queries=1), shape_zyx=(24, 24, 24), threshold=0.3, least_score=0.1
    )
    folder = tmp_path_factory.mktemp("weights")
    save_diagnosis_bundle(folder, settings, LesionQueries(settings), provenance={"data": "none"})
    return folder


def exam(folder: Path, **scans: Scan) -> Path:
    for phase, scan in scans.items():
        write_scan(folder / f"{phase}.nii.gz", scan)
    write_mask(folder / "liver.nii.gz", LIVER, GRID)
    return folder


def diagnose(*arguments: object) -> int:
    # The test runner's own handlers would keep the command from setting up its own.
    logging.getLogger().handlers.clear()
    return cli.main(["diagnose", *map(str, arguments)])


def expect_one_line(capfd: pytest.CaptureFixture[str], *findings: object) -> None:
    captured = capfd.readouterr()
    (line,) = captured.err.splitlines()
    for finding in (*findings, "expected"):
        assert str(finding) in line
    assert captured.out == ""


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Registration that takes the scans' worlds for one, and is trusted."""
    monkeypatch.setattr(registration, "register_scans", in_place)
    monkeypatch.setattr(registration, "trust_in", lambda *_: 1.0)


@pytest.mark.usefixtures("registered")
def test_an_exam_of_two_phases(tmp_path: Path, weights: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = exam(tmp_path / "exam", arterial=ARTERIAL, venous=VENOUS)
    phases = [f"--phase={name}={folder / name}.nii.gz" for name in ("venous", "arterial")]
    output = tmp_path / "out"
    options = ("--liver", folder / "liver.nii.gz", "--weights", weights, "--device=cpu", "--picture")
    assert diagnose(*phases, *options, "--output", output) == 0
    assert files_under(output) == ["lesions.csv", "lesions.nii.gz", "lesions.png", "report.json"]
    report = DiagnosisReport.model_validate_json((output / "report.json").read_text())
    assert report.statement == STATEMENT
    assert report.weights == str(weights)
    assert {phase: entry.used for phase, entry in report.phases.items()} == {"arterial": True, "venous": True}
    assert list(report.patient) == list(report.by_volume) == list(LESION_TYPES)
    assert report.lesions
    lesions = read_lesion_map(output / "lesions.nii.gz", like=GRID)
    numbers = [lesion.lesion_id for lesion in report.lesions]
    assert np.unique(lesions.ids).tolist() == [0, *numbers]
    assert lesions.candidates == tuple(numbers)
    assert nibabel.load(output / "lesions.nii.gz").header["descrip"].item().decode() == STATEMENT
    for lesion in report.lesions:
        mask = lesions.ids == lesion.lesion_id
        assert lesion.volume_ml == pytest.approx(mask.sum() * GRID.voxel_volume_ml)
        assert lesion.probabilities[lesion.type] == max(lesion.probabilities.values())
        # At the liver's border, half a voxel of the lattice.
        assert (mask & ball(GRID, GRID.centre_xyz_mm, 21.0)).sum() == mask.sum()
    with (output / "lesions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["lesion_id"]) for row in rows] == numbers
    assert {row["statement"] for row in rows} == {STATEMENT}
    assert float(rows[0]["cyst"]) == pytest.approx(report.lesions[0].probabilities["cyst"], abs=1e-4)
    assert min(matplotlib.image.imread(output / "lesions.png").shape[:2]) > 200
    captured = capfd.readouterr()
    assert captured.err == ""
    assert captured.out.rstrip().endswith(STATEMENT)
    assert "haemangioma" in captured.out


@pytest.mark.slow
def test_phases_are_registered(tmp_path: Path, weights: Path) -> None:
    folder = exam(tmp_path / "exam", arterial=ARTERIAL, venous=VENOUS)
    phases = [f"--phase={name}={folder / name}.nii.gz" for name in ("venous", "arterial")]
    options = ("--liver", folder / "liver.nii.gz", "--weights", weights, "--output", tmp_path / "out")
    assert diagnose(*phases, *options) == 0
    report = DiagnosisReport.model_validate_json((tmp_path / "out" / "report.json").read_text())
    assert {phase: entry.used for phase, entry in report.phases.items()} == {"arterial": True, "venous": True}


@pytest.mark.usefixtures("registered")
def test_all_exams_of_a_folder(tmp_path: Path, weights: Path, capfd: pytest.CaptureFixture[str]) -> None:
    exam(tmp_path / "exams" / "b", arterial=ARTERIAL, venous=VENOUS)
    exam(tmp_path / "exams" / "a", delayed=VENOUS)
    output = tmp_path / "out"
    assert diagnose("--exams", tmp_path / "exams", "--weights", weights, "--output", output) == 0
    names = ["lesions.csv", "lesions.nii.gz", "report.json"]
    assert files_under(output) == [f"{name}/{file}" for name in "ab" for file in names]
    captured = capfd.readouterr()
    first, second, statement = captured.out.splitlines()
    assert (first[:3], second[:3], statement) == ("a: ", "b: ", STATEMENT)
    report = json.loads((output / "a" / "report.json").read_text())
    (warning,) = report["warnings"]
    assert "no venous phase" in warning
    assert captured.err == f"WARNING: {warning}\n"


def test_a_phase_that_is_left_out_is_said_everywhere(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(registration, "register_scans", in_place)
    monkeypatch.setattr(registration, "trust_in", lambda *_: 0.0)
    folder = exam(tmp_path / "exam", arterial=ARTERIAL, venous=VENOUS)
    phases = [f"--phase={name}={folder / name}.nii.gz" for name in ("venous", "arterial")]
    report = tmp_path / "elsewhere" / "r.json"
    options = ("--liver", folder / "liver.nii.gz", "--weights", weights, "--report", report, "--picture")
    assert diagnose(*phases, *options, "--output", tmp_path / "out") == 0
    assert files_under(tmp_path / "out") == ["lesions.csv", "lesions.nii.gz", "lesions.png"]
    written = DiagnosisReport.model_validate_json(report.read_text())
    assert not written.phases["arterial"].used
    assert "another patient" in written.phases["arterial"].note
    assert "another patient" in written.warnings[0]
    assert "the arterial phase is left out" in capfd.readouterr().err


def test_bad_options(tmp_path: Path, weights: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = exam(tmp_path / "exam", venous=VENOUS)
    venous = folder / "venous.nii.gz"
    rest = ("--weights", weights, "--output", tmp_path / "out")
    for given, found in (
        ((), "nothing to diagnose"),
        (("--phase", venous), f"--phase {venous}"),
        (("--phase", f"portal={venous}"), "non_contrast, arterial, venous, delayed"),
        (("--phase", f"venous={venous}", "--phase", "venous=other.nii.gz"), "the phase venous is given twice"),
        (("--phase", f"venous={venous}", "--exams", folder), "--phase beside --exams"),
        (("--liver", venous, "--exams", folder), "--liver beside --exams"),
        (("--exams", folder), "no exam in it"),
        (("--phase", "venous=none.nii.gz"), "none.nii.gz: no such file"),
    ):
        assert diagnose(*given, *rest) == 1
        expect_one_line(capfd, found)
    assert files_under(tmp_path / "out") == []


def test_inputs_are_not_overwritten_and_models_of_another_kind_are_refused(
    tmp_path: Path, weights: Path, bundle: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = exam(tmp_path / "exam", venous=VENOUS)
    venous, liver = folder / "venous.nii.gz", folder / "liver.nii.gz"
    lesions = liver.rename(folder / "lesions.nii.gz")
    given = (f"--phase=non-contrast={venous}", "--liver", lesions)
    assert diagnose(*given, "--weights", weights, "--output", folder) == 1
    expect_one_line(capfd, f"{lesions}: is one of the inputs")
    assert diagnose(*given, "--weights", bundle, "--output", tmp_path / "out") == 1
    expect_one_line(capfd, "a bundle of a model that outlines lesions")
    assert files_under(tmp_path / "out") == []


@pytest.mark.usefixtures("registered")
def test_python_interface(tmp_path: Path, weights: Path) -> None:
    folder = exam(tmp_path, arterial=ARTERIAL, venous=VENOUS)
    files = {phase: folder / f"{phase}.nii.gz" for phase in PHASES[1:3]}
    model = longilesion.load_diagnosis_bundle(weights, device="cpu")
    found = longilesion.diagnose(files, liver=str(folder / "liver.nii.gz"), model=model)
    assert found.typed
    assert found.lesions.grid.shape_zyx == open_image(files["venous"]).grid.shape_zyx
    assert found.patient.keys() == found.typed[0].probabilities.keys() == set(LESION_TYPES)
