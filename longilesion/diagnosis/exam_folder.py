"""Exams in folders: a file per phase, the liver's mask, and the true lesions with their types."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel

from longilesion.case import LesionMap
from longilesion.components import lesion_voxels
from longilesion.diagnosis.exam import LiverExam
from longilesion.diagnosis.phases import read_phases
from longilesion.diagnosis_settings import PHASES, LesionType, Phase
from longilesion.errors import InputError
from longilesion.images import read_lesion_map
from longilesion.json_file import read_json

LIVER_FILE = "liver.nii.gz"
LESIONS_FILE = "lesions.nii.gz"
TYPES_FILE = "lesions.json"
# The list of a folder's exams, as training.prepare phases writes it; other folders have none.
EXAMS_FILE = "exams.json"


class _Listed(BaseModel):
    """What is needed of an entry in the list of exams."""

    name: str


class _List(BaseModel):
    """What is needed of the list of exams."""

    exams: tuple[_Listed, ...]


class _Lesion(BaseModel):
    """What is needed of an entry in the file of types."""

    type: LesionType


def phase_files(folder: Path) -> dict[Phase, Path]:
    """The files of an exam's phases, in order of time; raises InputError where there is none."""
    files = {phase: folder / f"{phase}.nii.gz" for phase in PHASES}
    found = {phase: path for phase, path in files.items() if path.is_file()}
    if not found:
        names = ", ".join(path.name for path in files.values())
        raise InputError(f"{folder}: no phase of an exam; expected one or more of {names}")
    return found


def exam_folders(root: Path) -> list[Path]:
    """The folders of exams in a folder, by name; raises InputError where there is none, or one that is listed lacks."""
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; expected one with a folder per exam")
    folders = sorted(path for path in root.iterdir() if any((path / f"{phase}.nii.gz").is_file() for phase in PHASES))
    if not folders:
        raise InputError(f"{root}: no exam in it; expected a folder for each, with files such as venous.nii.gz")
    path = root / EXAMS_FILE
    if path.is_file():
        listed = {each.name for each in read_json(path, _List, expected="a list of exams with their names").exams}
        missing = sorted(listed - {folder.name for folder in folders})
        if missing:
            raise InputError(
                f"{path}: lists {missing[0]}, which has no phase in {root}; expected a folder of that exam"
            )
    return folders


def read_exam_folder(folder: Path, *, liver: bool) -> LiverExam:
    """Reads an exam's phases, with the mask of its liver or without it; as `read_phases`."""
    return read_phases(phase_files(folder), folder / LIVER_FILE if liver else None)


def read_truth(folder: Path) -> tuple[LesionMap, dict[int, LesionType]]:
    """The map of an exam's true lesions, and their types by id.

    Raises InputError where a lesion of the map has no type, or a type no lesion.
    """
    lesions = read_lesion_map(folder / LESIONS_FILE)
    path = folder / TYPES_FILE
    entries: dict[int, _Lesion] = read_json(path, dict[int, _Lesion], expected="a type for each lesion id")
    outlined = set(lesion_voxels(lesions.ids))
    if outlined != set(entries):
        raise InputError(f"{path}: lesions {sorted(entries)}; expected those of {LESIONS_FILE}, {sorted(outlined)}")
    return lesions, {lesion_id: entry.type for lesion_id, entry in sorted(entries.items())}
