"""The cache of a prepared data set: a cut-out of every lesion, placed for a recipe's lattice and jitter."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pydantic import BaseModel, TypeAdapter, ValidationError

from longilesion.case import LesionMap, ScanName
from longilesion.errors import InputError
from longilesion.evaluation.exam import Fate
from longilesion.evaluation.folders import find_exams
from longilesion.evaluation.reading import read_exam
from longilesion.files import written_together
from longilesion.grand_challenge import read_case
from training.cutout import cut, placed_lesions, write_cut_out
from training.parallel import in_parallel
from training.preparation.prepared import PreparedCase, PreparedData
from training.recipe import Recipe
from training.samples import is_seen

_log = logging.getLogger("training")

_INDEX = "lesions.json"


class CachedLesion(BaseModel):
    """A lesion in the cache; `is_seen` is false where its own lattice misses it, so that it could only mislead."""

    case_id: str
    patient: str
    lesion_id: int
    fate: Fate
    is_seen: bool


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

    Whatever decides the cut-outs is in the folder's name: another recipe's lattice has a cache of its own.
    """
    folder = data.folder / "cache" / _key(recipe)
    job = partial(_cut_case, folder=folder, recipe=recipe)
    missing = [case for case in cases if not (folder / case.case_id / _INDEX).is_file()]
    if missing:
        _log.info(
            "cutting out the lesions of %d cases, %d more are in %s", len(missing), len(cases) - len(missing), folder
        )
    for _ in in_parallel(job, missing, workers=workers, label="cutting out lesions"):
        pass
    return Cache(folder=folder, lesions=tuple(lesion for case in cases for lesion in _read_index(folder, case)))


def _key(recipe: Recipe) -> str:
    decisive = {
        "voi": recipe.model.voi.model_dump(mode="json"),
        "alignment": recipe.model.alignment.model_dump(mode="json"),
        "jitters": [jitter.model_dump(mode="json") for jitter in (recipe.jitter, recipe.presence.jitter)],
    }
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:12]


def _cut_case(case: PreparedCase, folder: Path, recipe: Recipe) -> None:
    exam, _ = read_exam(find_exams(case.folder)[0])
    scans, _ = read_case(case.folder / "input")
    truth: dict[ScanName, LesionMap] = {scan: exam.truth[scan] for scan in scans.followups if scan in exam.truth}
    lesions = []
    for whole in placed_lesions(scans, truth, exam.facts, recipe.model):
        part = cut(whole, recipe.model, (recipe.jitter, recipe.presence.jitter))
        lesion_id = whole.prompt.lesion_id
        write_cut_out(folder / case.case_id / f"{lesion_id}.npz", part)
        lesions.append(
            CachedLesion(
                case_id=case.case_id,
                patient=case.patient,
                lesion_id=lesion_id,
                fate=whole.fate,
                is_seen=is_seen(part, recipe.model, recipe.jitter),
            )
        )
    # Last, as it says that the case is complete.
    with written_together([folder / case.case_id / _INDEX]) as (temporary,):
        temporary.write_bytes(_INDEXED.dump_json(lesions, indent=1))


_INDEXED = TypeAdapter(list[CachedLesion])


def _read_index(folder: Path, case: PreparedCase) -> list[CachedLesion]:
    path = folder / case.case_id / _INDEX
    try:
        return _INDEXED.validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise InputError(
            f"{path}: damaged; expected the index of a cached case, delete the folder to make it again"
        ) from error
