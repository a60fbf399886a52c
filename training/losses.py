"""Losses of outline, reconstruction and presence, computed in float32."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool3d, binary_cross_entropy_with_logits, logsigmoid

from longilesion.networks.interface import LossPart, NetworkOutput
from training.batch import Batch
from training.recipe import LossSettings

# A lesion's size in the divisor: this multiple of its voxels, but at least this share of the VOI.
_LESION_MULTIPLE = 6.0
_LEAST_SHARE = 0.001
# Size of a lesion that is gone, as a share of the VOI: that of a typical one.
_GONE_SHARE = 0.01


def training_loss(
    output: NetworkOutput,
    batch: Batch,
    settings: LossSettings,
    *,
    parts: Collection[LossPart],
    counts: Mapping[str, float] | None = None,
) -> dict[str, Tensor]:
    """The weighted parts of a network's loss; their sum is minimised.

    Absent lesions are excluded from the outline's loss where the presence head learns them: penalising their
    probability mass shrinks small present ones. Without that head, an empty outline says that a lesion is gone.
    Each part is a mean over its counted samples. Where several processes share a batch, `counts` holds how many of
    each part's samples a process has on average (`counted_samples`, summed, by the number of processes): the mean of
    the processes' losses, and so of their gradients, is then that of the whole batch.
    """
    counts = counts or {}
    with torch.autocast(batch.target.device.type, enabled=False):
        return {
            part: _PARTS[part].loss(output, batch, settings, _counted(batch, settings, part, parts), counts.get(part))
            for part in parts
        }


def counted_samples(batch: Batch, settings: LossSettings, *, parts: Collection[LossPart]) -> dict[str, int]:
    """How many samples of a batch each part of the loss is a mean over."""
    return {part: int(_counted(batch, settings, part, parts).sum()) for part in parts}


def _counted(
    batch: Batch, settings: LossSettings, part: LossPart, parts: Collection[LossPart]
) -> Bool[Tensor, " batch"]:
    """The samples that a part of the loss is a mean over."""
    with_absent = "presence" not in parts if settings.absent is None else settings.absent
    return _PARTS[part].counted(batch, with_absent)


def outline_loss(
    logits: Sequence[Float[Tensor, "batch 1 _ _ _"]],
    target: Float[Tensor, "batch 1 z y x"],
    counted: Bool[Tensor, " batch"],
    settings: LossSettings,
    *,
    count: float | None = None,
) -> Float[Tensor, ""]:
    """The outline's loss summed over the given resolutions, finest first, with halving weights (nnU-Net).

    Dice + cross-entropy (LongiNet, section 2.5), or focal loss + half the Dice loss (LiFE-Net, section 3.1). Samples
    that are not counted contribute nothing; the mean runs over the counted ones, or over `count` where that is given.
    One logit replaces the two-class softmax, of which it is the difference.
    """
    weights = torch.tensor([0.5**level for level in range(len(logits))])
    total = logits[0].new_zeros((), dtype=torch.float32)
    share = counted.float() / (count or counted.float().sum().clamp(min=1))
    for level, weight in zip(logits, weights / weights.sum(), strict=True):
        size = level.shape[2:]
        truth = target if size == target.shape[2:] else adaptive_avg_pool3d(target, (size[0], size[1], size[2]))
        total = total + weight * (_sample_loss(level.float(), truth, settings) * share).sum()
    return total


def cross_entropy(
    logits: Float[Tensor, "batch 1 z y x"], target: Float[Tensor, "batch 1 z y x"]
) -> Float[Tensor, "batch 1 z y x"]:
    """Cross-entropy of each voxel; a target between 0 and 1 is the lesion's partial volume."""
    return binary_cross_entropy_with_logits(logits, target, reduction="none")


def focal_loss(
    logits: Float[Tensor, "batch 1 z y x"], target: Float[Tensor, "batch 1 z y x"], *, gamma: float
) -> Float[Tensor, "batch 1 z y x"]:
    """Cross-entropy of each voxel, times (1 - probability of the true class)^gamma; weighted by partial volume."""
    lesion, other = logsigmoid(logits), logsigmoid(-logits)
    # The power is computed from the logarithm: its gradient stays finite where the probability is 0.
    return -(target * (gamma * other).exp() * lesion + (1 - target) * (gamma * lesion).exp() * other)


def mean_over_lesion(
    loss: Float[Tensor, "batch 1 z y x"], target: Float[Tensor, "batch 1 z y x"]
) -> Float[Tensor, " batch"]:
    """Each sample's loss, summed over the VOI and divided by a multiple of the lesion's size.

    The mean over a VOI, of which a lesion may fill a thousandth, is too weak beside the Dice loss, which drives the
    logits into saturation on a sphere around the click, where its gradient vanishes and the image has no influence.
    """
    voxels = target[0].numel()
    size = target.flatten(1).sum(1)
    size = torch.where(size > 0, size, _GONE_SHARE * voxels)
    return loss.flatten(1).sum(1) / (_LESION_MULTIPLE * size + _LEAST_SHARE * voxels)


def soft_dice_loss(
    logits: Float[Tensor, "batch 1 z y x"], target: Float[Tensor, "batch 1 z y x"]
) -> Float[Tensor, " batch"]:
    """One minus the soft Dice of each sample."""
    probability = logits.sigmoid().flatten(1)
    truth = target.flatten(1)
    overlap = (probability * truth).sum(1)
    return 1 - (2 * overlap + 1) / (probability.sum(1) + truth.sum(1) + 1)


def _sample_loss(logits: Tensor, target: Tensor, settings: LossSettings) -> Float[Tensor, " batch"]:
    """The loss of each sample at one resolution."""
    if settings.outline == "focal_dice":
        voxels, dice_weight = focal_loss(logits, target, gamma=settings.focal_gamma), 0.5
    else:
        voxels, dice_weight = cross_entropy(logits, target), 1.0
    by_lesion = settings.cross_entropy == "lesion"
    voxelwise = mean_over_lesion(voxels, target) if by_lesion else voxels.flatten(1).mean(1)
    return dice_weight * soft_dice_loss(logits, target) + voxelwise


def _outline(
    output: NetworkOutput, batch: Batch, settings: LossSettings, counted: Tensor, count: float | None
) -> Tensor:
    return outline_loss(_judged(output.lesion_logits, settings), batch.target, counted, settings, count=count)


def _presence(
    output: NetworkOutput, batch: Batch, settings: LossSettings, counted: Tensor, count: float | None
) -> Tensor:
    logit = cast("Tensor", output.presence_logit).float()
    loss = binary_cross_entropy_with_logits(logit, batch.present.float(), reduction="none")
    return settings.presence * (loss.sum() / (count or len(loss)))


def _reconstruction(
    output: NetworkOutput, batch: Batch, settings: LossSettings, counted: Tensor, count: float | None
) -> Tensor:
    logits = _judged(cast("tuple[Tensor, ...]", output.baseline_logits), settings)
    return settings.reconstruction * outline_loss(logits, _prior(batch).float(), counted, settings, count=count)


def _judged(logits: tuple[Tensor, ...], settings: LossSettings) -> tuple[Tensor, ...]:
    return logits if settings.deep_supervision else logits[:1]


def _prior(batch: Batch) -> Bool[Tensor, "batch 1 z y x"]:
    """The baseline's outline in the network's input."""
    return cast("Tensor", batch.input.prior_mask) > 0.5


def _is_marked(batch: Batch) -> Bool[Tensor, " batch"]:
    return _prior(batch).flatten(1).any(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """A weighted part of the loss, and the samples that it is averaged over; the outline's may count absent lesions."""

    counted: Callable[[Batch, bool], Tensor]
    loss: Callable[[NetworkOutput, Batch, LossSettings, Tensor, float | None], Tensor]


# All parts that a network can name.
_PARTS: Mapping[LossPart, _Part] = {
    "outline": _Part(counted=lambda batch, absent: batch.present | absent, loss=_outline),
    "presence": _Part(counted=lambda batch, _: torch.ones_like(batch.present), loss=_presence),
    "reconstruction": _Part(counted=lambda batch, _: _is_marked(batch), loss=_reconstruction),
}
