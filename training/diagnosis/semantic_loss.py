"""Loss of the semantic output, the class of each voxel."""

from __future__ import annotations

import torch
from jaxtyping import Float32, Int64
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot


def semantic_loss(
    logits: Float32[Tensor, "batch classes z y x"], target: Int64[Tensor, "batch z y x"]
) -> Float32[Tensor, ""]:
    """Cross-entropy of the voxels and Dice loss of the types that a sample has (nnU-Net); a mean of samples.

    Types that a sample does not have are left to the cross-entropy: their Dice is 0 whatever is said.
    """
    return cross_entropy(logits, target) + _dice_loss(logits, target).mean()


def _dice_loss(
    logits: Float32[Tensor, "batch classes z y x"], target: Int64[Tensor, "batch z y x"]
) -> Float32[Tensor, " batch"]:
    """One minus the soft Dice, on average over the types that are there; 0 where none is."""
    probability = logits.softmax(1).flatten(2)[:, 1:]
    truth = one_hot(target.flatten(1), logits.shape[1]).movedim(-1, 1)[:, 1:].float()
    size = truth.sum(2)
    dice = (2 * (probability * truth).sum(2) + 1) / (probability.sum(2) + size + 1)
    is_there = size > 0
    return torch.where(is_there, 1 - dice, 0.0).sum(1) / is_there.sum(1).clamp(min=1)
