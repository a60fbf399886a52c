"""Encoders and decoders built from nnU-Net's blocks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from dynamic_network_architectures.building_blocks.plain_conv_encoder import PlainConvEncoder
from dynamic_network_architectures.building_blocks.residual_encoders import ResidualEncoder
from dynamic_network_architectures.building_blocks.simple_conv_blocks import StackedConvBlocks
from dynamic_network_architectures.building_blocks.unet_decoder import UNetDecoder
from jaxtyping import Float
from torch import Tensor, nn

from longilesion.network_settings import EncoderSettings

# How nnU-Net's blocks normalise and rectify their features.
_NORM = {
    "conv_bias": True,
    "norm_op": nn.InstanceNorm3d,
    "norm_op_kwargs": {"eps": 1e-5, "affine": True},
    "nonlin": nn.LeakyReLU,
    "nonlin_kwargs": {"inplace": True},
}


class Encoder(nn.Module):
    """An nnU-Net encoder (plain or residual) after an optional space-to-depth stem; returns one tensor per stage."""

    def __init__(self, channels: int, settings: EncoderSettings) -> None:
        """Builds the stages of `settings` for an input of that many channels."""
        super().__init__()
        self.stem_zyx = settings.stem_zyx
        z, y, x = settings.stem_zyx
        shared = {
            "input_channels": channels * z * y * x,
            "n_stages": len(settings.features_per_stage),
            "features_per_stage": settings.features_per_stage,
            "conv_op": nn.Conv3d,
            "kernel_sizes": settings.kernel_sizes,
            "strides": settings.strides,
            "return_skips": True,
            **_NORM,
        }
        self.stages = (
            PlainConvEncoder(n_conv_per_stage=settings.blocks_per_stage, **shared)
            if settings.encoder == "plain"
            else ResidualEncoder(n_blocks_per_stage=settings.blocks_per_stage, **shared)
        )

    def forward(self, image: Float[Tensor, "batch c z y x"]) -> list[Tensor]:
        """Features of every stage, the finest first."""
        skips: list[Tensor] = self.stages(space_to_depth(image, self.stem_zyx))
        return skips


class Decoder(nn.Module):
    """An nnU-Net decoder that also returns its features, and logits at the resolution before the encoder's stem."""

    def __init__(self, encoder: Encoder, convolutions: Sequence[int], *, norm: bool = True) -> None:
        """Builds the mirror image of an encoder, with that many convolutions per stage, the coarsest first.

        Without `norm`, features keep their scale: instance normalisation weakens a lesion's features the larger it is.
        """
        super().__init__()
        z, y, x = self.stem_zyx = encoder.stem_zyx
        self.unet = UNetDecoder(
            encoder.stages,
            z * y * x,
            tuple(convolutions),
            deep_supervision=True,
            norm_op=None if norm else nn.Identity,
        )
        # nnU-Net's decoder needs the encoder only to compute sizes; removed, so that the state has each tensor once.
        self.unet.encoder = None

    def forward(self, skips: Sequence[Tensor], *, all_resolutions: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The finest features, and the logits, finest first; only the finest unless `all_resolutions`."""
        features = skips[-1]
        logits = []
        last = len(skips) - 2
        for stage, skip in enumerate(reversed(skips[:-1])):
            features = torch.cat((self.unet.transpconvs[stage](features), skip), dim=1)
            features = self.unet.stages[stage](features)
            if all_resolutions or stage == last:
                logits.append(depth_to_space(self.unet.seg_layers[stage](features), self.stem_zyx))
        return features, tuple(reversed(logits))


def convolution_block(channels: int, features: int, *, convolutions: int) -> nn.Module:
    """An nnU-Net block: convolutions of 3x3x3 voxels, each with an instance normalisation and a leaky ReLU."""
    block: nn.Module = StackedConvBlocks(
        convolutions, nn.Conv3d, channels, features, kernel_size=3, initial_stride=1, **_NORM
    )
    return block


def space_to_depth(
    image: Float[Tensor, "batch c z y x"], factor_zyx: tuple[int, int, int]
) -> Float[Tensor, "batch d z2 y2 x2"]:
    """Moves blocks of voxels into channels."""
    a, b, c = factor_zyx
    if a * b * c == 1:
        return image
    batch, channels, z, y, x = image.shape
    blocks = image.reshape(batch, channels, z // a, a, y // b, b, x // c, c)
    return blocks.permute(0, 1, 3, 5, 7, 2, 4, 6).reshape(batch, channels * a * b * c, z // a, y // b, x // c)


def depth_to_space(
    image: Float[Tensor, "batch d z y x"], factor_zyx: tuple[int, int, int]
) -> Float[Tensor, "batch c z2 y2 x2"]:
    """Moves channels back into blocks of voxels; the inverse of `space_to_depth`."""
    a, b, c = factor_zyx
    if a * b * c == 1:
        return image
    batch, depth, z, y, x = image.shape
    channels = depth // (a * b * c)
    blocks = image.reshape(batch, channels, a, b, c, z, y, x)
    return blocks.permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(batch, channels, z * a, y * b, x * c)
