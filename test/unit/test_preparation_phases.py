import json
import sys

import numpy as np
import pytest

from longilesion.case import AIR_HU
from longilesion.diagnosis_settings import LESION_TYPES, STATEMENT
from longilesion.errors import InputError
from longilesion.images import read_lesion_map, read_scan
from test.longitudinal_ct import write_nifti
from test.unit.liver_hosts import GRID, small_source
from training import prepare, synth
from training.preparation.phases import ExamOptions, prepare_exams
from training.synthesis.exam_settings import ExamSettings, MissingShares


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    """Two volumes with a mask of the liver and one without."""
    folder = tmp_path_factory.mktemp("volumes")
    for name in ("one", "two", "without"):
        (folder / name / "organs").mkdir(parents=True)
        write_nifti(folder / name / "ct.nii.gz", small_source().hu, GRID)
        if name != "without":
            write_nifti(
                folder / name / "organs" / "liver.nii.gz", small_source().organs["liver"].astype(np.uint8), GRID
            )
    return folder


def options(volumes, output, **changes):
    given = {"exams": 3, "workers": 1, "seed": 4, "settings": ExamSettings(missing=MissingShares(delayed=0.0))}
    return ExamOptions(**{"data": volumes, "output": output, **given, **changes})


def test_exam_folders_have_phases_truth_and_types(volumes, tmp_path):
    written = prepare_exams(options(volumes, tmp_path))
    listed = json.loads((tmp_path / "exams.json").read_text())
    assert listed["statement"] == STATEMENT
    assert [(exam["name"], exam["host"]) for exam in listed["exams"]] == [
        ("exam_00000", "one"),
        ("exam_00001", "two"),
        ("exam_00002", "one"),
    ]
    assert len({exam.patient for exam in written.exams}) == 3
    for exam in written.exams:
        folder = tmp_path / exam.name
        venous = read_scan(folder / "venous.nii.gz")
        assert venous.hu.dtype == np.int16
        assert venous.hu.min() >= AIR_HU
        for phase in exam.phases:
            assert read_scan(folder / f"{phase}.nii.gz").grid.matches(venous.grid)
        liver = read_lesion_map(folder / "liver.nii.gz", like=venous.grid)
        lesions = read_lesion_map(folder / "lesions.nii.gz", like=venous.grid)
        assert liver.ids[lesions.ids > 0].all()
        types = json.loads((folder / "lesions.json").read_text())
        assert {int(lesion_id) for lesion_id in types} == set(np.unique(lesions.ids).tolist()) - {0}
        assert {each["type"] for each in types.values()} <= set(LESION_TYPES)
        assert len(types) == exam.lesions


def test_an_exam_depends_on_the_seed_and_its_number_alone(volumes, tmp_path):
    prepare_exams(options(volumes, tmp_path / "a"))
    prepare_exams(options(volumes, tmp_path / "b", exams=2))
    prepare_exams(options(volumes, tmp_path / "c", exams=2, seed=5))
    first, again, other = ((tmp_path / each / "exam_00001" / "venous.nii.gz").read_bytes() for each in "abc")
    assert first == again != other


def test_complete_exams_are_kept_and_a_broken_off_one_is_drawn_again(volumes, tmp_path):
    prepare_exams(options(volumes, tmp_path, exams=2))
    kept, lost = tmp_path / "exam_00000", tmp_path / "exam_00001"
    before = (lost / "venous.nii.gz").read_bytes()
    (kept / "arterial.nii.gz").write_bytes(b"kept")
    lost.rename(tmp_path / ".partial-exam_00001")
    prepare_exams(options(volumes, tmp_path, exams=3))
    assert (kept / "arterial.nii.gz").read_bytes() == b"kept"
    assert (lost / "venous.nii.gz").read_bytes() == before
    assert not list(tmp_path.glob(".partial-*"))
    with pytest.raises(InputError, match=r"exams\.json: drawn with seed 4, not 7; expected another --output"):
        prepare_exams(options(volumes, tmp_path, seed=7))


def run(monkeypatch, program, *arguments):
    monkeypatch.setattr(sys, "argv", ["program", *map(str, arguments)])
    return program.main()


def test_the_command_says_what_is_wrong(volumes, tmp_path, monkeypatch, capsys):
    assert run(monkeypatch, prepare, "phases", "--output", tmp_path / "out", "--cases", 1, "--data", tmp_path) == 1
    assert "no <volume>/ct.nii.gz" in capsys.readouterr().err
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / "ct.nii.gz").touch()
    assert run(monkeypatch, prepare, "phases", "--output", tmp_path / "out", "--cases", 1, "--data", tmp_path) == 1
    assert "no <volume>/organs/liver.nii.gz" in capsys.readouterr().err
    arguments = ("phases", "--output", tmp_path / "out", "--cases", 1, "--data", volumes)
    assert run(monkeypatch, prepare, *arguments, "--missing-delayed", 2) == 1
    assert "missing" in capsys.readouterr().err
    assert run(monkeypatch, prepare, *arguments, "--spacing", 5, 0, 1) == 1
    assert "positive spacing" in capsys.readouterr().err
    assert run(monkeypatch, prepare, *arguments[:3], "--cases", 0) == 1
    assert "expected at least 1" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_command_draws_exams_of_a_spacing(volumes, tmp_path, monkeypatch):
    arguments = ("--cases", 1, "--data", volumes, "--spacing", 6, 5, 5, "--missing-delayed", 1, "--workers", 1)
    assert run(monkeypatch, prepare, "phases", "--output", tmp_path, *arguments) == 0
    folder = tmp_path / "exam_00000"
    assert read_scan(folder / "venous.nii.gz").grid.spacing_zyx_mm == pytest.approx((6, 5, 5))
    assert not (folder / "delayed.nii.gz").exists()


def test_the_preview_shows_each_phase_of_a_lesion(volumes, tmp_path, monkeypatch, capsys):
    picture = tmp_path / "phases.png"
    assert run(monkeypatch, synth, "--phases", "--data", volumes, "--examples", 2, "--output", picture) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert run(monkeypatch, synth, "--phases", "--data", volumes) == 1
    assert "--phases without --output" in capsys.readouterr().err
