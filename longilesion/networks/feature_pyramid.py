"""A feature pyramid in 3D: an encoder's stages, each joined with all coarser ones."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from longilesion.networks.unet import convolution_block


class FeaturePyramid(nn.Module):
    """The pyramid of Lin et al. (2017), whose levels are smoothed before they are passed down, as in MaskFormer.

    Levels have `features` channels from the mask level on. Finer ones serve the semantic output alone, and are no wider
    than the encoder's stages: at the input's size, a convolution of all channels would cost more than the rest.
    """

    def __init__(self, stages: Sequence[int], features: int, *, mask_level: int) -> None:
        """Builds a level per stage, from the channels of each, finest first."""
        super().__init__()
        self.widths = [min(stage, features) if level < mask_level else features for level, stage in enumerate(stages)]
        self.laterals, self.downs, self.smoothings = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for stage, width, coarser in zip(stages, self.widths, (*self.widths[1:], None), strict=True):
            self.laterals.append(nn.Conv3d(stage, width, kernel_size=1))
            if coarser is not None:
                self.downs.append(nn.Identity() if coarser == width else nn.Conv3d(coarser, width, kernel_size=1))
            self.smoothings.append(convolution_block(width, width, convolutions=1))

    def forward(self, stages: Sequence[Float[Tensor, "batch _ _ _ _"]]) -> list[Tensor]:
        """The levels, finest first."""
        (*finer, coarsest) = stages
        levels: list[Tensor] = [self.smoothings[-1](self.laterals[-1](coarsest))]
        for level, stage in reversed(list(enumerate(finer))):
            coarser = upsampled(self.downs[level](levels[0]), stage.shape[2:])
            levels.insert(0, self.smoothings[level](self.laterals[level](stage) + coarser))
        return levels


def upsampled(maps: Float[Tensor, "batch c _ _ _"], shape_zyx: tuple[int, ...]) -> Float[Tensor, "batch c _ _ _"]:
    """Trilinearly interpolated to that many voxels, where they are not as many already."""
    if maps.shape[2:] == shape_zyx:
        return maps
    return nn.functional.interpolate(maps, size=shape_zyx, mode="trilinear")
