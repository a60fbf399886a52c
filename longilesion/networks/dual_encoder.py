"""Dual encoders: one encoder for both time points, a fusion of their features at every level, one decoder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from longilesion.config import CHANNELS, Channel, EncodingSettings, ModelSettings
from longilesion.network_settings import DualEncoderSettings
from longilesion.networks.fusion import FUSIONS
from longilesion.networks.interface import LesionNetwork, LossPart, NetworkInput, NetworkOutput, NnUnetCounterparts
from longilesion.networks.presence import LocalPresence
from longilesion.networks.unet import Decoder, Encoder


class DualEncoder(LesionNetwork):
    """LongiNet (section 2.3): two streams through one encoder (shared weights), fused at all skips and the bottleneck.

    The encoder's input has all channels of either stream; those that a stream lacks are zero.
    """

    presence: LocalPresence

    def __init__(self, settings: ModelSettings) -> None:
        """Builds the network that the settings describe."""
        super().__init__()
        network, encoding = settings.network, settings.encoding
        if not isinstance(network, DualEncoderSettings):
            raise TypeError(f"settings of a {network.kind}; expected those of a dual encoder")
        self.settings, unet = network, network.unet
        shared = [channel for channel in CHANNELS if channel in encoding.followup_channels + encoding.baseline_channels]
        self.channels = encoding.width(shared)
        self.followup_places = _places(shared, encoding.followup_channels, encoding)
        self.baseline_places = _places(shared, encoding.baseline_channels, encoding)
        self.intensity_channels = encoding.width(
            channel for channel in shared if channel in ("image", "lesion_likelihood")
        )
        self.encoder = Encoder(self.channels, unet)
        self.fusion = FUSIONS[network.fusion](unet.features_per_stage)
        self.decoder = Decoder(self.encoder, unet.decoder_convolutions, norm=unet.decoder_norm)
        self.baseline_decoder = (
            Decoder(self.encoder, [1] * len(unet.decoder_convolutions), norm=unet.decoder_norm)
            if network.baseline_reconstruction and encoding.has_prior_mask
            else None
        )
        self.presence = LocalPresence(
            3 * unet.features_per_stage[0],
            image_channels=self.intensity_channels,
            hidden=network.presence_features,
        )

    @property
    def description(self) -> str:
        """LongiNet's dual encoder with its fusion."""
        return f"LongiNet's dual encoder with {self.settings.fusion} fusion and a local presence head"

    @property
    def loss_parts(self) -> tuple[LossPart, ...]:
        """The outline, the presence, and the auxiliary reconstruction where there is one."""
        reconstruction: tuple[LossPart, ...] = () if self.baseline_decoder is None else ("reconstruction",)
        return *super().loss_parts, *reconstruction

    def forward(self, batch: NetworkInput) -> NetworkOutput:
        """Outlines a batch; the finest resolution only, and no reconstruction, outside training."""
        size = len(batch)
        streams = self._streams(batch)
        skips = self.encoder(streams)
        followup = [skip[:size] for skip in skips]
        known = batch.has_baseline.to(skips[0].dtype)[:, None, None, None, None]
        baseline = [skip[size:] * known for skip in skips]
        features, logits = self.decoder(self.fusion(followup, baseline), all_resolutions=self.training)
        images = self._pooled(streams[:, : self.intensity_channels])
        prior = torch.zeros_like(batch.followup[:, :1]) if batch.prior_mask is None else batch.prior_mask
        description = self.presence.describe(
            (features, followup[0], baseline[0]),
            (images[:size], images[size:]),
            self._pooled(prior),
            # Detached, so that no gradient of the presence loss shrinks the outline.
            self._pooled(logits[0].detach().float().sigmoid()),
        )
        reconstruction = None
        if self.training and self.baseline_decoder is not None:
            _, reconstruction = self.baseline_decoder(baseline, all_resolutions=True)
        return NetworkOutput(
            lesion_logits=logits,
            presence_logit=self.presence(description),
            presence_features=description,
            baseline_logits=reconstruction,
        )

    def output_layers(self) -> Iterator[nn.Module]:
        """Those of every resolution of both decoders."""
        for decoder in (self.decoder, self.baseline_decoder):
            if decoder is not None:
                yield from decoder.unet.seg_layers

    def counterparts(self) -> NnUnetCounterparts:
        """The encoder and the decoder; the fusion then begins with the follow-up's features alone."""
        return NnUnetCounterparts(
            unet=self.settings.unet,
            prefixes={"encoder.stages.": "encoder.", "decoder.unet.": "decoder."},
            followup_alone={f"fusion.{name}": value for name, value in self.fusion.followup_alone().items()},
        )

    def _streams(self, batch: NetworkInput) -> Tensor:
        """Both streams as the encoder's input, the follow-up's first."""
        size = len(batch)
        streams = batch.followup.new_zeros((2 * size, self.channels, *batch.followup.shape[2:]))
        streams[:size, self.followup_places] = batch.followup
        streams[size:, self.baseline_places] = batch.baseline
        return streams

    def _pooled(self, maps: Tensor) -> Tensor:
        return nn.functional.avg_pool3d(maps.float(), self.settings.unet.stem_zyx)


def _places(shared: Sequence[Channel], own: Sequence[Channel], encoding: EncodingSettings) -> list[int]:
    """The indices of a stream's channels among all of the encoder's."""
    places: list[int] = []
    start = 0
    for channel in shared:
        stop = start + encoding.width([channel])
        if channel in own:
            places.extend(range(start, stop))
        start = stop
    return places
