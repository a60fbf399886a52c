"""Where the lesions of a review were looked for first, and the candidates of its search, kept in its folder.

Registration differs from run to run in the last bits of a position, which may decide about a voxel, or about a
candidate. A review that goes on is to begin with the same outlines, and need not register again; its decisions name
candidates by id.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import dist
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from longilesion.case import ScanName
from longilesion.errors import InputError
from longilesion.files import valid, written_together
from longilesion.geometry import Triple
from longilesion.json_file import read_json
from longilesion.new_lesions import NewLesion
from longilesion.prompts import Prompts

FILE_NAME = "prompts.json"

# The centre of a candidate may move by its voxels at the border; candidates of other lesions are farther away.
_SAME_MM = 3.0


class _Candidate(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    id: int
    scan: ScanName
    centre_xyz_mm: Triple

    def __str__(self) -> str:
        place = ", ".join(f"{each:.0f}" for each in self.centre_xyz_mm)
        return f"candidate {self.id} in the {self.scan} scan at {place} mm"


class Beginning(BaseModel):
    """The prompts and the candidates of a review of that fingerprint."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fingerprint: str
    prompts: Prompts
    candidates: tuple[_Candidate, ...] = ()

    @classmethod
    def of(cls, fingerprint: str, prompts: Prompts, candidates: Iterable[NewLesion]) -> Beginning:
        """What is to be kept."""
        found = (
            _Candidate(id=each.lesion_id, scan=each.scan_name, centre_xyz_mm=each.candidate.centre_xyz_mm)
            for each in candidates
        )
        return cls(fingerprint=fingerprint, prompts=prompts, candidates=tuple(found))

    def check(self, now: Beginning) -> None:
        """Raises InputError where the candidates are others now, as decisions would be about other lesions."""
        before, after = ({each.id: each for each in kept.candidates} for kept in (self, now))
        for lesion_id in sorted(before.keys() | after.keys()):
            old, new = before.get(lesion_id), after.get(lesion_id)
            if old and new and old.scan == new.scan and dist(old.centre_xyz_mm, new.centre_xyz_mm) <= _SAME_MM:
                continue
            raise InputError(
                f"the search finds {new or f'no candidate {lesion_id}'}; expected {old or 'none'}, as when the review "
                "began: its decisions would be about other lesions; begin with another --output"
            )


def read_beginning(folder: Path, fingerprint: str) -> Beginning | None:
    """What was kept of a review of that fingerprint; None where there is nothing.

    Raises InputError for a damaged file.
    """
    path = folder / FILE_NAME
    if not path.exists():
        return None
    kept: Beginning = read_json(
        path, Beginning, expected="the prompts of a review; without the file they are made again"
    )
    return kept if kept.fingerprint == fingerprint else None


def write_beginning(folder: Path, beginning: Beginning) -> None:
    """Keeps it; raises InputError where that fails."""
    with written_together({folder / FILE_NAME: valid(Beginning)}) as (temporary,):
        temporary.write_text(beginning.model_dump_json(indent=1) + "\n", encoding="utf-8")
