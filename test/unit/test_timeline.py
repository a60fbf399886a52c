"""Lesions followed through more than two time points."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom.sr.codedict import codes

import longilesion.ensemble
from longilesion import cli
from longilesion.case import Case, Click, EarlierVisit, LesionMap
from longilesion.course import CourseRecord, LesionRecord, TimePointRecord, course_of, record_of
from longilesion.detection import Candidate
from longilesion.dicom.output import TIME_POINT_REPORT, TIME_POINT_SEG
from longilesion.dicom.segmentation import read_segments
from longilesion.ensemble import Ensemble
from longilesion.fingerprint import fingerprint
from longilesion.geometry import Triple
from longilesion.images import read_lesion_map, read_scan
from longilesion.new_lesions import NewLesion, Search
from longilesion.pipeline import Segmentation
from longilesion.response import Measured
from longilesion.timeline import TimePoint, next_time_point
from test.dicom_series import of_patient, write_series
from test.unit.builders import ball
from test.unit.case_folders import lesion_ids, soft_tissue, write_image, write_points
from test.unit.series import BESIDE, MIDDLE, at, seen
from test.unit.test_pipeline import bright_voxels

ELSEWHERE = (40.0, 90.0, 40.0)


def clicks(number: int, places: Mapping[int, Triple]) -> dict[int, Click]:
    return {lesion_id: at(number, place) for lesion_id, place in places.items()}


def gone_through(
    *points: Mapping[int, Triple], clicked: Mapping[int, Mapping[int, Triple]] | None = None
) -> list[TimePoint]:
    """Time points with lesions at those places, each followed from those before; all known lesions are clicked."""
    done = [TimePoint.given(seen(0, points[0]))]
    known: dict[int, Triple] = dict(points[0])
    for number, lesions in enumerate(points[1:], start=1):
        known |= lesions
        places = known if clicked is None else clicked.get(number, {})
        visits = [point.visit for point in done]
        scan = seen(number, lesions).scan
        done.append(next_time_point(visits, scan, bright_voxels(), clicks=clicks(number, places)))
    return done


def found(point: TimePoint) -> set[int]:
    return set(np.unique(point.lesions.ids).tolist()) - {0}


def test_lesion_that_was_gone_comes_back_under_its_id() -> None:
    both, one = {1: MIDDLE, 2: BESIDE}, {1: MIDDLE}
    points = gone_through(both, one, both)
    assert [found(point) for point in points] == [{1, 2}, {1}, {1, 2}]
    truth = seen(2, both).lesions
    assert truth is not None
    for lesion_id in (1, 2):
        same = (points[2].lesions.ids == lesion_id) & (truth.ids == lesion_id)
        assert same.sum() > 0.7 * (truth.ids == lesion_id).sum()
    (back,) = (outcome for outcome in points[2].outcomes if outcome.prompt.lesion_id == 2)
    # It is compared with what it looked like when it was last there.
    assert back.volume_baseline_ml == pytest.approx(
        np.count_nonzero(points[0].lesions.ids == 2) * points[0].lesions.grid.voxel_volume_ml
    )


def test_new_lesion_is_followed_from_where_it_was_clicked() -> None:
    one, both = {1: MIDDLE}, {1: MIDDLE, 9: BESIDE}
    # At the third time point, registration places both.
    points = gone_through(one, both, both, clicked={1: both, 2: {}})
    assert [found(point) for point in points] == [{1}, {1, 9}, {1, 9}]
    (new,) = (outcome for outcome in points[2].outcomes if outcome.prompt.lesion_id == 9)
    assert new.prompt.baseline is not None
    assert new.volume_baseline_ml == pytest.approx(points[1].outcomes[-1].volume_followup_ml, rel=1e-6)


def test_each_lesion_has_the_latest_time_point_that_outlines_it(monkeypatch: pytest.MonkeyPatch) -> None:
    visits = [
        EarlierVisit(baselines={"primary": seen(0, {1: MIDDLE, 2: BESIDE})}, clicks={}),
        EarlierVisit(baselines={"primary": seen(1, {1: MIDDLE})}, clicks=clicks(1, {2: BESIDE, 3: ELSEWHERE})),
        EarlierVisit(baselines={"primary": seen(2, {1: MIDDLE})}, clicks=clicks(2, {1: MIDDLE, 2: BESIDE})),
    ]
    cases = []
    segment_case = longilesion.timeline.segment_case

    def noted(case, ensemble, **options):  # type: ignore[no-untyped-def]
        cases.append(case)
        return segment_case(case, ensemble, **options)

    monkeypatch.setattr(longilesion.timeline, "segment_case", noted)
    places = {1: MIDDLE, 2: BESIDE, 3: ELSEWHERE}
    next_time_point(visits, seen(3, places).scan, bright_voxels(), clicks=clicks(3, places))
    told = {
        lesion_id: len(case.earlier)
        for case in cases
        for lesion_id in {*case.baselines["primary"].regions, *(pair.lesion_id for pair in case.clicks)}
    }
    assert told == {1: 2, 2: 0, 3: 1}
    assert sum(len(case.baselines["primary"].regions) for case in cases) == 2


def test_lesion_that_comes_back_in_another_ones_outline_is_part_of_it() -> None:
    both, one = {1: MIDDLE, 2: BESIDE}, {1: MIDDLE}
    first, second = gone_through(both, one)
    scan = seen(2, one).scan
    # Both are looked for at the same place, where there is one lesion.
    point = next_time_point(
        [first.visit, second.visit], scan, bright_voxels(), clicks=clicks(2, {1: MIDDLE, 2: MIDDLE})
    )
    (back,) = (outcome for outcome in point.outcomes if outcome.prompt.lesion_id == 2)
    assert found(point) == {1}
    assert back.merged_into == 1
    assert back.volume_followup_ml == 0
    assert "in the outline of lesion 1" in back.note


# --------------------------------------------------------------------------------------------------------------- course


def record(number: int, lengths: Mapping[int, float], **changed: object) -> TimePointRecord:
    lesions = [
        LesionRecord(id=lesion_id, volume_ml=mm**3 / 2000, longest_mm=mm, short_mm=mm)
        for lesion_id, mm in lengths.items()
    ]
    values = {"on": date(2026, number, 1), "scan": f"{number}.mha", "fingerprint": "", "slice_mm": 1.0, **changed}
    return TimePointRecord(number=number, lesions=lesions, **values)


def test_course_is_that_of_recist() -> None:
    """30 + 20 = 50 mm; then 32 mm (-36 %), 42 mm (+31 % from the smallest)."""
    course, _ = course_of([record(1, {1: 30, 2: 20}), record(2, {1: 20, 2: 12}), record(4, {1: 28, 2: 14})])
    assert course.targets == [1, 2]
    assert course.baseline_sum_mm == 50
    assert [(each.overall, each.sum_mm) for each in course.responses] == [("PR", 32), ("PD", 42)]
    assert course.best == "PR"
    # Nothing confirms it.
    assert course.best_confirmed == "SD"
    # 30^3 to 28^3 in 90 days.
    assert course.doubling_days[1] == pytest.approx(90 * np.log(2) / (3 * np.log(28 / 30)), rel=1e-3)


def test_candidates_count_neither_as_lesions_nor_as_new() -> None:
    lesions = [
        LesionRecord(id=1, volume_ml=10, longest_mm=30, short_mm=20),
        LesionRecord(id=5, volume_ml=10, longest_mm=30, short_mm=20, is_candidate=True),
    ]
    course, _ = course_of([record(1, {1: 30}), _with(2, lesions)])
    (response,) = course.responses
    assert (response.overall, response.new) == ("SD", [])


def _with(number: int, lesions: list[LesionRecord]) -> TimePointRecord:
    return record(number, {}).model_copy(update={"lesions": lesions})


def test_time_points_that_failed_and_lesions_outside_are_not_assessed() -> None:
    outside = [LesionRecord(id=1, volume_ml=0, longest_mm=0, short_mm=0, is_outside=True)]
    failed = record(2, {}, error="no such file")
    course, _ = course_of([record(1, {1: 30}), failed, _with(3, outside)])
    (response,) = course.responses
    assert (response.number, response.overall) == (3, "NE")
    assert course.time_points[1].error == "no such file"


def test_without_lesions_or_a_second_time_point_there_is_no_response() -> None:
    assert course_of([record(1, {1: 30})])[0].responses == []
    assert course_of([record(1, {}), record(2, {1: 30})])[0].responses == []


def test_merged_lesions_have_the_measures_of_both() -> None:
    merged = [
        LesionRecord(id=1, volume_ml=10, longest_mm=45, short_mm=20),
        LesionRecord(id=2, volume_ml=0, longest_mm=0, short_mm=0, merged_into=1),
    ]
    course, found_course = course_of([record(1, {1: 30, 2: 20}), _with(2, merged)])
    assert course.responses[0].sum_mm == 45
    assert found_course is not None
    assert found_course.assessments[0].sum.ml == pytest.approx(10)
    assert Measured() == merged[1].measured


def test_fingerprint_depends_on_contents_and_not_on_dates(tmp_path: Path) -> None:
    for name, content in (("a/x", b"1"), ("b/x", b"1"), ("c/x", b"2"), ("d/y", b"1")):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(content)
    a, b, c, d = (fingerprint(tmp_path / name, "text") for name in "abcd")
    assert a == b
    assert len({a, c, d, fingerprint(tmp_path / "a", "other")}) == 4


# -------------------------------------------------------------------------------------------------------------- command


@pytest.fixture
def scans(tmp_path: Path) -> list[Path]:
    """Three scans; the tests' model outlines whatever it is asked for."""
    paths = []
    for number in range(3):
        hu = soft_tissue()
        hu[2, 4:6, 4:6] = 100 + number
        paths.append(write_image(tmp_path / f"scan{number}.mha", hu))
    write_image(tmp_path / "lesions.mha", lesion_ids({7: (1, 3, 3), 9: (3, 6, 7)}))
    # With clicks everywhere, nothing is registered, which would take most of the time.
    write_points(tmp_path / "clicks.json", {"7": [4.0, 4.0, 2.0], "9": [8.0, 7.0, 4.0]})
    return paths


def follow(bundle: Path, scans: list[Path], *options: object, clicked: bool = True) -> int:
    folder = scans[0].parent
    arguments = [*scans, "--lesions", folder / "lesions.mha", "--output", folder / "out", "--model", bundle, *options]
    if clicked and "--clicks" not in options:
        arguments += ["--clicks", *(f"{number}={folder / 'clicks.json'}" for number in range(1, len(scans) + 1))]
    return cli.main(["follow", *map(str, arguments)])


def course_in(folder: Path) -> CourseRecord:
    return CourseRecord.model_validate_json((folder / "out" / "course.json").read_bytes())


pytestmark = pytest.mark.usefixtures("restored_logging")


def test_voxels_in_a_file_of_their_own_count(tmp_path: Path) -> None:
    path = write_image(tmp_path / "scan.mhd", soft_tissue(), compressed=False)
    before = fingerprint(path)
    hu = soft_tissue()
    hu[2, 4:6, 4:6] = 300
    write_image(path, hu, compressed=False)
    assert fingerprint(path) != before


def test_command_writes_a_map_for_each_scan_and_the_course(
    scans: list[Path], bundle: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    folder = scans[0].parent
    (folder / "about.csv").write_text("lesion,organ,node\n7,Liver,no\n9,,yes\n11,lung,no\n")
    pages = ("--html", folder / "report.html", "--viewer", folder / "viewer.html", "--about", folder / "about.csv")
    assert follow(bundle, scans, "--dates", "2026-01-01", "2026-03-01", "2026-05-01", *pages) == 0
    course = course_in(folder)
    assert (course.organs, course.nodes) == ({7: "liver"}, [9])
    report, viewer = ((folder / name).read_text() for name in ("report.html", "viewer.html"))
    assert 'href="viewer.html#lesion-7"' in report
    assert "lymph node" in report
    assert 'id="scan-3"' in viewer
    assert [point.on for point in course.time_points] == [date(2026, 1, 1), date(2026, 3, 1), date(2026, 5, 1)]
    assert [point.number for point in course.time_points] == [1, 2, 3]
    for number in (1, 2, 3):
        ids = read_lesion_map(folder / "out" / f"{number:02d}_lesions.nii.gz").ids
        # The model outlines all there is, so that both may become one.
        assert {7} <= set(np.unique(ids).tolist()) <= {0, 7, 9}
    rows = (folder / "out" / "lesions.csv").read_text().splitlines()
    assert len(rows) == 1 + 3 * 2
    said = capfd.readouterr().out
    for text in ("1: mm", "3: mm", "scan 3: ", "RECIST 1.1", "Research use only"):
        assert text in said
    assert "about.csv: lesions 11 are neither outlined nor clicked" in caplog.text


def test_what_is_done_and_unchanged_is_not_done_again(
    scans: list[Path], bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert follow(bundle, scans[:2]) == 0
    folder = scans[0].parent / "out"
    times = {path.name: path.stat().st_mtime_ns for path in folder.glob("0*")}
    # A further scan needs those before it, and changes nothing of them.
    assert follow(bundle, scans) == 0
    assert {name: (folder / name).stat().st_mtime_ns for name in times} == times
    course = course_in(scans[0].parent)
    # Nothing left to do: the model is not even loaded.
    monkeypatch.setattr(longilesion.ensemble, "load_ensemble", None)
    assert follow(bundle, scans) == 0
    assert course_in(scans[0].parent) == course


def test_change_of_a_scan_or_of_the_lesions_is_done_again(scans: list[Path], bundle: Path) -> None:
    assert follow(bundle, scans) == 0
    folder = scans[0].parent
    before = {path.name: path.read_bytes() for path in (folder / "out").glob("*.json")}
    hu = soft_tissue()
    hu[2, 4:6, 4:6] = 300
    write_image(scans[1], hu)
    assert follow(bundle, scans) == 0
    changed = {name for name, content in before.items() if (folder / "out" / name).read_bytes() != content}
    assert {"02.json", "03.json"} <= changed
    assert "01.json" not in changed
    write_image(folder / "lesions.mha", lesion_ids({7: (1, 3, 3), 12: (3, 6, 7)}))
    assert follow(bundle, scans) == 0
    assert [12 in {lesion.id for lesion in point.lesions} for point in course_in(folder).time_points] == 3 * [True]


def test_scan_that_fails_is_reported_and_stops_no_other(
    scans: list[Path], bundle: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    scans[1].write_bytes(b"nothing")
    assert follow(bundle, scans) == 1
    said = capfd.readouterr()
    assert "scan 2 could not be gone through" in said.err
    first, second, third = course_in(scans[0].parent).time_points
    assert second.error is not None
    assert "scan1.mha" in second.error
    assert [len(point.lesions) for point in (first, second, third)] == [2, 0, 2]
    assert not (scans[0].parent / "out" / "02_lesions.nii.gz").exists()
    # Mended, it is gone through, and what comes after it as well.
    write_image(scans[1], soft_tissue())
    assert follow(bundle, scans) == 0
    assert all(point.error is None for point in course_in(scans[0].parent).time_points)


def test_backwards_in_time_the_course_is_still_in_order_of_time(scans: list[Path], bundle: Path) -> None:
    new, known = scans[0].parent / "new.json", scans[0].parent / "clicks.json"
    write_points(new, {"7": [4.0, 4.0, 2.0], "9": [8.0, 7.0, 4.0], "20": [8.0, 3.0, 2.0]})
    assert follow(bundle, scans, "--from-last", "--clicks", f"1={new}", f"2={new}", f"3={known}") == 0
    first, second, third = course_in(scans[0].parent).time_points
    assert [point.number for point in (first, second, third)] == [1, 2, 3]
    assert third.seconds == {}
    assert {lesion.id for lesion in third.lesions} == {7, 9}
    # Known from the second scan on, going back.
    assert {lesion.id for lesion in second.lesions} == {lesion.id for lesion in first.lesions} == {7, 9, 20}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dates", "2026-01-01"], "1 dates for 3 scans"),
        (["--dates", "2026-01-01", "x", "2026-01-01"], "--dates x: expected dates such as 2026-01-31"),
        (["--dates", "2026-01-02", "2026-01-01", "2026-01-03"], "scan 2 before scan 1"),
        (["--clicks", "4=clicks.json"], "with the number of a scan from 1 to 3"),
        (["--clicks", "1=a.json", "1=b.json"], "--clicks 1=b.json: a second one for scan 1"),
        (["--clicks", "clicks.json"], "expected NUMBER=VALUE"),
        (["--series", "2="], "--series 2=: expected NUMBER=VALUE"),
        (["--series", "2=1.2.3"], "no DICOM, so that series 1.2.3 cannot be chosen"),
        (["--organs", "nowhere"], "nowhere: no such folder; expected one with a mask per organ"),
        (["--dicom"], "--dicom without any scan in DICOM"),
        (["--clicks", "1=missing.json"], "missing.json"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    scans: list[Path], bundle: Path, capfd: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert follow(bundle, scans, *options) == 1
    said = capfd.readouterr()
    assert message in " ".join((said.out + said.err).split())


def test_one_scan_or_no_lesion_is_refused(scans: list[Path], bundle: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert follow(bundle, scans[:1]) == 1
    assert "1 scan; expected two or more" in capfd.readouterr().err
    write_image(scans[0].parent / "lesions.mha", lesion_ids({}))
    assert follow(bundle, scans, clicked=False) == 1
    assert "no lesion; expected outlines of some" in capfd.readouterr().err
    assert not (scans[0].parent / "out" / "course.json").exists()


def test_dates_and_patients_of_dicom(
    tmp_path: Path, scans: list[Path], bundle: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folders = [tmp_path / f"visit{number}" for number in range(3)]
    days = ("20260101", "20260301", "20260201")
    for folder, day, source in zip(folders, days, scans, strict=True):
        write_series(folder, read_scan(source), visit=of_patient(AcquisitionDate=day))
    assert (
        follow(bundle, [*folders[:2]], "--lesions", scans[0].parent / "lesions.mha", "--output", tmp_path / "out") == 0
    )
    course = json.loads((tmp_path / "out" / "course.json").read_text())
    assert [point["on"] for point in course["time_points"]] == ["2026-01-01", "2026-03-01"]
    assert follow(bundle, folders, "--lesions", scans[0].parent / "lesions.mha", "--output", tmp_path / "out") == 1
    assert "taken 28 days after" in " ".join(capfd.readouterr().out.split())
    assert not any(name in (tmp_path / "out" / "course.json").read_text() for name in ("Doe", "P1"))
    # Also where the scans before are not read again.
    shutil.rmtree(folders[2])
    write_series(folders[2], read_scan(scans[2]), visit=of_patient(AcquisitionDate="20260501", PatientID="P2"))
    assert follow(bundle, folders, "--lesions", scans[0].parent / "lesions.mha", "--output", tmp_path / "out") == 1
    assert "scans of two patients" in " ".join(capfd.readouterr().out.split())


@pytest.fixture
def visits(tmp_path: Path, scans: list[Path]) -> list[Path]:
    """The same scans as DICOM series, two months apart."""
    folders = [tmp_path / f"visit{number}" for number in range(3)]
    for number, (folder, source) in enumerate(zip(folders, scans, strict=True)):
        write_series(folder, read_scan(source), visit=of_patient(AcquisitionDate=f"20260{1 + 2 * number}01"))
    # Where --lesions and the clicks are looked for.
    for name in ("lesions.mha", "clicks.json"):
        assert (tmp_path / name).is_file()
    return folders


def reported(path: Path) -> hd.sr.MeasurementReport:
    return hd.sr.MeasurementReport.from_sequence([hd.sr.srread(path)], is_root=True)


def test_time_points_in_dicom(visits: list[Path], bundle: Path, tmp_path: Path) -> None:
    assert follow(bundle, visits, "--dicom") == 0
    out, course = tmp_path / "out", course_in(tmp_path)
    uids: dict[int, set[str]] = {}
    for record in course.time_points:
        folder = out / f"{record.number:02d}.dcm"
        lesions = read_lesion_map(out / f"{record.number:02d}_lesions.nii.gz")
        written = read_lesion_map(folder / TIME_POINT_SEG, like=lesions.grid)
        np.testing.assert_array_equal(written.ids, lesions.ids)
        for segment in read_segments(folder / TIME_POINT_SEG):
            uids.setdefault(segment.lesion_id, set()).add(segment.tracking_uid)
        report = reported(folder / TIME_POINT_REPORT)
        measured = {
            group.tracking_identifier: group.get_measurements(name=codes.SCT.LongAxis)[0].value
            for group in report.get_volumetric_roi_measurement_groups()
        }
        assert measured == {
            f"lesion {each.id}": pytest.approx(each.longest_mm, rel=1e-3) for each in record.lesions if each.volume_ml
        }
        # The first time point has no response; of the others, each has its own.
        responses = [
            group
            for group in report.get_image_measurement_groups()
            if group.tracking_identifier == "response to therapy"
        ]
        sums = [group.get_measurements()[1].value for group in responses]
        expected = [each.sum_mm for each in course.responses if each.number == record.number]
        assert sums == [pytest.approx(each, rel=1e-3) for each in expected]
        assert len(expected) == (record.number > 1)
    # A lesion is the same one at all time points, and no other.
    assert all(len(each) == 1 for each in uids.values())
    assert len(set.union(*uids.values())) == len(uids)


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="needs dciodvfy, of Debian's dicom3tools")
def test_outlines_given_in_dicom_keep_their_identifiers_and_are_not_written_again(
    visits: list[Path], bundle: Path, tmp_path: Path
) -> None:
    assert follow(bundle, visits[:2], "--dicom") == 0
    given = tmp_path / "out" / "01.dcm" / TIME_POINT_SEG
    dataset = pydicom.dcmread(given)
    for number, segment in enumerate(dataset.SegmentSequence):
        segment.TrackingUID = f"1.2.3.{number}"
    dataset.save_as(tmp_path / "given.dcm")
    again = tmp_path / "again"
    assert follow(bundle, visits, "--dicom", "--lesions", tmp_path / "given.dcm", "--output", again) == 0
    assert not (again / "01.dcm").exists()
    known = {each.lesion_id: each.tracking_uid for each in read_segments(tmp_path / "given.dcm")}
    assert set(known.values()) == {"1.2.3.0", "1.2.3.1"}
    for name in ("02.dcm", "03.dcm"):
        found = {each.lesion_id: each.tracking_uid for each in read_segments(again / name / TIME_POINT_SEG)}
        assert found
        assert found.items() <= known.items()
        for file in (again / name).iterdir():
            checked = subprocess.run(["dciodvfy", file], capture_output=True, text=True, check=False)
            assert "Error" not in checked.stderr


def test_scan_of_another_format_has_no_results_in_dicom(
    visits: list[Path], scans: list[Path], bundle: Path, tmp_path: Path
) -> None:
    assert follow(bundle, [scans[0], visits[1]], "--dicom") == 0
    assert not (tmp_path / "out" / "01.dcm").exists()
    assert (tmp_path / "out" / "02.dcm" / TIME_POINT_REPORT).is_file()


def test_series_is_chosen_where_a_folder_has_several(
    visits: list[Path], scans: list[Path], bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    hu = soft_tissue()
    hu[2, 4:6, 4:6] = 500
    other = read_scan(write_image(tmp_path / "other.mha", hu))
    second = write_series(visits[1] / "other", other, visit=of_patient(AcquisitionDate="20260301", SeriesNumber="5"))
    assert follow(bundle, visits, "--html", tmp_path / "report.html") == 1
    assert "2 CT volumes; expected one, or the choice of one" in " ".join(capfd.readouterr().out.split())
    chosen = f"2={second['SeriesInstanceUID']}"
    options = ("--series", chosen, "--dicom", "--html", tmp_path / "report.html")
    assert follow(bundle, visits, *options) == 0
    dataset = pydicom.dcmread(tmp_path / "out" / "02.dcm" / TIME_POINT_SEG, stop_before_pixels=True)
    assert dataset.ReferencedSeriesSequence[0].SeriesInstanceUID == second["SeriesInstanceUID"]
    # Another choice is another result.
    before = (tmp_path / "out" / "02.json").read_bytes()
    assert follow(bundle, visits, "--series", "2=1") == 0
    assert (tmp_path / "out" / "02.json").read_bytes() != before


def test_organs_by_masks_are_those_of_the_response(scans: list[Path], bundle: Path, tmp_path: Path) -> None:
    mask = np.ones(soft_tissue().shape, np.uint8)
    write_image(tmp_path / "organs" / "lung_upper_lobe_left.nii.gz", mask)
    (tmp_path / "about.csv").write_text("lesion,organ\n7,liver\n")
    assert follow(bundle, scans, "--organs", tmp_path / "organs", "--about", tmp_path / "about.csv") == 0
    assert course_in(tmp_path).organs == {7: "liver", 9: "lung"}


def test_time_point_without_any_lesion_has_an_empty_map() -> None:
    point = TimePoint.given(seen(0, {}))
    assert isinstance(point.lesions, LesionMap)
    assert not point.lesions.ids.any()


@pytest.mark.parametrize(("place", "kept"), [(ELSEWHERE, True), (MIDDLE, False), (BESIDE, False)])
def test_candidate_is_followed_unless_it_is_a_known_lesion(
    monkeypatch: pytest.MonkeyPatch, place: Triple, kept: bool
) -> None:
    """At the third time point a search finds something; lesion 2, which was gone, is searched by nobody."""
    points = gone_through({1: MIDDLE, 2: BESIDE}, {1: MIDDLE})
    visits = [point.visit for point in points]
    segment_case = longilesion.timeline.segment_case

    def searched(case: Case, ensemble: Ensemble, *, search: object) -> Segmentation:
        found = segment_case(case, ensemble)
        if search is None:
            return found
        ids = found.maps["primary"].ids.copy()
        grid = case.followups["primary"].grid
        mask = ball(grid, at(2, place).point_xyz_mm, 9.0)
        ids[mask & (ids == 0)] = 3
        candidate = Candidate(score=0.9, start_zyx=(0, 0, 0), mask=mask, grid=grid)
        new = NewLesion(lesion_id=3, scan_name="primary", candidate=candidate)
        return replace(found, maps={"primary": LesionMap(ids=ids, grid=grid)}, candidates=(new,))

    monkeypatch.setattr(longilesion.timeline, "segment_case", searched)
    known = {1: MIDDLE, 2: BESIDE}
    scan = seen(2, {1: MIDDLE}).scan
    point = next_time_point(
        visits, scan, bright_voxels(), clicks=clicks(2, known), search=Search(detector=bright_voxels())
    )
    assert (3 in found(point)) == kept
    assert point.lesions.candidates == ((3,) if kept else ())
    assert 1 in found(point)
    record = record_of(point, number=3, scan="", made_of="", on=None)
    assert [lesion.is_candidate for lesion in record.lesions if lesion.id == 3] == [True] * kept
