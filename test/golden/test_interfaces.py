"""The shipped model on the sample cases: what it writes is what it wrote when it was shipped."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

import process
from longilesion.grand_challenge import read_case
from longilesion.shipped import SHIPPED_MODEL
from test.cases import CASES, NAMES
from test.container.compare_outputs import MINIMUM_DICE, compare_layout, compare_lesions, find_maps


@pytest.fixture(autouse=True)
def kept_logging(monkeypatch):
    """The program's logging would replace pytest's."""
    monkeypatch.setattr(process, "_log_to_streams", lambda: None)


def run(folder: Path, output: Path, *options: str | Path) -> None:
    arguments = ["--input", folder, "--output", output, "--report", output.with_suffix(".json"), *options]
    # The precision in which the expected outputs were written; bfloat16 moves single voxels at the outlines.
    assert process.main([*map(str, arguments), "--device", "cpu", "--precision", "float32"]) == 0


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("name", NAMES)
def test_each_interface_gives_the_expected_maps(name, tmp_path):
    expected_maps = find_maps(CASES / name / "expected")
    run(CASES / name / "input", tmp_path / "output")
    assert files_in(tmp_path / "output") == files_in(CASES / name / "expected")
    for slug, path in find_maps(tmp_path / "output").items():
        found, expected = sitk.ReadImage(path), sitk.ReadImage(expected_maps[slug])
        assert list(compare_layout(found, expected)) == []
        assert found.GetPixelID() == expected.GetPixelID()
        rows = list(compare_lesions(sitk.GetArrayFromImage(found), sitk.GetArrayFromImage(expected)))
        assert [row for row in rows if row[3] < MINIMUM_DICE] == []


@pytest.mark.parametrize("name", NAMES)
def test_maps_lie_on_the_followup_scans_voxels_to_the_last_bit(name):
    for slug, path in find_maps(CASES / name / "expected").items():
        folder = CASES / name / "input" / "images" / slug.removesuffix("-tumor-lesion-seg")
        scan = sitk.ReadImage(next(folder.iterdir()))
        assert list(compare_layout(sitk.ReadImage(path), scan)) == []


@pytest.mark.parametrize("name", NAMES)
def test_lesions_of_the_sample_cases_are_found(name):
    """Merged lesions may bear either id, so all lesions are compared as one."""
    truth_maps = find_maps(CASES / name / "truth")
    together = whole = 0
    for slug, path in find_maps(CASES / name / "expected").items():
        truth, found = (sitk.GetArrayFromImage(sitk.ReadImage(file)) > 0 for file in (truth_maps[slug], path))
        together += 2 * int((truth & found).sum())
        whole += int(truth.sum()) + int(found.sum())
    assert together / whole > 0.6


def test_lesion_300_keeps_its_id_in_the_secondary_followup_scan():
    path = find_maps(CASES / "interface_2" / "expected")["secondary-followup-ct-tumor-lesion-seg"]
    image = sitk.ReadImage(path)
    assert image.GetPixelID() == sitk.sitkUInt16
    assert 300 in np.unique(sitk.GetArrayFromImage(image))


@pytest.fixture(scope="module")
def one_view(tmp_path_factory):
    """The shipped model in one view, which takes less time, for what does not depend on the others."""
    folder = tmp_path_factory.mktemp("one_view") / "model"
    shutil.copytree(SHIPPED_MODEL, folder)
    settings = json.loads((folder / "settings.json").read_text())
    for member in settings["members"]:
        member["settings"]["inference"] |= {"mirror_axes": [], "zoom_factors": [1.0]}
    (folder / "settings.json").write_text(json.dumps(settings))
    return folder


def with_followup_points(folder: Path, points: dict) -> Path:
    """A copy of the first case, its follow-up clicks with these points, or without the key."""
    shutil.copytree(CASES / "interface_1" / "input", folder)
    clicks = folder / "primary-followup-lesion-clicks.json"
    kept = {key: value for key, value in json.loads(clicks.read_text()).items() if key != "points"}
    clicks.write_text(json.dumps(kept | points))
    return folder


@pytest.mark.slow
def test_empty_followup_clicks_are_replaced_by_propagated_ones(tmp_path, one_view):
    run(with_followup_points(tmp_path / "input", {"points": []}), tmp_path / "output", "--model", one_view)
    assert files_in(tmp_path / "output") == files_in(CASES / "interface_1" / "expected")
    report = json.loads((tmp_path / "output.json").read_text())
    assert len(report["lesions"]) == 8
    assert all(lesion["propagated"] and lesion["confidence"] < 1 for lesion in report["lesions"])
    assert any(lesion["volume_followup_ml"] > 0 for lesion in report["lesions"])


@pytest.mark.parametrize("points", [{"points": None}, {}])
def test_followup_clicks_without_points_are_empty_ones(points, tmp_path):
    empty, _ = read_case(with_followup_points(tmp_path / "empty", {"points": []}))
    without, _ = read_case(with_followup_points(tmp_path / "without", points))
    assert len(empty.clicks) == 8
    assert without.clicks == empty.clicks
