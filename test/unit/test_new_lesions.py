"""A search for lesions that nobody clicked: what is new, its id, its marks in map, report and table; its options."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from rich.console import Console

import process
from longilesion import cli, new_lesions
from longilesion.case import HIGHEST_ID, Case, EarlierVisit, LesionMap, Scan
from longilesion.cli.lesion_table import lesion_table
from longilesion.detection import Candidate
from longilesion.ensemble import load_detector, load_ensemble
from longilesion.errors import InputError
from longilesion.geometry import Grid
from longilesion.images import check_lesion_map, read_lesion_map, write_lesion_map
from longilesion.new_lesions import NewLesion, Search
from longilesion.organs import with_organs
from longilesion.pipeline import segment_case
from longilesion.report import RunReport, make_report
from longilesion.shipped import DETECTOR_FOLDER, SHIPPED_MODEL
from test.unit.builders import ball, case_of, click, scan_with
from test.unit.case_folders import SHAPE_ZYX, soft_tissue, write_case, write_image
from test.unit.test_detection import FIRST, GRID, SECOND, detector
from test.unit.test_registered import registration_of

THIRD = (15.0, -15.0, 530.0)
LESIONS = {4: (FIRST, 5.0), 300: (SECOND, 8.0)}

pytestmark = pytest.mark.usefixtures("restored_logging")


def case_with_two() -> Case:
    """Lesion 4 is clicked at both time points; 300 is outlined in neither."""
    scan, _ = scan_with(LESIONS, GRID)
    before, lesions = scan_with({4: LESIONS[4]}, GRID)
    return case_of(
        [(4, click(FIRST), click(FIRST))], followups={"primary": scan}, baselines={"primary": (before, lesions)}
    )


@pytest.fixture(autouse=True)
def still_registration(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scans of these blocks correspond as they lie."""

    def register(baseline: Scan, followup: Scan) -> object:
        found = registration_of(baseline.grid, followup.grid)
        return replace(found, motion=np.eye(4))

    monkeypatch.setattr("longilesion.registration.register.register_scans", register)


def test_without_a_search_nothing_is_searched_and_with_one_the_known_lesions_stay_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case, ensemble = case_with_two(), detector()
    found = segment_case(case, ensemble, search=Search(detector=ensemble))
    monkeypatch.setattr(new_lesions, "find_new_lesions", None)
    plain = segment_case(case, ensemble)
    assert plain.candidates == ()
    assert plain.maps["primary"].candidates == ()
    assert "search" not in plain.seconds
    ids = found.maps["primary"].ids
    np.testing.assert_array_equal(np.where(ids == 5, 0, ids), plain.maps["primary"].ids)


def test_a_lesion_that_nobody_clicked_gets_the_next_id_and_its_marks() -> None:
    case, ensemble = case_with_two(), detector()
    result = segment_case(case, ensemble, search=Search(detector=ensemble))
    (new,) = result.candidates
    found = result.maps["primary"]
    assert (new.lesion_id, new.scan_name, found.candidates) == (5, "primary", (5,))
    truth = ball(GRID, SECOND, 8.0)
    assert 2 * (truth & (found.ids == 5)).sum() / (truth.sum() + (found.ids == 5).sum()) > 0.85
    assert [outcome.prompt.lesion_id for outcome in result.lesions] == [4]
    assert result.seconds["search"] > 0

    report = make_report(case, result, seconds={})
    (listed,) = RunReport.model_validate_json(report.model_dump_json()).candidates
    assert (listed.id, listed.scan) == (5, "primary")
    assert listed.centre_xyz_mm == pytest.approx(SECOND, abs=0.5)
    assert listed.centre == pytest.approx(GRID.index_zyx(listed.centre_xyz_mm)[::-1], abs=1e-3)
    assert listed.volume_ml == pytest.approx(float((found.ids == 5).sum()) * GRID.voxel_volume_ml)
    assert listed.diameter_mm == pytest.approx(16, abs=2)

    console = Console(file=io.StringIO(), width=120)
    console.print(lesion_table(result.lesions, result.candidates))
    row = console.file.getvalue().splitlines()[-2]  # type: ignore[attr-defined]
    assert row.replace("│", " ").split()[:2] == ["5", "-"]
    assert "candidate" in row
    assert f"score {listed.score:.2f}" in row


def test_a_binary_map_holds_candidates_apart() -> None:
    case, ensemble = case_with_two(), detector()
    result = segment_case(case, ensemble, labels="binary", search=Search(detector=ensemble))
    assert set(np.unique(result.maps["primary"].ids)) == {0, 1, 2}
    assert result.maps["primary"].candidates == (2,)
    assert [new.lesion_id for new in result.candidates] == [5]


@pytest.mark.parametrize("known", ["outlined", "clicked", "gone", "neither"])
def test_known_lesions_explain_candidates(known: str) -> None:
    """A lesion may be known by the map of this run, by its place alone, or by its outline in the baseline alone."""
    scan, _ = scan_with({300: (SECOND, 8.0)}, GRID)
    before, lesions = scan_with({300: (SECOND, 6.0)} if known == "gone" else {}, GRID)
    case = case_of([], followups={"primary": scan}, baselines={"primary": (before, lesions)})
    ids = np.zeros(GRID.shape_zyx, np.uint16)
    if known == "outlined":
        # A few millimetres beside it.
        ids[ball(GRID, np.add(SECOND, (13.0, 0.0, 0.0)), 3.0)] = 9
    places = {"primary": [(SECOND[0] + 10.0, SECOND[1], SECOND[2])]} if known == "clicked" else {}
    maps, new = new_lesions.find_new_lesions(
        case,
        {"primary": LesionMap(ids=ids, grid=GRID)},
        places,
        Search(detector=detector()),
        register=lambda before, after: replace(registration_of(before.grid, after.grid), motion=np.eye(4)),
        labels="lesion_ids",
    )
    assert len(new) == (known == "neither")
    assert maps["primary"].candidates == tuple(lesion.lesion_id for lesion in new)


def test_ids_follow_the_highest_of_all_scans_and_time_points() -> None:
    scan, _ = scan_with({1: (FIRST, 5.0), 2: (SECOND, 8.0)}, GRID)
    case = replace(
        case_of([], followups={"primary": scan, "secondary": scan}),
        earlier=(EarlierVisit(baselines={}, clicks={17: click(FIRST)}),),
    )
    search = Search(detector=detector())
    result = segment_case(case, detector(), search=search)
    assert [new.lesion_id for new in result.candidates] == [18, 19, 20, 21]
    scores = [new.candidate.score for new in result.candidates]
    assert scores == sorted(scores, reverse=True)
    by_scan = {name: set(np.unique(found.ids)) - {0} for name, found in result.maps.items()}
    assert set.union(*by_scan.values()) == {18, 19, 20, 21}
    assert not by_scan["primary"] & by_scan["secondary"]
    high = replace(case, earlier=(EarlierVisit(baselines={}, clicks={HIGHEST_ID - 1: click(FIRST)}),))
    with pytest.raises(InputError, match="4 candidates after lesion 65534, the highest id; expected ids up to 65535"):
        segment_case(high, detector(), search=search)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".mha", ".nrrd", ".MHA"])
@pytest.mark.parametrize("candidates", [(), (8,), tuple(range(3, 900, 2))])
def test_a_file_says_which_lesions_are_candidates(tmp_path: Path, suffix: str, candidates: tuple[int, ...]) -> None:
    scan = write_image(tmp_path / f"scan{'.mha' if suffix == '.MHA' else suffix}", soft_tissue())
    grid = read_lesion_map(scan_of_ids(tmp_path, "of.mha")).grid
    ids = np.zeros(SHAPE_ZYX, np.uint16)
    ids[1:3] = 8
    written = LesionMap(ids=ids, grid=grid, candidates=candidates)
    path = tmp_path / f"map{suffix}"
    write_lesion_map(path, written, like=scan)
    check_lesion_map(path, written=written)
    assert read_lesion_map(path).candidates == candidates
    with pytest.raises(InputError, match="candidates"):
        check_lesion_map(path, written=replace(written, candidates=(*candidates, 1000)))
    if suffix.startswith(".nii"):
        image = nibabel.load(path)
        np.testing.assert_array_equal(np.asarray(image.dataobj).T, ids)
        assert len(image.header.extensions) == bool(candidates)
    elif suffix != ".MHA":
        image = sitk.ReadImage(str(path))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(image), ids)
        assert image.HasMetaDataKey("LesionCandidates") == bool(candidates)


def scan_of_ids(folder: Path, name: str) -> Path:
    return write_image(folder / name, np.zeros(SHAPE_ZYX, np.uint8))


def test_organs_are_the_union_of_a_folders_masks_or_those_named(tmp_path: Path) -> None:
    grid = read_lesion_map(scan_of_ids(tmp_path, "of.mha")).grid
    scan = Scan(hu=soft_tissue(), grid=grid)
    liver, spleen = (np.zeros(SHAPE_ZYX, np.uint8) for _ in range(2))
    liver[1], spleen[3:5] = 1, 1
    folder = tmp_path / "organs"
    write_image(folder / "liver.nii.gz", liver)
    write_image(folder / "spleen.nii.gz", spleen)
    np.testing.assert_array_equal(with_organs(scan, folder).organ, (liver | spleen) > 0)
    np.testing.assert_array_equal(with_organs(scan, folder, ["liver"]).organ, liver > 0)
    with pytest.raises(InputError, match=r"organs: no mask of heart; found liver, spleen"):
        with_organs(scan, folder, ["heart"])
    with pytest.raises(InputError, match="no such folder; expected one with a mask per organ"):
        with_organs(scan, tmp_path / "none")
    with pytest.raises(InputError, match="with another origin, spacing or direction than the follow-up scan"):
        with_organs(replace(scan, grid=Grid.from_spacing(SHAPE_ZYX, (2.5, 1.0, 1.0), origin_xyz_mm=(9, 9, 9))), folder)
    write_image(tmp_path / "empty" / "liver.nii.gz", np.zeros(SHAPE_ZYX, np.uint8))
    with pytest.raises(InputError, match="all its masks are empty"):
        with_organs(scan, tmp_path / "empty")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(InputError, match="no image in it"):
        with_organs(scan, tmp_path / "nothing")


def fixed_candidates(monkeypatch: pytest.MonkeyPatch) -> list[Scan]:
    """A detector that finds the same voxels in every scan; returns the scans that it is asked about."""
    asked: list[Scan] = []

    def find(followup: Scan, *_: object, **__: object) -> list[Candidate]:
        asked.append(followup)
        _, lps = followup.grid.lps_view(followup.hu)
        mask = np.ones((2, 2, 2), np.bool_)
        return [Candidate(start_zyx=(0, 0, 10), mask=mask, grid=lps.window((0, 0, 10), (2, 2, 12)), score=0.75)]

    monkeypatch.setattr(new_lesions, "find_candidates", find)
    monkeypatch.setattr(new_lesions, "NEAR_MM", 1.0)
    monkeypatch.setattr(new_lesions, "_EXPLAINED_MM", 1.0)
    return asked


def test_process_searches_where_it_is_told_to(
    tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    asked = fixed_candidates(monkeypatch)
    case, output = write_case(tmp_path / "in"), tmp_path / "out"
    mask = np.zeros(SHAPE_ZYX, np.uint8)
    mask[:, :, 6:] = 1
    write_image(tmp_path / "organs" / "liver.nii.gz", mask, origin_xyz_mm=(3.0, -4.0, 500.0))
    common = ["--input", case, "--output", output, "--model", bundle, "--device", "cpu", "--precision", "float32"]
    options = [
        *common,
        "--find-new",
        "--organs",
        tmp_path / "organs",
        "--organ",
        "liver",
        "--report",
        tmp_path / "r.json",
    ]
    assert process.main([str(option) for option in options]) == 0
    written = output / "images/primary-followup-ct-tumor-lesion-seg/output.mha"
    assert read_lesion_map(written).candidates == (2,)
    assert (sitk.GetArrayFromImage(sitk.ReadImage(str(written))) == 2).sum() == 8
    np.testing.assert_array_equal(asked[0].organ, mask > 0)
    (listed,) = json.loads((tmp_path / "r.json").read_text())["candidates"]
    assert (listed["id"], listed["scan"], listed["score"]) == (2, "primary", 0.75)
    captured = capfd.readouterr()
    assert captured.err == ""
    assert "1 candidates, 1 of them no known lesion" in captured.out
    assert process.main([str(option) for option in [*common, "--organs", tmp_path / "organs"]]) != 0
    assert "--organs without a search; expected --find-new too" in capfd.readouterr().err


def test_segment_searches_a_scan_without_any_known_lesion(
    tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fixed_candidates(monkeypatch)
    scan = write_image(tmp_path / "scan.nii.gz", soft_tissue())
    common = ["segment", "--model", bundle, "--device", "cpu", "--followup", scan, "--output", tmp_path / "map.nii.gz"]
    assert cli.main([str(option) for option in [*common, "--find-new"]]) == 0
    assert read_lesion_map(tmp_path / "map.nii.gz").candidates == (1,)
    assert "candidate" in capsys.readouterr().out
    assert cli.main([str(option) for option in [*common, "--find-new", "--organ", "liver"]]) != 0
    assert "--organ without the folder of its mask; expected --organs too" in capsys.readouterr().err


def test_the_detector_is_the_named_one_or_the_models_own_or_the_shipped_one_or_the_model_itself(
    tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_ensemble(bundle, device="cpu")
    assert load_detector(model, bundle, device="cpu").name == str(bundle)
    assert load_detector(model, model=bundle, device="cpu").name == str(SHIPPED_MODEL / DETECTOR_FOLDER)
    own = tmp_path / "model"
    shutil.copytree(bundle, own / DETECTOR_FOLDER)
    assert load_detector(model, model=own, device="cpu").name == str(own / DETECTOR_FOLDER)
    monkeypatch.setattr("longilesion.ensemble.SHIPPED_MODEL", tmp_path / "nothing")
    assert load_detector(model, model=bundle, device="cpu") is model


def test_new_lesion_of_a_scan_keeps_to_its_box() -> None:
    grid = Grid.from_spacing((4, 4, 4), (1.0, 1.0, 1.0))
    mask = np.zeros((2, 2, 2), np.bool_)
    mask[0, 0] = True
    first = Candidate(start_zyx=(1, 1, 1), mask=np.ones((2, 2, 2), np.bool_), grid=grid, score=0.9)
    assert not new_lesions._without(Candidate(start_zyx=(1, 1, 1), mask=mask, grid=grid, score=0.8), [first]).mask.any()
    assert NewLesion(lesion_id=1, scan_name="primary", candidate=first).candidate.volume_ml == pytest.approx(0.008)
