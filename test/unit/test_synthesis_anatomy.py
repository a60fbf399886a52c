"""Anatomy-informed growth; volumes are counted on a lattice of points that is finer than the lesion's scan."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from training.synthesis.anatomy import AnatomyGrowth, anatomy_growth
from training.synthesis.deformation import sampled

SPACINGS = ((1.0, 1.0, 1.0), (5.0, 0.9, 0.9), (3.0, 0.775, 0.775))
SIDE_MM = 72.0
RADIUS_MM = 12.0


def positions(spacing: tuple[float, float, float]) -> NDArray[np.float64]:
    axes = [np.arange(0, SIDE_MM, step) for step in spacing]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)


def ball(spacing: tuple[float, float, float], radius_mm: float = RADIUS_MM) -> NDArray[np.bool_]:
    return np.linalg.norm(positions(spacing) - SIDE_MM / 2, axis=-1) < radius_mm


def muscle(spacing: tuple[float, float, float]) -> NDArray[np.int16]:
    return np.full(positions(spacing).shape[:3], 50, np.int16)


def grown(
    mask: NDArray[np.bool_], hu: NDArray[np.int16], spacing: tuple[float, float, float], factor: float
) -> AnatomyGrowth:
    hits = np.argwhere(mask)
    z, y, x = (slice(int(low), int(high) + 1) for low, high in zip(hits.min(0), hits.max(0), strict=True))
    box = z, y, x
    return anatomy_growth(hu, np.array(spacing, np.float32), mask=mask[box], box=box, volume_factor=factor)


def shown(mask: NDArray[np.bool_], spacing: tuple[float, float, float], growth: AnatomyGrowth) -> NDArray[np.bool_]:
    """The lesion in the scan with the change, on voxels of 1 mm."""
    fine = torch.from_numpy(positions((1.0, 1.0, 1.0)).astype(np.float32))
    middle = torch.tensor([(length - 1) / 2 * step for length, step in zip(mask.shape, spacing, strict=True)])
    volume = torch.from_numpy(mask.astype(np.float32))
    return (sampled(volume, growth.mapped(fine) - middle, np.array(spacing)) > 0.5).numpy()


def displacement_mm(growth: AnatomyGrowth) -> NDArray[np.float32]:
    fine = torch.from_numpy(positions((1.0, 1.0, 1.0)).astype(np.float32))
    return (growth.mapped(fine) - fine).numpy()


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("factor", [0.3, 0.6, 1.5, 3.0])
def test_volume_changes_by_the_wanted_factor_whatever_the_voxels(
    spacing: tuple[float, float, float], factor: float
) -> None:
    mask = ball(spacing)
    growth = grown(mask, muscle(spacing), spacing, factor)
    assert growth.volume_factor == pytest.approx(factor, rel=0.01)
    before = 4 / 3 * np.pi * RADIUS_MM**3
    assert shown(mask, spacing, growth).sum() / before == pytest.approx(factor, rel=0.12)


def test_growing_lesion_stays_round_although_voxels_are_not_cubes() -> None:
    spacing = SPACINGS[1]
    mask = ball(spacing)
    lesion = np.argwhere(shown(mask, spacing, grown(mask, muscle(spacing), spacing, 2.0)))
    z, y, x = np.ptp(lesion, axis=0) + 1
    # The radius of twice the volume is 15.1 mm.
    assert (z, y, x) == (pytest.approx(30.2, abs=5.0), pytest.approx(30.2, abs=2.1), pytest.approx(30.2, abs=2.1))


@settings(max_examples=8, deadline=None)
@given(
    factor=st.floats(0.25, 3.0),
    radius_mm=st.floats(4.0, 14.0),
    spacing=st.sampled_from(SPACINGS),
    seed=st.integers(0, 2**31),
)
def test_anatomy_never_folds(factor: float, radius_mm: float, spacing: tuple[float, float, float], seed: int) -> None:
    # Blocks of air, fat, muscle and bone at random beside a lesion.
    generator = np.random.default_rng(seed)
    coarse = generator.choice([-900, -100, 50, 700], (3, 3, 3))
    index = np.minimum((positions(spacing) / (SIDE_MM / 3)).astype(int), 2)
    hu = coarse[tuple(np.moveaxis(index, -1, 0))].astype(np.int16)
    mask = ball(spacing, radius_mm)
    hu[mask] = 60
    moved = displacement_mm(grown(mask, hu, spacing, factor)) + positions((1.0, 1.0, 1.0))
    jacobian = np.stack(np.gradient(moved, axis=(0, 1, 2)), axis=-1)
    assert np.linalg.det(jacobian).min() > 0.01


def test_factor_of_one_moves_nothing() -> None:
    growth = grown(ball(SPACINGS[0]), muscle(SPACINGS[0]), SPACINGS[0], 1.0)
    assert not displacement_mm(growth).any()


def test_tissue_far_from_the_lesion_stays_in_place() -> None:
    moved = np.linalg.norm(displacement_mm(grown(ball(SPACINGS[0]), muscle(SPACINGS[0]), SPACINGS[0], 1.5)), axis=-1)
    distance = np.linalg.norm(positions(SPACINGS[0]) - SIDE_MM / 2, axis=-1) - RADIUS_MM
    assert moved[np.abs(distance) < 1].min() > 0.8
    assert moved[distance > 1.2 * RADIUS_MM].max() < 0.05


def test_bone_does_not_move_and_the_lesion_grows_away_from_it() -> None:
    spacing = SPACINGS[0]
    mask, hu = ball(spacing), muscle(spacing)
    hu[:, :, 50:54] = 800
    growth = grown(mask, hu, spacing, 1.6)
    assert growth.volume_factor == pytest.approx(1.6, rel=0.01)
    assert np.abs(displacement_mm(growth)[:, :, 50:54]).max() < 1e-3
    x = np.argwhere(shown(mask, spacing, growth))[:, 2]
    towards, away = x.max() - 36, 36 - x.min()
    assert away > towards + 0.5
    assert x.max() < 50


def test_lesion_at_the_pleura_grows_into_the_lung() -> None:
    spacing = SPACINGS[0]
    mask, hu = ball(spacing), muscle(spacing)
    hu[:, :, 36:] = -850
    hu[mask] = 50
    x = np.argwhere(shown(mask, spacing, grown(mask, hu, spacing, 2.0)))[:, 2]
    assert x.max() - 36 > 36 - x.min() + 1.5


def test_lesion_in_bone_keeps_its_size_and_says_so() -> None:
    hu = np.full_like(muscle(SPACINGS[0]), 700)
    growth = grown(ball(SPACINGS[0]), hu, SPACINGS[0], 2.0)
    assert growth.volume_factor < 1.5


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_lesion_at_the_edge_of_the_scan_changes_too(factor: float) -> None:
    spacing = SPACINGS[2]
    mask = np.linalg.norm(positions(spacing) - (0.0, 36.0, 36.0), axis=-1) < RADIUS_MM
    assert grown(mask, muscle(spacing), spacing, factor).volume_factor == pytest.approx(factor, rel=0.02)
