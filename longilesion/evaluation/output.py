"""Writing the files of an evaluation, all or none: JSON, CSV, Markdown and plots."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from longilesion.evaluation.plots import PLOTS, draw_plots
from longilesion.evaluation.rows import write_rows
from longilesion.evaluation.run import EvaluationReport, EvaluationRun
from longilesion.evaluation.tables import Section, sections, to_markdown
from longilesion.files import check_picture, check_text, valid, written_together

_DOTS_PER_INCH = 150


def report_sections(report: EvaluationReport) -> list[Section]:
    """The report's tables."""
    return list(
        sections(
            report.evaluations,
            ranks=report.ranks,
            differences=report.differences,
            steps=report.interaction,
            tolerance_mm=report.settings.tolerance_mm,
        )
    )


def write_evaluation(directory: Path, run: EvaluationRun) -> list[Path]:
    """Writes evaluation.json, evaluation.md, exams.csv, lesions.csv and the plots; returns their paths.

    Raises InputError where writing fails.
    """
    evaluations = run.report.evaluations
    figures = draw_plots(evaluations, run.detections)
    checks = {
        directory / "evaluation.json": valid(EvaluationReport),
        **{directory / name: check_text for name in ("evaluation.md", "exams.csv", "lesions.csv")},
        **{directory / f"{stem}.png": check_picture for stem in figures},
    }
    with written_together(checks) as (as_json, as_markdown, exams, lesions, *pictures):
        as_json.write_text(run.report.model_dump_json(indent=1) + "\n", encoding="utf-8")
        as_markdown.write_text(_markdown(run.report, figures), encoding="utf-8")
        write_rows(exams, ({"method": each.name, **row.model_dump()} for each in evaluations for row in each.exams))
        write_rows(lesions, ({"method": each.name, **row.model_dump()} for each in evaluations for row in each.lesions))
        for picture, figure in zip(pictures, figures.values(), strict=True):
            figure.savefig(picture, format="png", dpi=_DOTS_PER_INCH)
    for stem in set(PLOTS) - figures.keys():
        # A plot of an earlier run would appear to belong to this one.
        (directory / f"{stem}.png").unlink(missing_ok=True)
    return list(checks)


def _markdown(report: EvaluationReport, figures: Iterable[str]) -> str:
    warnings = sorted({warning for each in report.evaluations for warning in each.warnings})
    versions = ", ".join(f"{name} {number}" for name, number in report.versions.items())
    settings = ", ".join(f"{name} {value}" for name, value in report.settings.model_dump().items())
    parts = [
        f"# Evaluation of {', '.join(each.name for each in report.evaluations)}",
        "",
        f"Intervals: 95 %, {report.draws} draws of patients, seed {report.seed}. Settings: {settings}. {versions}.",
        "",
        *(to_markdown(section) for section in report_sections(report)),
        *(f"![{stem.replace('_', ' ')}]({stem}.png)\n" for stem in figures),
    ]
    if warnings:
        parts += ["## Warnings", "", *(f"- {warning}" for warning in warnings), ""]
    return "\n".join(parts)
