"""Sets of voxels as runs: pairs of a first index and a count, of the voxels of a volume one after another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from jaxtyping import Int64
from numpy.typing import ArrayLike

Runs: TypeAlias = tuple[tuple[int, int], ...]


def runs_of(indices: ArrayLike) -> Runs:
    """The runs of a set of indices, in ascending order."""
    ordered = np.unique(np.asarray(indices, np.int64))
    if not len(ordered):
        return ()
    breaks = np.flatnonzero(np.diff(ordered) != 1)
    first = ordered[np.concatenate([[0], breaks + 1])]
    last = ordered[np.concatenate([breaks, [len(ordered) - 1]])]
    return tuple(zip(first.tolist(), (last - first + 1).tolist(), strict=True))


def indices_of(runs: Sequence[tuple[int, int]]) -> Int64[np.ndarray, " n"]:
    """The indices in runs, in ascending order, each once."""
    parts = [np.arange(first, first + count, dtype=np.int64) for first, count in runs]
    return np.unique(np.concatenate([np.empty(0, np.int64), *parts]))
