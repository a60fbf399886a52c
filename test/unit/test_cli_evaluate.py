import csv
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from matplotlib.figure import Figure

from longilesion import cli
from longilesion.evaluation.run import EvaluationReport
from test.unit.case_folders import files_under, lesion_ids, write_case, write_image, write_points

pytestmark = pytest.mark.usefixtures("restored_logging")

PRIMARY = "images/primary-followup-ct-tumor-lesion-seg"
PRIMARY_BEFORE = "images/primary-baseline-ct-tumor-lesion-seg"
FRAME = {"origin_xyz_mm": (3.0, -4.0, 500.0)}

Corners = Mapping[int, Sequence[int]]
ONE: Corners = {1: (2, 4, 4)}
TWO: Corners = {1: (2, 4, 4), 2: (2, 7, 8)}


def write_map(path: Path, lesions: Corners = ONE, **geometry: object) -> Path:
    """A map with a lesion of 2 x 2 x 2 voxels, 20 cubic millimetres, at each corner."""
    return write_image(path, lesion_ids(lesions), **geometry)


def write_maps(folder: Path, exams: Mapping[str, Corners]) -> Path:
    for name, lesions in exams.items():
        write_map(folder / f"{name}.nii.gz", lesions)
    return folder


def evaluate(*arguments: object) -> int:
    # The test runner's own handlers would keep the command from setting up its own.
    logging.getLogger().handlers.clear()
    words = [str(argument) for argument in arguments]
    return cli.main(["evaluate", *words, *([] if "--draws" in words else ["--draws", "10"])])


def evaluate_model(bundle: Path, *arguments: object) -> int:
    return evaluate("--model", bundle, *arguments, "--device", "cpu", "--precision", "float32")


def refuse_constant(name: str) -> NoReturn:
    raise AssertionError(f"{name} in the JSON")


def report_in(folder: Path) -> dict[str, Any]:
    text = (folder / "evaluation.json").read_text()
    EvaluationReport.model_validate_json(text)
    report: dict[str, Any] = json.loads(text, parse_constant=refuse_constant)
    return report


def rows_in(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def expect_one_line(capfd: pytest.CaptureFixture[str], *findings: object) -> None:
    """One line that says what is wrong and what was expected, and neither a traceback nor half a result."""
    captured = capfd.readouterr()
    (line,) = captured.err.splitlines()
    for finding in findings:
        assert str(finding) in line
    assert "expected" in line
    assert captured.out == ""


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most of an evaluation's time goes into the dots of its pictures."""
    monkeypatch.setattr("longilesion.evaluation.output._DOTS_PER_INCH", 20)


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    """Two exams of two lesions each."""
    return write_maps(tmp_path / "truth", {"a": TWO, "b": TWO})


@pytest.fixture
def perfect(tmp_path: Path) -> Path:
    return write_maps(tmp_path / "perfect", {"a": TWO, "b": TWO})


@pytest.fixture
def half(tmp_path: Path) -> Path:
    """The first exam as it is, the second without its lesion 2: Dice 1 and 0.5."""
    return write_maps(tmp_path / "half", {"a": TWO, "b": ONE})


# --------------------------------------------------------------------------------------------------------- two folders


def test_two_folders_are_compared_and_the_tables_printed(
    half: Path, truth: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(half, truth) == 0
    captured = capfd.readouterr()
    assert captured.err == ""
    assert "\x1b" not in captured.out
    for text in ("Challenge score", "Means over lesions", "Detection: half", "over 10 mm", "Strata"):
        assert text in captured.out
    # (1 + 0.5) / 2; no baseline, so that nothing is said of change.
    # 0 and 10 cubic millimetres missed: 0.005 ml.
    cells = [[cell.strip() for cell in line.split("│")[1:3]] for line in captured.out.splitlines() if "│" in line]
    score = dict(row for row in cells if len(row) == 2)
    assert score["patients"] == "2"
    for name, mean in (("Dice, patients with lesions", "0.750 ["), ("false negative volume (ml)", "0.005 [")):
        assert score[name].startswith(mean)
        assert score[name].endswith("(2)")
    assert "Response" not in captured.out


def test_case_folders_with_baselines_show_change_and_response(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        write_map(tmp_path / "cases" / name / "truth" / PRIMARY / "map.mha")
        write_map(tmp_path / "cases" / name / "input" / PRIMARY_BEFORE / "map.mha")
        write_map(tmp_path / "out" / name / PRIMARY / "output.mha")
    assert evaluate(tmp_path / "out", tmp_path / "cases") == 0
    captured = capfd.readouterr()
    assert captured.err == ""
    for text in ("Change of volume", "What became of the lesions", "Response to therapy"):
        assert text in captured.out


def test_inputs_of_flat_maps(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_maps(tmp_path / "truth", {"a": ONE})
    write_maps(tmp_path / "out", {"a": ONE})
    write_maps(tmp_path / "before", {"a": TWO})
    write_points(tmp_path / "before" / "a_clicks.json", {"1": (5.0, 4.0, 2.0)})
    assert evaluate(tmp_path / "out", tmp_path / "truth", "--inputs", tmp_path / "before") == 0
    captured = capfd.readouterr()
    assert captured.err == ""
    assert "What became of the lesions" in captured.out
    assert "click error" in captured.out


def test_missing_prediction_is_said_and_counts_as_0(
    tmp_path: Path, truth: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = write_maps(tmp_path / "out", {"a": TWO})
    assert evaluate(out, truth, "--output", tmp_path / "result") == 0
    captured = capfd.readouterr()
    (line,) = captured.err.splitlines()
    assert line.startswith("WARNING: ")
    assert "no prediction for b" in line
    assert "counted as empty: 1." in captured.out
    (evaluation,) = report_in(tmp_path / "result")["evaluations"]
    assert (evaluation["challenge"]["dice"]["value"], evaluation["challenge"]["dice"]["count"]) == (0.5, 2)
    assert "no prediction for b" in (tmp_path / "result" / "evaluation.md").read_text()


def test_extra_files_are_said(perfect: Path, truth: Path, capfd: pytest.CaptureFixture[str]) -> None:
    extra = write_map(perfect / "z.mha")
    assert evaluate(perfect, truth) == 0
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"WARNING: {extra}: ")


def test_case_without_a_truth_is_said(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    # Never a silent mean over fewer cases: the folder of cases has two, and one of them cannot be scored.
    for name in ("case-a", "case-b"):
        write_map(tmp_path / "cases" / name / "input" / PRIMARY_BEFORE / "map.mha")
    write_map(tmp_path / "cases" / "case-a" / "truth" / PRIMARY / "map.mha")
    write_map(tmp_path / "out" / "case-a" / PRIMARY / "map.mha")
    assert evaluate(tmp_path / "out", tmp_path / "cases") == 0
    assert str(tmp_path / "cases" / "case-b") in capfd.readouterr().err


def test_flat_truths_beside_case_folders_are_said(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_map(tmp_path / "truth" / "a" / PRIMARY / "map.mha")
    write_maps(tmp_path / "truth", {"loose-map": ONE})
    write_map(tmp_path / "out" / "a" / PRIMARY / "map.mha")
    assert evaluate(tmp_path / "out", tmp_path / "truth") == 0
    (line,) = capfd.readouterr().err.splitlines()
    assert line.endswith("truth/loose-map.nii.gz: a label map beside case folders; left out")


def test_empty_truth_and_prediction_have_no_score(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for folder in ("truth", "out"):
        write_maps(tmp_path / folder, {"a": {}})
    assert evaluate(tmp_path / "out", tmp_path / "truth", "--output", tmp_path / "result") == 0
    assert capfd.readouterr().err == ""
    (evaluation,) = report_in(tmp_path / "result")["evaluations"]
    assert evaluation["challenge"]["dice"] == {"value": None, "low": None, "high": None, "count": 0}
    assert "nan" not in (tmp_path / "result" / "exams.csv").read_text().lower()


# ------------------------------------------------------------------------------------------------------------ matching


def test_other_ids_count_by_overlap_only(tmp_path: Path, truth: Path) -> None:
    # The two lesions with each other's ids, and ids over 255.
    swapped = {2: (2, 4, 4), 1: (2, 7, 8)}
    out = write_maps(tmp_path / "out", {"a": swapped, "b": {300: (2, 4, 4), 301: (2, 7, 8)}})
    found = {}
    for matching in ("id", "overlap"):
        result = tmp_path / matching
        assert evaluate(out, truth, "--matching", matching, "--output", result) == 0
        report = report_in(result)
        assert report["settings"]["matching"] == matching
        found[matching] = report["evaluations"][0]
    assert found["id"]["lesion_means"]["dice"]["value"] == 0.0
    assert found["overlap"]["lesion_means"]["dice"]["value"] == 1.0
    # The challenge never asks for ids.
    assert [each["challenge"]["dice"]["value"] for each in found.values()] == [1.0, 1.0]


def test_components_count_in_detection_where_labels_have_no_meaning(tmp_path: Path) -> None:
    # All lesions under one label, as of a binary map.
    binary = (lesion_ids(TWO) > 0).astype(np.uint8)
    write_maps(tmp_path / "truth", {"a": TWO})
    write_image(tmp_path / "out" / "a.mha", binary)
    found = {}
    for instances in ("labels", "components"):
        result = tmp_path / instances
        assert evaluate(tmp_path / "out", tmp_path / "truth", "--instances", instances, "--output", result) == 0
        found[instances] = report_in(result)["evaluations"][0]["detection"][0]["f1"]["value"]
    # One label overlaps each lesion by 8 / 16 and finds one or both; as components, both are found.
    assert found["components"] == 1.0


# -------------------------------------------------------------------------------------------------------------- output


@pytest.fixture
def written(tmp_path: Path, half: Path, perfect: Path, truth: Path) -> Path:
    result = tmp_path / "deep" / "result"
    assert evaluate(half, truth, "--against", perfect, "--output", result) == 0
    return result


def test_all_files_of_an_evaluation_are_written(written: Path) -> None:
    names = files_under(written)
    assert {"evaluation.json", "evaluation.md", "exams.csv", "lesions.csv"} <= set(names)
    pictures = [name for name in names if name.endswith(".png")]
    assert {"dice_by_diameter.png", "volume_bland_altman.png", "froc.png"} <= set(pictures)
    for name in pictures:
        assert (written / name).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert len(names) == 4 + len(pictures)


def test_markdown_shows_every_picture_and_table(written: Path) -> None:
    text = (written / "evaluation.md").read_text()
    for path in written.glob("*.png"):
        assert f"({path.name})" in text
    for title in ("Challenge score", "Means over lesions", "Strata", "Paired differences"):
        assert f"## {title}" in text
    tables = [part.splitlines() for part in text.split("\n\n") if part.startswith("|")]
    assert len(tables) >= 4
    for heading, *rows in tables:
        assert {row.count("|") for row in rows} == {heading.count("|")}


def test_json_holds_every_exam_and_lesion_of_every_method(written: Path) -> None:
    report = report_in(written)
    assert (report["draws"], report["seed"]) == (10, 0)
    first, second = report["evaluations"]
    assert (first["name"], second["name"]) == ("half", "perfect")
    assert [exam["dice"] for exam in first["exams"]] == [1.0, 0.5]
    assert [(lesion["exam"], lesion["lesion_id"], lesion["dice"]) for lesion in first["lesions"]] == [
        ("a", 1, 1.0),
        ("a", 2, 1.0),
        ("b", 1, 1.0),
        ("b", 2, 0.0),
    ]
    assert [(each["name"], each["score"]) for each in report["ranks"]] == [("perfect", 1.125), ("half", 1.875)]
    (dice,) = [each for each in report["differences"] if each["value"] == "dice"]
    # 1 - 1 and 0.5 - 1.
    assert dice["difference"]["value"] == -0.25


def test_tables_of_exams_and_lesions_have_a_row_per_method_and_exam_or_lesion(written: Path) -> None:
    exams = rows_in(written / "exams.csv")
    assert [(row["method"], row["exam"]) for row in exams] == [
        ("half", "a"),
        ("half", "b"),
        ("perfect", "a"),
        ("perfect", "b"),
    ]
    assert [float(row["dice"]) for row in exams] == [1.0, 0.5, 1.0, 1.0]
    assert [float(row["false_negative_ml"]) for row in exams] == pytest.approx([0.0, 0.01, 0.0, 0.0])
    lesions = rows_in(written / "lesions.csv")
    assert len(lesions) == 8
    assert [float(row["dice"]) for row in lesions] == [1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0]
    # 8 voxels of 1 x 1 x 2.5 mm.
    assert {float(row["true_volume_ml"]) for row in lesions} == {0.02}
    for row in (*exams, *lesions):
        assert None not in row
        assert None not in row.values()


def test_table_of_exams_holds_the_response(tmp_path: Path) -> None:
    write_map(tmp_path / "cases" / "a" / "truth" / PRIMARY / "map.mha", {1: (2, 4, 4)})
    write_map(tmp_path / "cases" / "b" / "truth" / PRIMARY / "map.mha", {1: (2, 4, 4)})
    write_map(tmp_path / "cases" / "a" / "input" / PRIMARY_BEFORE / "map.mha", {})
    for name in ("a", "b"):
        write_map(tmp_path / "out" / name / PRIMARY / "map.mha")
    assert evaluate(tmp_path / "out", tmp_path / "cases", "--output", tmp_path / "result") == 0
    first, second = rows_in(tmp_path / "result" / "exams.csv")
    # Lesion 1 is new in a; nothing is known of the time before in b.
    assert (first["response_true_response"], first["response_predicted_response"]) == ("PD", "PD")
    assert second["response_true_response"] == ""
    # No column without a value in any row, such as the parent of those.
    assert "response" not in first


def test_evaluation_is_written_again_over_an_older_one(half: Path, truth: Path, tmp_path: Path) -> None:
    for _ in range(2):
        assert evaluate(half, truth, "--output", tmp_path / "result") == 0
    assert len(report_in(tmp_path / "result")["evaluations"]) == 1


def test_output_that_is_a_file(half: Path, truth: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "result").write_text("mine")
    assert evaluate(half, truth, "--output", tmp_path / "result") == 1
    expect_one_line(capfd, tmp_path / "result", "a folder that can be written to")
    assert (tmp_path / "result").read_text() == "mine"


def test_nothing_is_left_where_the_last_file_cannot_be_written(
    half: Path, truth: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(self: Figure, target: Path, **options: object) -> None:
        Path(target).write_bytes(b"half a picture")
        raise OSError(28, "No space left on device", str(target))

    monkeypatch.setattr(Figure, "savefig", no_space)
    assert evaluate(half, truth, "--output", tmp_path / "result") == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert "No space left on device" in line
    assert files_under(tmp_path / "result") == []


@pytest.mark.parametrize("name", ["evaluation.json", "lesions.csv", "froc.png"])
def test_nothing_is_left_where_a_folder_is_in_the_way_of_a_file(
    half: Path, truth: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    (tmp_path / "result" / name).mkdir(parents=True)
    assert evaluate(half, truth, "--output", tmp_path / "result") == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert name in line
    assert files_under(tmp_path / "result") == []


def test_nothing_is_written_where_a_prediction_cannot_be_used(
    half: Path, truth: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write_map(half / "b.nii.gz", TWO, origin_xyz_mm=(0.0, 0.0, 50.0))
    assert evaluate(half, truth, "--output", tmp_path / "result") == 1
    expect_one_line(capfd, path)
    assert files_under(tmp_path / "result") == []


@pytest.mark.parametrize("name", ["out[v2]", "[bold]out", "[out]", "out|v2"])
def test_folder_name_that_a_table_could_take_for_markup(
    tmp_path: Path, truth: Path, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    out = write_maps(tmp_path / name, {"a": TWO, "b": TWO})
    assert evaluate(out, truth, "--output", tmp_path / "result") == 0
    lines = capfd.readouterr().out.splitlines()
    assert any(line.startswith("│") and name in line for line in lines)
    assert any(line.startswith("┃") and name in line for line in lines)
    (row,) = [line for line in (tmp_path / "result" / "exams.csv").read_text().splitlines() if ",a," in line]
    assert row.startswith(name)
    # A bar would end the cell.
    assert name.replace("|", "\\|") in (tmp_path / "result" / "evaluation.md").read_text()


def test_folder_of_results_whose_name_could_be_taken_for_markup(
    tmp_path: Path, perfect: Path, truth: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(perfect, truth, "--output", tmp_path / "result[v3]") == 0
    assert str(tmp_path / "result[v3]" / "evaluation.json") in capfd.readouterr().out.splitlines()


# ----------------------------------------------------------------------------------------------------- several methods


def test_two_others_are_compared_with_the_first_and_each_other(
    tmp_path: Path, half: Path, perfect: Path, truth: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    empty = write_maps(tmp_path / "empty", {"a": {}, "b": {}})
    result = tmp_path / "result"
    assert evaluate(half, truth, "--against", perfect, "--against", empty, "--output", result) == 0
    captured = capfd.readouterr()
    assert captured.err == ""
    assert "Paired differences" in captured.out
    assert "rank score" in captured.out
    report = report_in(result)
    assert [each["name"] for each in report["evaluations"]] == ["half", "perfect", "empty"]
    # Dice 0.75, 1 and 0: ranks 2, 1, 3. False positives: none at all, ranks 2, 2, 2. False negatives 0.005, 0 and 0.02:
    # ranks 2, 1, 3.
    assert {each["name"]: each["score"] for each in report["ranks"]} == {"perfect": 1.25, "half": 2.0, "empty": 2.75}
    dice = {(each["first"], each["second"]): each for each in report["differences"] if each["value"] == "dice"}
    assert {pair: each["difference"]["value"] for pair, each in dice.items()} == {
        ("half", "perfect"): -0.25,
        ("half", "empty"): 0.75,
        ("perfect", "empty"): 1.0,
    }


def test_two_copies_of_one_result_differ_by_nothing(
    tmp_path: Path, perfect: Path, truth: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    copy = write_maps(tmp_path / "copy", {"a": TWO, "b": TWO})
    assert evaluate(perfect, truth, "--against", copy, "--output", tmp_path / "result") == 0
    assert capfd.readouterr().err == ""
    for each in report_in(tmp_path / "result")["differences"]:
        assert (each["difference"]["value"], each["p_value"]) == (0.0, None)


def test_folders_of_equal_names_are_called_by_their_paths(tmp_path: Path, truth: Path) -> None:
    first, second = (write_maps(tmp_path / side / "out", {"a": TWO, "b": TWO}) for side in ("first", "second"))
    third = write_maps(tmp_path / "third", {"a": TWO, "b": TWO})
    result = tmp_path / "result"
    assert evaluate(first, truth, "--against", second, "--against", third, "--output", result) == 0
    assert [each["name"] for each in report_in(result)["evaluations"]] == [str(first), str(second), "third"]


def test_one_folder_twice(half: Path, perfect: Path, truth: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert evaluate(perfect, truth, "--against", perfect) == 1
    expect_one_line(capfd, f"{perfect}: given twice")
    # The one that is given twice is named, and not the first.
    assert evaluate(half, truth, "--against", perfect, "--against", perfect) == 1
    expect_one_line(capfd, f"{perfect}: given twice")


def test_one_folder_twice_in_two_spellings(
    perfect: Path, truth: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(perfect.parent)
    assert evaluate(perfect, truth, "--against", perfect.name) == 1
    expect_one_line(capfd, "given twice")


def test_missing_folder_to_compare_with(perfect: Path, truth: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert evaluate(perfect, truth, "--against", perfect.parent / "nowhere") == 1
    expect_one_line(capfd, perfect.parent / "nowhere", "no such folder")


# --------------------------------------------------------------------------------------------------- interactive steps


def test_predictions_without_clicks_are_the_first_step(
    half: Path, perfect: Path, truth: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(perfect, truth, "--without-clicks", half, "--output", tmp_path / "result") == 0
    captured = capfd.readouterr()
    assert captured.err == ""
    assert "Interactive steps" in captured.out
    report = report_in(tmp_path / "result")
    (dice,) = [step for step in report["interaction"] if step["value"] == "dice"]
    # 0.75 without and 1 with.
    assert [dice[step]["value"] for step in ("without_clicks", "with_clicks", "area")] == [0.75, 1.0, 0.875]
    # The step is a result of the same method and no competitor.
    assert (report["ranks"], report["differences"]) == ([], [])


def test_a_competitor_that_is_called_as_the_first_step_would_be(
    half: Path, perfect: Path, truth: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    other = write_maps(tmp_path / "perfect without clicks", {"a": {}, "b": {}})
    result = tmp_path / "result"
    assert evaluate(perfect, truth, "--against", other, "--without-clicks", half, "--output", result) == 0
    report = report_in(result)
    (dice,) = [step for step in report["interaction"] if step["value"] == "dice"]
    assert dice["without_clicks"]["value"] == 0.75
    assert len(report["evaluations"]) == 3


# -------------------------------------------------------------------------------------------------------------- models


@pytest.fixture
def cases(tmp_path: Path) -> Path:
    """A case with its truth beside it; the model of random weights outlines what it is asked for."""
    case = tmp_path / "cases" / "a"
    write_case(
        case / "input",
        baseline_clicks={"1": (4.5, 4.5, 2.5)},
        followup_clicks={"1": (5.0, 4.0, 3.0)},
    )
    write_map(case / "truth" / PRIMARY / "map.mha", **FRAME)
    return tmp_path / "cases"


def test_model_segments_the_cases_first(
    bundle: Path, cases: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert evaluate_model(bundle, cases, "--output", tmp_path / "result") == 0
    captured = capfd.readouterr()
    assert captured.err == ""
    assert "Challenge score" in captured.out
    report = report_in(tmp_path / "result")
    (evaluation,) = report["evaluations"]
    assert evaluation["name"] == bundle.name
    assert evaluation["has_presence"] is True
    (lesion,) = evaluation["lesions"]
    assert 0 <= lesion["presence"] <= 1
    assert lesion["fate"] == "persists"
    assert lesion["predicted_volume_ml"] > 0
    # 1 mm and 1 mm and 2.5 mm: the click is 0.5, 0.5 and 0.5 voxels off the centre (4.5, 4.5, 2.5).
    assert lesion["click_error_mm"] == pytest.approx((0.25 + 0.25 + 1.5625) ** 0.5)
    assert report["interaction"] == []


def test_model_at_both_interactive_steps(
    bundle: Path, cases: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert evaluate_model(bundle, cases, "--steps", "--output", tmp_path / "result") == 0
    captured = capfd.readouterr()
    assert captured.err == ""
    assert "Interactive steps" in captured.out
    dice = report_in(tmp_path / "result")["interaction"][0]
    assert dice["area"]["value"] == pytest.approx((dice["without_clicks"]["value"] + dice["with_clicks"]["value"]) / 2)


def test_model_against_predictions_of_another_method(
    bundle: Path, cases: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_map(tmp_path / "out" / "a.mha", **FRAME)
    assert evaluate_model(bundle, cases, "--against", tmp_path / "out", "--output", tmp_path / "result") == 0
    assert capfd.readouterr().err == ""
    report = report_in(tmp_path / "result")
    assert [each["name"] for each in report["evaluations"]] == [bundle.name, "out"]
    assert report["evaluations"][1]["challenge"]["dice"]["value"] == 1.0


def test_first_step_knows_nothing_of_clicks(bundle: Path, cases: Path, tmp_path: Path) -> None:
    assert evaluate_model(bundle, cases, "--steps", "--output", tmp_path / "result") == 0
    rows = rows_in(tmp_path / "result" / "lesions.csv")
    last_step, first_step = sorted({row["method"] for row in rows}, key=len)
    assert first_step == f"{last_step} without clicks"
    assert {row["click_error_mm"] for row in rows if row["method"] == first_step} == {""}
    assert any(row["click_error_mm"] for row in rows if row["method"] == last_step)


def test_predictions_as_their_own_first_step(perfect: Path, truth: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert evaluate(perfect, truth, "--without-clicks", perfect) == 1
    expect_one_line(capfd, perfect, "given twice")


def test_interrupted_evaluation_ends_in_one_line(
    perfect: Path, truth: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr("longilesion.evaluation.run.score_exam", interrupt)
    assert evaluate(perfect, truth) == 130
    assert capfd.readouterr().err == "interrupted\n"


def test_model_beside_predictions_without_clicks(
    bundle: Path, cases: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    # Refused, never ignored: a model segments without clicks itself.
    write_map(tmp_path / "out" / "a.mha", **FRAME)
    assert evaluate_model(bundle, cases, "--without-clicks", tmp_path / "out") == 1
    expect_one_line(capfd, "--without-clicks with --model", "--steps")


def test_missing_model(cases: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert evaluate_model(tmp_path / "nowhere", cases) == 1
    expect_one_line(capfd, tmp_path / "nowhere", "expected a model")


def test_folder_that_is_no_model(cases: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    # Not scored as predictions in silence: --model promises that the cases are segmented.
    write_map(tmp_path / "out" / "a.mha", **FRAME)
    assert evaluate_model(tmp_path / "out", cases) == 1
    expect_one_line(capfd, tmp_path / "out", "expected a model")


def test_model_without_cases_to_segment(bundle: Path, truth: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert evaluate_model(bundle, truth) == 1
    expect_one_line(capfd, "expected a case to segment")


def test_case_whose_scan_cannot_be_read(bundle: Path, cases: Path, capfd: pytest.CaptureFixture[str]) -> None:
    scan = cases / "a" / "input" / "images" / "primary-followup-ct" / "scan.mha"
    scan.write_bytes(scan.read_bytes()[:-50])
    assert evaluate_model(bundle, cases) == 1
    expect_one_line(capfd, scan)


# --------------------------------------------------------------------------------------------------------- wrong usage


def test_neither_a_truth_nor_a_model(perfect: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert evaluate(perfect) == 1
    expect_one_line(capfd, "PREDICTIONS and TRUTH", "--model")


def test_both_a_truth_and_a_model(bundle: Path, perfect: Path, truth: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert evaluate_model(bundle, perfect, truth) == 1
    expect_one_line(capfd, "PREDICTIONS and TRUTH", "--model")


def test_steps_without_a_model(perfect: Path, truth: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert evaluate(perfect, truth, "--steps") == 1
    expect_one_line(capfd, "--steps without --model", "--without-clicks")


@pytest.mark.parametrize("arguments", [[], ["out", "truth", "--matching", "size"], ["out", "truth", "--draws", "many"]])
def test_arguments_that_are_no_such_options(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["evaluate", *arguments])
    assert stopped.value.code == 2
    assert capfd.readouterr().err != ""


@pytest.mark.parametrize(
    ("option", "value"),
    [("draws", -1), ("draws", 0), ("seed", -1), ("tolerance-mm", -1.0), ("detection-iou", 2.0), ("detection-iou", 0.0)],
)
def test_numbers_out_of_their_range(
    perfect: Path, truth: Path, capfd: pytest.CaptureFixture[str], option: str, value: float
) -> None:
    assert evaluate(perfect, truth, f"--{option}", value) == 1
    expect_one_line(capfd, f"--{option} {value:g}")


def test_a_single_draw(perfect: Path, truth: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert evaluate(perfect, truth, "--draws", 1) == 0
    assert capfd.readouterr().err == ""


def test_missing_folders(perfect: Path, truth: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert evaluate(tmp_path / "nowhere", truth) == 1
    expect_one_line(capfd, tmp_path / "nowhere", "no such folder")
    assert evaluate(perfect, tmp_path / "nowhere") == 1
    expect_one_line(capfd, tmp_path / "nowhere", "no such folder")
    assert evaluate(perfect, truth, "--inputs", tmp_path / "nowhere") == 1
    expect_one_line(capfd, tmp_path / "nowhere", "no such folder")


def test_nothing_to_score(perfect: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert evaluate(perfect, tmp_path / "empty") == 1
    expect_one_line(capfd, tmp_path / "empty", "found nothing")
    assert evaluate(tmp_path / "empty", perfect) == 1
    expect_one_line(capfd, tmp_path / "empty", "no prediction for any")


@pytest.mark.parametrize("table", ["lesion_id,topology_class\n1\n", "lesion_id,topology_class\nnan,UNCHANGED\n"])
def test_broken_lesion_table(perfect: Path, truth: Path, capfd: pytest.CaptureFixture[str], table: str) -> None:
    (truth / "a.csv").write_text(table)
    assert evaluate(perfect, truth) == 1
    expect_one_line(capfd, truth / "a.csv", "line 2")


def test_table_that_contradicts_the_maps_is_said_and_the_maps_decide(
    perfect: Path, truth: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (truth / "a.csv").write_text("lesion_id,topology_class\n1,DISAPPEARING\n2,UNCHANGED\n3,UNCHANGED\n")
    assert evaluate(perfect, truth, "--output", tmp_path / "result") == 0
    first, second = capfd.readouterr().err.splitlines()
    assert "lesion 1" in first
    assert "gone" in first
    assert "lesion 3" in second
    (evaluation,) = report_in(tmp_path / "result")["evaluations"]
    assert evaluation["lesion_means"]["dice"]["value"] == 1.0


def test_help_says_what_folders_hold(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["evaluate", "--help"])
    assert stopped.value.code == 0
    text = " ".join(capfd.readouterr().out.split())
    for word in ("PREDICTIONS", "TRUTH", "--model", "--without-clicks", "--against", "--matching", "--output"):
        assert word in text


def test_picture_of_an_earlier_run_does_not_stay(tmp_path: Path) -> None:
    for folder in ("truth", "out"):
        write_map(tmp_path / folder / "a.mha")
    results = tmp_path / "results"
    results.mkdir()
    (results / "presence_roc.png").write_bytes(b"of an earlier run, which had run reports")
    (results / "own.png").write_bytes(b"somebody's")
    assert evaluate(tmp_path / "out", tmp_path / "truth", "--output", results) == 0
    assert not (results / "presence_roc.png").exists()
    assert (results / "own.png").read_bytes() == b"somebody's"
