"""Lesions out of a slid network's outputs: queries of overlapping windows merged, or components of the semantic output.

A lesion is a set of connected voxels with probabilities for all types.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cc3d
import numpy as np
from jaxtyping import Bool, Float32, Integer
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components as linked_groups

from longilesion.components import connected_components
from longilesion.diagnosis.windows import FoundQuery, WindowedOutputs
from longilesion.geometry import Box, box_slices
from longilesion.sliding import window_weights
from longilesion.voi import occupied_box

# Two masks are of one lesion where they share this much of the smaller one, in what both windows see.
_SAME_LESION = 0.5


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Instance:
    """A lesion's mask in a box of the lattice; `types` are the probabilities of its types, which sum to 1."""

    box: Box
    mask: Bool[np.ndarray, "z y x"]
    types: Float32[np.ndarray, " types"]
    score: float


def merged_queries(queries: Sequence[FoundQuery], liver: Bool[np.ndarray, "z y x"], threshold: float) -> list[Instance]:
    """One lesion per group of queries whose masks overlap, best score first; each voxel belongs to the best one.

    In a group, masks are averaged with the weights of windows and scores, class probabilities with the scores.
    """
    merged = [_merged(group, liver, threshold) for group in _groups(queries, threshold)]
    taken = np.zeros(liver.shape, np.bool_)
    instances = []
    for instance in sorted(merged, key=lambda each: -each.score):
        # What is left of it may be in parts. One of which nothing is left is the better one, outlined a second time.
        if (free := _largest_part(instance.mask & ~taken[instance.box], instance)) is not None:
            taken[free.box] |= free.mask
            instances.append(free)
    return instances


def semantic_components(outputs: WindowedOutputs, liver: Bool[np.ndarray, "z y x"], threshold: float) -> list[Instance]:
    """The components of voxels in the liver that are more probably in any lesion than the threshold; best score first.

    A component's types are those of its mean softmax, its score the highest probability of any type.
    """
    voxels = np.stack(np.nonzero((1 - outputs.semantic[0] >= threshold) & liver))
    if not voxels.size:
        return []
    instances = [_component(outputs, component) for component in connected_components(voxels)]
    return sorted(instances, key=lambda each: -each.score)


def type_probabilities(classes: Float32[np.ndarray, " classes"]) -> Float32[np.ndarray, " types"]:
    """The types' share of the probabilities of all classes, the first of which is no lesion."""
    types = np.maximum(classes[1:], np.finfo(np.float32).tiny)
    return np.asarray(types / types.sum(), np.float32)


def _component(outputs: WindowedOutputs, voxels: Integer[np.ndarray, "3 n"]) -> Instance:
    start, stop = voxels.min(axis=1), voxels.max(axis=1) + 1
    mask = np.zeros(stop - start, np.bool_)
    mask[tuple(voxels - start[:, None])] = True
    inside = outputs.semantic[:, *voxels]
    return Instance(
        box=box_slices(start, stop),
        mask=mask,
        types=type_probabilities(inside.mean(axis=1)),
        score=float(1 - inside[0].min()),
    )


def _groups(queries: Sequence[FoundQuery], threshold: float) -> list[list[FoundQuery]]:
    low, high = (
        np.array([[getattr(side, end) for side in query.box] for query in queries], int).reshape(-1, 3)
        for end in ("start", "stop")
    )
    # Few boxes meet.
    meet = (np.maximum(low[:, None], low) < np.minimum(high[:, None], high)).all(axis=-1)
    pairs = [
        (first, second)
        for first, second in np.argwhere(np.triu(meet, k=1)).tolist()
        if _is_same(queries[first], queries[second], threshold)
    ]
    rows, columns = np.array(pairs, int).reshape(-1, 2).T
    links = coo_array((np.ones(len(pairs)), (rows, columns)), shape=(len(queries),) * 2)
    count, labels = linked_groups(links, directed=False) if queries else (0, np.zeros(0, int))
    return [[queries[index] for index in np.flatnonzero(labels == number).tolist()] for number in range(count)]


def _is_same(first: FoundQuery, second: FoundQuery, threshold: float) -> bool:
    common = _common(first.window, second.window)
    if common is None:
        return False
    masks = []
    for query in (first, second):
        mask = np.zeros([side.stop - side.start for side in common], np.bool_)
        if (shared := _common(common, query.box)) is not None:
            mask[_within(shared, common)] = query.probability[_within(shared, query.box)] >= threshold
        masks.append(mask)
    smaller = min(int(mask.sum()) for mask in masks)
    return smaller > 0 and int((masks[0] & masks[1]).sum()) >= _SAME_LESION * smaller


def _merged(group: Sequence[FoundQuery], liver: Bool[np.ndarray, "z y x"], threshold: float) -> Instance:
    bounds = np.array([[(side.start, side.stop) for side in query.box] for query in group])
    box = box_slices(bounds[:, :, 0].min(axis=0), bounds[:, :, 1].max(axis=0))
    total, weights = (np.zeros([side.stop - side.start for side in box], np.float32) for _ in range(2))
    for query in group:
        weight = query.score * window_weights(_size(query.window))
        seen = _common(box, query.window)
        own = _common(box, query.box)
        if seen is not None and own is not None:
            weights[_within(seen, box)] += weight[_within(seen, query.window)]
            total[_within(own, box)] += query.probability * weight[_within(own, query.window)]
    best = max(group, key=lambda query: query.score)
    scores = np.array([query.score for query in group], np.float32)
    classes = np.average([query.classes for query in group], axis=0, weights=scores)
    instance = Instance(
        box=box,
        mask=total >= threshold * np.maximum(weights, np.finfo(np.float32).tiny),
        types=type_probabilities(classes.astype(np.float32)),
        score=best.score,
    )
    merged = _largest_part(instance.mask & liver[box], instance)
    if merged is not None:
        return merged
    # The mean of masks that hardly agree may reach the threshold nowhere in the liver; the best one does.
    alone = Instance(box=best.box, mask=best.probability >= threshold, types=instance.types, score=best.score)
    part = _largest_part(alone.mask & liver[best.box], alone)
    assert part is not None
    return part


def _largest_part(mask: Bool[np.ndarray, "z y x"], instance: Instance) -> Instance | None:
    """The instance with the largest component of a mask in its box; None where the mask is empty."""
    if not mask.any():
        return None
    part = cc3d.largest_k(np.ascontiguousarray(mask), k=1, connectivity=26) > 0
    inner = occupied_box(part)
    start = np.array([outer.start + own.start for outer, own in zip(instance.box, inner, strict=True)])
    box = box_slices(start, start + np.array(part[inner].shape))
    return Instance(box=box, mask=np.asarray(part[inner]), types=instance.types, score=instance.score)


def _size(box: Box) -> tuple[int, int, int]:
    z, y, x = (side.stop - side.start for side in box)
    return z, y, x


def _common(first: Box, second: Box) -> Box | None:
    low = [max(own.start, other.start) for own, other in zip(first, second, strict=True)]
    high = [min(own.stop, other.stop) for own, other in zip(first, second, strict=True)]
    return box_slices(low, high) if all(start < stop for start, stop in zip(low, high, strict=True)) else None


def _within(inner: Box, outer: Box) -> Box:
    """A box as an index of an array that begins at another box."""
    start = np.array([side.start for side in outer])
    return box_slices([side.start for side in inner] - start, [side.stop for side in inner] - start)
