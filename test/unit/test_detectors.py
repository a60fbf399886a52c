"""Training of a detector on exams, and its scoring."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import training.train
from longilesion.case import LesionMap
from longilesion.detection import Candidate
from longilesion.errors import InputError
from longilesion.evaluation.detection import ExamLesions
from longilesion.geometry import Grid
from longilesion.voi import Voi, VoiPair
from test.unit.small_recipes import shrunk
from test.unit.tiny_exams import tiny_exams
from test.unit.training_runs import arguments
from training.detector import matched_lesions, with_prior_mask
from training.evaluate_detection import Arguments, Scored, detection_tables, evaluate_detectors
from training.exam_dataset import CachedExams
from training.exams import RegisteredExam
from training.export import Arguments as ExportArguments
from training.export import export
from training.recipe import read_recipe
from training.run_log import read_log
from training.training_data import find_training_data

RECIPES = Path(__file__).parents[2] / "training" / "recipes"
DETECTORS = sorted(path for path in RECIPES.glob("*.toml") if read_recipe(path).task == "detection")
GRID = Grid.from_spacing((10, 20, 20), (3.0, 1.0, 1.0))


@pytest.mark.slow
@pytest.mark.parametrize("path", [pytest.param(path, id=path.stem) for path in DETECTORS])
def test_detector_trains_on_exams_is_exported_and_scored(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training.train, "read_recipe", lambda path: shrunk(path, steps=3))
    monkeypatch.setattr("training.run_log.draw_curve", lambda folder: None)
    data = tiny_exams()
    for fold in (0, 1):
        training.train.train(arguments(path, tmp_path / "cv" / f"fold_{fold}", data=data.folder, fold=fold))
    run = tmp_path / "cv" / "fold_0"
    assert [row["step"] for row in read_log(run / "metrics.csv")] == [1, 2, 3]
    assert all(row["loss"] > 0 for row in read_log(run / "metrics.csv"))
    (row,) = read_log(run / "validation.csv")
    assert 0 <= row["mean_average_precision"] <= 1
    summary = json.loads((run / "summary.json").read_text())
    assert summary["best_challenge_dice"] is None
    assert summary["best_mean_average_precision"] == round(row["mean_average_precision"], 4)
    export(ExportArguments(bundles=(run,), output=tmp_path / "model"))
    card = (tmp_path / "model" / "MODEL_CARD.md").read_text()
    assert "Research on the detection of lesions" in card
    assert "It does not look for lesions" not in card
    scored = evaluate_detectors(
        Arguments(
            detectors=(tmp_path / "cv",),
            data=data.folder,
            output=tmp_path / "report",
            prior_mask="errors",
            device="cpu",
            draws=10,
        )
    )
    assert [each.name for each in scored] == (["cv", "cv, masked"] if "lifenet" in path.stem else ["cv"])
    assert scored[0].cases == tuple(sorted(case.case_id for case in data.cases))
    assert "| cv |" in (tmp_path / "report" / "detection.md").read_text()


def test_every_exam_is_seen_once_per_round_the_same_in_every_run() -> None:
    data = tiny_exams()
    recipe = shrunk(RECIPES / "lifenet.toml")
    lesions = find_training_data(data.folder, recipe, fold=0, seed=3, workers=1).lesions
    assert isinstance(lesions, CachedExams)
    again = find_training_data(data.folder, recipe, fold=0, seed=3, workers=1).lesions
    seen, _ = data.split(0)
    samples = [lesions[index] for index in range(len(seen))]
    assert {sample.origin for sample in samples} == {case.patient for case in seen}
    for index, sample in enumerate(samples):
        assert sample.pair.followup.hu.shape == recipe.model.voi.shape_zyx
        assert sample.is_present == bool(sample.target.any())
        np.testing.assert_array_equal(sample.pair.followup.hu, again[index].pair.followup.hu)
    assert {sample.is_present for sample in samples} == {False, True}


def test_detector_needs_exams(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="prepare synthetic --organ"):
        find_training_data(tmp_path, shrunk(RECIPES / "lifenet.toml"), fold=None, seed=0, workers=1)


def test_detectors_of_a_study_differ_in_what_is_compared_alone() -> None:
    base = read_recipe(RECIPES / "compact_lifenet.toml").model_dump()
    for path in DETECTORS:
        recipe = read_recipe(path).model_dump()
        if not path.stem.startswith("compact"):
            continue
        for one in (recipe, base):
            one["name"] = one["baseline_masking"] = one["model"]["network"] = None
            one["model"]["encoding"]["lesion_mask_weight"] = None
        assert recipe == base


def exam_with(ids: np.ndarray) -> RegisteredExam:
    voi = Voi(hu=np.zeros(ids.shape, np.float32), grid=GRID, click_zyx=(0, 0, 0), is_clicked=False)
    pair = VoiPair(followup=voi, baseline=voi, baseline_mask=None, baseline_others=None)
    names = np.unique(ids[ids > 0]).tolist()
    return RegisteredExam(
        pair=pair, ids=ids, true_mm={name: 8.0 + name for name in names}, true_ml={name: 0.1 * name for name in names}
    )


def candidate(start: tuple[int, int, int], shape: tuple[int, int, int], score: float) -> Candidate:
    stop = tuple(np.add(start, shape).tolist())
    return Candidate(start_zyx=start, mask=np.ones(shape, bool), grid=GRID.window(start, stop), score=score)


def test_candidates_are_matched_by_their_overlap() -> None:
    ids = np.zeros(GRID.shape_zyx, np.uint16)
    ids[2:4, 2:8, 2:8], ids[6:8, 10:16, 10:16] = 1, 4
    # The same voxels; half of the other's and as many beside them; neither.
    found = [candidate((2, 2, 2), (2, 6, 6), 0.9), candidate((6, 13, 10), (2, 6, 6), 0.4)]
    found.append(candidate((0, 0, 0), (1, 2, 2), 0.2))
    lesions = matched_lesions(found, LesionMap(ids=ids, grid=GRID), exam_with(ids))
    np.testing.assert_allclose(lesions.iou, [[1, 0, 0], [0, 36 / 108, 0]])
    np.testing.assert_allclose(lesions.confidence, [0.9, 0.4, 0.2])
    np.testing.assert_allclose(lesions.true_mm, [9.0, 12.0])
    np.testing.assert_allclose(lesions.predicted_ml, [0.216, 0.216, 0.012])


def test_healthy_exam_without_candidates_has_nothing_to_match() -> None:
    ids = np.zeros(GRID.shape_zyx, np.uint16)
    lesions = matched_lesions([], LesionMap(ids=ids, grid=GRID), exam_with(ids))
    assert lesions.iou.shape == (0, 0)


def test_other_mask_replaces_the_baselines() -> None:
    ids = np.zeros(GRID.shape_zyx, np.uint16)
    mask = np.full(GRID.shape_zyx, 0.5, np.float32)
    changed = with_prior_mask(exam_with(ids), mask)
    np.testing.assert_array_equal(changed.pair.baseline_mask, mask)


def lesions_found(*confidences: float, missed: int = 0, false: tuple[float, ...] = ()) -> ExamLesions:
    """An exam with a lesion of 12 mm per confidence, which is found with it, some that are missed, some false ones."""
    true, predicted = len(confidences) + missed, len(confidences) + len(false)
    iou = np.zeros((true, predicted))
    iou[range(len(confidences)), range(len(confidences))] = 1.0
    return ExamLesions(
        true_mm=np.full(true, 12.0),
        true_ml=np.full(true, 1.0),
        predicted_mm=np.full(predicted, 12.0),
        predicted_ml=np.full(predicted, 1.0),
        confidence=np.array([*confidences, *false]),
        iou=iou,
    )


def test_table_has_the_measures_and_their_paired_differences() -> None:
    perfect = Scored(
        name="perfect", cases=("a", "b", "c"), exams=(lesions_found(0.9), lesions_found(0.8), lesions_found())
    )
    worse = replace(
        perfect, name="worse", exams=(lesions_found(missed=1, false=(0.95,)), lesions_found(0.8), lesions_found())
    )
    measures, differences = detection_tables([perfect, worse], draws=50, seed=0)
    (first, second), (difference,) = measures.rows, differences.rows
    assert [cell[:5] for cell in first[1:]] == ["1.000"] * 8
    # One of two is found, after a false one: the precision there is 1/2, the mean over the lesions 1/4.
    assert second[1].startswith("0.250")
    assert difference[1].startswith("-0.750")
    assert second[3].startswith("0.000")
    assert second[4].startswith("0.500")
    with pytest.raises(InputError, match="other exams"):
        detection_tables([perfect, replace(worse, cases=("a", "b", "d"))], draws=5, seed=0)


def test_run_of_other_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="neither a run nor runs"):
        evaluate_detectors(Arguments(detectors=(tmp_path,), data=tiny_exams().folder))
