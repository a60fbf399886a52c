"""Networks: tensors in, tensors out. They depend on settings, never on scans."""

from __future__ import annotations

from collections.abc import Callable

from longilesion.config import ModelSettings
from longilesion.networks.dual_encoder import DualEncoder
from longilesion.networks.early_fusion import EarlyFusion
from longilesion.networks.interface import LesionNetwork
from longilesion.networks.joint_encoder import JointEncoder

# The network class by its kind in the settings.
NETWORKS: dict[str, Callable[[ModelSettings], LesionNetwork]] = {
    "dual_encoder": DualEncoder,
    "early_fusion": EarlyFusion,
    "joint_encoder": JointEncoder,
}


def build_network(settings: ModelSettings) -> LesionNetwork:
    """Builds the network that the settings name, with fresh weights."""
    return NETWORKS[settings.network.kind](settings)
