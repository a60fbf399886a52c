"""Encoding of registered phases as a network's input: a channel from 0 to 1 per phase and HU window."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float32

from longilesion.diagnosis_settings import DiagnosisSettings
from longilesion.networks.lesion_queries import PhaseInput


def encode_phases(
    hu: Sequence[Float32[np.ndarray, "phases z y x"]],
    is_there: Sequence[Bool[np.ndarray, " phases"]],
    settings: DiagnosisSettings,
) -> PhaseInput:
    """Encodes windows of one shape, with their phases in the settings' order, as a batch."""
    lows, highs = np.array(settings.clip_hu, np.float32).T[:, :, None, None, None]
    windows = []
    for volumes, there in zip(hu, is_there, strict=True):
        channels = np.clip((volumes[:, None] - lows) / (highs - lows), 0.0, 1.0)
        # What an absent phase holds means nothing.
        channels[~there] = 0.0
        windows.append(torch.from_numpy(channels))
    return PhaseInput(phases=torch.stack(windows), is_there=torch.from_numpy(np.stack(is_there)))
