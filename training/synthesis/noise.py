"""The noise that a source brings into a scan: measured in soft tissue, kept or drawn alike in painted lesions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torch.nn.functional import avg_pool3d

# Soft tissue, in which the noise is measured, in about so many pairs of slices.
_SOFT_HU, _SLICES = (0.0, 150.0), 6
# Differences from the smoothed scan that exceed its noise by this, in their root mean square or singly, are anatomy.
_MOST, _PEAK = 1.2, 2.5
# 30 % of normally distributed values are smaller than this, in units of the deviation; borders are in the upper part.
_SHARE, _QUANTILE = 0.3, 0.385


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """Its deviation, and the deviation of the Gaussian that gives white noise its grain, in voxels."""

    deviation_hu: float
    grain_zyx: tuple[float, float, float]

    def drawn(self, shape_zyx: tuple[int, ...], generator: np.random.Generator) -> Float32[Tensor, "z y x"]:
        """Noise of that deviation and grain, on the CPU."""
        white = generator.standard_normal(shape_zyx, dtype=np.float32)
        grain = gaussian_filter(white, self.grain_zyx, truncate=2.5)
        return torch.from_numpy(grain * np.float32(self.deviation_hu / max(float(grain.std()), 1e-6)))

    def kept(self, hu: Float32[Tensor, "z y x"]) -> tuple[Float32[Tensor, "z y x"], Float32[Tensor, "z y x"]]:
        """A scan smoothed within its slices, and the noise: what differs from that, less where anatomy adds to it."""
        smooth = smoothed(hu)
        rest = hu - smooth
        local = smoothed(rest**2).clamp(min=1e-6).sqrt()
        limit = _PEAK * self.deviation_hu
        return smooth, (rest * (_MOST * self.deviation_hu / local).clamp(max=1)).clamp(-limit, limit)


def measured_noise(hu: Float32[Tensor, "z y x"]) -> Noise:
    """Measures noise by differences of neighbours in soft tissue, or in all of the scan where there is none.

    Differences do not depend on what varies slowly. The ratio of those of neighbours and of neighbours but one gives
    the grain of Gaussian noise, whose correlation at a distance d is exp(-d^2 / (4 grain^2)).
    """
    step = max(len(hu) // _SLICES, 1)
    first = hu[:-1:step] if len(hu) > 1 else hu
    second = hu[1::step] if len(hu) > 1 else hu
    smooth = smoothed(first)
    soft = (smooth > _SOFT_HU[0]) & (smooth < _SOFT_HU[1])
    if not soft.any():
        soft = torch.ones_like(soft)
    near = _deviation(first[..., 1:] - first[..., :-1], soft[..., 1:])
    far = _deviation(first[..., 2:] - first[..., :-2], soft[..., 1:-1])
    along = _deviation(second - first, soft)
    # With q, the correlation of neighbours, the squared ratio is (1 - q) / (1 - q^4).
    q = np.linspace(0.95, 0.01, 200)
    correlation = float(np.interp((near / max(far, 1e-6)) ** 2, (1 - q) / (1 - q**4), q))
    deviation = near / float(np.sqrt(2 * (1 - correlation)))
    between = 1 - 0.5 * (along / max(deviation, 1e-6)) ** 2
    across = _grain(correlation)
    return Noise(deviation_hu=deviation, grain_zyx=(_grain(between), across, across))


def smoothed(hu: Float32[Tensor, "z y x"]) -> Float32[Tensor, "z y x"]:
    """A scan smoothed within its slices, over about five voxels."""
    smooth = hu[None, None]
    for _ in range(2):
        smooth = avg_pool3d(smooth, (1, 5, 5), 1, (0, 2, 2), count_include_pad=False)
    return smooth[0, 0]


def _grain(correlation: float) -> float:
    return 0.5 / float(np.sqrt(-np.log(min(max(correlation, 0.01), 0.95))))


def _deviation(values: Float32[Tensor, "..."], mask: Tensor) -> float:
    """The deviation of the normally distributed part of some values."""
    among = values[mask].abs()
    if not len(among):
        return 0.0
    return float(torch.sort(among).values[int(_SHARE * len(among))]) / _QUANTILE
