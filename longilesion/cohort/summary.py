"""What has become of each case of a cohort, and of all of them together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from longilesion.cohort.lesions import FATES, Fate, lesion_rows
from longilesion.cohort.record import REPORT, CaseRecord
from longilesion.errors import InputError, first_error
from longilesion.report import ResponseReport, RunReport

# Columns of the table of cases.
CASE_COLUMNS = (
    "case",
    "state",
    "seconds",
    "lesions",
    *(fate.replace(" ", "_") for fate in FATES),
    "volume_baseline_ml",
    "volume_followup_ml",
    "sum_baseline_mm",
    "sum_followup_mm",
    "change",
    "response",
    "warnings",
    "error",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseSummary:
    """A case in a line: numbers of its lesions by fate, their volumes, the response; without these where it failed."""

    record: CaseRecord
    fates: Mapping[Fate, int]
    volume_baseline_ml: float = 0.0
    volume_followup_ml: float = 0.0
    response: ResponseReport | None = None

    @property
    def seconds(self) -> float:
        """Those of all stages."""
        return sum(self.record.seconds.values())

    @property
    def lesions(self) -> int:
        """The number of lesions, without candidates, which nobody has confirmed."""
        return sum(count for fate, count in self.fates.items() if fate != "candidate")

    def row(self) -> dict[str, Any]:
        """Its cells, by column; volumes and numbers of a case that failed are not known."""
        row: dict[str, Any] = {"case": self.record.case, "state": self.record.state, "error": self.record.error}
        row |= {"seconds": round(self.seconds, 2), "warnings": len(self.record.warnings)}
        if self.record.error is not None:
            return row
        row |= {"lesions": self.lesions, **{fate.replace(" ", "_"): self.fates.get(fate, 0) for fate in FATES}}
        row |= {"volume_baseline_ml": round(self.volume_baseline_ml, 4)}
        row |= {"volume_followup_ml": round(self.volume_followup_ml, 4)}
        if self.response is not None:
            names = ("sum_baseline_mm", "sum_followup_mm", "change", "response")
            row |= {name: getattr(self.response, name) for name in names}
        return row


class CohortSummary:
    """Gathers the cases' summaries while their lesions pass by, so that those of few cases are in memory."""

    def __init__(self, output: Path, records: Sequence[CaseRecord]) -> None:
        self._output, self._records = output, records
        self.cases: list[CaseSummary] = []

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows of all lesions; `cases` is complete afterwards. Raises InputError where a report is damaged."""
        for record in self._records:
            report = None if record.error is not None else _report(self._output / record.case / REPORT)
            rows = [] if report is None else list(lesion_rows(record.case, report))
            self.cases.append(
                CaseSummary(
                    record=record,
                    fates=Counter(row["fate"] for row in rows),
                    volume_baseline_ml=sum(row.get("volume_baseline") or 0.0 for row in rows),
                    volume_followup_ml=sum(_outlined(row) for row in rows),
                    response=None if report is None else report.response,
                )
            )
            yield from rows

    @property
    def failed(self) -> list[CaseSummary]:
        """The cases without results."""
        return [case for case in self.cases if case.record.error is not None]

    @property
    def fates(self) -> Counter[Fate]:
        """The number of lesions of each fate."""
        total: Counter[Fate] = Counter()
        for case in self.cases:
            total.update(case.fates)
        return total

    @property
    def responses(self) -> Counter[str]:
        """The number of cases of each response."""
        return Counter(case.response.response for case in self.cases if case.response is not None)


def _outlined(row: Mapping[str, Any]) -> float:
    return 0.0 if row["fate"] == "candidate" else row.get("volume_followup") or 0.0


def _report(path: Path) -> RunReport:
    try:
        return RunReport.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(
            f"{path}: {error.strerror}; expected the report of a case, where all machines write"
        ) from error
    except ValidationError as error:
        raise InputError(f"{path}: {first_error(error)}; expected the report of a case that is done") from error
