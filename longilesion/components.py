"""Lesions of a label map by the coordinates of their voxels, and their connected components.

A scan has a hundred million voxels and its lesions a hundred thousand, so they are found in one pass over the map.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import cc3d
import numpy as np
from jaxtyping import Float, Integer, UInt16

from longilesion.geometry import Triple

# In hand-drawn outlines, voxels may touch at a corner only.
_CONNECTIVITY: Final = 26


def lesion_voxels(ids: UInt16[np.ndarray, "z y x"]) -> dict[int, Integer[np.ndarray, "3 n"]]:
    """The indices (z, y, x in the rows) of each lesion's voxels, by id."""
    voxels = np.flatnonzero(ids != 0)
    voxels = voxels[ids.ravel()[voxels].argsort(kind="stable")]
    lesion_ids, first = np.unique(ids.ravel()[voxels], return_index=True)
    indices_zyx = np.stack(np.unravel_index(voxels, ids.shape))
    parts = np.split(indices_zyx, first[1:], axis=1)
    # For a map without lesions, `split` returns one empty part.
    return dict(zip(lesion_ids.tolist(), parts, strict=False))


def connected_components(indices_zyx: Integer[np.ndarray, "3 n"]) -> list[Integer[np.ndarray, "3 _"]]:
    """The components (26 neighbours) of a set of voxels, largest first; ties in the order of their voxels."""
    components = [component for cluster in _clusters(indices_zyx) for component in _components_in_box(cluster)]
    return sorted(components, key=lambda component: (-component.shape[1], component[:, 0].tolist()))


def distances_mm(
    components: Sequence[Integer[np.ndarray, "3 _"]], main: Integer[np.ndarray, "3 n"], spacing_zyx_mm: Triple
) -> Float[np.ndarray, "k"]:
    """The distance, between voxel centres, of each component to the main component."""
    # Imported late: few masks need it, and it takes a while to load.
    from scipy.spatial import KDTree

    scale = np.array(spacing_zyx_mm)
    # Offset by a voxel: between 0 and the next larger number, the tree would split without end where a program flushes
    # denormals to zero (`torch.set_flush_denormal`).
    voxels, tree = (np.concatenate(components, axis=1).T + 1) * scale, KDTree((main.T + 1) * scale)
    distances, _ = tree.query(voxels)
    first = np.cumsum([0, *(component.shape[1] for component in components[:-1])])
    return np.asarray(np.minimum.reduceat(distances, first))


def _clusters(indices_zyx: Integer[np.ndarray, "3 n"]) -> Iterator[Integer[np.ndarray, "3 _"]]:
    """Parts that are separated by an empty plane, so that each one's bounding box has few empty voxels."""
    for axis in range(3):
        along = indices_zyx[axis] - indices_zyx[axis].min()
        gaps = np.bincount(along) == 0
        if not gaps.any():
            continue
        group = np.cumsum(gaps)[along]
        for number in np.unique(group):
            yield from _clusters(indices_zyx[:, group == number])
        return
    yield indices_zyx


def _components_in_box(indices_zyx: Integer[np.ndarray, "3 n"]) -> list[Integer[np.ndarray, "3 _"]]:
    inner = indices_zyx - indices_zyx.min(axis=1, keepdims=True)
    mask = np.zeros(inner.max(axis=1) + 1, np.bool_)
    mask[tuple(inner)] = True
    labels, count = cc3d.connected_components(mask, connectivity=_CONNECTIVITY, return_N=True)
    if count == 1:
        return [indices_zyx]
    label = labels[tuple(inner)]
    order = label.argsort(kind="stable")
    return np.split(indices_zyx[:, order], np.flatnonzero(np.diff(label[order])) + 1, axis=1)
