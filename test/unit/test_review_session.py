"""What a review makes of decisions: the result of `segment` with its clicks, and what was drawn, merged and removed."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from nibabel.nifti1 import Nifti1Image
from nibabel.orientations import aff2axcodes

from longilesion.case import ClickPair, Scan
from longilesion.errors import InputError
from longilesion.geometry import Grid, Triple
from longilesion.images import open_image, read_lesion_map
from longilesion.new_lesions import Search
from longilesion.pipeline import segment_case
from longilesion.report import RunReport, make_report
from longilesion.review import outliner
from longilesion.review.decisions import Confirm, Decision, Draw, Entry, Gone, Merge, Move, New, NotALesion, Redo, Undo
from longilesion.review.output import DicomOutput, map_names
from longilesion.review.prompts_file import read_beginning
from longilesion.review.record import ReviewRecord
from longilesion.review.result import review_result
from longilesion.review.runs import runs_of
from longilesion.review.session import Patient, ReadOnlyError, Session
from longilesion.review.viewer import Viewer
from longilesion.review.volume import RasVolume, ras_view
from test.dicom_series import write_series
from test.unit.builders import case_of, click, scan_with
from test.unit.reviews import AFTER, BEFORE, CLICKS, GRID, UNKNOWN, case, journal_in, scan_files, session_in
from test.unit.test_pipeline import bright_voxels

NEAR_2: Triple = (22.0, 13.0, 547.0)


@pytest.fixture
def begun(tmp_path: Path) -> Iterator[Callable[..., Session]]:
    """Begins reviews in a folder, or goes on with what is there."""
    sessions: list[Session] = []

    def begin(**options: object) -> Session:
        while sessions:
            sessions.pop().close()
        sessions.append(session_in(tmp_path, **options))
        return sessions[-1]

    yield begin
    for session in sessions:
        session.close()


def ids(session: Session) -> np.ndarray:
    return session.reviewed.segmentation.maps["primary"].ids


def test_review_without_a_decision_is_what_segment_gives(begun: Callable[..., Session], tmp_path: Path) -> None:
    session, expected = begun(), segment_case(case(), bright_voxels())
    session.write(tmp_path / "result")
    written = read_lesion_map(tmp_path / "result" / "lesions.mha")
    np.testing.assert_array_equal(written.ids, expected.maps["primary"].ids)
    assert set(np.unique(written.ids)) == {0, 1, 2}
    report = RunReport.model_validate_json((tmp_path / "result" / "report.json").read_bytes())
    of_segment = make_report(case(), expected, seconds={})
    assert report.lesions == of_segment.lesions
    assert report.response == of_segment.response
    record = ReviewRecord.model_validate_json((tmp_path / "result" / "review.json").read_bytes())
    assert [(row.id, row.decision, row.decided_by) for row in record.lesions] == [
        (number, "untouched", "program") for number in (1, 2, 3)
    ]
    assert not record.is_complete
    for row in record.lesions:
        assert row.voxels == (written.ids == row.id).sum()


def test_moved_and_new_lesions_are_as_segment_outlines_them_at_these_clicks(begun: Callable[..., Session]) -> None:
    session = begun()
    session.decide(Move(lesion=2, scan="primary", point_xyz_mm=NEAR_2))
    session.decide(New(scan="primary", point_xyz_mm=UNKNOWN))
    session.wait()
    pairs = {pair.lesion_id: pair for pair in case().clicks}
    pairs[2] = replace(pairs[2], followup=click(NEAR_2))
    pairs[4] = ClickPair(lesion_id=4, baseline=None, followup=click(UNKNOWN))
    expected = segment_case(replace(case(), clicks=tuple(pairs.values())), bright_voxels())
    np.testing.assert_array_equal(ids(session), expected.maps["primary"].ids)
    assert set(np.unique(ids(session))) == {0, 1, 2, 4}
    final = session._review(is_shown_only=False).segmentation
    for found, wanted in zip(final.lesions, expected.lesions, strict=True):
        assert found.prompt == wanted.prompt
        assert found.note == wanted.note
        assert found.volume_followup_ml == wanted.volume_followup_ml
        assert found.probability == pytest.approx(wanted.probability, abs=1e-6)


def test_moved_lesion_is_a_preview_until_it_is_computed_in_full(begun: Callable[..., Session]) -> None:
    session = begun()
    session.decide(Move(lesion=1, scan="primary", point_xyz_mm=AFTER[1][0]))
    assert session.stage(1) == "preview"
    assert Viewer(session).review().pending == 1
    assert (ids(session) == 1).any()
    session.wait()
    assert session.stage(1) == "full"
    view = Viewer(session)
    shown = view.review()
    assert view.review() is shown
    session.decide(Undo())
    assert view.review().lesions[0].verdict == "untouched"
    assert session.stage(1) == "full"
    # Back at a click that has been computed.
    session.decide(Redo())
    assert session.stage(1) == "full"


def test_review_that_was_ended_goes_on_with_the_same_result(begun: Callable[..., Session], tmp_path: Path) -> None:
    session = begun()
    for decision in (
        Move(lesion=2, scan="primary", point_xyz_mm=NEAR_2),
        Confirm(lesion=1),
        New(scan="primary", point_xyz_mm=UNKNOWN),
        Gone(lesion=1),
        Undo(),
    ):
        session.decide(decision)
    session.wait()
    before, state = ids(session).copy(), session.state
    again = begun()
    assert again.state == state
    np.testing.assert_array_equal(ids(again), before)
    # Looking is allowed at any time, and changes nothing.
    looking = session_in(tmp_path, is_read_only=True)
    np.testing.assert_array_equal(ids(looking), before)
    with pytest.raises(ReadOnlyError):
        looking.decide(Confirm(lesion=2))
    with pytest.raises(ReadOnlyError):
        looking.finish(tmp_path / "result")
    looking.close()


def test_click_that_fails_keeps_no_review_from_starting(
    begun: Callable[..., Session], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = begun()
    session.decide(Move(lesion=2, scan="primary", point_xyz_mm=NEAR_2))
    session.wait()

    def fail(*_: object) -> NoReturn:
        raise MemoryError("no memory")

    with monkeypatch.context() as patched:
        patched.setattr(outliner, "predict_at", fail)
        session = begun()
    assert session.stage(2) == "failed"
    with pytest.raises(InputError, match="lesion 2: no memory; expected an outline of it"):
        session.write(tmp_path / "result")
    assert not session.outliner._hurried.is_set()
    session.decide(Undo())
    session.write(tmp_path / "result")


def test_review_that_goes_on_looks_where_it_looked_first(begun: Callable[..., Session], tmp_path: Path) -> None:
    session = begun()
    path = tmp_path / "output" / "prompts.json"
    kept = read_beginning(path.parent, "the same")
    assert kept is not None
    assert kept.prompts == session.first.prompts
    assert read_beginning(path.parent, "another") is None
    # As if registration had found another place then.
    stored = json.loads(path.read_text())
    stored["prompts"]["lesions"][0]["followup"]["point_xyz_mm"] = UNKNOWN
    path.write_text(json.dumps(stored))
    assert begun().first.prompts.lesions[0].followup.point_xyz_mm == UNKNOWN
    path.write_text("{}")
    with pytest.raises(InputError, match="expected the prompts of a review"):
        begun()


def test_gone_and_not_a_lesion_leave_the_map_and_only_one_of_them_the_report(
    begun: Callable[..., Session], tmp_path: Path
) -> None:
    session = begun()
    whole = ids(session).copy()
    session.decide(Gone(lesion=1))
    session.decide(NotALesion(lesion=2))
    session.finish(tmp_path / "result")
    assert not ids(session).any()
    report = RunReport.model_validate_json((tmp_path / "result" / "report.json").read_bytes())
    assert [(row.id, row.volume_followup_ml) for row in report.lesions] == [(1, 0.0), (3, 0.0)]
    assert report.lesions[0].note == "gone, as the reader says"
    assert report.left_out == []
    # A lesion that was none is no target of the response.
    assert report.response is not None
    assert 2 not in {*report.response.targets, *report.response.non_targets}
    session.decide(Undo())
    session.decide(Undo())
    np.testing.assert_array_equal(ids(session), whole)
    assert not Viewer(session).review().is_written


def test_merged_lesion_gives_its_voxels_to_the_other(begun: Callable[..., Session], tmp_path: Path) -> None:
    session = begun()
    whole = ids(session).copy()
    session.decide(Merge(lesion=1, into=2))
    np.testing.assert_array_equal(ids(session), np.where(whole == 1, 2, whole))
    session.write(tmp_path / "result")
    report = json.loads((tmp_path / "result" / "report.json").read_text())
    first, second, _ = report["lesions"]
    assert (first["merged_into"], first["volume_followup_ml"]) == (2, 0.0)
    assert second["volume_followup_ml"] == pytest.approx(np.count_nonzero(whole) * GRID.voxel_volume_ml)
    assert "includes lesion 1" in second["note"]
    # Another diameter than that of the networks' outline: their interval is not its.
    assert second["volume_low_ml"] is None


def test_lesion_that_merged_through_another_names_the_one_that_has_its_voxels(begun: Callable[..., Session]) -> None:
    session = begun()
    whole = ids(session).copy()
    session.decide(Merge(lesion=1, into=2))
    session.decide(Merge(lesion=2, into=3))
    np.testing.assert_array_equal(ids(session), np.where(whole > 0, 3, whole))
    outcomes = session.reviewed.segmentation.lesions
    assert [each.merged_into for each in outcomes] == [3, 3, None]
    assert "includes lesion 1, 2" in outcomes[2].note


def test_lesion_that_the_networks_merged_goes_where_a_person_merges_the_other(begun: Callable[..., Session]) -> None:
    session = begun()
    # Both in one outline.
    session.decide(Move(lesion=2, scan="primary", point_xyz_mm=AFTER[1][0]))
    session.wait()
    (part, whole) = next(
        (each.prompt.lesion_id, each.merged_into) for each in session.reviewed.segmentation.lesions if each.merged_into
    )
    assert {part, whole} == {1, 2}
    session.decide(Merge(lesion=whole, into=3))
    assert [each.merged_into for each in session.reviewed.segmentation.lesions] == [3, 3, None]
    session.decide(Undo())
    session.decide(Merge(lesion=whole, into=part))
    into = {each.prompt.lesion_id: each.merged_into for each in session.reviewed.segmentation.lesions}
    assert into == {whole: part, part: None, 3: None}


@pytest.mark.parametrize(("of", "to"), [(1, 2), (2, 1)])
def test_voxel_erased_of_one_lesion_and_painted_as_another_is_the_others(
    begun: Callable[..., Session], of: int, to: int
) -> None:
    session = begun()
    view, _ = ras_view(ids(session).copy(), GRID)
    voxels = np.flatnonzero(view == of)[:3]
    session.decide(Draw(lesion=of, removed=runs_of(voxels)))
    session.decide(Draw(lesion=to, added=runs_of(voxels)))
    expected = view.ravel().copy()
    expected[voxels] = to
    now, _ = ras_view(ids(session), GRID)
    np.testing.assert_array_equal(now.ravel(), expected)
    outlines = session.reviewed.outlines
    assert (outlines[of].removed, outlines[to].added) == (3, 3)


def test_drawn_voxels_are_in_the_map_and_those_of_other_lesions_stay_theirs(
    begun: Callable[..., Session], tmp_path: Path
) -> None:
    session = begun()
    whole = ids(session).copy()
    view, _ = ras_view(whole, GRID)
    first, second = (np.flatnonzero(view == lesion_id) for lesion_id in (1, 2))
    free = np.flatnonzero(view == 0)[:5]
    # Some of its own, some of nobody's, and some of another lesion's.
    draw = Draw(lesion=1, added=runs_of([*free, *second[:3]]), removed=runs_of([*first[:4], *second[3:6]]))
    session.decide(draw)
    session.finish(tmp_path / "result")
    now, _ = ras_view(read_lesion_map(tmp_path / "result" / "lesions.mha").ids, GRID)
    expected = view.copy().ravel()
    expected[free], expected[first[:4]] = 1, 0
    np.testing.assert_array_equal(now.ravel(), expected)
    record = ReviewRecord.model_validate_json((tmp_path / "result" / "review.json").read_bytes())
    row = record.lesions[0]
    assert (row.decision, row.decided_by, row.reader) == ("drawn", "person", "A. Reader")
    assert (row.voxels_added, row.voxels_removed, row.voxels) == (5, 4, len(first) + 1)
    assert row.volume_ml == pytest.approx(row.voxels * GRID.voxel_volume_ml)
    assert record.lesions[1].decision == "untouched"
    session.decide(Move(lesion=1, scan="primary", point_xyz_mm=AFTER[1][0]))
    assert not (ids(session).ravel()[free] == 1).any()


def test_lesion_that_the_networks_call_gone_may_be_drawn(begun: Callable[..., Session], tmp_path: Path) -> None:
    session = begun()
    free = np.flatnonzero(ras_view(ids(session), GRID)[0] == 0)[:7]
    session.decide(Draw(lesion=3, added=runs_of(free)))
    session.write(tmp_path / "result")
    row = json.loads((tmp_path / "result" / "report.json").read_text())["lesions"][2]
    assert row["volume_followup_ml"] == pytest.approx(7 * GRID.voxel_volume_ml)
    assert row["note"].startswith("by the networks gone: presence")
    assert row["diameter_followup_mm"] > 0


def test_what_was_drawn_of_a_merged_lesion_and_of_the_other_is_in_the_other(begun: Callable[..., Session]) -> None:
    session = begun()
    view, _ = ras_view(ids(session).copy(), GRID)
    first, second = (np.flatnonzero(view == lesion_id) for lesion_id in (1, 2))
    free = np.flatnonzero(view == 0)[:4]
    session.decide(Draw(lesion=1, added=runs_of(free), removed=runs_of(first[:2])))
    session.decide(Merge(lesion=1, into=2))
    # Of what is the other's by now.
    session.decide(Draw(lesion=2, removed=runs_of([*first[2:5], *second[:3]])))
    now, _ = ras_view(ids(session), GRID)
    assert np.flatnonzero(now == 2).tolist() == sorted([*free, *first[5:], *second[3:]])
    assert set(np.unique(now)) == {0, 2}


def test_candidates_are_apart_until_somebody_confirms_them(begun: Callable[..., Session], tmp_path: Path) -> None:
    session = begun(search=Search(detector=bright_voxels()))
    (candidate,) = session.first.segmentation.candidates
    np.testing.assert_array_equal(ids(session), session.first.segmentation.maps["primary"].ids)
    assert session.reviewed.segmentation.maps["primary"].candidates == (candidate.lesion_id,)
    view = Viewer(session).review()
    assert (view.lesions[-1].id, view.lesions[-1].is_candidate, view.undecided) == (candidate.lesion_id, True, 3)
    with pytest.raises(InputError, match="a candidate"):
        session.decide(Move(lesion=candidate.lesion_id, scan="primary", point_xyz_mm=UNKNOWN))
    session.decide(Confirm(lesion=candidate.lesion_id))
    session.finish(tmp_path / "result")
    written = read_lesion_map(tmp_path / "result" / "lesions.mha")
    assert written.candidates == ()
    report = RunReport.model_validate_json((tmp_path / "result" / "report.json").read_bytes())
    assert candidate.lesion_id in [row.id for row in report.lesions]
    assert report.candidates == []
    assert report.response is not None
    assert report.response.new == [candidate.lesion_id]
    session.decide(NotALesion(lesion=candidate.lesion_id))
    assert not (ids(session) == candidate.lesion_id).any()


def test_decisions_are_not_taken_for_those_on_other_candidates(begun: Callable[..., Session], tmp_path: Path) -> None:
    search = Search(detector=bright_voxels())
    session = begun(search=search)
    (candidate,) = session.first.segmentation.candidates
    session.decide(Confirm(lesion=candidate.lesion_id))
    assert begun(search=search).state == session.state
    # As if registration had explained another one then.
    path = tmp_path / "output" / "prompts.json"
    kept = path.read_text()
    stored = json.loads(kept)
    stored["candidates"][0]["centre_xyz_mm"] = AFTER[2][0]
    path.write_text(json.dumps(stored))
    with pytest.raises(InputError, match=r"finds candidate 4 in the primary scan at .*; expected candidate 4 .* at 20"):
        session_in(tmp_path, search=search, is_read_only=True)
    stored["candidates"] = []
    path.write_text(json.dumps(stored))
    with pytest.raises(InputError, match="expected none, as when the review began"):
        session_in(tmp_path, search=search, is_read_only=True)
    path.write_text(kept)
    with pytest.raises(InputError, match="finds no candidate 4; expected candidate 4 in"):
        session_in(tmp_path, is_read_only=True)


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """Three lesions and a candidate, of which nothing is decided."""
    session = session_in(tmp_path_factory.mktemp("review"), search=Search(detector=bright_voxels()))
    yield session
    session.close()


lesion_ids = st.integers(1, 4)
# Around all lesions, so that many are drawn over.
drawn = st.sets(st.integers(0, 75263), max_size=30).map(lambda voxels: tuple((voxel, 1) for voxel in sorted(voxels)))
decisions = st.one_of(
    st.builds(Confirm, lesion=lesion_ids),
    st.builds(Gone, lesion=lesion_ids),
    st.builds(NotALesion, lesion=lesion_ids),
    st.builds(Merge, lesion=lesion_ids, into=lesion_ids),
    st.builds(Draw, lesion=lesion_ids, added=drawn),
    st.builds(Draw, lesion=lesion_ids, removed=st.just(((0, 75264),))),
    st.just(Undo()),
)


@settings(max_examples=40)
@given(decided=st.lists(decisions, max_size=8))
@example(decided=[Merge(lesion=1, into=2), Merge(lesion=2, into=3)])
def test_map_outlines_and_report_agree_and_no_lesion_is_lost(searched: Session, decided: list[Decision | Undo]) -> None:
    state = searched.state
    for number, action in enumerate(decided, start=1):
        entry = Entry(number=number, at=datetime(2026, 1, 31, tzinfo=UTC), reader="", action=action)
        with suppress(InputError):
            state = state.after(entry)
    reviewed = review_result(
        searched.patient.case, state, searched.first, searched.predicted(), searched.ensemble, searched.volumes
    )
    ids = reviewed.segmentation.maps["primary"]
    view, _ = ras_view(ids.ids, ids.grid)
    for lesion_id, outline in reviewed.outlines.items():
        np.testing.assert_array_equal(outline.voxels, np.flatnonzero(view == lesion_id))
        assert state.lesions[lesion_id].has_outline or not len(outline.voxels)
    assert {int(lesion_id) for lesion_id in np.unique(ids.ids)} <= {0, *reviewed.outlines}
    # Every lesion is somewhere, and in one place.
    listed = [each.prompt.lesion_id for each in reviewed.segmentation.lesions]
    candidates = [each.lesion_id for each in reviewed.segmentation.candidates]
    strangers = [lesion_id for lesion_id, lesion in state.lesions.items() if lesion.verdict == "not_a_lesion"]
    others = [
        lesion_id
        for lesion_id, lesion in state.lesions.items()
        if lesion.is_candidate and lesion.verdict in ("gone", "merged")
    ]
    assert sorted([*listed, *candidates, *strangers, *others]) == sorted(state.lesions)
    assert tuple(candidates) == ids.candidates
    assert reviewed.segmentation.left_out == ()
    for each in reviewed.segmentation.lesions:
        voxels = np.count_nonzero(view == each.prompt.lesion_id)
        assert each.volume_followup_ml == pytest.approx(voxels * GRID.voxel_volume_ml)
        # Every empty lesion says why.
        assert voxels or each.note
    # A merged lesion names the one that has its voxels.
    into = {each.prompt.lesion_id: each.merged_into for each in reviewed.segmentation.lesions}
    assert all(into[host] is None for host in into.values() if host is not None)
    # What nobody has decided is as it was, but for what was merged with it or lost to nobody.
    whole, _ = ras_view(searched.first.segmentation.maps["primary"].ids, GRID)
    for lesion_id, lesion in state.lesions.items():
        if lesion.verdict in ("untouched", "confirmed") and not lesion.added and not lesion.removed:
            assert (view[whole == lesion_id] == lesion_id).all()
    make_report(reviewed.case, reviewed.segmentation, seconds={})


@pytest.fixture
def two_scans(tmp_path: Path) -> Iterator[Session]:
    """Lesion 1 in the primary scans, 2 in the secondary ones; the baseline of 5 is not there."""
    (before, lesions), (after, _) = scan_with({1: BEFORE[1]}, GRID), scan_with({1: AFTER[1], 4: AFTER[4]}, GRID)
    others, _ = scan_with({2: AFTER[2]}, GRID)
    patient = Patient(
        case=case_of(
            [
                (1, click(BEFORE[1][0]), click(CLICKS[1])),
                (2, None, click(CLICKS[2], "secondary")),
                (5, click(UNKNOWN, "secondary"), None),
            ],
            followups={"primary": after, "secondary": others},
            baselines={"primary": (before, lesions)},
        ),
        scans=dict.fromkeys(("primary", "secondary"), scan_files(tmp_path / "input")["primary"]),
    )
    session = Session(patient, bright_voxels(), journal_in(tmp_path / "output"))
    yield session
    session.close()


def test_lesions_may_lie_in_two_scans_and_move_from_one_to_the_other(two_scans: Session, tmp_path: Path) -> None:
    view = Viewer(two_scans)
    assert {row.id: row.followup.scan for row in view.review().lesions} == {1: "primary", 2: "secondary", 5: None}
    with pytest.raises(InputError, match="in two scans"):
        two_scans.decide(Merge(lesion=1, into=2))
    two_scans.decide(Move(lesion=2, scan="primary", point_xyz_mm=UNKNOWN))
    two_scans.decide(Merge(lesion=1, into=2))
    # Its outline would be in another scan than that of lesion 1.
    with pytest.raises(InputError, match="lesion 1 is merged with it; expected that one to be decided first"):
        two_scans.decide(Move(lesion=2, scan="secondary", point_xyz_mm=CLICKS[2]))
    two_scans.decide(Undo())
    files = two_scans.write(tmp_path / "result")
    assert [file.name for file in files] == ["lesions.mha", "lesions_secondary.mha", "report.json", "review.json"]
    maps = [read_lesion_map(file).ids for file in files[:2]]
    assert [set(np.unique(ids)) for ids in maps] == [{0, 1, 2}, {0}]


def test_result_whose_dicom_is_not_complete_leaves_all_files_as_they_were(
    begun: Callable[..., Session], tmp_path: Path
) -> None:
    session = begun()

    def damaged(path: Path) -> object:
        raise ValueError("truncated")

    def write(path: Path) -> object:
        return path.write_text("now")

    folder, named = tmp_path / "result", ("seg.dcm", "sr.dcm")
    session.finish(folder)
    (folder / "seg.dcm").write_text("before")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    session.decide(Gone(kind="gone", lesion=1))
    for check in (damaged, Path.read_text):
        in_dicom = DicomOutput(names=named, files=lambda folder, *_, check=check: {folder / "sr.dcm": (write, check)})
        session.patient = replace(session.patient, dicom=in_dicom)
        with suppress(InputError):
            session.finish(folder)
        # Complete or not, never a part.
        assert (before == {path.name: path.read_bytes() for path in folder.iterdir()}) == (check is damaged)
    assert (folder / "sr.dcm").read_text() == "now"
    assert not (folder / "seg.dcm").exists()


def test_map_of_a_dicom_scan_is_nifti_on_its_voxels(begun: Callable[..., Session], tmp_path: Path) -> None:
    session = begun()
    write_series(tmp_path / "dicom", case().followups["primary"])
    image = open_image(tmp_path / "dicom")
    session.patient = replace(session.patient, scans={"primary": image})
    files = session.write(tmp_path / "result")
    assert files[0].name == "lesions.nii.gz"
    np.testing.assert_array_equal(read_lesion_map(files[0], like=image.grid).ids, ids(session))


@pytest.mark.parametrize(
    ("scan", "name"),
    [("a.nii", ".nii"), ("a.NII.GZ", ".nii.gz"), ("a.mhd", ".mha"), ("a.nrrd", ".nrrd"), ("folder", ".nii.gz")],
)
def test_map_has_the_format_of_its_scan(searched: Session, scan: str, name: str) -> None:
    image = replace(searched.patient.scans["primary"], path=Path(scan))
    assert map_names({"primary": image, "secondary": image}) == {
        "primary": f"lesions{name}",
        "secondary": f"lesions_secondary{name}",
    }


def test_lesion_without_a_place_is_listed_until_somebody_gives_it_one(two_scans: Session, tmp_path: Path) -> None:
    (row,) = (row for row in Viewer(two_scans).review().lesions if row.id == 5)
    assert (row.followup.place_xyz_mm, row.notes) == (None, ("no place is known in the follow-up: move it to one",))
    with pytest.raises(InputError, match="expected its place first"):
        two_scans.decide(Draw(lesion=5, added=((3, 1),)))
    two_scans.decide(Gone(lesion=5))
    two_scans.write(tmp_path / "result")
    assert json.loads((tmp_path / "result" / "report.json").read_text())["left_out"] == [5]
    two_scans.decide(Move(lesion=5, scan="primary", point_xyz_mm=UNKNOWN))
    two_scans.write(tmp_path / "result")
    report = json.loads((tmp_path / "result" / "report.json").read_text())
    assert report["left_out"] == []
    assert report["lesions"][-1]["id"] == 5
    assert report["lesions"][-1]["volume_followup_ml"] > 0


@pytest.mark.parametrize(
    ("decision", "finding"),
    [
        (Move(lesion=1, scan="primary", point_xyz_mm=(900.0, 0.0, 0.0)), "outside the primary scan"),
        (New(scan="secondary", point_xyz_mm=UNKNOWN), "there is none"),
        (Draw(lesion=1, added=((GRID.shape_zyx[0] * 56 * 56 - 1, 2),)), "voxels outside its scan"),
        (Confirm(lesion=9), "unknown"),
    ],
)
def test_impossible_decision_is_not_in_the_journal(
    begun: Callable[..., Session], decision: Move | New | Draw | Confirm, finding: str
) -> None:
    session = begun()
    with pytest.raises(InputError, match=finding):
        session.decide(decision)
    assert session.journal.entries == []


@settings(max_examples=25)
@given(st.permutations([0, 1, 2]), st.tuples(*(st.sampled_from([-1.0, 1.0]),) * 3), st.data())
def test_page_sees_scans_of_any_orientation_alike(
    axes: list[int], signs: tuple[float, float, float], data: st.DataObject
) -> None:
    direction = np.zeros((3, 3))
    for column, (row, sign) in enumerate(zip(axes, signs, strict=True)):
        direction[row, column] = sign
    grid = Grid.from_spacing((5, 6, 7), (3.0, 2.0, 1.0), origin_xyz_mm=(10.0, -20.0, 30.0), direction=direction)
    hu = np.arange(5 * 6 * 7, dtype=np.int16).reshape(grid.shape_zyx) * 4
    volume = RasVolume(Scan(hu=hu, grid=grid))
    shown = Nifti1Image.from_bytes(gzip.decompress(volume.nifti))
    assert aff2axcodes(shown.affine) == ("R", "A", "S")
    index = data.draw(st.tuples(*(st.integers(0, size - 1) for size in grid.shape_zyx)))
    x, y, z = grid.world_xyz_mm(index)
    place = np.rint(np.linalg.inv(shown.affine) @ [-x, -y, z, 1])[:3].astype(int)
    assert shown.dataobj[tuple(place)] == hu[index]
    # Its index, by NIfTI's order.
    flat = int(place[0] + shown.shape[0] * (place[1] + shown.shape[1] * place[2]))
    ids_of_one = np.zeros(grid.shape_zyx, np.uint16)
    ids_of_one[index] = 3
    whole = tuple(slice(0, size) for size in volume.grid.shape_zyx)
    assert volume.lesions(ids_of_one, [whole])[3].tolist() == [flat]
    assert volume.shown_runs(np.array([flat])) == ((flat, 1),)
    assert volume.place_xyz_mm(np.array([flat])) == pytest.approx((x, y, z))
