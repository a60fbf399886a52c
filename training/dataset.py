"""Training samples: lesions of synthetic pairs, placed and sampled by the library, jittered, encoded, augmented."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float32
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from longilesion.alignment import place_vois
from longilesion.case import LesionMap, LesionPrompt
from longilesion.config import ModelSettings
from longilesion.encoding import NetworkInput, encode
from longilesion.geometry import Grid
from longilesion.prompts import complete_prompts
from longilesion.voi import Placement, VoiPair, resample, sample_voi_pair
from training.recipe import JitterSettings, Recipe
from training.synthesis.pairs import LesionFact, SyntheticPair, synthetic_pair
from training.synthesis.sources import Source


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sample:
    """One lesion as the library samples it, with its true follow-up mask on the follow-up lattice."""

    pair: VoiPair
    target: Float32[np.ndarray, "z y x"]
    fact: LesionFact


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """An encoded batch and what is true of it; absent lesions have an empty target."""

    input: NetworkInput
    target: Float32[Tensor, "batch 1 z y x"]
    present: Bool[Tensor, " batch"]

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        return Batch(input=self.input.to(device), target=self.target.to(device), present=self.present.to(device))


class SyntheticLesions(IterableDataset[Sample]):
    """An endless stream of lesions, each yielded `reuse` times at random distances."""

    def __init__(self, sources: Sequence[Source], recipe: Recipe, *, seed: int) -> None:
        """Keeps the sources; the stream depends on the seed and the worker alone."""
        self._sources = tuple(sources)
        self._recipe = recipe
        self._seed = seed

    def __iter__(self) -> Iterator[Sample]:
        """Draws pairs forever; the pool that is drawn from holds a few dozen samples."""
        worker = get_worker_info()
        generator = np.random.default_rng((self._seed, 0 if worker is None else worker.id))
        pool: list[Sample] = []
        while True:
            while len(pool) < 40 * self._recipe.data.reuse:
                source = self._sources[int(generator.integers(len(self._sources)))]
                pair = synthetic_pair(source, generator, shapes=self._sources)
                for sample in lesion_samples(pair, self._recipe.model, generator, jitter=self._recipe.jitter):
                    pool.extend([sample] * self._recipe.data.reuse)
            chosen = int(generator.integers(len(pool)))
            pool[chosen], pool[-1] = pool[-1], pool[chosen]
            yield pool.pop()


def lesion_samples(
    pair: SyntheticPair, settings: ModelSettings, generator: np.random.Generator, *, jitter: JitterSettings
) -> Iterator[Sample]:
    """Samples every lesion of a pair as inference would, but for the jitter of its placement."""
    voi = settings.voi.model_copy(update={"shape_zyx": jitter.shape_zyx or settings.voi.shape_zyx})
    for prompt in complete_prompts(pair.case):
        placement = place_vois(pair.case, prompt, settings)
        fact = pair.facts[prompt.lesion_id]
        for _ in range(jitter.placements):
            jittered = _jittered(placement, prompt, generator, jitter)
            voi_pair = sample_voi_pair(pair.case, prompt, jittered, voi)
            target = sample_target(pair.truth, prompt.lesion_id, voi_pair.followup.grid)
            # A lesion that the VOI misses teaches nothing but a wrong absence.
            if fact.fate == "gone" or target.sum() > 8:
                yield Sample(pair=voi_pair, target=target, fact=fact)


def sample_target(truth: LesionMap, lesion_id: int, lattice: Grid) -> Float32[np.ndarray, "z y x"]:
    """The true mask of a lesion (0 or 1) on a lattice of the follow-up scan."""
    ids, grid = truth.grid.lps_view(truth.ids)
    start, step = grid.axis_steps(lattice)
    share = resample(ids == lesion_id, start_zyx=start, step_zyx=step, shape_zyx=lattice.shape_zyx)
    return (share > 0.5).astype(np.float32)


def collate(samples: Sequence[Sample], recipe: Recipe) -> Batch:
    """Encodes samples as a batch, with the library's own encoding."""
    return Batch(
        input=encode([sample.pair for sample in samples], recipe.model.encoding),
        target=torch.from_numpy(np.stack([sample.target for sample in samples])[:, None]),
        present=torch.tensor([sample.fact.fate != "gone" for sample in samples]),
    )


def augmented(batch: Batch, recipe: Recipe, generator: torch.Generator) -> Batch:
    """Flips both time points alike, and varies each one's intensities (LongiNet, section 2.5: scale, shift, gamma)."""
    flips = [axis for axis in (2, 3, 4) if float(torch.rand((), generator=generator)) < 0.5]
    images = len(recipe.model.encoding.clip_hu)
    streams = []
    for stream in (batch.input.followup, batch.input.baseline):
        flipped = stream.flip(flips)
        size = (len(stream), images, 1, 1, 1)
        scale = 1 + 0.05 * (2 * torch.rand(size, generator=generator) - 1)
        shift = 0.02 * (2 * torch.rand(size, generator=generator) - 1)
        gamma = 0.9 + 0.2 * torch.rand(size, generator=generator)
        varied = (flipped[:, :images].clamp(min=0) ** gamma * scale + shift).clamp(0, 1)
        streams.append(torch.cat((varied, flipped[:, images:]), dim=1))
    known = batch.input.has_baseline.float()[:, None, None, None, None]
    return Batch(
        input=NetworkInput(followup=streams[0], baseline=streams[1] * known, has_baseline=batch.input.has_baseline),
        target=batch.target.flip(flips),
        present=batch.present,
    )


def _jittered(
    placement: Placement, prompt: LesionPrompt, generator: np.random.Generator, jitter: JitterSettings
) -> Placement:
    center = placement.followup_xyz_mm
    if generator.random() < jitter.unaligned_share:
        center = prompt.followup.point_xyz_mm
    x, y, z = (np.array(center) + generator.normal(0, jitter.shift_mm, 3)).tolist()
    limit = np.log(jitter.zoom_factor)
    zoom = placement.zoom * float(np.exp(generator.uniform(-limit, limit)))
    return replace(placement, followup_xyz_mm=(x, y, z), zoom=zoom)
