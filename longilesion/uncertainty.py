"""The uncertainty of an outline's measures: 95 % intervals from how far the outline moves with the networks."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, log

from longilesion.config import MeasurementErrors

# By so many deviations among networks and views do a narrow and a wide outline differ from the mean.
DEVIATIONS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """Measures of a narrow and of a wide outline around a lesion's own: how far it moves with the networks.

    In the narrow one the mean probability less `DEVIATIONS` among networks and views reaches the threshold, in the wide
    one the mean and as much more; on the scan's voxels, without regard to other lesions. The narrow volume is not 0.
    """

    narrow_ml: float
    wide_ml: float
    narrow_mm: float
    wide_mm: float

    @property
    def log_volume(self) -> float:
        """The logarithm of the ratio of both volumes."""
        return log(self.wide_ml / self.narrow_ml)

    @property
    def diameter_mm(self) -> float:
        """The difference of both diameters."""
        return self.wide_mm - self.narrow_mm


@dataclass(frozen=True, slots=True, kw_only=True)
class Uncertainty:
    """95 % intervals: of the volume from volume / `volume_factor` to volume * `volume_factor`, of diameters +- mm."""

    volume_factor: float
    diameter_mm: float


def uncertainty_of(band: Band, errors: MeasurementErrors) -> Uncertainty:
    """The intervals that a model's errors on other lesions give for an outline with that band."""
    return Uncertainty(
        volume_factor=exp(errors.volume_scale * (band.log_volume + errors.volume_offset)),
        diameter_mm=errors.diameter_scale * (band.diameter_mm + errors.diameter_offset_mm),
    )


def volume_interval_ml(volume_ml: float, factor: float) -> tuple[float, float]:
    """The ends of a volume's interval."""
    return volume_ml / factor, volume_ml * factor
