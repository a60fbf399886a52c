"""The nnU-Net parts that every network is built from, and what every network returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from dynamic_network_architectures.building_blocks.plain_conv_encoder import PlainConvEncoder
from dynamic_network_architectures.building_blocks.residual_encoders import ResidualEncoder
from dynamic_network_architectures.building_blocks.unet_decoder import UNetDecoder
from jaxtyping import Float
from torch import Tensor, nn

from longilesion.config import DualEncoderSettings


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NetworkOutput:
    """What a network says of a batch.

    `lesion_logits` and `baseline_logits` hold one map per decoder resolution, the finest, at the input's size, first;
    only the finest outside training. `presence_features` is what the presence was judged by. `baseline_logits` is the
    auxiliary reconstruction, None where there is none.
    """

    lesion_logits: tuple[Float[Tensor, "batch 1 _ _ _"], ...]
    presence_logit: Float[Tensor, " batch"]
    presence_features: Float[Tensor, "batch d"]
    baseline_logits: tuple[Float[Tensor, "batch 1 _ _ _"], ...] | None


class Encoder(nn.Module):
    """An nnU-Net encoder (plain or residual) after an optional space-to-depth stem; returns one tensor per stage."""

    def __init__(self, channels: int, settings: DualEncoderSettings) -> None:
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
            "conv_bias": True,
            "norm_op": nn.InstanceNorm3d,
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "nonlin": nn.LeakyReLU,
            "nonlin_kwargs": {"inplace": True},
            "return_skips": True,
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
    """An nnU-Net decoder that also gives its features, and logits at the resolution before the encoder's stem."""

    def __init__(self, encoder: Encoder, convolutions: Sequence[int], *, norm: bool = True) -> None:
        """Builds the mirror image of an encoder, with that many convolutions per stage, the coarsest first.

        Without `norm`, features keep their scale: normalised per VOI, what says "lesion" is weaker the larger it is.
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
        # It keeps the encoder only to compute sizes; without it no tensor stands twice in the state.
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


class LocalPresence(nn.Module):
    """Says whether the lesion is still there, from features pooled around it and not over the whole VOI.

    Five regions are pooled: a Gaussian at the VOI's centre, where alignment put the lesion; the baseline outline and
    the predicted outline, each with the shell around it. Besides the means, the head gets the contrast of both
    outlines against their shells in both time points' images, since a lesion that is gone has none in the follow-up.
    """

    def __init__(self, channels: int, *, image_channels: int, hidden: int) -> None:
        """Builds the head for pooled maps of that many channels, plus both streams' images."""
        super().__init__()
        regions, outlines, statistics = 5, 2, 5
        images = 2 * image_channels
        self.channels = channels
        self.pooled = regions * (channels + images)
        self.norm = nn.LayerNorm(self.pooled)
        self.layers = nn.Sequential(
            nn.Linear(self.pooled + outlines * images + statistics, hidden),
            nn.LeakyReLU(0.01),
            nn.Linear(hidden, 1),
        )

    def forward(self, description: Float[Tensor, "batch d"]) -> Float[Tensor, " batch"]:
        """One logit per lesion."""
        pooled, rest = description.split([self.pooled, description.shape[1] - self.pooled], dim=1)
        logit: Tensor = self.layers(torch.cat((self.norm(pooled), rest), dim=1))
        return logit[:, 0]

    def describe(
        self,
        features: Sequence[Float[Tensor, "batch _ z y x"]],
        images: Sequence[Float[Tensor, "batch _ z y x"]],
        outline: Float[Tensor, "batch 1 z y x"],
        probability: Float[Tensor, "batch 1 z y x"],
    ) -> Float[Tensor, "batch d"]:
        """What the head judges by; `outline` is the baseline lesion, zero if there is none. All at one resolution."""
        # Sums over 10^5 voxels: bfloat16 would lose small lesions.
        with torch.autocast(outline.device.type, enabled=False):
            outline, probability = outline.float(), probability.float()
            center = _center_gaussian(outline).expand_as(outline)
            regions = torch.cat((center, outline, _shell(outline), probability, _shell(probability)), dim=1).flatten(2)
            mass = regions.sum(2)
            # Map by map, since a concatenated copy of all of them would cost more than their sums.
            sums = [regions @ maps.float().flatten(2).transpose(1, 2) for maps in (*features, *images)]
            pooled = torch.cat(sums, dim=2) / (mass[..., None] + 1.0)
            intensities = pooled[:, :, self.channels :]
            seen = ((mass[:, [1, 3]] > 1) & (mass[:, [2, 4]] > 1))[..., None]
            # Tens of HU are a hundredth of the image's range; the factor brings them to the scale of the features.
            contrast = 10 * (intensities[:, [1, 3]] - intensities[:, [2, 4]]) * seen
            overlap = (outline * probability).flatten(1).sum(1) / (mass[:, 1] + 1.0)
            statistics = torch.stack(
                (
                    mass[:, 1].log1p(),
                    mass[:, 3].log1p(),
                    probability.flatten(1).amax(1),
                    overlap,
                    (outline.flatten(1).amax(1) > 0.5).float(),
                ),
                dim=1,
            )
            return torch.cat((pooled.flatten(1), contrast.flatten(1), statistics), dim=1)


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


def _shell(mask: Float[Tensor, "batch 1 z y x"]) -> Float[Tensor, "batch 1 z y x"]:
    """The voxels up to two steps around a mask."""
    near = nn.functional.avg_pool3d((mask > 0.5).float(), 5, stride=1, padding=2) > 0
    return near.float() * (1 - mask)


def _center_gaussian(maps: Float[Tensor, "batch c z y x"]) -> Float[Tensor, "1 1 z y x"]:
    """A Gaussian at the middle whose deviation is a tenth of each axis' length."""
    axes = [torch.linspace(-5, 5, length, device=maps.device) for length in maps.shape[2:]]
    z, y, x = ((-0.5 * axis**2).exp() for axis in axes)
    return (z[:, None, None] * y[:, None] * x)[None, None]
