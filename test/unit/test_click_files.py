import logging
from pathlib import Path

import numpy as np
import pytest

from longilesion.case import Click, ScanName
from longilesion.click_files import ClickFile, read_click_pairs
from longilesion.errors import InputError
from longilesion.geometry import Grid
from test.unit.case_folders import SHAPE_ZYX, write_points

GRID = Grid.from_spacing(SHAPE_ZYX, (2.5, 1.0, 1.0), origin_xyz_mm=(100.0, 200.0, -300.0))


def click_file(path: Path, points: object, scan_name: ScanName = "primary", grid: Grid | None = GRID) -> ClickFile:
    return ClickFile(path=write_points(path, points), scan_name=scan_name, grid=grid)


def read_followup(path: Path, points: object) -> dict[int, Click | None]:
    pairs = read_click_pairs(baseline=[], followup=[click_file(path, points)])
    return {pair.lesion_id: pair.followup for pair in pairs}


def test_click_at_a_fraction_of_a_voxel_is_exact(tmp_path: Path) -> None:
    clicks = read_followup(tmp_path / "clicks.json", {"1": (10.9, 3.25, 2.4)})
    assert clicks[1] is not None
    np.testing.assert_allclose(clicks[1].point_xyz_mm, (110.9, 203.25, -294.0), rtol=0, atol=1e-9)


def test_click_in_a_flipped_oblique_scan_stays_on_its_voxel(tmp_path: Path) -> None:
    rotation, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))
    grid = Grid.from_spacing(
        SHAPE_ZYX, (3.0, 0.7, 0.8), origin_xyz_mm=(5, 6, 7), direction=rotation @ np.diag([-1, 1, -1])
    )
    (pair,) = read_click_pairs(
        baseline=[], followup=[click_file(tmp_path / "c.json", {"1": (4.5, 6, 1.25)}, grid=grid)]
    )
    assert pair.followup is not None
    np.testing.assert_allclose(grid.index_zyx(pair.followup.point_xyz_mm), (1.25, 6, 4.5), atol=1e-9)


@pytest.mark.parametrize("name", ["7", "Lesion 7", "lesion_7", "LESION7", " 7 ", 7])
def test_name_holds_the_lesion_id(tmp_path: Path, name: object) -> None:
    assert list(read_followup(tmp_path / "clicks.json", [{"name": name, "point": [1, 2, 3]}])) == [7]


@pytest.mark.parametrize("content", ['{"points": []}', '{"points": null}', "{}", '{"name": "Points of interest"}'])
def test_list_without_points_is_ordinary(tmp_path: Path, content: str) -> None:
    path = tmp_path / "clicks.json"
    path.write_text(content)
    file = ClickFile(path=path, scan_name="primary", grid=GRID)
    assert read_click_pairs(baseline=[file], followup=[]) == ()


def test_clicks_are_paired_by_id_over_primary_and_secondary_scans(tmp_path: Path) -> None:
    pairs = read_click_pairs(
        baseline=[
            click_file(tmp_path / "bp.json", {"1": (1, 1, 1), "2": (2, 2, 2)}),
            click_file(tmp_path / "bs.json", {"5": (5, 5, 5)}, "secondary"),
        ],
        followup=[
            click_file(tmp_path / "fp.json", {"5": (4, 4, 4)}),
            click_file(tmp_path / "fs.json", {"2": (3, 3, 3), "9": (1, 2, 3)}, "secondary"),
        ],
    )
    found = [
        (pair.lesion_id, pair.baseline and pair.baseline.scan_name, pair.followup and pair.followup.scan_name)
        for pair in pairs
    ]
    assert found == [
        (1, "primary", None),
        (2, "primary", "secondary"),
        (5, "secondary", "primary"),
        (9, None, "secondary"),
    ]


def test_points_without_any_name_are_paired_by_their_position(tmp_path: Path) -> None:
    pairs = read_click_pairs(
        baseline=[
            click_file(tmp_path / "bp.json", [{"point": [1, 1, 1]}]),
            click_file(tmp_path / "bs.json", [{"name": None, "point": [2, 2, 2]}], "secondary"),
        ],
        followup=[click_file(tmp_path / "fp.json", [{"point": [3, 3, 3]}, {"name": "", "point": [4, 4, 4]}])],
    )
    assert [pair.lesion_id for pair in pairs] == [1, 2]
    assert pairs[1].baseline is not None
    assert pairs[1].baseline.scan_name == "secondary"


def test_click_outside_its_scan_is_moved_to_the_border_and_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        clicks = read_followup(tmp_path / "clicks.json", {"3": (-5.0, 4.0, 99.0)})
    assert clicks[3] is not None
    assert clicks[3].clamped
    np.testing.assert_allclose(GRID.index_zyx(clicks[3].point_xyz_mm), (5, 4, 0), atol=1e-9)
    assert "outside its scan" in caplog.text
    assert "clicks.json" in caplog.text


def test_click_in_the_outer_half_of_a_border_voxel_is_inside(tmp_path: Path) -> None:
    clicks = read_followup(tmp_path / "clicks.json", {"3": (-0.4, 9.5, 5.5)})
    assert clicks[3] is not None
    assert not clicks[3].clamped


def test_baseline_click_whose_scan_is_missing_counts_as_none(tmp_path: Path) -> None:
    (pair,) = read_click_pairs(
        baseline=[click_file(tmp_path / "b.json", {"4": (1, 1, 1)}, grid=None)],
        followup=[click_file(tmp_path / "f.json", {"4": (1, 1, 1)})],
    )
    assert pair.baseline is None
    assert pair.followup is not None


def expect_error(path: Path, match: str) -> None:
    with pytest.raises(InputError, match=match) as error:
        read_click_pairs(baseline=[], followup=[ClickFile(path=path, scan_name="primary", grid=GRID)])
    assert str(path) in str(error.value)
    assert "expected" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["", "{", "[1, 2", "\xff\xfe", "hello"])
def test_invalid_json(tmp_path: Path, content: str) -> None:
    path = tmp_path / "clicks.json"
    path.write_bytes(content.encode("latin-1"))
    expect_error(path, "Invalid JSON")


@pytest.mark.parametrize(
    "content", ["[]", "null", "3", '{"points": 3}', '{"points": [3]}', '{"points": [{"name": "1"}]}']
)
def test_json_that_is_no_point_list(tmp_path: Path, content: str) -> None:
    path = tmp_path / "clicks.json"
    path.write_text(content)
    expect_error(path, r"clicks\.json: ")


@pytest.mark.parametrize("point", ["[1, 2]", "[1, 2, 3, 4]", "[]", "7", "null", '"1, 2, 3"'])
def test_click_of_the_wrong_length(tmp_path: Path, point: str) -> None:
    path = tmp_path / "clicks.json"
    path.write_text(f'{{"points": [{{"name": "1", "point": [1, 2, 3]}}, {{"name": "2", "point": {point}}}]}}')
    expect_error(path, r"points\[1\]\.point")


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999", '"2"', "null", "true", "[2]"])
def test_click_with_nan_or_text(tmp_path: Path, value: str) -> None:
    path = tmp_path / "clicks.json"
    path.write_text(f'{{"points": [{{"name": "1", "point": [1, {value}, 3]}}]}}')
    expect_error(path, r"points\[0\]\.point\[1\]")


def test_missing_click_file(tmp_path: Path) -> None:
    expect_error(tmp_path / "clicks.json", "No such file")


@pytest.mark.parametrize("name", ["0", "-3", "Lesion 0", "65536", 70000])
def test_id_out_of_range(tmp_path: Path, name: object) -> None:
    path = write_points(tmp_path / "clicks.json", [{"name": name, "point": [1, 2, 3]}])
    expect_error(path, r"points\[0\]: lesion id -?\d+; expected 1 to 65535")


@pytest.mark.parametrize("name", ["liver", "7.5", "7 8", "Lesion", "7b"])
def test_name_that_is_no_id(tmp_path: Path, name: str) -> None:
    path = write_points(tmp_path / "clicks.json", [{"name": name, "point": [1, 2, 3]}])
    expect_error(path, r"points\[0\]: name")


def test_name_missing_where_others_have_one(tmp_path: Path) -> None:
    path = write_points(tmp_path / "clicks.json", [{"name": "1", "point": [1, 2, 3]}, {"point": [1, 2, 3]}])
    expect_error(path, r"points\[1\]: name None")


def test_duplicate_id_in_one_scan(tmp_path: Path) -> None:
    path = write_points(
        tmp_path / "clicks.json", [{"name": "3", "point": [1, 2, 3]}, {"name": "Lesion 3", "point": [4, 4, 4]}]
    )
    expect_error(path, r"points\[1\]: lesion 3 a second time")


def test_duplicate_id_over_the_scans_of_one_time_point(tmp_path: Path) -> None:
    files = [
        click_file(tmp_path / "primary.json", {"3": (1, 2, 3)}),
        click_file(tmp_path / "secondary.json", {"3": (1, 2, 3)}, "secondary"),
    ]
    with pytest.raises(InputError, match=r"secondary\.json: points\[0\]: lesion 3 a second time"):
        read_click_pairs(baseline=[], followup=files)


def test_followup_clicks_without_their_scan(tmp_path: Path) -> None:
    file = click_file(tmp_path / "clicks.json", {"3": (1, 2, 3)}, "secondary", grid=None)
    with pytest.raises(InputError, match="clicks without a scan"):
        read_click_pairs(baseline=[], followup=[file])
