"""From pairs of VOIs to the tensors of the two streams: windows, masks, heat maps. No geometry, no randomness.

Both streams have the same channels, because the encoders share their weights; a channel that a stream does not use is
zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float32
from torch import Tensor

from longilesion.config import Channel, EncodingSettings
from longilesion.voi import Voi, VoiPair


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NetworkInput:
    """A batch of encoded pairs; `baseline` is zero where `has_baseline` is false."""

    followup: Float32[Tensor, "batch c z y x"]
    baseline: Float32[Tensor, "batch c z y x"]
    has_baseline: Bool[Tensor, "batch"]

    def to(self, device: torch.device) -> NetworkInput:
        """The same batch on a device."""
        return NetworkInput(
            followup=self.followup.to(device),
            baseline=self.baseline.to(device),
            has_baseline=self.has_baseline.to(device),
        )


def encode(pairs: Sequence[VoiPair], settings: EncodingSettings) -> NetworkInput:
    """Encodes VOI pairs of one shape as a batch; also the collate function of training."""
    empty = np.zeros((settings.channel_count, *pairs[0].followup.hu.shape), np.float32)
    followups = [_stream(pair.followup, None, None, settings, used=settings.followup_channels) for pair in pairs]
    baselines = [
        empty
        if pair.baseline is None
        else _stream(pair.baseline, pair.baseline_mask, pair.baseline_others, settings, used=settings.baseline_channels)
        for pair in pairs
    ]
    return NetworkInput(
        followup=torch.from_numpy(np.stack(followups)),
        baseline=torch.from_numpy(np.stack(baselines)),
        has_baseline=torch.tensor([pair.baseline is not None for pair in pairs]),
    )


def _stream(
    voi: Voi,
    mask: Float32[np.ndarray, "z y x"] | None,
    others: Float32[np.ndarray, "z y x"] | None,
    settings: EncodingSettings,
    *,
    used: tuple[Channel, ...],
) -> Float32[np.ndarray, "c z y x"]:
    channels: list[Float32[np.ndarray, "z y x"]] = []
    for channel in settings.stream_channels:
        count = len(settings.clip_hu) if channel == "image" else 1
        if channel not in used:
            channels.extend([np.zeros_like(voi.hu)] * count)
        elif channel == "image":
            channels.extend((np.clip(voi.hu, low, high) - low) / (high - low) for low, high in settings.clip_hu)
        elif channel == "click_heatmap":
            channels.append(_heatmap(voi, settings.click_sigma_mm))
        elif mask is None or others is None:
            channels.append(np.zeros_like(voi.hu))
        else:
            channels.append(mask + np.float32(settings.other_lesions_value) * others)
    return np.stack(channels).astype(np.float32, copy=False)


def _heatmap(voi: Voi, sigma_mm: float) -> Float32[np.ndarray, "z y x"]:
    """A Gaussian around the click whose value at the click itself is 1."""
    z, y, x = (
        np.exp(-0.5 * ((np.arange(count) - center) * spacing / sigma_mm) ** 2).astype(np.float32)
        for count, center, spacing in zip(voi.hu.shape, voi.click_zyx, voi.grid.spacing_zyx_mm, strict=True)
    )
    return z[:, None, None] * y[:, None] * x
