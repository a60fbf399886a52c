"""What is known of a case that has been run: a record beside its results, which says of what they were made."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from longilesion.errors import InputError
from longilesion.files import valid, written_together
from longilesion.fingerprint import file_fingerprint
from longilesion.grand_challenge import output_paths

RECORD, REPORT = "case.json", "report.json"


class CaseRecord(BaseModel):
    """A case of a cohort: `fingerprint` is that of all that its results depend on, `outputs` are those of its files.

    `warnings` are what reading and outlining warned of. `error` is why it failed, None where it is done.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    case: str
    fingerprint: str = ""
    seconds: dict[str, float] = {}
    warnings: list[str] = []
    error: str | None = None
    outputs: dict[str, str] = {}

    @property
    def state(self) -> Literal["done", "failed"]:
        """Whether there are results."""
        return "done" if self.error is None else "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A case's record; `is_kept` is true where it is one of an earlier run."""

    record: CaseRecord
    is_kept: bool = False


def finished(folder: Path, fingerprint: str) -> CaseRecord | None:
    """The record of a case that is done, of the same things, and whose files are as they were written; else None."""
    try:
        record = CaseRecord.model_validate_json((folder / RECORD).read_bytes())
    except (OSError, ValidationError):
        return None
    if record.error is not None or record.fingerprint != fingerprint or REPORT not in record.outputs:
        return None
    try:
        is_whole = all(file_fingerprint(folder / name) == wanted for name, wanted in record.outputs.items())
    except InputError:
        return None
    return record if is_whole else None


def write_record(folder: Path, record: CaseRecord) -> None:
    """Writes the record of a case that is done; raises InputError where that fails."""
    with written_together({folder / RECORD: valid(CaseRecord)}) as (temporary,):
        temporary.write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")


def clear(folder: Path) -> None:
    """Removes the results of a case; the record goes first, so what is left if this is interrupted belongs to none."""
    for path in (folder / RECORD, folder / REPORT, *output_paths(folder).values()):
        with suppress(OSError):
            path.unlink(missing_ok=True)
