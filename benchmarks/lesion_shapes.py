"""How well a file's lesion shapes represent their masks, and sizes: `python -m benchmarks.lesion_shapes SHAPES.npz`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.progress import track
from scipy.ndimage import center_of_mass

from longilesion.markdown import markdown_table
from training.command import run_command
from training.synthesis.deformation import lattice
from training.synthesis.shape_library import LibraryShape, read_shape_library
from training.synthesis.shapes import REACH, signed_distance_mm

# Voxels around the mask where the shape is sampled too.
_MARGIN = 2


@dataclass
class Arguments:
    """What to measure."""

    shapes: tyro.conf.Positional[Path]
    """A file of lesion shapes (.npz)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Represented:
    """A shape sampled at the voxels of its mask: Dice, its volume relative to the mask's, and whether it is cut."""

    radius_mm: float
    dice: float
    volume_factor: float
    is_cut: bool


def represented(shape: LibraryShape) -> Represented:
    """Samples a shape at its mask's voxels."""
    mask = np.pad(shape.mask, _MARGIN)
    spacing, middle = shape.spacing_zyx_mm.astype(float), center_of_mass(mask)
    z, y, x = (
        torch.from_numpy(((np.arange(length) - at) * step).astype(np.float32))
        for length, at, step in zip(mask.shape, middle, spacing, strict=True)
    )
    points = lattice((z, y, x))
    radius_mm = shape.radius_mm
    found = signed_distance_mm(shape.shape, points, radius_mm=radius_mm, rotation=np.eye(3)).numpy() < 0
    farthest_mm = float(points[torch.from_numpy(mask)].abs().max())
    return Represented(
        radius_mm=radius_mm,
        dice=float(2 * (found & mask).sum() / (found.sum() + mask.sum())),
        volume_factor=float(found.sum() / mask.sum()),
        is_cut=farthest_mm > REACH * radius_mm,
    )


def report(arguments: Arguments) -> None:
    """Prints the table."""
    library = read_shape_library(arguments.shapes)
    console = Console(stderr=True)
    rows: list[list[str]] = []
    everything: list[Represented] = []
    for lesion_type, shapes in library.by_type.items():
        own = [represented(shape) for shape in track(shapes, lesion_type, console=console, transient=True)]
        rows.append([lesion_type, *_cells(own)])
        everything += own
    rows.append(["all", *_cells(everything)])
    headings = ["type", "shapes", "radius, mm: median (p5-p95)", "Dice: median, p5, least", "volume", "cut off"]
    print("\n".join(markdown_table(headings, rows)))


def _cells(shapes: Sequence[Represented]) -> list[str]:
    radii, dice = ([getattr(shape, name) for shape in shapes] for name in ("radius_mm", "dice"))
    low, middle, high = np.quantile(radii, [0.05, 0.5, 0.95])
    return [
        str(len(shapes)),
        f"{middle:.1f} ({low:.1f}-{high:.1f})",
        f"{np.median(dice):.3f}, {np.quantile(dice, 0.05):.3f}, {min(dice):.3f}",
        f"{np.median([shape.volume_factor for shape in shapes]):.2f}",
        f"{100 * np.mean([shape.is_cut for shape in shapes]):.1f} %",
    ]


def main() -> int:
    """Command line; 1 where the file cannot be used."""
    return run_command(report, Arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main())
