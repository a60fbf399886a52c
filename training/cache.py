"""The cache of a prepared data set: a cut-out of every lesion, placed for a recipe's lattice and jitter."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from filelock import FileLock
from pydantic import BaseModel, TypeAdapter, ValidationError

from longilesion.case import LesionMap, ScanName
from longilesion.errors import InputError
from longilesion.evaluation.exam import Fate
from longilesion.evaluation.folders import find_exams
from longilesion.evaluation.reading import read_exam
from longilesion.files import check_json, check_writable, written_together
from longilesion.grand_challenge import read_case
from training.cutout import cut, placed_lesions, write_cut_out
from training.parallel import in_parallel
from training.preparation.prepared import PreparedCase, PreparedData
from training.recipe import Recipe
from training.samples import is_seen

_log = logging.getLogger("training")

# To be raised whenever placement, cutting or the files' contents change.
_FORMAT = 1
_INDEX = "lesions.json"


class CachedLesion(BaseModel):
    """A lesion in the cache; `is_seen` is false where a lattice misses it, so that it could only mislead."""

    case_id: str
    patient: str
    lesion_id: int
    fate: Fate
    is_seen: bool


_INDEXED = TypeAdapter(list[CachedLesion])


@dataclass(frozen=True, slots=True, kw_only=True)
class Cache:
    """The lesions of some cases, and the folder that holds their cut-outs."""

    folder: Path
    lesions: tuple[CachedLesion, ...]

    def path(self, lesion: CachedLesion) -> Path:
        """The file of a lesion's cut-out."""
        return self.folder / lesion.case_id / f"{lesion.lesion_id}.npz"


def build_cache(data: PreparedData, cases: Sequence[PreparedCase], recipe: Recipe, *, workers: int) -> Cache:
    """Cuts out the lesions of those cases that are not in the cache yet; raises InputError where that is impossible.

    The recipe's part in it is in the folder's name: another lattice has a cache of its own. Of several runs that want
    the same cache, one builds it and the others wait.
    """
    folder = data.folder / "cache" / _key(recipe)
    check_writable(folder)
    job = partial(_cut_case, folder=folder, recipe=recipe)
    with FileLock(folder / ".lock"):
        missing = [case for case in cases if not _is_complete(folder, case)]
        if missing:
            there = len(cases) - len(missing)
            _log.info("cutting out the lesions of %d cases, %d more are in %s", len(missing), there, folder)
        for warnings in in_parallel(job, missing, workers=workers, label="cutting out lesions"):
            for warning in warnings:
                _log.warning("%s", warning)
        cache = Cache(folder=folder, lesions=tuple(lesion for case in cases for lesion in _read_index(folder, case)))
    unseen = [lesion for lesion in cache.lesions if not lesion.is_seen]
    _log.info("%d lesions of %d cases", len(cache.lesions) - len(unseen), len(cases))
    if unseen:
        named = ", ".join(f"{lesion.case_id}/{lesion.lesion_id}" for lesion in unseen[:5])
        more = " ..." if len(unseen) > 5 else ""
        _log.warning("%d more lesions lie outside their lattices and are left out: %s%s", len(unseen), named, more)
    return cache


def _key(recipe: Recipe) -> str:
    decisive = {
        "format": _FORMAT,
        "voi": recipe.model.voi.model_dump(mode="json"),
        "alignment": recipe.model.alignment.model_dump(mode="json"),
        "jitters": [jitter.model_dump(mode="json") for jitter in (recipe.jitter, recipe.presence.jitter)],
    }
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:12]


def _cut_case(case: PreparedCase, folder: Path, recipe: Recipe) -> list[str]:
    """Cuts out a case's lesions; returns what in the case does not fit together."""
    exam, warnings = read_exam(find_exams(case.folder)[0])
    scans, _ = read_case(case.folder / "input")
    truth: dict[ScanName, LesionMap] = {scan: exam.truth[scan] for scan in scans.followups if scan in exam.truth}
    jitters = (recipe.jitter, recipe.presence.jitter)
    lesions = []
    for whole in placed_lesions(scans, truth, exam.facts, recipe.model):
        part = cut(whole, recipe.model, jitters)
        lesion_id = whole.prompt.lesion_id
        write_cut_out(folder / case.case_id / f"{lesion_id}.npz", part)
        lesions.append(
            CachedLesion(
                case_id=case.case_id,
                patient=case.patient,
                lesion_id=lesion_id,
                fate=whole.fate,
                is_seen=all(is_seen(part, recipe.model, jitter) for jitter in jitters),
            )
        )
    left_out = sorted(exam.facts.keys() - {lesion.lesion_id for lesion in lesions})
    warnings += [f"{case.folder}: lesion {lesion_id} has no place or no fate; left out" for lesion_id in left_out]
    # Last, as it says that the case is complete.
    with written_together({folder / case.case_id / _INDEX: check_json}) as (temporary,):
        temporary.write_bytes(_INDEXED.dump_json(lesions, indent=1))
    return warnings


def _is_complete(folder: Path, case: PreparedCase) -> bool:
    if not (folder / case.case_id / _INDEX).is_file():
        return False
    cache = Cache(folder=folder, lesions=())
    return all(cache.path(lesion).is_file() for lesion in _read_index(folder, case))


def _read_index(folder: Path, case: PreparedCase) -> list[CachedLesion]:
    path = folder / case.case_id / _INDEX
    try:
        return _INDEXED.validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise InputError(
            f"{path}: damaged; expected the index of a cached case, delete the folder to make it again"
        ) from error
