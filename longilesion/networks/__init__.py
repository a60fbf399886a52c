"""Networks: tensors in, tensors out. They depend on settings, never on scans."""

from __future__ import annotations

from collections.abc import Callable

from longilesion.config import ModelSettings
from longilesion.networks.dual_encoder import DualEncoder
from longilesion.networks.interface import LesionNetwork

# The network class by its kind in the settings.
NETWORKS: dict[str, Callable[[ModelSettings], LesionNetwork]] = {"dual_encoder": DualEncoder}


def build_network(settings: ModelSettings) -> LesionNetwork:
    """Builds the network that the settings name, with fresh weights."""
    return NETWORKS[settings.network.kind](settings)
