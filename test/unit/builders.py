"""Small scans, cases, settings and networks in memory, for tests of everything between reading and writing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from longilesion.case import Baseline, Case, Click, ClickPair, LesionMap, LesionPrompt, Scan, ScanName
from longilesion.config import (
    CHANNELS,
    AlignmentSettings,
    EncodingSettings,
    InferenceSettings,
    ModelSettings,
    SearchStep,
    VoiSettings,
)
from longilesion.geometry import ZYX, Grid, Triple
from longilesion.network_settings import DualEncoderSettings, NetworkSettings, UNetSettings
from longilesion.networks.interface import LesionNetwork, NetworkInput

TISSUE_HU, LESION_HU = 40, 300


def alignment(*, search_radius_mm: float = 5.0) -> AlignmentSettings:
    """One step over a small neighbourhood."""
    step = SearchStep(spacing_mm=2.5, template_radius_mm=10.0, search_radius_mm=search_radius_mm)
    return AlignmentSettings(windows_hu=((-300.0, 300.0),), steps=(step,), lesion_weight=1.0)


def unet(**changes: object) -> UNetSettings:
    """A U-Net of two stages, or of as many as `features_per_stage` says."""
    features = changes.setdefault("features_per_stage", (4, 8))
    stages = len(features)
    return UNetSettings(
        **{
            "kernel_sizes": ((3, 3, 3),) * stages,
            "strides": ((1, 1, 1),) + ((2, 2, 2),) * (stages - 1),
            "blocks_per_stage": (1,) * stages,
            "decoder_convolutions": (1,) * (stages - 1),
            **changes,
        }
    )


def dual_encoder(**changes: object) -> DualEncoderSettings:
    """A LongiNet out of such a U-Net; `changes` are of either."""
    own = {name: changes.pop(name) for name in set(changes) & set(DualEncoderSettings.model_fields)}
    return DualEncoderSettings(**{"unet": unet(**changes), "presence_features": 4, **own})


def model_settings(
    *,
    shape_zyx: ZYX = (8, 8, 8),
    spacing_zyx_mm: Triple = (2.0, 1.0, 1.0),
    growth_limit: int = 0,
    encoding: EncodingSettings | None = None,
    network: NetworkSettings | None = None,
    inference: InferenceSettings | None = None,
) -> ModelSettings:
    return ModelSettings(
        # A click without confidence looks no wider: blocks without anatomy cannot be registered.
        voi=VoiSettings(shape_zyx=shape_zyx, spacing_zyx_mm=spacing_zyx_mm, growth_limit=growth_limit, unsure_zoom=1.0),
        alignment=alignment(),
        encoding=encoding or EncodingSettings(),
        network=network or dual_encoder(),
        inference=inference or InferenceSettings(),
    )


class NetworkWithoutWeights(LesionNetwork):
    """Base of networks whose answer a test can foresee."""

    description = "network without weights"

    def output_layers(self) -> tuple[()]:
        return ()


def random_input(settings: ModelSettings, size: int = 2, *, seed: int = 0) -> NetworkInput:
    """Noise in every channel of both streams, each lesion with a baseline."""
    generator = torch.Generator().manual_seed(seed)
    encoding, shape = settings.encoding, settings.voi.shape_zyx
    followup, baseline = (
        torch.rand((size, encoding.width(channels), *shape), generator=generator)
        for channels in (encoding.followup_channels, encoding.baseline_channels)
    )
    mask = encoding.width(channel for channel in encoding.baseline_channels if channel in CHANNELS[:2])
    return NetworkInput(
        followup=followup,
        baseline=baseline,
        has_baseline=torch.ones(size, dtype=torch.bool),
        prior_mask=baseline[:, mask : mask + 1].clone() if encoding.has_prior_mask else None,
    )


def ball(grid: Grid, centre_xyz_mm: ArrayLike, radius_mm: float) -> NDArray[np.bool_]:
    """The voxels of a grid whose centres lie in a ball."""
    x, y, z = np.asarray(grid.index_zyx(centre_xyz_mm))[::-1]
    axes = zip(np.ogrid[tuple(slice(0, size) for size in grid.shape_zyx)], (z, y, x), grid.spacing_zyx_mm, strict=True)
    return np.asarray(sum(((axis - middle) * step) ** 2 for axis, middle, step in axes) <= radius_mm**2)


def scan_with(lesions: Mapping[int, tuple[Triple, float]], grid: Grid) -> tuple[Scan, LesionMap]:
    """Soft tissue with a dense ball per lesion (centre x, y, z and radius in mm), and the map of the balls."""
    hu = np.full(grid.shape_zyx, TISSUE_HU, np.int16)
    ids = np.zeros(grid.shape_zyx, np.uint16)
    for lesion_id, (centre, radius) in lesions.items():
        inside = ball(grid, centre, radius)
        hu[inside], ids[inside] = LESION_HU, lesion_id
    return Scan(hu=hu, grid=grid), LesionMap(ids=ids, grid=grid)


def click(point_xyz_mm: Triple, scan_name: ScanName = "primary", *, clamped: bool = False) -> Click:
    return Click(scan_name=scan_name, point_xyz_mm=point_xyz_mm, clamped=clamped)


def prompt(
    lesion_id: int, followup: Click | Triple, baseline: Click | Triple | None = None, *, propagated: bool = False
) -> LesionPrompt:
    now, before = (click(point) if isinstance(point, tuple) else point for point in (followup, baseline))
    assert now is not None
    return LesionPrompt(lesion_id=lesion_id, followup=now, baseline=before, propagated=propagated, confidence=1.0)


def case_of(
    clicks: Sequence[tuple[int, Click | None, Click | None]],
    *,
    followups: Mapping[ScanName, Scan],
    baselines: Mapping[ScanName, tuple[Scan, LesionMap | None]] | None = None,
) -> Case:
    """A case of scans by name, with each lesion's id, baseline click and follow-up click."""
    return Case(
        baselines={name: Baseline.of(scan, lesions) for name, (scan, lesions) in (baselines or {}).items()},
        followups=followups,
        clicks=tuple(ClickPair(lesion_id=number, baseline=before, followup=now) for number, before, now in clicks),
    )


def flipped(voxels: NDArray, grid: Grid) -> tuple[NDArray, Grid]:
    """The same anatomy stored the other way round along all three axes."""
    far = grid.world_xyz_mm(np.array(grid.shape_zyx) - 1)
    return np.ascontiguousarray(voxels[::-1, ::-1, ::-1]), Grid.from_spacing(
        grid.shape_zyx, grid.spacing_zyx_mm, origin_xyz_mm=far, direction=-np.eye(3)
    )
