"""How much memory a case takes, and how many cases therefore fit beside each other."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import SimpleITK as sitk

# What all workers take together, and what one takes besides its case: the libraries.
_ALL_BYTES = 4 * 2**30
_LIBRARIES_BYTES = 450 * 2**20
# By voxel, measured: every scan is held, with its lesions; the one being read or written is there several times.
_HELD_BYTES, _PASSING_BYTES = 2.5, 8.0
# A pair may be drawn with more and smaller voxels than its volume has, each with coordinates while it is painted.
_DRAWN_BYTES, _FEWEST_DRAWN_BYTES = 40, 600 * 2**20


def memory_bytes(images: Iterable[Path]) -> int:
    """About what a case with these scans takes while it is made; a file that cannot be read takes nothing."""
    voxels = [_voxels(path) for path in images]
    return int(_HELD_BYTES * sum(voxels) + _PASSING_BYTES * max(voxels, default=0))


def drawing_bytes(volume: Path | None) -> int:
    """About what drawing a synthetic pair of a volume takes, or of a phantom."""
    return max(_FEWEST_DRAWN_BYTES, 0 if volume is None else _DRAWN_BYTES * _voxels(volume))


def worker_count(case_bytes: Iterable[int], wanted: int) -> int:
    """As many workers as are wanted; if that is 0, one per core, but no more than hold the largest case each."""
    if wanted:
        return wanted
    largest = max(case_bytes, default=0) + _LIBRARIES_BYTES
    return max(1, min(len(os.sched_getaffinity(0)), _ALL_BYTES // largest))


def _voxels(path: Path) -> int:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        # Whoever reads the whole file will say what is wrong with it.
        return 0
    return int(np.prod(reader.GetSize()))
