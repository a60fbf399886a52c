"""The report of a preparation: numbers found, kept and left out, with reasons."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from pydantic import BaseModel, ConfigDict
from rich.table import Table

from longilesion.markdown import markdown_table
from training.preparation.record import Record


class Count(BaseModel):
    """The numbers of one kind that were found, kept and left out."""

    model_config = ConfigDict(frozen=True)

    found: int
    kept: int
    left_out: int


class Reason(BaseModel):
    """A reason for leaving something out, and how often it occurred."""

    model_config = ConfigDict(frozen=True)

    reason: str
    is_error: bool
    count: int


class Report(BaseModel):
    """The contents of report.json; `records` has each patient with its images and lesions.

    The lesions of a patient left out count as left out as far as they were read.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    source: str
    patients: Count
    images: Count
    lesions: Count
    cases: int
    reasons: tuple[Reason, ...]
    patients_for_testing: tuple[str, ...]
    warnings: tuple[str, ...]
    records: tuple[Record, ...]


def make_report(
    records: Sequence[Record], *, name: str, source: str, testing: Sequence[str], warnings: Sequence[str]
) -> Report:
    """Sums up the records of all patients."""
    images = [image for record in records for image in record.images]
    lesions = [lesion for record in records for lesion in record.lesions]
    found = {record.patient for record in records}
    kept = {record.patient for record in records if record.cases}
    reasons = Counter((why.reason, why.is_error) for record in records for _, why in record.all_left_out())
    return Report(
        name=name,
        source=source,
        patients=Count(found=len(found), kept=len(kept), left_out=len(found - kept)),
        images=_counted([image.case_id is not None for image in images]),
        lesions=_counted([lesion.case_id is not None for lesion in lesions]),
        cases=sum(len(record.cases) for record in records),
        reasons=tuple(
            Reason(reason=reason, is_error=is_error, count=count)
            for (reason, is_error), count in sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
        ),
        patients_for_testing=tuple(testing),
        warnings=(
            *warnings,
            *(f"patient {record.patient}: {warning}" for record in records for warning in record.warnings),
        ),
        records=tuple(records),
    )


def to_rich(report: Report) -> Table:
    """The numbers kept, and the reasons for the rest, for a terminal."""
    table = Table("", "found", "kept", "left out", title=f"{report.name}: {report.cases} cases")
    for column in table.columns[1:]:
        column.justify = "right"
    for kind, count in _kinds(report):
        table.add_row(kind, str(count.found), str(count.kept), str(count.left_out))
    for reason in report.reasons:
        table.add_row(f"  {reason.reason}", "", "", str(reason.count), style="dim")
    return table


def to_markdown(report: Report) -> str:
    """The report in Markdown: numbers, reasons, and everything left out."""
    return "\n".join([*_summary(report), *_reasons(report), *_things(report), *_warnings(report)]) + "\n"


def _counted(kept: Sequence[bool]) -> Count:
    return Count(found=len(kept), kept=sum(kept), left_out=len(kept) - sum(kept))


def _kinds(report: Report) -> tuple[tuple[str, Count], ...]:
    return ("patients", report.patients), ("images", report.images), ("lesions", report.lesions)


def _summary(report: Report) -> Iterator[str]:
    yield from (f"# {report.name}", "", f"Prepared from {report.source}: {report.cases} cases.", "")
    rows = [(kind, f"{count.found}", f"{count.kept}", f"{count.left_out}") for kind, count in _kinds(report)]
    yield from markdown_table(["", "found", "kept", "left out"], rows, numbers_from=1)
    if report.patients_for_testing:
        yield from ("", f"{len(report.patients_for_testing)} patients are for testing, and in none of the folds.")


def _reasons(report: Report) -> Iterator[str]:
    if not report.reasons:
        return
    rows = [(each.reason, "error" if each.is_error else "rule", f"{each.count}") for each in report.reasons]
    yield from ("", "## Reasons", "", *markdown_table(["reason", "kind", "how often"], rows, numbers_from=2))


def _things(report: Report) -> Iterator[str]:
    things = [(thing, why) for record in report.records for thing, why in record.all_left_out()]
    if things:
        yield from ("", "## Left out", "")
        yield from (f"- {thing}: {why}" for thing, why in things)


def _warnings(report: Report) -> Iterator[str]:
    if report.warnings:
        yield from ("", "## Warnings", "")
        yield from (f"- {warning}" for warning in report.warnings)
