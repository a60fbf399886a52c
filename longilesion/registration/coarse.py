"""Initial translation between two scans' bodies, by exhaustive search.

Normalised correlation at every shift at once (Padfield, Masked Object Registration in the Fourier Domain, 2012, as ITK
implements it) compares only the parts of the body that both scans show. So it needs no common frame or coverage.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from jaxtyping import Bool, Float64
from scipy.fft import irfftn, next_fast_len, rfftn
from scipy.ndimage import binary_dilation

from longilesion.registration.reduction import ReducedScan, reduce_further, transformed

# Spacing of the lattice of the exhaustive search.
_SPACING_MM = 12.0
# Shifts at which the bodies overlap by less than this share of the greatest overlap are left out.
_LEAST_OVERLAP = 0.2
# Penalty on a small overlap.
_OVERLAP_EXPONENT = 0.3
# With fewer voxels of the body, or a smaller deviation of their intensities, no comparison is possible.
_FEWEST_VOXELS = 50
_LEAST_CONTRAST = 0.01
# The windows that are compared: lungs and the body's outline, and soft tissue with bone.
_WINDOWS_HU = ((-1000.0, 300.0), (-200.0, 300.0))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Shift:
    """A translation that is added to points of the baseline's local frame, and the correlation of the bodies then."""

    xyz_mm: Float64[np.ndarray, "3"]
    correlation: float


def find_shift(baseline: ReducedScan, followup: ReducedScan) -> Shift | None:
    """The shift of highest similarity of the two bodies; None where no comparison is possible."""
    before, after = reduce_further(baseline, _SPACING_MM), reduce_further(followup, _SPACING_MM)
    if (
        min(_contrast(before), _contrast(after)) < _LEAST_CONTRAST
        or min(before.body.sum(), after.body.sum()) < _FEWEST_VOXELS
    ):
        return None
    outlines = _with_rim(before), _with_rim(after)
    wide = _correlation(before, after, outlines, _WINDOWS_HU[0])
    narrow = _correlation(before, after, (before.body, after.body), _WINDOWS_HU[1])
    correlation = (wide + narrow) / 2
    overlap = _overlap(before.body, after.body)
    # Penalised, as with a small overlap a limb or a flank also correlates with other parts of itself.
    score = correlation * overlap**_OVERLAP_EXPONENT
    best = np.unravel_index(int(score.argmax()), score.shape)
    if score[best] <= 0:
        return None
    # The first voxel of the score is the shift that maps the baseline's last voxel to the follow-up's first.
    steps_xyz = (np.array(best) - (np.array(before.hu.shape) - 1))[::-1]
    firsts = _first_voxel(after, followup), _first_voxel(before, baseline)
    return Shift(xyz_mm=firsts[0] + steps_xyz * _SPACING_MM - firsts[1], correlation=float(correlation[best]))


def body_centres_shift(baseline: ReducedScan, followup: ReducedScan) -> Shift:
    """Fallback without any similarity: the vector between the two bodies' centres of mass."""
    centres = [np.argwhere(scan.body).mean(axis=0)[::-1] * scan.spacing_mm for scan in (baseline, followup)]
    return Shift(xyz_mm=centres[1] - centres[0], correlation=0.0)


def _first_voxel(coarse: ReducedScan, scan: ReducedScan) -> Float64[np.ndarray, "3"]:
    """The position of a coarser copy's first voxel in the local frame of the scan."""
    return np.asarray(transformed(scan.local_from_world, coarse.grid.world_from_voxel[None, :3, 3])[0])


def _contrast(scan: ReducedScan) -> float:
    """The deviation of intensities within the body."""
    return float(scan.intensities[scan.body].std())


def _overlap(before: Bool[np.ndarray, "z y x"], after: Bool[np.ndarray, "a b c"]) -> Float64[np.ndarray, "i j k"]:
    """The overlap of the bodies at every shift, relative to the greatest."""
    shape = np.add(after.shape, before.shape) - 1
    # As scipy.signal.fftconvolve does it; to import that takes half as long as to import torch.
    size = [next_fast_len(int(length), real=True) for length in shape]
    spectrum = rfftn(after.astype(np.float64), size) * rfftn(before[::-1, ::-1, ::-1].astype(np.float64), size)
    voxels = irfftn(spectrum, size)[: shape[0], : shape[1], : shape[2]]
    return np.asarray(np.clip(voxels / voxels.max(), 0.0, 1.0))


def _with_rim(scan: ReducedScan) -> Bool[np.ndarray, "z y x"]:
    """The body with one voxel of air around it in each slice, so that its outline contributes."""
    return np.asarray(binary_dilation(scan.body, structure=np.ones((1, 3, 3), bool)) & scan.shown)


def _correlation(
    before: ReducedScan,
    after: ReducedScan,
    masks: tuple[Bool[np.ndarray, "z y x"], Bool[np.ndarray, "a b c"]],
    window_hu: tuple[float, float],
) -> Float64[np.ndarray, "i j k"]:
    correlation = sitk.MaskedFFTNormalizedCorrelation(
        fixedImage=_windowed(after, window_hu),
        movingImage=_windowed(before, window_hu),
        fixedImageMask=sitk.GetImageFromArray(masks[1].astype(np.float32)),
        movingImageMask=sitk.GetImageFromArray(masks[0].astype(np.float32)),
        requiredFractionOfOverlappingPixels=_LEAST_OVERLAP,
    )
    return np.nan_to_num(np.asarray(sitk.GetArrayFromImage(correlation), np.float64))


def _windowed(scan: ReducedScan, window_hu: tuple[float, float]) -> sitk.Image:
    """The intensities within the body, centred, so that their squares fit into float32."""
    low, high = window_hu
    hu = np.where(scan.body, scan.hu, -1024.0)
    return sitk.GetImageFromArray(((np.clip(hu, low, high) - low) / (high - low)).astype(np.float32))
