from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from test.unit.synthetic import block
from training.synthesis.deformation import Breathing
from training.synthesis.sliding import Lungs, find_lungs, sliding


@cache
def lungs() -> Lungs:
    """The block's lung: 120 mm high, between 40 and 100 mm along y and between 30 and 80 mm along x."""
    found = find_lungs(block())
    assert found is not None
    return found


def breathing(amplitude_mm: float) -> Breathing:
    plain = Breathing(amplitude_mm=amplitude_mm, diaphragm_mm=30.0, height_mm=150.0)
    return Breathing(
        amplitude_mm=amplitude_mm, diaphragm_mm=30.0, height_mm=150.0, sliding=sliding(lungs(), plain.shift_mm)
    )


def points(step_mm: float = 3.0) -> torch.Tensor:
    z, y, x = (torch.arange(0.0, end, step_mm) for end in (176.0, 176.0, 176.0))
    return torch.stack(torch.meshgrid(z, y, x, indexing="ij"), dim=-1)


def depth_mm(where: torch.Tensor) -> torch.Tensor:
    return lungs().looked_up(lungs().depths_mm[None], where)[0]


@pytest.mark.parametrize("amplitude_mm", [-20.0, 12.0])
def test_chest_wall_stays_and_the_lung_beside_it_moves(amplitude_mm: float) -> None:
    where = points()
    moved = (breathing(amplitude_mm).mapped(where) - where).norm(dim=-1)
    y, x = where[..., 1], where[..., 2]
    wall = (y < 34) | (y > 106) | (x < 24) | (x > 86)
    assert float(moved[wall].max()) < 0.5
    beside = (where[..., 0] > 50) & (where[..., 0] < 80) & (x > 32) & (x < 36) & (y > 60) & (y < 80)
    assert float(moved[beside].min()) > 0.5 * abs(amplitude_mm)


@pytest.mark.parametrize("amplitude_mm", [-20.0, 12.0])
def test_lung_stays_lung_and_the_rest_stays_the_rest(amplitude_mm: float) -> None:
    where, breath = points(), breathing(amplitude_mm)
    assert breath.sliding is not None
    shift = breath.shift_mm(where[..., 0]) * breath.sliding.following(where)
    shared = torch.stack((where[..., 0] + shift, where[..., 1], where[..., 2]), dim=-1)
    is_lung = depth_mm(shared) > 0
    found = depth_mm(breath.mapped(where))
    # At the edges of the block's lung, smoothed depths are short of the lattice.
    assert float((found[is_lung] < -2).float().mean()) < 0.004
    assert float((found[~is_lung] > 0).float().mean()) == 0


@pytest.mark.parametrize("amplitude_mm", [-12.0, 12.0])
def test_lung_neither_folds_nor_tears(amplitude_mm: float) -> None:
    where = points()
    moved = breathing(amplitude_mm).mapped(where)
    derivative = np.stack([np.stack(np.gradient(moved[..., axis].numpy(), 3.0)) for axis in range(3)])
    determinant = np.linalg.det(np.moveaxis(derivative, (0, 1), (-2, -1)))
    inner = (depth_mm(where) > 6).numpy()
    assert determinant[inner].min() > 0
    low, high = np.quantile(determinant[inner], [0.01, 0.99])
    assert 0.2 < low < high < 2.0


def test_part_of_the_lungs_is_that_of_the_whole() -> None:
    part = lungs().near(np.array([90.0, 70.0, 60.0]), np.array([10.0, 8.0, 5.0]))
    assert part.depths_mm.numel() < lungs().depths_mm.numel()
    where = points()[27:33, 21:25, 18:22]
    torch.testing.assert_close(part.looked_up(part.depths_mm[None], where)[0], depth_mm(where), atol=1e-3, rtol=0)


def test_volume_without_lungs_has_none_that_slide() -> None:
    assert find_lungs(replace(block(), hu=np.full((20, 40, 40), 40, np.int16))) is None
