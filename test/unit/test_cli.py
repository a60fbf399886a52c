import io
import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from rich.console import Console

from longilesion import cli
from longilesion.case import Click, LesionPrompt, OutsideLesion
from longilesion.cli.lesion_table import lesion_table
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
    arguments = [text for name, value in named.items() for text in _option(name, value)]
    return cli.main(["segment", *arguments])


def _option(name: str, value: object) -> list[str]:
    """An option and its value; None for one that has none."""
    option = f"--{name.replace('_', '-')}"
    return [option] if value is None else [option, str(value)]


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
    assert caplog.messages == [f"{empty}: no lesion to look for, neither outlined nor clicked"]


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


@pytest.mark.parametrize("option", ["html", "viewer"])
def test_page_of_a_binary_map_is_refused(
    tmp_path: Path, bundle: Path, capfd: pytest.CaptureFixture[str], option: str
) -> None:
    images = {
        "baseline": scan(tmp_path / "a.mha"),
        "followup": scan(tmp_path / "b.mha"),
        "lesions": mask(tmp_path / "m.mha"),
    }
    page = tmp_path / "page.html"
    assert segment(bundle, **images, output=tmp_path / "map.mha", labels="binary", **{option: page}) == 1
    assert f"--{option} with --labels binary" in capfd.readouterr().err
    assert not page.exists()


def test_baseline_clicks_are_propagated_and_reported(tmp_path: Path, bundle: Path) -> None:
    (tmp_path / "about.csv").write_text("lesion;target\n3;yes\n")
    code = segment(
        bundle,
        baseline=scan(tmp_path / "before.mha"),
        baseline_clicks=write_points(tmp_path / "clicks.json", {"3": (5, 5, 3)}),
        followup=scan(tmp_path / "after.mha"),
        output=tmp_path / "map.mha",
        report=tmp_path / "report.json",
        viewer=tmp_path / "viewer.html",
        about=tmp_path / "about.csv",
    )
    assert code == 0
    assert 'id="outlines-2"' in (tmp_path / "viewer.html").read_text()
    (lesion,) = json.loads((tmp_path / "report.json").read_text())["lesions"]
    assert lesion["propagated"] is True
    assert lesion["click"] == [5.0, 5.0, 3.0]


def printed(rows: list[LesionOutcome], width: int = 100) -> list[str]:
    """The table's lines of lesions."""
    output = io.StringIO()
    Console(width=width, file=output).print(lesion_table(rows))
    lines = output.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    return [line for line in lines if line.startswith("│")]


def cells(row: LesionOutcome) -> list[str]:
    (line,) = printed([row], 200)
    return [cell.strip() for cell in line.strip("│").split("│")]


def test_table_tells_growth_shrinkage_new_and_gone() -> None:
    rows = [
        outcome(1, 2.0, 3.0),
        outcome(2, 4.0, 1.0),
        outcome(3, 0.0, 0.5),
        outcome(4, 1.0, 0.0, "not recognised"),
        outcome(5, None, 1.0),
    ]
    assert [cells(row)[3] for row in rows] == ["+50%", "-75%", "new", "-100%", "-"]
    assert cells(rows[3])[-1] == "not recognised"


def unsure(row: LesionOutcome, confidence: float = 0.31) -> LesionOutcome:
    return replace(row, prompt=replace(row.prompt, propagated=True, confidence=confidence))


def test_lesion_that_was_perhaps_overlooked_has_not_shrunk_to_nothing() -> None:
    gone = outcome(4, 1.0, 0.0, "gone: presence 0.02 below 0.42")
    outside = OutsideLesion(lesion_id=4, baseline=Click(scan_name="primary", point_xyz_mm=(0, 0, 0)), confidence=0.97)
    assert cells(gone)[3] == "-100%"
    assert cells(unsure(gone, 0.9))[3] == "-100%"
    assert cells(unsure(gone))[3:] == [
        "-",
        "propagated",
        "0.31",
        "-",
        "low: look at it; gone: presence 0.02 below 0.42",
    ]
    assert cells(replace(gone, is_unlike=True, similarity=0.07))[3:] == [
        "-",
        "given",
        "1.00",
        "0.07",
        "low: look at it; gone: presence 0.02 below 0.42",
    ]
    assert cells(replace(gone, merged_into=2, note="merged with lesion 2"))[3] == "-"
    assert cells(replace(gone, is_present=True))[3] == "-"
    assert cells(replace(gone, prompt=outside, note="outside the field of view"))[3:] == [
        "-",
        "outside",
        "0.97",
        "-",
        "outside the field of view",
    ]


@pytest.mark.parametrize(
    ("before", "after", "shown"),
    [
        (0.0341, 1.2512, ["0.0341", "1.25", "+3600%"]),
        (12.34, 153.4, ["12.3", "153", "+1100%"]),
        (1234.5, 1234.0, ["1234", "1234", "-0%"]),
        (20.0, 0.0004, ["20", "<0.001", "-99%"]),
        (20.0, 0.01, ["20", "0.01", "-99%"]),
        (99.96, 50.0, ["100", "50", "-50%"]),
    ],
)
def test_numbers_have_the_digits_that_mean_something(before: float, after: float, shown: list[str]) -> None:
    row = cells(outcome(1, before, after))
    assert row[1:3] == shown[:2]
    assert row[3].lstrip("+-") == shown[2].lstrip("+-")


@pytest.mark.parametrize("width", [100, 140])
def test_each_lesion_is_one_line_whatever_its_note(width: int) -> None:
    long_note = "gone: presence 0.12 below 0.42; click outside the scan, moved to its border; " + "and so on " * 20
    rows = [unsure(outcome(number, 1234.5, 0.0, long_note)) for number in (1, 77, 65535)]
    lines = printed([*rows, outcome(12345, 0.00001, 1234567.0)], width)
    assert len(lines) == 4
    for line, number in zip(lines, (1, 77, 65535, 12345), strict=True):
        assert str(number) in line
    for heading in ("propagated", "0.31"):
        assert heading in lines[0]
    assert "low: look at it" in lines[2]


def test_piped_table_has_a_line_per_lesion(
    tmp_path: Path, bundle: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    code = segment(
        bundle,
        baseline=scan(tmp_path / "before.mha"),
        lesions=mask(tmp_path / "lesions.mha"),
        followup=scan(tmp_path / "after.mha"),
        output=tmp_path / "map.mha",
    )
    assert code == 0
    lines = [line for line in capfd.readouterr().out.splitlines() if line.startswith("│")]
    assert [line.split("│")[1].strip() for line in lines] == ["7", "9"]
    assert all(len(line) <= 140 for line in lines)


@pytest.mark.parametrize("clicks", ['{"points": []}', "id,x,y,z\n"])
def test_empty_mask_and_empty_list_give_an_empty_map_and_a_sentence(
    tmp_path: Path, bundle: Path, capfd: pytest.CaptureFixture[str], clicks: str
) -> None:
    logging.getLogger().handlers.clear()
    points = tmp_path / ("clicks.json" if clicks.startswith("{") else "clicks.csv")
    points.write_text(clicks)
    code = segment(
        bundle,
        baseline=scan(tmp_path / "before.mha"),
        lesions=write_image(tmp_path / "l.mha", lesion_ids({}), origin_xyz_mm=(-20.0, 5.0, 300.0)),
        followup=scan(tmp_path / "after.mha"),
        followup_clicks=points,
        output=tmp_path / "map.mha",
    )
    assert code == 0
    assert ids_in(tmp_path / "map.mha") == {0}
    (line,) = capfd.readouterr().err.splitlines()
    assert "no lesion to look for" in line


def test_components_of_a_binary_mask_get_ids_in_map_and_report(tmp_path: Path, bundle: Path) -> None:
    lesions = (lesion_ids({7: (1, 3, 3), 9: (3, 6, 7)}) > 0).astype(np.uint8)
    # The second one is larger.
    lesions[5, 6:8, 7:9] = 1
    code = segment(
        bundle,
        baseline=scan(tmp_path / "before.mha"),
        lesions=write_image(tmp_path / "lesions.mha", lesions, origin_xyz_mm=(-20.0, 5.0, 300.0)),
        baseline_clicks=write_points(tmp_path / "b.json", {"31": (3.5, 3.5, 1.5), "32": (7.5, 6.5, 4)}),
        followup=scan(tmp_path / "after.mha"),
        followup_clicks=write_points(tmp_path / "f.json", {"31": (3, 3, 1), "32": (7, 6, 4)}),
        output=tmp_path / "map.mha",
        report=tmp_path / "report.json",
        split_components=None,
    )
    assert code == 0
    reported = json.loads((tmp_path / "report.json").read_text())["lesions"]
    assert {lesion["id"]: lesion["click"] for lesion in reported} == {1: [7, 6, 4], 2: [3, 3, 1]}
    assert ids_in(tmp_path / "map.mha") <= {0, 1, 2}


# --------------------------------------------------------------------------------------------------- wrong options


@pytest.mark.parametrize(
    ("command", "wrong", "meant"),
    [
        ("segment", "--mask", "--lesions"),
        ("segment", "--seg", "--lesions"),
        ("segment", "--prior", "--baseline"),
        ("segment", "--out", "--output"),
        ("segment", "-o", "--output"),
        ("segment", "--clicks", "--followup-clicks"),
        ("segment", "--weights", "--model"),
        ("register", "--mask", "--lesions"),
        ("register", "--before", "--baseline"),
    ],
)
@pytest.mark.parametrize("joined", [False, True])
def test_option_of_another_name_gets_a_hint_in_the_last_line(
    capfd: pytest.CaptureFixture[str], command: str, wrong: str, meant: str, joined: bool
) -> None:
    arguments = [f"{wrong}=a.nii.gz"] if joined else [wrong, "a.nii.gz"]
    with pytest.raises(SystemExit) as stopped:
        cli.main([command, "--followup", "b.nii.gz", "--output", "c.nii.gz", "--baseline", "d.nii.gz", *arguments])
    assert stopped.value.code == 2
    assert capfd.readouterr().err.splitlines()[-1] == f"{wrong}: no such option; did you mean {meant}?"


def test_help_and_right_options_get_no_hint(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["register", "--points", "p.json"])
    assert "did you mean" not in capfd.readouterr().err


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
