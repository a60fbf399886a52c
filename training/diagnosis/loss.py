"""The loss of a model of lesion types (LIDIA, section 2.2), computed in float32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from longilesion.networks.lesion_queries import QueryOutput, QueryPrediction
from training.diagnosis.class_loss import class_loss
from training.diagnosis.contrastive import MemoryBank, contrastive_loss
from training.diagnosis.mask_loss import mask_loss
from training.diagnosis.matching import assigned, matching_cost
from training.diagnosis.points import PointTargets, point_targets
from training.diagnosis.semantic_loss import semantic_loss
from training.diagnosis.settings import DiagnosisLossSettings

# Matched queries of a sample and their lesions.
_Pairs: TypeAlias = tuple[Tensor, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LesionTargets:
    """The truth of a batch: the class of each voxel, and per sample its lesions' masks and classes, from 1.

    All have the size of the network's input. A lesion has at least one voxel.
    """

    semantic: Int64[Tensor, "batch z y x"]
    masks: tuple[Bool[Tensor, "_ z y x"], ...]
    classes: tuple[Int64[Tensor, " _"], ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DiagnosisLoss:
    """The weighted parts of a loss, and their sum, which is minimised.

    Parts are mask, classification, contrastive and semantic, or semantic alone of a network without queries.
    `embeddings` and `classes` are those of the lesions that a query is matched with, for the memory bank.
    """

    total: Float32[Tensor, ""]
    parts: dict[str, Tensor]
    embeddings: Float32[Tensor, "lesions e"]
    classes: Int64[Tensor, " lesions"]


def diagnosis_loss(
    output: QueryOutput,
    targets: LesionTargets,
    settings: DiagnosisLossSettings,
    *,
    rare: int | None,
    bank: MemoryBank | None,
    generator: torch.Generator,
    lesions: float | None = None,
) -> DiagnosisLoss:
    """The loss of a batch (eq. 6); the bank stays as it is.

    Every layer of the transformer decoder is matched and judged on its own, and the layers' losses are averaged. `rare`
    is the class of rare lesions, if there is one; the generator draws points. Where several processes share a batch,
    `lesions` is how many of them a process has on average (`matched_lesions`, summed, by the number of processes): the
    mean of the processes' losses of masks, classes and voxels is then that of the whole batch.
    """
    with torch.autocast(targets.semantic.device.type, enabled=False):
        parts, pairs = (
            _query_losses(output.layers, targets, settings, generator, lesions) if output.layers else ({}, [])
        )
        embeddings, classes = _matched(output.embeddings, targets.classes, pairs)
        if output.embeddings is not None:
            remembered = (embeddings[:0], classes[:0]) if bank is None else bank.contents()
            parts["contrastive"] = settings.contrastive * contrastive_loss(
                embeddings, classes, remembered, rare=rare, temperature=settings.temperature
            )
        parts["semantic"] = settings.semantic * semantic_loss(output.semantic_logits.float(), targets.semantic)
        total = torch.stack(list(parts.values())).sum()
    return DiagnosisLoss(total=total, parts=parts, embeddings=embeddings.detach(), classes=classes)


def matched_lesions(targets: LesionTargets, queries: int) -> int:
    """How many lesions of a batch are matched with one of a sample's queries."""
    return sum(min(len(classes), queries) for classes in targets.classes)


def _query_losses(
    layers: Sequence[QueryPrediction],
    targets: LesionTargets,
    settings: DiagnosisLossSettings,
    generator: torch.Generator,
    lesions: float | None,
) -> tuple[dict[str, Tensor], list[_Pairs]]:
    """The weighted losses of masks and classes, averaged over the layers, and the last one's pairs."""
    _, queries, z, y, x = layers[-1].mask_logits.shape
    counted = matched_lesions(targets, queries) if lesions is None else lesions
    points = [point_targets(masks, (z, y, x), settings, generator) for masks in targets.masks]
    masks, classes = [], []
    for layer in layers:
        class_logits, mask_logits = layer.class_logits.float(), layer.mask_logits.flatten(2)
        pairs = [
            _pairs(*sample, settings) for sample in zip(class_logits, mask_logits, targets.classes, points, strict=True)
        ]
        masks.append(_mask_losses(mask_logits, points, pairs).sum() / (counted or 1.0))
        wanted = torch.zeros(class_logits.shape[:2], dtype=torch.long, device=class_logits.device)
        for sample, (matched, own) in enumerate(pairs):
            wanted[sample, matched] = targets.classes[sample][own]
        classes.append(class_loss(class_logits, wanted, settings, lesions=counted))
    parts = {
        "mask": settings.mask * torch.stack(masks).mean(),
        "classification": settings.classification * torch.stack(classes).mean(),
    }
    return parts, pairs


@torch.no_grad()
def _pairs(
    class_logits: Tensor, mask_logits: Tensor, classes: Tensor, points: PointTargets, settings: DiagnosisLossSettings
) -> _Pairs:
    """A sample's matched queries and their lesions."""
    at_points = mask_logits[:, points.shared_points].float()
    return assigned(matching_cost(class_logits, at_points, classes, points.shared_masks, settings))


def _mask_losses(
    mask_logits: Float[Tensor, "batch queries voxels"], points: Sequence[PointTargets], pairs: Sequence[_Pairs]
) -> Float32[Tensor, " matched"]:
    """The loss of each matched lesion's mask, at its points."""
    said = [
        logits[queries[:, None], own.points[lesions]]
        for logits, own, (queries, lesions) in zip(mask_logits, points, pairs, strict=True)
    ]
    truth = [own.masks[lesions] for own, (_, lesions) in zip(points, pairs, strict=True)]
    return mask_loss(torch.cat(said).float(), torch.cat(truth))


def _matched(
    embeddings: Float[Tensor, "batch queries e"] | None, classes: Sequence[Tensor], pairs: Sequence[_Pairs]
) -> tuple[Float32[Tensor, "lesions e"], Int64[Tensor, " lesions"]]:
    """Embeddings of matched queries and the classes of their lesions."""
    if embeddings is None:
        return torch.zeros(0, 0, device=classes[0].device), classes[0][:0]
    chosen = [own[queries] for own, (queries, _) in zip(embeddings, pairs, strict=True)]
    return torch.cat(chosen).float(), torch.cat(
        [own[lesions] for own, (_, lesions) in zip(classes, pairs, strict=True)]
    )
