"""Settings of the losses of models of lesion types."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from longilesion.settings import Settings


class DiagnosisLossSettings(Settings):
    """The loss of LIDIA (eq. 6), of its semantic output, and what the paper leaves to Mask2Former."""

    mask: float = Field(default=5.0, ge=0, description="weight of the masks of queries (lambda 1)")
    classification: float = Field(default=5.0, ge=0, description="weight of the classes of queries (lambda 2)")
    contrastive: float = Field(default=0.01, ge=0, description="weight of the contrastive loss (lambda 3)")
    semantic: float = Field(default=5.0, ge=0, description="weight of the semantic output")
    points: int = Field(default=4096, ge=2, description="points at which a lesion's mask is compared with a query's")
    foreground_share: float = Field(
        default=0.1, ge=0, le=1, description="of the points, drawn inside the lesion; the others anywhere"
    )
    classification_loss: Literal["focal", "cross_entropy"] = "focal"
    focal_gamma: float = Field(default=2.0, ge=0)
    no_lesion_weight: float = Field(
        default=0.1, gt=0, le=1, description="of a query that no lesion is assigned to, beside 1 of one with a lesion"
    )
    temperature: float = Field(default=0.1, gt=0, description="of the contrastive loss")
    memory_bank: int = Field(default=1024, ge=1, description="lesions that the contrastive loss remembers")
