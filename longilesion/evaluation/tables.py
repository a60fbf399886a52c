"""Tables of the figures, for the terminal and in Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Group
from rich.table import Table
from rich.text import Text

from longilesion.evaluation.bootstrap import Estimate
from longilesion.evaluation.comparison import Difference, Interaction, Rank
from longilesion.evaluation.longitudinal import Confusion, Longitudinal
from longilesion.evaluation.summary import Evaluation
from longilesion.markdown import markdown_table

_NAMES = {
    "dice": "Dice",
    "surface_dice": "surface Dice",
    "hausdorff_95_mm": "HD95 (mm)",
    "volume_error_ml": "volume error (ml)",
    "absolute_volume_error_ml": "absolute volume error (ml)",
    "diameter_error_mm": "diameter error (mm)",
    "absolute_diameter_error_mm": "absolute diameter error (mm)",
    "match_dice": "Dice, best match",
    "match_surface_dice": "surface Dice, best match",
    "match_hausdorff_95_mm": "HD95, best match (mm)",
    "detected": "detected",
    "present_kept": "present, kept",
    "gone_recognised": "gone, recognised",
    "false_positive_ml": "false positive volume (ml)",
    "false_negative_ml": "false negative volume (ml)",
    "presence_auc": "presence, area under the ROC curve",
    "lesion_dice": "Dice of the lesions, by id",
    "lesion_surface_dice": "surface Dice of the lesions",
    "lesion_hausdorff_95_mm": "HD95 of the lesions (mm)",
    "lesion_absolute_volume_error_ml": "absolute volume error of the lesions (ml)",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A table with a title and, where needed, a line of explanation."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def sections(
    evaluations: Sequence[Evaluation],
    *,
    ranks: Sequence[Rank],
    differences: Sequence[Difference],
    steps: Sequence[Interaction],
    tolerance_mm: float,
) -> Iterator[Section]:
    """All tables except empty ones."""
    yield _challenge(evaluations, ranks)
    yield _lesions(evaluations, tolerance_mm)
    yield _patients(evaluations)
    yield from map(_detection, evaluations)
    for evaluation in evaluations:
        if evaluation.longitudinal is not None:
            yield from _longitudinal(evaluation.name, evaluation.longitudinal)
    yield _strata(evaluations)
    if steps:
        yield _interaction(steps)
    if differences:
        yield _differences(differences)


def to_rich(section: Section) -> Group:
    """The table for a terminal; its first column is text, the others are figures."""
    table = Table()
    for place, heading in enumerate(section.headings):
        table.add_column(Text(heading), justify="right" if place else "left")
    for row in section.rows:
        # As text, since a name may contain markup.
        table.add_row(*map(Text, row))
    return Group(Text(section.title, style="bold"), table, Text(f"{section.note}\n"))


def to_markdown(section: Section) -> str:
    """The table in Markdown."""
    lines = [
        f"## {section.title}",
        "",
        *markdown_table(section.headings, section.rows, numbers_from=1),
    ]
    return "\n".join([*lines, "", section.note, ""] if section.note else [*lines, ""])


def figure(estimate: Estimate, *, digits: int = 3) -> str:
    """A value, its 95 % interval, and the number of samples."""
    if estimate.value is None:
        return f"- ({estimate.count})"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.{digits}f} ({estimate.count})"
    return f"{estimate.value:.{digits}f} [{estimate.low:.{digits}f}; {estimate.high:.{digits}f}] ({estimate.count})"


def _challenge(evaluations: Sequence[Evaluation], ranks: Sequence[Rank]) -> Section:
    rank_of = {rank.name: f"{rank.score:g}" for rank in ranks}
    scores = [evaluation.challenge for evaluation in evaluations]
    rows = [
        ("Dice", *(figure(score.dice) for score in scores)),
        (_NAMES["false_positive_ml"], *(figure(score.false_positive_ml) for score in scores)),
        (_NAMES["false_negative_ml"], *(figure(score.false_negative_ml) for score in scores)),
        ("Dice, patients with lesions", *(figure(score.dice_with_lesions) for score in scores)),
        ("patients", *(str(len(evaluation.exams)) for evaluation in evaluations)),
        ("entries", *(str(sum(row.entries for row in evaluation.exams)) for evaluation in evaluations)),
        *([("rank score", *(rank_of.get(evaluation.name, "-") for evaluation in evaluations))] if ranks else []),
    ]
    missing = {evaluation.name: sum(len(row.missing_scans) for row in evaluation.exams) for evaluation in evaluations}
    notes = [
        "Means over patients [95 % interval] (patients for whom they are defined).",
        *(f"Missing maps of {name}, counted as empty: {count}." for name, count in missing.items() if count),
        *(["The lowest rank score wins."] if ranks else []),
    ]
    return Section(
        title="Challenge score (autoPET/CT IV, Task 2)",
        headings=("", *(evaluation.name for evaluation in evaluations)),
        rows=tuple(rows),
        note=" ".join(notes),
    )


def _means(
    title: str, note: str, evaluations: Sequence[Evaluation], means: Sequence[Mapping[str, Estimate]]
) -> Section:
    return Section(
        title=title,
        headings=("", *(evaluation.name for evaluation in evaluations)),
        rows=tuple((_NAMES[key], *(figure(own[key]) for own in means)) for key in means[0]),
        note=note,
    )


def _lesions(evaluations: Sequence[Evaluation], tolerance_mm: float) -> Section:
    note = (
        f"By id where not said otherwise. Surface Dice at {tolerance_mm:g} mm. HD95 only where both outlines are "
        "there; a missed lesion counts as 0 elsewhere. Errors are predicted less true. Lesions that merged are one."
    )
    means = [
        evaluation.lesion_means | {"presence_auc": evaluation.presence_auc}
        if evaluation.has_presence
        # Other methods may have presences, and the rows are the same for all.
        else evaluation.lesion_means | {"presence_auc": Estimate(value=None, low=None, high=None, count=0)}
        for evaluation in evaluations
    ]
    return _means("Means over lesions", note, evaluations, means)


def _patients(evaluations: Sequence[Evaluation]) -> Section:
    means = [evaluation.patient_means for evaluation in evaluations]
    return _means("Means over patients of their lesions' means", "", evaluations, means)


def _detection(evaluation: Evaluation) -> Section:
    found = evaluation.detection
    rows = [
        ("true", *(str(detection.true_lesions) for detection in found)),
        ("predicted", *(str(detection.predicted_lesions) for detection in found)),
        ("F1, mean over patients", *(figure(detection.f1) for detection in found)),
        ("average precision", *(figure(detection.average_precision) for detection in found)),
        ("mean average precision, IoU 0.1 to 0.5", *(figure(detection.mean_average_precision) for detection in found)),
        ("exams with lesions, area under the ROC curve", *(figure(detection.exam_auc) for detection in found)),
        *(
            (f"sensitivity at {rate} false positives per exam", *(figure(each.sensitivity[rate]) for each in found))
            for rate in found[0].sensitivity
        ),
    ]
    surely = "" if evaluation.has_presence else " There is no run report, so all predictions count as equally sure."
    return Section(
        title=f"Detection: {evaluation.name}",
        headings=("", *(f"over {each.over_mm:g} mm" if each.over_mm else "all lesions" for each in found)),
        rows=tuple(rows),
        note=f"A lesion is found where a prediction overlaps it by an IoU of 0.1.{surely}",
    )


def _longitudinal(name: str, found: Longitudinal) -> Iterator[Section]:
    agreements = (("lesion", found.lesion_change_ml), ("patient", found.burden_change_ml))
    yield Section(
        title=f"Change of volume since the baseline: {name}",
        headings=("per", "bias (ml)", "95 % limits of agreement (ml)", "concordance"),
        rows=tuple(
            (
                each,
                figure(agreement.bias),
                "-" if agreement.lower_limit is None else f"{agreement.lower_limit:.2f} to {agreement.upper_limit:.2f}",
                figure(agreement.concordance),
            )
            for each, agreement in agreements
        ),
        note="Predicted less true change, of lesions that were there before and of all lesions of a patient together."
        + _left_out(found),
    )
    yield _confusion(f"What became of the lesions: {name}", found.fates, note=_left_out(found))
    yield _confusion(
        f"Response to therapy, by RECIST 1.1: {name}",
        found.response,
        note=f" Not evaluable, since nothing was measurable before and nothing is new: {found.not_evaluable} patients."
        + _left_out(found),
    )


def _left_out(found: Longitudinal) -> str:
    return (
        f" Left out, since they have no baseline: {found.without_baseline} patients." if found.without_baseline else ""
    )


def _confusion(title: str, confusion: Confusion, *, note: str = "") -> Section:
    kappa = f"Truth by row, prediction by column. Kappa {figure(confusion.kappa)}"
    weighted = "" if confusion.weighted_kappa is None else f", linearly weighted {figure(confusion.weighted_kappa)}"
    return Section(
        title=title,
        headings=("truth", *confusion.categories),
        rows=tuple(
            (category, *map(str, counts))
            for category, counts in zip(confusion.categories, confusion.counts, strict=True)
        ),
        note=f"{kappa}{weighted}.{note}",
    )


def _strata(evaluations: Sequence[Evaluation]) -> Section:
    return Section(
        title="Strata",
        headings=("method", "by", "stratum", "Dice", "detected", "gone, recognised"),
        rows=tuple(
            (
                evaluation.name,
                stratum.by,
                stratum.name,
                figure(stratum.dice),
                figure(stratum.detected),
                figure(stratum.recognised),
            )
            for evaluation in evaluations
            for stratum in evaluation.strata
        ),
        note="Means over lesions. A lesion that is gone counts by its diameter before.",
    )


def _interaction(steps: Sequence[Interaction]) -> Section:
    return Section(
        title="Interactive steps",
        headings=("", "without clicks", "with clicks", "area under the curve"),
        rows=tuple(
            (_NAMES[step.value], figure(step.without_clicks), figure(step.with_clicks), figure(step.area))
            for step in steps
        ),
        note="Means over patients for whom both steps are defined.",
    )


def _differences(differences: Sequence[Difference]) -> Section:
    return Section(
        title="Paired differences",
        headings=("first", "second", "", "first less second", "Wilcoxon p"),
        rows=tuple(
            (
                each.first,
                each.second,
                _NAMES[each.value],
                figure(each.difference),
                "-" if each.p_value is None else f"{each.p_value:.2g}",
            )
            for each in differences
        ),
        note="Means over patients for whom both are defined. The p values are not corrected for their number.",
    )
