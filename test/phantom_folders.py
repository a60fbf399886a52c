"""Phantoms as folders: the input that Grand Challenge would send, and the truth beside it."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import SimpleITK as sitk

from longilesion.case import Click, LesionMap, Scan, ScanName
from longilesion.geometry import Grid
from test.phantoms import PhantomCase

# File names are arbitrary, but the same at every run.
_NAMESPACE = uuid.UUID("a3f1b8de-6a0e-4a4f-9c6b-0d6c1c7b2f10")
_AIR_HU = -980


def write_grand_challenge_case(
    phantom: PhantomCase, directory: Path, *, manifest_key: Literal["socket", "interface"] | None = "socket"
) -> None:
    """Writes scans, baseline masks, click lists and inputs.json (none where the key is None)."""
    case = phantom.case
    entries = []
    for name, baseline in case.baselines.items():
        entries.append(_write_image(directory, f"{name}-baseline-ct", baseline.scan.hu, baseline.scan.grid))
        if baseline.lesions is not None:
            slug = f"{name}-baseline-ct-tumor-lesion-seg"
            entries.append(_write_image(directory, slug, _compact(baseline.lesions), baseline.lesions.grid))
        clicks = {pair.lesion_id: pair.baseline for pair in case.clicks}
        entries.append(_write_clicks(directory, "baseline", name, clicks, baseline.scan))
    for name, scan in case.followups.items():
        entries.append(_write_image(directory, f"{name}-followup-ct", scan.hu, scan.grid))
        clicks = {pair.lesion_id: pair.followup for pair in case.clicks}
        entries.append(_write_clicks(directory, "followup", name, clicks, scan))
    if manifest_key is not None:
        manifest = [{manifest_key: entry.pop("socket"), **entry} for entry in entries]
        (directory / "inputs.json").write_text(json.dumps(manifest, indent=1) + "\n")


def write_truth(phantom: PhantomCase, directory: Path) -> None:
    """Writes the true lesion maps in the tree of an output; and by lesion its fate, and its id in the truth if any."""
    for name, lesions in phantom.truth.items():
        folder = directory / "images" / f"{name}-followup-ct-tumor-lesion-seg"
        _save(folder / "output.mha", _compact(lesions), lesions.grid)
    lesions = {
        lesion_id: {"fate": fate, "truth_id": phantom.truth_ids.get(lesion_id)}
        for lesion_id, fate in phantom.fates.items()
    }
    (directory / "lesions.json").write_text(json.dumps(lesions, indent=1) + "\n")


def compressible(hu: np.ndarray) -> np.ndarray:
    """Scans for a repository: no noise in the air, values rounded to multiples of 4 HU."""
    return np.where(hu < _AIR_HU, np.int16(-1024), (hu + np.int16(2)) & ~np.int16(3))


def _write_image(directory: Path, slug: str, voxels: np.ndarray, grid: Grid) -> dict[str, Any]:
    name = f"{uuid.uuid5(_NAMESPACE, slug)}.mha"
    _save(directory / "images" / slug / name, voxels, grid)
    kind = "Segmentation" if slug.endswith("-seg") else "Image"
    return _entry(slug, f"images/{slug}", kind=kind, super_kind="Image", image={"name": name})


def _write_clicks(
    directory: Path, time_point: str, name: ScanName, clicks: Mapping[int, Click | None], scan: Scan
) -> dict[str, Any]:
    slug = f"{name}-{time_point}-lesion-clicks"
    points = [
        {"name": str(lesion_id), "point": [round(i, 3) for i in scan.grid.index_zyx(click.point_xyz_mm)[::-1]]}
        for lesion_id, click in clicks.items()
        if click is not None and click.scan_name == name
    ]
    version = {"major": 1, "minor": 0}
    value = {"name": "Points of interest", "type": "Multiple points", "points": points, "version": version}
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"{slug}.json").write_text(json.dumps(value, indent=1) + "\n")
    return _entry(slug, f"{slug}.json", kind="Multiple points", super_kind="Value", value=value)


def _entry(
    slug: str, path: str, *, kind: str, super_kind: str, image: dict[str, Any] | None = None, value: Any = None
) -> dict[str, Any]:
    """An entry of inputs.json with the fields that the platform writes."""
    socket = {
        "title": slug.replace("-", " ").capitalize(),
        "slug": slug,
        "kind": kind,
        "super_kind": super_kind,
        "relative_path": path,
    }
    return {"file": None, "image": image, "value": value, "socket": socket}


def _compact(lesions: LesionMap) -> np.ndarray:
    return lesions.ids.astype(np.uint8) if lesions.ids.max() <= 255 else lesions.ids


def _save(path: Path, voxels: np.ndarray, grid: Grid) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(voxels)
    spacing_xyz = np.array(grid.spacing_zyx_mm)[::-1].round(9)
    image.SetSpacing(spacing_xyz.tolist())
    image.SetOrigin(grid.world_from_voxel[:3, 3].tolist())
    image.SetDirection((grid.world_from_voxel[:3, :3] / spacing_xyz).ravel().tolist())
    sitk.WriteImage(image, str(path), useCompression=True, compressionLevel=9)
