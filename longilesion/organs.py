"""Masks of organs, to which a search for lesions is confined: a file per organ, as TotalSegmentator writes them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import numpy as np

from longilesion.case import Case, Scan
from longilesion.errors import InputError
from longilesion.images import READABLE, read_lesion_map

# Name of the mask of the liver, of which alone types of lesions are told.
LIVER = "liver"


def check_search_options(
    *,
    find_new: bool,
    organs: Path | None,
    organ: Collection[str],
    detector: Path | None,
    types: Path | None = None,
) -> None:
    """Raises InputError for options of a search without a search, and for names of organs without their folder.

    Types of lesions need the folder too, for the liver in it.
    """
    if types is not None and organs is None:
        raise InputError(f"--types without the liver; expected --organs too, the folder of {LIVER}.nii.gz")
    if not find_new:
        given = {"--organs": organs if types is None else None, "--organ": organ, "--detector": detector}
        unused = [name for name, value in given.items() if value]
        if unused:
            raise InputError(f"{unused[0]} without a search; expected --find-new too")
    if organ and organs is None:
        raise InputError("--organ without the folder of its mask; expected --organs too")


def confined(case: Case, folder: Path, names: Collection[str] = ()) -> Case:
    """The case with the organs of its follow-up scan; of several scans, each has a subfolder of its own name."""
    several = len(case.followups) > 1
    return replace(
        case,
        followups={
            scan_name: with_organs(scan, folder / scan_name if several else folder, names)
            for scan_name, scan in case.followups.items()
        },
    )


def organ_masks(folder: Path) -> dict[str, Path]:
    """The masks of a folder by the names of their organs; raises InputError where there are none."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; expected one with a mask per organ, such as liver.nii.gz")
    masks = {
        path.name[: -len(suffix)]: path
        for path in sorted(folder.iterdir())
        for suffix in READABLE
        if path.name.lower().endswith(suffix) and not path.name.startswith(".")
    }
    if not masks:
        raise InputError(f"{folder}: no image in it; expected a mask per organ, such as liver.nii.gz")
    return masks


def with_organs(scan: Scan, folder: Path, names: Collection[str] = ()) -> Scan:
    """The scan with the union of a folder's masks, or of those named, such as "liver" for liver.nii.gz.

    Raises InputError where there is no such mask, where one is no mask on the scan's voxels, and where all are empty.
    """
    masks = organ_masks(folder)
    missing = [name for name in names if name not in masks]
    if missing:
        raise InputError(f"{folder}: no mask of {', '.join(missing)}; found {', '.join(masks)}")
    union = np.zeros(scan.grid.shape_zyx, np.bool_)
    for name in names or masks:
        union |= read_lesion_map(masks[name], like=scan.grid, of="the follow-up scan").ids != 0
    if not union.any():
        raise InputError(f"{folder}: all its masks are empty; expected an organ to search")
    return replace(scan, organ=union)
