"""The command that registers two scans: what it prints, the picture, the points, and bad input."""

import json
import logging
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from rich.console import Console

from longilesion import cli
from longilesion.case import OutsideLesion, Scan
from longilesion.cli.register import STAGES, lesion_table
from longilesion.click_files import ClickFile, read_click_pairs
from longilesion.geometry import Grid
from longilesion.images import read_scan
from longilesion.prompts import Prompts
from test.phantoms import PhantomCase
from test.unit.builders import click, prompt
from test.unit.case_folders import files_under, lesion_ids, soft_tissue, write_image, write_points

pytestmark = pytest.mark.usefixtures("restored_logging")

# Slices of the torso, from the feet, that the follow-up does not show.
CUT = 30
# Voxels (x, y, z) of the torso: in the liver, and below what the follow-up shows.
KEPT, LOST = (50, 50, 55), (77, 60, 4)


def register(**options: object) -> int:
    # The test runner's own handlers would keep the command from setting up its own.
    logging.getLogger().handlers.clear()
    arguments = [text for name, value in options.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    return cli.main(["register", *arguments])


def write_scan(path: Path, scan: Scan, first: int = 0, **geometry: object) -> Path:
    return write_image(path, scan.hu[first:], spacing_xyz_mm=scan.grid.spacing_zyx_mm[::-1], **geometry)


def block(path: Path, **geometry: object) -> Path:
    return write_image(path, soft_tissue(), **geometry)


def expect_one_line(capfd: pytest.CaptureFixture[str], *findings: object) -> None:
    """One line that says what is wrong and what was expected, and no result."""
    captured = capfd.readouterr()
    (line,) = captured.err.splitlines()
    for finding in findings:
        assert str(finding) in line
    assert "expected" in line
    assert captured.out == ""


def is_picture(path: Path) -> bool:
    image = matplotlib.image.imread(path)
    return min(image.shape[:2]) > 200 and float(np.ptp(image[..., :3])) > 0.5


# ------------------------------------------------------------------------------------------------- what comes of it


def test_lesions_are_propagated_to_a_followup_of_another_origin_that_shows_less(
    tmp_path: Path, phantom: PhantomCase, capfd: pytest.CaptureFixture[str]
) -> None:
    scan = phantom.case.baselines["primary"].scan
    # Turned over besides: what is stored first lies at the head and the left.
    turned = Scan(hu=np.ascontiguousarray(scan.hu[::-1, :, ::-1]), grid=scan.grid)
    depth, _, width = scan.hu.shape
    followup = write_image(
        tmp_path / "after.nii.gz",
        turned.hu[: depth - CUT],
        spacing_xyz_mm=scan.grid.spacing_zyx_mm[::-1],
        origin_xyz_mm=(900.0, -40.0, 1200.0),
        direction=np.diag([-1.0, 1.0, -1.0]),
    )
    output, points = tmp_path / "results" / "check.png", tmp_path / "results" / "points.json"
    code = register(
        baseline=write_scan(tmp_path / "before.nii.gz", scan),
        followup=followup,
        baseline_clicks=write_points(tmp_path / "clicks.json", {"3": KEPT, "12": LOST}),
        output=output,
        points=points,
    )
    assert code == 0
    captured = capfd.readouterr()
    assert captured.err == ""
    assert "\x1b" not in captured.out
    (kept,) = [line for line in captured.out.splitlines() if " 3 │" in line]
    (lost,) = [line for line in captured.out.splitlines() if " 12 │" in line]
    assert "50.0, 50.0, 55.0" in kept
    assert "outside the follow-up's field of view" in lost
    assert any(STAGES[stage] in captured.out for stage in ("shift", "rigid", "deformable"))
    assert files_under(tmp_path / "results") == ["check.png", "points.json"]
    assert is_picture(output)
    # The list is read back as `longilesion segment` reads it.
    grid = read_scan(followup).grid
    (pair,) = read_click_pairs(baseline=[], followup=[ClickFile(path=points, scan_name="primary", grid=grid)])
    assert pair.lesion_id == 3
    assert pair.followup is not None
    x, y, z = KEPT
    true_xyz_mm = grid.world_xyz_mm((depth - 1 - z, y, width - 1 - x))
    assert np.linalg.norm(np.subtract(pair.followup.point_xyz_mm, true_xyz_mm)) < 3.0
    assert json.loads(points.read_text())["type"] == "Multiple points"


def test_points_are_what_segment_takes_as_followup_clicks(tmp_path: Path, bundle: Path) -> None:
    scans = {"baseline": block(tmp_path / "before.mha"), "followup": block(tmp_path / "after.mha")}
    mask = write_image(tmp_path / "lesions.mha", lesion_ids({7: (1, 3, 3), 9: (3, 6, 7)}).astype(np.uint8))
    points, output = tmp_path / "points.json", tmp_path / "map.mha"
    assert register(**scans, lesions=mask, output=tmp_path / "check.png", points=points) == 0
    assert [point["name"] for point in json.loads(points.read_text())["points"]] == ["7", "9"]
    arguments = ["--followup", scans["followup"], "--followup-clicks", points, "--output", output, "--model", bundle]
    assert cli.main(["segment", *map(str, arguments), "--device", "cpu", "--precision", "float32"]) == 0
    assert output.exists()


def test_two_scans_alone_are_registered_and_drawn(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code = register(
        baseline=block(tmp_path / "before.mha"),
        followup=block(tmp_path / "after.mha", origin_xyz_mm=(0.0, 0.0, 800.0)),
        output=tmp_path / "check.PNG",
        points=tmp_path / "points.json",
    )
    assert code == 0
    (line,) = capfd.readouterr().out.splitlines()
    assert line.startswith("registration: ")
    assert "overall similarity" in line
    assert is_picture(tmp_path / "check.PNG")
    assert json.loads((tmp_path / "points.json").read_text())["points"] == []


@pytest.mark.parametrize("hu", [soft_tissue((1, 10, 12)), np.full((6, 10, 12), -1000, np.int16)], ids=["slice", "air"])
def test_scan_of_one_slice_or_of_air_has_a_picture(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], hu: np.ndarray
) -> None:
    code = register(
        baseline=block(tmp_path / "before.mha"),
        followup=write_image(tmp_path / "after.mha", hu),
        baseline_clicks=write_points(tmp_path / "clicks.json", {"3": (5, 5, 3)}),
        output=tmp_path / "check.png",
    )
    assert code == 0
    assert "registration: " in capfd.readouterr().out
    assert is_picture(tmp_path / "check.png")


def test_table_tells_low_confidence_and_what_is_not_shown(capfd: pytest.CaptureFixture[str]) -> None:
    grid = Grid.from_spacing((50, 50, 50), (2.0, 1.0, 1.0))
    sure, low = prompt(9, (4.0, 5.0, 60.0), (1.0, 2.0, 30.0)), prompt(2, (4.0, 5.0, 6.0), (1.0, 2.0, 3.0))
    low = type(low)(lesion_id=2, followup=low.followup, baseline=low.baseline, propagated=True, confidence=0.31)
    outside = OutsideLesion(lesion_id=5, baseline=click((7.0, 8.0, 8.0)), confidence=0.9)
    Console(width=120).print(lesion_table(Prompts(lesions=(sure, low), outside=(outside,)), grid, grid))
    rows = [line for line in capfd.readouterr().out.splitlines() if line.startswith("│")]
    first, second, third = ([cell.strip() for cell in row.strip("│").split("│")] for row in rows)
    assert first == ["2", "1.0, 2.0, 1.5", "4.0, 5.0, 3.0", "0.31", "low: look at it"]
    assert second == ["5", "7.0, 8.0, 4.0", "outside the follow-up's field of view", "0.90", ""]
    assert third == ["9", "1.0, 2.0, 15.0", "4.0, 5.0, 30.0", "1.00", ""]


# --------------------------------------------------------------------------------------------------------- bad input


def test_output_over_an_input(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before, after = block(tmp_path / "before.mha"), block(tmp_path / "after.mha")
    clicks = write_points(tmp_path / "clicks.json", {"3": (5, 5, 3)})
    was = clicks.read_bytes()
    options = {"baseline": before, "followup": after, "baseline_clicks": clicks, "output": tmp_path / "check.png"}
    assert register(**options, points=clicks) == 1
    expect_one_line(capfd, "clicks.json: is one of the inputs")
    assert clicks.read_bytes() == was
    assert not (tmp_path / "check.png").exists()


def test_picture_and_points_in_one_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    both = tmp_path / "check.png"
    scans = {"baseline": block(tmp_path / "before.mha"), "followup": block(tmp_path / "after.mha")}
    assert register(**scans, output=both, points=both) == 1
    expect_one_line(capfd, "check.png: given twice")


@pytest.mark.parametrize("name", ["check.jpg", "check", "check.nii.gz"])
def test_picture_of_another_format(tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str) -> None:
    scans = {"baseline": block(tmp_path / "before.mha"), "followup": block(tmp_path / "after.mha")}
    assert register(**scans, output=tmp_path / name) == 1
    expect_one_line(capfd, "unknown picture format")


def test_unwritable_output(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_bytes(b"")
    scans = {"baseline": block(tmp_path / "before.mha"), "followup": block(tmp_path / "after.mha")}
    assert register(**scans, output=tmp_path / "file" / "check.png") == 1
    expect_one_line(capfd, "a folder that can be written to")


def test_damaged_scan(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    after = block(tmp_path / "after.nii.gz")
    after.write_bytes(after.read_bytes()[:-40])
    assert register(baseline=block(tmp_path / "b.mha"), followup=after, output=tmp_path / "check.png") == 1
    expect_one_line(capfd, "after.nii.gz")


def test_mask_of_another_grid(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    scans = {"baseline": block(tmp_path / "before.mha"), "followup": block(tmp_path / "after.mha")}
    mask = write_image(tmp_path / "lesions.mha", np.ones((6, 10, 11), np.uint8))
    assert register(**scans, lesions=mask, output=tmp_path / "check.png") == 1
    expect_one_line(capfd, "lesions.mha", "12 x 10 x 6")
    assert not (tmp_path / "check.png").exists()


def test_followup_is_required(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        register(baseline=tmp_path / "a.mha", output=tmp_path / "check.png")
    assert stopped.value.code == 2
    assert "--followup" in capfd.readouterr().err
