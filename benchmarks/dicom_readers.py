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
from rich.console import Console

from benchmarks.dicom_faults import FAULTS, SHAPE_ZYX, SPACING_ZYX_MM, intensity, scan_of_object
from longilesion.case import PADDING_HU, Scan
from longilesion.evaluation.tables import Section, to_markdown, to_rich
from longilesion.files import check_text, written_together
from longilesion.geometry import Grid
from longilesion.images import read_scan
from test.dicom_series import write_series
from training.command import run_command

_TOLERANCE_HU = 12.0
_BIG = (300, 512, 512)
_REPEATS = 5

Answer = tuple[np.ndarray, Grid]


@dataclass
class Arguments:
    """Where to write the tables."""

    output: Path | None = None
    """Also write the tables to this file (Markdown)."""


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
