"""Phases from files, registered to their reference: what is given by mistake, what is missing, what is left out."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from longilesion.case import PADDING_HU, Scan
from longilesion.diagnosis import registration
from longilesion.diagnosis.exam import LiverExam
from longilesion.diagnosis.exam_folder import exam_folders, phase_files, read_exam_folder, read_truth
from longilesion.diagnosis.phases import read_phases
from longilesion.diagnosis.registration import register_phases
from longilesion.diagnosis_settings import PHASES, Phase
from longilesion.errors import InputError
from longilesion.geometry import Grid
from longilesion.registration.result import Registration, Stage
from longilesion.voi import sample_scan
from test.unit.builders import ball, flipped
from test.unit.diagnosis_builders import (
    block_scan,
    diagnosis_settings,
    in_place,
    query_settings,
    write_mask,
    write_scan,
)

SCANS: dict[Phase, Scan] = {phase: block_scan(seed=seed) for seed, phase in enumerate(PHASES)}
GRID = SCANS["venous"].grid
LIVER = ball(GRID, GRID.centre_xyz_mm, 20.0)
SETTINGS = diagnosis_settings()


@pytest.fixture
def files(tmp_path: Path) -> dict[Phase, Path]:
    return {phase: write_scan(tmp_path / f"{phase}.nii.gz", scan) for phase, scan in SCANS.items()}


@pytest.fixture
def liver(tmp_path: Path) -> Path:
    return write_mask(tmp_path / "liver.nii.gz", LIVER, GRID)


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Registration that takes the scans' worlds for one, and is trusted."""
    monkeypatch.setattr(registration, "register_scans", in_place)
    monkeypatch.setattr(registration, "trust_in", lambda *_: 1.0)


def exam_of(organ: bool = True, **scans: Scan) -> LiverExam:
    venous = scans.get("venous", SCANS["venous"])
    mask = LIVER if organ else None
    phases = {**scans, "venous": Scan(hu=venous.hu, grid=venous.grid, organ=mask)}
    return LiverExam(phases={phase: phases[phase] for phase in PHASES if phase in phases}, reference="venous")


# ------------------------------------------------------------------------------------------------------------ reading


def test_all_phases_are_read_with_the_liver(files, liver):
    exam = read_phases(dict(reversed(files.items())), liver)
    assert list(exam.phases) == list(PHASES)
    assert exam.reference == "venous"
    assert exam.warnings == ()
    np.testing.assert_array_equal(exam.phases["venous"].organ, LIVER)
    assert [phase for phase, scan in exam.phases.items() if scan.organ is not None] == ["venous"]
    np.testing.assert_array_equal(exam.phases["delayed"].hu, SCANS["delayed"].hu)


@pytest.mark.parametrize(
    ("given", "reference"),
    [
        (("non_contrast", "arterial", "delayed"), "delayed"),
        (("non_contrast", "arterial"), "arterial"),
        (("non_contrast",), "non_contrast"),
    ],
)
def test_another_phase_takes_the_venous_ones_place_with_a_warning(files, liver, caplog, given, reference):
    exam = read_phases({phase: files[phase] for phase in given}, liver)
    assert exam.reference == reference
    (warning,) = exam.warnings
    assert "no venous phase" in warning
    assert exam.phases[exam.reference].organ is not None
    assert warning in caplog.messages


def test_no_mask_is_a_warning(files, caplog):
    exam = read_phases({"venous": files["venous"]})
    assert exam.phases["venous"].organ is None
    assert "the whole body is searched" in exam.warnings[0]
    assert exam.warnings[0] in caplog.messages


def test_no_phase():
    with pytest.raises(InputError, match="no phase is given; expected"):
        read_phases({})


def test_one_file_under_two_phases(files, tmp_path):
    again = tmp_path / "folder" / ".." / "venous.nii.gz"
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="given as venous and as delayed phase; expected"):
        read_phases({"venous": files["venous"], "delayed": again})


def test_two_files_of_the_same_voxels(files, tmp_path):
    copy = write_scan(tmp_path / "copy.nii.gz", SCANS["arterial"])
    with pytest.raises(InputError, match=r"copy.nii.gz: the delayed phase has the voxels of the arterial one, .*arter"):
        read_phases({**files, "delayed": copy})


def test_an_empty_mask_is_no_liver(files, tmp_path):
    empty = write_mask(tmp_path / "empty.nii.gz", np.zeros(GRID.shape_zyx), GRID)
    with pytest.raises(InputError, match=r"empty.nii.gz: an empty mask; expected the liver in the venous scan"):
        read_phases(files, empty)


def test_a_mask_on_another_grid(files, tmp_path):
    other = Grid.from_spacing((24, 32, 30), (3.0, 2.0, 2.0))
    path = write_mask(tmp_path / "other.nii.gz", np.ones(other.shape_zyx), other)
    with pytest.raises(InputError, match=r"other.nii.gz: mask of 30 x 32 x 24 voxels; expected .* the venous scan"):
        read_phases(files, path)


# -------------------------------------------------------------------------------------------------------- exam folders


def test_exam_folders(tmp_path):
    folder = tmp_path / "b"
    for phase, scan in SCANS.items():
        write_scan(folder / f"{phase}.nii.gz", scan)
    write_mask(folder / "liver.nii.gz", LIVER, GRID)
    write_scan(tmp_path / "a" / "delayed.nii.gz", SCANS["delayed"])
    (tmp_path / "exams.json").write_text('{"seed": 0, "exams": [{"name": "b", "host": "x"}, {"name": "a"}]}')
    assert exam_folders(tmp_path) == [tmp_path / "a", folder]
    assert list(phase_files(folder)) == list(PHASES)
    assert read_exam_folder(folder, liver=True).phases["venous"].organ is not None
    assert read_exam_folder(folder, liver=False).phases["venous"].organ is None
    with pytest.raises(InputError, match=r"liver.nii.gz: no such file"):
        read_exam_folder(tmp_path / "a", liver=True)


def test_listed_exam_without_a_folder_is_named(tmp_path):
    write_scan(tmp_path / "a" / "venous.nii.gz", SCANS["venous"])
    (tmp_path / "exams.json").write_text('{"exams": [{"name": "a"}, {"name": "c"}]}')
    with pytest.raises(
        InputError, match=r"exams\.json: lists c, which has no phase in .*; expected a folder of that exam"
    ):
        exam_folders(tmp_path)


def test_folders_without_exams(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        exam_folders(tmp_path / "none")
    with pytest.raises(InputError, match="no exam in it"):
        exam_folders(tmp_path)
    with pytest.raises(InputError, match="no phase of an exam"):
        phase_files(tmp_path)


def test_truth(tmp_path):
    ids = np.zeros(GRID.shape_zyx)
    ids[4:6, 10:12, 10:12] = 1
    ids[8:10, 10:12, 10:12] = 3
    write_mask(tmp_path / "lesions.nii.gz", ids, GRID)
    path = tmp_path / "lesions.json"
    path.write_text(json.dumps({"3": {"type": "hcc", "size": 4}, "1": {"type": "cyst"}}))
    lesions, types = read_truth(tmp_path)
    assert types == {1: "cyst", 3: "hcc"}
    np.testing.assert_array_equal(lesions.ids, ids)
    path.write_text(json.dumps({"1": {"type": "cyst"}}))
    with pytest.raises(InputError, match=r"lesions.json: lesions \[1\]; expected those of lesions.nii.gz, \[1, 3\]"):
        read_truth(tmp_path)
    path.write_text(json.dumps({"1": {"type": "cyst"}, "3": {"type": "abscess"}}))
    with pytest.raises(InputError, match=r"lesions.json: 3.type"):
        read_truth(tmp_path)


# -------------------------------------------------------------------------------------------------------- registration


@pytest.mark.usefixtures("registered")
def test_phases_lie_on_one_lattice_in_the_models_order():
    other = Grid.from_spacing((30, 34, 36), (2.5, 2.0, 2.0), origin_xyz_mm=(-33.0, -41.0, 98.0))
    bright = {GRID.centre_xyz_mm: 300}
    exam = exam_of(arterial=block_scan(bright, grid=other), venous=block_scan(bright))
    phases = register_phases(exam, SETTINGS)
    assert phases.is_there.tolist() == [False, True, True, False]
    assert phases.used == ("arterial", "venous")
    assert set(phases.registrations) == {"arterial"}
    assert phases.warnings == ()
    assert not phases.hu[[0, 3]].any()
    np.testing.assert_allclose(phases.hu[2], sample_scan(exam.phases["venous"], phases.region.grid), atol=1e-3)
    inside = ball(phases.region.grid, GRID.centre_xyz_mm, 5.0)
    assert np.abs(phases.hu[1:3, inside] - 300).max() < 1
    assert phases.hu[1:3, phases.region.mask & ~ball(phases.region.grid, GRID.centre_xyz_mm, 12.0)].mean() < 70
    assert phases.region.mask.sum() * phases.region.grid.voxel_volume_ml == pytest.approx(
        LIVER.sum() * GRID.voxel_volume_ml, rel=0.05
    )


@pytest.mark.usefixtures("registered")
def test_the_orientation_of_files_does_not_matter():
    exam = exam_of()
    hu, grid = flipped(exam.phases["venous"].hu, GRID)
    organ, _ = flipped(LIVER, GRID)
    other = LiverExam(phases={"venous": Scan(hu=hu, grid=grid, organ=organ)}, reference="venous")
    first, second = (register_phases(each, SETTINGS) for each in (exam, other))
    np.testing.assert_allclose(first.hu, second.hu, atol=1e-2)
    np.testing.assert_array_equal(first.region.mask, second.region.mask)


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize(("slices", "used"), [((8, 24), True), ((16, 24), False)])
def test_a_phase_of_another_coverage(caplog, slices, used):
    first, last = slices
    scan = SCANS["arterial"]
    part = Scan(hu=scan.hu[first:last], grid=GRID.window((first, 0, 0), (last, 32, 32)))
    phases = register_phases(exam_of(arterial=part), SETTINGS)
    assert ("arterial" in phases.used) == used
    share = LIVER[first:last].sum() / LIVER.sum()
    stated = int(phases.notes["arterial"].removeprefix("it shows ").partition("%")[0]) / 100
    assert stated == pytest.approx(share, abs=0.05)
    assert phases.warnings[0].startswith(f"the arterial phase {'is used, but' if used else 'is left out:'} it shows")
    assert phases.warnings[0] in caplog.messages


@pytest.mark.usefixtures("registered")
def test_padding_is_not_covered():
    scan = SCANS["arterial"]
    hu = scan.hu.copy()
    hu[:14] = PADDING_HU
    assert register_phases(exam_of(arterial=Scan(hu=hu, grid=GRID)), SETTINGS).used == ("venous",)


@pytest.mark.parametrize(
    ("stage", "similarity", "trust"), [("body centres", 1.0, 1.0), ("deformable", 0.5, 1.0), ("deformable", 0.9, 0.3)]
)
def test_a_phase_of_another_patient_is_left_out(monkeypatch, stage: Stage, similarity: float, trust: float):
    monkeypatch.setattr(registration, "register_scans", partial(in_place, stage=stage, similarity=similarity))
    monkeypatch.setattr(registration, "trust_in", lambda *_: trust)
    phases = register_phases(exam_of(delayed=SCANS["delayed"]), SETTINGS)
    assert phases.used == ("venous",)
    assert phases.is_there.tolist() == [False, False, True, False]
    assert not phases.hu[3].any()
    assert "another patient" in phases.notes["delayed"]
    assert "another patient" in phases.warnings[0]


@pytest.mark.usefixtures("registered")
def test_a_phase_that_the_model_does_not_take():
    settings = diagnosis_settings(phases=("arterial", "venous"))
    phases = register_phases(exam_of(delayed=SCANS["delayed"]), settings)
    assert phases.used == ("venous",)
    assert phases.notes["delayed"] == "the model does not take it; it takes arterial, venous"
    with pytest.raises(InputError, match=r"no phase can be used \(venous: the model does not take it"):
        register_phases(exam_of(), diagnosis_settings(phases=("delayed",)))


@pytest.mark.usefixtures("registered")
def test_a_network_of_a_fixed_set_of_phases_warns_of_missing_ones():
    settings = diagnosis_settings(network=query_settings(fusion="concatenation"))
    (warning,) = register_phases(exam_of(), settings).warnings
    assert "non_contrast, arterial, delayed" in warning
    complete = register_phases(LiverExam(phases=SCANS, reference="venous"), settings)
    assert complete.warnings == ()


def test_without_a_mask_the_body_is_searched():
    phases = register_phases(exam_of(organ=False), SETTINGS)
    body_ml = 24 * 24 * 24 * GRID.voxel_volume_ml
    assert phases.region.mask.sum() * phases.region.grid.voxel_volume_ml == pytest.approx(body_ml, rel=0.35)


def test_all_registrations_are_asked_for_with_the_reference_second(monkeypatch):
    asked: list[tuple[Scan, Scan]] = []

    def noted(baseline: Scan, followup: Scan) -> Registration:
        asked.append((baseline, followup))
        return in_place(baseline, followup)

    monkeypatch.setattr(registration, "register_scans", noted)
    monkeypatch.setattr(registration, "trust_in", lambda *_: 1.0)
    exam = exam_of(arterial=SCANS["arterial"], delayed=SCANS["delayed"])
    register_phases(exam, SETTINGS)
    assert asked == [(exam.phases[phase], exam.phases["venous"]) for phase in ("arterial", "delayed")]
