"""A network slid over the liver: the mean probabilities of the types, and what its queries outline in each window."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32

from longilesion.diagnosis.bundle import DiagnosisModel
from longilesion.diagnosis.encoding import encode_phases
from longilesion.diagnosis.exam import RegisteredPhases
from longilesion.diagnosis_settings import DiagnosisSettings
from longilesion.geometry import Box, box_slices
from longilesion.networks.feature_pyramid import upsampled
from longilesion.networks.lesion_queries import QueryPrediction
from longilesion.sliding import Progress, region_windows, window_weights
from longilesion.voi import occupied_box


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FoundQuery:
    """A query that has found a lesion in a window: its mask's probabilities in the box around those over the threshold.

    Boxes are those of the whole lattice. `classes` are the probabilities of no lesion and of the types.
    """

    window: Box
    box: Box
    probability: Float32[np.ndarray, "z y x"]
    classes: Float32[np.ndarray, " classes"]
    score: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WindowedOutputs:
    """The mean softmax of the semantic output, class 0 beyond all windows, and the queries of all windows."""

    semantic: Float32[np.ndarray, "classes z y x"]
    queries: tuple[FoundQuery, ...]


def slide_over_liver(
    phases: RegisteredPhases, model: DiagnosisModel, *, progress: Progress | None = None
) -> WindowedOutputs:
    """Predicts every window that holds a voxel of the liver, and averages them with Gaussian weights, as nnU-Net."""
    settings, region = model.settings, phases.region
    boxes = region_windows(region, settings.shape_zyx, settings.overlap)
    weight = window_weights(settings.shape_zyx)
    total = np.zeros(region.grid.shape_zyx, np.float32)
    semantic = np.zeros((1 + len(settings.types), *region.grid.shape_zyx), np.float32)
    queries: list[FoundQuery] = []
    for done, box in enumerate(boxes, 1):
        # One at a time: as fast as a batch on a CPU, and of a size that fits any GPU.
        output = model.predict(encode_phases([phases.hu[:, *box]], [phases.is_there], settings))
        semantic[:, *box] += output.semantic_logits[0].softmax(0).numpy() * weight
        total[box] += weight
        for layer in output.layers[-1:]:
            queries += _found(layer, box, phases, settings)
        if progress is not None:
            progress(done, len(boxes))
    seen = total > 0
    np.divide(semantic, total, out=semantic, where=seen)
    semantic[0][~seen] = 1.0
    return WindowedOutputs(semantic=semantic, queries=tuple(queries))


def _found(
    layer: QueryPrediction, window: Box, phases: RegisteredPhases, settings: DiagnosisSettings
) -> list[FoundQuery]:
    """The queries of a window whose score is high enough, and whose mask meets the liver."""
    classes = layer.class_logits[0].softmax(-1)
    likely = torch.nonzero(1 - classes[:, 0] >= settings.least_score).flatten()
    found = []
    for query in likely.tolist():
        logits = upsampled(layer.mask_logits[:, query : query + 1], settings.shape_zyx)
        probability = logits[0, 0].sigmoid().numpy()
        mask = probability >= settings.threshold
        if not (mask & phases.region.mask[window]).any():
            continue
        # Mask2Former's score: the class's probability times the mean of the mask.
        score = float(1 - classes[query, 0]) * float(probability[mask].mean())
        if score < settings.least_score:
            continue
        inner = occupied_box(mask)
        start = np.array([outer.start + own.start for outer, own in zip(window, inner, strict=True)])
        found.append(
            FoundQuery(
                window=window,
                box=box_slices(start, start + [own.stop - own.start for own in inner]),
                probability=probability[inner].copy(),
                classes=classes[query].numpy(),
                score=score,
            )
        )
    return found
