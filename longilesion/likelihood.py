"""Likelihood that a voxel belongs to the lesion, from Hounsfield units alone.

A lesion is brighter or darker than the tissue around it, so the sign of its contrast varies; the likelihood is high
inside the lesion either way.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float32

from longilesion.config import LikelihoodSettings
from longilesion.neighbourhood import HuFrequencies, frequencies_at_click
from longilesion.voi import Voi, VoiPair


@dataclass(frozen=True, slots=True, kw_only=True)
class TissueHu:
    """Mean and deviation, in HU, of a lesion and of the tissue around it; None where that cannot be determined."""

    lesion: tuple[float, float]
    around: tuple[float, float] | None

    def likelihood(
        self, hu: Float32[np.ndarray, "z y x"], settings: LikelihoodSettings
    ) -> Float32[np.ndarray, "z y x"]:
        """The lesion's share, 0..1, of the likelihood of each value in HU."""
        lesion, other = _bell(hu, self.lesion), settings.other_tissues
        rest = other if self.around is None else other + _bell(hu, self.around)
        return lesion / (lesion + rest)


def lesion_likelihood(
    pair: VoiPair, settings: LikelihoodSettings
) -> tuple[Float32[np.ndarray, "z y x"], Float32[np.ndarray, "z y x"] | None]:
    """The likelihood of the lesion, 0..1, at each voxel of the follow-up and of the baseline (None without one).

    With an outline, the lesion's HU are the baseline's, changed as the tissue around it has changed since; without
    one they are those at the follow-up's click, or near it, as the settings say.
    """
    followup = _smooth(pair.followup.hu)
    baseline = None if pair.baseline is None else _smooth(pair.baseline.hu)
    mask, others = pair.baseline_mask, pair.baseline_others
    if pair.baseline is None or baseline is None or mask is None or others is None or not mask.any():
        tissues = _without_outline(pair.followup, followup, baseline, settings)
        return tissues.likelihood(followup, settings), None if baseline is None else tissues.likelihood(
            baseline, settings
        )
    inside = mask > 0.5 * mask.max()
    border = _dilated(inside, 1)
    shell = _dilated(border, settings.shell_voxels) & ~border & (others == 0)
    before = TissueHu(
        lesion=_mean_and_deviation_hu(pair.baseline.hu, baseline, inside, settings),
        around=_mean_and_deviation_hu(pair.baseline.hu, baseline, shell, settings) if shell.any() else None,
    )
    now = _since(before, followup, baseline, inside, settings)
    return now.likelihood(followup, settings), before.likelihood(baseline, settings)


def _without_outline(
    voi: Voi,
    followup: Float32[np.ndarray, "z y x"],
    baseline: Float32[np.ndarray, "z y x"] | None,
    settings: LikelihoodSettings,
) -> TissueHu | HuFrequencies:
    chosen = settings.without_outline
    if voi.click_confidence < 1.0 and settings.propagated_without_outline is not None:
        chosen = settings.propagated_without_outline
    if chosen == "neighbourhood":
        return frequencies_at_click(voi, followup, baseline, settings)
    return _at_click(voi, followup, settings)


def _since(
    before: TissueHu,
    followup: Float32[np.ndarray, "z y x"],
    baseline: Float32[np.ndarray, "z y x"],
    inside: Bool[np.ndarray, "z y x"],
    settings: LikelihoodSettings,
) -> TissueHu:
    """The expected HU in the follow-up: the baseline's, plus the change of tissue similar to that around the lesion."""
    if before.around is None:
        return before
    alike = (np.abs(baseline - before.around[0]) < settings.alike_hu) & ~inside
    if np.count_nonzero(alike) < settings.alike_voxels:
        return before
    change = float(np.median(followup[alike] - baseline[alike]))
    if abs(change) > settings.greatest_change_hu:
        return before
    around = (before.around[0] + change, before.around[1])
    if min(before.lesion[0], before.around[0]) < settings.soft_tissue_hu:
        # A nodule in lung or fat does not change with what surrounds it.
        return replace(before, around=around)
    return TissueHu(lesion=(before.lesion[0] + change, before.lesion[1]), around=around)


def _at_click(voi: Voi, smooth: Float32[np.ndarray, "z y x"], settings: LikelihoodSettings) -> TissueHu:
    """The HU at the click (or the nearest voxel where it lies outside), and in a ring around it."""
    axes = [
        (np.arange(count) - np.clip(round(centre), 0, count - 1)) * spacing
        for count, centre, spacing in zip(voi.hu.shape, voi.click_zyx, voi.grid.spacing_zyx_mm, strict=True)
    ]
    z, y, x = (axis.astype(np.float32) ** 2 for axis in axes)
    squared_mm = z[:, None, None] + y[:, None] + x
    lesion = _mean_and_deviation_hu(voi.hu, smooth, squared_mm < settings.core_mm**2, settings)
    inner, outer = settings.ring_mm
    ring = (squared_mm > inner**2) & (squared_mm < outer**2)
    around = _mean_and_deviation_hu(voi.hu, smooth, ring, settings) if ring.any() else None
    told_apart = around is not None and abs(around[0] - lesion[0]) >= settings.least_contrast_hu
    return TissueHu(lesion=lesion, around=around if told_apart else None)


def _mean_and_deviation_hu(
    hu: Float32[np.ndarray, "z y x"],
    smooth: Float32[np.ndarray, "z y x"],
    where: Bool[np.ndarray, "z y x"],
    settings: LikelihoodSettings,
) -> tuple[float, float]:
    return float(np.median(hu[where])), float(np.clip(smooth[where].std(), *settings.spread_hu))


def _bell(hu: Float32[np.ndarray, "z y x"], statistics_hu: tuple[float, float]) -> Float32[np.ndarray, "z y x"]:
    mean, deviation = (np.float32(value) for value in statistics_hu)
    return np.asarray(np.exp(np.float32(-0.5) * ((hu - mean) / deviation) ** 2))


def _smooth(hu: Float32[np.ndarray, "z y x"]) -> Float32[np.ndarray, "z y x"]:
    """The mean of each voxel's 3 x 3 x 3 neighbourhood, the border repeated beyond itself."""
    # Imported here, as below: models without this channel do not need it, and it takes a sixth of torch's import time.
    from scipy.ndimage import correlate1d

    for axis in range(3):
        # Two sums, each rounded to float32, as the shipped weights were trained; `uniform_filter` adds in float64, and
        # its other last digits would change what a recipe learns.
        before = correlate1d(hu, (1, 1, 0), axis, mode="nearest")
        hu = (before + correlate1d(hu, (0, 0, 1), axis, mode="nearest")) / np.float32(3)
    return hu


def _dilated(mask: Bool[np.ndarray, "z y x"], reach: int) -> Bool[np.ndarray, "z y x"]:
    """The voxels up to `reach` steps from a mask along every axis."""
    from scipy.ndimage import binary_dilation

    return np.asarray(binary_dilation(mask, np.ones((3, 3, 3), bool), iterations=reach))
