"""Networks: tensors in, tensors out. They know settings, never scans."""

from __future__ import annotations

from longilesion.config import ModelSettings
from longilesion.networks.dual_encoder import DualEncoder


def build_network(settings: ModelSettings) -> DualEncoder:
    """Builds the network that the settings name, with fresh weights."""
    match settings.network.kind:
        case "dual_encoder":
            return DualEncoder(settings)
