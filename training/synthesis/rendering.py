"""One time point of a pair: a source sampled at the positions of a scan's voxels in its anatomy, in slabs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int16, UInt16
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from longilesion.case import AIR_HU
from longilesion.geometry import ZYX, Triple, box_slices
from longilesion.voi import occupied_box
from training.synthesis.acquisition import Acquisition, acquired, enhanced
from training.synthesis.deformation import Axes, Motion, lattice, sampled
from training.synthesis.host import host_of
from training.synthesis.insertion import paint, paint_scar
from training.synthesis.lesions import UNMARKED, Appearance, Lesion
from training.synthesis.noise import Noise, measured_noise
from training.synthesis.solids import Window
from training.synthesis.sources import RealLesion, Source

# Points and intermediate results take some 100 bytes per voxel.
SLAB_VOXELS = 2_000_000
# Stride along each axis of the voxels whose positions a time point stores.
_STRIDE = 4
# Margin around the scan for motion.
MARGIN_MM = 15.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Frame:
    """A scan's voxels before any motion, around their centre; in mm from the volume's first voxel."""

    shape_zyx: ZYX
    spacing_zyx_mm: Triple
    middle_zyx_mm: Float[np.ndarray, "3"]

    @property
    def half_zyx_mm(self) -> Float[np.ndarray, "3"]:
        """Distances from the centre to the centres of the outermost voxels."""
        return np.asarray((np.array(self.shape_zyx) - 1) / 2 * self.spacing_zyx_mm)

    @property
    def whole(self) -> Window:
        """The window of all voxels."""
        z, y, x = (slice(0, length) for length in self.shape_zyx)
        return z, y, x

    def axes(self, window: Window, device: torch.device, *, stride: int = 1) -> Axes:
        """The coordinates of every `stride`-th voxel of a window along z, y and x."""
        z, y, x = (
            torch.arange(side.start, side.stop, stride, device=device) * step + float(first)
            for side, first, step in zip(
                window, self.middle_zyx_mm - self.half_zyx_mm, self.spacing_zyx_mm, strict=True
            )
        )
        return z, y, x

    def relative(self, axes: Axes) -> Axes:
        """The same positions, in coordinates where the frame reaches from -1 to 1."""
        z, y, x = (
            (axis - middle) / half
            for axis, middle, half in zip(axes, self.middle_zyx_mm.tolist(), self.half_zyx_mm.tolist(), strict=True)
        )
        return z, y, x

    def slabs(self, voxels: int) -> Iterator[Window]:
        """Windows of whole slices, of about as many voxels each."""
        count, rows, columns = self.shape_zyx
        step = max(1, voxels // (rows * columns))
        for first in range(0, count, step):
            yield slice(first, min(first + step, count)), slice(0, rows), slice(0, columns)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class View:
    """A scan's view of the anatomy; `coarse_zyx_mm` has the position of every fourth voxel."""

    frame: Frame
    motion: Motion | None
    coarse_zyx_mm: Float32[Tensor, "a b c 3"]

    @classmethod
    def of(cls, frame: Frame, motion: Motion | None, device: torch.device) -> View:
        """Computes the positions of the voxels."""
        coarse = _moved(frame.axes(frame.whole, device, stride=_STRIDE), motion)
        return cls(frame=frame, motion=motion, coarse_zyx_mm=coarse)

    def points(self, window: Window) -> Float32[Tensor, "z y x 3"]:
        """The positions of a window's voxels in the anatomy."""
        return _moved(self.frame.axes(window, self.coarse_zyx_mm.device), self.motion)

    def box(self, centre_zyx_mm: Float[np.ndarray, "3"], *, reach_mm: float) -> Window | None:
        """The window around a position, found on every fourth voxel and widened by four; None where it is empty."""
        margin = max(6.0, 0.75 * _STRIDE * max(self.frame.spacing_zyx_mm))
        offsets = self.coarse_zyx_mm - _tensor(centre_zyx_mm, self.coarse_zyx_mm.device)
        near = offsets.abs().amax(-1).cpu().numpy() < reach_mm + margin
        if not near.any():
            return None
        sides = []
        for axis in range(3):
            hits = np.flatnonzero(near.any(axis=tuple(other for other in range(3) if other != axis)))
            stop = min((int(hits[-1]) + 1) * _STRIDE + 1, self.frame.shape_zyx[axis])
            sides.append(slice(max((int(hits[0]) - 1) * _STRIDE, 0), stop))
        return sides[0], sides[1], sides[2]

    def nearest_voxel(self, place_zyx_mm: Float[np.ndarray, "3"]) -> Triple:
        """The voxel nearest to a position of the anatomy."""
        place = _tensor(place_zyx_mm, self.coarse_zyx_mm.device)
        distance = (self.coarse_zyx_mm - place).pow(2).sum(-1)
        around = [int(index) * _STRIDE for index in np.unravel_index(int(distance.argmin()), distance.shape)]
        start = [max(index - _STRIDE, 0) for index in around]
        z, y, x = (
            slice(first, min(index + _STRIDE + 1, length))
            for first, index, length in zip(start, around, self.frame.shape_zyx, strict=True)
        )
        fine = (self.points((z, y, x)) - place).pow(2).sum(-1)
        found = np.unravel_index(int(fine.argmin()), fine.shape)
        z_index, y_index, x_index = (float(first + index) for first, index in zip(start, found, strict=True))
        return z_index, y_index, x_index


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Exposure:
    """An acquired scan, its lesion map, and the mask of its organ where that is wanted."""

    view: View
    hu: Int16[np.ndarray, "z y x"]
    ids: UInt16[np.ndarray, "z y x"]
    organ: Bool[np.ndarray, "z y x"] | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TimePoint:
    """A scan of a source being painted, and its lesion map, with the source's noise in it."""

    source: Source
    view: View
    acquisition: Acquisition
    noise: Noise
    hu: Float32[Tensor, "z y x"]
    ids: UInt16[np.ndarray, "z y x"]

    def outline(self, lesion: RealLesion, label: int, *, source: Source) -> None:
        """Marks a real lesion."""
        box = self.view.box(lesion.centre_zyx_mm, reach_mm=lesion.extent_mm)
        if box is None:
            return
        first, last = ([getattr(side, end) for side in lesion.box] for end in ("start", "stop"))
        middle = (np.array(first) + np.array(last) - 1) / 2 * source.spacing_zyx_mm
        mask = torch.from_numpy(lesion.mask.astype(np.float32)).to(self.hu.device)
        offsets = self.view.points(box) - _tensor(middle, self.hu.device)
        self.ids[box][(sampled(mask, offsets, source.spacing_zyx_mm) > 0.5).cpu().numpy()] = label

    def insert(self, lesion: Lesion, parts: tuple[Appearance, ...], label: int, generator: np.random.Generator) -> None:
        """Paints a lesion's parts, and marks them under that label unless it is `UNMARKED`."""
        box = self.view.box(lesion.centre_zyx_mm, reach_mm=lesion.painted_reach_mm(parts)) if parts else None
        if box is not None:
            paint(
                self.hu[box],
                self.ids[box],
                points_zyx_mm=self.view.points(box),
                host=host_of(self.source, lesion),
                noise=self.noise,
                lesion=lesion,
                parts=parts,
                label=label,
                generator=generator,
            )

    def insert_scar(self, lesion: Lesion) -> None:
        """Paints the remains of a healed lesion."""
        box = self.view.box(lesion.centre_zyx_mm, reach_mm=lesion.painted_reach_mm(lesion.baseline))
        if box is not None:
            host = host_of(self.source, lesion)
            paint_scar(self.hu[box], points_zyx_mm=self.view.points(box), host=host, lesion=lesion)

    def developed(self, *, slab_voxels: int = SLAB_VOXELS) -> Exposure:
        """The acquired scan."""
        image = np.empty(self.hu.shape, np.int16)
        for slab in self.view.frame.slabs(slab_voxels):
            image[slab] = acquired(self.hu[slab], self.acquisition, first_slice=slab[0].start)
        return Exposure(view=self.view, hu=image, ids=self.ids)


def rendered(
    source: Source,
    frame: Frame,
    motion: Motion | None,
    acquisition: Acquisition,
    *,
    device: torch.device,
    repeats_ends: bool = False,
    margin_mm: float = MARGIN_MM,
    slab_voxels: int = SLAB_VOXELS,
) -> TimePoint:
    """Samples a time point, contrast included, before lesions and noise.

    Outside the source there is air or, with `repeats_ends`, its first or last slice, to continue the body.
    """
    window, middle = _window(source, frame, margin_mm)
    own_mm, slice_mm = float(source.spacing_zyx_mm[0]), frame.spacing_zyx_mm[0]
    voxels = source.hu[window]
    if slice_mm > own_mm:
        # A thick slice is averaged over its thickness.
        deviation = np.sqrt(slice_mm**2 - own_mm**2) / 2.355 / own_mm
        voxels = gaussian_filter1d(voxels, deviation, axis=0, output=np.float32, truncate=2.5)
    volume = torch.from_numpy(np.asarray(voxels, np.float32)).to(device).sub_(AIR_HU)
    hu = torch.empty(frame.shape_zyx, device=device)
    for slab in frame.slabs(slab_voxels):
        axes = frame.axes(slab, device)
        local = _moved(axes, motion) - _tensor(middle, device)
        if repeats_ends:
            end_mm = float((volume.shape[0] - 1) / 2 * own_mm)
            local[..., 0].clamp_(-end_mm, end_mm)
        image = sampled(volume, local, source.spacing_zyx_mm)
        if motion is not None and motion.breathing is not None:
            # Air has no mass: the density of lung above that of air follows from its volume alone.
            lung = ((-500 - AIR_HU - image) / 200).clamp(0, 1)
            image *= 1 + lung * (motion.breathing.lung_density - 1)
        hu[slab] = enhanced(image + AIR_HU, acquisition, frame.relative(axes))
    ids = np.zeros(frame.shape_zyx, np.uint16)
    view = View.of(frame, motion, device)
    return TimePoint(source=source, view=view, acquisition=acquisition, noise=measured_noise(hu), hu=hu, ids=ids)


def seen_mask(
    mask: Bool[np.ndarray, "a b c"], view: View, source: Source, *, slab_voxels: int = SLAB_VOXELS
) -> Bool[np.ndarray, "z y x"]:
    """A mask of the source as a scan shows it."""
    device = view.coarse_zyx_mm.device
    box = occupied_box(mask)
    middle = np.array([side.start + side.stop - 1 for side in box]) / 2 * source.spacing_zyx_mm
    inside = torch.from_numpy(mask[box].astype(np.float32)).to(device)
    seen = np.empty(view.frame.shape_zyx, np.bool_)
    for slab in view.frame.slabs(slab_voxels):
        share = sampled(inside, view.points(slab) - _tensor(middle, device), source.spacing_zyx_mm)
        seen[slab] = (share > 0.5).cpu().numpy()
    return seen


def label_of(lesion: Lesion) -> int:
    """The label of a lesion in the baseline's mask."""
    return lesion.lesion_id if lesion.is_marked_before else UNMARKED


def _window(source: Source, frame: Frame, margin_mm: float) -> tuple[Window, Float[np.ndarray, "3"]]:
    """The part of the source in a scan's field of view, with a margin for motion, and its centre."""
    half = frame.half_zyx_mm + margin_mm
    shape = np.array(source.hu.shape)
    start = np.clip(np.floor((frame.middle_zyx_mm - half) / source.spacing_zyx_mm), 0, shape - 2).astype(int)
    stop = np.clip(np.ceil((frame.middle_zyx_mm + half) / source.spacing_zyx_mm), start + 2, shape).astype(int)
    return box_slices(start, stop), (start + stop - 1) / 2 * source.spacing_zyx_mm


def _moved(axes: Axes, motion: Motion | None) -> Float32[Tensor, "z y x 3"]:
    return lattice(axes) if motion is None else motion.mapped(axes)


def _tensor(values: Float[np.ndarray, "3"], device: torch.device) -> Float32[Tensor, "3"]:
    return torch.from_numpy(values.astype(np.float32)).to(device)
