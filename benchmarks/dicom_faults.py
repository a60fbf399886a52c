"""Series of DICOM files with what archives do to them, of a test object that tells every place from every other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import UID, JPEG2000Lossless, JPEGLSLossless, RLELossless

from longilesion.case import Scan
from longilesion.geometry import Grid
from test.dicom_series import write_multiframe, write_series

SHAPE_ZYX = (12, 48, 64)
SPACING_ZYX_MM = (2.5, 0.75, 0.75)
# HU per mm along x, y and z: any place in the scan has another intensity.
_SLOPE_XYZ = np.array([3.0, 5.0, 11.0])
_TILT = np.tan(np.radians(15))


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A folder to read: `wanted` says whether a volume can be had from it without making much up."""

    name: str
    write: Callable[[Path], object]
    wanted: bool = True


def intensity(grid: Grid) -> np.ndarray:
    """The intensities of the test object at a grid's voxels."""
    index = np.indices(grid.shape_zyx).reshape(3, -1)[::-1]
    world = grid.world_from_voxel[:3, :3] @ index + grid.world_from_voxel[:3, 3:]
    return np.asarray((_SLOPE_XYZ @ world).reshape(grid.shape_zyx))


def scan_of_object(direction: np.ndarray | None = None) -> Scan:
    """A scan of the test object."""
    grid = Grid.from_spacing(SHAPE_ZYX, SPACING_ZYX_MM, origin_xyz_mm=(-20.0, -30.0, -15.0), direction=direction)
    return Scan(hu=np.rint(intensity(grid)).astype(np.int16), grid=grid)


def _tilted(folder: Path) -> None:
    plain = scan_of_object()
    shift = [k * SPACING_ZYX_MM[0] * _TILT for k in range(SHAPE_ZYX[0])]
    hu = np.stack([plane + _SLOPE_XYZ[1] * off for plane, off in zip(plain.hu, shift, strict=True)])
    moved = Scan(hu=np.rint(hu).astype(np.int16), grid=plain.grid)

    def changed(index: int, dataset: Dataset) -> None:
        dataset.GantryDetectorTilt = "15"

    write_series(folder, moved, shift_xyz_mm=lambda k: (0, shift[k], 0), changed=changed)


def _slopes(folder: Path) -> None:
    plain = scan_of_object()

    def changed(index: int, dataset: Dataset) -> None:
        dataset.RescaleSlope = "2" if index % 2 else "1"
        stored = (plain.hu[index].astype(float) + 1024) / (2 if index % 2 else 1)
        dataset.PixelData = np.rint(stored).astype(np.uint16).tobytes()

    write_series(folder, plain, changed=changed)


def _acquisitions(folder: Path) -> None:
    plain = scan_of_object()
    visit = write_series(folder / "a", plain)
    other = Scan(hu=plain.hu[::-1].copy(), grid=plain.grid)
    write_series(folder / "b", other, visit={**visit, "AcquisitionNumber": 2})


def _with_localizer(folder: Path) -> None:
    def localizer(index: int, dataset: Dataset) -> None:
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
        dataset.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]

    visit = write_series(folder / "a", scan_of_object())
    write_series(folder / "b", scan_of_object(), visit=visit, left_out=range(1, SHAPE_ZYX[0]), changed=localizer)


def _two_series(folder: Path) -> None:
    write_series(folder / "a", scan_of_object())
    write_series(folder / "b", scan_of_object())


def _copies(folder: Path) -> None:
    write_series(folder, scan_of_object())
    for file in sorted(folder.iterdir())[:2]:
        file.with_name(f"{file.name}_copy").write_bytes(file.read_bytes())


def _cut_off(folder: Path) -> None:
    write_series(folder, scan_of_object())
    file = sorted(folder.iterdir())[3]
    file.write_bytes(file.read_bytes()[:-2000])


def _missing(*left_out: int) -> Callable[[Path], object]:
    return lambda folder: write_series(folder, scan_of_object(), left_out=left_out)


def _compressed(syntax: UID) -> Callable[[Path], object]:
    return lambda folder: write_series(folder, scan_of_object(), syntax=syntax)


def _oblique(folder: Path) -> None:
    cosine, sine = np.cos(0.3), np.sin(0.3)
    write_series(folder, scan_of_object(np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1.0]])))


FAULTS = (
    Fault(name="names without order", write=_missing()),
    Fault(name="oblique", write=_oblique),
    Fault(name="slope of its own in each image", write=_slopes),
    Fault(
        name="enhanced multi-frame, frames in reverse",
        write=lambda folder: write_multiframe(folder / "ct.dcm", scan_of_object()),
    ),
    Fault(name="RLE", write=_compressed(RLELossless)),
    Fault(name="JPEG-LS", write=_compressed(JPEGLSLossless)),
    Fault(name="JPEG 2000", write=_compressed(JPEG2000Lossless)),
    Fault(name="localizer in the series", write=_with_localizer),
    Fault(name="copies of two images", write=_copies),
    Fault(name="one slice missing", write=_missing(5)),
    Fault(name="varying distances", write=_missing(1, 3, 5)),
    Fault(name="gantry tilted by 15 degrees", write=_tilted),
    Fault(name="three slices missing in a row", write=_missing(5, 6, 7), wanted=False),
    Fault(name="two series", write=_two_series, wanted=False),
    Fault(name="two acquisitions at the same places", write=_acquisitions, wanted=False),
    Fault(name="an image cut off", write=_cut_off, wanted=False),
)
