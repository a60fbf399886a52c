"""Training and validation data of a run: a fold of a prepared data set, CT volumes, or phantoms."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from longilesion.errors import InputError
from training.cache import build_cache
from training.dataset import CachedLesions, SyntheticLesions
from training.detection_validation import DetectionValidation
from training.exam_cache import build_exam_cache
from training.exam_dataset import CachedExams
from training.loading import Lesions
from training.preparation.prepared import PreparedCase, PreparedData, is_prepared, read_prepared
from training.recipe import Recipe
from training.synthesis.pairs import SyntheticPair, synthetic_pair
from training.synthesis.shape_library import read_shape_library
from training.synthesis.sources import Source, find_volumes, load_sources, phantom_sources
from training.validation import CaseValidation, Validation, prepared_cases, spread, synthetic_cases

_log = logging.getLogger("training")

_CPU = torch.device("cpu")

_TRAINING_PHANTOMS, _VALIDATION_PHANTOMS, _TEST_PHANTOMS = range(4), range(200, 202), range(100, 105)
# Without a list in the recipe, every n-th volume is for validation.
_VALIDATION_STRIDE = 5


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainingData:
    """Training lesions, validation cases, and a description of the training data.

    `contents` also changes with the number or the names of cases, and with the content of a file of lesion shapes.
    `licence` is that of the shapes.
    """

    lesions: Lesions
    validation: Validation
    trained_on: str
    contents: str
    licence: str | None = None


def find_training_data(
    data: Path | None,
    recipe: Recipe,
    *,
    fold: int | None,
    seed: int,
    workers: int,
    of_presence: bool = False,
    synthesis_device: torch.device = _CPU,
) -> TrainingData:
    """Finds the data; a prepared data set's lesions are cut out first where they are not in its cache yet.

    `of_presence` gives the lesions for fitting the presence head, with little jitter. Raises InputError where the
    folder contains no training data.
    """
    if recipe.task == "detection":
        return _exam_data(data, recipe, fold=fold, seed=seed, workers=workers)
    drawn = recipe.for_presence() if of_presence else recipe.drawn()
    if data is None or not is_prepared(data):
        training, held_out = synthesis_sources(data, recipe, fold=fold)
        library = None if recipe.data.shapes is None else read_shape_library(recipe.data.shapes)
        names = "phantoms" if data is None else ", ".join(source.name for source in training)
        shapes = "" if library is None else f", {library.description}"
        return TrainingData(
            lesions=SyntheticLesions(training, drawn, seed=seed, library=library, device=synthesis_device),
            # Without the file's shapes, so that runs with and without it are judged on the same cases.
            validation=CaseValidation(cases=synthetic_cases(held_out, recipe)),
            trained_on=f"{names if data is None else f'synthetic follow-ups of {names}'}{shapes}",
            contents=f"{names}{shapes}",
            licence=None if library is None else library.attribution,
        )
    if recipe.data.shapes is not None:
        raise InputError(f"{recipe.data.shapes}: {data} is prepared; expected shapes in training.prepare synthetic")
    prepared = read_prepared(data)
    training_cases, validation_cases = prepared.split(fold)
    cache = build_cache(prepared, training_cases, recipe, workers=workers)
    part = "80/20 split" if fold is None else f"without fold {fold}"
    return TrainingData(
        lesions=CachedLesions(cache, drawn, seed=seed),
        validation=CaseValidation(cases=prepared_cases(validation_cases, recipe)),
        trained_on=f"{prepared.name}, {len(training_cases)} cases, {part}",
        contents=prepared_contents(prepared, training_cases),
    )


def _exam_data(data: Path | None, recipe: Recipe, *, fold: int | None, seed: int, workers: int) -> TrainingData:
    """The exams of a prepared data set, for a detector."""
    if data is None or not is_prepared(data):
        raise InputError(
            f"{'no data' if data is None else data}: recipe {recipe.name} trains a detector; expected --data to name "
            "exams (python -m training.prepare synthetic --organ)"
        )
    prepared = read_prepared(data)
    training_cases, validation_cases = prepared.split(fold)
    chosen = spread(validation_cases, recipe.validation.cases)
    exams = build_exam_cache(prepared, (*training_cases, *chosen), recipe.model.voi, workers=workers)
    own = len(training_cases)
    return TrainingData(
        lesions=CachedExams(exams[:own], recipe, seed=seed),
        validation=DetectionValidation(exams=exams[own:]),
        trained_on=f"{prepared.name}, {own} exams, {'80/20 split' if fold is None else f'without fold {fold}'}",
        contents=prepared_contents(prepared, training_cases),
    )


def synthesis_sources(
    data: Path | None, recipe: Recipe, *, fold: int | None = None
) -> tuple[Sequence[Source], Sequence[Source]]:
    """The volumes for training and for validation, by `split_volumes`; or phantoms, which have no folds."""
    if data is None:
        _check_unfolded(fold)
        return phantom_sources(_TRAINING_PHANTOMS), phantom_sources(_VALIDATION_PHANTOMS)
    training, validation = split_volumes(data, recipe, fold=fold)
    return load_sources(data, training), load_sources(data, validation)


def held_out_sources(data: Path | None, recipe: Recipe, *, fold: int | None = None) -> Sequence[Source]:
    """The volumes not used for training, or phantoms used for neither training nor validation."""
    if data is None:
        _check_unfolded(fold)
        return phantom_sources(_TEST_PHANTOMS)
    return load_sources(data, split_volumes(data, recipe, fold=fold)[1])


def held_out_pairs(
    data: Path | None, recipe: Recipe, *, fold: int | None, cases: int, seed: int
) -> Iterator[tuple[str, SyntheticPair]]:
    """Synthetic pairs of the held-out sources in turn, with names; pair k depends on the seed and k alone."""
    sources = held_out_sources(data, recipe, fold=fold)
    for number in range(cases):
        source = sources[number % len(sources)]
        generator = np.random.default_rng((seed, number))
        pair = synthetic_pair(source, generator, shapes=sources, settings=recipe.synthesis)
        yield f"{source.name}/{number}", pair


def _check_unfolded(fold: int | None) -> None:
    if fold is not None:
        raise InputError(f"--fold {fold}: phantoms have no folds; expected --data")


def split_volumes(data: Path, recipe: Recipe, *, fold: int | None = None) -> tuple[list[str], list[str]]:
    """The names of the volumes for training and for validation.

    The validation volumes are the recipe's where the folder has any of them, or else every fifth. Those of a fold
    validate instead of them and do not train; the recipe's own then do neither. Raises InputError where only some of
    the recipe's are there, or too few volumes for both, or the recipe has no such fold.
    """
    if fold is not None and not 0 <= fold < len(recipe.data.folds):
        folds = len(recipe.data.folds)
        raise InputError(
            f"--fold {fold}: recipe {recipe.name} has {folds} folds of volumes, and {data} is not prepared; expected "
            f"{f'0 to {folds - 1}' if folds else 'a prepared data set'}"
        )
    names = find_volumes(data)
    wanted = (*recipe.data.train, *recipe.data.validation)
    if set(wanted) & set(names):
        missing = sorted(set(wanted) - set(names))
        if missing:
            raise InputError(f"{data}: no {missing[0]}/ct.nii.gz; expected all volumes that recipe {recipe.name} names")
        validation = list(recipe.data.validation if fold is None else recipe.data.folds[fold])
        training = [name for name in recipe.data.train or names if name not in validation]
    elif fold is not None:
        raise InputError(f"--fold {fold}: none of the volumes that recipe {recipe.name} names is in {data}")
    else:
        if wanted:
            _log.info("none of the volumes that recipe %s names is in %s: every fifth one validates", recipe.name, data)
        validation = names[_VALIDATION_STRIDE - 1 :: _VALIDATION_STRIDE] or names[-1:]
        training = [name for name in names if name not in validation]
    if not (training and validation):
        raise InputError(f"{data}: {len(names)} volume; expected at least two, one to train on and one to validate")
    return training, validation


def prepared_contents(data: PreparedData, cases: Sequence[PreparedCase]) -> str:
    """A description of the training cases for a run's record; it differs for another name or other cases."""
    names = "\n".join(sorted(case.case_id for case in cases))
    return f"{data.name}, {len(cases)} cases {hashlib.sha256(names.encode()).hexdigest()[:12]}"
