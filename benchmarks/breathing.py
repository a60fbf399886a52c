"""Breathing with lungs that slide: what moves, whether lung stays lung, whether anything folds, and the time.

python -m benchmarks.breathing
python -m benchmarks.breathing --data CT_FOLDER
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from scipy.ndimage import binary_erosion

from longilesion.markdown import markdown_table
from training.command import run_command
from training.synthesis.deformation import Breathing, lattice, sampled
from training.synthesis.sliding import find_lungs, sliding
from training.synthesis.sources import Source, find_volumes, load_sources, phantom_sources

_STEP_MM = 3.0
_BONE_HU = 300.0
# Further than this beyond the lungs' border, a point has left them.
_LEFT_MM = 1.5


@dataclass
class Arguments:
    """Command line of the benchmark."""

    data: Path | None = None
    """Folder with one subfolder per CT volume (`ct.nii.gz`); phantoms where it is not given."""
    amplitude_mm: float = 12.0
    """Motion of the diaphragm, down and up."""


def measured(source: Source, amplitude_mm: float) -> tuple[str, ...] | None:
    """The cells of a row of the table; None where the source has no lungs."""
    lungs, extent = find_lungs(source), source.lungs_mm
    if lungs is None or extent is None:
        return None
    height_mm = max(extent[1] - extent[0], 150.0)
    plain = Breathing(amplitude_mm=amplitude_mm, diaphragm_mm=extent[0], height_mm=height_mm)
    start = time.perf_counter()
    moving = sliding(lungs, plain.shift_mm)
    seconds = time.perf_counter() - start
    breath = Breathing(amplitude_mm=amplitude_mm, diaphragm_mm=extent[0], height_mm=height_mm, sliding=moving)
    size_mm = np.array(source.hu.shape) * source.spacing_zyx_mm.astype(float)
    z, y, x = (torch.arange(0.0, float(side), _STEP_MM) for side in size_mm)
    points = lattice((z, y, x))
    mapped = breath.mapped(points)
    moved_mm = (mapped - points).norm(dim=-1).numpy()
    shared = points.clone()
    shared[..., 0] += breath.shift_mm(points[..., 0]) * moving.following(points)
    was_lung, depth = (lungs.looked_up(lungs.depths_mm[None], each)[0].numpy() for each in (shared, mapped))
    is_lung = was_lung > 0
    derivative = np.stack([np.stack(np.gradient(mapped[..., axis].numpy(), _STEP_MM)) for axis in range(3)])
    # The displacement jumps at the border.
    inner = binary_erosion(is_lung, iterations=2)
    determinant = np.linalg.det(np.moveaxis(derivative[:, :, inner], 2, 0))
    middle = torch.from_numpy(((np.array(source.hu.shape) - 1) / 2 * source.spacing_zyx_mm).astype(np.float32))
    hu = sampled(torch.from_numpy(source.hu.astype(np.float32)), points - middle, source.spacing_zyx_mm).numpy()
    bone = (hu > _BONE_HU) & ~is_lung
    return (
        source.name,
        f"{amplitude_mm:+.0f}",
        f"{moved_mm[inner].mean():.1f}",
        "-" if not bone.any() else f"{moved_mm[bone].mean():.1f} / {np.quantile(moved_mm[bone], 0.95):.1f}",
        f"{100 * (depth[is_lung] < -_LEFT_MM).mean():.2f} %",
        f"{100 * (depth[~is_lung] > _LEFT_MM).mean():.2f} %",
        "{:.2f} ({:.2f}-{:.2f})".format(determinant.min(), *np.quantile(determinant, [0.01, 0.99])),
        f"{seconds:.1f}",
    )


def benchmark(arguments: Arguments) -> None:
    """Prints the table."""
    sources = (
        phantom_sources(range(2))
        if arguments.data is None
        else load_sources(arguments.data, find_volumes(arguments.data))
    )
    rows = [measured(source, sign * arguments.amplitude_mm) for source in sources for sign in (1, -1)]
    headings = [
        "volume",
        "diaphragm, mm",
        "lung moved, mm: mean",
        "bone moved, mm: mean / p95",
        "lung that left the lungs",
        "other tissue that entered them",
        "Jacobian determinant in the lungs: least (p1-p99)",
        "seconds",
    ]
    console = Console(width=200)
    for line in markdown_table(headings, [row for row in rows if row is not None]):
        console.print(line, soft_wrap=True, markup=False)


def main() -> int:
    """Command line; 1 where the data cannot be used."""
    return run_command(benchmark, Arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main())
