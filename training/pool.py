"""A pool of batches on the network's device, for networks that learn faster than workers draw lesions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from longilesion.ensemble import AXES, mirrored
from longilesion.networks.interface import NetworkInput
from training.batch import Batch
from training.recipe import Recipe


def pooled(
    drawn: Iterator[Batch], recipe: Recipe, *, device: torch.device, seed: int, first_step: int
) -> Iterator[Batch]:
    """One batch per drawn one: that and others that came before it, from a pool, mirrored anew.

    A drawn batch has a part of a step's lesions (`Recipe.drawn`); it is put into the pool, in place of the oldest where
    the pool is full, and the step's lesions are those of `reuse` random ones. The first steps of a run, and of one that
    is resumed, have fewer, as the pool is empty then.
    """
    pool: list[Batch] = []
    room = recipe.data.pool // recipe.drawn().batch_size
    axes = recipe.augmentation.joint.mirror_axes
    for place, batch in enumerate(drawn):
        if len(pool) < room:
            pool.append(batch.to(device))
        else:
            pool[place % room] = batch.to(device)
        generator = np.random.default_rng((seed, 4, first_step + place))
        chosen = generator.choice(len(pool), min(recipe.data.reuse, len(pool)), replace=False)
        flipped = [axis for axis in axes if generator.random() < 0.5]
        yield _joined([pool[number] for number in chosen], flipped, skipped=batch.skipped)


def _joined(batches: Sequence[Batch], flipped: Sequence[str], *, skipped: tuple[str, ...]) -> Batch:
    """One batch of several, mirrored along those axes; damaged cut-outs are those of the batch that is new."""
    dimensions = [AXES[axis] for axis in flipped]
    return Batch(
        input=mirrored(NetworkInput.joined([batch.input for batch in batches]), dimensions),
        target=torch.cat([batch.target for batch in batches]).flip(dimensions),
        present=torch.cat([batch.present for batch in batches]),
        origins=tuple(origin for batch in batches for origin in batch.origins),
        outlined=tuple(outlined for batch in batches for outlined in batch.outlined),
        skipped=skipped,
    )
