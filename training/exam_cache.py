"""The cache of a prepared data set's exams, registered and sampled for the lattice of a detector.

Each exam's file has a fingerprint of the case's files and of the code that reads, registers and samples. Where either
has changed, the exam is made again.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path

from filelock import FileLock

from longilesion.config import VoiSettings
from longilesion.evaluation.folders import find_exams
from longilesion.evaluation.reading import read_exam as read_truth
from longilesion.files import check_writable
from longilesion.fingerprint import folder_fingerprint
from training.exams import fingerprint_of, registered_exam, write_exam
from training.fingerprint import code_fingerprint
from training.parallel import in_parallel
from training.preparation.prepared import PreparedCase, PreparedData, read_prepared_exam

_log = logging.getLogger("training")

# What registers besides the project's own code.
_REGISTERING = ("SimpleITK", "picsl_greedy")


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedExam:
    """An exam in the cache, and its file."""

    case_id: str
    patient: str
    path: Path


def build_exam_cache(
    data: PreparedData, cases: Sequence[PreparedCase], voi: VoiSettings, *, workers: int
) -> tuple[CachedExam, ...]:
    """Registers and samples those cases that are not in the cache yet, or have another fingerprint.

    The folder's name identifies the lattice: recipes with the same one share a cache. Of several runs that need it, one
    builds it and the others wait. Raises InputError where a case has no organ mask, or cannot be read.
    """
    folder = data.folder / "cache" / f"exams_{_key(voi)}"
    check_writable(folder)
    exams = tuple(
        CachedExam(case_id=case.case_id, patient=case.patient, path=folder / f"{case.case_id}.npz") for case in cases
    )
    with FileLock(folder / ".lock"):
        missing = [
            (case, exam.path)
            for case, exam in zip(cases, exams, strict=True)
            if fingerprint_of(exam.path) != _made_of(case)
        ]
        if missing:
            _log.info("registering %d exams, %d more are in %s", len(missing), len(cases) - len(missing), folder)
        for _ in in_parallel(partial(_make, voi=voi), missing, workers=workers, label="registering exams"):
            pass
    return exams


def _make(job: tuple[PreparedCase, Path], voi: VoiSettings) -> None:
    case, path = job
    # Before anything is read: a later change makes the file outdated.
    made_of = _made_of(case)
    truth, _ = read_truth(find_exams(case.folder)[0])
    exam = registered_exam(read_prepared_exam(case), truth.truth["primary"], voi)
    write_exam(path, exam, made_of=made_of)


def _key(voi: VoiSettings) -> str:
    lattice = voi.model_dump(mode="json", include={"shape_zyx", "spacing_zyx_mm"})
    return hashlib.sha256(json.dumps(lattice, sort_keys=True).encode()).hexdigest()[:12]


def _made_of(case: PreparedCase) -> str:
    parts = (_code(), case.patient, folder_fingerprint(case.folder))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@cache
def _code() -> str:
    code = code_fingerprint(__name__, without=("training.parallel", "longilesion.report"))
    return " ".join([code, *map(version, _REGISTERING)])
