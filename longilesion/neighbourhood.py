"""Likelihood of a lesion without an outline: HU that are more frequent near the click than elsewhere in the VOI.

Every voxel near the click is a hypothesis of what the lesion is made of, weighted by its distance to the click and by
its change since the baseline. So the likelihood changes little with the click, and a click beside the lesion finds it
as long as the lesion is near and its HU are rare elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32

from longilesion.config import LikelihoodSettings
from longilesion.voi import Voi

# Bins from air to metal; a value beyond counts in the outermost ones.
_LOWEST_HU, _BIN_HU, _BINS = -1100.0, 4.0, 700


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HuFrequencies:
    """Frequencies of HU, near the click and elsewhere, each with a sum of 1 (0 where there is nothing)."""

    near: Float[np.ndarray, " bins"]
    elsewhere: Float[np.ndarray, " bins"]

    def likelihood(
        self, hu: Float32[np.ndarray, "z y x"], settings: LikelihoodSettings
    ) -> Float32[np.ndarray, "z y x"]:
        """The share, 0..1, of the frequency near the click in the weighted sum of both, for each value in HU."""
        peak_of_a_pure_tissue = _BIN_HU / (np.sqrt(2 * np.pi) * settings.bandwidth_hu)
        rest = settings.elsewhere_weight * self.elsewhere + settings.rare * peak_of_a_pure_tissue
        share = self.near / (self.near + rest)
        return np.asarray(np.interp(hu, _LOWEST_HU + _BIN_HU * np.arange(_BINS), share), np.float32)


def frequencies_at_click(
    voi: Voi,
    followup: Float32[np.ndarray, "z y x"],
    baseline: Float32[np.ndarray, "z y x"] | None,
    settings: LikelihoodSettings,
) -> HuFrequencies:
    """The frequencies of smoothed HU in a follow-up VOI; `baseline` is aligned to it, None without a baseline scan."""
    squared_mm = squared_distance_mm(voi)
    near = np.exp(-0.5 * squared_mm / settings.near_mm**2)
    elsewhere = 1 - np.exp(-0.5 * squared_mm / settings.far_mm**2)
    if baseline is not None:
        changed = changed_share(followup, baseline, settings)
        near *= settings.unchanged_weight + (1 - settings.unchanged_weight) * changed
        elsewhere *= 1 - changed
    return HuFrequencies(
        near=_frequencies(followup, near, settings.bandwidth_hu),
        elsewhere=_frequencies(followup, elsewhere, settings.bandwidth_hu),
    )


def changed_share(
    followup: Float32[np.ndarray, "z y x"], baseline: Float32[np.ndarray, "z y x"], settings: LikelihoodSettings
) -> Float32[np.ndarray, "z y x"]:
    """How far, 0..1, each voxel's HU lie beyond those in the baseline within a voxel of it.

    The neighbours allow for misalignment, the median change of soft tissue for contrast agent.
    """
    from scipy.ndimage import maximum_filter, minimum_filter

    soft_tissue = (np.minimum(followup, baseline) > settings.soft_tissue_hu) & (np.maximum(followup, baseline) < 200)
    if np.count_nonzero(soft_tissue) >= settings.alike_voxels:
        enhancement = np.median((followup - baseline)[soft_tissue])
        baseline = np.where(baseline > settings.soft_tissue_hu, baseline + enhancement, baseline)
    beyond = np.maximum(followup - maximum_filter(baseline, 3), minimum_filter(baseline, 3) - followup)
    is_beyond = beyond > 0
    typical = np.median(beyond[is_beyond]) if is_beyond.any() else 0.0
    deviation = np.clip(typical, *settings.spread_hu)
    return np.asarray(1 - np.exp(-0.5 * (beyond.clip(min=0) / deviation) ** 2), np.float32)


def squared_distance_mm(voi: Voi) -> Float32[np.ndarray, "z y x"]:
    """Squared distances from the click, or from the nearest voxel where it lies outside."""
    axes = [
        (np.arange(count) - np.clip(centre, 0, count - 1)) * spacing
        for count, centre, spacing in zip(voi.hu.shape, voi.click_zyx, voi.grid.spacing_zyx_mm, strict=True)
    ]
    z, y, x = (axis.astype(np.float32) ** 2 for axis in axes)
    return np.asarray(z[:, None, None] + y[:, None] + x)


def _frequencies(
    hu: Float32[np.ndarray, "z y x"], weights: Float32[np.ndarray, "z y x"], bandwidth_hu: float
) -> Float[np.ndarray, " bins"]:
    """The weighted histogram, smoothed, with a sum of 1."""
    from scipy.ndimage import gaussian_filter1d

    position = np.clip((hu.ravel() - _LOWEST_HU) / _BIN_HU, 0, _BINS - 1.001)
    below = position.astype(int)
    above, flat = position - below, weights.ravel()
    counts = np.bincount(below, flat * (1 - above), _BINS) + np.bincount(below + 1, flat * above, _BINS)
    total = counts.sum()
    smooth = gaussian_filter1d(counts, bandwidth_hu / _BIN_HU, mode="nearest")
    return np.asarray(smooth / total if total else smooth)
