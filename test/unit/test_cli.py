import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from longilesion import cli
from longilesion.case import Click, LesionPrompt
from longilesion.cli.segment import lesion_table
from longilesion.pipeline import LesionOutcome
from test.unit.case_folders import files_under, lesion_ids, soft_tissue, write_image, write_points

pytestmark = pytest.mark.usefixtures("restored_logging")


def scan(path: Path) -> Path:
    return write_image(path, soft_tissue(), origin_xyz_mm=(-20.0, 5.0, 300.0))


def mask(path: Path) -> Path:
    lesions = lesion_ids({7: (1, 3, 3), 9: (3, 6, 7)}).astype(np.uint8)
    return write_image(path, lesions, origin_xyz_mm=(-20.0, 5.0, 300.0))


def segment(bundle: Path, **options: object) -> int:
    named = {"model": bundle, "device": "cpu", "precision": "float32", **options}
    arguments = [text for name, value in named.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    return cli.main(["segment", *arguments])


def ids_in(path: Path) -> set[int]:
    return set(np.unique(sitk.GetArrayFromImage(sitk.ReadImage(str(path)))).tolist())


def outcome(lesion_id: int, before: float | None, after: float, note: str = "") -> LesionOutcome:
    click = Click(scan_name="primary", point_xyz_mm=(0, 0, 0))
    prompt = LesionPrompt(lesion_id=lesion_id, followup=click, baseline=None, propagated=False, confidence=1.0)
    return LesionOutcome(
        prompt=prompt,
        place_xyz_mm=click.point_xyz_mm,
        presence=1,
        probability=1,
        volume_baseline_ml=before,
        volume_followup_ml=after,
        note=note,
    )


@pytest.mark.parametrize("suffix", [".nii.gz", ".mha", ".nrrd"])
def test_mask_alone_tells_which_lesions_to_look_for(
    tmp_path: Path, bundle: Path, capfd: pytest.CaptureFixture[str], suffix: str
) -> None:
    code = segment(
        bundle,
        baseline=scan(tmp_path / f"before{suffix}"),
        lesions=mask(tmp_path / f"lesions{suffix}"),
        followup=scan(tmp_path / f"after{suffix}"),
        output=tmp_path / "results" / f"map{suffix}",
    )
    assert code == 0
    assert ids_in(tmp_path / "results" / f"map{suffix}") == {0, 7, 9}
    assert files_under(tmp_path / "results") == [f"map{suffix}"]
    captured = capfd.readouterr()
    assert captured.err == ""
    for heading in ("lesion", "before", "after", "change", "note", "7", "9"):
        assert heading in captured.out
    assert "\x1b" not in captured.out


def test_mask_without_a_lesion_is_said(tmp_path: Path, bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    empty = write_image(tmp_path / "lesions.mha", lesion_ids({}), origin_xyz_mm=(-20.0, 5.0, 300.0))
    options = {"baseline": scan(tmp_path / "before.mha"), "followup": scan(tmp_path / "after.mha")}
    assert segment(bundle, lesions=empty, output=tmp_path / "map.mha", **options) == 0
    assert ids_in(tmp_path / "map.mha") == {0}
    assert caplog.messages == [f"{empty}: no lesion to look for, every voxel is 0 and there is no click"]


def test_scan_that_is_not_in_hounsfield_units_is_refused(
    tmp_path: Path, bundle: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shown = np.random.default_rng(0).integers(0, 256, (60, 60, 60)).astype(np.uint8)
    path = write_image(tmp_path / "after.nii.gz", shown)
    clicks = write_points(tmp_path / "clicks.json", {"1": (5, 5, 3)})
    assert segment(bundle, followup=path, followup_clicks=clicks, output=tmp_path / "map.nii.gz") == 1
    error = capfd.readouterr().err
    assert error.startswith(f"{path}: values from 0 to 255")
    assert "expected Hounsfield units" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "map.nii.gz").exists()


def test_clicks_alone_need_no_baseline(tmp_path: Path, bundle: Path) -> None:
    clicks = write_points(tmp_path / "clicks.json", {"Lesion 300": (5, 5, 3)})
    followup = scan(tmp_path / "after.nii.gz")
    assert segment(bundle, followup=followup, followup_clicks=clicks, output=tmp_path / "map.nii.gz") == 0
    assert ids_in(tmp_path / "map.nii.gz") == {0, 300}


def test_binary_labels(tmp_path: Path, bundle: Path) -> None:
    clicks = write_points(tmp_path / "clicks.json", {"30": (5, 5, 3)})
    followup = scan(tmp_path / "after.mha")
    output = tmp_path / "map.mha"
    assert segment(bundle, followup=followup, followup_clicks=clicks, output=output, labels="binary") == 0
    assert ids_in(output) == {0, 1}


def test_baseline_clicks_are_propagated_and_reported(tmp_path: Path, bundle: Path) -> None:
    code = segment(
        bundle,
        baseline=scan(tmp_path / "before.mha"),
        baseline_clicks=write_points(tmp_path / "clicks.json", {"3": (5, 5, 3)}),
        followup=scan(tmp_path / "after.mha"),
        output=tmp_path / "map.mha",
        report=tmp_path / "report.json",
    )
    assert code == 0
    (lesion,) = json.loads((tmp_path / "report.json").read_text())["lesions"]
    assert lesion["propagated"] is True
    assert lesion["click"] == [5.0, 5.0, 3.0]


def test_table_tells_growth_shrinkage_new_and_gone(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    rows = [
        outcome(1, 2.0, 3.0),
        outcome(2, 4.0, 1.0),
        outcome(3, 0.0, 0.5),
        outcome(4, 1.0, 0.0, "not recognised"),
        outcome(5, None, 1.0),
    ]
    Console(width=100).print(lesion_table(rows))
    table = capsys.readouterr().out
    for text in ("+50%", "-75%", "new", "-100%", "not recognised"):
        assert text in table


# --------------------------------------------------------------------------------------------------------- bad input


def expect_one_line(capfd: pytest.CaptureFixture[str], finding: str) -> None:
    (line,) = capfd.readouterr().err.splitlines()
    assert finding in line
    assert "expected" in line


def test_nothing_to_look_for(tmp_path: Path, bundle: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert segment(bundle, followup=scan(tmp_path / "after.mha"), output=tmp_path / "map.mha") == 1
    expect_one_line(capfd, "nothing to look for")
    assert not (tmp_path / "map.mha").exists()


def test_mask_without_its_scan(tmp_path: Path, bundle: Path, capfd: pytest.CaptureFixture[str]) -> None:
    followup, lesions = scan(tmp_path / "after.mha"), mask(tmp_path / "lesions.mha")
    assert segment(bundle, followup=followup, lesions=lesions, output=tmp_path / "map.mha") == 1
    expect_one_line(capfd, "--lesions without its scan")


def test_missing_scan(tmp_path: Path, bundle: Path, capfd: pytest.CaptureFixture[str]) -> None:
    clicks = write_points(tmp_path / "clicks.json", {"3": (5, 5, 3)})
    code = segment(bundle, followup=tmp_path / "a.nii.gz", followup_clicks=clicks, output=tmp_path / "map.mha")
    assert code == 1
    expect_one_line(capfd, "a.nii.gz: no such file")


@pytest.mark.parametrize("name", ["map.jpg", "map"])
def test_output_of_an_unknown_format(
    tmp_path: Path, bundle: Path, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    clicks = write_points(tmp_path / "clicks.json", {"3": (5, 5, 3)})
    code = segment(bundle, followup=scan(tmp_path / "after.mha"), followup_clicks=clicks, output=tmp_path / name)
    assert code == 1
    expect_one_line(capfd, "unknown image format")


def test_output_over_an_input(tmp_path: Path, bundle: Path, capfd: pytest.CaptureFixture[str]) -> None:
    followup = scan(tmp_path / "after.mha")
    before = followup.read_bytes()
    clicks = write_points(tmp_path / "clicks.json", {"3": (5, 5, 3)})
    assert segment(bundle, followup=followup, followup_clicks=clicks, output=followup) == 1
    expect_one_line(capfd, "is one of the inputs")
    assert followup.read_bytes() == before


def test_unwritable_output(tmp_path: Path, bundle: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_bytes(b"")
    clicks = write_points(tmp_path / "clicks.json", {"3": (5, 5, 3)})
    followup = scan(tmp_path / "after.mha")
    assert segment(bundle, followup=followup, followup_clicks=clicks, output=tmp_path / "file" / "map.mha") == 1
    expect_one_line(capfd, "a folder that can be written to")


def test_missing_model(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    clicks = write_points(tmp_path / "clicks.json", {"3": (5, 5, 3)})
    followup = scan(tmp_path / "after.mha")
    assert segment(tmp_path / "model", followup=followup, followup_clicks=clicks, output=tmp_path / "map.mha") == 1
    expect_one_line(capfd, "a model bundle")


def test_the_word_segment_is_required(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["--followup", str(tmp_path / "a.mha"), "--output", str(tmp_path / "map.mha")])
    assert stopped.value.code == 2
    assert "segment" in capfd.readouterr().err


def test_help_documents_the_click_format(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["segment", "--help"])
    assert stopped.value.code == 0
    text = capfd.readouterr().out
    assert '"points"' in text
    assert "--followup-clicks" in text
