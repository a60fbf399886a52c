"""Encoding of VOI pairs as the tensors of the two streams: HU windows, likelihoods, masks, heat maps; deterministic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float32

from longilesion.config import Channel, EncodingSettings
from longilesion.likelihood import lesion_likelihood
from longilesion.networks.interface import NetworkInput
from longilesion.voi import Voi, VoiPair

# HU are integers: an image that deviates by less from its mean has a single value.
_LEAST_DEVIATION_HU = 1.0


def encode(pairs: Sequence[VoiPair], settings: EncodingSettings) -> NetworkInput:
    """Encodes VOI pairs of one shape as a batch; also the collate function of training."""
    return NetworkInput.joined([_encoded(pair, settings) for pair in pairs])


def _encoded(pair: VoiPair, settings: EncodingSettings) -> NetworkInput:
    """One pair; all of the baseline's maps are zero where it is absent.

    Earlier time points are encoded as the baseline is, each in its place.
    """
    wanted = "lesion_likelihood" in settings.followup_channels + settings.baseline_channels
    # Without a click there is no lesion whose likelihood could be computed.
    is_known = wanted and pair.followup.is_clicked
    likelihoods = lesion_likelihood(pair, settings.likelihood) if is_known else (None, None)
    mask = prior = None
    if pair.baseline_mask is not None and pair.baseline_others is not None:
        others = np.float32(settings.other_lesions_value) * pair.baseline_others
        mask = np.float32(settings.lesion_mask_weight) * pair.baseline_mask + others
        prior = (pair.baseline_mask + others).clip(min=0)
    followup = _stream(pair.followup, likelihoods[0], None, settings, channels=settings.followup_channels)
    if pair.baseline is None:
        baseline = np.zeros((settings.width(settings.baseline_channels), *followup.shape[1:]), np.float32)
    else:
        baseline = _stream(pair.baseline, likelihoods[1], mask, settings, channels=settings.baseline_channels)
    if pair.baseline is None or prior is None:
        prior = np.zeros_like(followup[0])
    earlier = [
        _encoded(
            replace(pair, baseline=past.voi, baseline_mask=past.mask, baseline_others=past.others, earlier=()), settings
        ).baseline
        for past in pair.earlier
    ]
    return NetworkInput(
        followup=torch.from_numpy(followup)[None],
        baseline=torch.from_numpy(baseline)[None],
        has_baseline=torch.tensor([pair.baseline is not None]),
        prior_mask=torch.from_numpy(prior)[None, None] if settings.has_prior_mask else None,
        earlier=torch.stack(earlier, dim=1) if earlier else None,
        has_earlier=torch.ones((1, len(earlier)), dtype=torch.bool) if earlier else None,
    )


def _stream(
    voi: Voi,
    likelihood: Float32[np.ndarray, "z y x"] | None,
    mask: Float32[np.ndarray, "z y x"] | None,
    settings: EncodingSettings,
    *,
    channels: Sequence[Channel],
) -> Float32[np.ndarray, "c z y x"]:
    """The named channels; an unknown mask, likelihood or click is zero."""
    maps: list[Float32[np.ndarray, "z y x"] | None] = []
    for channel in channels:
        match channel:
            case "image":
                maps += [_image(voi.hu, window, settings) for window in settings.clip_hu]
            case "lesion_likelihood":
                maps.append(likelihood)
            case "lesion_mask":
                maps.append(mask)
            case "click_heatmap":
                maps.append(_heatmap(voi, settings) if voi.is_clicked else None)
            case "organ_mask":
                maps.append(voi.organ)
    stream = np.zeros((len(maps), *voi.hu.shape), np.float32)
    for place, known in enumerate(maps):
        if known is not None:
            stream[place] = known
    return stream


def _image(
    hu: Float32[np.ndarray, "z y x"], window: tuple[float, float], settings: EncodingSettings
) -> Float32[np.ndarray, "z y x"]:
    """Clipped Hounsfield units, from 0 to 1 or, as nnU-Net normalises images, minus a mean, over a deviation."""
    low, high = window
    clipped = np.clip(hu, low, high)
    # What is subtracted, and divided by.
    match settings.z_score:
        case None:
            offset, scale = low, high - low
        case "voi":
            offset, scale = float(clipped.mean(dtype=float)), max(float(clipped.std(dtype=float)), _LEAST_DEVIATION_HU)
        case offset, scale:
            pass
    image: Float32[np.ndarray, "z y x"] = (clipped - offset) / scale
    return image


def _heatmap(voi: Voi, settings: EncodingSettings) -> Float32[np.ndarray, "z y x"]:
    """A Gaussian around the click whose value at the click itself is 1, in millimetres or in voxels of the lattice."""
    sigma, spacing_zyx = _click_sigma_mm(voi, settings), voi.grid.spacing_zyx_mm
    if settings.click_sigma_voxels is not None:
        sigma, spacing_zyx = settings.click_sigma_voxels, (1.0, 1.0, 1.0)
    z, y, x = (
        np.exp(-0.5 * ((np.arange(count) - centre) * spacing / sigma) ** 2).astype(np.float32)
        for count, centre, spacing in zip(voi.hu.shape, voi.click_zyx, spacing_zyx, strict=True)
    )
    return z[:, None, None] * y[:, None] * x


def _click_sigma_mm(voi: Voi, settings: EncodingSettings) -> float:
    """The deviation of the heat map's Gaussian, which grows as the click's confidence falls."""
    widest = max(settings.click_sigma_mm, settings.unsure_click_sigma_mm)
    return settings.click_sigma_mm + (1.0 - voi.click_confidence) * (widest - settings.click_sigma_mm)
