import csv
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from longilesion.errors import InputError
from longilesion.evaluation.lesions import LesionScore
from longilesion.evaluation.run import evaluate_methods
from longilesion.evaluation.summary import Evaluation, ExamRow
from longilesion.evaluation.tables import Section
from test.unit.prepared_data import RECIPE, write_prepared
from training import crossvalidate, evaluate_detection
from training.run_folder import RunFolder, RunSummary, write_summary
from training.study import Arguments, Studied, compared, ends, study

RECIPES = Path(__file__).parents[2] / "training" / "recipes"

PATIENTS = {"a1": "a", "a2": "a", "b1": "b", "c1": "c", "unjudged": "d"}


def lesion(exam: str, number: int, dice: float | None, *, presence: float = 0.9) -> LesionScore:
    """A lesion that persists, or is gone where it has no Dice."""
    nothing = dict.fromkeys(LesionScore.model_fields, None)
    sizes = dict.fromkeys(
        (
            name
            for name in LesionScore.model_fields
            if name.startswith(("true_", "predicted_")) and name[-3:] in ("_mm", "_ml")
        ),
        1.0 if dice else 0.0,
    )
    known = {"exam": exam, "lesion_id": number, "true_id": None if dice is None else number, "presence": presence}
    fate = "gone" if dice is None else "persists"
    return LesionScore(**nothing | sizes | known | {"fate": fate, "dice": dice, "challenge_dice": dice})


def row(exam: str, false_negative_ml: float) -> ExamRow:
    nothing = dict.fromkeys(ExamRow.model_fields, None)
    counts = dict.fromkeys(("entries", "true_lesions", "predicted_lesions", "unknown_labels"), 1)
    scores = {"false_negative_ml": false_negative_ml, "false_positive_ml": 0.0}
    return ExamRow(**nothing | counts | scores | {"exam": exam, "missing_scans": ()})


def run(folder: Path, losses: Sequence[float]) -> RunFolder:
    """A finished run of ten steps for each loss."""
    folder.mkdir(parents=True)
    made = RunFolder(folder)
    with made.metrics.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "outline", "seconds"])
        writer.writerows([10 * place, loss, 0.5] for place, loss in enumerate(losses, start=1))
    steps = 10 * len(losses)
    write_summary(
        made,
        RunSummary(
            steps=steps,
            planned_steps=steps,
            minutes=3.0,
            best_step=None,
            best_challenge_dice=None,
            skipped_steps=0,
            damaged_cut_outs=0,
        ),
    )
    return made


def studied(name: str, dice: Mapping[tuple[str, int], float | None]) -> Studied:
    exams = sorted({exam for exam, _ in dice})
    evaluation = Evaluation.model_construct(
        name="out of fold",
        lesions=tuple(lesion(exam, number, value) for (exam, number), value in dice.items()),
        exams=tuple(row(exam, 1.0 if name == "worse" else 0.5) for exam in exams),
    )
    return Studied(name=name, evaluation=evaluation)


@pytest.fixture
def pair() -> list[Studied]:
    """Two recipes; the second one's Dice is lower by 0.1 in patients a and c, and by 0.4 in b."""
    better = {("a1", 1): 0.8, ("a1", 2): 0.6, ("a2", 1): 0.7, ("b1", 1): 0.9, ("c1", 1): 0.5, ("c1", 2): None}
    worse = {key: None if value is None else value - (0.4 if key[0] == "b1" else 0.1) for key, value in better.items()}
    return [studied("better", better), studied("worse", worse)]


def cells(table: Section, name: str) -> dict[str, str]:
    (found,) = [each for each in table.rows if each[0] == name]
    return dict(zip(table.headings, found, strict=True))


def value(cell: str) -> float:
    return float(cell.split()[0])


def test_figures_are_means_over_lesions_with_intervals_over_patients(pair: list[Studied]) -> None:
    figures, _ = compared(pair, PATIENTS, draws=500)
    cell = cells(figures, "better")["Dice"]
    assert value(cell) == pytest.approx(np.mean([0.8, 0.6, 0.7, 0.9, 0.5]))
    # Patient c alone has 0.5, patient b alone 0.9: no draw of patients goes beyond.
    low, high = (float(end) for end in cell.split("[")[1].split("]")[0].split(";"))
    assert 0.5 <= low < value(cell) < high <= 0.9
    assert cell.endswith("(5)")
    assert cells(figures, "better")["Dice, persisting"] == cell
    assert cells(figures, "better")["Dice, new"] == "- (0)"
    assert value(cells(figures, "worse")["FNvol, ml"]) == 1.0


def test_differences_are_paired_lesion_by_lesion(pair: list[Studied]) -> None:
    better, worse = pair
    _, differences = compared([worse, better], PATIENTS, draws=500)
    assert [each[0] for each in differences.rows] == ["better"]
    assert value(cells(differences, "better")["Dice"]) == pytest.approx((4 * 0.1 + 0.4) / 5)
    assert value(cells(differences, "better")["FNvol, ml"]) == -0.5
    low = float(cells(differences, "better")["Dice"].split("[")[1].split(";")[0])
    assert low == pytest.approx(0.1)


def test_end_of_a_training_shows_how_much_the_loss_still_fell(tmp_path: Path) -> None:
    falling, flat = run(tmp_path / "falling", [1.0] * 8 + [0.5, 0.4]), run(tmp_path / "flat", [1.0] * 10)
    table = ends({"falling": [falling], "both": [falling, flat]})
    assert cells(table, "falling") == {
        "recipe": "falling",
        "folds": "1",
        "steps": "100",
        "minutes": "3.0",
        "loss before": "0.500",
        "loss at the end": "0.400",
        "fall": "20.0 %",
    }
    assert cells(table, "both")["loss at the end"] == "0.700"


def test_recipes_that_were_judged_on_other_lesions_are_not_compared(pair: list[Studied]) -> None:
    other = studied("other", {("a1", 1): 0.8})
    with pytest.raises(InputError, match="other: judged on other lesions than better; expected the same folds"):
        compared([*pair, other], PATIENTS, draws=10)


# ----------------------------------------------------------------------------------------------------- from the recipes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared data set and two tiny recipes."""
    made = tmp_path_factory.mktemp("study")
    write_prepared(made / "data")
    for name in ("one", "two"):
        (made / f"{name}.toml").write_text(RECIPE.replace('name = "tiny"', f'name = "{name}"'))
    return made


def arguments(folder: Path, *recipes: Path, **changes: object) -> Arguments:
    given = {"output": folder / "study", "folds": (0, 1), "workers": 0, "device": "cpu", "draws": 20} | changes
    return Arguments(recipes=recipes, data=folder / "data", **given)


def test_study_trains_each_recipe_once_and_writes_what_it_prints(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The presence heads stay as trained: their fit has tests of its own."""
    patch_quick(monkeypatch)
    first = study(arguments(folder, folder / "one.toml"))
    assert first is not None
    assert [[row[0] for row in table.rows] for table in first] == [["one"], [], ["one"]]
    trained = (folder / "study" / "one" / "fold_0" / "checkpoint.pt").stat().st_mtime_ns
    both = study(arguments(folder, folder / "one.toml", folder / "two.toml", reference="two"))
    assert both is not None
    assert [[row[0] for row in table.rows] for table in both] == [["two", "one"], ["one"], ["two", "one"]]
    assert (folder / "study" / "one" / "fold_0" / "checkpoint.pt").stat().st_mtime_ns == trained
    written = (folder / "study" / "study.md").read_text()
    assert "Differences from two" in written
    assert written.count("| one |") == 3
    assert "Differences from two" in capsys.readouterr().out


def patch_quick(patch: pytest.MonkeyPatch) -> None:
    """Without pictures, presence fits and many draws, which take seconds."""
    unfitted = partial(crossvalidate.Arguments, presence=False)
    patch.setattr("training.study.crossvalidate.Arguments", unfitted)
    patch.setattr(crossvalidate, "evaluate_methods", partial(evaluate_methods, draws=10))
    patch.setattr("longilesion.evaluation.output.draw_plots", lambda evaluations, detections: {})
    patch.setattr("training.run_log.draw_curve", lambda folder: None)


def test_detectors_are_scored_together_once_all_are_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipes = [RECIPES / f"compact_{name}.toml" for name in ("lifenet", "detection_difference")]
    done: list[str] = []

    def trained(given: crossvalidate.Arguments) -> bool:
        done.append(given.output.name)
        run(given.output / "fold_0", [1.0] * 10)
        return True

    def scored(given: evaluate_detection.Arguments) -> list[str]:
        done.append("scored")
        return [folder.name for folder in given.detectors]

    monkeypatch.setattr(crossvalidate, "train_folds", trained)
    monkeypatch.setattr(evaluate_detection, "score_detectors", scored)
    monkeypatch.setattr(
        evaluate_detection,
        "detection_tables",
        lambda names, **_: [Section(title="Detection", headings=("detector",), rows=tuple((name,) for name in names))],
    )
    tables = study(arguments(tmp_path, *recipes, folds=(0,), reference="compact_detection_difference"))
    assert tables is not None
    assert done == ["compact_lifenet", "compact_detection_difference", "scored"]
    first_then_other = ["compact_detection_difference", "compact_lifenet"]
    assert [[row[0] for row in table.rows] for table in tables] == [first_then_other, first_then_other]


def test_interrupted_training_has_no_tables(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crossvalidate, "cross_validate", lambda given: None)
    assert study(arguments(folder, folder / "one.toml", output=folder / "none")) is None
    assert not (folder / "none").exists()


def test_recipes_that_cannot_be_compared_are_refused_before_anything_is_trained(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crossvalidate, "cross_validate", lambda given: pytest.fail("trained"))
    one, two = folder / "one.toml", folder / "two.toml"
    with pytest.raises(InputError, match="--reference best: expected one of one, two"):
        study(arguments(folder, one, two, reference="best"))
    twin = tmp_path / "twin.toml"
    twin.write_text(one.read_text())
    with pytest.raises(InputError, match="two recipes have the name one"):
        study(arguments(folder, one, twin))
    with pytest.raises(InputError, match="no recipe given"):
        study(arguments(folder))
    with pytest.raises(InputError, match="recipes of the tasks detection, lesions; expected recipes of one task"):
        study(arguments(folder, one, RECIPES / "compact_lifenet.toml"))
