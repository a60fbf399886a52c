"""What training minimises: the outline's Dice and cross-entropy, the reconstruction's, and the presence's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool3d, binary_cross_entropy_with_logits

from longilesion.networks.backbone import NetworkOutput
from training.dataset import Batch
from training.recipe import LossSettings

# A lesion counts as this many times its voxels, and never as less than this share of the VOI.
_LESION_MULTIPLE = 6.0
_LEAST_SHARE = 0.001


def training_loss(
    output: NetworkOutput, batch: Batch, settings: LossSettings, *, mask_channel: int | None
) -> dict[str, Tensor]:
    """The parts of the loss, already weighted; their sum is minimised.

    Absent lesions have no part in the outline's loss: punishing their probability mass shrinks small present ones.
    """
    parts = {"outline": outline_loss(output.lesion_logits, batch.target, batch.present)}
    presence = binary_cross_entropy_with_logits(output.presence_logit, batch.present.float())
    parts["presence"] = settings.presence * presence
    if output.baseline_logits is not None and mask_channel is not None:
        prior = (batch.input.baseline[:, mask_channel : mask_channel + 1] > 0.5).float()
        marked = prior.flatten(1).amax(1) > 0
        parts["reconstruction"] = settings.reconstruction * outline_loss(output.baseline_logits, prior, marked)
    return parts


def outline_loss(
    logits: Sequence[Float[Tensor, "batch 1 _ _ _"]],
    target: Float[Tensor, "batch 1 z y x"],
    counted: Bool[Tensor, " batch"],
) -> Float[Tensor, ""]:
    """Dice and cross-entropy (LongiNet, section 2.5), at every decoder resolution with halving weights (nnU-Net).

    Samples that are not counted contribute nothing; the mean runs over the counted ones. One logit replaces the
    two-class softmax, of which it is the difference.
    """
    weights = torch.tensor([0.5**level for level in range(len(logits))])
    total = logits[0].new_zeros((), dtype=torch.float32)
    share = counted.float() / counted.float().sum().clamp(min=1)
    for level, weight in zip(logits, weights / weights.sum(), strict=True):
        size = level.shape[2:]
        truth = target if size == target.shape[2:] else adaptive_avg_pool3d(target, (size[0], size[1], size[2]))
        loss = soft_dice_loss(level.float(), truth) + lesion_cross_entropy(level.float(), truth)
        total = total + weight * (loss * share).sum()
    return total


def lesion_cross_entropy(
    logits: Float[Tensor, "batch 1 z y x"], target: Float[Tensor, "batch 1 z y x"]
) -> Float[Tensor, " batch"]:
    """Cross-entropy of each sample, summed over the VOI and divided by a multiple of the lesion's size.

    The mean over a VOI, of which a lesion may fill a thousandth, is too weak beside the Dice: that drives the logits
    into saturation on a circle around the click, where its own gradient vanishes, and the image is never looked at.
    """
    total = binary_cross_entropy_with_logits(logits, target, reduction="none").flatten(1).sum(1)
    size = target.flatten(1).sum(1)
    return total / (_LESION_MULTIPLE * size + _LEAST_SHARE * target[0].numel())


def soft_dice_loss(
    logits: Float[Tensor, "batch 1 z y x"], target: Float[Tensor, "batch 1 z y x"]
) -> Float[Tensor, " batch"]:
    """One minus the soft Dice of each sample."""
    probability = logits.sigmoid().flatten(1)
    truth = target.flatten(1)
    overlap = (probability * truth).sum(1)
    return 1 - (2 * overlap + 1) / (probability.sum(1) + truth.sum(1) + 1)
