"""Which lesions of two label maps share voxels, in one pass over the maps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt16

from longilesion.case import LesionRegion, lesion_regions

# Lesion ids are 16 bits, so that a pair of them is one 32-bit number.
_ID_BITS = 16


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Overlap:
    """The regions of the true and predicted lesions of a scan by id, and the voxels that (true, predicted) share."""

    truth: Mapping[int, LesionRegion]
    predicted: Mapping[int, LesionRegion]
    shared: Mapping[tuple[int, int], int]

    @classmethod
    def of(cls, truth: UInt16[np.ndarray, "z y x"], predicted: UInt16[np.ndarray, "z y x"]) -> Overlap:
        """Compares two maps of the same voxels."""
        return cls(truth=lesion_regions(truth), predicted=lesion_regions(predicted), shared=_shared(truth, predicted))

    def dice(self, true_id: int, predicted_id: int) -> float:
        """The Dice coefficient of two lesions."""
        total = self.truth[true_id].voxels + self.predicted[predicted_id].voxels
        return 2 * self.shared.get((true_id, predicted_id), 0) / total

    def iou(self, true_id: int, predicted_id: int) -> float:
        """The intersection over union of two lesions."""
        common = self.shared.get((true_id, predicted_id), 0)
        return common / (self.truth[true_id].voxels + self.predicted[predicted_id].voxels - common)


def _shared(truth: UInt16[np.ndarray, "z y x"], predicted: UInt16[np.ndarray, "z y x"]) -> dict[tuple[int, int], int]:
    voxels = np.flatnonzero(truth)
    pairs = truth.ravel()[voxels].astype(np.uint32) << _ID_BITS | predicted.ravel()[voxels]
    found, counts = np.unique(pairs, return_counts=True)
    both = ((pair >> _ID_BITS, pair & (1 << _ID_BITS) - 1) for pair in found.tolist())
    return {pair: count for pair, count in zip(both, counts.tolist(), strict=True) if pair[1]}
