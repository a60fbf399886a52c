"""Case folders: the input in Grand Challenge's layout, the ground truth, and organs' masks where a case has them."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import SimpleITK as sitk

from longilesion.case import Case, Click, LesionMap, Scan, ScanName
from longilesion.click_files import point_list
from longilesion.errors import InputError
from longilesion.evaluation.exam import LesionFact
from longilesion.geometry import Grid
from longilesion.images import open_image
from training.preparation.patient import CaseContent
from training.preparation.prepared import ORGANS_FOLDER

# File names are arbitrary, but the same in every run.
_NAMESPACE = uuid.UUID("a3f1b8de-6a0e-4a4f-9c6b-0d6c1c7b2f10")
# The highest level reduces CT by a few percent only, and takes many times longer.
_FAST = 1

ManifestKey = Literal["socket", "interface"]


def write_case(content: CaseContent, folder: Path) -> None:
    """Writes a case folder, completely or not at all; an existing one is complete and stays unchanged.

    Raises InputError where it cannot be written.
    """
    if folder.is_dir():
        return
    partial = folder.with_name(f".partial-{folder.name}")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        write_input(content.case, partial / "input", headers=content.headers)
        headers = {name: content.headers.get(f"{name}-followup-ct") for name in content.truth}
        lesions = {lesion_id: _described(fact) for lesion_id, fact in content.facts.items()}
        write_truth(content.truth, lesions, partial / "truth", headers=headers)
        if content.organ is not None:
            write_organs(content.case, content.organ, partial / ORGANS_FOLDER)
        partial.rename(folder)
    except OSError as error:
        raise InputError(f"{error.filename or folder}: cannot be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_input(
    case: Case,
    folder: Path,
    *,
    headers: Mapping[str, Path] | None = None,
    manifest_key: ManifestKey | None = "socket",
    compression_level: int = _FAST,
) -> None:
    """Writes scans, baseline masks, click lists and inputs.json (none where the key is None).

    `headers` names, by slug, the file whose header is copied to an image.
    """
    headers, entries = headers or {}, []

    def write_image(slug: str, voxels: np.ndarray, grid: Grid) -> None:
        name = f"{uuid.uuid5(_NAMESPACE, slug)}.mha"
        path = folder / "images" / slug / name
        save_image(path, voxels, grid, header=headers.get(slug), compression_level=compression_level)
        kind = "Segmentation" if slug.endswith("-seg") else "Image"
        entries.append(_entry(slug, f"images/{slug}", kind=kind, super_kind="Image", image={"name": name}))

    for name, baseline in case.baselines.items():
        write_image(f"{name}-baseline-ct", baseline.scan.hu, baseline.scan.grid)
        if baseline.lesions is not None:
            write_image(f"{name}-baseline-ct-tumor-lesion-seg", baseline.lesions.compact_ids, baseline.lesions.grid)
        clicks = {pair.lesion_id: pair.baseline for pair in case.clicks}
        entries.append(_write_clicks(folder, f"{name}-baseline-lesion-clicks", clicks, name=name, scan=baseline.scan))
    for name, scan in case.followups.items():
        write_image(f"{name}-followup-ct", scan.hu, scan.grid)
        clicks = {pair.lesion_id: pair.followup for pair in case.clicks}
        entries.append(_write_clicks(folder, f"{name}-followup-lesion-clicks", clicks, name=name, scan=scan))
    if manifest_key is not None:
        manifest = [{manifest_key: entry.pop("socket"), **entry} for entry in entries]
        (folder / "inputs.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def write_truth(
    truth: Mapping[ScanName, LesionMap],
    lesions: Mapping[int, Mapping[str, Any]],
    folder: Path,
    *,
    headers: Mapping[ScanName, Path | None] | None = None,
    compression_level: int = _FAST,
) -> None:
    """Writes the true lesion maps in the layout of an output, and each lesion's fate and its id in the truth if any."""
    for name, lesion_map in truth.items():
        path = folder / "images" / f"{name}-followup-ct-tumor-lesion-seg" / "output.mha"
        header = (headers or {}).get(name)
        save_image(path, lesion_map.compact_ids, lesion_map.grid, header=header, compression_level=compression_level)
    (folder / "lesions.json").write_text(json.dumps(lesions, indent=1) + "\n", encoding="utf-8")


def write_organs(case: Case, organ: str, folder: Path) -> None:
    """Writes the organ masks of all scans that have one, a folder for each scan, as TotalSegmentator does."""
    scans = {f"{name}-baseline-ct": baseline.scan for name, baseline in case.baselines.items()}
    scans |= {f"{name}-followup-ct": scan for name, scan in case.followups.items()}
    for slug, scan in scans.items():
        if scan.organ is not None:
            path = folder / slug / f"{organ}.nii.gz"
            save_image(path, scan.organ.astype(np.uint8), scan.grid)


def _described(fact: LesionFact) -> dict[str, Any]:
    """A lesion in lesions.json."""
    known = {"type": fact.lesion_type, "is_target": fact.is_target}
    return {
        "fate": fact.fate,
        "truth_id": fact.true_id,
        **{name: value for name, value in known.items() if value is not None},
    }


def _write_clicks(
    folder: Path, slug: str, clicks: Mapping[int, Click | None], *, name: ScanName, scan: Scan
) -> dict[str, Any]:
    own = {lesion_id: click for lesion_id, click in clicks.items() if click is not None and click.scan_name == name}
    value = point_list(own, scan.grid)
    (folder / f"{slug}.json").write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
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


def save_image(
    path: Path, voxels: np.ndarray, grid: Grid, *, header: Path | None = None, compression_level: int = _FAST
) -> None:
    """Writes an image with a grid's geometry, or that of a file's header where it has the same.

    Missing folders are created. Raises InputError where it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(voxels)
    spacing_xyz, origin, direction = _geometry(grid, header)
    image.SetSpacing(spacing_xyz)
    image.SetOrigin(origin)
    image.SetDirection(direction)
    try:
        sitk.WriteImage(image, str(path), useCompression=True, compressionLevel=compression_level)
    except RuntimeError as error:
        raise InputError(f"{path}: cannot be written, is the disk full?") from error


def _geometry(grid: Grid, header: Path | None) -> tuple[list[float], list[float], list[float]]:
    """Spacing, origin and direction: the header's own numbers, or the grid's to nine digits of the spacing.

    A grid holds only the product of spacing and direction.
    """
    if header is not None:
        image = open_image(header)
        if image.grid.matches(grid, tolerance_mm=1e-6):
            return list(image.spacing_xyz_mm), list(image.origin_xyz_mm), list(image.direction)
    spacing_xyz = np.array(grid.spacing_zyx_mm)[::-1].round(9)
    directions = (grid.world_from_voxel[:3, :3] / spacing_xyz).ravel()
    return spacing_xyz.tolist(), grid.world_from_voxel[:3, 3].tolist(), directions.tolist()
