"""Compares the container's output tree with the expected one and prints a row per lesion."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import SimpleITK as sitk

MINIMUM_DICE = 0.98


def find_maps(tree: Path) -> dict[str, Path]:
    """The label map of each folder below `images/`; a folder holds exactly one, as the platform demands."""
    maps = {}
    for folder in sorted((tree / "images").iterdir()):
        files = list(folder.iterdir())
        if len(files) != 1 or files[0].suffix != ".mha":
            raise SystemExit(f"{folder}: expected exactly one .mha file, found {[file.name for file in files]}")
        maps[folder.name] = files[0]
    return maps


def compare_layout(found: sitk.Image, expected: sitk.Image) -> Iterator[str]:
    """The ways in which two label maps do not lie on the same voxels, or are not label maps."""
    for name in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        found_value, expected_value = getattr(found, name)(), getattr(expected, name)()
        if found_value != expected_value:  # bit by bit: the platform refuses anything else
            yield f"{name[3:].lower()} {found_value}, expected {expected_value}"
    if found.GetPixelID() not in (sitk.sitkUInt8, sitk.sitkUInt16):
        yield f"voxels are {found.GetPixelIDTypeAsString()}, expected 8-bit or 16-bit unsigned integers"


def compare_lesions(found: np.ndarray, expected: np.ndarray) -> Iterator[tuple[int, int, int, float]]:
    """Yields id, voxels found, voxels expected and Dice for each id of either map."""
    for lesion_id in np.union1d(found[found > 0], expected[expected > 0]):
        found_mask, expected_mask = found == lesion_id, expected == lesion_id
        found_voxels, expected_voxels = int(found_mask.sum()), int(expected_mask.sum())
        dice = 2 * int((found_mask & expected_mask).sum()) / (found_voxels + expected_voxels)
        yield int(lesion_id), found_voxels, expected_voxels, dice


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("expected", type=Path)
    parser.add_argument("--layout-only", action="store_true", help="any lesions will do, as long as there are some")
    arguments = parser.parse_args()

    found_maps, expected_maps = find_maps(arguments.output), find_maps(arguments.expected)
    if found_maps.keys() != expected_maps.keys():
        print(f"      folders {sorted(found_maps)}, expected {sorted(expected_maps)}")
        return 1

    complaints = []
    print(f"      {'map':42} {'id':>5} {'voxels':>8} {'expected':>8} {'Dice':>6}")
    for folder, path in found_maps.items():
        found, expected = sitk.ReadImage(path), sitk.ReadImage(expected_maps[folder])
        layout_complaints = [f"{folder}: {complaint}" for complaint in compare_layout(found, expected)]
        complaints += layout_complaints
        if layout_complaints:
            continue
        rows = list(compare_lesions(sitk.GetArrayFromImage(found), sitk.GetArrayFromImage(expected)))
        for lesion_id, found_voxels, expected_voxels, dice in rows:
            print(f"      {folder:42} {lesion_id:5d} {found_voxels:8d} {expected_voxels:8d} {dice:6.3f}")
            if dice < MINIMUM_DICE and not arguments.layout_only:
                complaints.append(f"{folder}: lesion {lesion_id} has a Dice of {dice:.3f}, expected {MINIMUM_DICE}")
        if arguments.layout_only and not any(row[1] for row in rows):
            complaints.append(f"{folder}: no lesion at all")
    for complaint in complaints:
        print(f"      {complaint}")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
