"""Fusion of the features of all time points."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from longilesion.networks.unet import convolution_block


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TimePointFeatures:
    """A time point's features, level by level, and the samples that have it."""

    levels: Sequence[Float[Tensor, "batch _ _ _ _"]]
    is_there: Bool[Tensor, " batch"]


class Fusion(nn.Module, ABC):
    """Joins the features of the follow-up and of the time points before it; built from the number of each level.

    Only the baseline is shown to a fusion, unless it `uses_earlier`. `network` describes a dual encoder with it.
    """

    uses_earlier = False
    network: str

    @abstractmethod
    def forward(
        self, followup: Sequence[Float[Tensor, "batch _ _ _ _"]], priors: Iterable[TimePointFeatures]
    ) -> list[Tensor]:
        """Fused features, level by level; the priors come oldest first, the baseline last.

        A prior's features are zero for the lesions that do not have it.
        """

    @abstractmethod
    def followup_alone(self) -> dict[str, Tensor]:
        """The values of its tensors with which its output is nearest to the follow-up's features."""


class PointwiseFusion(Fusion):
    """LongiNet (section 2.3): at each level a 1x1x1 convolution of both time points' features."""

    network = "LongiNet's dual encoder with pointwise fusion"

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
        self, followup: Sequence[Float[Tensor, "batch _ _ _ _"]], priors: Iterable[TimePointFeatures]
    ) -> list[Tensor]:
        """The sum of both convolutions."""
        (baseline,) = priors
        levels = zip(self.followup, self.baseline, followup, baseline.levels, strict=True)
        return [of_followup(now) + of_baseline(before) for of_followup, of_baseline, now, before in levels]

    def followup_alone(self) -> dict[str, Tensor]:
        """The follow-up's convolutions are the identity, the baseline's zero; its output is then equal."""
        values = {name: torch.zeros_like(tensor) for name, tensor in self.named_parameters()}
        for name, value in values.items():
            if name.startswith("followup.") and name.endswith(".weight"):
                values[name] = torch.eye(len(value)).reshape(value.shape)
        return values


class DifferenceFusion(Fusion):
    """Difference Weighting (eq. 2): the normalised difference to the baseline weights the follow-up's features.

    Without a baseline there is no difference, and the follow-up's features stay as they are.
    """

    network = "dual encoder with Difference Weighting"

    def __init__(self, features_per_stage: Sequence[int]) -> None:
        """Builds one instance normalisation per level."""
        super().__init__()
        self.norms = nn.ModuleList(nn.InstanceNorm3d(features, affine=True) for features in features_per_stage)

    def forward(
        self, followup: Sequence[Float[Tensor, "batch _ _ _ _"]], priors: Iterable[TimePointFeatures]
    ) -> list[Tensor]:
        """At each level x'_c = x_c * InstNorm(x_c - x_p) + x_c."""
        (baseline,) = priors
        known = _over_voxels(baseline.is_there)
        levels = zip(self.norms, followup, baseline.levels, strict=True)
        return [torch.addcmul(now, now, norm(now - before) * known) for norm, now, before in levels]

    def followup_alone(self) -> dict[str, Tensor]:
        """All weights are zero; its output is then equal."""
        return {name: torch.zeros_like(tensor) for name, tensor in self.named_parameters()}


class IterativeFusion(Fusion):
    """LIDIA's iterative fusion (eq. 2): h_{k+1} = F(concat(h_k, h)), F being one convolution block per level.

    It begins with the features of the first time point that a sample has, and passes over those that it lacks; without
    any prior, the follow-up's features stay as they are.
    """

    uses_earlier = True
    network = "dual encoder with LIDIA's iterative fusion"

    def __init__(self, features_per_stage: Sequence[int]) -> None:
        """Builds one block per level, the same for every time point."""
        super().__init__()
        self.blocks = nn.ModuleList(
            convolution_block(2 * features, features, convolutions=1) for features in features_per_stage
        )

    def forward(
        self, followup: Sequence[Float[Tensor, "batch _ _ _ _"]], priors: Iterable[TimePointFeatures]
    ) -> list[Tensor]:
        """The last h, which has taken in the follow-up."""
        all_have_it = torch.ones(len(followup[0]), dtype=torch.bool, device=followup[0].device)
        return self.fused(chain(priors, [TimePointFeatures(levels=followup, is_there=all_have_it)]))

    def fused(self, points: Iterable[TimePointFeatures]) -> list[Tensor]:
        """The last h of one time point or more, oldest first, each of which any sample may lack."""
        points = iter(points)
        first = next(points)
        fused, has_begun = list(first.levels), first.is_there
        for point in points:
            known = _over_voxels(point.is_there)
            steps = self._steps(fused, point.levels, has_begun)
            fused = [torch.where(known, step, before) for step, before in zip(steps, fused, strict=True)]
            has_begun = has_begun | point.is_there
        return fused

    def followup_alone(self) -> dict[str, Tensor]:
        """The convolutions are the identity of the newer time point; its output is then normalised and rectified."""
        values = {name: torch.zeros_like(tensor) for name, tensor in self.named_parameters()}
        for name, value in values.items():
            if name.endswith(".norm.weight"):
                value.fill_(1.0)
            elif name.endswith(".conv.weight"):
                features = len(value)
                value[:, features:, 1, 1, 1] = torch.eye(features)
        return values

    def _steps(self, fused: Sequence[Tensor], levels: Sequence[Tensor], has_begun: Tensor) -> list[Tensor]:
        """One time point further at every level; the first one of a sample replaces what was before."""
        begun = _over_voxels(has_begun)
        steps = zip(self.blocks, fused, levels, strict=True)
        return [torch.where(begun, block(torch.cat((before, now), dim=1)), now) for block, before, now in steps]


def _over_voxels(of_samples: Bool[Tensor, " batch"]) -> Bool[Tensor, "batch 1 1 1 1"]:
    return of_samples[:, None, None, None, None]


# By the name in the settings.
FUSIONS: Mapping[str, Callable[[Sequence[int]], Fusion]] = {
    "pointwise": PointwiseFusion,
    "difference": DifferenceFusion,
    "iterative": IterativeFusion,
}
