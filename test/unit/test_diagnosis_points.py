"""Points of lesions' masks: as many in the foreground as is said, and lesions that no lattice loses."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from training.diagnosis.points import draw_points, point_targets, reduced
from training.diagnosis.settings import DiagnosisLossSettings

SEEDS = st.integers(0, 2**32 - 1)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def flat_mask(*inside: int, voxels: int = 40) -> Tensor:
    mask = torch.zeros(1, voxels, dtype=torch.bool)
    mask[0, list(inside)] = True
    return mask


@given(
    inside=st.lists(st.sets(st.integers(0, 39), min_size=1), min_size=1, max_size=3),
    points=st.integers(2, 50),
    share=st.floats(0, 1),
    seed=SEEDS,
)
def test_stated_share_of_points_lies_inside(inside: list[set[int]], points: int, share: float, seed: int) -> None:
    masks = torch.cat([flat_mask(*each) for each in inside])
    drawn = draw_points(masks, points, share=share, generator=seeded(seed))
    enhanced = round(share * points)
    assert drawn.shape == (len(masks), points)
    assert bool(masks.gather(1, drawn[:, :enhanced]).all())
    assert int(drawn.min()) >= 0
    assert int(drawn.max()) < 40
    assert torch.equal(drawn, draw_points(masks, points, share=share, generator=seeded(seed)))


def test_the_other_points_lie_anywhere_and_those_inside_anywhere_inside() -> None:
    mask, points = flat_mask(3, 17, 18, 39), 40_000
    drawn = draw_points(mask, points, share=0.25, generator=seeded())[0]
    inside, anywhere = (torch.bincount(part, minlength=40) for part in (drawn[:10_000], drawn[10_000:]))
    # Six standard deviations of a binomial.
    torch.testing.assert_close(inside[mask[0]].float(), torch.full((4,), 2500.0), atol=260, rtol=0)
    torch.testing.assert_close(anywhere.float(), torch.full((40,), 750.0), atol=165, rtol=0)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_points_of_an_empty_mask_lie_anywhere(share: float) -> None:
    drawn = draw_points(flat_mask(), 4000, share=share, generator=seeded())
    assert len(drawn.unique()) == 40
    assert draw_points(flat_mask()[:0], 10, share=share, generator=seeded()).shape == (0, 10)


@given(
    factor=st.tuples(*[st.sampled_from([1, 2, 4])] * 3),
    voxel=st.tuples(*[st.integers(0, 7)] * 3),
    size=st.tuples(*[st.integers(1, 3)] * 3),
)
def test_no_lesion_vanishes_on_a_coarser_lattice_or_leaves_its_place(
    factor: tuple[int, int, int], voxel: tuple[int, int, int], size: tuple[int, int, int]
) -> None:
    box = tuple(slice(start, start + length) for start, length in zip(voxel, size, strict=True))
    mask = torch.zeros(1, 8, 8, 8, dtype=torch.bool)
    mask[(0, *box)] = True
    coarse = reduced(mask, tuple(8 // each for each in factor))
    back = coarse
    for axis, each in enumerate(factor, start=1):
        back = back.repeat_interleave(each, axis)
    assert bool((back & mask).any())
    # No voxel without a part of the lesion.
    blocks = coarse.nonzero()
    for _, *corner in blocks.tolist():
        block = tuple(slice(at * each, (at + 1) * each) for at, each in zip(corner, factor, strict=True))
        assert bool(mask[(0, *block)].any())
    if size == (1, 1, 1):
        assert len(blocks) == 1


def test_voxels_that_are_half_a_lesions_own_are_its() -> None:
    mask = torch.zeros(2, 4, 8, 8, dtype=torch.bool)
    # It fills one voxel of the coarse lattice, half of the next one, and a quarter of the one after.
    mask[0, :2, :2, :3] = True
    mask[0, :2, 0, 4] = True
    coarse = reduced(mask, (2, 4, 4))
    assert coarse.nonzero().tolist() == [[0, 0, 0, 0], [0, 0, 0, 1]]
    assert reduced(mask, (4, 8, 8)) is mask
    assert reduced(mask[:0], (2, 4, 4)).shape == (0, 2, 4, 4)


def test_small_lesions_have_as_many_shared_points_as_large_ones() -> None:
    masks = torch.zeros(2, 8, 8, 8, dtype=torch.bool)
    masks[0, 0, 0, 0], masks[1, 4:] = True, True
    settings = DiagnosisLossSettings(points=200, foreground_share=0.5)
    targets = point_targets(masks, (8, 8, 8), settings, seeded())
    assert targets.points.shape == targets.masks.shape == (2, 200)
    assert targets.shared_masks.shape == (2, 200)
    assert torch.equal(targets.masks, masks.flatten(1).gather(1, targets.points))
    assert torch.equal(targets.shared_masks, masks.flatten(1)[:, targets.shared_points])
    assert int(targets.shared_masks[0].sum()) in range(50, 54)
    assert int(targets.shared_masks[1].sum()) >= 50


def test_sample_without_a_lesion_has_no_points_of_its_own() -> None:
    targets = point_targets(torch.zeros(0, 8, 8, 8, dtype=torch.bool), (4, 4, 4), DiagnosisLossSettings(), seeded())
    assert len(targets.masks) == len(targets.shared_masks) == 0
