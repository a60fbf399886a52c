"""Where the lesions of a review were looked for first, kept in its folder.

Registration differs from run to run in the last bits of a position, which may decide about a voxel. A review that goes
on is to begin with the same outlines, and need not register again.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from longilesion.files import valid, written_together
from longilesion.json_file import read_json
from longilesion.prompts import Prompts

FILE_NAME = "prompts.json"


class _Stored(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    fingerprint: str
    prompts: Prompts


def read_prompts(folder: Path, fingerprint: str) -> Prompts | None:
    """The prompts that were kept of a review of that fingerprint; None where there are none.

    Raises InputError for a damaged file.
    """
    path = folder / FILE_NAME
    if not path.exists():
        return None
    stored: _Stored = read_json(path, _Stored, expected="the prompts of a review; without the file they are made again")
    return stored.prompts if stored.fingerprint == fingerprint else None


def write_prompts(folder: Path, fingerprint: str, prompts: Prompts) -> None:
    """Keeps the prompts; raises InputError where that fails."""
    with written_together({folder / FILE_NAME: valid(_Stored)}) as (temporary,):
        stored = _Stored(fingerprint=fingerprint, prompts=prompts)
        temporary.write_text(stored.model_dump_json(indent=1) + "\n", encoding="utf-8")
