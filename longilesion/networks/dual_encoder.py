"""LongiNet: one encoder sees each time point in turn, a fusion joins them at every level, one decoder outlines."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from longilesion.config import ModelSettings
from longilesion.encoding import NetworkInput
from longilesion.networks.backbone import Decoder, Encoder, LocalPresence, NetworkOutput
from longilesion.networks.fusion import PointwiseFusion


class DualEncoder(nn.Module):
    """Two streams through one encoder (shared weights), fused at all skips and the bottleneck (section 2.3)."""

    def __init__(self, settings: ModelSettings) -> None:
        """Builds the network that the settings describe."""
        super().__init__()
        network, encoding = settings.network, settings.encoding
        self.intensity_channels = encoding.intensity_channels
        # It comes right after them.
        self.mask_channel = self.intensity_channels if "lesion_mask" in encoding.stream_channels else None
        self.stem_zyx = network.stem_zyx
        self.encoder = Encoder(encoding.channel_count, network)
        self.fusion = PointwiseFusion(network.features_per_stage)
        self.decoder = Decoder(self.encoder, network.decoder_convolutions, norm=network.decoder_norm)
        self.baseline_decoder = (
            Decoder(self.encoder, [1] * len(network.decoder_convolutions), norm=network.decoder_norm)
            if network.baseline_reconstruction
            else None
        )
        features = network.features_per_stage[0]
        self.presence = LocalPresence(
            3 * features, image_channels=self.intensity_channels, hidden=network.presence_features
        )

    def forward(self, batch: NetworkInput) -> NetworkOutput:
        """Outlines a batch; the finest resolution only, and no reconstruction, outside training."""
        size = len(batch.followup)
        skips = self.encoder(torch.cat((batch.followup, batch.baseline)))
        followup = [skip[:size] for skip in skips]
        known = batch.has_baseline.to(skips[0].dtype)[:, None, None, None, None]
        baseline = [skip[size:] * known for skip in skips]
        features, logits = self.decoder(self.fusion(followup, baseline), all_resolutions=self.training)
        description = self.presence.describe(
            (features, followup[0], baseline[0]),
            tuple(self._pooled(stream, self.intensity_channels) for stream in (batch.followup, batch.baseline)),
            self._outline(batch),
            # Detached: presence must not teach the outline to shrink.
            nn.functional.avg_pool3d(logits[0].detach().float().sigmoid(), self.stem_zyx),
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

    def _pooled(self, stream: Tensor, channels: int) -> Tensor:
        return nn.functional.avg_pool3d(stream[:, :channels].float(), self.stem_zyx)

    def _outline(self, batch: NetworkInput) -> Tensor:
        if self.mask_channel is None:
            return self._pooled(torch.zeros_like(batch.baseline[:, :1]), 1)
        mask = batch.baseline[:, self.mask_channel : self.mask_channel + 1].clamp(min=0)
        return self._pooled(mask, 1)
