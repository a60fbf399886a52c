"""The organs that lesions lie in, by masks of organs on the same voxels; for the choice of targets by RECIST 1.1."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool
from scipy import ndimage

from longilesion.case import LesionMap, LesionRegion, lesion_regions
from longilesion.geometry import Box, box_slices
from longilesion.images import read_lesion_map
from longilesion.organs import organ_masks
from longilesion.response import Lesion

# Masks of organs often leave tumours out, so that what surrounds a lesion tells as much as its own voxels.
_AROUND_MM = 5.0
_LEAST_SHARE = 0.5
# RECIST counts the parts of an organ and paired organs as one (4.2); by the beginnings of TotalSegmentator's names.
_BONES = "clavicula costal_cartilages femur hip humerus rib sacrum scapula skull sternum vertebrae"
_ORGANS = {
    **{organ: organ.replace("_", " ") for organ in ("adrenal_gland", "brain", "heart", "kidney", "liver", "lung")},
    **dict.fromkeys(_BONES.split(), "bone"),
    **dict.fromkeys(("autochthon", "gluteus", "iliopsoas"), "muscle"),
}


def with_lesion_organs(facts: Mapping[int, Lesion], lesions: LesionMap, folder: Path) -> dict[int, Lesion]:
    """What is known of lesions, with the organs by a folder's masks of those whose organ nobody has said.

    Lymph nodes are no part of an organ. Raises InputError as `lesion_organs`.
    """
    known = dict(facts)
    for lesion_id, organ in lesion_organs(lesions, folder).items():
        fact = facts.get(lesion_id, Lesion(lesion_id=lesion_id))
        if fact.organ is None and not fact.is_node:
            known[lesion_id] = replace(fact, organ=organ)
    return known


def lesion_organs(lesions: LesionMap, folder: Path) -> dict[int, str]:
    """The organ of each lesion that lies in one, by a folder's masks, such as liver.nii.gz.

    That is the organ of which most is in the lesion's outline or in the 5 mm around it, at least one half of either.
    Raises InputError where there is no mask, or where one is no mask on the lesions' voxels.
    """
    places = {lesion_id: _place(lesions, lesion_id, each) for lesion_id, each in lesion_regions(lesions.ids).items()}
    # In the outline, and around it.
    shares: dict[int, dict[str, np.ndarray]] = {lesion_id: defaultdict(lambda: np.zeros(2)) for lesion_id in places}
    for name, path in organ_masks(folder).items():
        mask = read_lesion_map(path, like=lesions.grid, of="the lesions' scan").ids
        for lesion_id, place in places.items():
            shares[lesion_id][organ_name(name)] += place.shares(mask[place.box] != 0)
    found = {}
    for lesion_id, of_lesion in shares.items():
        organ = max(of_lesion, key=lambda each: float(of_lesion[each].max()))
        if of_lesion[organ].max() >= _LEAST_SHARE:
            found[lesion_id] = organ
    return found


def organ_name(mask: str) -> str:
    """The organ as RECIST counts it, by the name of a mask: "lung" for lung_upper_lobe_left, "bone" for rib_left_3."""
    name = mask.lower()
    for beginning, organ in _ORGANS.items():
        if name == beginning or name.startswith(f"{beginning}_"):
            return organ
    return name.removesuffix("_left").removesuffix("_right").replace("_", " ")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Place:
    """A lesion's voxels, and those around it, in a box of its scan."""

    box: Box
    inside: Bool[np.ndarray, "z y x"]
    around: Bool[np.ndarray, "z y x"]

    def shares(self, mask: Bool[np.ndarray, "z y x"]) -> np.ndarray:
        """The shares of the inside and of what is around that a mask holds."""
        return np.array([mask[part].mean() if part.any() else 0.0 for part in (self.inside, self.around)])


def _place(lesions: LesionMap, lesion_id: int, region: LesionRegion) -> _Place:
    spacing_mm = lesions.grid.spacing_zyx_mm
    margin = np.ceil(_AROUND_MM / np.array(spacing_mm))
    start = np.maximum(np.subtract(region.start_zyx, margin), 0)
    stop = np.minimum(np.add(region.stop_zyx, margin), lesions.ids.shape)
    box = box_slices(start, stop)
    inside = lesions.ids[box] == lesion_id
    around = ~inside & (ndimage.distance_transform_edt(~inside, sampling=spacing_mm) <= _AROUND_MM)
    return _Place(box=box, inside=inside, around=around)
