"""Makes a file of lesion shapes of outlines of your own: `python -m training.shapes LABEL_MAP... --output SHAPES.npz`.

Every lesion of a label map (NIfTI, MHA, NRRD) is a shape: each label or, where there is only one, each connected
component. Other files of lesion shapes (.npz) can be among the inputs; their shapes keep their type. The result is used
by `training.train`, `training.synth` and `training.prepare synthetic` with `--shapes`: docs/synthesis.md
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from rich.console import Console

from longilesion.errors import InputError
from longilesion.images import read_lesion_map
from training.command import run_command
from training.synthesis.shape_library import (
    MIXED,
    TYPES,
    LibraryShape,
    read_shape_library,
    write_shape_library,
)
from training.synthesis.sources import real_lesions


@dataclass
class Arguments:
    """Command line of a file of shapes."""

    inputs: tyro.conf.Positional[tuple[Path, ...]]
    """Label maps, and other files of lesion shapes."""
    output: Path
    """The file of lesion shapes (.npz)."""
    type: str = MIXED
    """Type of the lesions of all label maps, which decides where they are painted."""
    licence: str | None = None
    """Licence and attribution of the outlines; it goes to the model card of weights that are trained with them."""


def make_shapes(arguments: Arguments) -> None:
    """Writes the file."""
    if arguments.type not in TYPES:
        raise InputError(f"--type {arguments.type}: expected one of {', '.join(TYPES)}")
    if arguments.output.suffix != ".npz":
        raise InputError(f"{arguments.output}: no file of shapes; expected a name that ends with .npz")
    shapes: list[LibraryShape] = []
    licences: list[str] = []
    for path in arguments.inputs:
        if path.suffix == ".npz":
            library = read_shape_library(path)
            shapes += library.shapes
            licences += [] if library.licence is None else [library.licence]
        else:
            shapes += _outlined(path, arguments.type)
    if not shapes:
        raise InputError("no shapes given; expected label maps with lesions of at least 10 voxels, or files of shapes")
    licences += [] if arguments.licence is None else [arguments.licence]
    licence = "; ".join(dict.fromkeys(licences)) or None
    write_shape_library(arguments.output, shapes, licence=licence)
    counts = ", ".join(f"{count} {name}" for name, count in Counter(shape.lesion_type for shape in shapes).items())
    Console().print(f"{len(shapes)} shapes ({counts}): {arguments.output}", soft_wrap=True)


def _outlined(path: Path, lesion_type: str) -> list[LibraryShape]:
    lesions = read_lesion_map(path)
    view, grid = lesions.grid.lps_view(lesions.ids)
    spacing = np.array(grid.spacing_zyx_mm, np.float32)
    found = real_lesions(np.ascontiguousarray(view), spacing)
    if not found:
        raise InputError(f"{path}: no lesion of 10 voxels or more; expected at least one")
    return [LibraryShape.of(lesion.mask, spacing, lesion_type) for lesion in found]


def main() -> int:
    """Command line; 1 where an input cannot be used."""
    return run_command(make_shapes, Arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main())
