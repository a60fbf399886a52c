"""Painting of liver lesions into a contrast phase: parts between depths below a lesion's surface."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float32
from scipy.special import expit
from torch.nn.functional import grid_sample

from longilesion.diagnosis_settings import Phase
from longilesion.geometry import box_slices
from training.synthesis.kinetics import Levels
from training.synthesis.liver_host import LiverHost
from training.synthesis.liver_lesions import DrawnPart, LiverLesion
from training.synthesis.shapes import REACH, signed_distance_mm
from training.synthesis.solids import Window

# Parts of a lesion blend over this distance; its border over at least so many voxels.
_JOINT_MM = 1.2
_SHARPEST_VOXELS = 1.2


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PlacedLesion:
    """A lesion on a window of its host's lattice, the same in all phases.

    `share` is how much of each voxel is lesion, `depth` how far below its surface, in shares of its greatest depth;
    `depths` are those for each part, uneven.
    """

    lesion: LiverLesion
    window: Window
    mask: Bool[np.ndarray, "z y x"]
    share: Float32[np.ndarray, "z y x"]
    deepest_mm: float
    depths: tuple[Float32[np.ndarray, "z y x"], ...]
    texture_hu: Float32[np.ndarray, "z y x"]

    def paint(self, hu: Float32[np.ndarray, "z y x"], host: LiverHost, phase: Phase, levels: Levels) -> None:
        """Paints the lesion into a phase of its host, in place, without noise."""
        target = np.zeros_like(self.share)
        for part, depth in zip(self.lesion.parts, self.depths, strict=True):
            weight = self._weight(part, depth, phase)
            target += weight * (part_hu(part, phase, levels) - target)
        structure = host.hu[self.window] - host.levels["liver"]
        target += self.texture_hu + self.lesion.kind.kept_structure * structure.clip(-60, 60)
        part_of_scan = hu[self.window]
        part_of_scan += self.share * (target - part_of_scan)

    def _weight(
        self, part: DrawnPart, depth: Float32[np.ndarray, "z y x"], phase: Phase
    ) -> Float32[np.ndarray, "z y x"]:
        """How much of each voxel of the lesion a part takes."""
        joint = _JOINT_MM / 2 / self.deepest_mm
        weight = np.ones_like(depth)
        if part.begins > 0:
            weight *= expit((depth - part.begins) / joint)
        if part.ends[phase] < 1:
            weight *= expit((part.ends[phase] - depth) / joint) if part.ends[phase] > 0 else 0.0
        return weight


def part_hu(part: DrawnPart, phase: Phase, levels: Levels) -> float:
    """The HU of a part in a phase of a patient."""
    reference = part.part.relative_to
    return part.hu[phase] + (0.0 if reference == "water" else levels[reference][phase])


def placed_lesion(lesion: LiverLesion, host: LiverHost) -> PlacedLesion:
    """Finds the voxels of a lesion, inside the liver."""
    spacing = host.source.spacing_zyx_mm.astype(float)
    reach_mm = lesion.radius_mm * min(lesion.shape.farthest + 0.3, REACH) + 2 * lesion.edge_mm
    start = np.floor((lesion.centre_zyx_mm - reach_mm) / spacing).astype(int).clip(0, host.hu.shape)
    stop = np.ceil((lesion.centre_zyx_mm + reach_mm) / spacing).astype(int) + 1
    window = box_slices(start, stop.clip(start, host.hu.shape))
    axes = [
        torch.from_numpy(np.arange(side.start, side.stop) * step - centre).float()
        for side, step, centre in zip(window, spacing.tolist(), lesion.centre_zyx_mm.tolist(), strict=True)
    ]
    offsets = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    distance = signed_distance_mm(lesion.shape, offsets, radius_mm=lesion.radius_mm, rotation=lesion.rotation).numpy()
    deepest_mm = max(-float(lesion.shape.distance.min()) * lesion.radius_mm, 1.0)
    depth = -distance / deepest_mm
    turned = offsets @ torch.from_numpy(lesion.rotation.astype(np.float32)) / (lesion.radius_mm * REACH)
    liver = host.liver[window]
    # A border is not sharper than voxels can show.
    edge_mm = max(lesion.edge_mm, _SHARPEST_VOXELS * float(spacing[1:].max()))

    def on_lattice(field: Float32[np.ndarray, "n n n"]) -> Float32[np.ndarray, "z y x"]:
        values = torch.from_numpy(field)[None, None]
        found = grid_sample(values, turned.flip(-1)[None], align_corners=True, padding_mode="border")
        return np.asarray(found[0, 0].numpy())

    return PlacedLesion(
        lesion=lesion,
        window=window,
        mask=(distance < 0) & liver,
        share=(expit(-distance / (edge_mm / 4)) * host.shares["liver"][window]).astype(np.float32),
        deepest_mm=deepest_mm,
        depths=tuple(depth + on_lattice(part.field) for part in lesion.parts),
        texture_hu=on_lattice(lesion.texture_hu),
    )
