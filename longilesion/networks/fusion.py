"""Where the two time points meet."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn


class PointwiseFusion(nn.Module):
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
        """Fused features, level by level."""
        levels = zip(self.followup, self.baseline, followup, baseline, strict=True)
        return [of_followup(now) + of_baseline(before) for of_followup, of_baseline, now, before in levels]
