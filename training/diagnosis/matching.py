"""Which query answers for which lesion: the assignment of least cost (Mask2Former, section 3.2.1; DETR)."""

from __future__ import annotations

import logging
from functools import cache

import torch
from jaxtyping import Bool, Float32, Int64
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn.functional import softplus

from training.diagnosis.settings import DiagnosisLossSettings

_log = logging.getLogger("training")


def matching_cost(
    class_logits: Float32[Tensor, "queries classes"],
    mask_logits: Float32[Tensor, "queries points"],
    classes: Int64[Tensor, " lesions"],
    masks: Bool[Tensor, "lesions points"],
    settings: DiagnosisLossSettings,
) -> Float32[Tensor, "queries lesions"]:
    """What each query would cost as the answer for each lesion of its sample, both at the same points.

    The cross-entropy and Dice loss of the mask, and minus the probability of the class, weighted as the losses are.
    """
    truth, probability = masks.float(), mask_logits.sigmoid()
    cross_entropy = softplus(mask_logits).mean(1, keepdim=True) - mask_logits @ truth.T / truth.shape[1]
    dice = (2 * probability @ truth.T + 1) / (probability.sum(1, keepdim=True) + truth.sum(1) + 1)
    return settings.mask * (cross_entropy + 1 - dice) - settings.classification * class_logits.softmax(1)[:, classes]


def assigned(
    cost: Float32[Tensor, "queries lesions"],
) -> tuple[Int64[Tensor, " matched"], Int64[Tensor, " matched"]]:
    """Queries and their lesions in the assignment of the least total cost.

    Of more lesions than queries, those stay unmatched that cost the most. Costs that are no numbers count as 0: the
    loss is then none either, and the step is skipped.
    """
    queries, lesions = cost.shape
    if lesions > queries:
        _note_unmatched(queries)
    chosen = linear_sum_assignment(torch.nan_to_num(cost).cpu().numpy())
    rows, columns = (torch.from_numpy(each).to(cost.device) for each in chosen)
    return rows, columns


@cache
def _note_unmatched(queries: int) -> None:
    """Says it once."""
    _log.warning(
        "samples with more lesions than the network's %d queries; some of their lesions teach nothing", queries
    )
