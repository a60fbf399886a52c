"""Early fusion: one U-Net of the channels of both time points."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from longilesion.config import ModelSettings
from longilesion.network_settings import EarlyFusionSettings
from longilesion.networks.interface import LesionNetwork, NetworkInput, NetworkOutput, NnUnetCounterparts
from longilesion.networks.presence import LocalPresence
from longilesion.networks.unet import Decoder, Encoder


class EarlyFusion(LesionNetwork):
    """Promptable LongiSeg (section 3.1): both time points' channels concatenated, the follow-up's first.

    With no channels of the baseline it is cross-sectional.
    """

    presence: LocalPresence | None

    def __init__(self, settings: ModelSettings) -> None:
        """Builds the network that the settings describe."""
        super().__init__()
        network, encoding = settings.network, settings.encoding
        if not isinstance(network, EarlyFusionSettings):
            raise TypeError(f"settings of a {network.kind}; expected those of early fusion")
        self.settings, unet = network, network.unet
        self.followup_intensities = encoding.intensity_width(encoding.followup_channels)
        self.baseline_intensities = encoding.intensity_width(encoding.baseline_channels)
        self.baseline_channels = encoding.width(encoding.baseline_channels)
        self.encoder = Encoder(encoding.width(encoding.followup_channels) + self.baseline_channels, unet)
        self.decoder = Decoder(self.encoder, unet.decoder_convolutions, norm=unet.decoder_norm)
        if network.presence_features:
            self.presence = LocalPresence(
                2 * unet.features_per_stage[0],
                image_channels=self.followup_intensities + self.baseline_intensities,
                hidden=network.presence_features,
            )

    @property
    def description(self) -> str:
        """Promptable LongiSeg, or nnU-Net where only the follow-up is shown, and its presence head."""
        name = "Promptable LongiSeg's early fusion" if self.baseline_channels else "nnU-Net of the follow-up alone"
        return name if self.presence is None else f"{name} with a local presence head"

    def forward(self, batch: NetworkInput) -> NetworkOutput:
        """Outlines a batch; the finest resolution only outside training."""
        skips = self.encoder(torch.cat((batch.followup, batch.baseline), dim=1))
        features, logits = self.decoder(skips, all_resolutions=self.training)
        if self.presence is None:
            return NetworkOutput(lesion_logits=logits)
        description = self.presence.describe(
            (features, skips[0]),
            (batch.followup[:, : self.followup_intensities], batch.baseline[:, : self.baseline_intensities]),
            batch.prior,
            logits[0],
        )
        return NetworkOutput(
            lesion_logits=logits, presence_logit=self.presence(description), presence_features=description
        )

    def output_layers(self) -> Iterator[nn.Module]:
        """Those of every resolution."""
        yield from self.decoder.unet.seg_layers

    def counterparts(self) -> NnUnetCounterparts:
        """All of it."""
        return NnUnetCounterparts(
            unet=self.settings.unet, prefixes={"encoder.stages.": "encoder.", "decoder.unet.": "decoder."}
        )
