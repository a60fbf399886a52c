"""The record of a patient's preparation: images and lesions that were found, kept and left out, with reasons."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from training.preparation.prepared import CaseEntry

RECORDS_FOLDER = "records"


class LeftOut(BaseModel):
    """The reason for leaving something out; an error is a contradiction in the data, other kinds are rules."""

    model_config = ConfigDict(frozen=True)

    reason: str
    detail: str = ""
    is_error: bool = True

    def __str__(self) -> str:
        return f"{self.reason} ({self.detail})" if self.detail else self.reason


class ImageRecord(BaseModel):
    """An image of a patient, and its case and scan."""

    model_config = ConfigDict(frozen=True)

    file: str
    case_id: str | None = None
    scan: str | None = None
    left_out: LeftOut | None = None


class LesionRecord(BaseModel):
    """A lesion of a patient, and its case; its id is None where it could not be read."""

    model_config = ConfigDict(frozen=True)

    lesion_id: int | None
    fate: str | None = None
    case_id: str | None = None
    left_out: LeftOut | None = None


class Record(BaseModel):
    """The record of a patient, or of one case where cases are made separately."""

    model_config = ConfigDict(frozen=True)

    name: str
    patient: str
    cases: tuple[CaseEntry, ...] = ()
    images: tuple[ImageRecord, ...] = ()
    lesions: tuple[LesionRecord, ...] = ()
    warnings: tuple[str, ...] = ()
    left_out: LeftOut | None = None

    def all_left_out(self) -> Iterator[tuple[str, LeftOut]]:
        """Everything left out, with its name: the patient or case, or else its images and lesions."""
        whose = f"patient {self.patient}" if self.name == self.patient else f"patient {self.patient}, case {self.name}"
        if self.left_out is not None:
            yield whose, self.left_out
            return
        for image in self.images:
            if image.left_out is not None:
                yield f"{whose}, image {image.file}", image.left_out
        for lesion in self.lesions:
            if lesion.left_out is not None:
                name = "a lesion" if lesion.lesion_id is None else f"lesion {lesion.lesion_id}"
                yield f"{whose}, {name}", lesion.left_out


def record_path(folder: Path, name: str) -> Path:
    """The path of a record in a data set; its existence marks the cases as complete."""
    return folder / RECORDS_FOLDER / f"{name}.json"
