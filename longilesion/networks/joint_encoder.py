"""Joint encoders: one encoder per time point, self-attention over both, a joint encoder, one decoder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from longilesion.config import ModelSettings
from longilesion.network_settings import JointEncoderSettings, UNetSettings
from longilesion.networks.interface import LesionNetwork, NetworkInput, NetworkOutput
from longilesion.networks.unet import Encoder, convolution_block

_ZYX: TypeAlias = tuple[int, int, int]

# Of every block (appendix B).
_CONVOLUTIONS = 2


class JointEncoder(LesionNetwork):
    """LiFE-Net (section 2.1, appendix B).

    All features of the prior are zero where `has_baseline` is false, as training sets it at random
    (`Recipe.baseline_masking`); a batch without baseline gives what the paper calls LiFE-Net masked.
    """

    def __init__(self, settings: ModelSettings) -> None:
        """Builds the network that the settings describe; raises ValueError where the baseline has no channels."""
        super().__init__()
        network, encoding = settings.network, settings.encoding
        if not isinstance(network, JointEncoderSettings):
            raise TypeError(f"settings of a {network.kind}; expected those of a joint encoder")
        if not encoding.baseline_channels:
            raise ValueError("baseline_channels is empty; expected the channels that a joint encoder's prior sees")
        self.settings = network
        own, joint = network.features_per_stage, network.joint_features_per_stage
        self.prior = _encoder(encoding.width(encoding.baseline_channels), own, network.strides)
        self.current = _encoder(encoding.width(encoding.followup_channels), own, network.strides)
        self.attention = SelfAttention(2 * own[-1], heads=network.attention_heads)
        self.joint = _encoder(2 * own[-1], joint, network.joint_strides)
        # Finest first: the input's size, which has no features, both time points' levels, of which the coarsest is
        # the joint encoder's input and no skip (eq. 3), and the joint encoder's.
        both = [2 * features for features in own[:-1]]
        self.decoder = JointDecoder(
            features=(own[0], *both, 2 * own[-1], *joint),
            skips=(0, *both, 0, *joint[:-1]),
            strides=(*network.strides, *network.joint_strides),
        )

    @property
    def description(self) -> str:
        """LiFE-Net."""
        return "LiFE-Net's joint encoder with self-attention over both time points"

    def forward(self, batch: NetworkInput) -> NetworkOutput:
        """Outlines a batch; the finest resolution only outside training."""
        shown = batch.has_baseline[:, None, None, None, None]
        prior = [level * shown.to(level.dtype) for level in self.prior(batch.baseline)]
        both = [torch.cat(levels, dim=1) for levels in zip(prior, self.current(batch.followup), strict=True)]
        joint = self.joint(self.attention(both[-1]))
        # Those that have no skip are None, as in the decoder.
        return NetworkOutput(
            lesion_logits=self.decoder(joint[-1], (None, *both[:-1], None, *joint[:-1]), all_resolutions=self.training)
        )

    def output_layers(self) -> Iterator[nn.Module]:
        """Those of every resolution."""
        yield from self.decoder.output_layers


class SelfAttention(nn.Module):
    """Self-attention over all positions (Vaswani et al., 2017, section 3.2), added to its input.

    The positions have no embedding. nn.MultiheadAttention is not used, since outside training it computes all weights
    on a CPU, whose number is that of the positions squared.
    """

    def __init__(self, channels: int, *, heads: int) -> None:
        """Builds the projections of that many channels, which the heads divide among them."""
        super().__init__()
        self.heads = heads
        self.into = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, maps: Float[Tensor, "batch c z y x"]) -> Float[Tensor, "batch c z y x"]:
        """The maps, with what every position gathers from all others."""
        positions = maps.flatten(2).transpose(1, 2)
        parts = self.into(positions).unflatten(2, (3, self.heads, -1))
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        gathered = nn.functional.scaled_dot_product_attention(query, key, value)
        change: Tensor = self.out(gathered.transpose(1, 2).flatten(2))
        return maps + change.transpose(1, 2).reshape(maps.shape)


class JointDecoder(nn.Module):
    """A decoder of one block per stride, with skips at some of its levels only, and logits at every level."""

    def __init__(self, *, features: Sequence[int], skips: Sequence[int], strides: Sequence[_ZYX]) -> None:
        """Builds it from the features of every level, finest first, the skips of all but the last, and the strides."""
        super().__init__()
        self.ups, self.blocks, self.output_layers = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for finer, coarser, skip, stride in zip(features[:-1], features[1:], skips, strides, strict=True):
            self.ups.append(nn.ConvTranspose3d(coarser, finer, kernel_size=stride, stride=stride))
            self.blocks.append(convolution_block(finer + skip, finer, convolutions=_CONVOLUTIONS))
            self.output_layers.append(nn.Conv3d(finer, 1, kernel_size=1))

    def forward(
        self, bottleneck: Tensor, skips: Sequence[Tensor | None], *, all_resolutions: bool
    ) -> tuple[Tensor, ...]:
        """The logits, finest first; only the finest unless `all_resolutions`."""
        maps, logits = bottleneck, []
        levels = zip(self.ups, self.blocks, self.output_layers, skips, strict=True)
        for level, (up, block, output_layer, skip) in reversed(list(enumerate(levels))):
            maps = up(maps)
            maps = block(maps if skip is None else torch.cat((maps, skip), dim=1))
            if all_resolutions or level == 0:
                logits.append(output_layer(maps))
        return tuple(reversed(logits))


def _encoder(channels: int, features: Sequence[int], strides: Sequence[_ZYX]) -> Encoder:
    """An nnU-Net encoder whose every stage halves the size, as its strides say."""
    stages = len(features)
    return Encoder(
        channels,
        UNetSettings(
            features_per_stage=tuple(features),
            kernel_sizes=((3, 3, 3),) * stages,
            strides=tuple(strides),
            blocks_per_stage=(_CONVOLUTIONS,) * stages,
            decoder_convolutions=(_CONVOLUTIONS,) * (stages - 1),
        ),
    )
