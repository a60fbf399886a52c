"""Files of lesion shapes (`.npz`): masks of real lesions without their scans, each with its spacing and its type.

`n` is the number of shapes. Of shape k, `s<k>_bits` are the mask's voxels packed by `numpy.packbits`, `s<k>_shape` its
size and `s<k>_spacing` its spacing in mm (both z, y, x), and `s<k>_type` its type, one of `TYPES`. The text `licence`
is optional.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, UInt8
from numpy.typing import NDArray

from longilesion.errors import InputError
from longilesion.files import check_archive, written_together
from longilesion.geometry import ZYX
from training.synthesis.shapes import Shape, shape_of_mask, sphere_radius_mm

MIXED, LYMPH_NODE = "mixed", "lymph node"
# Types with a tissue of their own, and organs; a mixed shape belongs to no place.
TYPES = (
    MIXED,
    "bone",
    "lung",
    LYMPH_NODE,
    "adrenal",
    "brain",
    "heart",
    "kidney",
    "liver",
    "pancreas",
    "spleen",
)
# Names of the types in the ULS23 challenge's data.
_ALIASES = {"DeepLesion3D": MIXED, "lung_nodule": "lung", "lymph_node": LYMPH_NODE}
LICENCE_NOT_STATED = "licence not stated"
# Exceptions that NumPy or the archive's reader raises for a damaged file.
_DAMAGE = (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LibraryShape:
    """The mask of a real lesion, packed; it is unpacked on demand."""

    lesion_type: str
    shape_zyx: ZYX
    spacing_zyx_mm: Float32[np.ndarray, "3"]
    bits: UInt8[np.ndarray, " n"]

    @classmethod
    def of(
        cls, mask: Bool[np.ndarray, "z y x"], spacing_zyx_mm: Float32[np.ndarray, "3"], lesion_type: str
    ) -> LibraryShape:
        """Packs a mask."""
        z, y, x = mask.shape
        return cls(
            lesion_type=lesion_type,
            shape_zyx=(z, y, x),
            spacing_zyx_mm=spacing_zyx_mm,
            bits=np.packbits(mask),
        )

    @property
    def mask(self) -> Bool[np.ndarray, "z y x"]:
        """The mask."""
        voxels = np.unpackbits(self.bits, count=int(np.prod(self.shape_zyx)))
        return voxels.reshape(self.shape_zyx).astype(bool)

    @property
    def radius_mm(self) -> float:
        """The radius of the sphere of equal volume."""
        return sphere_radius_mm(self.mask, self.spacing_zyx_mm)

    @property
    def shape(self) -> Shape:
        """The shape, computed anew each time: as signed distances all shapes of a file would take hundreds of MB."""
        return shape_of_mask(self.mask, self.spacing_zyx_mm)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ShapeLibrary:
    """The shapes of a file by type, its name, the hash of its content, and the licence of the shapes, if stated."""

    name: str
    digest: str
    licence: str | None
    by_type: Mapping[str, Sequence[LibraryShape]]

    @property
    def shapes(self) -> tuple[LibraryShape, ...]:
        """All shapes."""
        return tuple(shape for shapes in self.by_type.values() for shape in shapes)

    @property
    def description(self) -> str:
        """The name, the number of shapes and the beginning of the hash, for records."""
        return f"{len(self.shapes)} shapes of {self.name} {self.digest[:12]}"

    @property
    def attribution(self) -> str:
        """The licence, for model cards."""
        return f"lesion shapes of {self.name}: {self.licence or LICENCE_NOT_STATED}"


def read_shape_library(path: Path) -> ShapeLibrary:
    """Reads and checks a file of lesion shapes; raises InputError that names the file and the first wrong shape."""
    try:
        content = path.read_bytes()
        archive = np.load(io.BytesIO(content), allow_pickle=False)
        entries: dict[str, NDArray[Any]] = {name: archive[name] for name in archive.files}
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; expected lesion shapes (.npz)") from error
    except (*_DAMAGE, AttributeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: cannot be read ({reason}); expected lesion shapes (.npz)") from error
    number = _entry(path, entries, "n")
    if number.shape != () or number.dtype.kind not in "iu" or number < 1:
        raise InputError(f"{path}: n is not the number of shapes; expected an integer from 1 on")
    by_type: dict[str, list[LibraryShape]] = {}
    for index in range(int(number)):
        shape = _read_shape(path, entries, f"s{index}")
        by_type.setdefault(shape.lesion_type, []).append(shape)
    return ShapeLibrary(
        name=path.name,
        digest=hashlib.sha256(content).hexdigest(),
        licence=str(entries["licence"]) if "licence" in entries else None,
        by_type=by_type,
    )


def write_shape_library(path: Path, shapes: Sequence[LibraryShape], *, licence: str | None = None) -> None:
    """Writes a file of lesion shapes; raises InputError where that is impossible."""
    entries: dict[str, NDArray[Any]] = {"n": np.array(len(shapes))}
    if licence is not None:
        entries["licence"] = np.array(licence)
    for index, shape in enumerate(shapes):
        entries[f"s{index}_bits"] = shape.bits
        entries[f"s{index}_shape"] = np.array(shape.shape_zyx, np.int32)
        entries[f"s{index}_spacing"] = shape.spacing_zyx_mm
        entries[f"s{index}_type"] = np.array(shape.lesion_type)
    with written_together({path: check_archive}) as (temporary,), temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **entries)


def _read_shape(path: Path, entries: Mapping[str, NDArray[Any]], name: str) -> LibraryShape:
    bits, size, spacing, kind = (
        _entry(path, entries, f"{name}_{part}") for part in ("bits", "shape", "spacing", "type")
    )
    lesion_type = _ALIASES.get(str(kind), str(kind))
    if lesion_type not in TYPES:
        raise InputError(f"{path}: {name}_type is {str(kind)!r}; expected one of {', '.join(TYPES)}")
    if size.shape != (3,) or size.dtype.kind not in "iu" or size.min() < 1:
        raise InputError(f"{path}: {name}_shape is {size.tolist()}; expected three sizes from 1 on (z, y, x)")
    if spacing.shape != (3,) or spacing.dtype.kind not in "iuf" or not (np.isfinite(spacing) & (spacing > 0)).all():
        raise InputError(f"{path}: {name}_spacing is {spacing.tolist()}; expected three lengths in mm (z, y, x)")
    z, y, x = size.tolist()
    expected = -(-z * y * x // 8)
    if bits.shape != (expected,) or bits.dtype != np.uint8:
        found = f"{bits.dtype} of shape {bits.shape}"
        raise InputError(f"{path}: {name}_bits is {found}; expected {expected} bytes, for {z} x {y} x {x} voxels")
    if not np.unpackbits(bits, count=z * y * x).any():
        raise InputError(f"{path}: {name}_bits has no voxel of a lesion; expected at least one")
    return LibraryShape(
        lesion_type=lesion_type, shape_zyx=(z, y, x), spacing_zyx_mm=spacing.astype(np.float32), bits=bits
    )


def _entry(path: Path, entries: Mapping[str, NDArray[Any]], name: str) -> NDArray[Any]:
    if name not in entries:
        raise InputError(f"{path}: no entry {name}; expected lesion shapes: n, and bits, shape, spacing, type of each")
    return entries[name]
