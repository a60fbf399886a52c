"""Batches of synthetic lesions, drawn by worker processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from threadpoolctl import threadpool_limits
from torch.utils.data import DataLoader

from training.dataset import Batch, SyntheticLesions, collate
from training.recipe import Recipe
from training.synthesis.sources import Source

_PREFETCHED = 16


def batches(sources: Sequence[Source], recipe: Recipe, *, seed: int, workers: int) -> Iterator[Batch]:
    """An endless stream of encoded batches."""
    loader = DataLoader(
        SyntheticLesions(sources, recipe, seed=seed),
        batch_size=recipe.batch_size,
        collate_fn=partial(collate, recipe=recipe),
        num_workers=workers,
        # One pair gives a worker several batches at once; the network must not wait for the next pair meanwhile.
        prefetch_factor=_PREFETCHED if workers else None,
        worker_init_fn=_single_threaded,
    )
    return iter(loader)


def _single_threaded(_worker: int) -> None:
    """The cores belong to the network; a worker's small products would only fight over them."""
    torch.set_num_threads(1)
    threadpool_limits(1)
