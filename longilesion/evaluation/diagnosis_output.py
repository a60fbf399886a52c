"""Tables of an evaluation of diagnoses, and its files, written all or none: JSON, CSV, Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from longilesion.diagnosis_settings import LESION_TYPES, STATEMENT
from longilesion.evaluation.diagnosis_exam import MATCH_IOU
from longilesion.evaluation.diagnosis_figures import DiagnosisDifference, DiagnosisFigures, Figures
from longilesion.evaluation.diagnosis_run import DiagnosisEvaluation, DiagnosisMethod
from longilesion.evaluation.rows import write_rows
from longilesion.evaluation.tables import Section, figure, to_markdown
from longilesion.files import check_text, valid, written_together

_AREAS: Mapping[str, str] = {"auc_8": "AUC-8", "auc_2": "AUC-2", **{each: f"AUC, {each}" for each in LESION_TYPES}}
_PATIENTS = {"patient": "by LiverMax", "by_volume": "by counted voxels"}
_LESIONS = {"precision": "precision", "sensitivity": "sensitivity", "accuracy": "accuracy of the type", "dice": "Dice"}


def diagnosis_sections(evaluation: DiagnosisEvaluation) -> Iterator[Section]:
    """The tables."""
    methods = {method.name: method.figures for method in evaluation.methods}
    (figures, *_), names = methods.values(), tuple(methods)
    for scoring, by in _PATIENTS.items():
        yield Section(
            title=f"Patients, {by}",
            headings=("", "patients with it", *names),
            rows=tuple(_areas(scoring, figures, list(methods.values()))),
            note="Area under the ROC curve [95 % interval] (patients). AUC-8: mean over the types that some patients "
            "have and others have not (types). AUC-2: patients with a malignant lesion against those with benign ones "
            "alone, by the highest probability of a malignant type; who has neither is left out.",
        )
    yield Section(
        title="Lesions",
        headings=("", *names),
        rows=tuple((_LESIONS[key], *(figure(own.lesions[key]) for own in methods.values())) for key in _LESIONS),
        note=f"Found from an IoU of {MATCH_IOU:g}, one to one, whatever the type. Precision: of predicted lesions "
        "(their number); sensitivity: of true ones; accuracy: of found ones; Dice of all lesions together, mean over "
        "the patients that have some.",
    )
    for name, own in methods.items():
        yield _confusion(name, own)
    if evaluation.differences:
        yield _differences(evaluation.differences)


def write_diagnosis_evaluation(directory: Path, evaluation: DiagnosisEvaluation) -> list[Path]:
    """Writes figures.json, figures.md, patients.csv and lesions.csv; returns their paths.

    Raises InputError where writing fails.
    """
    checks = {
        directory / "figures.json": valid(DiagnosisEvaluation),
        **{directory / name: check_text for name in ("figures.md", "patients.csv", "lesions.csv")},
    }
    with written_together(checks) as (as_json, as_markdown, patients, lesions):
        as_json.write_text(evaluation.model_dump_json(indent=1) + "\n", encoding="utf-8")
        as_markdown.write_text(_markdown(evaluation), encoding="utf-8")
        write_rows(patients, (row for method in evaluation.methods for row in _patient_rows(method)))
        write_rows(lesions, (row for method in evaluation.methods for row in _lesion_rows(method)))
    return list(checks)


def _areas(scoring: str, first: DiagnosisFigures, methods: Sequence[Figures]) -> Iterator[tuple[str, ...]]:
    for key, name in _AREAS.items():
        yield (name, str(first.with_type.get(key, "")), *(figure(getattr(own, scoring)[key]) for own in methods))


def _confusion(name: str, figures: DiagnosisFigures) -> Section:
    counts = dict(zip(figures.categories, figures.confusion, strict=True))
    occurs = [
        place
        for place, category in enumerate(figures.categories)
        if any(counts[category]) or any(row[place] for row in figures.confusion)
    ]
    return Section(
        title=f"Types of lesions, {name}",
        headings=("truth, prediction", *(figures.categories[place] for place in occurs)),
        rows=tuple(
            (figures.categories[row], *(str(figures.confusion[row][column]) for column in occurs)) for row in occurs
        ),
        note="Rows are the true types. Column none: not found. Row none: found where there is no lesion.",
    )


def _differences(differences: Sequence[DiagnosisDifference]) -> Section:
    rows = [
        *((f"{name}, {by}", scoring, key) for scoring, by in _PATIENTS.items() for key, name in _AREAS.items()),
        *((name, "lesions", key) for key, name in _LESIONS.items()),
    ]
    return Section(
        title="Differences",
        headings=("", *(f"{each.first} - {each.second}" for each in differences)),
        rows=tuple((name, *(figure(getattr(each, group)[key]) for each in differences)) for name, group, key in rows),
        note="On the same draws of patients [95 % interval] (patients); an interval that leaves out 0 is a difference.",
    )


def _markdown(evaluation: DiagnosisEvaluation) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in evaluation.versions.items())
    return "\n".join(
        [
            f"# Diagnoses of {', '.join(method.name for method in evaluation.methods)}",
            "",
            f"**{STATEMENT}**",
            "",
            f"{evaluation.methods[0].figures.patients} patients. Intervals: 95 %, {evaluation.draws} draws of "
            f"patients, seed {evaluation.seed}. {versions}.",
            "",
            *map(to_markdown, diagnosis_sections(evaluation)),
        ]
    )


def _patient_rows(method: DiagnosisMethod) -> Iterator[dict[str, object]]:
    for exam in method.exams:
        yield {
            "method": method.name,
            "exam": exam.name,
            **exam.model_dump(include={"types", "dice"}),
            "true_lesions": sum(lesion.true_id is not None for lesion in exam.lesions),
            "predicted_lesions": sum(lesion.predicted_id is not None for lesion in exam.lesions),
            "found_lesions": sum(lesion.is_match for lesion in exam.lesions),
            **exam.model_dump(include={"patient", "by_volume"}),
            "statement": STATEMENT,
        }


def _lesion_rows(method: DiagnosisMethod) -> Iterator[dict[str, object]]:
    for exam in method.exams:
        for lesion in exam.lesions:
            yield {"method": method.name, "exam": exam.name, **lesion.model_dump(), "statement": STATEMENT}
