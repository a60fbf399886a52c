"""The page of a cohort, one file: failures first, lesions by fate, responses, and a link to each case."""

from __future__ import annotations

from pathlib import Path

import longilesion
from longilesion.cohort.lesions import FATES
from longilesion.cohort.record import REPORT
from longilesion.cohort.summary import CohortSummary
from longilesion.cohort.tables import LESIONS
from longilesion.course import STATEMENT
from longilesion.files import check_text, written_together
from longilesion.html_report.templates import environment

PAGE = "summary.html"


def write_summary(folder: Path, cohort: CohortSummary, *, model: str) -> None:
    """Writes the page; raises InputError where that fails."""
    page = (
        environment("longilesion.cohort")
        .get_template("summary.html.j2")
        .render(
            cohort=cohort,
            fates=FATES,
            table=LESIONS,
            report=REPORT,
            statement=STATEMENT,
            version=longilesion.__version__,
            model=model,
        )
    )
    with written_together({folder / PAGE: check_text}) as (temporary,):
        temporary.write_text(page + "\n", encoding="utf-8")
