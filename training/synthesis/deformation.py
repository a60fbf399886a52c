"""Mapping of a second scan's points to the first one's anatomy: rigid motion, bending, breathing, growth.

Anatomy is measured in z, y, x mm from the first voxel of the source's volume. A motion maps points on demand, for a
lattice at a time, so that the points of a whole scan are never in memory, and smooth parts are interpolated cheaply.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Float32
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from torch import Tensor

from training.synthesis.settings import MotionSettings
from training.synthesis.sliding import Lungs, Sliding, sliding

# The coordinates of a lattice's points along z, y and x.
Axes: TypeAlias = tuple[Float32[Tensor, " z"], Float32[Tensor, " y"], Float32[Tensor, " x"]]
# Original positions of points of the changed anatomy.
Mapped: TypeAlias = Callable[[Tensor], Tensor]

# Smooth part: about the length of a period in a scan; smallest number of control points along each axis.
_CONTROL_MM = 70.0
_CONTROLS_ZYX = (5, 6, 6)
# Craniocaudal motion is stronger by half.
_BENDING_ZYX = (1.5, 1.0, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SmoothField:
    """Values that vary smoothly over a box, which reaches from -1 to 1 along each axis."""

    controls: Float32[Tensor, "c z y x"]

    @classmethod
    def random(cls, generator: np.random.Generator, *, components: int, controls_zyx: Sequence[int]) -> SmoothField:
        """A random field of unit deviation at the control points, interpolated in between."""
        values = generator.normal(size=(components, *controls_zyx))
        return cls(controls=torch.from_numpy(values.astype(np.float32)))

    def rounded(self) -> SmoothField:
        """The field, smoothed against kinks of the interpolation, again of unit deviation."""
        fine = torch.nn.functional.interpolate(
            self.controls[None], scale_factor=4, mode="trilinear", align_corners=True
        )
        smooth = torch.nn.functional.avg_pool3d(fine, 5, stride=1, padding=2, count_include_pad=False)
        return SmoothField(controls=smooth[0] / smooth.std())

    def at(self, axes: Axes) -> Float32[Tensor, "c z y x"]:
        """Values on a lattice of the box, linear between control points; outside the box, those at its border."""
        values = self.controls.to(axes[0].device)
        z, y, x = (_weights(axis, length) for axis, length in zip(axes, values.shape[1:], strict=True))
        along = torch.einsum("zi,cijk->czjk", z, values)
        return torch.einsum("yj,czjk->czyk", y, along) @ x.T


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Growth:
    """A neighbourhood grown by `factor` (below 1: shrunk) around a centre; the effect fades over `reach_mm`."""

    centre_zyx_mm: Float[np.ndarray, "3"]
    factor: float
    reach_mm: float

    def mapped(self, points_zyx_mm: Float32[Tensor, "z y x 3"]) -> Float32[Tensor, "z y x 3"]:
        """Original positions of points of the grown anatomy."""
        offset = points_zyx_mm - _vector(self.centre_zyx_mm, points_zyx_mm)
        fade = torch.exp(-(offset**2).sum(-1, keepdim=True) / self.reach_mm**2)
        return points_zyx_mm + offset * fade * (1 / self.factor - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Breathing:
    """The diaphragm, at `diaphragm_mm` along z, moves by `amplitude_mm` down as the lungs above it fill.

    The motion fades to zero at the lungs' apex, `height_mm` higher, and as far below. With `sliding` the chest wall
    stays in place; without, everything at a height moves alike.
    """

    amplitude_mm: float
    diaphragm_mm: float
    height_mm: float
    sliding: Sliding | None = None

    @property
    def lung_density(self) -> float:
        """The density of the lungs relative to that before: the same tissue in another volume."""
        return 1.0 / (1.0 + self.amplitude_mm / self.height_mm)

    def shift_mm(self, heights_mm: Float32[Tensor, "z y x"]) -> Float32[Tensor, "z y x"]:
        """The offset along z, at those heights, of the tissue's position in the first scan."""
        distance = ((heights_mm - self.diaphragm_mm) / self.height_mm).clamp(-1, 1)
        return self.amplitude_mm * torch.cos(distance * (np.pi / 2)) ** 2

    def mapped(self, points_zyx_mm: Float32[Tensor, "z y x 3"]) -> Float32[Tensor, "z y x 3"]:
        """Positions before the breath of points after it."""
        shift = self.shift_mm(points_zyx_mm[..., 0])
        if self.sliding is not None:
            shift = shift * self.sliding.following(points_zyx_mm)
        moved = torch.cat(((points_zyx_mm[..., 0] + shift)[..., None], points_zyx_mm[..., 1:]), dim=-1)
        return moved if self.sliding is None else self.sliding.slid(moved)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Motion:
    """The whole motion between two scans; the patient is rotated about `centre_zyx_mm`.

    The bending, in mm, is defined on a box of that half size around the centre.
    """

    centre_zyx_mm: Float[np.ndarray, "3"]
    half_zyx_mm: Float[np.ndarray, "3"]
    rotation: Float[np.ndarray, "3 3"]
    bending: SmoothField | None = None
    breathing: Breathing | None = None
    growths: tuple[Mapped, ...] = ()

    def mapped(self, axes: Axes) -> Float32[Tensor, "z y x 3"]:
        """Positions in the first scan's anatomy of a lattice's points in the second scan."""
        offsets = [axis - centre for axis, centre in zip(axes, self.centre_zyx_mm.tolist(), strict=True)]
        moved = [
            _outer_sum(*(offset * float(share) for offset, share in zip(offsets, column, strict=True))) + centre
            for column, centre in zip(self.rotation.T, self.centre_zyx_mm.tolist(), strict=True)
        ]
        if self.bending is not None:
            halves = self.half_zyx_mm.tolist()
            z, y, x = (offset / half for offset, half in zip(offsets, halves, strict=True))
            for place, shift in zip(moved, self.bending.at((z, y, x)), strict=True):
                place += shift
        points = torch.stack(moved, dim=-1)
        if self.breathing is not None:
            points = self.breathing.mapped(points)
        for growth in self.growths:
            points = growth(points)
        return points


def lattice(axes: Axes) -> Float32[Tensor, "z y x 3"]:
    """The points of the lattice with these axes."""
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)


def random_motion(
    generator: np.random.Generator,
    settings: MotionSettings,
    *,
    centre_zyx_mm: Float[np.ndarray, "3"],
    half_zyx_mm: Float[np.ndarray, "3"],
    lungs_mm: tuple[float, float] | None,
    growths: tuple[Mapped, ...],
    lungs: Lungs | None = None,
) -> Motion:
    """Draws a motion; breathing needs the extent of the lungs along z, and where they slide, the lungs."""
    limit = settings.rotation_deg
    turn = Rotation.from_euler("zyx", generator.uniform(-limit, limit, 3), degrees=True).as_matrix()
    controls = np.maximum(_CONTROLS_ZYX, np.ceil(2 * half_zyx_mm / _CONTROL_MM)).astype(int).tolist()
    field = SmoothField.random(generator, components=3, controls_zyx=controls).rounded()
    strength = torch.tensor(_BENDING_ZYX) * float(generator.uniform(*settings.deformation_mm))
    breathing = None
    if settings.breathing_mm and lungs_mm is not None:
        low, high = lungs_mm
        height = max(high - low, 150.0)
        depth = float(np.clip(generator.normal(0, settings.breathing_mm), -0.25 * height, 0.25 * height))
        breathing = Breathing(amplitude_mm=depth, diaphragm_mm=low, height_mm=height)
        if lungs is not None:
            breathing = replace(breathing, sliding=sliding(lungs.near(centre_zyx_mm, half_zyx_mm), breathing.shift_mm))
    return Motion(
        centre_zyx_mm=centre_zyx_mm,
        half_zyx_mm=half_zyx_mm,
        rotation=turn,
        bending=SmoothField(controls=field.controls * strength[:, None, None, None]),
        breathing=breathing,
        growths=growths,
    )


def sampled(
    volume: Float32[Tensor, "z y x"], points_zyx_mm: Float32[Tensor, "a b c 3"], spacing_zyx_mm: NDArray[np.floating]
) -> Float32[Tensor, "a b c"]:
    """Linear interpolation of a volume, whose centre is the origin, at points; zero outside it."""
    half_mm = (np.array(volume.shape) - 1) / 2 * spacing_zyx_mm
    scaled = points_zyx_mm / _vector(np.maximum(half_mm, 1e-3), points_zyx_mm)
    values = torch.nn.functional.grid_sample(volume[None, None], scaled.flip(-1)[None], align_corners=True)
    return values[0, 0]


def _outer_sum(
    z: Float32[Tensor, " z"], y: Float32[Tensor, " y"], x: Float32[Tensor, " x"]
) -> Float32[Tensor, "z y x"]:
    return z[:, None, None] + y[None, :, None] + x[None, None, :]


def _weights(axis: Float32[Tensor, " n"], controls: int) -> Float32[Tensor, "n controls"]:
    """The weight of each control point for values along an axis from -1 to 1."""
    places = ((axis.clamp(-1, 1) + 1) / 2 * (controls - 1))[:, None]
    return (1 - (places - torch.arange(controls, device=axis.device)).abs()).clamp(min=0)


def _vector(values: NDArray[np.floating], like: Tensor) -> Float32[Tensor, "3"]:
    return torch.from_numpy(values.astype(np.float32)).to(like.device)
