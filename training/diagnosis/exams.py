"""Multi-phase exams to learn from, registered and sampled on the lattice of a model, in a cache beside them.

Each exam's file has a fingerprint of the exam's files and of the code that reads, registers and samples. Where either
has changed, the exam is made again.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
from filelock import FileLock
from jaxtyping import Bool, Int16, UInt16

from longilesion.case import LesionMap
from longilesion.components import lesion_voxels
from longilesion.diagnosis.exam import RegisteredPhases
from longilesion.diagnosis.exam_folder import EXAMS_FILE, read_exam_folder, read_truth
from longilesion.diagnosis.registration import register_phases
from longilesion.diagnosis_settings import PHASES, DiagnosisSettings, LesionType
from longilesion.errors import InputError
from longilesion.files import check_archive, check_writable, written_together
from longilesion.fingerprint import folder_fingerprint
from longilesion.geometry import Grid
from longilesion.json_file import read_json
from longilesion.sliding import Region
from training.exams import DAMAGE, fingerprint_of, sampled_ids
from training.fingerprint import code_fingerprint
from training.parallel import in_parallel
from training.preparation.phases import ExamEntry, ExamsFile

# What registers besides the project's own code.
_REGISTERING = ("SimpleITK", "picsl_greedy")

_log = logging.getLogger("training")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TypedExam:
    """An exam on a model's lattice: its phases, absent ones zero, and the true lesions with their types.

    Lesions that are too small for a voxel of the lattice are in `types` and not in `ids`.
    """

    name: str
    hu: Int16[np.ndarray, "phases z y x"]
    is_there: Bool[np.ndarray, " phases"]
    liver: Bool[np.ndarray, "z y x"]
    ids: UInt16[np.ndarray, "z y x"]
    types: Mapping[int, LesionType]
    grid: Grid

    @property
    def registered(self) -> RegisteredPhases:
        """What inference sees."""
        return RegisteredPhases(
            hu=self.hu.astype(np.float32), is_there=self.is_there, region=Region(mask=self.liver, grid=self.grid)
        )

    @property
    def truth(self) -> tuple[LesionMap, Mapping[int, LesionType]]:
        """The true lesions on the lattice, and the types of those that are on it."""
        shown = lesion_voxels(self.ids)
        return LesionMap(ids=self.ids, grid=self.grid), {each: self.types[each] for each in shown}


def load_exams(
    root: Path, settings: DiagnosisSettings, *, hosts: Sequence[str] | None = None, workers: int
) -> list[TypedExam]:
    """The exams in a folder, of those hosts or of all; registers and samples those that are not in the cache yet.

    Recipes with the same lattice share a cache, which holds all phases. Raises InputError where an exam cannot be read.
    """
    entries = [entry for entry in listed(root) if hosts is None or entry.host in hosts]
    if not entries:
        raise InputError(f"{root}: no exams of {', '.join(hosts or ())}; expected some")
    folder = root / "cache" / f"phases_{_key(settings)}"
    check_writable(folder)
    with FileLock(folder / ".lock"):
        made_of = {entry.name: _made_of(root / entry.name) for entry in entries}
        missing = [
            (root / entry.name, folder / f"{entry.name}.npz", made_of[entry.name])
            for entry in entries
            if fingerprint_of(folder / f"{entry.name}.npz") != made_of[entry.name]
        ]
        if missing:
            _log.info("registering %d exams, %d more are in %s", len(missing), len(entries) - len(missing), folder)
        all_phases = settings.model_copy(update={"phases": PHASES})
        for _ in in_parallel(partial(_make, settings=all_phases), missing, workers=workers, label="registering exams"):
            pass
    return [_read(folder / f"{entry.name}.npz", settings) for entry in entries]


def listed(root: Path) -> tuple[ExamEntry, ...]:
    """The exams in a folder; raises InputError where there is no list of them, or an incomplete one."""
    path = root / EXAMS_FILE
    entries = read_json(path, ExamsFile, expected="a list of exams, as training.prepare phases writes").exams
    if not entries:
        raise InputError(f"{path}: lists no exam; expected it complete, run training.prepare phases again")
    return entries


def split_hosts(root: Path, held_out: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The livers to train on, and those held out; raises InputError for one that no exam has, or where none is left."""
    hosts = sorted({entry.host for entry in listed(root)})
    unknown = sorted(set(held_out) - set(hosts))
    if unknown:
        raise InputError(f"--held-out {unknown[0]}: {root} has exams of {', '.join(hosts)}; expected one of these")
    training = tuple(host for host in hosts if host not in held_out)
    if not training:
        raise InputError(f"--held-out: no liver of {root} is left to train on; expected at least one")
    return training, tuple(host for host in hosts if host in held_out)


def described(root: Path, exams: Sequence[TypedExam]) -> str:
    """A description of training exams for a run's record; it differs for another folder or other exams."""
    names = "\n".join(sorted(exam.name for exam in exams))
    return f"{root.name}, {len(exams)} exams {hashlib.sha256(names.encode()).hexdigest()[:12]}"


def _make(job: tuple[Path, Path, str], settings: DiagnosisSettings) -> None:
    folder, path, made_of = job
    exam = read_exam_folder(folder, liver=True)
    truth, types = read_truth(folder)
    phases = register_phases(exam, settings)
    grid = phases.region.grid
    facts = {"made_of": made_of, "name": folder.name, "types": {str(each): name for each, name in types.items()}}
    with written_together({path: check_archive}) as (temporary,), temporary.open("wb") as file:
        np.savez(
            file,
            allow_pickle=False,
            facts=np.array(json.dumps(facts)),
            hu=np.rint(phases.hu).astype(np.int16),
            is_there=phases.is_there,
            liver=phases.region.mask,
            ids=sampled_ids(truth, types, grid),
            grid=grid.world_from_voxel,
        )


def _read(path: Path, settings: DiagnosisSettings) -> TypedExam:
    """The exam with the phases of the settings."""
    chosen = [PHASES.index(phase) for phase in settings.phases]
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as members:
            arrays = {name: members[name] for name in members.files}
        facts = json.loads(str(arrays["facts"]))
        return TypedExam(
            name=facts["name"],
            hu=arrays["hu"][chosen],
            is_there=arrays["is_there"][chosen],
            liver=arrays["liver"],
            ids=arrays["ids"],
            types={int(lesion_id): name for lesion_id, name in facts["types"].items()},
            grid=Grid(shape_zyx=arrays["ids"].shape, world_from_voxel=arrays["grid"]),
        )
    except DAMAGE as error:
        raise InputError(f"{path}: {error}; expected an exam, delete it and it is made again") from error


def _key(settings: DiagnosisSettings) -> str:
    lattice = settings.model_dump(mode="json", include={"shape_zyx", "spacing_zyx_mm"})
    return hashlib.sha256(json.dumps(lattice, sort_keys=True).encode()).hexdigest()[:12]


def _made_of(folder: Path) -> str:
    return hashlib.sha256("\n".join((_code(), folder_fingerprint(folder))).encode()).hexdigest()


@cache
def _code() -> str:
    code = code_fingerprint(__name__, without=("training.parallel", "training.preparation.phases"))
    return " ".join([code, *map(version, _REGISTERING)])
