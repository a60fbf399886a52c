"""From pairs of VOIs to the tensors of the two streams: windows, likelihoods, masks, heat maps. No randomness.

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
from longilesion.likelihood import lesion_likelihood
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
    streams = [_streams(pair, settings) for pair in pairs]
    return NetworkInput(
        followup=torch.from_numpy(np.stack([followup for followup, _ in streams])),
        baseline=torch.from_numpy(np.stack([baseline for _, baseline in streams])),
        has_baseline=torch.tensor([pair.baseline is not None for pair in pairs]),
    )


def _streams(
    pair: VoiPair, settings: EncodingSettings
) -> tuple[Float32[np.ndarray, "c z y x"], Float32[np.ndarray, "c z y x"]]:
    """The follow-up's and the baseline's channels, which are all zero without a baseline."""
    wanted = "lesion_likelihood" in settings.stream_channels
    likelihoods = lesion_likelihood(pair, settings.likelihood) if wanted else (None, None)
    followup = _stream(pair.followup, likelihoods[0], None, settings, used=settings.followup_channels)
    if pair.baseline is None:
        return followup, np.zeros_like(followup)
    mask = None
    if pair.baseline_mask is not None and pair.baseline_others is not None:
        mask = pair.baseline_mask + np.float32(settings.other_lesions_value) * pair.baseline_others
    return followup, _stream(pair.baseline, likelihoods[1], mask, settings, used=settings.baseline_channels)


def _stream(
    voi: Voi,
    likelihood: Float32[np.ndarray, "z y x"] | None,
    mask: Float32[np.ndarray, "z y x"] | None,
    settings: EncodingSettings,
    *,
    used: tuple[Channel, ...],
) -> Float32[np.ndarray, "c z y x"]:
    channels: list[Float32[np.ndarray, "z y x"]] = []
    for channel in settings.stream_channels:
        match channel:
            case "image":
                shown = [(np.clip(voi.hu, low, high) - low) / (high - low) for low, high in settings.clip_hu]
            case "lesion_likelihood":
                shown = [likelihood]
            case "lesion_mask":
                shown = [mask]
            case "click_heatmap":
                shown = [_heatmap(voi, _click_sigma_mm(voi, settings))]
        channels.extend(np.zeros_like(voi.hu) if channel not in used or part is None else part for part in shown)
    return np.stack(channels).astype(np.float32, copy=False)


def _click_sigma_mm(voi: Voi, settings: EncodingSettings) -> float:
    """The wider the less sure the click is."""
    widest = max(settings.click_sigma_mm, settings.unsure_click_sigma_mm)
    return settings.click_sigma_mm + (1.0 - voi.click_confidence) * (widest - settings.click_sigma_mm)


def _heatmap(voi: Voi, sigma_mm: float) -> Float32[np.ndarray, "z y x"]:
    """A Gaussian around the click whose value at the click itself is 1."""
    z, y, x = (
        np.exp(-0.5 * ((np.arange(count) - center) * spacing / sigma_mm) ** 2).astype(np.float32)
        for count, center, spacing in zip(voi.hu.shape, voi.click_zyx, voi.grid.spacing_zyx_mm, strict=True)
    )
    return z[:, None, None] * y[:, None] * x
