import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from longilesion.ensemble import load_ensemble
from longilesion.errors import InputError
from longilesion.evaluation.exam import Exam, Prediction, ScoringSettings
from longilesion.evaluation.folders import ExamFiles, find_exams, find_predictions
from longilesion.evaluation.methods import FilesMethod, ModelMethod
from longilesion.evaluation.reading import read_exam, read_prediction
from longilesion.evaluation.run import EvaluationReport, evaluate_methods
from longilesion.evaluation.summary import Evaluation
from longilesion.report import LesionReport, RunReport, write_report
from test.unit.case_folders import lesion_ids, write_case, write_image, write_points

PRIMARY = "images/primary-followup-ct-tumor-lesion-seg"
SECONDARY = "images/secondary-followup-ct-tumor-lesion-seg"
PRIMARY_BEFORE = "images/primary-baseline-ct-tumor-lesion-seg"

Corners = Mapping[int, Sequence[int]]
ONE: Corners = {1: (2, 4, 4)}
TWO: Corners = {1: (2, 4, 4), 2: (2, 7, 8)}


def write_map(path: Path, lesions: Corners = ONE, **geometry: object) -> Path:
    """A map with a lesion of 2 x 2 x 2 voxels, 20 cubic millimetres, at each corner."""
    return write_image(path, lesion_ids(lesions), **geometry)


def write_run_report(path: Path, presence: Mapping[int, float], merged_into: Mapping[int, int] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lesions = [
        LesionReport(
            id=lesion_id,
            scan="primary",
            click=(0.0, 0.0, 0.0),
            click_xyz_mm=(0.0, 0.0, 0.0),
            click_clamped=False,
            propagated=False,
            confidence=1.0,
            presence=sure,
            probability=1.0,
            volume_baseline_ml=None,
            volume_followup_ml=0.0,
            note="",
            merged_into=(merged_into or {}).get(lesion_id),
        )
        for lesion_id, sure in presence.items()
    ]
    report = RunReport(
        versions={}, seconds={}, peak_memory_bytes=0, peak_gpu_memory_bytes=None, lesions=lesions, left_out=[]
    )
    write_report(path, report)
    return path


def exam_in(folder: Path, *, inputs: Path | None = None) -> Exam:
    (files,) = find_exams(folder, inputs=inputs)
    exam, warnings = read_exam(files)
    assert warnings == []
    return exam


def read_all(folder: Path, truth: Path) -> dict[str, Prediction]:
    exams = find_exams(truth)
    found, extra = find_predictions(folder, exams)
    assert extra == []
    read = {files.name: read_exam(files)[0] for files in exams}
    return {name: read_prediction(files, read[name]) for name, files in found.items()}


def evaluated(predictions: Path, truth: Path) -> Evaluation:
    exams = find_exams(truth)
    run = evaluate_methods(exams, [FilesMethod.of(predictions, exams, name="m")], ScoringSettings(), draws=10)
    # The report can be written and read back, whatever was in the folders.
    assert EvaluationReport.model_validate_json(run.report.model_dump_json()) == run.report
    return run.report.evaluations[0]


def voxels_of(prediction: Prediction, scan: str = "primary") -> dict[int, int]:
    ids, counts = np.unique(prediction.maps[scan].ids, return_counts=True)
    return {number: count for number, count in zip(ids.tolist(), counts.tolist(), strict=True) if number}


def refusal(act: Callable[[], object], path: Path) -> str:
    with pytest.raises(InputError, match="expected") as refused:
        act()
    message = str(refused.value)
    assert str(path) in message
    assert "\n" not in message
    # A place that the message cannot name is left out, and does not stand there as nothing between two colons.
    assert ": :" not in message
    return message


# ------------------------------------------------------------------------------------------------- flat label maps


def test_maps_of_one_name_belong_together_whatever_their_formats(tmp_path: Path) -> None:
    for name, theirs, ours in (("a", ".nii.gz", ".mha"), ("b", ".mha", ".nrrd"), ("c", ".nrrd", ".nii.gz")):
        write_map(tmp_path / "truth" / f"{name}{theirs}", origin_xyz_mm=(-20.5, 31.25, 900.0))
        write_map(tmp_path / "out" / f"{name}{ours}", TWO, origin_xyz_mm=(-20.5, 31.25, 900.0))
    exams = find_exams(tmp_path / "truth")
    assert [exam.name for exam in exams] == ["a", "b", "c"]
    assert [exam.case for exam in exams] == [None, None, None]
    method = FilesMethod.of(tmp_path / "out", exams, name="m")
    assert method.warnings == []
    for files in exams:
        exam, warnings = read_exam(files)
        assert warnings == []
        assert (exam.baseline, dict(exam.clicks), list(exam.truth)) == (None, {}, ["primary"])
        assert voxels_of(method.predict(files, exam)) == {1: 8, 2: 8}


@pytest.mark.parametrize("suffix", [".mhd", ".nii", ".NII.GZ"])
def test_other_formats_that_are_read(tmp_path: Path, suffix: str) -> None:
    path = write_map(tmp_path / "out" / f"a{suffix.lower()}", spacing_xyz_mm=(1, 1, 1))
    path.rename(path.with_name(f"a{suffix}"))
    write_map(tmp_path / "truth" / "a.mha", spacing_xyz_mm=(1, 1, 1))
    assert voxels_of(read_all(tmp_path / "out", tmp_path / "truth")["a"]) == {1: 8}


def test_names_with_dots_and_spaces(tmp_path: Path) -> None:
    for name in ("1.2.840.113619", "case 7"):
        write_map(tmp_path / "truth" / f"{name}.nii.gz")
        write_map(tmp_path / "out" / f"{name}.mha")
    exams = find_exams(tmp_path / "truth")
    assert [exam.name for exam in exams] == ["1.2.840.113619", "case 7"]
    assert FilesMethod.of(tmp_path / "out", exams, name="m").warnings == []


def test_hidden_files_and_folders_and_other_files_are_no_maps(tmp_path: Path) -> None:
    for folder in (tmp_path / "truth", tmp_path / "out"):
        write_map(folder / "a.mha")
        for hidden in ("._a.mha", ".a.nii.gz", ".DS_Store"):
            (folder / hidden).write_bytes(b"\x00Mac OS X")
        (folder / "readme.txt").write_text("how this was made")
        write_map(folder / ".trash" / PRIMARY / "map.mha")
    exams = find_exams(tmp_path / "truth")
    assert [exam.name for exam in exams] == ["a"]
    assert FilesMethod.of(tmp_path / "out", exams, name="m").warnings == []


def test_baselines_clicks_and_tables_of_flat_maps(tmp_path: Path) -> None:
    write_map(tmp_path / "truth" / "a.mha", ONE)
    write_map(tmp_path / "before" / "a.nii.gz", {1: (1, 1, 1), 2: (3, 7, 8)})
    write_points(tmp_path / "before" / "a_clicks.json", {"1": (5.0, 4.0, 2.0)})
    (tmp_path / "before" / "a.csv").write_text("lesion_id,topology_class,lesion_type\n1,UNCHANGED,Liver\n")
    exam = exam_in(tmp_path / "truth", inputs=tmp_path / "before")
    assert {number: (fact.fate, fact.lesion_type) for number, fact in exam.facts.items()} == {
        1: ("persists", "Liver"),
        2: ("gone", None),
    }
    assert exam.baseline is not None
    # 8 voxels of 1 x 1 x 2.5 mm.
    assert exam.baseline[2].volume_ml == pytest.approx(0.02)
    assert exam.clicks[1].point_xyz_mm == pytest.approx((5.0, 4.0, 5.0))


def test_table_beside_flat_truths(tmp_path: Path) -> None:
    write_map(tmp_path / "truth" / "a.mha", ONE)
    (tmp_path / "truth" / "a.json").write_text('{"1": {"fate": "new", "truth_id": 1, "type": "Lung"}}')
    exam = exam_in(tmp_path / "truth")
    assert (exam.facts[1].fate, exam.facts[1].lesion_type) == ("new", "Lung")


def test_inputs_that_are_the_truths_own_folder_are_no_baselines(tmp_path: Path) -> None:
    write_map(tmp_path / "truth" / "a.mha", ONE)
    assert exam_in(tmp_path / "truth", inputs=tmp_path / "truth").baseline is None


# ------------------------------------------------------------------------------------------------------ case folders


@pytest.mark.parametrize("theirs", ["", "truth"])
@pytest.mark.parametrize("ours", ["", "output"])
def test_case_folders_with_the_maps_in_them_or_one_below(tmp_path: Path, theirs: str, ours: str) -> None:
    for name in ("a", "b"):
        write_map(tmp_path / "truth" / name / theirs / PRIMARY / "any-name.mha")
        write_map(tmp_path / "out" / name / ours / PRIMARY / "output.mha", TWO)
    exams = find_exams(tmp_path / "truth")
    assert [exam.name for exam in exams] == ["a", "b"]
    method = FilesMethod.of(tmp_path / "out", exams, name="m")
    assert method.warnings == []
    exam, _ = read_exam(exams[0])
    assert voxels_of(method.predict(exams[0], exam)) == {1: 8, 2: 8}


def test_outputs_beside_the_truth_in_one_folder_per_case(tmp_path: Path) -> None:
    # Cases as they lie after each was run into its own folder: `evaluate CASES CASES` scores output against truth.
    for name in ("a", "b"):
        write_map(tmp_path / name / "truth" / PRIMARY / "map.mha", ONE)
        write_map(tmp_path / name / "output" / PRIMARY / "output.mha", {5: (0, 0, 0)})
    exams = find_exams(tmp_path)
    exam, _ = read_exam(exams[0])
    assert list(exam.facts) == [1]
    prediction = FilesMethod.of(tmp_path, exams, name="m").predict(exams[0], exam)
    assert voxels_of(prediction) == {5: 8}


def test_truths_are_no_predictions(tmp_path: Path) -> None:
    # `evaluate CASES CASES` before anything was run: the truth would agree with itself.
    for name in ("a", "b"):
        write_map(tmp_path / name / "truth" / PRIMARY / "map.mha")
    exams = find_exams(tmp_path)
    assert "no prediction" in refusal(lambda: FilesMethod.of(tmp_path, exams, name="m"), tmp_path)


def test_single_cases_truth_is_no_prediction(tmp_path: Path) -> None:
    case = tmp_path / "case"
    write_map(case / "truth" / PRIMARY / "map.mha", ONE)
    write_map(case / "output" / PRIMARY / "output.mha", {5: (0, 0, 0)})
    exams = find_exams(case)
    prediction = FilesMethod.of(case, exams, name="m").predict(exams[0], read_exam(exams[0])[0])
    assert voxels_of(prediction) == {5: 8}


def test_output_of_an_earlier_run_is_no_truth(tmp_path: Path) -> None:
    # A case that nobody has outlined: what a model has once said of it is nothing to score that model by.
    write_map(tmp_path / "a" / "truth" / PRIMARY / "map.mha")
    write_map(tmp_path / "b" / "output" / PRIMARY / "output.mha")
    write_input(tmp_path / "b" / "input")
    assert [exam.name for exam in find_exams(tmp_path)] == ["a"]


def test_case_with_two_scans(tmp_path: Path) -> None:
    for folder in ("truth", "out"):
        write_map(tmp_path / folder / "a" / PRIMARY / "map.mha", {1: (2, 4, 4)})
        write_map(tmp_path / folder / "a" / SECONDARY / "map.mha", {2: (1, 1, 1)}, origin_xyz_mm=(0, 0, -900))
    prediction = read_all(tmp_path / "out", tmp_path / "truth")["a"]
    assert (voxels_of(prediction), voxels_of(prediction, "secondary")) == ({1: 8}, {2: 8})


def write_input(folder: Path) -> Path:
    write_map(folder / PRIMARY_BEFORE / "map.mha", {1: (1, 1, 1), 3: (3, 7, 8)})
    write_points(folder / "primary-followup-lesion-clicks.json", {"1": (5.0, 4.0, 2.0), "3": (8.0, 7.0, 3.0)})
    return folder


def expect_input_known(exam: Exam) -> None:
    assert exam.baseline is not None
    assert set(exam.baseline) == {1, 3}
    assert {number: fact.fate for number, fact in exam.facts.items()} == {1: "persists", 3: "gone"}
    assert set(exam.clicks) == {1, 3}


def test_case_folder_with_its_own_input(tmp_path: Path) -> None:
    write_map(tmp_path / "a" / "truth" / PRIMARY / "map.mha")
    write_input(tmp_path / "a" / "input")
    (files,) = find_exams(tmp_path)
    assert files.case == tmp_path / "a" / "input"
    expect_input_known(read_exam(files)[0])


def test_case_folder_that_is_input_and_truth_in_one(tmp_path: Path) -> None:
    write_map(write_input(tmp_path / "a") / PRIMARY / "map.mha")
    (files,) = find_exams(tmp_path)
    assert files.case == tmp_path / "a"
    expect_input_known(read_exam(files)[0])


@pytest.mark.parametrize("below", ["", "input"])
def test_inputs_in_another_folder_of_cases(tmp_path: Path, below: str) -> None:
    write_map(tmp_path / "truth" / "a" / PRIMARY / "map.mha")
    write_input(tmp_path / "inputs" / "a" / below)
    expect_input_known(exam_in(tmp_path / "truth", inputs=tmp_path / "inputs"))


@pytest.mark.parametrize("place", ["truth/lesions.json", "truth/a.json", "lesions.json", "a.json"])
def test_lesion_table_of_a_case(tmp_path: Path, place: str) -> None:
    write_map(tmp_path / "a" / "truth" / PRIMARY / "map.mha")
    (tmp_path / "a" / place).write_text('{"1": {"fate": "new", "truth_id": 1}}')
    assert exam_in(tmp_path).facts[1].fate == "new"


def test_csv_table_of_a_case(tmp_path: Path) -> None:
    write_map(tmp_path / "a" / "truth" / PRIMARY / "map.mha")
    (tmp_path / "a" / "truth" / "lesions.csv").write_text("lesion_id,topology_class\n1,NEWLYAPPEARING\n")
    assert exam_in(tmp_path).facts[1].fate == "new"


def test_lesion_table_among_the_inputs_of_another_folder(tmp_path: Path) -> None:
    # The help says of --inputs: baseline label maps, follow-up clicks and lesion tables, laid out like the truths.
    write_map(tmp_path / "truth" / "a" / PRIMARY / "map.mha")
    write_input(tmp_path / "inputs" / "a")
    (tmp_path / "inputs" / "a" / "lesions.json").write_text('{"1": {"fate": "grows", "truth_id": 1, "type": "Liver"}}')
    assert exam_in(tmp_path / "truth", inputs=tmp_path / "inputs").facts[1].lesion_type == "Liver"


def test_baseline_lesion_in_two_scans_is_measured_where_it_is_largest(tmp_path: Path) -> None:
    write_map(tmp_path / "a" / "truth" / PRIMARY / "map.mha")
    write_map(tmp_path / "a" / "input" / PRIMARY_BEFORE / "map.mha", ONE)
    large = lesion_ids(ONE)
    large[0:4, 0:4, 0:4] = 1
    secondary = "images/secondary-baseline-ct-tumor-lesion-seg"
    write_image(tmp_path / "a" / "input" / secondary / "map.mha", large)
    exam = exam_in(tmp_path)
    assert exam.baseline is not None
    # 64 voxels at the border and the 8 of lesion_ids, of 2.5 cubic millimetres.
    assert exam.baseline[1].volume_ml == pytest.approx(72 * 2.5e-3)


def test_single_cases_own_folder(tmp_path: Path) -> None:
    write_map(tmp_path / "patient" / "truth" / PRIMARY / "map.mha")
    write_input(tmp_path / "patient" / "input")
    write_map(tmp_path / "output" / PRIMARY / "output.mha", TWO)
    write_run_report(tmp_path / "output" / "report.json", {1: 0.75})
    (files,) = find_exams(tmp_path / "patient")
    assert (files.name, files.case) == ("patient", tmp_path / "patient" / "input")
    (prediction,) = read_all(tmp_path / "output", tmp_path / "patient").values()
    assert voxels_of(prediction) == {1: 8, 2: 8}
    assert prediction.presence == {1: 0.75}


def test_single_cases_truth_and_output_folders(tmp_path: Path) -> None:
    write_map(tmp_path / "truth" / PRIMARY / "map.mha")
    write_map(tmp_path / "output" / PRIMARY / "output.mha", TWO)
    assert list(read_all(tmp_path / "output", tmp_path / "truth")) == ["truth"]


def test_single_cases_own_input_folder_as_inputs(tmp_path: Path) -> None:
    # Laid out like the truth: a single case's own folder, too.
    write_map(tmp_path / "truth" / PRIMARY / "map.mha")
    write_input(tmp_path / "input")
    expect_input_known(exam_in(tmp_path / "truth", inputs=tmp_path / "input"))


def test_flat_predictions_for_truths_in_case_folders(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_map(tmp_path / "cases" / name / "truth" / PRIMARY / "map.mha")
        write_map(tmp_path / "out" / f"{name}.nii.gz", TWO)
    exams = find_exams(tmp_path / "cases")
    method = FilesMethod.of(tmp_path / "out", exams, name="m")
    assert method.warnings == []
    assert voxels_of(method.predict(exams[1], read_exam(exams[1])[0])) == {1: 8, 2: 8}


def test_flat_truths_for_predictions_in_case_folders(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_map(tmp_path / "truth" / f"{name}.nii.gz")
        write_map(tmp_path / "out" / name / PRIMARY / "output.mha", TWO)
    assert set(read_all(tmp_path / "out", tmp_path / "truth")) == {"a", "b"}


# ---------------------------------------------------------------------------------------- the challenge's training data

FIRST, SECOND = "0a1b2c3d4e", "f5e4d3c2b1"


def challenge_name(patient: str, kind: str, scan: int, *, is_early: bool) -> str:
    time_point = kind.partition("_")[0]
    return f"{patient}_{kind}_{f'{time_point}_img_' if is_early else ''}{scan:02}.nii.gz"


def write_training_data(root: Path, *, is_early: bool) -> Path:
    """Two patients: lesion 1 stays in the first region; of the first patient, 2 goes, 3 comes in the third region."""
    inputs, targets = root / "inputsTr", root / "targetsTr"
    for patient, regions in ((FIRST, 3), (SECOND, 1)):
        before: list[Corners] = [ONE, {2: (1, 1, 1)}, {}]
        after: list[Corners] = [ONE, {}, {3: (1, 1, 1)}]
        for scan in range(regions):
            geometry = {"origin_xyz_mm": (0.0, 0.0, -500.0 * scan)}
            for kind in ("BL_img", "FU_img"):
                write_map(inputs / challenge_name(patient, kind, scan, is_early=is_early), {}, **geometry)
            write_map(inputs / challenge_name(patient, "BL_mask", scan, is_early=is_early), before[scan], **geometry)
            write_map(targets / challenge_name(patient, "FU_mask", scan, is_early=is_early), after[scan], **geometry)
            write_points(inputs / f"{patient}_FU_{scan:02}.json", {"1": (5, 5, 2)} if scan == 0 else {})
            write_points(inputs / f"{patient}_BL_{scan:02}.json", {})
    write_points(inputs / f"{FIRST}_FU_01.json", {"2": (3.0, 4.0, 2.0)})
    rows = ["1,Liver,UNCHANGED,", "2,Lung,DISAPPEARING,", "3,Spleen,NEWLYAPPEARING,"]
    (inputs / f"{FIRST}.csv").write_text("\n".join(["lesion_id,lesion_type,topology_class,merged_into", *rows]))
    return targets


@pytest.mark.parametrize("is_early", [False, True])
def test_challenges_training_data_of_both_releases(tmp_path: Path, is_early: bool) -> None:
    exams = find_exams(write_training_data(tmp_path, is_early=is_early))
    assert [(exam.name, sorted(exam.truth)) for exam in exams] == [(FIRST, ["00", "01", "02"]), (SECOND, ["00"])]
    (first, no_warnings), (second, _) = (read_exam(files) for files in exams)
    assert no_warnings == []
    assert {number: (fact.fate, fact.lesion_type) for number, fact in first.facts.items()} == {
        1: ("persists", "Liver"),
        2: ("gone", "Lung"),
        3: ("new", "Spleen"),
    }
    assert first.baseline is not None
    assert set(first.baseline) == {1, 2}
    assert {number: click.scan for number, click in first.clicks.items()} == {1: "00", 2: "01"}
    # In the second region's own frame: 4 * 1 and 2 * 2.5 mm up from -500.
    assert first.clicks[2].point_xyz_mm == pytest.approx((3.0, 4.0, -495.0))
    # The second patient has no table: its two maps tell.
    assert {number: (fact.fate, fact.lesion_type) for number, fact in second.facts.items()} == {1: ("persists", None)}


@pytest.mark.parametrize("kind", ["FU_mask", "FU_img", "FU_seg", "FU_pred"])
@pytest.mark.parametrize("is_early", [False, True])
def test_predictions_named_after_the_images_or_masks_of_either_release(
    tmp_path: Path, kind: str, is_early: bool
) -> None:
    exams = find_exams(write_training_data(tmp_path, is_early=False))
    for exam, regions in ((FIRST, 3), (SECOND, 1)):
        for scan in range(regions):
            write_map(tmp_path / "out" / challenge_name(exam, kind, scan, is_early=is_early))
    found, extra = find_predictions(tmp_path / "out", exams)
    assert extra == []
    assert {name: sorted(files.maps) for name, files in found.items()} == {FIRST: ["00", "01", "02"], SECOND: ["00"]}


def test_several_images_of_a_patient_are_one_exam_in_the_score(tmp_path: Path) -> None:
    targets = write_training_data(tmp_path, is_early=False)
    for scan in range(3):
        geometry = {"origin_xyz_mm": (0.0, 0.0, -500.0 * scan)}
        # Lesion 1 is found, 3 is missed, and there is a false label in the second region.
        lesions: list[Corners] = [ONE, {9: (1, 1, 1)}, {}]
        write_map(tmp_path / "out" / f"{FIRST}_FU_mask_{scan:02}.nii.gz", lesions[scan], **geometry)
    write_map(tmp_path / "out" / f"{SECOND}_FU_mask_00.nii.gz", ONE)
    found = evaluated(tmp_path / "out", targets)
    assert found.warnings == ()
    first, second = found.exams
    assert (first.exam, second.exam) == (FIRST, SECOND)
    # Entries of the first patient: lesion 1 (Dice 1), the false label (20 cubic mm too much), lesion 3 (20 missed).
    assert first.entries == 3
    assert first.false_positive_ml == pytest.approx(0.02 / 3)
    assert second.dice == 1.0
    # A lesion that is gone and two that are there.
    assert [row.lesion_id for row in found.lesions] == [1, 2, 3, 1]


def test_baseline_images_beside_the_truth_are_not_mixed_up_with_other_patients(tmp_path: Path) -> None:
    # One patient's name begins with the other's.
    targets, inputs = tmp_path / "targetsTr", tmp_path / "inputsTr"
    for patient, lesion_id in (("p1", 1), ("p1_BL", 2)):
        write_map(targets / f"{patient}_FU_mask_00.nii.gz", {lesion_id: (2, 4, 4)})
        write_map(inputs / f"{patient}_BL_mask_00.nii.gz", {lesion_id: (2, 4, 4)})
    for files in find_exams(targets):
        assert [path.name for path in files.baselines] == [f"{files.name}_BL_mask_00.nii.gz"]


# ------------------------------------------------------------------------------------------------------- run reports


@pytest.mark.parametrize("name", ["a.json", "a_report.json"])
def test_run_report_beside_a_flat_prediction(tmp_path: Path, name: str) -> None:
    write_map(tmp_path / "truth" / "a.mha")
    write_map(tmp_path / "out" / "a.nii.gz")
    write_run_report(tmp_path / "out" / name, {1: 0.25, 2: 0.125}, {2: 1})
    prediction = read_all(tmp_path / "out", tmp_path / "truth")["a"]
    assert (prediction.presence, prediction.merged_into) == ({1: 0.25, 2: 0.125}, {2: 1})


def test_run_report_named_after_the_map(tmp_path: Path) -> None:
    write_map(tmp_path / "truth" / "p_FU_mask_00.nii.gz")
    write_map(tmp_path / "out" / "p_FU_img_00.nii.gz")
    write_run_report(tmp_path / "out" / "p_FU_img_00.json", {1: 0.25})
    assert read_all(tmp_path / "out", tmp_path / "truth")["p"].presence == {1: 0.25}


def test_a_report_for_each_of_a_patients_maps(tmp_path: Path) -> None:
    for scan, lesion_id in (("00", 1), ("01", 2)):
        write_map(tmp_path / "truth" / f"p_FU_mask_{scan}.nii.gz", {lesion_id: (1, 1, 1)})
        write_map(tmp_path / "out" / f"p_FU_mask_{scan}.nii.gz", {lesion_id: (1, 1, 1)})
        write_run_report(tmp_path / "out" / f"p_FU_mask_{scan}.json", {lesion_id: 0.25})
    assert read_all(tmp_path / "out", tmp_path / "truth")["p"].presence == {1: 0.25, 2: 0.25}


@pytest.mark.parametrize("place", ["report.json", "output/report.json"])
def test_run_report_in_a_case_folder(tmp_path: Path, place: str) -> None:
    write_map(tmp_path / "truth" / "a" / PRIMARY / "map.mha")
    write_map(tmp_path / "out" / "a" / "output" / PRIMARY / "output.mha")
    write_run_report(tmp_path / "out" / "a" / place, {1: 0.25})
    assert read_all(tmp_path / "out", tmp_path / "truth")["a"].presence == {1: 0.25}


def test_predictions_without_a_report_say_nothing_of_presence(tmp_path: Path) -> None:
    write_map(tmp_path / "truth" / "a.mha")
    write_map(tmp_path / "out" / "a.mha")
    prediction = read_all(tmp_path / "out", tmp_path / "truth")["a"]
    assert (prediction.presence, prediction.merged_into) == ({}, {})


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"lesions": [{"id": 1}]}', '{"Dice": 0.7}', ""])
def test_run_report_of_another_format(tmp_path: Path, text: str) -> None:
    write_map(tmp_path / "truth" / "a.mha")
    write_map(tmp_path / "out" / "a.mha")
    report = tmp_path / "out" / "a.json"
    report.write_text(text)
    message = refusal(lambda: read_all(tmp_path / "out", tmp_path / "truth"), report)
    assert "run report" in message


# ----------------------------------------------------------------------------------------- folders that are not there


def test_missing_folders(tmp_path: Path) -> None:
    write_map(tmp_path / "truth" / "a.mha")
    nowhere = tmp_path / "nowhere"
    assert "no such folder" in refusal(lambda: find_exams(nowhere), nowhere)
    assert "no such folder" in refusal(lambda: find_exams(tmp_path / "truth", inputs=nowhere), nowhere)
    exams = find_exams(tmp_path / "truth")
    assert "no such folder" in refusal(lambda: find_predictions(nowhere, exams), nowhere)


def test_file_in_place_of_a_folder(tmp_path: Path) -> None:
    path = write_map(tmp_path / "a.mha")
    assert refusal(lambda: find_exams(path), path) == f"{path}: not a folder; expected a folder of label maps"
    write_map(tmp_path / "truth" / "a.mha")
    exams = find_exams(tmp_path / "truth")
    message = refusal(lambda: find_predictions(path, exams), path)
    assert message == f"{path}: not a folder; expected a folder of predicted label maps"


def test_nothing_to_score(tmp_path: Path) -> None:
    assert "nothing" in refusal(lambda: find_exams(tmp_path), tmp_path)
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "a" / "input").mkdir(parents=True)
    message = refusal(lambda: find_exams(tmp_path), tmp_path)
    assert "a, notes.txt" in message
    assert PRIMARY in message


def test_no_prediction_for_any_exam(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_map(tmp_path / "truth" / f"{name}.mha")
    write_map(tmp_path / "out" / "c.mha")
    exams = find_exams(tmp_path / "truth")
    message = refusal(lambda: FilesMethod.of(tmp_path / "out", exams, name="m"), tmp_path / "out")
    assert "any of the 2 exams" in message
    assert "a, b" in message
    # What lies there instead helps to find the wrong name.
    assert "c.mha" in message


# ---------------------------------------------------------------------------------------- missing and extra predictions


def test_missing_prediction_counts_as_empty_and_stays_in_the_mean(tmp_path: Path) -> None:
    for name in ("a", "b", "c", "d"):
        write_map(tmp_path / "truth" / f"{name}.mha", TWO)
    write_map(tmp_path / "out" / "a.mha", TWO)
    found = evaluated(tmp_path / "out", tmp_path / "truth")
    # One of four patients is perfect, the others miss 2 x 20 cubic millimetres, 20 per entry.
    assert (found.challenge.dice.value, found.challenge.dice.count) == (0.25, 4)
    assert found.challenge.false_negative_ml.value == pytest.approx(0.75 * 0.02)
    assert (found.lesion_means["dice"].value, found.lesion_means["dice"].count) == (0.25, 8)
    assert (found.lesion_means["detected"].value, found.lesion_means["detected"].count) == (0.25, 8)
    assert [row.missing_scans for row in found.exams] == [(), ("primary",), ("primary",), ("primary",)]
    assert len(found.warnings) == 3
    for name, warning in zip("bcd", found.warnings, strict=True):
        assert "no prediction" in warning
        assert f" {name}," in warning
        assert "empty" in warning


def test_missing_prediction_of_the_second_scan(tmp_path: Path) -> None:
    for scan in (PRIMARY, SECONDARY):
        write_map(tmp_path / "truth" / "a" / scan / "map.mha", {1 if scan == PRIMARY else 2: (2, 4, 4)})
    write_map(tmp_path / "out" / "a" / PRIMARY / "map.mha")
    found = evaluated(tmp_path / "out", tmp_path / "truth")
    assert found.challenge.dice.value == 0.5
    (warning,) = found.warnings
    assert "secondary" in warning
    assert found.exams[0].missing_scans == ("secondary",)


def test_predicted_scan_that_the_truth_lacks(tmp_path: Path) -> None:
    write_map(tmp_path / "truth" / "a" / PRIMARY / "map.mha")
    for scan in (PRIMARY, SECONDARY):
        write_map(tmp_path / "out" / "a" / scan / "map.mha")
    found = evaluated(tmp_path / "out", tmp_path / "truth")
    (warning,) = found.warnings
    assert str(tmp_path / "out" / "a" / SECONDARY / "map.mha") in warning
    assert found.challenge.dice.value == 1.0


def test_extra_files_and_case_folders_are_left_out_and_said(tmp_path: Path) -> None:
    write_map(tmp_path / "truth" / "a.mha")
    write_map(tmp_path / "out" / "a.mha")
    extra_file = write_map(tmp_path / "out" / "x.nii.gz")
    write_map(tmp_path / "out" / "y" / PRIMARY / "map.mha")
    (tmp_path / "out" / "logs").mkdir()
    found = evaluated(tmp_path / "out", tmp_path / "truth")
    assert len(found.warnings) == 2
    for path, warning in zip((extra_file, tmp_path / "out" / "y"), found.warnings, strict=True):
        assert warning.startswith(f"{path}: ")
        assert "belongs to no exam" in warning
    assert found.challenge.dice.count == 1


def test_map_and_case_folder_for_one_exam(tmp_path: Path) -> None:
    # Two predictions for one exam, as in two files of one name: neither may be picked in silence.
    write_map(tmp_path / "truth" / "a.mha")
    write_map(tmp_path / "out" / "a.mha")
    write_map(tmp_path / "out" / "a" / PRIMARY / "map.mha", TWO)
    exams = find_exams(tmp_path / "truth")
    folder = tmp_path / "out" / "a"
    message = refusal(lambda: FilesMethod.of(tmp_path / "out", exams, name="m"), folder)
    assert message == f"{folder}: a second prediction for a, beside a's label map; expected one"


@pytest.mark.parametrize("folder", ["truth", "out"])
def test_two_maps_of_one_name(tmp_path: Path, folder: str) -> None:
    for side in ("truth", "out"):
        write_map(tmp_path / side / "a.mha")
    second = write_map(tmp_path / folder / "a.nii.gz")
    message = refusal(lambda: read_all(tmp_path / "out", tmp_path / "truth"), second)
    assert "a.mha" in message


def test_maps_of_both_releases_for_one_image(tmp_path: Path) -> None:
    write_map(tmp_path / "truth" / "p_FU_mask_00.nii.gz")
    write_map(tmp_path / "truth" / "p_FU_mask_FU_img_00.nii.gz")
    message = refusal(lambda: find_exams(tmp_path / "truth"), tmp_path / "truth")
    assert "p_FU_mask_00.nii.gz" in message
    assert "p_FU_mask_FU_img_00.nii.gz" in message


@pytest.mark.parametrize("folder", ["truth", "out"])
def test_two_maps_in_a_case_folder(tmp_path: Path, folder: str) -> None:
    for side in ("truth", "out"):
        write_map(tmp_path / side / "a" / PRIMARY / "map.mha")
    write_map(tmp_path / folder / "a" / PRIMARY / "second.mha")
    message = refusal(lambda: read_all(tmp_path / "out", tmp_path / "truth"), tmp_path / folder / "a" / PRIMARY)
    assert "map.mha, second.mha" in message


def test_folder_of_a_scan_without_a_map(tmp_path: Path) -> None:
    # As on the platform: an empty folder fails the job.
    write_map(tmp_path / "truth" / "a" / PRIMARY / "map.mha")
    (tmp_path / "out" / "a" / PRIMARY).mkdir(parents=True)
    message = refusal(lambda: read_all(tmp_path / "out", tmp_path / "truth"), tmp_path / "out" / "a" / PRIMARY)
    assert "nothing" in message


# ----------------------------------------------------------------------------------------------------- bad label maps


def refused_prediction(tmp_path: Path, path: Path) -> str:
    write_map(tmp_path / "truth" / "a.mha", origin_xyz_mm=(0.0, 0.0, 100.0))
    return refusal(lambda: read_all(path.parent, tmp_path / "truth"), path)


def test_prediction_of_another_size(tmp_path: Path) -> None:
    path = write_image(tmp_path / "out" / "a.mha", np.zeros((6, 10, 11), np.uint8), origin_xyz_mm=(0.0, 0.0, 100.0))
    message = refused_prediction(tmp_path, path)
    assert "11 x 10 x 6" in message
    assert "expected 12 x 10 x 6" in message
    assert "truth" in message


def test_prediction_with_another_origin(tmp_path: Path) -> None:
    message = refused_prediction(tmp_path, write_map(tmp_path / "out" / "a.mha", origin_xyz_mm=(0.0, 0.0, 102.5)))
    assert "origin" in message
    # What was found and what was expected.
    for number in ("102.5", "100"):
        assert number in message.replace(str(tmp_path), "")


def test_prediction_with_another_spacing(tmp_path: Path) -> None:
    path = write_map(tmp_path / "out" / "a.mha", origin_xyz_mm=(0.0, 0.0, 100.0), spacing_xyz_mm=(1.0, 1.0, 3.0))
    message = refused_prediction(tmp_path, path)
    assert "spacing" in message
    found, _, expected = message.replace(str(tmp_path), "").partition("expected")
    assert "3" in found
    assert "2.5" in expected


def test_prediction_turned_over(tmp_path: Path) -> None:
    # Flipped along x and y about the middle: the same place in space, other voxels.
    path = write_map(tmp_path / "out" / "a.mha", origin_xyz_mm=(11.0, 9.0, 100.0), direction=np.diag([-1.0, -1.0, 1.0]))
    assert "direction" in refused_prediction(tmp_path, path)


def test_prediction_whose_header_was_rounded(tmp_path: Path) -> None:
    write_map(tmp_path / "truth" / "a.mha", spacing_xyz_mm=(0.7753906, 0.7753906, 3.0))
    write_map(tmp_path / "out" / "a.nii.gz", spacing_xyz_mm=(0.775, 0.775, 3.0))
    assert voxels_of(read_all(tmp_path / "out", tmp_path / "truth")["a"]) == {1: 8}


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16, np.int64])
def test_whole_values_of_any_type_are_ids(tmp_path: Path, dtype: type) -> None:
    for folder in ("truth", "out"):
        write_image(tmp_path / folder / "a.nrrd", lesion_ids({300: (1, 1, 1)}).astype(dtype))
    assert voxels_of(read_all(tmp_path / "out", tmp_path / "truth")["a"]) == {300: 8}


@pytest.mark.parametrize("folder", ["truth", "out"])
def test_probabilities_are_no_label_map(tmp_path: Path, folder: str) -> None:
    for side in ("truth", "out"):
        write_map(tmp_path / side / "a.nii.gz")
    path = write_image(tmp_path / folder / "a.nii.gz", lesion_ids(ONE).astype(np.float32) * np.float32(0.75))
    assert "fractional" in refusal(lambda: read_all(tmp_path / "out", tmp_path / "truth"), path)


def test_not_a_number_in_a_map(tmp_path: Path) -> None:
    voxels = lesion_ids(ONE).astype(np.float32)
    voxels[0, 0, 0] = np.nan
    path = write_image(tmp_path / "out" / "a.mha", voxels, origin_xyz_mm=(0.0, 0.0, 100.0))
    assert "NaN" in refused_prediction(tmp_path, path)


def test_negative_and_too_large_ids(tmp_path: Path) -> None:
    for value in (-1, 70000):
        voxels = lesion_ids(ONE).astype(np.int32)
        voxels[0, 0, 0] = value
        path = write_image(tmp_path / "out" / "a.mha", voxels, origin_xyz_mm=(0.0, 0.0, 100.0))
        message = refused_prediction(tmp_path, path)
        assert str(value) in message
        assert "65535" in message


@pytest.mark.parametrize("suffix", [".nii.gz", ".mha", ".nrrd"])
def test_truncated_prediction(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 200, (6, 10, 12)).astype(np.uint8)
    path = write_image(tmp_path / "out" / f"a{suffix}", noise, origin_xyz_mm=(0.0, 0.0, 100.0))
    path.write_bytes(path.read_bytes()[:-200])
    refused_prediction(tmp_path, path)


@pytest.mark.parametrize("suffix", [".nii.gz", ".mha", ".nrrd"])
@pytest.mark.parametrize("content", [b"", b"no image"])
def test_file_that_is_no_image(tmp_path: Path, suffix: str, content: bytes) -> None:
    (tmp_path / "out").mkdir()
    path = tmp_path / "out" / f"a{suffix}"
    path.write_bytes(content)
    refused_prediction(tmp_path, path)


def test_colour_image_and_flat_image(tmp_path: Path) -> None:
    for voxels, is_vector in ((np.zeros((6, 10, 12, 3), np.uint8), True), (np.zeros((10, 12), np.uint8), False)):
        refused_prediction(tmp_path, write_image(tmp_path / "out" / "a.mha", voxels, is_vector=is_vector))


# -------------------------------------------------------------------------------------------------------------- clicks


def test_click_outside_the_scan_is_moved_to_its_border_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_map(tmp_path / "a" / "truth" / PRIMARY / "map.mha")
    clicks = tmp_path / "a" / "input" / "primary-followup-lesion-clicks.json"
    write_points(clicks, {"1": (5.0, 400.0, 2.0)})
    with caplog.at_level(logging.WARNING):
        exam, warnings = read_exam(*find_exams(tmp_path))
    # 10 rows: the last is the ninth.
    assert exam.clicks[1].point_xyz_mm == pytest.approx((5.0, 9.0, 5.0))
    said = [*warnings, *(record.getMessage() for record in caplog.records)]
    assert any(str(clicks) in text and "outside" in text for text in said)


def test_click_of_a_lesion_in_two_scans_is_refused_as_the_model_refuses_it(tmp_path: Path) -> None:
    for slug, scan in (("primary", PRIMARY), ("secondary", SECONDARY)):
        write_map(tmp_path / "a" / "truth" / scan / "map.mha")
        write_points(tmp_path / "a" / "input" / f"{slug}-followup-lesion-clicks.json", {"1": (1, 1, 1)})
    with pytest.raises(InputError, match="lesion 1 a second time"):
        exam_in(tmp_path)


def test_clicks_in_a_scan_without_a_truth_are_left_out(tmp_path: Path) -> None:
    write_map(tmp_path / "a" / "truth" / PRIMARY / "map.mha")
    write_points(tmp_path / "a" / "input" / "secondary-followup-lesion-clicks.json", {"7": (1, 1, 1)})
    assert dict(exam_in(tmp_path).clicks) == {}


def test_clicks_without_names_are_counted_over_both_scans(tmp_path: Path) -> None:
    # As the model counts them when it reads the case: a point's id is its position among all points of its time point.
    for slug, scan, lesion_id in (("primary", PRIMARY, 1), ("secondary", SECONDARY, 2)):
        write_map(tmp_path / "a" / "truth" / scan / "map.mha", {lesion_id: (2, 4, 4)})
        write_points(tmp_path / "a" / "input" / f"{slug}-followup-lesion-clicks.json", [{"point": [5.0, 5.0, 2.0]}])
    clicks = exam_in(tmp_path).clicks
    assert {lesion_id: click.scan for lesion_id, click in clicks.items()} == {1: "primary", 2: "secondary"}


def test_broken_click_list(tmp_path: Path) -> None:
    write_map(tmp_path / "a" / "truth" / PRIMARY / "map.mha")
    clicks = tmp_path / "a" / "input" / "primary-followup-lesion-clicks.json"
    write_points(clicks, [{"name": "1", "point": [1.0, 2.0]}])
    refusal(lambda: exam_in(tmp_path), clicks)


def test_baseline_without_lesions_is_known_and_no_baseline_is_not(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_map(tmp_path / name / "truth" / PRIMARY / "map.mha")
    write_map(tmp_path / "a" / "input" / PRIMARY_BEFORE / "map.mha", {})
    (first, _), (second, _) = (read_exam(files) for files in find_exams(tmp_path))
    assert (first.baseline, first.facts[1].fate) == ({}, "new")
    assert (second.baseline, second.facts[1].fate) == (None, None)


# --------------------------------------------------------------------------------------------------- a model's outlines


FRAME = {"origin_xyz_mm": (3.0, -4.0, 500.0)}


def write_model_case(root: Path, *, lesions: Corners = ONE, **geometry: object) -> ExamFiles:
    """A case of write_case with its truth beside it, in the follow-up scan's frame unless said otherwise."""
    write_case(
        root / "a" / "input",
        lesions={1: (2, 4, 4), 2: (2, 7, 8)},
        baseline_clicks={"1": (4.5, 4.5, 2.5), "2": (8.5, 7.5, 2.5)},
        followup_clicks={"1": (5.0, 4.0, 3.0), "3": (8.0, 2.0, 3.0)},
    )
    write_map(root / "a" / "truth" / PRIMARY / "map.mha", lesions, **{**FRAME, **geometry})
    (files,) = find_exams(root)
    return files


def model_method(bundle: Path, *, has_followup_clicks: bool = True) -> ModelMethod:
    ensemble = load_ensemble(bundle, device="cpu", precision="float32")
    return ModelMethod(name="m", ensemble=ensemble, has_followup_clicks=has_followup_clicks, warnings=[])


def test_model_segments_a_case_and_says_how_sure_it_is_of_each_lesion(tmp_path: Path, bundle: Path) -> None:
    files = write_model_case(tmp_path)
    exam, _ = read_exam(files)
    prediction = model_method(bundle).predict(files, exam)
    assert set(prediction.maps) == {"primary"}
    assert prediction.maps["primary"].ids.shape == exam.truth["primary"].ids.shape
    # The model of random weights outlines whatever it is asked for.
    assert set(voxels_of(prediction)) <= {1, 2, 3}
    assert set(prediction.presence) == {1, 2, 3}
    assert all(0 <= sure <= 1 for sure in prediction.presence.values())


def test_model_without_followup_clicks_does_not_know_a_lesion_that_was_clicked_there_only(
    tmp_path: Path, bundle: Path
) -> None:
    files = write_model_case(tmp_path)
    prediction = model_method(bundle, has_followup_clicks=False).predict(files, read_exam(files)[0])
    assert set(prediction.presence) == {1, 2}


def test_model_without_a_case_to_segment(tmp_path: Path, bundle: Path) -> None:
    write_map(tmp_path / "a.mha")
    (files,) = find_exams(tmp_path)
    exam, _ = read_exam(files)
    with pytest.raises(InputError, match=r"^a: no input.*expected a case"):
        model_method(bundle).predict(files, exam)


def test_model_on_a_scan_that_is_not_that_of_the_truth(tmp_path: Path, bundle: Path) -> None:
    files = write_model_case(tmp_path, origin_xyz_mm=(3.0, -4.0, 600.0))
    exam, _ = read_exam(files)
    message = refusal(lambda: model_method(bundle).predict(files, exam), tmp_path / "a" / "truth" / PRIMARY / "map.mha")
    assert str(tmp_path / "a" / "input" / "images" / "primary-followup-ct" / "scan.mha") in message


def test_model_that_outlines_no_scan_of_the_truths_name(tmp_path: Path, bundle: Path) -> None:
    # The truth has a secondary scan that the case lacks: nothing can be found there, and it counts as empty.
    write_model_case(tmp_path)
    write_map(tmp_path / "a" / "truth" / SECONDARY / "map.mha", {2: (2, 4, 4)}, origin_xyz_mm=(0.0, 0.0, -900.0))
    (files,) = find_exams(tmp_path)
    run = evaluate_methods([files], [model_method(bundle)], ScoringSettings(), draws=10)
    (evaluation,) = run.report.evaluations
    assert evaluation.exams[0].missing_scans == ("secondary",)
    # Said, as it is of predictions in files.
    assert any("secondary" in warning for warning in evaluation.warnings)


def test_exam_without_a_baseline_among_others_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a", "b"):
        write_map(tmp_path / name / "truth" / PRIMARY / "map.mha")
    write_input(tmp_path / "a" / "input")
    find_exams(tmp_path)
    (warning,) = [record.getMessage() for record in caplog.records]
    assert "no baseline of b" in warning


def test_no_baselines_at_all_are_no_matter(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a", "b"):
        write_map(tmp_path / f"{name}.mha")
    find_exams(tmp_path)
    assert caplog.records == []


def test_challenges_inputs_are_found_from_inside_the_folder_of_truths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_map(tmp_path / "targetsTr" / "p_FU_mask_00.nii.gz")
    write_map(tmp_path / "inputsTr" / "p_BL_mask_00.nii.gz")
    monkeypatch.chdir(tmp_path / "targetsTr")
    (exam,) = find_exams(Path("."))
    assert [path.name for path in exam.baselines] == ["p_BL_mask_00.nii.gz"]
