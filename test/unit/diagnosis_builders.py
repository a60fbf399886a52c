"""Tiny models of lesion types, and phases that are registered already, for tests of a diagnosis."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from longilesion.case import Scan
from longilesion.diagnosis.bundle import DiagnosisModel
from longilesion.diagnosis.exam import RegisteredPhases
from longilesion.diagnosis_settings import DiagnosisSettings
from longilesion.geometry import Grid, Triple
from longilesion.network_settings import EncoderSettings, LesionQueriesSettings
from longilesion.networks.lesion_queries import PhaseInput, QueryOutput
from longilesion.registration.reduction import reduce_scan
from longilesion.registration.register import SPACING_MM
from longilesion.registration.result import Registration, Stage
from longilesion.sliding import Region
from test.unit.builders import ball
from test.unit.case_folders import write_image

SPACING = (2.0, 2.0, 2.0)


def query_settings(**changes: object) -> LesionQueriesSettings:
    """The smallest network with queries."""
    encoder = EncoderSettings(
        features_per_stage=(4, 8),
        kernel_sizes=((3, 3, 3),) * 2,
        strides=((1, 1, 1), (2, 2, 2)),
        blocks_per_stage=(1, 1),
    )
    return LesionQueriesSettings(
        **{
            "phase_features": 4,
            "encoder": encoder,
            "pyramid_features": 8,
            "queries": 3,
            "decoder_layers": 1,
            "attention_heads": 2,
            "feedforward_features": 8,
            "embedding_features": 4,
            **changes,
        }
    )


def diagnosis_settings(*, network: LesionQueriesSettings | None = None, **changes: object) -> DiagnosisSettings:
    """A model of windows of 8 voxels of 2 mm, which sees HU from 0 to 100."""
    return DiagnosisSettings(
        **{
            "shape_zyx": (8, 8, 8),
            "spacing_zyx_mm": SPACING,
            "clip_hu": ((0.0, 100.0),),
            "network": network or query_settings(),
            **changes,
        }
    )


class StubNetwork(nn.Module):
    """Answers by a function of the input."""

    def __init__(self, answer: Callable[[PhaseInput], QueryOutput]) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, inputs: PhaseInput) -> QueryOutput:
        return self.answer(inputs)


def model_of(settings: DiagnosisSettings, network: nn.Module | Callable[[PhaseInput], QueryOutput]) -> DiagnosisModel:
    return DiagnosisModel(
        settings=settings,
        network=network if isinstance(network, nn.Module) else StubNetwork(network),
        provenance={},
        name="stub",
        device=torch.device("cpu"),
        precision=torch.float32,
    )


def phases_of(hu: Sequence[np.ndarray | None], liver: np.ndarray | None = None) -> RegisteredPhases:
    """Phases on a lattice of 2 mm; all of it is liver where no mask is given."""
    shape = next(volume.shape for volume in hu if volume is not None)
    mask = np.ones(shape, np.bool_) if liver is None else liver
    return RegisteredPhases(
        hu=np.stack([np.zeros(shape, np.float32) if volume is None else volume.astype(np.float32) for volume in hu]),
        is_there=np.array([volume is not None for volume in hu]),
        region=Region(mask=mask, grid=Grid.from_spacing(shape, SPACING)),
    )


def in_place(baseline: Scan, followup: Scan, *, stage: Stage = "rigid", similarity: float = 1.0) -> Registration:
    """The registration of two scans that share their world."""
    before, after = (reduce_scan(scan, SPACING_MM) for scan in (baseline, followup))
    return Registration(
        stage=stage,
        baseline=before,
        followup=after,
        motion=after.local_from_world @ np.linalg.inv(before.local_from_world),
        deformation=None,
        similarity=np.ones(before.hu.shape, np.float32),
        overall_similarity=similarity,
        shift_correlation=1.0,
    )


def block_scan(
    lesions: Mapping[Triple, int] | None = None, *, grid: Grid | None = None, noise_hu: float = 5.0, seed: int = 0
) -> Scan:
    """A block of tissue in air, of 72 x 64 x 64 mm, with balls of 8 mm radius of some HU."""
    grid = grid or Grid.from_spacing((24, 32, 32), (3.0, 2.0, 2.0), origin_xyz_mm=(-30.0, -40.0, 100.0))
    hu = np.full(grid.shape_zyx, -1000.0)
    hu[:, 4:-4, 4:-4] = 60 + np.random.default_rng(seed).normal(0, noise_hu, hu[:, 4:-4, 4:-4].shape)
    for centre, value in (lesions or {}).items():
        hu[ball(grid, centre, 8.0)] = value
    return Scan(hu=hu.round().astype(np.int16), grid=grid)


def write_scan(path: Path, scan: Scan) -> Path:
    """A NIfTI file of a scan."""
    return _write(path, scan.hu, scan.grid)


def write_mask(path: Path, mask: np.ndarray, grid: Grid) -> Path:
    return _write(path, mask.astype(np.uint8), grid)


def _write(path: Path, voxels: np.ndarray, grid: Grid) -> Path:
    spacing = grid.spacing_zyx_mm[::-1]
    return write_image(
        path,
        voxels,
        spacing_xyz_mm=spacing,
        origin_xyz_mm=grid.world_xyz_mm((0, 0, 0)),
        direction=grid.world_from_voxel[:3, :3] / spacing,
    )
