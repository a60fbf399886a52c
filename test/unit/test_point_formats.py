"""Files of points that people have, and those that must not be taken for something else."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from longilesion.case import Baseline, Click, LesionMap, Scan
from longilesion.click_files import ClickFile, point_list, read_click_pairs
from longilesion.errors import InputError
from longilesion.geometry import Grid
from longilesion.point_formats import read_points

GRID = Grid.from_spacing((50, 60, 70), (2.5, 1.0, 1.0), origin_xyz_mm=(100.0, 200.0, -300.0))


def write(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def clicks_in(path: Path) -> dict[int, Click | None]:
    file = ClickFile(path=path, scan_name="primary", grid=GRID)
    return {pair.lesion_id: pair.followup for pair in read_click_pairs(baseline=[], followup=[file])}


def markups(*points: dict[str, object], **node: object) -> dict[str, object]:
    return {"markups": [{"type": "Fiducial", "coordinateSystem": "LPS", "controlPoints": list(points), **node}]}


def expect_error(path: Path, *words: str, may_lack_points: bool = False) -> None:
    with pytest.raises(InputError) as error:
        read_points(path, may_lack_points=may_lack_points)
    message = str(error.value)
    for word in (str(path), "expected", *words):
        assert word in message
    assert "\n" not in message


@pytest.mark.parametrize("label", ["7", "F-7", "F_7", "F7", "Lesion 7", "MarkupsFiducial-7", "Point list-7", " 7 "])
def test_number_in_a_slicer_label_is_the_lesions_id(tmp_path: Path, label: str) -> None:
    path = write(tmp_path / "f.mrk.json", markups({"label": label, "position": [110.0, 210.0, -290.0]}))
    assert list(clicks_in(path)) == [7]


def test_slicer_points_without_labels_are_numbered(tmp_path: Path) -> None:
    point = {"label": "", "position": [110.0, 210.0, -290.0]}
    assert list(clicks_in(write(tmp_path / "f.mrk.json", markups(point, point)))) == [1, 2]


@pytest.mark.parametrize("status", ["undefined", "preview", "missing"])
def test_slicer_points_that_are_nowhere_yet_are_skipped(tmp_path: Path, status: str) -> None:
    placed = {"label": "2", "position": [110.0, 210.0, -290.0], "positionStatus": "defined"}
    nowhere = {"label": "1", "position": None, "positionStatus": status}
    assert list(clicks_in(write(tmp_path / "f.mrk.json", markups(nowhere, placed)))) == [2]


def test_slicer_point_outside_the_scan_is_moved_to_the_border_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "f.mrk.json", markups({"label": "4", "position": [110.0, 210.0, -320.0]}))
    with caplog.at_level(logging.WARNING):
        clicked = clicks_in(path)[4]
    assert clicked is not None
    assert clicked.clamped
    assert clicked.point_xyz_mm == pytest.approx((110.0, 210.0, -300.0))
    assert "outside its scan" in caplog.text


@pytest.mark.parametrize(
    "node", [{"coordinateSystem": "IJK"}, {"coordinateSystem": None}, {"type": "Line"}, {"coordinateUnits": "m"}]
)
def test_slicer_markups_of_another_kind_are_refused(tmp_path: Path, node: dict[str, object]) -> None:
    expect_error(write(tmp_path / "f.mrk.json", markups({"label": "1", "position": [1, 2, 3]}, **node)), *node)


def test_slicer_markups_that_do_not_say_their_frame_are_refused(tmp_path: Path) -> None:
    content = {"markups": [{"type": "Fiducial", "controlPoints": []}]}
    expect_error(write(tmp_path / "f.mrk.json", content), "coordinateSystem")


@pytest.mark.parametrize("may_lack_points", [False, True])
@pytest.mark.parametrize(
    "content",
    [
        {"Points": [{"name": "1", "point": [1, 2, 3]}]},
        {"lesions": []},
        [{"name": "1", "point": [1, 2, 3]}],
        [],
        3,
        "text",
        '<?xml version="1.0"?><points/>',
        "# Markups fiducial file version = 4.11",
    ],
)
def test_anything_else_is_refused_and_never_no_clicks(tmp_path: Path, content: object, may_lack_points: bool) -> None:
    expect_error(write(tmp_path / "c.json", content), '"points"', may_lack_points=may_lack_points)


@pytest.mark.parametrize("content", [{}, {"points": None}, {"name": "Points of interest", "type": "Multiple points"}])
def test_missing_points_are_no_clicks_for_the_platform_and_refused_for_people(
    tmp_path: Path, content: dict[str, object]
) -> None:
    path = write(tmp_path / "c.json", content)
    assert read_points(path, may_lack_points=True) == []
    expect_error(path, "points")


def test_empty_list_is_a_list(tmp_path: Path) -> None:
    assert read_points(write(tmp_path / "c.json", {"points": []}), may_lack_points=False) == []
    assert read_points(write(tmp_path / "c.csv", "id,x,y,z\n"), may_lack_points=False) == []


def test_json_that_is_deeper_than_any_list_is_refused(tmp_path: Path) -> None:
    expect_error(write(tmp_path / "c.json", "[" * 100_000))


@pytest.mark.parametrize(
    ("heading", "place"),
    [
        ("id,x,y,z", (10, 20, 30)),
        ("ID;X;Y;Z", (10, 20, 30)),
        ("name,x_voxel,y_voxel,z_voxel", (10, 20, 30)),
        ("lesion_id\tx_index\ty_index\tz_index", (10, 20, 30)),
        ("id,x_mm,y_mm,z_mm", (-90, -180, 132)),
        ("id,x (mm),y (mm),z (mm)", (-90, -180, 132)),
        ("id,x_lps,y_lps,z_lps", (-90, -180, 132)),
        ("id,X [mm RAS],Y [mm RAS],Z [mm RAS]", (-110, -220, 132)),
    ],
)
def test_heading_of_a_table_says_what_its_numbers_are(
    tmp_path: Path, heading: str, place: tuple[float, float, float]
) -> None:
    delimiter = next(mark for mark in ",;\t" if mark in heading)
    path = write(tmp_path / "c.csv", f"{heading}\n" + delimiter.join(("7.0", "10", "20", "30")) + "\n\n")
    (point,) = read_points(path, may_lack_points=False)
    assert point.name == "7"
    assert point.index_zyx(GRID)[::-1] == pytest.approx(place)


@pytest.mark.parametrize(
    "table",
    [
        "7,1,2,3\n8,1,2,3\n",
        "id,x,y\n7,1,2\n",
        "id,x,y,z_mm\n7,1,2,3\n",
        "id,x,y,z,x_mm,y_mm,z_mm\n7,1,2,3,1,2,3\n",
        "id,x,x_voxel,y,z\n7,1,1,2,3\n",
        "id,x_cm,y_cm,z_cm\n7,1,2,3\n",
        "id,name,x,y,z\n7,a,1,2,3\n",
        "id,x,y,z\n7,1,2,\n",
        "id,x,y,z\n7,1,2,nan\n",
        "id,x,y,z\n7,1,2,inf\n",
        "id,x,y,z\n7,1,2,1e999\n",
        "id;x;y;z\n7;1,5;2;3\n",
        "id,x,y,z\n7,1 2 3,,\n",
        "",
    ],
)
def test_table_that_leaves_open_what_it_means_is_refused(tmp_path: Path, table: str) -> None:
    expect_error(write(tmp_path / "c.csv", table))


def test_line_of_a_table_is_named_in_the_message(tmp_path: Path) -> None:
    path = write(tmp_path / "c.csv", "id,x,y,z\n1,1,2,3\nliver,1,2,3\n")
    with pytest.raises(InputError, match=r"c\.csv: line 3: name 'liver'"):
        clicks_in(path)


@pytest.mark.parametrize("number", [1e12, -1e200, 1.7e308])
@pytest.mark.parametrize("name", ["c.csv", "c.mrk.json", "c.json"])
def test_absurd_number_is_moved_to_the_border_like_any_point_outside(
    tmp_path: Path, name: str, number: float, caplog: pytest.LogCaptureFixture
) -> None:
    contents = {
        "c.csv": f"id,x,y,z\n4,{number!r},1,2\n",
        "c.mrk.json": markups({"label": "4", "position": [number, 210.0, -290.0]}),
        "c.json": {"points": [{"name": "4", "point": [number, 1, 2]}]},
    }
    ids = np.zeros(GRID.shape_zyx, np.uint16)
    ids[5:9, 5:9, 5:9] = 4
    scan = Scan(hu=np.zeros(GRID.shape_zyx, np.int16), grid=GRID)
    prior = Baseline.of(scan, LesionMap(ids=ids, grid=GRID))
    file = ClickFile(path=write(tmp_path / name, contents[name]), scan_name="primary", grid=GRID, prior=prior)
    with caplog.at_level(logging.WARNING):
        (pair,) = read_click_pairs(baseline=[file], followup=[file])
    for click in (pair.baseline, pair.followup):
        assert click is not None
        assert click.clamped
        assert GRID.contains(GRID.index_zyx(click.point_xyz_mm))


def test_written_list_is_read_back(tmp_path: Path) -> None:
    clicks = {n: Click(scan_name="primary", point_xyz_mm=(120.0 + n / 7000, 210.0, -250.0)) for n in (3, 65535)}
    path = write(tmp_path / "c.json", point_list(clicks, GRID))
    for number, found in clicks_in(path).items():
        assert found is not None
        np.testing.assert_allclose(found.point_xyz_mm, clicks[number].point_xyz_mm, atol=2e-3)
