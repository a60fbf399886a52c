"""Loss of the queries' classes."""

from __future__ import annotations

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from training.diagnosis.settings import DiagnosisLossSettings


def class_loss(
    logits: Float32[Tensor, "batch queries classes"],
    classes: Int64[Tensor, "batch queries"],
    settings: DiagnosisLossSettings,
    *,
    lesions: float,
) -> Float32[Tensor, ""]:
    """The mean of all queries' losses, in which one without a lesion (class 0) has a smaller weight.

    Focal loss (Lin et al. 2017, eq. 5, of a softmax), or cross-entropy, of which the exponent is 0. `lesions` is how
    many queries have one, or have one on average where several processes share a batch.
    """
    gamma = settings.focal_gamma if settings.classification_loss == "focal" else 0.0
    weight = torch.where(classes > 0, 1.0, settings.no_lesion_weight)
    total = lesions + settings.no_lesion_weight * (classes.numel() - lesions)
    return (weight * focal_loss(logits, classes, gamma=gamma)).sum() / total


def focal_loss(
    logits: Float32[Tensor, "batch queries classes"], classes: Int64[Tensor, "batch queries"], *, gamma: float
) -> Float32[Tensor, "batch queries"]:
    """Cross-entropy of each query, times (1 - probability of the true class)^gamma."""
    logarithms, true = logits.log_softmax(-1), classes[..., None]
    # The power is computed from the logarithm: its gradient stays finite where the probability is 1.
    others = logarithms.scatter(-1, true, -torch.inf).logsumexp(-1)
    return -(gamma * others).exp() * logarithms.gather(-1, true)[..., 0]
