"""`python -m benchmarks.dicom_readers`: what readers of DICOM make of series with faults, and what reading one costs.

Every series is written with a known intensity at every place in the patient, so that a reader's answer can be told
right from wrong voxel by voxel, whatever its grid. Readers whose package is missing are left out: `pip install
dcm2niix dicom2nifti` adds two.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from pydicom.dataset import Dataset
from pydicom.uid import UID, JPEG2000Lossless, JPEGLSLossless, RLELossless
from rich.console import Console

from longilesion.case import PADDING_HU, Scan
from longilesion.evaluation.tables import Section, to_markdown, to_rich
from longilesion.files import check_text, written_together
from longilesion.geometry import Grid
from longilesion.images import read_scan
from test.dicom_series import write_multiframe, write_series
from training.command import run_command

SHAPE_ZYX = (12, 48, 64)
SPACING_ZYX_MM = (2.5, 0.75, 0.75)
# HU per mm along x, y and z: any place in the scan has another intensity.
SLOPE_XYZ = np.array([3.0, 5.0, 11.0])
_TOLERANCE_HU = 12.0
_TILT = np.tan(np.radians(15))
_BIG = (300, 512, 512)
_REPEATS = 5

Answer = tuple[np.ndarray, Grid]


@dataclass
class Arguments:
    """Where to write the tables."""

    output: Path | None = None
    """Also write the tables to this file (Markdown)."""


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
    return np.asarray((SLOPE_XYZ @ world).reshape(grid.shape_zyx))


def scan_of_object(direction: np.ndarray | None = None) -> Scan:
    """A scan of the test object."""
    grid = Grid.from_spacing(SHAPE_ZYX, SPACING_ZYX_MM, origin_xyz_mm=(-20.0, -30.0, -15.0), direction=direction)
    return Scan(hu=np.rint(intensity(grid)).astype(np.int16), grid=grid)


def _tilted(folder: Path) -> None:
    plain = scan_of_object()
    shift = [k * SPACING_ZYX_MM[0] * _TILT for k in range(SHAPE_ZYX[0])]
    hu = np.stack([plane + SLOPE_XYZ[1] * off for plane, off in zip(plain.hu, shift, strict=True)])
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


# -------------------------------------------------------------------------------------------------------------- readers


def ours(folder: Path) -> Answer:
    scan = read_scan(folder)
    return scan.hu.astype(float), scan.grid


def simple_itk(folder: Path) -> Answer:
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), "", False, True)
    if not names:
        # It looks for a series of files, in the folder itself.
        names = [str(path) for path in sorted(folder.rglob("*")) if path.is_file()]
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(names)
    image = sitk.ReadImage(names[0]) if len(names) == 1 else reader.Execute()
    return _of_image(image)


def highdicom_volume(folder: Path) -> Answer:
    import highdicom as hd
    import pydicom

    files = [pydicom.dcmread(path) for path in sorted(folder.rglob("*")) if path.is_file()]
    is_one = len(files) == 1
    volume = hd.Image.from_dataset(files[0]).get_volume() if is_one else hd.get_volume_from_series(files)
    array = np.asarray(volume.array, float)
    z, y, x = array.shape
    return array, Grid(shape_zyx=(z, y, x), world_from_voxel=np.asarray(volume.affine)[:, [2, 1, 0, 3]])


def dcm2niix(folder: Path) -> Answer:
    import dcm2niix

    with tempfile.TemporaryDirectory() as output:
        command = [dcm2niix.bin, "-z", "n", "-f", "%s_%j", "-o", output, str(folder)]
        subprocess.run(command, check=True, capture_output=True)
        return _only_file(Path(output))


def dicom2nifti(folder: Path) -> Answer:
    import dicom2nifti

    with tempfile.TemporaryDirectory() as output:
        dicom2nifti.convert_directory(str(folder), output, compression=False, reorient=False)
        return _only_file(Path(output))


def _only_file(folder: Path) -> Answer:
    """The one file of a converter; several are a choice that it leaves to people."""
    files = sorted(folder.glob("*.nii*"))
    # dcm2niix writes its answer to a tilt, or to uneven slices, beside the volume as it was.
    corrected = [path for path in files if path.stem.split(".")[0].endswith(("_Tilt_1", "_Eq_1"))]
    if len(corrected or files) != 1:
        raise ValueError(f"{len(files)} files")
    return _of_image(sitk.ReadImage(str((corrected or files)[0])))


def _of_image(image: sitk.Image) -> Answer:
    grid = Grid.from_spacing(
        image.GetSize()[::-1],
        image.GetSpacing()[::-1],
        origin_xyz_mm=image.GetOrigin(),
        direction=image.GetDirection(),
    )
    return sitk.GetArrayFromImage(image).astype(float), grid


READERS: Mapping[str, tuple[Callable[[Path], Answer], str]] = {
    "longilesion": (ours, "pydicom"),
    "SimpleITK": (simple_itk, "SimpleITK"),
    "highdicom": (highdicom_volume, "highdicom"),
    "dcm2niix": (dcm2niix, "dcm2niix"),
    "dicom2nifti": (dicom2nifti, "dicom2nifti"),
}


def verdict(read: Callable[[Path], Answer], folder: Path) -> str:
    """What a reader makes of a folder: right, refused, or what is wrong."""
    try:
        hu, grid = read(folder)
    except Exception:  # noqa: BLE001 - other packages have exceptions of their own
        return "refused"
    is_seen = hu > PADDING_HU / 2
    # A reader may fill with zero or its own value what lies outside the images.
    off = np.abs(hu - intensity(grid)) > _TOLERANCE_HU
    depth = abs(float(np.dot(grid.world_from_voxel[:3, 2], (0, 0, 1)))) * (grid.shape_zyx[0] - 1)
    full = SPACING_ZYX_MM[0] * (SHAPE_ZYX[0] - 1)
    if depth < full - 2 * SPACING_ZYX_MM[0]:
        return f"WRONG: {depth:.1f} of {full:.1f} mm"
    share = float(off[is_seen].mean())
    border = float(off[:, 4:-8, 2:-2][is_seen[:, 4:-8, 2:-2]].mean())
    return "right" if min(share, border) < 0.02 else f"WRONG: {100 * share:.0f} % of the voxels"


def answers() -> Section:
    """A line per fault, a column per reader."""
    found = {name: read for name, (read, package) in READERS.items() if find_spec(package)}
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        for number, fault in enumerate(FAULTS):
            folder = Path(temporary) / str(number)
            folder.mkdir()
            fault.write(folder)
            wanted = "a volume" if fault.wanted else "a refusal"
            rows.append((fault.name, wanted, *(verdict(read, folder) for read in found.values())))
    return Section(title="What readers make of a series", headings=("series", "wanted", *found), rows=tuple(rows))


# ----------------------------------------------------------------------------------------------------------------- cost

_MEASURED = """
import resource, sys, time
from pathlib import Path
from benchmarks.dicom_readers import READERS
read = READERS[sys.argv[1]][0]
folder = Path(sys.argv[2])
read(folder / "small")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
times = []
for _ in range(int(sys.argv[3])):
    start = time.perf_counter()
    {call}
    times.append(time.perf_counter() - start)
print(min(times), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
_CALLS = {
    "longilesion": "from longilesion.images import read_scan; read_scan(folder / 'big')",
    "SimpleITK": (
        "import SimpleITK as sitk; reader = sitk.ImageSeriesReader(); "
        "reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder / 'big'))); reader.Execute()"
    ),
}


def cost() -> Section:
    """Seconds and memory of reading 512 x 512 x 300 voxels, after a first small series; the best of several."""
    rows: list[tuple[str, ...]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_series(folder / "small", scan_of_object())
        hu = np.random.default_rng(0).integers(-1000, 1000, _BIG, dtype=np.int16)
        hu[:, :60], hu[:, -60:] = -1000, -1000
        write_series(folder / "big", Scan(hu=hu, grid=Grid.from_spacing(_BIG, (1.0, 0.8, 0.8))))
        # Once, so that all find the files in memory.
        sum(len(path.read_bytes()) for path in (folder / "big").iterdir())
        seconds: dict[str, float] = {}
        for name, call in _CALLS.items():
            code = _MEASURED.replace("{call}", call)
            command = [sys.executable, "-c", code, name, str(folder), str(_REPEATS)]
            said = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
            seconds[name] = float(said[0])
            rows.append((name, f"{seconds[name]:.2f}", f"{int(said[1]) / 1e6:.2f}"))
    rows.append(("ratio", f"{seconds['longilesion'] / seconds['SimpleITK']:.2f}", ""))
    return Section(
        title=f"Reading {_BIG[2]} x {_BIG[1]} x {_BIG[0]} voxels",
        headings=("reader", "seconds", "peak GB"),
        rows=tuple(rows),
    )


def compare(arguments: Arguments) -> list[Section]:
    """Prints the tables, and writes them if a file is given."""
    start = time.perf_counter()
    tables = [answers(), cost()]
    console = Console(width=200)
    for table in tables:
        console.print(to_rich(table))
    console.print(f"{time.perf_counter() - start:.0f} s")
    if arguments.output is not None:
        with written_together({arguments.output: check_text}) as (temporary,):
            temporary.write_text("\n".join(map(to_markdown, tables)))
    return tables


if __name__ == "__main__":
    sys.exit(run_command(compare, Arguments, __doc__))
