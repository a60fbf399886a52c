"""The cache of a prepared data set: a cut-out of every lesion, placed for a recipe's lattice and jitter.

Each case's entry has a fingerprint of the case's files and of the code that reads, places and cuts. Where either has
changed, the entry is made again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path

from filelock import FileLock
from pydantic import BaseModel

from longilesion.case import LesionMap, ScanName
from longilesion.evaluation.exam import Fate
from longilesion.evaluation.folders import find_exams
from longilesion.evaluation.reading import read_exam
from longilesion.files import check_json, check_writable, written_together
from longilesion.fingerprint import folder_fingerprint
from longilesion.json_file import read_json
from training.cutout import cut, placed_lesions
from training.cutout_file import write_cut_out
from training.fingerprint import code_fingerprint
from training.parallel import in_parallel
from training.preparation.prepared import PreparedCase, PreparedData, read_prepared_case
from training.recipe import Recipe
from training.samples import is_seen

_log = logging.getLogger("training")

_INDEX = "lesions.json"
# Imported indirectly, without influence on placing and cutting; nor has what only these modules import.
_UNINVOLVED = (
    "longilesion.encoding",
    "longilesion.report",
    "training.augmentation",
    "training.mask_errors",
    "training.parallel",
)
_REGISTERING = ("SimpleITK", "picsl_greedy")


class CachedLesion(BaseModel):
    """A lesion in the cache; `is_seen` is false where the lattice misses it, so that it is no valid training sample."""

    case_id: str
    patient: str
    lesion_id: int
    fate: Fate
    is_seen: bool


class _Index(BaseModel):
    """A case in the cache: its lesions, and the fingerprint of their files and code."""

    made_of: str
    lesions: list[CachedLesion]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cache:
    """The lesions of some cases, and the folder that holds their cut-outs."""

    folder: Path
    lesions: tuple[CachedLesion, ...]

    def path(self, lesion: CachedLesion) -> Path:
        """The file of a lesion's cut-out."""
        return self.folder / lesion.case_id / f"{lesion.lesion_id}.npz"


def build_cache(data: PreparedData, cases: Sequence[PreparedCase], recipe: Recipe, *, workers: int) -> Cache:
    """Cuts out the lesions of those cases that are not in the cache yet, or have another fingerprint.

    The folder's name identifies the recipe's part: another lattice has a cache of its own. Entries of cases that the
    data set no longer has are removed. Of several runs that need the same cache, one builds it and the others wait; a
    run in progress reads entries that are made again. Raises InputError where a case cannot be cut out.
    """
    folder = data.folder / "cache" / _key(recipe)
    check_writable(folder)
    # Hashing releases the interpreter lock, so that threads suffice.
    with ThreadPoolExecutor(workers) as pool:
        fingerprint = partial(_made_of, with_earlier=recipe.model.network.uses_earlier)
        made_of = dict(zip((case.case_id for case in cases), pool.map(fingerprint, cases), strict=True))
    job = partial(_cut_case, folder=folder, recipe=recipe)
    with FileLock(folder / ".lock"):
        _remove_others(folder, data)
        missing = _missing(folder, cases, made_of)
        for warnings in in_parallel(job, missing, workers=workers, label="cutting out lesions"):
            for warning in warnings:
                _log.warning("%s", warning)
        lesions = tuple(lesion for case in cases for lesion in _read_index(folder, case).lesions)
    cache = Cache(folder=folder, lesions=lesions)
    unseen = [lesion for lesion in cache.lesions if not lesion.is_seen]
    _log.info("%d lesions of %d cases", len(cache.lesions) - len(unseen), len(cases))
    if unseen:
        named = ", ".join(f"{lesion.case_id}/{lesion.lesion_id}" for lesion in unseen[:5])
        more = " ..." if len(unseen) > 5 else ""
        _log.warning("%d more lesions lie outside their lattices and are left out: %s%s", len(unseen), named, more)
    return cache


def _key(recipe: Recipe) -> str:
    decisive = {
        "voi": recipe.model.voi.model_dump(mode="json"),
        "alignment": recipe.model.alignment.model_dump(mode="json"),
        "jitters": [jitter.model_dump(mode="json") for jitter in (recipe.jitter, recipe.presence.jitter)],
        # Only then, as networks that see the same share a cache.
        **({"earlier": True} if recipe.model.network.uses_earlier else {}),
    }
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:12]


def _made_of(case: PreparedCase, *, with_earlier: bool) -> str:
    earlier = [folder_fingerprint(before.input) for before in case.earlier if with_earlier]
    parts = (_code(), case.patient, folder_fingerprint(case.folder), *earlier)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@cache
def _code() -> str:
    return " ".join([code_fingerprint(__name__, without=_UNINVOLVED), *map(version, _REGISTERING)])


def _missing(folder: Path, cases: Sequence[PreparedCase], made_of: Mapping[str, str]) -> list[PreparedCase]:
    """The cases without a complete entry of the current fingerprint."""
    entries = {case.case_id: _whole_entry(folder, case) for case in cases}
    missing = [
        case for case in cases if (entry := entries[case.case_id]) is None or entry.made_of != made_of[case.case_id]
    ]
    changed = [case.case_id for case in missing if entries[case.case_id] is not None]
    if missing:
        there = len(cases) - len(missing)
        _log.info("cutting out the lesions of %d cases, %d more are in %s", len(missing), there, folder)
    if changed:
        named = ", ".join(changed[:5]) + (" ..." if len(changed) > 5 else "")
        _log.info("%d of them again, as their files or the code that places have changed: %s", len(changed), named)
    return missing


def _remove_others(folder: Path, data: PreparedData) -> None:
    """Removes the entries of cases that the data set no longer has."""
    known = {case.case_id for case in data.cases}
    for path in folder.iterdir():
        if path.is_dir() and path.name not in known:
            shutil.rmtree(path)


def _cut_case(case: PreparedCase, folder: Path, recipe: Recipe) -> list[str]:
    """Cuts out a case's lesions; returns the contradictions found in the case."""
    # Before anything is read: a later change makes the entry outdated.
    with_earlier = recipe.model.network.uses_earlier
    made_of = _made_of(case, with_earlier=with_earlier)
    entry = folder / case.case_id
    (entry / _INDEX).unlink(missing_ok=True)
    exam, warnings = read_exam(find_exams(case.folder)[0])
    scans, _ = read_prepared_case(case, with_earlier=with_earlier)
    truth: dict[ScanName, LesionMap] = {scan: exam.truth[scan] for scan in scans.followups if scan in exam.truth}
    jitters = (recipe.jitter, recipe.presence.jitter)
    lesions = []
    for whole in placed_lesions(scans, truth, exam.facts, recipe.model):
        part = cut(whole, recipe.model, jitters)
        lesion_id = whole.prompt.lesion_id
        write_cut_out(entry / f"{lesion_id}.npz", part)
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
    for path in set(entry.glob("*.npz")) - {entry / f"{lesion.lesion_id}.npz" for lesion in lesions}:
        path.unlink()
    # Last, as it marks the case as complete.
    with written_together({entry / _INDEX: check_json}) as (temporary,):
        temporary.write_text(
            _Index(made_of=made_of, lesions=lesions).model_dump_json(indent=1) + "\n", encoding="utf-8"
        )
    return warnings


def _whole_entry(folder: Path, case: PreparedCase) -> _Index | None:
    """The cache's entry of a case; None where its index or a cut-out is missing."""
    if not (folder / case.case_id / _INDEX).is_file():
        return None
    index = _read_index(folder, case)
    cache = Cache(folder=folder, lesions=tuple(index.lesions))
    return index if all(cache.path(lesion).is_file() for lesion in index.lesions) else None


def _read_index(folder: Path, case: PreparedCase) -> _Index:
    path = folder / case.case_id / _INDEX
    return read_json(path, _Index, expected="the index of a cached case, delete the folder to make it again")
