"""Results written as DICOM, and read again by us and by others."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from longilesion import cli
from longilesion.case import Click, LesionMap, LesionPrompt, OutsideLesion, Scan
from longilesion.dicom.decisions import Reading
from longilesion.dicom.output import (
    BASELINE_SEG,
    FOLLOWUP_SEG,
    REPORT,
    Findings,
    Outlined,
    segments_of,
)
from longilesion.dicom.segmentation import Segment, read_segments
from longilesion.dicom.series import chosen_series
from longilesion.errors import InputError
from longilesion.geometry import Grid
from longilesion.images import read_lesion_map, read_scan
from longilesion.pipeline import LesionOutcome
from longilesion.response import Course, Lesion, Measured, Visit, assess
from test.dicom_results import write_results
from test.dicom_series import of_patient, write_multiframe, write_series

SHAPE_ZYX = (7, 24, 30)
PLACES = {3: (2, 5, 6), 7: (4, 14, 20), 300: (1, 18, 4)}
MEASURED = {
    3: Measured(longest_mm=12.345678, short_mm=10.5, volume_ml=0.98765),
    7: Measured(longest_mm=31.0, short_mm=22.0, volume_ml=12.0),
    300: Measured(longest_mm=11.0, short_mm=9.0, volume_ml=0.5),
}


def scan(seed: int = 0) -> Scan:
    hu = np.random.default_rng(seed).integers(-1000, 1000, SHAPE_ZYX).astype(np.int16)
    return Scan(hu=hu, grid=Grid.from_spacing(SHAPE_ZYX, (2.5, 0.75, 0.75), origin_xyz_mm=(-10.0, 20.0, 30.0)))


def outlined(path: Path, lesion_ids: tuple[int, ...] = (3, 7, 300)) -> Outlined:
    grid = read_scan(path).grid
    ids = np.zeros(grid.shape_zyx, np.uint16)
    for lesion_id in lesion_ids:
        z, y, x = PLACES[lesion_id]
        ids[z : z + 2, y : y + 4, x : x + 5] = lesion_id
    return Outlined(series=chosen_series(path), lesions=LesionMap(ids=ids, grid=grid))


def course() -> Course:
    before = Visit(measured={3: Measured(longest_mm=30.0, short_mm=20.0, volume_ml=9.0)})
    after = Visit(measured={3: MEASURED[3], 7: MEASURED[7]})
    return assess([Lesion(lesion_id=3), Lesion(lesion_id=7)], (before, after))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A follow-up with three lesions found and one gone, and a new one that the response counts."""
    folder = tmp_path_factory.mktemp("written")
    write_series(folder / "followup", scan(1), visit=of_patient(AcquisitionDate="20200401"))
    write_series(folder / "baseline", scan(2))
    write_results(
        folder / "out",
        outlined(folder / "followup"),
        Findings(measured=MEASURED, lesion_ids=[3, 5, 7, 300], course=course()),
        baseline=outlined(folder / "baseline", (3,)),
    )
    return folder


@pytest.fixture
def results(written: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return shutil.copytree(written, tmp_path / "results")


def test_segmentation_holds_the_map(results: Path) -> None:
    written = outlined(results / "followup").lesions
    read = read_lesion_map(results / "out" / FOLLOWUP_SEG, like=written.grid)
    np.testing.assert_array_equal(read.ids, written.ids)


def test_report_holds_the_measures_and_the_response(results: Path) -> None:
    report = hd.sr.MeasurementReport.from_sequence([hd.sr.srread(results / "out" / REPORT)], is_root=True)
    found = {}
    for group in report.get_volumetric_roi_measurement_groups():
        found[group.tracking_identifier] = {each.name.meaning: each.value for each in group.get_measurements()}
    assert found == {
        "lesion 3": {"Volume": 0.9877, "Long axis": 12.35, "Short axis": 10.5},
        "lesion 7": {"Volume": 12.0, "Long axis": 31.0, "Short axis": 22.0},
        "lesion 300": {"Volume": 0.5, "Long axis": 11.0, "Short axis": 9.0},
    }
    gone, response = report.get_image_measurement_groups()
    assert gone.tracking_identifier == "lesion 5"
    assert [each.value.meaning for each in gone.get_qualitative_evaluations()] == ["Absent"]
    said = {each.name.meaning: each.value.value for each in response.get_qualitative_evaluations()}
    # A new lesion makes the response progression, though the target shrank.
    assert said["Overall response (RECIST 1.1)"] == "PD"
    assert said["Current Response"] == "112042"
    sums = {each.name.value: each.value for each in response.get_measurements()}
    assert sums == {"sum-baseline": 30.0, "sum-followup": 12.35}


def test_tracking_is_the_same_in_all_files_and_at_all_follow_ups(results: Path) -> None:
    write_series(results / "second", scan(3))
    write_results(
        results / "out2",
        outlined(results / "second", (3,)),
        Findings(measured={3: MEASURED[3]}, lesion_ids=[3]),
        baseline=outlined(results / "baseline", (3,)),
    )
    files = [results / "out" / BASELINE_SEG, results / "out" / FOLLOWUP_SEG, results / "out2" / FOLLOWUP_SEG]
    uids = {next(segment.tracking_uid for segment in read_segments(file) if segment.lesion_id == 3) for file in files}
    assert len(uids) == 1
    report = hd.sr.MeasurementReport.from_sequence([hd.sr.srread(results / "out" / REPORT)], is_root=True)
    assert uids < {group.tracking_uid for group in report.get_volumetric_roi_measurement_groups()}
    assert len({segment.tracking_uid for segment in read_segments(files[1])}) == 3


def test_tracking_of_the_input_segmentation_is_kept(results: Path) -> None:
    segment = Segment(lesion_id=7, number=2, label="S", tracking_id="Lesion A", tracking_uid="1.2.3.4")
    write_results(
        results / "kept",
        outlined(results / "followup", (7,)),
        Findings(measured={7: MEASURED[7]}, lesion_ids=[7]),
        baseline=outlined(results / "baseline", (7,)),
        segments={7: segment},
    )
    (found,) = read_segments(results / "kept" / FOLLOWUP_SEG)
    assert (found.lesion_id, found.tracking_id, found.tracking_uid) == (7, "Lesion A", "1.2.3.4")
    # It has a segmentation of the baseline already.
    assert not (results / "kept" / BASELINE_SEG).exists()
    kept = segments_of(results / "kept" / FOLLOWUP_SEG)
    assert kept is not None
    assert kept[7].tracking_uid == "1.2.3.4"


def test_without_any_outline_there_is_a_report_alone(results: Path) -> None:
    write_results(results / "none", outlined(results / "followup", ()), Findings(measured={}, lesion_ids=[3, 5]))
    assert [file.name for file in (results / "none").iterdir()] == [REPORT]
    report = hd.sr.MeasurementReport.from_sequence([hd.sr.srread(results / "none" / REPORT)], is_root=True)
    assert [group.tracking_identifier for group in report.get_image_measurement_groups()] == ["lesion 3", "lesion 5"]


def test_files_of_an_earlier_run_that_are_wrong_now_are_removed(results: Path) -> None:
    """A case without any outline in a folder that has a segmentation, and one whose baseline was outlined."""
    nothing = outlined(results / "followup", ())
    written = write_results(results / "out", nothing, Findings(measured={}, lesion_ids=[3]))
    assert sorted((results / "out").iterdir()) == written == [results / "out" / REPORT]


def reviewed(folder: Path, *, is_complete: bool = True) -> Path:
    """The results after a reader's decisions: one lesion confirmed, one drawn by hand, one gone, one new."""
    reading = Reading(
        readers=("A. Reader", "Zoë"),
        is_complete=is_complete,
        decisions={3: "confirmed", 5: "gone", 7: "drawn", 300: "new"},
        drawn=frozenset({7}),
    )
    findings = Findings(measured=MEASURED, lesion_ids=[3, 5, 7, 300], course=course(), reading=reading)
    write_results(folder / "reviewed", outlined(folder / "followup"), findings)
    return folder / "reviewed"


@pytest.mark.parametrize("is_complete", [True, False])
def test_reviewed_results_say_what_was_decided_by_whom(results: Path, is_complete: bool) -> None:
    folder = reviewed(results, is_complete=is_complete)
    segmentation, dataset = (pydicom.dcmread(folder / name) for name in (FOLLOWUP_SEG, REPORT))
    kinds = {each.SegmentLabel: each.SegmentAlgorithmType for each in segmentation.SegmentSequence}
    assert kinds == {"lesion 3": "AUTOMATIC", "lesion 7": "SEMIAUTOMATIC", "lesion 300": "AUTOMATIC"}
    assert ("reviewed by a person" in segmentation.ImageComments) == is_complete
    assert dataset.CompletionFlagDescription.endswith(", reviewed by a reader") == is_complete
    assert dataset.CompletionFlagDescription.endswith(", not confirmed by a reader") != is_complete
    report = hd.sr.MeasurementReport.from_sequence([hd.sr.srread(folder / REPORT)], is_root=True)
    groups = [*report.get_volumetric_roi_measurement_groups(), *report.get_image_measurement_groups()]
    decided = {
        group.tracking_identifier: evaluation.value.meaning
        for group in groups
        for evaluation in group.get_qualitative_evaluations()
        if evaluation.name.value == "decision"
    }
    assert decided == {"lesion 3": "Confirmed", "lesion 5": "Gone", "lesion 7": "Drawn", "lesion 300": "New"}
    assert "A. Reader, Zoë^" in [str(each.PersonName) for each in report[0].ContentSequence if "PersonName" in each]


def test_results_that_nobody_has_reviewed_name_no_person(results: Path) -> None:
    report = hd.sr.MeasurementReport.from_sequence([hd.sr.srread(results / "out" / REPORT)], is_root=True)
    assert not any("PersonName" in each for each in report[0].ContentSequence)
    assert "ecision" not in str(report[0])


@given(readers=st.lists(st.text(st.characters(exclude_categories=("Cs",)), max_size=80), max_size=3))
def test_any_reader_becomes_a_valid_name(readers: list[str]) -> None:
    name = Reading(readers=tuple(readers), is_complete=True, decisions={}).person_name
    assert len(name) <= 64
    assert not any(each in name[:-1] for each in "\\^=\r\n\0\x1b")
    assert name == "" or (name.endswith("^") and pydicom.valuerep.PersonName(name).family_name == name[:-1])


def test_candidates_are_outlined_and_not_reported(results: Path) -> None:
    made = outlined(results / "followup")
    searched = replace(made, lesions=replace(made.lesions, candidates=(300,)))
    write_results(results / "found", searched, Findings(measured={3: MEASURED[3], 7: MEASURED[7]}, lesion_ids=[3, 7]))
    names = {segment.lesion_id: segment.tracking_id for segment in read_segments(results / "found" / FOLLOWUP_SEG)}
    assert names == {3: "lesion 3", 7: "lesion 7", 300: "candidate 300, not confirmed"}
    report = hd.sr.MeasurementReport.from_sequence([hd.sr.srread(results / "found" / REPORT)], is_root=True)
    groups = report.get_volumetric_roi_measurement_groups()
    assert [group.tracking_identifier for group in groups] == ["lesion 3", "lesion 7"]


def test_report_refers_to_the_segments_of_its_lesions_among_those_of_candidates(results: Path) -> None:
    made = outlined(results / "followup")
    searched = replace(made, lesions=replace(made.lesions, candidates=(3,)))
    findings = Findings(measured={7: MEASURED[7], 300: MEASURED[300]}, lesion_ids=[7, 300])
    write_results(results / "among", searched, findings)
    segments = {segment.lesion_id: segment.number for segment in read_segments(results / "among" / FOLLOWUP_SEG)}
    report = hd.sr.MeasurementReport.from_sequence([hd.sr.srread(results / "among" / REPORT)], is_root=True)
    referenced = {
        group.tracking_identifier: group.referenced_segment.referenced_segment_numbers
        for group in report.get_volumetric_roi_measurement_groups()
    }
    assert referenced == {f"lesion {each}": [segments[each]] for each in (7, 300)}


def test_lesion_that_is_not_gone_is_not_reported_as_absent(results: Path) -> None:
    absences = {3: "outside", 5: "gone", 7: "merged", 300: "not outlined"}
    made = outlined(results / "followup", ())
    write_results(results / "states", made, Findings(measured={}, lesion_ids=[3, 5, 7, 300], absences=absences))
    report = hd.sr.MeasurementReport.from_sequence([hd.sr.srread(results / "states" / REPORT)], is_root=True)
    said = [group.get_qualitative_evaluations()[0].value.meaning for group in report.get_image_measurement_groups()]
    assert said == [
        "Outside the scan, not assessed",
        "Absent",
        "In the outline of another lesion",
        "Probably there, but not outlined",
    ]


def test_outcomes_say_why_they_have_no_outline() -> None:
    place = Click(scan_name="primary", point_xyz_mm=(0, 0, 0))
    outside = OutsideLesion(lesion_id=1, baseline=place, confidence=1.0)
    prompt = LesionPrompt(lesion_id=1, followup=place, baseline=None, propagated=False, confidence=1.0)
    gone = LesionOutcome(
        prompt=prompt,
        place_xyz_mm=(0, 0, 0),
        presence=0.0,
        probability=0.0,
        volume_baseline_ml=1.0,
        volume_followup_ml=0.0,
        note="",
    )
    cases = [gone, replace(gone, prompt=outside), replace(gone, merged_into=2), replace(gone, is_present=True)]
    assert [each.absence for each in cases] == ["gone", "outside", "merged", "not outlined"]
    assert replace(gone, volume_followup_ml=1.0).absence is None


def test_multiframe_scan(tmp_path: Path) -> None:
    path = tmp_path / "ct.dcm"
    write_multiframe(path, scan())
    write_results(tmp_path / "out", outlined(path), Findings(measured=MEASURED, lesion_ids=[3, 7, 300]))
    written = outlined(path).lesions
    read = read_lesion_map(tmp_path / "out" / FOLLOWUP_SEG, like=written.grid)
    np.testing.assert_array_equal(read.ids, written.ids)


def test_frames_of_another_volume_in_the_same_file_stay_empty(tmp_path: Path) -> None:
    path = tmp_path / "ct.dcm"
    write_multiframe(path, scan())
    dataset = pydicom.dcmread(path)
    # The last two frames lie elsewhere, turned.
    for frame in dataset.PerFrameFunctionalGroupsSequence[-2:]:
        turned = pydicom.Dataset()
        turned.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
        frame.PlaneOrientationSequence = [turned]
    dataset.save_as(path)
    made = outlined(path, (7,))
    write_results(tmp_path / "out", made, Findings(measured={7: MEASURED[7]}, lesion_ids=[7]))
    read = read_lesion_map(tmp_path / "out" / FOLLOWUP_SEG, like=made.lesions.grid)
    np.testing.assert_array_equal(read.ids, made.lesions.ids)


def test_volume_in_several_multiframe_files_is_read_and_refused_for_results(tmp_path: Path) -> None:
    visit = of_patient()
    lower, upper = (Scan(hu=scan().hu[part], grid=scan().grid.window((a, 0, 0), (b, 24, 30))) for part, a, b in HALVES)
    write_multiframe(tmp_path / "ct" / "a.dcm", lower, visit=visit)
    write_multiframe(tmp_path / "ct" / "b.dcm", upper, visit=visit)
    assert read_scan(tmp_path / "ct").hu.shape == SHAPE_ZYX
    with pytest.raises(InputError, match="a volume in 2 multi-frame files; expected one"):
        write_results(tmp_path / "out", outlined(tmp_path / "ct"), Findings(measured=MEASURED, lesion_ids=[3]))


HALVES = ((slice(0, 4), 0, 4), (slice(4, 7), 4, 7))


def test_outlines_on_a_tilted_scan_lie_on_its_own_images(tmp_path: Path) -> None:
    def shifted(index: int) -> tuple[float, float, float]:
        return 0.0, 0.6 * index, 0.0

    write_series(tmp_path / "ct", scan(), shift_xyz_mm=shifted)
    made = outlined(tmp_path / "ct")
    write_results(tmp_path / "out", made, Findings(measured=MEASURED, lesion_ids=[3, 7, 300]))
    dataset = pydicom.dcmread(tmp_path / "out" / FOLLOWUP_SEG)
    segments = dataset.PerFrameFunctionalGroupsSequence
    grid = made.lesions.grid
    for frame, pixels in zip(segments, dataset.pixel_array, strict=True):
        number = frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        lesion_id = sorted(PLACES)[number - 1]
        position = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float)
        rows, columns = np.nonzero(pixels)
        for row, column in zip(rows, columns, strict=True):
            index = np.rint(grid.index_zyx(position + np.array([0.75 * column, 0.75 * row, 0]))).astype(int)
            assert made.lesions.ids[tuple(index)] == lesion_id


@settings(max_examples=10, deadline=None)
@given(
    tilt=st.floats(-0.5, 0.5),
    # Within all images, which are shifted by up to eleven rows against each other.
    lesion=st.tuples(*(st.integers(low, high) for low, high in ((1, 4), (12, 17), (3, 14)))),
    depth=st.integers(1, 2),
    other=st.integers(0, 6),
)
@example(tilt=0.3, lesion=(1, 13, 4), depth=1, other=3)
@example(tilt=0.0, lesion=(1, 13, 4), depth=1, other=3)
@example(tilt=0.0, lesion=(1, 13, 4), depth=1, other=6)
def test_outlines_on_a_tilted_scan_are_read_where_they_were(
    tmp_path_factory: pytest.TempPathFactory, tilt: float, lesion: tuple[int, int, int], depth: int, other: int
) -> None:
    """What was written on tilted images is read on the grid with right angles, but for half a pixel.

    Images between two lesions have no frame, and are none of theirs.
    """
    folder = tmp_path_factory.mktemp("tilted")
    write_series(folder / "ct", scan(), shift_xyz_mm=lambda index: (0, 2.5 * index * np.tan(tilt), 0))
    grid = read_scan(folder / "ct").grid
    z, y, x = lesion
    ids = np.zeros(grid.shape_zyx, np.uint16)
    ids[z : z + depth, y : y + 5, x : x + 6] = 3
    ids[other, 14:19, 22:27] = 7
    made = Outlined(series=chosen_series(folder / "ct"), lesions=LesionMap(ids=ids, grid=grid))
    write_results(folder / "out", made, Findings(measured=MEASURED, lesion_ids=[3, 7]))
    read = read_lesion_map(folder / "out" / FOLLOWUP_SEG, like=grid).ids
    for lesion_id in (3, 7):
        mask, found = ids == lesion_id, read == lesion_id
        assert not found[~ndimage.binary_dilation(mask, np.ones((1, 3, 3)))].any()
        assert found[ndimage.binary_erosion(mask, np.ones((1, 3, 3)))].all()


def test_files_that_cannot_be_written_leave_nothing(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(path: Path, *, lesions: int) -> None:
        raise InputError(f"{path}: not what was written")

    monkeypatch.setattr("longilesion.dicom.output.check_report", fails)
    with pytest.raises(InputError, match=r"followup_sr.dcm"):
        write_results(results / "half", outlined(results / "followup"), Findings(measured=MEASURED, lesion_ids=[3]))
    assert list((results / "half").iterdir()) == []


ODD = {
    "PatientName": ["", None, "ONEWORD", "Doe^Jane=x=y", "Ünlü^Ärzt"],
    "PatientSex": ["", None, "W", "female"],
    "PatientBirthDate": ["", None, "1950.01.01", "19501301"],
    "StudyDate": ["", None, "00000000"],
    "StudyTime": ["", None, "1200", "noon"],
    "StudyID": ["", None],
    "AccessionNumber": [None],
    "ReferringPhysicianName": [None, "A"],
    "SpecificCharacterSet": ["", "ISO_IR 100", "ISO 2022 IR 6"],
    "PatientID": ["", None],
    "PositionReferenceIndicator": [None, ""],
    "BodyPartExamined": [None],
    "Manufacturer": [None],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in ODD.items() for value in values])
@pytest.mark.filterwarnings("ignore")
def test_what_archives_do_to_headers_stops_no_result_and_is_not_repeated(
    tmp_path: Path, name: str, value: str | None, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    def odd(index: int, dataset: pydicom.Dataset) -> None:
        if name == "SpecificCharacterSet" and value:
            dataset.PatientName = "Müller^Jörg" if value == "ISO_IR 100" else "Doe^Jane"
        setattr(dataset, name, value)
        if value is None:
            delattr(dataset, name)

    write_series(tmp_path / "ct", scan(), changed=odd)
    made = outlined(tmp_path / "ct", (3,))
    recwarn.clear()
    caplog.clear()
    write_results(tmp_path / "out", made, Findings(measured={3: MEASURED[3]}, lesion_ids=[3, 5], course=course()))
    for file in (FOLLOWUP_SEG, REPORT):
        assert pydicom.dcmread(tmp_path / "out" / file).StudyInstanceUID == made.series.header.study_uid
    if value == "ISO_IR 100":
        assert str(pydicom.dcmread(tmp_path / "out" / REPORT).PatientName) == "Müller^Jörg"
    said = caplog.text + " ".join(str(each.message) for each in recwarn)
    assert not any(word in said for word in ("Doe", "ONEWORD", "1950", "female"))


def test_image_without_a_frame_of_reference_is_refused(tmp_path: Path) -> None:
    write_series(tmp_path / "ct", scan(), changed=lambda index, dataset: delattr(dataset, "FrameOfReferenceUID"))
    with pytest.raises(InputError, match="image without FrameOfReferenceUID"):
        write_results(tmp_path / "out", outlined(tmp_path / "ct", (3,)), Findings(measured={}, lesion_ids=[3]))


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="needs dciodvfy, of Debian's dicom3tools")
@pytest.mark.parametrize("name", [BASELINE_SEG, FOLLOWUP_SEG, REPORT])
@pytest.mark.parametrize("is_reviewed", [False, True])
def test_files_are_valid_by_dciodvfy(results: Path, name: str, is_reviewed: bool) -> None:
    folder = reviewed(results) if is_reviewed and name != BASELINE_SEG else results / "out"
    checked = subprocess.run(["dciodvfy", folder / name], capture_output=True, text=True, check=False)
    said = [line for line in (checked.stdout + checked.stderr).splitlines() if "99LONGILESION" not in line]
    assert [line for line in said if line.startswith(("Error", "Warning"))] == []


def test_dcmqi_reads_the_segmentation_and_the_report(results: Path) -> None:
    programs = Path(sys.executable).parent
    subprocess.run(
        [
            *(programs / "segimage2itkimage", "--inputDICOM", results / "out" / FOLLOWUP_SEG, "-t", "nrrd"),
            *("--outputDirectory", results, "--mergeSegments"),
        ],
        check=True,
        capture_output=True,
    )
    found = sitk.GetArrayFromImage(sitk.ReadImage(str(next(results.glob("*.nrrd")))))
    written = outlined(results / "followup").lesions
    assert np.bincount(found.ravel())[1:].tolist() == [np.count_nonzero(written.ids == each) for each in (3, 7, 300)]
    subprocess.run(
        [
            *(programs / "tid1500reader", "--inputDICOM", results / "out" / REPORT),
            *("--outputMetadata", results / "sr.json"),
        ],
        check=True,
        capture_output=True,
    )
    measurements = json.loads((results / "sr.json").read_text())["Measurements"]
    found = {each["TrackingIdentifier"]: each["measurementItems"] for each in measurements}
    volumes = {name: items[0]["value"] for name, items in found.items() if items and "lesion" in name}
    assert volumes == {"lesion 3": "0.9877", "lesion 7": "12.0", "lesion 300": "0.5"}


@pytest.mark.parametrize("name", [FOLLOWUP_SEG, REPORT])
def test_files_belong_to_the_patient_and_say_what_they_are_worth(results: Path, name: str) -> None:
    dataset = pydicom.dcmread(results / "out" / name)
    source = chosen_series(results / "followup").header
    assert dataset.PatientID == "P1"
    assert dataset.StudyInstanceUID == source.study_uid
    assert dataset.Manufacturer == "longilesion"
    assert "esearch use only" in dataset.SeriesDescription
    assert dataset.SeriesInstanceUID != source.series_uid


# ------------------------------------------------------------------------------------------------------------- command


def segment(bundle: Path, folder: Path, *options: object) -> int:
    named = ["--model", bundle, "--baseline", folder / "baseline", "--followup", folder / "followup"]
    named += ["--lesions", folder / "out" / BASELINE_SEG, "--output", folder / "cli.dcm", *options]
    return cli.main(["segment", *map(str, named)])


@pytest.mark.usefixtures("restored_logging")
def test_command_goes_from_folders_to_files(results: Path, bundle: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert segment(bundle, results) == 0
    assert sorted(file.name for file in (results / "cli.dcm").iterdir()) == [FOLLOWUP_SEG, REPORT]
    (before,), (after,) = (read_segments(results / name) for name in (f"out/{BASELINE_SEG}", f"cli.dcm/{FOLLOWUP_SEG}"))
    assert (before.lesion_id, before.tracking_uid) == (after.lesion_id, after.tracking_uid)
    said = capfd.readouterr()
    assert not any(name in said.out + said.err for name in ("Doe", "P1", "20200401"))


@pytest.mark.usefixtures("restored_logging")
def test_scans_of_two_patients_are_refused_unless_they_are_said_to_be_one(
    results: Path, bundle: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(results / "followup")
    write_series(results / "followup", scan(1), visit=of_patient(PatientID="P2", AcquisitionDate="20200401"))
    assert segment(bundle, results) == 1
    said = capfd.readouterr().err
    assert "scans of two patients, by their PatientID" in said
    assert "P2" not in said
    assert list((results / "cli.dcm").iterdir()) == []
    assert segment(bundle, results, "--same-patient") == 0


@pytest.mark.parametrize("changed", [{"PatientIdentityRemoved": "YES"}, {"PatientID": ""}])
@pytest.mark.usefixtures("restored_logging")
def test_deidentified_scans_are_not_compared(results: Path, bundle: Path, changed: dict[str, str]) -> None:
    shutil.rmtree(results / "followup")
    write_series(
        results / "followup", scan(1), visit=of_patient(**{"PatientID": "X", "AcquisitionDate": "20200401", **changed})
    )
    assert segment(bundle, results) == 0


@pytest.mark.usefixtures("restored_logging")
def test_dates_that_run_backwards_are_refused(results: Path, bundle: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(results / "followup")
    write_series(results / "followup", scan(1), visit=of_patient(AcquisitionDate="20191231"))
    assert segment(bundle, results) == 1
    assert "taken 31 days after" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--labels", "binary"), "--labels binary with DICOM"),
        (("--followup-series", "2"), "no CT volume with the number or UID 2; expected one of"),
        (("--followup", "image.mha"), "DICOM refers to images in DICOM"),
        (("--output", "image.mha"), "unknown image format"),
    ],
)
@pytest.mark.usefixtures("restored_logging")
def test_options_that_contradict_dicom_are_refused(
    results: Path, bundle: Path, capfd: pytest.CaptureFixture[str], options: tuple[str, str], message: str
) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(scan().hu), str(results / "image.mha"))
    name, value = options
    if name == "--output":
        name, value = "--output", str(results / "folder.jpg")
    assert segment(bundle, results, name, results / value if value.endswith(".mha") else value) == 1
    assert message in capfd.readouterr().err
