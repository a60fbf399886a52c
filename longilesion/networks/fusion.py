"""Fusion of the two time points' features."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Fusion(nn.Module, ABC):
    """Joins the features of both time points, level by level; it is built from the number of features of each."""

    @abstractmethod
    def forward(
        self, followup: Sequence[Float[Tensor, "batch _ _ _ _"]], baseline: Sequence[Float[Tensor, "batch _ _ _ _"]]
    ) -> list[Tensor]:
        """Fused features, level by level; an absent baseline's are zero."""

    @abstractmethod
    def followup_alone(self) -> dict[str, Tensor]:
        """The values of its tensors with which its output equals the follow-up's features."""


class PointwiseFusion(Fusion):
    """LongiNet (section 2.3): at each level a 1x1x1 convolution of both time points' features."""

    def __init__(self, features_per_stage: Sequence[int]) -> None:
        """Builds one convolution per level.

        It is kept as two halves, one per time point, whose results are added: the same map without a concatenated copy.
        """
        super().__init__()
        self.followup = nn.ModuleList(nn.Conv3d(features, features, kernel_size=1) for features in features_per_stage)
        self.baseline = nn.ModuleList(
            nn.Conv3d(features, features, kernel_size=1, bias=False) for features in features_per_stage
        )

    def forward(
        self, followup: Sequence[Float[Tensor, "batch _ _ _ _"]], baseline: Sequence[Float[Tensor, "batch _ _ _ _"]]
    ) -> list[Tensor]:
        """The sum of both convolutions."""
        levels = zip(self.followup, self.baseline, followup, baseline, strict=True)
        return [of_followup(now) + of_baseline(before) for of_followup, of_baseline, now, before in levels]

    def followup_alone(self) -> dict[str, Tensor]:
        """The follow-up's convolutions are the identity, the baseline's zero."""
        values = {name: torch.zeros_like(tensor) for name, tensor in self.named_parameters()}
        for name, value in values.items():
            if name.startswith("followup.") and name.endswith(".weight"):
                values[name] = torch.eye(len(value)).reshape(value.shape)
        return values


# By the name in the settings.
FUSIONS: Mapping[str, Callable[[Sequence[int]], Fusion]] = {"pointwise": PointwiseFusion}
