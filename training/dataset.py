"""Training data of a run: lesions of a prepared data set's cache, or of synthetic pairs drawn on the fly.

Sample k of a run is a function of the run's seed and of k alone, independent of process and time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count

import numpy as np
import torch
from torch.utils.data import Dataset

from longilesion.config import ModelSettings
from longilesion.errors import InputError
from training.cache import Cache, CachedLesion
from training.cutout import CutOut, placed_lesions, with_latest
from training.cutout_file import DamagedCutOutError, read_cut_out
from training.recipe import Recipe
from training.samples import Sample, sample_lesion, sample_seed, unjittered
from training.synthesis.pairs import SyntheticPair, synthetic_pair
from training.synthesis.shape_library import ShapeLibrary
from training.synthesis.sources import Source

_CPU = torch.device("cpu")
# Number of draws of a jittered lattice that misses its lesion, before the lesion is used without jitter.
_ATTEMPTS = 4
# Generators may draw healthy pairs; this many in a row mean that there is no place for lesions.
_FRUITLESS_PAIRS = 100
# This many damaged cut-outs in a row are a systematic error.
_DAMAGED_IN_A_ROW = 20


class CachedLesions(Dataset[Sample]):
    """Lesions from a cache: every patient once per round, with one random lesion."""

    # Samples do not depend on the process that draws them.
    drawn_together = 1

    def __init__(self, cache: Cache, recipe: Recipe, *, seed: int) -> None:
        """Raises InputError where no lesion is usable for training."""
        by_patient: dict[str, list[CachedLesion]] = {}
        for lesion in cache.lesions:
            if lesion.is_seen:
                by_patient.setdefault(lesion.patient, []).append(lesion)
        if not by_patient:
            raise InputError(f"{cache.folder}: no lesion lies where it is looked for; expected some to train on")
        self._patients = [by_patient[patient] for patient in sorted(by_patient)]
        self._cache, self._recipe, self._seed = cache, recipe, seed

    def __getitem__(self, index: int) -> Sample:
        """Sample `index` of the run; a damaged cut-out is replaced by another lesion and noted in the sample."""
        patients = len(self._patients)
        order = np.random.default_rng((self._seed, 0, index // patients)).permutation(patients)
        generator = np.random.default_rng((self._seed, 1, index))
        lesions = self._patients[int(order[index % patients])]
        skipped: list[str] = []
        for _ in range(_DAMAGED_IN_A_ROW):
            lesion = lesions[int(generator.integers(len(lesions)))]
            try:
                whole = read_cut_out(self._cache.path(lesion))
            except DamagedCutOutError as error:
                skipped.append(str(error))
                lesions = self._patients[int(generator.integers(patients))]
                continue
            priors = self._recipe.drawn_priors(generator, available=1 + len(whole.case.earlier))
            whole = with_latest(whole, priors - 1)
            for jitter in (*[self._recipe.jitter] * _ATTEMPTS, unjittered(self._recipe.jitter)):
                sample = sample_lesion(whole, self._recipe.model, jitter, generator)
                if sample is not None:
                    seed = sample_seed(self._seed, index)
                    return replace(sample, seed=seed, origin=lesion.patient, skipped=tuple(skipped))
        raise InputError(f"{skipped[-1] if skipped else self._cache.folder}; {_DAMAGED_IN_A_ROW} of them in a row")


class SyntheticLesions(Dataset[Sample]):
    """Lesions of synthetic pairs; those of a block are shuffled, each used several times."""

    def __init__(
        self,
        sources: Sequence[Source],
        recipe: Recipe,
        *,
        seed: int,
        library: ShapeLibrary | None = None,
        device: torch.device = _CPU,
    ) -> None:
        """Stores the sources, whose pairs are drawn on `device`; nothing is drawn yet."""
        self._sources, self._recipe, self._seed, self._device = tuple(sources), recipe, seed, device
        self._library = library
        reused = recipe.data.drawn_together * recipe.data.reuse
        self.drawn_together = -(-reused // recipe.batch_size) * recipe.batch_size
        self._block: tuple[int, list[Sample]] = (-1, [])

    def __getitem__(self, index: int) -> Sample:
        """Sample `index` of the run; the first of a block draws the whole block, which is kept until the next one."""
        number, place = divmod(index, self.drawn_together)
        if self._block[0] != number:
            self._block = (number, self._drawn(number))
        return replace(self._block[1][place], seed=sample_seed(self._seed, index))

    def _drawn(self, number: int) -> list[Sample]:
        generator = np.random.default_rng((self._seed, 2, number))
        samples: list[Sample] = []
        recipe = self._recipe
        fruitless = 0
        for pair_number in count():
            if len(samples) * recipe.data.reuse >= self.drawn_together:
                break
            if fruitless > _FRUITLESS_PAIRS:
                names = ", ".join(source.name for source in self._sources)
                raise InputError(f"{names}: {fruitless} pairs in a row without a lesion to learn from; expected some")
            before = len(samples)
            source = self._sources[int(generator.integers(len(self._sources)))]
            pair = synthetic_pair(
                source,
                generator,
                priors=recipe.drawn_priors(generator),
                shapes=self._sources,
                library=self._library,
                settings=recipe.synthesis,
                device=self._device,
            )
            for lesion in pair_lesions(pair, recipe.model):
                drawn = (
                    sample_lesion(lesion, recipe.model, recipe.jitter, generator)
                    for _ in range(recipe.jitter.placements)
                )
                origin = f"{source.name}, pair {pair_number} of block {number}"
                samples += [replace(sample, origin=origin) for sample in drawn if sample is not None]
            fruitless = 0 if len(samples) > before else fruitless + 1
        block = samples * recipe.data.reuse
        generator.shuffle(block)
        return block[: self.drawn_together]


def pair_lesions(pair: SyntheticPair, settings: ModelSettings) -> Iterator[CutOut]:
    """The lesions of a synthetic pair, placed."""
    return placed_lesions(pair.case, {"primary": pair.truth}, pair.facts, settings)
