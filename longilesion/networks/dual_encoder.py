"""Dual encoders: one encoder for all time points, a fusion of their features at every level, one decoder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

import torch
from torch import Tensor, nn

from longilesion.config import CHANNELS, Channel, EncodingSettings, ModelSettings
from longilesion.network_settings import DualEncoderSettings
from longilesion.networks.fusion import FUSIONS, TimePointFeatures
from longilesion.networks.interface import LesionNetwork, LossPart, NetworkInput, NetworkOutput, NnUnetCounterparts
from longilesion.networks.presence import LocalPresence
from longilesion.networks.unet import Decoder, Encoder


class DualEncoder(LesionNetwork):
    """All time points through one encoder (shared weights), fused at all skips and the bottleneck, then decoded.

    LongiNet (section 2.3), Difference Weighting (section 2.1), or with LIDIA's fusion, as the settings name it. The
    encoder's input has all channels of either stream; those that a stream lacks are zero.
    """

    presence: LocalPresence | None

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
        self.intensity_channels = encoding.intensity_width(shared)
        self.encoder = Encoder(self.channels, unet)
        self.fusion = FUSIONS[network.fusion](unet.features_per_stage)
        self.decoder = Decoder(self.encoder, unet.decoder_convolutions, norm=unet.decoder_norm)
        self.baseline_decoder = (
            Decoder(self.encoder, [1] * len(unet.decoder_convolutions), norm=unet.decoder_norm)
            if network.baseline_reconstruction and encoding.has_prior_mask
            else None
        )
        if network.presence_features:
            self.presence = LocalPresence(
                3 * unet.features_per_stage[0],
                image_channels=2 * self.intensity_channels,
                hidden=network.presence_features,
            )

    @property
    def description(self) -> str:
        """The dual encoder of its fusion, and its presence head."""
        return self.fusion.network if self.presence is None else f"{self.fusion.network} and a local presence head"

    @property
    def loss_parts(self) -> tuple[LossPart, ...]:
        """The outline, the presence, and the auxiliary reconstruction, of those that there are."""
        reconstruction: tuple[LossPart, ...] = () if self.baseline_decoder is None else ("reconstruction",)
        return *super().loss_parts, *reconstruction

    def forward(self, batch: NetworkInput) -> NetworkOutput:
        """Outlines a batch; the finest resolution only, and no reconstruction, outside training."""
        size = len(batch)
        streams = torch.cat(
            (self._padded(batch.followup, self.followup_places), self._padded(batch.baseline, self.baseline_places))
        )
        skips = self.encoder(streams)
        followup = [skip[:size] for skip in skips]
        baseline = _masked([skip[size:] for skip in skips], batch.has_baseline)
        fused = self.fusion(followup, chain(self._earlier(batch), [baseline]))
        features, logits = self.decoder(fused, all_resolutions=self.training)
        description = presence_logit = None
        if self.presence is not None:
            images = streams[:, : self.intensity_channels]
            description = self.presence.describe(
                (features, followup[0], baseline.levels[0]), (images[:size], images[size:]), batch.prior, logits[0]
            )
            presence_logit = self.presence(description)
        reconstruction = None
        if self.training and self.baseline_decoder is not None:
            _, reconstruction = self.baseline_decoder(baseline.levels, all_resolutions=True)
        return NetworkOutput(
            lesion_logits=logits,
            presence_logit=presence_logit,
            presence_features=description,
            baseline_logits=reconstruction,
        )

    def output_layers(self) -> Iterator[nn.Module]:
        """Those of every resolution of both decoders."""
        for decoder in (self.decoder, self.baseline_decoder):
            if decoder is not None:
                yield from decoder.unet.seg_layers

    def counterparts(self) -> NnUnetCounterparts:
        """The encoder and the decoder; the fusion then begins as near to the follow-up's features alone as it can."""
        return NnUnetCounterparts(
            unet=self.settings.unet,
            prefixes={"encoder.stages.": "encoder.", "decoder.unet.": "decoder."},
            followup_alone={f"fusion.{name}": value for name, value in self.fusion.followup_alone().items()},
        )

    def _earlier(self, batch: NetworkInput) -> Iterator[TimePointFeatures]:
        """The time points before the baseline, oldest first; each is encoded only when the fusion comes to it."""
        if self.fusion.uses_earlier and batch.earlier is not None and batch.has_earlier is not None:
            for maps, is_there in zip(batch.earlier.unbind(1), batch.has_earlier.unbind(1), strict=True):
                yield _masked(self.encoder(self._padded(maps, self.baseline_places)), is_there)

    def _padded(self, maps: Tensor, places: Sequence[int]) -> Tensor:
        """A time point's channels in their places among all of the encoder's."""
        padded = maps.new_zeros((len(maps), self.channels, *maps.shape[2:]))
        padded[:, places] = maps
        return padded


def _masked(levels: Sequence[Tensor], is_there: Tensor) -> TimePointFeatures:
    """A prior's features, zero for the lesions that do not have it."""
    known = is_there.to(levels[0].dtype)[:, None, None, None, None]
    return TimePointFeatures(levels=[level * known for level in levels], is_there=is_there)


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
