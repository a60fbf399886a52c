"""Determines the errors of a model's measures: `training.measurement_errors MODEL --output OUT --data CT_FOLDER`.

Of lesions in synthetic pairs that are outlined and there, the volume's and the diameter's error are compared with how
far the outline moves with the networks (`uncertainty.Band`). Intervals are conformal: of all that are proportional to
that and a constant, the narrowest ones, on average, that hold a share of the true measures. The pairs should be of
volumes that did not train the model.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, exp, log
from pathlib import Path

import numpy as np
import tyro
from jaxtyping import Float
from rich.console import Console

from longilesion.assessment import measured_lesions
from longilesion.bundle import read_manifest, save_members
from longilesion.config import MeasurementErrors
from longilesion.ensemble import Ensemble, load_ensemble
from longilesion.errors import InputError
from longilesion.evaluation.tables import Section, to_rich
from longilesion.pipeline import segment_case
from longilesion.uncertainty import Band, uncertainty_of
from training.command import run_command
from training.held_out import HeldOutOptions
from training.synthesis.pairs import SyntheticPair

COVERAGE = 0.95
# Constants beside the band, in means of the band over lesions; and one beside which the band hardly counts.
CONSTANTS = (0.1, 0.3, 1.0, 3.0, 10.0)
_ALIKE = (1e4,)
_LEAST_SCALE = 1e-6
# With fewer lesions, the interval that has to hold the share is that of the worst one.
_FEWEST = 20


@dataclass(kw_only=True)
class Arguments(HeldOutOptions):
    """Command line."""

    model: tyro.conf.Positional[Path]
    """The bundle; it is not changed."""
    output: Path
    """Bundle to write: the same members and thresholds, with the errors."""
    cases: int = 120
    seed: int = 501


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """An outlined lesion of a volume: its band, and the errors of its volume (logarithm of the ratio) and diameter."""

    volume: str
    band: Band
    log_volume_error: float
    error_mm: float


def determine(arguments: Arguments) -> MeasurementErrors:
    """Determines the errors, prints their coverage, and writes the bundle; raises InputError with too few lesions."""
    pairs = arguments.pairs("measuring")
    ensemble = load_ensemble(arguments.model)
    judged: list[Judged] = []
    for name, pair in pairs:
        judged += judged_lesions(pair, ensemble, name.rpartition("/")[0])
    errors = errors_of(judged)
    Console(width=120).print(to_rich(coverage_table(judged)))
    volumes = ", ".join(dict.fromkeys(each.volume for each in judged))
    provenance = read_manifest(arguments.model).provenance
    said = f"{len(judged)} lesions of {arguments.cases} synthetic pairs of {volumes}, seed {arguments.seed}"
    save_members(
        arguments.output,
        ensemble.members,
        ensemble.thresholds,
        provenance=provenance | {"measurement errors": said},
        errors=errors,
    )
    return errors


def judged_lesions(pair: SyntheticPair, ensemble: Ensemble, volume: str) -> Iterator[Judged]:
    """The lesions of a pair that have an outline of their own and are there."""
    segmentation = segment_case(pair.case, ensemble)
    found, true = (measured_lesions([lesions]) for lesions in (segmentation.maps["primary"], pair.truth))
    for outcome in segmentation.lesions:
        lesion_id = outcome.prompt.lesion_id
        if outcome.band is not None and lesion_id in found and lesion_id in true:
            yield Judged(
                volume=volume,
                band=outcome.band,
                log_volume_error=log(true[lesion_id].volume_ml / found[lesion_id].volume_ml),
                error_mm=true[lesion_id].longest_mm - found[lesion_id].longest_mm,
            )


def errors_of(judged: Sequence[Judged], constants: Sequence[float] = CONSTANTS) -> MeasurementErrors:
    """The narrowest intervals that hold the share of these lesions; raises InputError with too few of them.

    The constants beside the band to choose from are in means of the band over lesions.
    """
    if len(judged) < _FEWEST:
        raise InputError(f"{len(judged)} lesions are outlined and there; expected at least {_FEWEST}")
    volume_scale, volume_offset = narrowest(
        np.array([each.band.log_volume for each in judged]),
        np.array([each.log_volume_error for each in judged]),
        constants,
    )
    diameter_scale, diameter_offset = narrowest(
        np.array([each.band.diameter_mm for each in judged]), np.array([each.error_mm for each in judged]), constants
    )
    return MeasurementErrors(
        volume_scale=volume_scale,
        volume_offset=volume_offset,
        diameter_scale=diameter_scale,
        diameter_offset_mm=diameter_offset,
    )


def narrowest(
    bands: Float[np.ndarray, " n"], errors: Float[np.ndarray, " n"], constants: Sequence[float]
) -> tuple[float, float]:
    """Scale and constant of the narrowest interval scale * (band + constant), on average, that holds the share.

    Split conformal prediction: of n errors, so many lie within that a further one does with the probability wanted.
    """
    # Where networks do not differ, all intervals are equal.
    typical = float(bands.mean()) or 1.0
    count = min(ceil((len(errors) + 1) * COVERAGE), len(errors))

    def interval(constant: float) -> tuple[float, float, float]:
        """Its mean half width, scale and constant."""
        widths = bands + constant
        # A model whose every outline is exact has the least interval that there is.
        scale = max(float(np.sort(np.abs(errors) / widths)[count - 1]), _LEAST_SCALE)
        return scale * float(widths.mean()), scale, constant

    _, scale, constant = min(interval(share * typical) for share in constants)
    return scale, constant


def coverage_table(judged: Sequence[Judged]) -> Section:
    """Coverage and width of the intervals on each volume, determined on the other ones; and those of all.

    The last row is of intervals that do not depend on the band.
    """
    volumes = dict.fromkeys(each.volume for each in judged)
    held = {volume: _held(judged, volume, CONSTANTS) for volume in volumes}
    alike = [row for volume in volumes for row in _held(judged, volume, _ALIKE)]
    everything = [row for own in held.values() for row in own]
    shown = {**held, "all": everything, "all, of equal width": alike}
    return Section(
        title=f"Intervals of {COVERAGE:.0%}, determined on the other volumes",
        headings=("volume", "lesions", "volume held", "half width, factor", "diameter held", "half width, mm"),
        rows=tuple(_row(name, own) for name, own in shown.items() if own),
    )


def _held(judged: Sequence[Judged], volume: str, constants: Sequence[float]) -> list[tuple[float, float, float, float]]:
    """For each lesion of a volume whether both intervals hold the truth, and their half widths.

    None where the other volumes have too few lesions.
    """
    others = [each for each in judged if each.volume != volume]
    if len(others) < _FEWEST:
        return []
    errors = errors_of(others, constants)
    rows = []
    for each in judged:
        if each.volume == volume:
            known = uncertainty_of(each.band, errors)
            log_factor, length_mm = log(known.volume_factor), known.diameter_mm
            is_held = abs(each.log_volume_error) <= log_factor, abs(each.error_mm) <= length_mm
            rows.append((float(is_held[0]), log_factor, float(is_held[1]), length_mm))
    return rows


def _row(name: str, held: Sequence[tuple[float, float, float, float]]) -> tuple[str, ...]:
    by_volume, factor, by_length, length_mm = np.mean(held, axis=0)
    return (
        name,
        str(len(held)),
        f"{by_volume:.3f}",
        f"{exp(factor):.2f}",
        f"{by_length:.3f}",
        f"{length_mm:.1f}",
    )


def main() -> int:
    """Command line; 1 where the model or the data cannot be used."""
    return run_command(determine, Arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main())
