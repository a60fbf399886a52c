"""A real scan's or a phantom's liver and what is around it: without noise, with the share of each tissue in each voxel.

The scan is of one contrast phase, which need not be known: levels of the tissues are measured in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32
from scipy.ndimage import distance_transform_edt, gaussian_filter

from longilesion.case import AIR_HU
from longilesion.config import PositiveTriple
from longilesion.errors import InputError
from longilesion.geometry import box_slices
from longilesion.voi import occupied_box
from training.synthesis.deformation import lattice, sampled
from training.synthesis.enhancing_organs import enhancing_organs
from training.synthesis.kinetics import Tissue
from training.synthesis.liver_vessels import drawn_vessels
from training.synthesis.noise import Noise, measured_noise
from training.synthesis.solids import Window
from training.synthesis.sources import Source

LIVER = "liver"
# An exam shows so much around the liver, and the host so much more, for motion.
MARGIN_MM, MOTION_MM = 25.0, 10.0
# Voxels of an exam are at least so wide within slices.
_FINEST_MM = 1.5
# Tissue this deep in the liver is no partial volume; vessels in it are measured after smoothing.
_DEEP_MM, _SMOOTHING_MM = 5.0, 1.2
# A liver without contrast medium is darker than this, and its vessels are not brighter than it.
_UNENHANCED_HU = 75.0
# Vessels are brighter than the liver by at least this.
_LEAST_VESSEL_HU = 25.0
# Around organs' masks, their border is looked for; what surrounds them is not brighter than this.
_BORDER_MM, _AROUND_HU = 4.0, 30.0
# The brightest share of the deep liver lies in large vessels.
_BRIGHTEST = 99.7


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LiverHost:
    """A liver on an exam's lattice, and the margin for motion around it; `frame` is the part that exams show.

    `hu` is the scan without its noise. `shares` says how much of each voxel is of each tissue, `levels` the HU of those
    tissues in the scan; `source` is for placing lesions.
    """

    source: Source
    hu: Float32[np.ndarray, "z y x"]
    noise: Noise
    shares: Mapping[Tissue, Float32[np.ndarray, "z y x"]]
    levels: Mapping[Tissue, float]
    frame: Window

    @property
    def liver(self) -> Bool[np.ndarray, "z y x"]:
        """The liver's mask, on the whole lattice."""
        return self.source.organs[LIVER]


def liver_host(source: Source, *, spacing_zyx_mm: PositiveTriple | None = None, seed: int = 0) -> LiverHost:
    """Cuts out the liver, on a lattice of that spacing, or of the scan's own with at least 1.5 mm within slices.

    In a scan without contrast medium, vessels are drawn into the liver; the seed decides on them. Raises InputError
    where the source has no mask of the liver.
    """
    if LIVER not in source.organs or not source.organs[LIVER].any():
        raise InputError(f"{source.name}: no mask of the liver; expected organs/liver.nii.gz beside the volume")
    cut = _cut_out(source, spacing_zyx_mm)
    spacing = cut.spacing_zyx_mm.astype(float)
    scan = torch.from_numpy(cut.hu.astype(np.float32))
    noise = measured_noise(scan)
    hu = np.asarray((scan - noise.kept(scan)[1]).numpy())
    liver = cut.organs[LIVER]
    smooth = gaussian_filter(hu, _SMOOTHING_MM / spacing)
    depth_mm = distance_transform_edt(np.pad(liver, 1), sampling=spacing)[1:-1, 1:-1, 1:-1]
    deep = depth_mm > _DEEP_MM if (depth_mm > _DEEP_MM).any() else liver
    level = float(np.median(smooth[deep]))
    excess = max(float(np.percentile(smooth[deep], _BRIGHTEST)) - level, _LEAST_VESSEL_HU)
    is_enhanced = level >= _UNENHANCED_HU
    if not is_enhanced:
        excess = 2 * _LEAST_VESSEL_HU
        hu = hu + excess * drawn_vessels(liver, spacing, np.random.default_rng(seed))
    vessels = np.clip((hu - level) / excess, 0.0, 1.2) * liver
    organs = enhancing_organs(smooth, cut, level_hu=level, is_enhanced=is_enhanced)
    levels: dict[Tissue, float] = {"liver": level, "vein": level + excess}
    shares: dict[Tissue, Float32[np.ndarray, "z y x"]] = {"liver": _soft(liver, spacing), "vein": vessels}
    levels |= {tissue: float(np.median(smooth[mask])) for tissue, mask in organs.items() if tissue not in levels}
    around = {tissue: ~liver * _filled(hu, mask, levels[tissue], spacing) for tissue, mask in organs.items()}
    # Borders of neighbouring organs overlap.
    together = np.maximum(sum(around.values(), np.zeros(hu.shape)), 1.0)
    for tissue, share in around.items():
        shares[tissue] = np.maximum(shares.get(tissue, 0.0), share / together)
    with_vessels = replace(cut, hu=hu.round().clip(AIR_HU, 3000).astype(np.int16))
    return LiverHost(
        source=with_vessels,
        hu=hu.astype(np.float32),
        noise=noise,
        shares={tissue: share.astype(np.float32) for tissue, share in shares.items()},
        levels=levels,
        frame=_frame(liver, spacing),
    )


def _cut_out(source: Source, spacing_zyx_mm: PositiveTriple | None) -> Source:
    """The part of a source around its liver, resampled; voxels are averaged where they become larger."""
    own = source.spacing_zyx_mm.astype(float)
    z, y, x = own
    wanted = np.array(spacing_zyx_mm or (z, max(y, _FINEST_MM), max(x, _FINEST_MM)))
    box = occupied_box(source.organs[LIVER])
    margin = np.ceil((MARGIN_MM + MOTION_MM) / own).astype(int)
    start = np.maximum([side.start for side in box] - margin, 0)
    stop = np.minimum([side.stop for side in box] + margin, source.hu.shape)
    window = box_slices(start, stop)
    extent_mm = (stop - start - 1) * own
    shape = np.floor(extent_mm / wanted + 1e-6).astype(int) + 1
    axes = [
        torch.from_numpy((np.arange(count) - (count - 1) / 2) * step).float()
        for count, step in zip(shape.tolist(), wanted.tolist(), strict=True)
    ]
    points = lattice((axes[0], axes[1], axes[2]))
    blur = np.sqrt(np.maximum(wanted**2 - own**2, 0)) / 2.355 / own

    def resampled(volume: np.ndarray) -> Float32[np.ndarray, "z y x"]:
        smooth = gaussian_filter(volume[window].astype(np.float32), blur, truncate=2.5)
        return np.asarray(sampled(torch.from_numpy(smooth), points, own).numpy())

    return Source(
        name=source.name,
        hu=resampled(source.hu).round().astype(np.int16),
        spacing_zyx_mm=wanted.astype(np.float32),
        sites={},
        organs={LIVER: resampled(source.organs[LIVER]) > 0.5},
    )


def _frame(liver: Bool[np.ndarray, "z y x"], spacing_zyx_mm: Float[np.ndarray, "3"]) -> Window:
    box = occupied_box(liver)
    margin = np.ceil(MARGIN_MM / spacing_zyx_mm).astype(int)
    start = np.maximum([side.start for side in box] - margin, 0)
    return box_slices(start, np.minimum([side.stop for side in box] + margin, liver.shape))


def _soft(mask: Bool[np.ndarray, "z y x"], spacing_zyx_mm: Float[np.ndarray, "3"]) -> Float32[np.ndarray, "z y x"]:
    """The mask with a border of about a voxel's width, outwards."""
    return np.asarray(np.clip(2 * gaussian_filter(mask.astype(np.float32), 1.0 / spacing_zyx_mm), 0, 1))


def _filled(
    hu: Float32[np.ndarray, "z y x"],
    mask: Bool[np.ndarray, "z y x"],
    level_hu: float,
    spacing_zyx_mm: Float[np.ndarray, "3"],
) -> Float32[np.ndarray, "z y x"]:
    """The share of an organ around its mask, which ends before the organ: by HU, between surroundings and organ."""
    near = distance_transform_edt(~mask, sampling=spacing_zyx_mm) < _BORDER_MM
    around_hu = min(_AROUND_HU, level_hu - 100)
    return np.asarray(near * np.clip((hu - around_hu) / (level_hu - around_hu), 0.0, 1.2))
