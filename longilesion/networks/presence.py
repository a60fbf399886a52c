"""The presence head: whether the lesion is still present in the follow-up."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn


class LocalPresence(nn.Module):
    """Predicts whether the lesion is still present, from features pooled around it and not over the whole VOI.

    Five regions are pooled: a Gaussian at the VOI's centre, where alignment places the lesion; the baseline outline and
    the predicted outline, each with the shell around it. Besides the means, the head gets the contrast of both
    outlines against their shells in both time points' images, since a lesion that is gone has none in the follow-up.
    """

    def __init__(self, channels: int, *, image_channels: int, hidden: int) -> None:
        """Builds the head for features of that many channels, and the images of both streams together."""
        super().__init__()
        regions, outlines, statistics = 5, 2, 5
        self.channels = channels
        self.pooled = regions * (channels + image_channels)
        self.norm = nn.LayerNorm(self.pooled)
        self.layers = nn.Sequential(
            nn.Linear(self.pooled + outlines * image_channels + statistics, hidden),
            nn.LeakyReLU(0.01),
            nn.Linear(hidden, 1),
        )

    def forward(self, description: Float[Tensor, "batch d"]) -> Float[Tensor, " batch"]:
        """One logit per lesion."""
        pooled, rest = description.split([self.pooled, description.shape[1] - self.pooled], dim=1)
        logit: Tensor = self.layers(torch.cat((self.norm(pooled), rest), dim=1))
        return logit[:, 0]

    def describe(
        self,
        features: Sequence[Float[Tensor, "batch _ z2 y2 x2"]],
        images: Sequence[Float[Tensor, "batch _ z y x"]],
        outline: Float[Tensor, "batch 1 z y x"],
        logits: Float[Tensor, "batch 1 z y x"],
    ) -> Float[Tensor, "batch d"]:
        """The head's input; `outline` is the baseline lesion, zero if there is none, `logits` the follow-up's.

        Features may have fewer voxels, behind a space-to-depth stem; all else is averaged down to theirs.
        """
        # Sums over 10^5 voxels: in bfloat16, small lesions would be lost to rounding.
        with torch.autocast(outline.device.type, enabled=False):
            # Detached, so that no gradient of the presence loss shrinks the outline.
            probability = logits.detach().float().sigmoid()
            factor = [fine // coarse for fine, coarse in zip(outline.shape[2:], features[0].shape[2:], strict=True)]
            outline, probability, *images = (
                nn.functional.avg_pool3d(maps.float(), factor)
                for maps in (outline, probability, *images)
                if maps.shape[1]
            )
            centre = _centre_gaussian(outline).expand_as(outline)
            regions = torch.cat((centre, outline, _shell(outline), probability, _shell(probability)), dim=1).flatten(2)
            mass = regions.sum(2)
            # Map by map, since a concatenated copy of all of them would cost more than their sums.
            sums = [regions @ maps.float().flatten(2).transpose(1, 2) for maps in (*features, *images)]
            pooled = torch.cat(sums, dim=2) / (mass[..., None] + 1.0)
            intensities = pooled[:, :, self.channels :]
            seen = ((mass[:, [1, 3]] > 1) & (mass[:, [2, 4]] > 1))[..., None]
            # Tens of HU are a hundredth of the image's range; the factor brings them to the scale of the features.
            contrast = 10 * (intensities[:, [1, 3]] - intensities[:, [2, 4]]) * seen
            overlap = (outline * probability).flatten(1).sum(1) / (mass[:, 1] + 1.0)
            statistics = torch.stack(
                (
                    mass[:, 1].log1p(),
                    mass[:, 3].log1p(),
                    probability.flatten(1).amax(1),
                    overlap,
                    (outline.flatten(1).amax(1) > 0.5).float(),
                ),
                dim=1,
            )
            return torch.cat((pooled.flatten(1), contrast.flatten(1), statistics), dim=1)


def _shell(mask: Float[Tensor, "batch 1 z y x"]) -> Float[Tensor, "batch 1 z y x"]:
    """The voxels up to two steps around a mask."""
    near = nn.functional.avg_pool3d((mask > 0.5).float(), 5, stride=1, padding=2) > 0
    return near.float() * (1 - mask)


def _centre_gaussian(maps: Float[Tensor, "batch c z y x"]) -> Float[Tensor, "1 1 z y x"]:
    """A Gaussian at the middle whose deviation is a tenth of each axis' length."""
    axes = [torch.linspace(-5, 5, length, device=maps.device) for length in maps.shape[2:]]
    z, y, x = ((-0.5 * axis**2).exp() for axis in axes)
    return (z[:, None, None] * y[:, None] * x)[None, None]
