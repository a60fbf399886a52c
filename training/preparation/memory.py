"""Memory of a case, and the number of cases that fit in parallel."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import SimpleITK as sitk

# Memory for all workers together, and of one without its case: the libraries.
_ALL_BYTES = 4 * 2**30
_LIBRARIES_BYTES = 450 * 2**20
# Measured bytes per voxel: every scan is kept, with its lesions; the one being read or written several times.
_HELD_BYTES, _PASSING_BYTES = 2.5, 8.0
# A pair may have more and smaller voxels than its volume, each with coordinates while it is painted.
_DRAWN_BYTES, _FEWEST_DRAWN_BYTES = 40, 600 * 2**20


def memory_bytes(images: Iterable[Path]) -> int:
    """Estimated memory of making a case with these scans; a file that cannot be read counts as 0."""
    voxels = [_voxels(path) for path in images]
    return int(_HELD_BYTES * sum(voxels) + _PASSING_BYTES * max(voxels, default=0))


def drawing_bytes(volume: Path | None) -> int:
    """Estimated memory of drawing a synthetic pair of a volume, or of a phantom."""
    return max(_FEWEST_DRAWN_BYTES, 0 if volume is None else _DRAWN_BYTES * _voxels(volume))


def worker_count(case_bytes: Iterable[int], wanted: int) -> int:
    """The wanted number of workers; if 0, one per core, limited by memory for the largest case each."""
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
        # The error is reported when the whole file is read.
        return 0
    return int(np.prod(reader.GetSize()))
