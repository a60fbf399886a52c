"""Phantoms as folders: the input that Grand Challenge would send, and the truth beside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from test.phantoms import PhantomCase
from training.preparation.case_folder import ManifestKey, write_input
from training.preparation.case_folder import write_truth as write_true_maps

_AIR_HU = -980
# The sample cases are kept in the repository.
_SMALLEST = 9


def write_grand_challenge_case(
    phantom: PhantomCase, directory: Path, *, manifest_key: ManifestKey | None = "socket"
) -> None:
    """Writes scans, baseline masks, click lists and inputs.json (none where the key is None)."""
    write_input(phantom.case, directory, manifest_key=manifest_key, compression_level=_SMALLEST)


def write_truth(phantom: PhantomCase, directory: Path) -> None:
    """Writes the true lesion maps in the tree of an output; and by lesion its fate, and its id in the truth if any."""
    lesions = {
        lesion_id: {"fate": fate, "truth_id": phantom.truth_ids.get(lesion_id)}
        for lesion_id, fate in phantom.fates.items()
    }
    write_true_maps(phantom.truth, lesions, directory, compression_level=_SMALLEST)


def compressible(hu: np.ndarray) -> np.ndarray:
    """Scans for a repository: no noise in the air, values rounded to multiples of 4 HU."""
    return np.where(hu < _AIR_HU, np.int16(-1024), (hu + np.int16(2)) & ~np.int16(3))
