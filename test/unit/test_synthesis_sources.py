from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from longilesion.errors import InputError
from test.unit.builders import ball, flipped
from test.unit.case_folders import write_image
from test.unit.synthetic import GRID, TUMOUR_RADIUS_MM, block, block_with_tumour
from training.synthesis.scene import random_scene
from training.synthesis.settings import SynthesisSettings, TissueShares
from training.synthesis.sites import is_deep, lesion_sites, lesion_type_of, organ_at
from training.synthesis.sources import Source, load_sources, phantom_sources, real_lesions

GEOMETRY = {"spacing_xyz_mm": GRID.spacing_zyx_mm[::-1]}


@pytest.fixture(scope="module")
def phantom() -> Source:
    (drawn,) = phantom_sources([3])
    return drawn


# ------------------------------------------------------------------------------------------------------------ sites


@pytest.mark.parametrize(
    ("tissue", "low_hu", "high_hu"),
    [("soft", -40, 250), ("lung", -1000, -600), ("fat", -130, -60), ("bone", 150, 1500)],
)
def test_sites_lie_in_the_tissue_they_are_named_after(tissue: str, low_hu: int, high_hu: int) -> None:
    source = block()
    assert set(source.sites) == {"soft", "lung", "fat", "bone"}
    voxels = np.round(source.sites[tissue] / source.spacing_zyx_mm).astype(int)
    levels_hu = source.hu[tuple(voxels.T)]
    assert np.mean((levels_hu > low_hu) & (levels_hu < high_hu)) > 0.95


def test_gas_in_the_bowel_is_no_lung_and_bright_kidneys_are_no_bone() -> None:
    hu = np.full(GRID.shape_zyx, 40, np.int16)
    hu[:, :2] = hu[:, -2:] = hu[:, :, :2] = hu[:, :, -2:] = -1000
    hu[10:40, 20:45, 20:45] = -990
    hu[10:40, 50:75, 20:45] = 210
    found = lesion_sites(hu, np.array(GRID.spacing_zyx_mm, np.float32))
    assert "soft" in found
    assert not {"lung", "bone"} & set(found)


def test_large_vessels_with_contrast_are_no_bone() -> None:
    generator = np.random.default_rng(0)
    hu = np.full(GRID.shape_zyx, 40, np.int16)
    hu[:, :2] = hu[:, -2:] = hu[:, :, :2] = hu[:, :, -2:] = -1000
    y, x = np.ogrid[: GRID.shape_zyx[1], : GRID.shape_zyx[2]]
    vertebra, aorta, vein = (np.hypot(y - row, x - column) for row, column in ((65, 45), (30, 40), (30, 53)))
    hu[:, vertebra < 14] = 600
    hu[:, vertebra < 12] = 220
    hu[:, aorta < 9] = 300
    hu[:, vein < 4] = 900
    hu += generator.normal(0, 15, hu.shape).astype(np.int16)
    trabeculae = gaussian_filter(generator.normal(size=hu.shape), 1.0) / 0.1 * 40
    hu[:, vertebra < 12] += trabeculae[:, vertebra < 12].astype(np.int16)
    voxels = lesion_sites(hu, np.array(GRID.spacing_zyx_mm, np.float32))["bone"] / GRID.spacing_zyx_mm
    in_vertebra, in_aorta = (
        np.hypot(voxels[:, 1] - row, voxels[:, 2] - column) < radius
        for row, column, radius in ((65, 45, 14), (30, 40, 9))
    )
    assert in_vertebra.sum() > 500
    assert in_aorta.sum() < 0.02 * len(voxels)


def test_fat_below_the_skin_is_not_deep() -> None:
    hu = np.full((3, 150, 150), -1000, np.int16)
    y, x = np.ogrid[:150, :150]
    radius = np.hypot(y - 75, x - 75)
    for outer, level_hu in ((70, 40), (68, -100), (45, 50), (35, -100), (12, 50)):
        hu[:, radius < outer] = level_hu
    spacing = np.array([5.0, 2.0, 2.0], np.float32)

    def at(millimetres: float, angle: float) -> NDArray[np.float64]:
        return np.array([5.0, 150 + millimetres * np.sin(angle), 150 + millimetres * np.cos(angle)])

    for angle in np.linspace(0, 2 * np.pi, 7):
        assert is_deep(hu, spacing, at(45.0, angle))
        assert not is_deep(hu, spacing, at(110.0, angle))
        assert not is_deep(hu, spacing, at(160.0, angle))


def test_organ_gives_a_lesion_its_type() -> None:
    names = {
        "liver": "Liver",
        "right kidney": "Kidney",
        "kidney_left": "Kidney",
        "lung_upper_lobe_left": "Lung",
        "stomach": "Others",
        None: "unclear",
    }
    assert {organ: lesion_type_of("soft", organ) for organ in names} == names
    assert lesion_type_of("bone", None) == "Skeleton"
    mask = np.zeros((4, 4, 4), bool)
    mask[1, 2, 3] = True
    spacing = np.array([3.0, 2.0, 1.0], np.float32)
    assert organ_at({"liver": mask}, spacing, np.array([3.4, 4.4, 3.0], np.float32)) == "liver"
    assert organ_at({"liver": mask}, spacing, np.array([3.4, 4.4, 1.0], np.float32)) is None
    assert organ_at({"liver": mask}, spacing, np.array([-9.0, 99.0, 3.0], np.float32)) is None


def test_lesions_lie_in_the_organs_that_a_recipe_asks_for(phantom: Source) -> None:
    settings = SynthesisSettings(organs=("spleen",), organ_share=1, tissues=TissueShares(soft=1, lung=0, fat=0))
    types = {
        lesion.lesion_type
        for seed in range(5)
        for lesion in random_scene(
            phantom, np.random.default_rng(seed), shapes=(), settings=settings, whole=True
        ).lesions
    }
    # Sites are moved by up to 2 mm, out of the organ at its border.
    assert "Spleen" in types
    assert types <= {"Spleen", "unclear", "Others", "Lung"}


# ---------------------------------------------------------------------------------------------------------- sources


def test_folder_of_volumes_is_read_in_lps_order_with_its_lesions_and_organs(tmp_path: Path) -> None:
    source = block_with_tumour()
    organ = ball(GRID, (60.0, 90.0, 90.0), 20.0)
    hu, grid = flipped(source.hu, GRID)
    whole = np.zeros(source.hu.shape, np.uint16)
    whole[source.lesions[0].box] = source.lesions[0].mask
    mask, _ = flipped(whole, GRID)
    spleen, _ = flipped(organ.astype(np.uint16), GRID)
    geometry = {
        "spacing_xyz_mm": grid.spacing_zyx_mm[::-1],
        "origin_xyz_mm": grid.world_from_voxel[:3, 3],
        "direction": -np.eye(3),
    }
    for name, voxels in (("ct", hu), ("lesions", mask), ("organs/spleen", spleen), ("liver", spleen)):
        path = tmp_path / "one" / f"{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, voxels, **geometry)
    write_image(tmp_path / "two" / "ct.nii.gz", hu, **geometry)
    one, two = load_sources(tmp_path, ["one", "two"])
    assert (one.name, two.name) == ("one", "two")
    np.testing.assert_array_equal(one.hu, source.hu)
    np.testing.assert_allclose(one.spacing_zyx_mm, source.spacing_zyx_mm)
    assert set(one.organs) == {"liver", "spleen"}
    np.testing.assert_array_equal(one.organs["spleen"], organ)
    assert (two.lesions, dict(two.organs)) == ((), {})
    (lesion,) = one.lesions
    assert lesion.box == source.lesions[0].box
    np.testing.assert_array_equal(lesion.mask, source.lesions[0].mask)
    np.testing.assert_allclose(lesion.centre_zyx_mm, (90.0, 80.0, 130.0), atol=0.5)
    assert lesion.radius_mm == pytest.approx(TUMOUR_RADIUS_MM, rel=0.03)
    assert lesion.extent_mm == pytest.approx(2 * TUMOUR_RADIUS_MM, abs=3.1)


def test_every_label_is_a_lesion_and_so_is_every_part_of_a_single_label() -> None:
    spacing = np.array([3.0, 2.0, 2.0], np.float32)
    ids = np.zeros((20, 30, 30), np.uint16)
    ids[2:5, 2:6, 2:6], ids[10:18, 10:20, 10:20], ids[19, 29, 29] = 7, 7, 7
    apart = real_lesions(ids, spacing)
    assert [int(lesion.mask.sum()) for lesion in apart] == [800, 48]
    np.testing.assert_allclose(apart[1].centre_zyx_mm, (9.0, 7.0, 7.0))
    ids[2:5, 2:6, 2:6] = 8
    labelled = real_lesions(ids, spacing)
    # Of two labels, the stray voxel belongs to the first.
    assert [int(lesion.mask.sum()) for lesion in labelled] == [801, 48]
    assert real_lesions(np.zeros_like(ids), spacing) == ()


def test_missing_volume_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no missing_one/ct\.nii\.gz; expected one such file for each of missing_one"):
        load_sources(tmp_path, ["missing_one"])


def test_organ_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    write_image(tmp_path / "one" / "ct.nii.gz", block().hu, **GEOMETRY)
    write_image(tmp_path / "one" / "liver.nii.gz", np.zeros((4, 4, 4), np.uint8), **GEOMETRY)
    with pytest.raises(InputError, match=r"liver\.nii\.gz: mask of 4 x 4 x 4 voxels; expected"):
        load_sources(tmp_path, ["one"])


def test_phantom_stands_in_for_a_real_volume(phantom: Source) -> None:
    assert phantom.name == "phantom_3"
    assert set(phantom.sites) == {"soft", "lung", "fat", "bone"}
    assert phantom.lesions == ()
    assert sum(mask.astype(int) for mask in phantom.organs.values()).max() == 1
    for organ, (low, high) in {"liver": (60, 150), "right lung": (-880, -700), "spleen": (70, 170)}.items():
        assert low < np.median(phantom.hu[phantom.organs[organ]]) < high
    low, high = phantom.lungs_mm
    assert 100 < high - low < 260


def test_real_tumour_has_the_type_of_the_tissue_around_it() -> None:
    types = {}
    for name, place_xyz_mm in (("in lung", (55.0, 70.0, 90.0)), ("in soft tissue", (130.0, 80.0, 90.0))):
        mask = ball(GRID, place_xyz_mm, 8.0)
        source = replace(block(), lesions=real_lesions(mask.astype(np.uint16), block().spacing_zyx_mm))
        scene = random_scene(
            source, np.random.default_rng(0), shapes=(), settings=SynthesisSettings(real_share=1.0), whole=False
        )
        types[name] = [shown.lesion_type for shown in scene.shown]
    assert types == {"in lung": ["Lung"], "in soft tissue": ["unclear"]}
