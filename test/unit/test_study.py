import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from longilesion.errors import InputError
from longilesion.evaluation.lesions import LesionScore
from longilesion.evaluation.summary import Evaluation, ExamRow
from longilesion.evaluation.tables import Section
from training.run_folder import RunFolder, RunSummary, write_summary
from training.study import Studied, compared

PATIENTS = {"a1": "a", "a2": "a", "b1": "b", "c1": "c", "unjudged": "d"}


def lesion(exam: str, number: int, dice: float | None, *, presence: float = 0.9) -> LesionScore:
    """A lesion that persists, or is gone where it has no Dice."""
    nothing = dict.fromkeys(LesionScore.model_fields, None)
    sizes = dict.fromkeys(
        ("true_volume_ml", "predicted_volume_ml", "true_diameter_mm", "predicted_diameter_mm"), 1.0 if dice else 0.0
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


def studied(folder: Path, name: str, dice: Mapping[tuple[str, int], float | None], losses: Sequence[float]) -> Studied:
    exams = sorted({exam for exam, _ in dice})
    evaluation = Evaluation.model_construct(
        name="out of fold",
        lesions=tuple(lesion(exam, number, value) for (exam, number), value in dice.items()),
        exams=tuple(row(exam, 1.0 if name == "worse" else 0.5) for exam in exams),
    )
    return Studied(name=name, evaluation=evaluation, runs=(run(folder / name, losses),))


@pytest.fixture
def pair(tmp_path: Path) -> list[Studied]:
    """Two recipes; the second one's Dice is lower by 0.1 in patients a and c, and by 0.4 in b."""
    better = {("a1", 1): 0.8, ("a1", 2): 0.6, ("a2", 1): 0.7, ("b1", 1): 0.9, ("c1", 1): 0.5, ("c1", 2): None}
    worse = {key: None if value is None else value - (0.4 if key[0] == "b1" else 0.1) for key, value in better.items()}
    losses = [1.0] * 8 + [0.5, 0.4]
    return [studied(tmp_path, "better", better, losses), studied(tmp_path, "worse", worse, [1.0] * 10)]


def cells(table: Section, name: str) -> dict[str, str]:
    (found,) = [each for each in table.rows if each[0] == name]
    return dict(zip(table.headings, found, strict=True))


def value(cell: str) -> float:
    return float(cell.split()[0])


def test_figures_are_means_over_lesions_with_intervals_over_patients(pair: list[Studied]) -> None:
    figures, _, _ = compared(pair, PATIENTS, reference=None, draws=500)
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
    _, differences, _ = compared(pair, PATIENTS, reference="worse", draws=500)
    assert [each[0] for each in differences.rows] == ["better"]
    assert value(cells(differences, "better")["Dice"]) == pytest.approx((4 * 0.1 + 0.4) / 5)
    assert value(cells(differences, "better")["FNvol, ml"]) == -0.5
    low = float(cells(differences, "better")["Dice"].split("[")[1].split(";")[0])
    assert low == pytest.approx(0.1)


def test_end_of_a_training_shows_how_much_the_loss_still_fell(pair: list[Studied]) -> None:
    *_, ends = compared(pair, PATIENTS, reference=None, draws=10)
    assert cells(ends, "better") == {
        "recipe": "better",
        "steps": "100",
        "minutes": "3.0",
        "loss before": "0.500",
        "loss at the end": "0.400",
        "fall": "20.0 %",
    }
    assert cells(ends, "worse")["fall"] == "0.0 %"


def test_recipes_that_were_judged_on_other_lesions_are_not_compared(pair: list[Studied], tmp_path: Path) -> None:
    other = studied(tmp_path, "other", {("a1", 1): 0.8}, [1.0])
    with pytest.raises(InputError, match="other: judged on other lesions than better; expected the same folds"):
        compared([*pair, other], PATIENTS, reference=None, draws=10)


def test_unknown_reference_and_equal_names_are_refused(pair: list[Studied]) -> None:
    with pytest.raises(InputError, match="--reference best: expected one of better, worse"):
        compared(pair, PATIENTS, reference="best", draws=10)
    with pytest.raises(InputError, match="two recipes have the name better"):
        compared([pair[0], pair[0]], PATIENTS, reference=None, draws=10)
    with pytest.raises(InputError, match="no recipe given"):
        compared([], PATIENTS, reference=None, draws=10)
