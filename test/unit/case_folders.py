"""Tiny image files and Grand-Challenge-shaped folders for tests of reading and writing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import ArrayLike, NDArray

from test.cases import CASES

SHAPE_ZYX = (6, 10, 12)
POINTS = {"name": "Points of interest", "type": "Multiple points", "version": {"major": 1, "minor": 0}}


def write_image(
    path: Path,
    voxels: NDArray,
    *,
    spacing_xyz_mm: Sequence[float] = (1.0, 1.0, 2.5),
    origin_xyz_mm: Sequence[float] = (0.0, 0.0, 0.0),
    direction: ArrayLike | None = None,
    is_vector: bool = False,
    compressed: bool = True,
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(voxels, isVector=is_vector)
    if image.GetDimension() == 3:
        image.SetSpacing([float(length) for length in spacing_xyz_mm])
        image.SetOrigin([float(length) for length in origin_xyz_mm])
        if direction is not None:
            image.SetDirection(np.asarray(direction, float).ravel().tolist())
    sitk.WriteImage(image, str(path), useCompression=compressed)
    return path


def soft_tissue(shape_zyx: Sequence[int] = SHAPE_ZYX) -> NDArray[np.int16]:
    """A block of soft tissue in air."""
    hu = np.full(shape_zyx, -1000, np.int16)
    hu[:, 2:-2, 2:-2] = 40
    return hu


def lesion_ids(lesions: Mapping[int, Sequence[int]], shape_zyx: Sequence[int] = SHAPE_ZYX) -> NDArray[np.uint16]:
    """A map with a lesion of 2 x 2 x 2 voxels at each given z, y, x corner."""
    ids = np.zeros(shape_zyx, np.uint16)
    for lesion_id, (z, y, x) in lesions.items():
        ids[z : z + 2, y : y + 2, x : x + 2] = lesion_id
    return ids


def write_points(path: Path, points: Mapping[str, Sequence[float]] | Sequence[object] | None) -> Path:
    """Writes a Grand Challenge point list: from names to x, y, z voxel indices, or the list as it shall stand there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(points, Mapping):
        points = [{"name": name, "point": list(point)} for name, point in points.items()]
    path.write_text(json.dumps({**POINTS, "points": points}))
    return path


def write_scan(case: Path, slug: str, hu: NDArray | None = None, **geometry: object) -> Path:
    """Writes a scan where the platform puts it, and returns the file."""
    return write_image(case / "images" / slug / "scan.mha", soft_tissue() if hu is None else hu, **geometry)


def write_case(
    case: Path,
    *,
    secondary: Sequence[str] = (),
    lesions: Mapping[int, Sequence[int]] | None = None,
    baseline_clicks: Mapping[str, Sequence[float]] | None = None,
    followup_clicks: Mapping[str, Sequence[float]] | None = None,
) -> Path:
    """Writes a case with primary scans, and the secondary ones of the given time points ("baseline", "followup")."""
    lesions = {1: (2, 4, 4)} if lesions is None else lesions
    write_scan(case, "primary-baseline-ct")
    write_scan(case, "primary-baseline-ct-tumor-lesion-seg", lesion_ids(lesions).astype(np.uint8))
    write_scan(case, "primary-followup-ct", origin_xyz_mm=(3.0, -4.0, 500.0))
    write_points(case / "primary-baseline-lesion-clicks.json", baseline_clicks or {"1": (4.5, 4.5, 2.5)})
    write_points(case / "primary-followup-lesion-clicks.json", followup_clicks or {"1": (5.0, 4.0, 3.0)})
    for time_point in secondary:
        write_scan(case, f"secondary-{time_point}-ct", origin_xyz_mm=(0.0, 0.0, -900.0))
        write_points(case / f"secondary-{time_point}-lesion-clicks.json", {})
        if time_point == "baseline":
            write_scan(
                case,
                "secondary-baseline-ct-tumor-lesion-seg",
                np.zeros(SHAPE_ZYX, np.uint8),
                origin_xyz_mm=(0.0, 0.0, -900.0),
            )
    return case


def write_single_files(folder: Path) -> Path:
    """Writes lesions 1 and 2 of a sample case as files with the names that the documentation uses."""
    case = CASES / "interface_1" / "input"
    images = {"before": "baseline-ct", "before_lesions": "baseline-ct-tumor-lesion-seg", "after": "followup-ct"}
    for name, slug in images.items():
        image = sitk.ReadImage(next((case / "images" / f"primary-{slug}").iterdir()))
        two = sitk.Threshold(image, 1, 2) if name == "before_lesions" else image
        sitk.WriteImage(two, folder / f"{name}.nii.gz")
    for name, time_point in (("before_clicks", "baseline"), ("after_clicks", "followup")):
        clicks = json.loads((case / f"primary-{time_point}-lesion-clicks.json").read_text())
        write_points(folder / f"{name}.json", [each for each in clicks["points"] if each["name"] in ("1", "2")])
    return folder


def files_under(folder: Path) -> list[str]:
    """All files below a folder, hidden ones too."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
