import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from longilesion.case import LesionMap, ScanName
from longilesion.errors import InputError
from longilesion.grand_challenge import read_case, write_outputs
from test.unit.case_folders import SHAPE_ZYX, files_under, lesion_ids, soft_tissue, write_case, write_points, write_scan

PRIMARY_OUTPUT = "images/primary-followup-ct-tumor-lesion-seg"
SECONDARY_OUTPUT = "images/secondary-followup-ct-tumor-lesion-seg"
INTERFACES = {1: (), 2: ("baseline", "followup"), 3: ("baseline",), 4: ("followup",)}


def write_inputs_json(case: Path, *, key: str = "socket") -> None:
    paths = [
        *(f"images/{path.name}" for path in (case / "images").iterdir()),
        *(path.name for path in case.glob("*-clicks.json")),
    ]
    entries = [{key: {"slug": Path(path).stem, "relative_path": path, "kind": "Any"}, "value": None} for path in paths]
    (case / "inputs.json").write_text(json.dumps(entries))


def expect_error(case: Path, match: str) -> None:
    with pytest.raises(InputError, match=match) as error:
        read_case(case)
    assert "\n" not in str(error.value)
    assert "expected" in str(error.value)
    assert str(case) in str(error.value)


def write_maps(output: Path, case: Path, lesions: dict[int, tuple[int, int, int]] | None = None) -> None:
    read, files = read_case(case)
    ids = lesion_ids(lesions or {})
    maps = {name: LesionMap(ids=ids, grid=scan.grid) for name, scan in read.followups.items()}
    write_outputs(output, maps, followup_files=files)


# ----------------------------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize("key", ["socket", "interface", None])
@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_all_four_interfaces_are_read(tmp_path: Path, number: int, key: str | None) -> None:
    write_case(tmp_path, secondary=INTERFACES[number])
    if key:
        write_inputs_json(tmp_path, key=key)
    case, followup_files = read_case(tmp_path)
    assert set(case.baselines) == {"primary"} | ({"secondary"} if number in (2, 3) else set())
    assert set(case.followups) == set(followup_files) == {"primary"} | ({"secondary"} if number in (2, 4) else set())
    (pair,) = case.clicks
    assert pair.followup is not None
    np.testing.assert_allclose(pair.followup.point_xyz_mm, (8.0, 0.0, 507.5))
    assert case.baselines["primary"].regions[1].voxels == 8


def test_image_of_any_format_in_the_usual_folder(tmp_path: Path) -> None:
    write_case(tmp_path)
    folder = tmp_path / "images" / "primary-followup-ct"
    sitk.WriteImage(sitk.ReadImage(str(folder / "scan.mha")), str(folder / "scan.mhd"))
    (folder / "scan.mha").unlink()
    (folder / "._scan.mha").write_bytes(b"resource fork")
    case, files = read_case(tmp_path)
    np.testing.assert_array_equal(case.followups["primary"].hu, np.maximum(soft_tissue(), -1024))
    assert files["primary"].name == "scan.mhd"


def test_scan_that_is_not_in_hounsfield_units_is_said_and_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    case = write_case(tmp_path)
    shape = (60, 60, 60)
    shown = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    files = [write_scan(case, f"primary-{name}-ct", shown) for name in ("followup", "baseline")]
    write_scan(case, "primary-baseline-ct-tumor-lesion-seg", lesion_ids({1: (2, 4, 4)}, shape).astype(np.uint8))
    with caplog.at_level(logging.WARNING):
        read, _ = read_case(case)
    assert read.followups["primary"].hu.max() == 255
    assert [message.split(": ")[:2] for message in caplog.messages] == [
        [str(path), "values from 0 to 255, air near 12"] for path in files
    ]


def test_missing_baseline_scan_and_mask_mean_no_prior(tmp_path: Path) -> None:
    write_case(tmp_path)
    for slug in ("primary-baseline-ct", "primary-baseline-ct-tumor-lesion-seg"):
        shutil.rmtree(tmp_path / "images" / slug)
    case, _ = read_case(tmp_path)
    assert case.baselines == {}
    (pair,) = case.clicks
    assert pair.baseline is None
    assert pair.followup is not None


def test_missing_baseline_mask_means_no_outline(tmp_path: Path) -> None:
    write_case(tmp_path)
    shutil.rmtree(tmp_path / "images" / "primary-baseline-ct-tumor-lesion-seg")
    case, _ = read_case(tmp_path)
    assert case.baselines["primary"].lesions is None
    assert case.baselines["primary"].regions == {}


def test_missing_click_files_mean_no_clicks(tmp_path: Path) -> None:
    write_case(tmp_path)
    for path in tmp_path.glob("*.json"):
        path.unlink()
    assert read_case(tmp_path)[0].clicks == ()


def test_new_lesion_is_absent_from_the_baseline_mask(tmp_path: Path) -> None:
    write_case(tmp_path, baseline_clicks={"1": (4, 4, 2), "2": (9, 3, 3)}, followup_clicks={"2": (9, 3, 3)})
    case, _ = read_case(tmp_path)
    assert [pair.lesion_id for pair in case.clicks] == [1, 2]
    assert 2 not in case.baselines["primary"].regions


def test_lesion_with_its_followup_in_the_secondary_scan_is_one_pair(tmp_path: Path) -> None:
    write_case(tmp_path, secondary=("followup",), followup_clicks={"5": (1, 1, 1)})
    write_points(tmp_path / "secondary-followup-lesion-clicks.json", {"1": (5, 5, 5)})
    case, _ = read_case(tmp_path)
    by_id = {pair.lesion_id: pair for pair in case.clicks}
    assert by_id[1].baseline is not None
    assert by_id[1].followup is not None
    assert (by_id[1].baseline.scan_name, by_id[1].followup.scan_name) == ("primary", "secondary")
    np.testing.assert_allclose(by_id[1].followup.point_xyz_mm, (5.0, 5.0, -887.5))


def test_input_named_by_inputs_json_may_lie_elsewhere(tmp_path: Path) -> None:
    write_case(tmp_path)
    (tmp_path / "images" / "primary-followup-ct").rename(tmp_path / "images" / "ct")
    entry = {"socket": {"slug": "primary-followup-ct", "relative_path": "images/ct"}}
    (tmp_path / "inputs.json").write_text(json.dumps([entry]))
    _, files = read_case(tmp_path)
    assert files["primary"] == tmp_path / "images" / "ct" / "scan.mha"


def test_unknown_socket_is_reported_and_ignored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_case(tmp_path)
    write_inputs_json(tmp_path)
    entries = json.loads((tmp_path / "inputs.json").read_text())
    entries.append({"socket": {"slug": "patient-age", "relative_path": "age.json"}})
    (tmp_path / "inputs.json").write_text(json.dumps(entries))
    with caplog.at_level(logging.WARNING):
        read_case(tmp_path)
    assert "patient-age" in caplog.text


# --------------------------------------------------------------------------------------------------------- bad input


def test_missing_input_folder(tmp_path: Path) -> None:
    expect_error(tmp_path / "input", "no such folder")


def test_unknown_layout_lists_what_was_found(tmp_path: Path) -> None:
    write_scan(tmp_path, "ct")
    expect_error(tmp_path, "no follow-up scan, found images, images/ct; expected images/primary-followup-ct")


def test_empty_input_folder(tmp_path: Path) -> None:
    expect_error(tmp_path, "found nothing")


def test_missing_followup_scan(tmp_path: Path) -> None:
    write_case(tmp_path, secondary=("followup",))
    shutil.rmtree(tmp_path / "images" / "primary-followup-ct")
    expect_error(tmp_path, "no follow-up scan")


@pytest.mark.parametrize("slug", ["primary-followup-ct", "primary-baseline-ct", "primary-baseline-ct-tumor-lesion-seg"])
def test_empty_image_folder(tmp_path: Path, slug: str) -> None:
    write_case(tmp_path)
    (tmp_path / "images" / slug / "scan.mha").unlink()
    expect_error(tmp_path, f"{slug}: 0 images, found nothing; expected one")


@pytest.mark.parametrize("slug", ["primary-followup-ct", "primary-baseline-ct-tumor-lesion-seg"])
def test_two_images_in_a_folder(tmp_path: Path, slug: str) -> None:
    write_case(tmp_path)
    shutil.copy(tmp_path / "images" / slug / "scan.mha", tmp_path / "images" / slug / "other.mha")
    expect_error(tmp_path, f"{slug}: 2 images, found other.mha, scan.mha; expected one")


def test_file_in_place_of_an_image_folder(tmp_path: Path) -> None:
    write_case(tmp_path)
    shutil.rmtree(tmp_path / "images" / "primary-baseline-ct")
    (tmp_path / "images" / "primary-baseline-ct").write_bytes(b"")
    expect_error(tmp_path, "not a folder")


def test_mask_without_its_scan(tmp_path: Path) -> None:
    write_case(tmp_path)
    shutil.rmtree(tmp_path / "images" / "primary-baseline-ct")
    expect_error(tmp_path, "a mask without its scan")


@pytest.mark.parametrize(
    "missing", ["images/primary-baseline-ct-tumor-lesion-seg", "primary-followup-lesion-clicks.json"]
)
def test_input_that_inputs_json_promises_but_is_not_there(tmp_path: Path, missing: str) -> None:
    write_case(tmp_path)
    write_inputs_json(tmp_path)
    (tmp_path / missing).rename(tmp_path / "elsewhere")
    expect_error(tmp_path, f"{missing}: missing")


@pytest.mark.parametrize("content", ["", "{", "{}", "[3]", "[{}]", '[{"socket": {"slug": "primary-followup-ct"}}]'])
def test_damaged_inputs_json(tmp_path: Path, content: str) -> None:
    write_case(tmp_path)
    (tmp_path / "inputs.json").write_text(content)
    expect_error(tmp_path, r"inputs\.json")


def test_mask_of_another_size_than_its_scan(tmp_path: Path) -> None:
    write_case(tmp_path)
    write_scan(tmp_path, "primary-baseline-ct-tumor-lesion-seg", np.zeros((5, 10, 12), np.uint8))
    expect_error(tmp_path, "12 x 10 x 5 voxels; expected 12 x 10 x 6")


def test_truncated_scan(tmp_path: Path) -> None:
    write_case(tmp_path)
    path = tmp_path / "images" / "primary-baseline-ct" / "scan.mha"
    path.write_bytes(path.read_bytes()[:-20])
    expect_error(tmp_path, "truncated")


def test_secondary_followup_clicks_without_their_scan(tmp_path: Path) -> None:
    write_case(tmp_path)
    write_points(tmp_path / "secondary-followup-lesion-clicks.json", {"1": (5, 5, 5)})
    expect_error(tmp_path, "clicks without a scan")


# ----------------------------------------------------------------------------------------------------------- writing


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_exactly_one_mha_per_followup_scan(tmp_path: Path, number: int) -> None:
    case, output = write_case(tmp_path / "in", secondary=INTERFACES[number]), tmp_path / "out"
    write_maps(output, case)
    expected = [f"{PRIMARY_OUTPUT}/output.mha"] + ([f"{SECONDARY_OUTPUT}/output.mha"] if number in (2, 4) else [])
    assert files_under(output) == expected
    assert (output / SECONDARY_OUTPUT).exists() == (number in (2, 4))


def test_output_repeats_the_header_of_its_scan(tmp_path: Path) -> None:
    case, output = write_case(tmp_path / "in", secondary=("followup",)), tmp_path / "out"
    write_maps(output, case, {3: (1, 2, 3)})
    for scan, folder in (("primary", PRIMARY_OUTPUT), ("secondary", SECONDARY_OUTPUT)):
        written = sitk.ReadImage(str(output / folder / "output.mha"))
        source = sitk.ReadImage(str(case / "images" / f"{scan}-followup-ct" / "scan.mha"))
        assert written.GetOrigin() == source.GetOrigin()
        assert written.GetSpacing() == source.GetSpacing()
        assert written.GetDirection() == source.GetDirection()
        assert written.GetPixelID() == sitk.sitkUInt8
        np.testing.assert_array_equal(sitk.GetArrayFromImage(written), lesion_ids({3: (1, 2, 3)}))


def test_map_of_an_earlier_run_and_what_a_killed_one_left_are_replaced(tmp_path: Path) -> None:
    case, output = write_case(tmp_path / "in"), tmp_path / "out"
    for folder in (PRIMARY_OUTPUT, SECONDARY_OUTPUT):
        (output / folder).mkdir(parents=True)
    for name in ("output.mha", ".partial-output.mha"):
        (output / PRIMARY_OUTPUT / name).write_bytes(b"")
    write_maps(output, case, {3: (1, 2, 3)})
    assert files_under(output) == [f"{PRIMARY_OUTPUT}/output.mha"]
    assert sitk.GetArrayFromImage(sitk.ReadImage(str(output / PRIMARY_OUTPUT / "output.mha"))).max() == 3


@pytest.mark.parametrize(
    "name",
    [f"{PRIMARY_OUTPUT}/{name}" for name in ("earlier.mha", "map.NII.GZ", "scan.nrrd", "a.tif", "OUTPUT.mha")]
    + [f"{SECONDARY_OUTPUT}/output.mha", f"{SECONDARY_OUTPUT}/notes.txt"],
)
def test_what_somebody_else_put_into_an_output_folder_stays_and_is_an_error(tmp_path: Path, name: str) -> None:
    case, output = write_case(tmp_path / "in"), tmp_path / "out"
    (output / name).parent.mkdir(parents=True)
    (output / name).write_bytes(b"mine")
    with pytest.raises(InputError, match="expected") as error:
        write_maps(output, case)
    assert str(output / name) in str(error.value)
    assert files_under(output) == [name]
    assert (output / name).read_bytes() == b"mine"


def test_notes_beside_the_map_stay(tmp_path: Path) -> None:
    case, notes = write_case(tmp_path / "in"), tmp_path / "out" / PRIMARY_OUTPUT / "notes.txt"
    notes.parent.mkdir(parents=True)
    notes.write_text("mine")
    write_maps(tmp_path / "out", case)
    assert files_under(tmp_path / "out") == [f"{PRIMARY_OUTPUT}/notes.txt", f"{PRIMARY_OUTPUT}/output.mha"]


def test_failure_while_writing_leaves_nothing(tmp_path: Path) -> None:
    case_directory, output = write_case(tmp_path / "in", secondary=("followup",)), tmp_path / "out"
    case, files = read_case(case_directory)
    files["secondary"].unlink()
    maps: dict[ScanName, LesionMap] = {
        name: LesionMap(ids=np.zeros(SHAPE_ZYX, np.uint16), grid=scan.grid) for name, scan in case.followups.items()
    }
    with pytest.raises(InputError):
        write_outputs(output, maps, followup_files=files)
    assert files_under(output) == []


def test_unwritable_output(tmp_path: Path) -> None:
    case = write_case(tmp_path / "in")
    (tmp_path / "out").write_bytes(b"a file")
    with pytest.raises(InputError, match="expected a folder that can be written to") as error:
        write_maps(tmp_path / "out", case)
    assert "\n" not in str(error.value)
