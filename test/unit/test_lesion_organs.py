"""The organs of lesions by masks, as TotalSegmentator names them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longilesion.case import LesionMap
from longilesion.errors import InputError
from longilesion.geometry import Grid
from longilesion.lesion_organs import lesion_organs, organ_name, with_lesion_organs
from longilesion.response import Lesion
from test.unit.case_folders import write_image

SHAPE = (12, 40, 40)
GRID = Grid.from_spacing(SHAPE, (2.0, 1.0, 1.0))


def ball(centre: tuple[float, float, float], radius_mm: float) -> np.ndarray:
    offsets = np.stack(np.indices(SHAPE)) - np.reshape(centre, (3, 1, 1, 1))
    return np.asarray(np.sqrt((np.square(offsets * np.reshape((2.0, 1.0, 1.0), (3, 1, 1, 1)))).sum(0)) <= radius_mm)


def lesions(**outlines: np.ndarray) -> LesionMap:
    ids = np.zeros(SHAPE, np.uint16)
    for name, mask in outlines.items():
        ids[mask] = int(name.removeprefix("lesion"))
    return LesionMap(ids=ids, grid=GRID)


def write_masks(folder: Path, **masks: np.ndarray) -> Path:
    folder.mkdir(exist_ok=True)
    for name, mask in masks.items():
        write_image(folder / f"{name}.nii.gz", mask.astype(np.uint8), spacing_xyz_mm=(1.0, 1.0, 2.0))
    return folder


LEFT, RIGHT = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
LEFT[:, :, :20], RIGHT[:, :, 20:] = True, True


def test_lesion_in_an_organ_that_leaves_it_out_lies_in_it(tmp_path: Path) -> None:
    inside, hole, nowhere = ball((6, 20, 8), 4), ball((6, 20, 30), 4), ball((6, 5, 20), 4)
    organ = RIGHT & ~hole
    organ[:, :12] = False
    folder = write_masks(tmp_path / "organs", liver=LEFT & (np.indices(SHAPE)[1] >= 12), spleen=organ)
    assert lesion_organs(lesions(lesion3=inside, lesion5=hole, lesion9=nowhere), folder) == {3: "liver", 5: "spleen"}


def test_parts_of_an_organ_add_up(tmp_path: Path) -> None:
    across = ball((6, 20, 19.5), 5)
    third = np.indices(SHAPE)[0] % 3
    folder = write_masks(
        tmp_path / "organs",
        lung_upper_lobe_left=LEFT & (third == 0),
        lung_lower_lobe_left=LEFT & (third == 1),
        lung_middle_lobe_right=RIGHT & (third == 0),
        stomach=(LEFT | RIGHT) & (third == 2),
    )
    assert lesion_organs(lesions(lesion1=across), folder) == {1: "lung"}


@given(name=st.sampled_from(["kidney", "adrenal_gland", "rib", "vertebrae", "colon", "lung"]), side=st.data())
def test_both_sides_of_an_organ_are_one(name: str, side: st.DataObject) -> None:
    one, other = (f"{name}_{side.draw(st.sampled_from(['left', 'right']))}" for _ in range(2))
    assert organ_name(one) == organ_name(other) == organ_name(name)


@pytest.mark.parametrize(
    ("mask", "organ"),
    [
        ("liver", "liver"),
        ("Liver", "liver"),
        ("lung_upper_lobe_left", "lung"),
        ("rib_left_3", "bone"),
        ("vertebrae_L5", "bone"),
        ("urinary_bladder", "urinary bladder"),
        ("hippocampus", "hippocampus"),
        ("gluteus_maximus_right", "muscle"),
    ],
)
def test_names_of_masks(mask: str, organ: str) -> None:
    assert organ_name(mask) == organ


def test_what_somebody_has_said_counts_more(tmp_path: Path) -> None:
    found = lesions(lesion1=ball((3, 10, 8), 4), lesion2=ball((8, 20, 8), 4), lesion4=ball((6, 32, 8), 4))
    folder = write_masks(tmp_path / "organs", liver=LEFT | RIGHT)
    facts = {1: Lesion(lesion_id=1, organ="lung", is_target=True), 2: Lesion(lesion_id=2, is_node=True)}
    assert with_lesion_organs(facts, found, folder) == {**facts, 4: Lesion(lesion_id=4, organ="liver")}


def test_masks_of_another_scan_are_refused(tmp_path: Path) -> None:
    folder = write_masks(tmp_path / "organs", liver=LEFT)
    other = LesionMap(ids=np.ones((3, 4, 5), np.uint16), grid=Grid.from_spacing((3, 4, 5), (1.0, 1.0, 1.0)))
    with pytest.raises(InputError, match=r"liver.nii.gz: mask of 40 x 40 x 12 voxels; expected .* the lesions' scan"):
        lesion_organs(other, folder)
