"""Loss of the queries' masks, at points."""

from __future__ import annotations

from jaxtyping import Bool, Float32
from torch import Tensor

from training.losses import cross_entropy, soft_dice_loss


def mask_loss(
    logits: Float32[Tensor, "lesions points"], masks: Bool[Tensor, "lesions points"]
) -> Float32[Tensor, " lesions"]:
    """Cross-entropy and Dice loss of each matched lesion (LIDIA, L_seg)."""
    said, truth = logits[:, None, None, None], masks[:, None, None, None].float()
    return cross_entropy(said, truth).flatten(1).mean(1) + soft_dice_loss(said, truth)
