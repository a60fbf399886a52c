from __future__ import annotations

import csv
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from longilesion import cli
from longilesion.diagnosis_settings import STATEMENT
from longilesion.evaluation.diagnosis_run import DiagnosisEvaluation
from test.unit.case_folders import files_under, write_image
from test.unit.diagnoses import PLACES, Lesions, diagnosis, label_map, write_diagnosis, write_true_exam

pytestmark = pytest.mark.usefixtures("restored_logging")

TRUE: dict[str, Lesions] = {
    "first": {1: (PLACES[0], "hcc"), 2: (PLACES[1], "cyst")},
    "second": {4: (PLACES[2], "fnh")},
    "third": {},
}


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    for name, lesions in TRUE.items():
        write_true_exam(tmp_path / "truth" / name, lesions)
    return tmp_path / "truth"


def write_diagnoses(folder: Path, found: dict[str, Lesions]) -> Path:
    for name, lesions in found.items():
        write_diagnosis(folder / name, diagnosis(lesions))
    return folder


@pytest.fixture
def perfect(tmp_path: Path) -> Path:
    return write_diagnoses(tmp_path / "perfect", TRUE)


def evaluate(*arguments: object) -> int:
    # The test runner's own handlers would keep the command from setting up its own.
    logging.getLogger().handlers.clear()
    words = [str(argument) for argument in arguments]
    return cli.main(["evaluate-diagnosis", *words, *([] if "--draws" in words else ["--draws", "10"])])


def report_in(folder: Path) -> DiagnosisEvaluation:
    return DiagnosisEvaluation.model_validate_json((folder / "figures.json").read_text())


def rows_in(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_files_of_an_evaluation(tmp_path: Path, truth: Path, perfect: Path, capfd: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "scores"
    assert evaluate(perfect, truth, "--output", output) == 0
    assert sorted(files_under(output)) == ["figures.json", "figures.md", "lesions.csv", "patients.csv"]
    (method,) = report_in(output).methods
    assert {estimate.value for estimate in method.figures.lesions.values()} == {1.0}
    assert [exam.name for exam in method.exams] == sorted(TRUE)
    patients, lesions = rows_in(output / "patients.csv"), rows_in(output / "lesions.csv")
    assert [(row["exam"], row["types"], row["found_lesions"], row["patient_hcc"]) for row in patients] == [
        ("first", "hcc cyst", "2", "0.9"),
        ("second", "fnh", "1", "0.1"),
        ("third", "", "0", "0.1"),
    ]
    assert [(row["exam"], row["true_id"], row["predicted_type"], row["probabilities_fnh"]) for row in lesions] == [
        ("first", "1", "hcc", "0.01"),
        ("first", "2", "cyst", "0.01"),
        ("second", "4", "fnh", "0.93"),
    ]
    assert {row["statement"] for row in (*patients, *lesions)} == {STATEMENT}
    assert report_in(output).statement == STATEMENT
    assert STATEMENT in (output / "figures.md").read_text()
    printed = capfd.readouterr()
    assert STATEMENT in printed.out
    assert "1.000" in printed.out
    assert printed.err == ""


def test_another_method_is_compared(tmp_path: Path, truth: Path, perfect: Path) -> None:
    worse = write_diagnoses(tmp_path / "worse", {**TRUE, "first": {}})
    assert evaluate(perfect, truth, "--against", worse, "--output", tmp_path / "scores") == 0
    report = report_in(tmp_path / "scores")
    assert [method.name for method in report.methods] == ["perfect", "worse"]
    (difference,) = report.differences
    assert (difference.first, difference.second) == ("perfect", "worse")
    assert difference.lesions["sensitivity"].value == pytest.approx(2 / 3)
    assert difference.lesions["dice"].value == 0.5
    assert "perfect - worse" in (tmp_path / "scores" / "figures.md").read_text()


def test_seed_and_draws_decide_the_intervals(tmp_path: Path, truth: Path) -> None:
    found = write_diagnoses(tmp_path / "found", {**TRUE, "second": {}})
    for name, seed in (("one", 1), ("same", 1), ("other", 2)):
        assert evaluate(found, truth, "--output", tmp_path / name, "--seed", seed, "--draws", "7") == 0
    one, same, other = (report_in(tmp_path / name) for name in ("one", "same", "other"))
    assert one == same
    assert one.methods != other.methods


def test_prediction_of_no_exam_is_said(
    tmp_path: Path, truth: Path, perfect: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_diagnosis(perfect / "fourth", diagnosis({}))
    assert evaluate(perfect, truth) == 0
    assert capfd.readouterr().err == f"WARNING: {perfect / 'fourth'}: belongs to no exam; left out\n"


def test_of_equal_probabilities_the_reported_type_counts(tmp_path: Path, truth: Path, perfect: Path) -> None:
    changed_lesion(probabilities={"hcc": 0.5, "fnh": 0.5})(truth, perfect)
    assert evaluate(perfect, truth, "--output", tmp_path / "scores") == 0
    assert report_in(tmp_path / "scores").methods[0].exams[1].lesions[0].predicted_type == "fnh"


def test_one_exam_has_no_intervals(tmp_path: Path, perfect: Path) -> None:
    write_true_exam(tmp_path / "truth" / "first", TRUE["first"])
    assert evaluate(perfect, tmp_path / "truth", "--output", tmp_path / "scores") == 0
    figures = report_in(tmp_path / "scores").methods[0].figures
    assert {(each.value, each.low, each.high) for each in figures.lesions.values()} == {(1.0, None, None)}
    assert {each.value for each in figures.patient.values()} == {None}
    assert "| AUC-8 |  | - (0) |" in (tmp_path / "scores" / "figures.md").read_text()


# ---------------------------------------------------------------------------------------------------------- bad input
def changed_json(path: Path, change: Callable[[Any], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def changed_lesion(**values: object) -> Callable[[Path, Path], None]:
    return lambda truth, found: changed_json(
        found / "second" / "report.json", lambda report: report["lesions"][0].update(values)
    )


def changed_report(**values: object) -> Callable[[Path, Path], None]:
    return lambda truth, found: changed_json(found / "first" / "report.json", lambda report: report.update(values))


def changed_types(**values: object) -> Callable[[Path, Path], None]:
    return lambda truth, found: changed_json(truth / "second" / "lesions.json", lambda types: types.update(values))


def on_another_grid(truth: Path, found: Path) -> None:
    write_image(
        found / "second" / "lesions.nii.gz", label_map(TRUE["second"]).compact_ids, spacing_xyz_mm=(1.0, 1.0, 3.0)
    )


def with_another_shape(truth: Path, found: Path) -> None:
    write_image(found / "second" / "lesions.nii.gz", np.zeros((5, 10, 12), np.uint8))


@pytest.mark.parametrize(
    ("change", "findings"),
    [
        (lambda truth, found: (found / "second" / "report.json").unlink(), ["perfect: no diagnosis of second"]),
        (lambda truth, found: (found / "second" / "lesions.nii.gz").unlink(), ["second/lesions.nii.gz"]),
        (lambda truth, found: (truth / "second" / "lesions.json").unlink(), ["second/lesions.json"]),
        (on_another_grid, ["perfect/second/lesions.nii.gz", "truth/second/lesions.nii.gz"]),
        (with_another_shape, ["perfect/second/lesions.nii.gz", "truth/second/lesions.nii.gz"]),
        (changed_lesion(lesion_id=5), ["second/report.json", "[5]", "[4]"]),
        (changed_report(lesions=[]), ["first/report.json", "[]", "[1, 2]"]),
        (changed_lesion(type="hepatoma"), ["second/report.json", "lesions.0.type"]),
        (changed_lesion(type="hcc"), ["second/report.json: lesion 4", "hcc"]),
        (changed_lesion(probabilities={}), ["second/report.json: lesion 4"]),
        (changed_lesion(score=1.5), ["second/report.json: lesion 4: score 1.5"]),
        (changed_report(patient={"hcc": float("nan")}), ["first/report.json: patient: hcc nan"]),
        (changed_report(by_volume={"cyst": -0.1}), ["first/report.json: by_volume: cyst -0.1"]),
        (changed_report(patient={"hepatoma": 0.1}), ["first/report.json", "patient.hepatoma"]),
        (changed_types(**{"9": {"type": "hcc"}}), ["second/lesions.json", "[4, 9]", "[4]"]),
        (changed_types(**{"4": {"type": "hepatoma"}}), ["second/lesions.json", "4.type"]),
    ],
)
def test_what_cannot_be_used(
    truth: Path,
    perfect: Path,
    capfd: pytest.CaptureFixture[str],
    change: Callable[[Path, Path], None],
    findings: list[str],
) -> None:
    change(truth, perfect)
    assert evaluate(perfect, truth, "--output", truth.parent / "scores") == 1
    captured = capfd.readouterr()
    (line,) = captured.err.splitlines()
    for finding in [*findings, "expected"]:
        assert finding in line
    assert captured.out == ""
    assert files_under(truth.parent / "scores") == []


@pytest.mark.parametrize(
    ("arguments", "finding"),
    [
        (["perfect", "nowhere"], "nowhere"),
        (["nowhere", "truth"], "nowhere"),
        (["truth", "perfect"], "perfect: no exam"),
        (["perfect", "truth", "--against", "perfect"], "given twice"),
        (["perfect", "truth", "--draws", "0"], "--draws 0"),
        (["perfect", "truth", "--seed", "-1"], "--seed -1"),
    ],
)
def test_arguments_that_cannot_be_used(
    truth: Path,
    perfect: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    finding: str,
) -> None:
    monkeypatch.chdir(truth.parent)
    assert evaluate(*arguments) == 1
    captured = capfd.readouterr()
    (line,) = captured.err.splitlines()
    assert finding in line
    assert "expected" in line
    assert captured.out == ""
