import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

import process
from longilesion import case_run, grand_challenge
from longilesion.errors import InputError
from longilesion.pipeline import Segmentation
from test.unit.case_folders import (
    SHAPE_ZYX,
    files_under,
    soft_tissue,
    write_case,
    write_image,
    write_points,
)

PRIMARY = "images/primary-followup-ct-tumor-lesion-seg/output.mha"
SECONDARY = "images/secondary-followup-ct-tumor-lesion-seg/output.mha"
FOLLOWUP = "images/primary-followup-ct/scan.mha"
MASK = "images/primary-baseline-ct-tumor-lesion-seg/scan.mha"

pytestmark = pytest.mark.usefixtures("restored_logging")


def run(case: Path, output: Path, bundle: Path, *more: str) -> int:
    paths = ["--input", str(case), "--output", str(output), "--model", str(bundle)]
    return process.main([*paths, "--device", "cpu", "--precision", "float32", *more])


def ids_in(path: Path) -> set[int]:
    return set(np.unique(sitk.GetArrayFromImage(sitk.ReadImage(str(path)))).tolist())


@pytest.mark.parametrize(
    ("secondary", "expected"),
    [
        ((), [PRIMARY]),
        (("baseline", "followup"), [PRIMARY, SECONDARY]),
        (("baseline",), [PRIMARY]),
        (("followup",), [PRIMARY, SECONDARY]),
    ],
)
def test_each_interface_gives_one_map_per_followup_scan(
    tmp_path: Path, bundle: Path, capfd: pytest.CaptureFixture[str], secondary: tuple[str, ...], expected: list[str]
) -> None:
    case, output = write_case(tmp_path / "in", secondary=secondary), tmp_path / "out"
    assert run(case, output, bundle) == 0
    assert files_under(output) == expected
    assert ids_in(output / PRIMARY) == {0, 1}
    captured = capfd.readouterr()
    assert captured.err == ""
    assert f"read {1 + ('baseline' in secondary)} baseline scans, {len(expected)} follow-up scans" in captured.out


@pytest.mark.parametrize("content", ['{"points": []}', '{"points": null}', "{}", None])
def test_empty_followup_clicks_are_propagated_and_not_lost(tmp_path: Path, bundle: Path, content: str | None) -> None:
    case, output = write_case(tmp_path / "in"), tmp_path / "out"
    clicks = case / "primary-followup-lesion-clicks.json"
    if content is None:
        clicks.unlink()
    else:
        clicks.write_text(content)
    assert run(case, output, bundle, "--report", str(tmp_path / "report.json")) == 0
    assert ids_in(output / PRIMARY) == {0, 1}
    (lesion,) = json.loads((tmp_path / "report.json").read_text())["lesions"]
    assert lesion["propagated"] is True
    assert 0 < lesion["confidence"] < 1


def test_case_without_any_lesion_gives_an_empty_map(tmp_path: Path, bundle: Path) -> None:
    case, output = write_case(tmp_path / "in", lesions={}), tmp_path / "out"
    for time_point in ("baseline", "followup"):
        write_points(case / f"primary-{time_point}-lesion-clicks.json", [])
    assert run(case, output, bundle) == 0
    assert ids_in(output / PRIMARY) == {0}


def test_missing_baseline_is_no_prior(tmp_path: Path, bundle: Path) -> None:
    case, output = write_case(tmp_path / "in"), tmp_path / "out"
    for slug in ("primary-baseline-ct", "primary-baseline-ct-tumor-lesion-seg"):
        shutil.rmtree(case / "images" / slug)
    assert run(case, output, bundle) == 0
    assert ids_in(output / PRIMARY) == {0, 1}


def test_new_lesion_and_id_over_255_are_written(tmp_path: Path, bundle: Path) -> None:
    case = write_case(
        tmp_path / "in", baseline_clicks={"300": (4, 4, 2)}, followup_clicks={"300": (4, 4, 2)}, lesions={}
    )
    output = tmp_path / "out"
    assert run(case, output, bundle) == 0
    assert ids_in(output / PRIMARY) == {0, 300}


def test_lesion_moves_from_the_primary_to_the_secondary_scan(tmp_path: Path, bundle: Path) -> None:
    case, output = write_case(tmp_path / "in", secondary=("followup",)), tmp_path / "out"
    write_points(case / "primary-followup-lesion-clicks.json", [])
    write_points(case / "secondary-followup-lesion-clicks.json", {"1": (5, 5, 3)})
    assert run(case, output, bundle) == 0
    assert ids_in(output / PRIMARY) == {0}
    assert ids_in(output / SECONDARY) == {0, 1}


def test_click_outside_the_scan_is_reported_and_the_lesion_kept(
    tmp_path: Path, bundle: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    case, output = write_case(tmp_path / "in", followup_clicks={"1": (500, 4, 3)}), tmp_path / "out"
    assert run(case, output, bundle, "--report", str(tmp_path / "report.json")) == 0
    (lesion,) = json.loads((tmp_path / "report.json").read_text())["lesions"]
    assert lesion["click_clamped"] is True
    assert lesion["click"] == [11.0, 4.0, 3.0]
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert "outside its scan" in line


def test_padding_is_read_as_air(tmp_path: Path, bundle: Path) -> None:
    case = write_case(tmp_path / "in")
    hu = soft_tissue()
    hu[:, 0] = -3024
    write_image(case / FOLLOWUP, hu)
    assert run(case, tmp_path / "out", bundle) == 0


def test_report_holds_what_was_done(tmp_path: Path, bundle: Path) -> None:
    case = write_case(tmp_path / "in")
    assert run(case, tmp_path / "out", bundle, "--report", str(tmp_path / "reports" / "report.json")) == 0
    report = json.loads((tmp_path / "reports" / "report.json").read_text())
    assert {"read", "propagate", "sample", "network", "label", "write"} <= set(report["seconds"])
    assert report["peak_memory_bytes"] > 10_000_000
    assert {"longilesion", "torch", "SimpleITK"} <= set(report["versions"])
    (lesion,) = report["lesions"]
    assert (lesion["id"], lesion["scan"], lesion["click"], lesion["propagated"]) == (
        1,
        "primary",
        [5.0, 4.0, 3.0],
        False,
    )
    assert lesion["volume_baseline_ml"] == pytest.approx(0.02)
    assert lesion["volume_followup_ml"] > 0


# --------------------------------------------------------------------------------------------------------- bad input


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def with_nan() -> np.ndarray:
    hu = soft_tissue().astype(np.float32)
    hu[1, 2, 3] = np.nan
    return hu


def sheared() -> np.ndarray:
    direction = np.eye(3)
    direction[0, 1] = 0.3
    return direction


def set_click(case: Path, text: str) -> None:
    (case / "primary-followup-lesion-clicks.json").write_text(text)


def set_name(case: Path, *names: str) -> None:
    write_points(case / "primary-followup-lesion-clicks.json", [{"name": name, "point": [4, 4, 3]} for name in names])


BAD_CASES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing follow-up scan": (lambda case: shutil.rmtree(case / "images/primary-followup-ct"), "no follow-up scan"),
    "empty scan folder": (lambda case: (case / FOLLOWUP).unlink(), "0 images"),
    "empty mask folder": (lambda case: (case / MASK).unlink(), "0 images"),
    "mask without scan": (lambda case: shutil.rmtree(case / "images/primary-baseline-ct"), "without its scan"),
    "two images": (lambda case: shutil.copy(case / FOLLOWUP, (case / FOLLOWUP).with_name("b.mha")), "2 images"),
    "truncated image": (lambda case: truncate(case / FOLLOWUP), "truncated"),
    "unreadable image": (lambda case: (case / FOLLOWUP).write_bytes(b"no image"), "unreadable image"),
    "mask of another size": (
        lambda case: write_image(case / MASK, np.zeros((5, 10, 12), np.uint8)),
        "expected 12 x 10 x 6",
    ),
    "fractional mask": (lambda case: write_image(case / MASK, np.full(SHAPE_ZYX, 0.5, np.float32)), "fractional"),
    "2D image": (lambda case: write_image(case / FOLLOWUP, soft_tissue()[0]), "2D image"),
    "4D image": (
        lambda case: sitk.WriteImage(
            sitk.JoinSeries([sitk.GetImageFromArray(soft_tissue())] * 2), str(case / FOLLOWUP)
        ),
        "4D image",
    ),
    "RGB image": (
        lambda case: write_image(case / FOLLOWUP, np.zeros((*SHAPE_ZYX, 3), np.uint8), is_vector=True),
        "3 values per voxel",
    ),
    "sheared direction": (lambda case: write_image(case / FOLLOWUP, soft_tissue(), direction=sheared()), "orthonormal"),
    "NaN voxels": (lambda case: write_image(case / FOLLOWUP, with_nan()), "NaN"),
    "invalid JSON": (lambda case: set_click(case, '{"points": ['), "Invalid JSON"),
    "click of wrong length": (lambda case: set_click(case, '{"points": [{"name": "1", "point": [1, 2]}]}'), "point"),
    "click with NaN": (lambda case: set_click(case, '{"points": [{"name": "1", "point": [1, NaN, 3]}]}'), "finite"),
    "click with text": (lambda case: set_click(case, '{"points": [{"name": "1", "point": [1, "2", 3]}]}'), "number"),
    "duplicate ids": (lambda case: set_name(case, "4", "4"), "a second time"),
    "id 0": (lambda case: set_name(case, "0"), "lesion id 0"),
    "negative id": (lambda case: set_name(case, "-2"), "lesion id -2"),
    "id over 65535": (lambda case: set_name(case, "65536"), "lesion id 65536"),
    "unknown layout": (lambda case: (case / "images").rename(case / "pictures"), "no follow-up scan, found"),
    "broken promise": (
        lambda case: (case / "inputs.json").write_text(
            '[{"socket": {"slug": "secondary-followup-ct", "relative_path": "images/secondary-followup-ct"}}]'
        ),
        "missing",
    ),
}


@pytest.mark.parametrize("kind", BAD_CASES)
def test_bad_input_ends_in_one_line_and_writes_nothing(
    tmp_path: Path, bundle: Path, capfd: pytest.CaptureFixture[str], kind: str
) -> None:
    case, output = write_case(tmp_path / "in"), tmp_path / "out"
    spoil, finding = BAD_CASES[kind]
    spoil(case)
    assert run(case, output, bundle, "--report", str(tmp_path / "report.json")) == 1
    assert files_under(output) == []
    assert not (tmp_path / "report.json").exists()
    (line,) = capfd.readouterr().err.splitlines()
    assert finding in line
    assert "expected" in line
    assert str(case) in line


def expect_one_line(capfd: pytest.CaptureFixture[str], finding: str) -> None:
    (line,) = capfd.readouterr().err.splitlines()
    assert finding in line


def test_missing_input_folder(tmp_path: Path, bundle: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path / "in", tmp_path / "out", bundle) == 1
    expect_one_line(capfd, "no such folder")


def test_unwritable_output(tmp_path: Path, bundle: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").write_bytes(b"a file")
    assert run(write_case(tmp_path / "in"), tmp_path / "out", bundle) == 1
    expect_one_line(capfd, "expected a folder that can be written to")


def test_unwritable_report(tmp_path: Path, bundle: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_bytes(b"")
    case, output = write_case(tmp_path / "in"), tmp_path / "out"
    assert run(case, output, bundle, "--report", str(tmp_path / "file" / "report.json")) == 1
    expect_one_line(capfd, "expected a folder that can be written to")
    assert files_under(output) == []


def test_missing_bundle(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(write_case(tmp_path / "in"), tmp_path / "out", tmp_path / "model") == 1
    expect_one_line(capfd, "expected a model bundle")
    assert files_under(tmp_path / "out") == []


def test_damaged_bundle(tmp_path: Path, bundle: Path, capfd: pytest.CaptureFixture[str]) -> None:
    damaged = tmp_path / "model"
    shutil.copytree(bundle, damaged)
    truncate(damaged / "fold_0.safetensors")
    assert run(write_case(tmp_path / "in"), tmp_path / "out", damaged) == 1
    expect_one_line(capfd, "damaged")
    assert files_under(tmp_path / "out") == []


def test_unexpected_error_is_one_line_too(
    tmp_path: Path, bundle: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> Segmentation:
        raise ZeroDivisionError("first line\nsecond line")

    monkeypatch.setattr(case_run, "segment_case", fail)
    assert run(write_case(tmp_path / "in"), tmp_path / "out", bundle) == 1
    captured = capfd.readouterr()
    (line,) = captured.err.splitlines()
    assert line.startswith("unexpected ZeroDivisionError: first line second line (test_process.py, line ")
    assert "Traceback" in captured.out
    assert files_under(tmp_path / "out") == []


def test_python_warnings_do_not_mark_the_job(
    tmp_path: Path, bundle: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    segment_case = case_run.segment_case

    def warn(*arguments: object, **options: object) -> Segmentation:
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("default")
            warnings.warn("an option is deprecated", DeprecationWarning, stacklevel=1)
        return segment_case(*arguments, **options)

    monkeypatch.setattr(case_run, "segment_case", warn)
    assert run(write_case(tmp_path / "in"), tmp_path / "out", bundle) == 0
    captured = capfd.readouterr()
    assert captured.err == ""


def test_time_limit_leaves_nothing_half_written(
    tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """SIGTERM arrives when one of two maps is written."""
    case, output = write_case(tmp_path / "in", secondary=("followup",)), tmp_path / "out"
    write_lesion_map = grand_challenge.write_lesion_map
    written = []

    def write_and_stop(path: Path, *arguments: object, **options: object) -> None:
        write_lesion_map(path, *arguments, **options)
        written.extend(files_under(output))
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(grand_challenge, "write_lesion_map", write_and_stop)
    before = signal.getsignal(signal.SIGTERM)
    assert run(case, output, bundle) == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before
    assert len(written) == 1
    assert files_under(output) == []
    assert capfd.readouterr().err == "stopped by SIGTERM before the end\n"


def test_another_image_in_an_output_folder_stops_the_case_before_the_network(
    tmp_path: Path, bundle: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("longilesion.case_run.segment_case", None)
    case, other = write_case(tmp_path / "in"), (tmp_path / "out" / PRIMARY).with_name("mine.nii.gz")
    other.parent.mkdir(parents=True)
    other.write_bytes(b"mine")
    assert run(case, tmp_path / "out", bundle) == 1
    expect_one_line(capfd, f"{other}: another image")
    assert other.read_bytes() == b"mine"
    assert files_under(tmp_path / "out") == [str(other.relative_to(tmp_path / "out"))]


def test_report_that_cannot_be_written_in_the_end_does_not_cost_the_maps(
    tmp_path: Path, bundle: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, _report: object) -> None:
        raise InputError(f"{path}: cannot be written (No space left on device)")

    monkeypatch.setattr("longilesion.case_run.write_report", fail)
    case, output = write_case(tmp_path / "in"), tmp_path / "out"
    assert run(case, output, bundle, "--report", str(tmp_path / "report.json")) == 0
    expect_one_line(capfd, "No space left on device); the lesion maps are complete")
    assert files_under(output) == [PRIMARY]


def test_process_runs_as_a_program(tmp_path: Path) -> None:
    """The exit code and the last line on stderr are all that the platform sees."""
    arguments = ["--input", str(tmp_path / "in"), "--output", str(tmp_path / "out"), "--model", str(tmp_path)]
    finished = subprocess.run(
        [sys.executable, process.__file__, *arguments], capture_output=True, text=True, check=False
    )
    assert finished.returncode == 1
    assert finished.stderr.splitlines()[-1].startswith(str(tmp_path))
