"""The feature pyramid: its levels, written out for two, and their widths."""

import pytest
import torch

from longilesion.networks.feature_pyramid import FeaturePyramid, upsampled


def stages_of(widths: tuple[int, ...]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.rand((2, width, *(16 >> level,) * 3), generator=generator) for level, width in enumerate(widths)]


def test_a_level_is_its_stage_and_the_coarser_level_smoothed() -> None:
    torch.manual_seed(0)
    pyramid, (fine, coarse) = FeaturePyramid((4, 6), 8, mask_level=0), stages_of((4, 6))
    with torch.inference_mode():
        levels = pyramid([fine, coarse])
        first = pyramid.smoothings[1](pyramid.laterals[1](coarse))
        doubled = torch.nn.Upsample(scale_factor=2, mode="trilinear")(first)
        second = pyramid.smoothings[0](pyramid.laterals[0](fine) + doubled)
    torch.testing.assert_close(levels, [second, first])


@pytest.mark.parametrize(
    ("mask_level", "widths"), [(0, (8, 8, 8, 8)), (1, (4, 8, 8, 8)), (2, (4, 6, 8, 8)), (3, (4, 6, 8, 8))]
)
def test_levels_finer_than_the_masks_are_as_narrow_as_their_stage(mask_level: int, widths: tuple[int, ...]) -> None:
    stages = stages_of((4, 6, 10, 12))
    pyramid = FeaturePyramid((4, 6, 10, 12), 8, mask_level=mask_level)
    with torch.inference_mode():
        levels = pyramid(stages)
    assert tuple(level.shape[1] for level in levels) == tuple(pyramid.widths) == widths
    assert [level.shape[2:] for level in levels] == [stage.shape[2:] for stage in stages]


def test_coarsest_stage_reaches_the_finest_level() -> None:
    torch.manual_seed(0)
    pyramid, stages = FeaturePyramid((4, 6, 10), 8, mask_level=1), stages_of((4, 6, 10))
    with torch.inference_mode():
        before, after = pyramid(stages)[0], pyramid([*stages[:2], stages[2].flip(2)])[0]
    assert not torch.allclose(before, after, atol=1e-3)


def test_maps_of_the_size_asked_for_stay_as_they_are() -> None:
    maps = torch.rand(1, 2, 4, 6, 8)
    assert upsampled(maps, (4, 6, 8)) is maps
    assert upsampled(maps, (4, 12, 16)).shape == (1, 2, 4, 12, 16)
