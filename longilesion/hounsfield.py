"""Plausibility of a scan's values as Hounsfield units, from its air, its soft tissue and its range.

The histogram of a patient's scan has a narrow peak of air near -1000 HU (or padding below it), another of soft tissue
near 0, and little in between. Where the values are not Hounsfield units, both peaks are at other values:

- shifted: the scanner's intercept is missing (usually -1024), so air is near 0 and soft tissue near 1050;
- scaled: to 0..255, 0..1, -1..1, standard deviations or by any other factor;
- a label map: few whole numbers, constant over whole regions.

A crop may hold a single tissue, from lung to metal or contrast agent, which allows no conclusion. So each rule tests
for what no tissue produces: a peak of air at a value that no tissue has, a sharp edge that only clipping causes, a
range narrower than the scanner's noise. Scans too small for a meaningful histogram are not judged.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64
from numpy.typing import NDArray

from longilesion.geometry import ZYX

# 50 x 50 x 50 voxels, a cube of three to five centimetres: a smaller one may hold unusual tissue only.
_FEWEST_VOXELS = 125_000
_MOST_SAMPLED = 1 << 17
_REMEDY = "expected Hounsfield units, with air near -1000 and soft tissue near 0"
# The difference of soft tissue, fat included, to air; between the two are only the edges of the lungs.
_SOFT_ABOVE_AIR = (820.0, 1150.0)
_BETWEEN = (400.0, 720.0)
# A low peak below _LUNG_HU may be lung, one above _FAT_HU may be fat; no tissue has a sharp peak in between.
_AIR_HU, _LUNG_HU, _FAT_HU, _FLUID_HU = -900.0, -700.0, -180.0, -30.0
# Soft tissue is fat, muscle and organs, and varies by more than noise; a pool of contrast agent is homogeneous.
_LEAST_DEVIATION_HU, _LEAST_DEVIATION_OVER_NOISE = 35.0, 1.4
# Ranges of shifted air: near 0, or above any tissue, when the offset is the width of the whole scale.
_SHIFTED_AIR = ((-60.0, 150.0), (900.0, np.inf))
_SOFT_HU = (-170.0, 120.0)
_LEAST_PEAK = 0.05


class IntensitySample:
    """Rows of a scan, evenly distributed, and the range of all of its values; filled while the scan is read."""

    def __init__(self, shape_zyx: ZYX) -> None:
        self.voxels = int(np.prod(shape_zyx))
        self.low, self.high = np.inf, -np.inf
        self.is_8_bit = False
        rows = shape_zyx[0] * shape_zyx[1]
        self._step = max(1, round((rows * shape_zyx[2] / _MOST_SAMPLED) ** 0.5))
        self._rows: list[NDArray[Any]] = []

    def taken(self, planes: Iterable[NDArray[Any]]) -> Iterator[NDArray[Any]]:
        """Yields the slices unchanged, and samples some rows of some of them."""
        for index, plane in enumerate(planes):
            self.low, self.high = min(self.low, float(plane.min())), max(self.high, float(plane.max()))
            self.is_8_bit = plane.dtype.itemsize == 1
            if index % self._step == 0:
                self._rows.append(plane[index // self._step % self._step :: self._step].copy())
            yield plane

    @property
    def rows(self) -> Float64[np.ndarray, "rows x"]:
        """The sampled rows."""
        return np.concatenate(self._rows).astype(np.float64)


def implausibility(sample: IntensitySample) -> str | None:
    """Why a scan's values are not Hounsfield units, and the remedy, in a sentence; None where they may be."""
    if sample.voxels < _FEWEST_VOXELS or sample.low == sample.high:
        return None
    values = _Intensities(rows=sample.rows, low=sample.low, high=sample.high, is_8_bit=sample.is_8_bit)
    if values.is_label_map:
        return f"whole numbers from 0 to {values.high:g}, the same over whole regions: a label map? {_REMEDY}"
    if (peaks := values.air_and_soft) is not None:
        found = f"air near {peaks[0]:.0f} and soft tissue near {peaks[1]:.0f}"
        return f"{found}: stored without the intercept (-1024 with most scanners)? {_REMEDY}: add the RescaleIntercept"
    if values.is_scaled:
        found = f"values from {values.low:.6g} to {values.high:.6g}, air near {values.quantile(_LEAST_PEAK):.6g}"
        return f"{found}: scaled or windowed? {_REMEDY}: convert it from DICOM without scaling"
    return None


@dataclass(frozen=True, kw_only=True, eq=False)
class _Intensities:
    """Statistics of the sampled values, and the rules that are applied to them."""

    rows: Float64[np.ndarray, "rows x"]
    low: float
    high: float
    is_8_bit: bool

    @cached_property
    def ordered(self) -> Float64[np.ndarray, "n"]:
        return np.sort(self.rows, axis=None)

    @cached_property
    def is_whole(self) -> bool:
        return bool((self.rows == np.rint(self.rows)).all())

    def share(self, low: float, high: float) -> float:
        """Share of the voxels from `low` to `high`, both included."""
        first, last = np.searchsorted(self.ordered, low, "left"), np.searchsorted(self.ordered, high, "right")
        return float(last - first) / self.ordered.size

    def quantile(self, share: float) -> float:
        return float(self.ordered[round(share * (self.ordered.size - 1))])

    def inner_quantile(self, share: float) -> float:
        """A quantile of the values above air and padding."""
        return self.quantile(1.0 - (1.0 - share) * self.share(_AIR_HU, np.inf))

    @property
    def is_label_map(self) -> bool:
        """Whether all are whole numbers from 0, and most are 0 or nearly all neighbours that are not 0 are equal."""
        if self.low != 0 or not self.is_whole:
            return False
        background = self.share(0, 0)
        return background >= 0.95 or (background >= _LEAST_PEAK and _equal_neighbours(self.rows) >= 0.85)

    @property
    def air_and_soft(self) -> tuple[float, float] | None:
        """The peaks of air and soft tissue, where both exist at the distance of Hounsfield units and are too high."""
        air = self.inner_quantile(_LEAST_PEAK)
        soft_low, soft_high = air + _SOFT_ABOVE_AIR[0], air + _SOFT_ABOVE_AIR[1]
        soft = self.share(soft_low, soft_high)
        between = self.share(air + _BETWEEN[0], air + _BETWEEN[1])
        # Thick bone is surrounded by less dense bone, and contains denser one.
        is_bone = between > 0.2 * soft or self.share(soft_high, np.inf) > 0.5 * soft
        is_shifted = any(low <= air <= high for low, high in _SHIFTED_AIR)
        if not is_shifted or soft < 2 * _LEAST_PEAK or is_bone:
            return None
        tissue = self.ordered[(self.ordered >= soft_low) & (self.ordered <= soft_high)]
        least = max(_LEAST_DEVIATION_HU, _LEAST_DEVIATION_OVER_NOISE * _noise(self.rows, soft_low, soft_high))
        return (air, float(np.median(tissue))) if tissue.std() >= least else None

    @property
    def is_scaled(self) -> bool:
        """Whether the range, a clipped edge or a peak is one that no tissue has."""
        return self.is_8_bit or self.is_without_noise or self.is_clipped or self.is_display or self.has_peak_in_the_gap

    @property
    def is_without_noise(self) -> bool:
        """Whether the range is within three units, or fractions vary by less than a scanner's noise, as z-scores do."""
        if self.low >= -1.5 and self.high <= 1.5:
            return True
        return not self.is_whole and self.low > -100 and float(self.rows.std()) < 2

    @property
    def is_clipped(self) -> bool:
        """Whether many voxels have exactly the lowest value, and that is above the values of fat, or a fraction."""
        is_air = self.low <= _LUNG_HU or (self.low <= _FLUID_HU and self.low == round(self.low))
        return not is_air and self.share(self.low, self.low) >= _LEAST_PEAK

    @property
    def is_display(self) -> bool:
        """Whether 0 to 255 or 100 is reached at both ends, or clipped, or a peak near 0 has no noise below 0."""
        if self.low < 0 or self.high > 255:
            return False
        is_full = self.high in (100, 255) and (self.low == 0 or self.share(self.high, self.high) >= 0.01)
        return is_full or self.quantile(_LEAST_PEAK) <= 0.1 * self.quantile(0.99)

    @property
    def has_peak_in_the_gap(self) -> bool:
        """Whether scaled air, a peak narrower than dense lung, is between lung and fat, with soft tissue to match."""
        lowest, air = self.inner_quantile(0.001), self.inner_quantile(_LEAST_PEAK)
        if lowest < _LUNG_HU or air > _FAT_HU:
            return False
        low, high = _SOFT_HU
        soft = self.share(low * air / -1000.0, high * air / -1000.0)
        is_close = soft >= 2 * _LEAST_PEAK and soft >= 2 * (self.share(low, high) - soft)
        return is_close and self.share(air * 1.05, air * 0.95) >= 0.2 * self.share(_LUNG_HU, 0.3 * air)


def _noise(rows: Float64[np.ndarray, "rows x"], low: float, high: float) -> float:
    """The standard deviation of noise, from pairs of neighbours along x that both lie between two values."""
    is_tissue = (rows >= low) & (rows <= high)
    steps = np.diff(rows)[is_tissue[:, :-1] & is_tissue[:, 1:]]
    return float(steps.std() / np.sqrt(2)) if steps.size else 0.0


def _equal_neighbours(rows: Float64[np.ndarray, "rows x"]) -> float:
    """The share of equal pairs among neighbours along x that are both not 0; 0 where there are none."""
    first, second = rows[:, :-1], rows[:, 1:]
    both: Bool[np.ndarray, "rows x"] = (first != 0) & (second != 0)
    return float((first == second)[both].mean()) if both.any() else 0.0
