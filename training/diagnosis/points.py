"""Points at which masks of lesions are compared with those of queries, more of them inside than by chance."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int, Int64
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool3d

from training.diagnosis.settings import DiagnosisLossSettings


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PointTargets:
    """A sample's lesions at points, which are positions in the flattened lattice of the masks.

    Each lesion has points of its own for the loss; at the shared ones all are compared with all queries.
    """

    points: Int64[Tensor, "lesions points"]
    masks: Bool[Tensor, "lesions points"]
    shared_points: Int64[Tensor, " shared"]
    shared_masks: Bool[Tensor, "lesions shared"]


def point_targets(
    masks: Bool[Tensor, "lesions z y x"],
    shape: tuple[int, int, int],
    settings: DiagnosisLossSettings,
    generator: torch.Generator,
) -> PointTargets:
    """Draws the points of a sample's lesions on the lattice of the queries' masks, which has the given shape.

    Every lesion has an equal part in the shared points, so that a small one has as many inside as a large one.
    """
    flat = reduced(masks, shape).flatten(1)
    points = draw_points(flat, settings.points, share=settings.foreground_share, generator=generator)
    part = max(settings.points // max(len(flat), 1), 2)
    shared = draw_points(flat, part, share=settings.foreground_share, generator=generator).flatten()
    return PointTargets(points=points, masks=flat.gather(1, points), shared_points=shared, shared_masks=flat[:, shared])


def reduced(masks: Bool[Tensor, "lesions z y x"], shape: tuple[int, int, int]) -> Bool[Tensor, "lesions _ _ _"]:
    """Masks on a coarser lattice: the voxels that a lesion fills at least half as much as the one it fills most.

    A lesion that fills any voxel has those that are half its own, and one that is smaller than a voxel does not vanish.
    """
    if tuple(masks.shape[1:]) == shape:
        return masks
    share = adaptive_avg_pool3d(masks[:, None].float(), shape)[:, 0]
    return (share > 0) & (share >= share.amax((1, 2, 3), keepdim=True) / 2)


def draw_points(
    masks: Bool[Tensor, "lesions voxels"], points: int, *, share: float, generator: torch.Generator
) -> Int64[Tensor, "lesions points"]:
    """Random points per mask: the first `share` of them inside it, the others anywhere (LIDIA, foreground-enhanced).

    Points may repeat, so that the share holds for a mask of one voxel; where a mask is empty, all are drawn anywhere.
    The generator may be one of another device.
    """
    voxels = masks.shape[1]
    # Far more numbers than voxels: their remainders are as good as uniform.
    drawn = torch.randint(2**62, (len(masks), points), generator=generator, device=generator.device).to(masks.device)
    enhanced = round(share * points)
    return torch.cat((_inside(masks, drawn[:, :enhanced]), drawn[:, enhanced:] % voxels), dim=1)


def _inside(
    masks: Bool[Tensor, "lesions voxels"], drawn: Int64[Tensor, "lesions points"]
) -> Int64[Tensor, "lesions points"]:
    """The voxels of each mask whose ranks among its own are the remainders of the drawn numbers."""
    ranks: Int[Tensor, "lesions voxels"] = masks.cumsum(1)
    anywhere = torch.arange(1, masks.shape[1] + 1, device=masks.device)
    ranks = torch.where(ranks[:, -1:] > 0, ranks, anywhere)
    return torch.searchsorted(ranks, drawn % ranks[:, -1:] + 1)
