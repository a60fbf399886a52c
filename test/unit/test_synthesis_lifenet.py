"""LiFE-Net's lesions against the numbers of its paper (section 2.2, appendices B and C)."""

from collections import Counter
from functools import cache

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from scipy.ndimage import gaussian_filter

from longilesion.evaluation.measures import largest_axial_diameter_mm
from longilesion.geometry import Grid
from training.synthesis.lesions import Appearance, Lesion
from training.synthesis.lifenet import Plan, deformed_ellipsoid, drawn_parts, lifenet_lesions, planned_exam
from training.synthesis.settings import LifenetSettings, LifenetSize
from training.synthesis.shapes import signed_distance_mm
from training.synthesis.sources import Source, source_of

PAPER = LifenetSettings()
CLASSES = {"tiny": PAPER.tiny, "small": PAPER.small, "medium": PAPER.medium, "large": PAPER.large}
GRID = Grid.from_spacing((32, 70, 70), (4.0, 2.0, 2.0))
VESSELS_YX_MM = ((50.0, 40.0), (90.0, 80.0))
DUCT_YX_MM = (50.0, 95.0)


@cache
def exams() -> list[list[Plan]]:
    generator = np.random.default_rng(0)
    return [planned_exam(generator, PAPER) for _ in range(5000)]


def kind_of(plan: list[Plan]) -> str:
    sizes = {name for name, size in CLASSES.items() for each in plan if each.size is size}
    return "healthy" if not plan else "mix" if len(sizes) > 1 else sizes.pop()


@cache
def block() -> Source:
    """An organ of 100 HU in fat, crossed along z by two bright vessels of 10 mm and a dark duct of 8 mm."""
    generator = np.random.default_rng(1)
    z, y, x = np.meshgrid(
        *(np.arange(n) * step for n, step in zip(GRID.shape_zyx, (4, 2, 2), strict=True)), indexing="ij"
    )
    organ = ((z - 62) / 60) ** 2 + ((y - 70) / 62) ** 2 + ((x - 70) / 62) ** 2 < 1
    hu = np.where(organ, 100.0, -90.0)
    for place, radius, value in [*((place, 5.0, 170.0) for place in VESSELS_YX_MM), (DUCT_YX_MM, 4.0, 15.0)]:
        hu[organ & (np.hypot(y - place[0], x - place[1]) < radius)] = value
    noise = gaussian_filter(generator.normal(size=GRID.shape_zyx), 0.5)
    source = source_of("block", (hu + 12 * noise / noise.std()).round().astype(np.int16), GRID)
    return Source(
        name=source.name,
        hu=source.hu,
        spacing_zyx_mm=source.spacing_zyx_mm,
        sites=source.sites,
        organs={"liver": organ},
    )


@cache
def drawn(seed: int) -> list[Lesion]:
    return lifenet_lesions(block(), np.random.default_rng(seed), PAPER.model_copy(update={"healthy_share": 0.0}))


def anatomy_mm() -> NDArray[np.float64]:
    """The middles of voxels of 2 mm that fill the block."""
    return np.stack(np.meshgrid(*(np.arange(length) * 2.0 for length in (64, 70, 70)), indexing="ij"), axis=-1)


def covered(lesion: Lesion, part: Appearance) -> NDArray[np.bool_]:
    offsets = torch.from_numpy((anatomy_mm() - lesion.centre_zyx_mm - part.shift_zyx_mm).astype(np.float32))
    distance = signed_distance_mm(part.shape, offsets, radius_mm=part.radius_mm, rotation=lesion.rotation)
    return (distance < 0).numpy()


# ------------------------------------------------------------------------------------------------------------- plan


def test_a_third_of_the_exams_is_healthy_and_the_others_are_of_the_papers_classes() -> None:
    kinds = Counter(kind_of(exam) for exam in exams())
    sick = len(exams()) - kinds["healthy"]
    assert kinds["healthy"] / len(exams()) == pytest.approx(0.33, abs=0.02)
    for kind, share in {"tiny": 0.1, "small": 0.25, "medium": 0.3, "large": 0.2, "mix": 0.15}.items():
        assert kinds[kind] / sick == pytest.approx(share, abs=0.025), kind


def test_classes_come_in_the_papers_numbers_and_a_mix_has_all_of_them() -> None:
    numbers = {"tiny": {5, 6, 7, 8}, "small": {4, 5, 6}, "medium": {1, 2, 3}, "large": {1, 2}}
    for exam in exams():
        counts = Counter(name for name, size in CLASSES.items() for plan in exam if plan.size is size)
        assert all(counts[name] in numbers[name] for name in counts)
        assert len(counts) in (0, 1, 4)
    for name, expected in numbers.items():
        assert {len(exam) for exam in exams() if kind_of(exam) == name} == expected


def test_a_fifth_of_the_lesions_is_new_a_fifth_gone_and_the_rest_in_both_scans() -> None:
    lesions = [plan for exam in exams() for plan in exam]
    assert np.mean([not plan.in_baseline for plan in lesions]) == pytest.approx(0.2, abs=0.02)
    assert np.mean([not plan.in_followup for plan in lesions]) == pytest.approx(0.2, abs=0.02)
    assert all(plan.in_baseline or plan.in_followup for plan in lesions)


def test_exams_are_stable_growing_shrinking_or_of_both_kinds() -> None:
    # Only exams of many lesions tell a mix of stability and growth from either.
    many = [exam for exam in exams() if kind_of(exam) in ("tiny", "mix")]
    kinds = Counter(frozenset(plan.change for plan in exam) for exam in many)
    for kind, share in (
        ({"stable"}, 0.3),
        ({"growing"}, 0.3),
        ({"shrinking"}, 0.1),
        ({"stable", "growing"}, 0.3),
    ):
        assert kinds[frozenset(kind)] / len(many) == pytest.approx(share, abs=0.05)


# ------------------------------------------------------------------------------------------------------------ parts


@pytest.mark.parametrize("name", list(CLASSES))
def test_lesions_have_the_size_of_their_class_and_none_a_diameter_below_8_mm(name: str) -> None:
    size, generator = CLASSES[name], np.random.default_rng(2)
    diameters, radii = [], []
    for _ in range(60):
        semi_axes = size.radius_mm * generator.uniform(0.75, 1.25, 3)
        outline = deformed_ellipsoid(semi_axes, size.elastic_sigma, generator, PAPER)
        diameters.append(largest_axial_diameter_mm(outline))
        radii.append((3 * outline.mask.sum() * outline.grid.voxel_volume_ml * 1000 / (4 * np.pi)) ** (1 / 3))
    assert np.median(radii) == pytest.approx(size.radius_mm, rel=0.1)
    # The longer of two semi-axes drawn from 0.75 to 1.25 is 1.08 on average; deformation makes it longer.
    assert 2 * 1.0 * size.radius_mm < np.median(diameters) < 2 * 1.4 * size.radius_mm


def test_undeformed_ellipsoid_has_its_semi_axes() -> None:
    outline = deformed_ellipsoid(np.array([5.0, 8.0, 12.0]), (0.0, 0.0), np.random.default_rng(0), PAPER)
    assert largest_axial_diameter_mm(outline) == pytest.approx(24.0, abs=1.0)
    volume_ml = outline.mask.sum() * outline.grid.voxel_volume_ml
    assert volume_ml == pytest.approx(4 / 3 * np.pi * 5 * 8 * 12 / 1000, rel=0.03)


def test_stronger_deformation_makes_less_regular_shapes() -> None:
    def scatter(sigma: float) -> float:
        generator = np.random.default_rng(3)
        volumes = [deformed_ellipsoid(np.full(3, 9.0), (sigma, sigma), generator, PAPER).mask.sum() for _ in range(20)]
        return float(np.std(volumes) / np.mean(volumes))

    assert 0 == scatter(0.0) < scatter(0.8) < scatter(3.0)


def plan_of(change: str, size: LifenetSize = PAPER.large, **changes: bool) -> Plan:
    return Plan(size=size, **{"in_baseline": True, "in_followup": True, "change": change, **changes})


@pytest.mark.parametrize(("change", "low", "high"), [("growing", 1.3, 1.7), ("shrinking", 0.5, 0.7), ("stable", 1, 1)])
def test_radius_grows_or_shrinks_by_the_papers_factors(change: str, low: float, high: float) -> None:
    generator, round_size = np.random.default_rng(4), PAPER.large.model_copy(update={"elastic_sigma": (0.0, 0.0)})
    for _ in range(15):
        parts = drawn_parts(plan_of(change, round_size), generator, PAPER)
        assert parts is not None
        (first,), (second,) = parts
        assert low - 0.03 < second.radius_mm / first.radius_mm < high + 0.03
        assert 0 < np.linalg.norm(second.shift_zyx_mm) <= 6.0
        assert first.mean_hu == second.mean_hu


def test_lesion_below_8_mm_in_either_scan_is_rejected() -> None:
    # Undeformed, the longest diameter is at most 7.5 mm of one class and at least 9 mm of the other.
    small, enough = (
        PAPER.tiny.model_copy(update={"radius_mm": radius, "elastic_sigma": (0.0, 0.0)}) for radius in (3.0, 6.0)
    )
    generator = np.random.default_rng(5)
    for _ in range(8):
        assert drawn_parts(plan_of("stable", small), generator, PAPER) is None
        assert drawn_parts(plan_of("stable", enough), generator, PAPER) is not None
        assert drawn_parts(plan_of("growing", small, in_followup=False), generator, PAPER) is None
    shrunk = [drawn_parts(plan_of("shrinking", PAPER.tiny), generator, PAPER) is None for _ in range(40)]
    assert 0.2 < np.mean(shrunk) < 0.9
    lenient = PAPER.model_copy(update={"smallest_diameter_mm": 0.0})
    assert drawn_parts(plan_of("stable", small), generator, lenient) is not None


def test_contrast_lies_between_30_and_80_hu_and_is_stronger_in_small_lesions() -> None:
    generator = np.random.default_rng(6)
    contrast = {}
    for name in ("tiny", "large"):
        parts = [drawn_parts(plan_of("stable", CLASSES[name]), generator, PAPER) for _ in range(50)]
        contrast[name] = np.array([-part[0][0].mean_hu for part in parts if part is not None])
        assert 30 <= contrast[name].min() < contrast[name].max() <= 80
    # Triangles with the mode at an end have their means a third from that end.
    assert contrast["tiny"].mean() == pytest.approx(80 - 50 / 3, abs=6)
    assert contrast["large"].mean() == pytest.approx(30 + 50 / 3, abs=6)


def test_brighter_lesions_are_a_setting() -> None:
    parts = drawn_parts(plan_of("stable"), np.random.default_rng(0), PAPER.model_copy(update={"brighter": True}))
    assert parts is not None
    assert parts[0][0].mean_hu >= 30


# ------------------------------------------------------------------------------------------------------------ organ


@pytest.mark.parametrize("seed", range(5))
def test_lesions_overlap_neither_vessels_nor_ducts_nor_each_other_nor_the_organs_border(seed: int) -> None:
    lesions = drawn(seed)
    assert lesions
    z, y, x = np.moveaxis(anatomy_mm(), -1, 0)
    outside = ((z - 62) / 60) ** 2 + ((y - 70) / 62) ** 2 + ((x - 70) / 62) ** 2 > 1.1
    # A voxel of the scan less than their radii, since collisions are checked on its voxels.
    for (place_y, place_x), radius in ((VESSELS_YX_MM[0], 4.0), (VESSELS_YX_MM[1], 4.0), (DUCT_YX_MM, 3.0)):
        outside |= np.hypot(y - place_y, x - place_x) < radius
    taken = np.zeros(outside.shape, int)
    for lesion in lesions:
        both = np.any([covered(lesion, part) for part in (*lesion.baseline, *lesion.followup)], axis=0)
        assert not (both & outside).any()
        taken += both
    assert taken.max() == 1


def test_organs_name_is_the_lesions_type() -> None:
    assert {(lesion.lesion_type, lesion.tissue) for lesion in drawn(0)} == {("Liver", "soft")}
    assert [lesion.lesion_id for lesion in drawn(0)] == [lesion.true_id for lesion in drawn(0)]
    assert [lesion.lesion_id for lesion in drawn(0)] == list(range(1, len(drawn(0)) + 1))


def test_lesions_follow_from_the_seed_alone() -> None:
    again = lifenet_lesions(block(), np.random.default_rng(1), PAPER.model_copy(update={"healthy_share": 0.0}))
    assert len(again) == len(drawn(1))
    for one, other in zip(again, drawn(1), strict=True):
        np.testing.assert_array_equal(one.centre_zyx_mm, other.centre_zyx_mm)
        assert one.edge_mm == other.edge_mm


def test_volume_without_the_organs_mask_gets_lesions_in_connected_tissue_of_no_name() -> None:
    source = block()
    bare = Source(name="bare", hu=source.hu, spacing_zyx_mm=source.spacing_zyx_mm, sites=source.sites)
    settings = PAPER.model_copy(update={"healthy_share": 0.0})
    lesions = [each for seed in range(4) for each in lifenet_lesions(bare, np.random.default_rng(seed), settings)]
    assert lesions
    for lesion in lesions:
        assert lesion.lesion_type == "unclear"
        z, y, x = np.round(lesion.centre_zyx_mm / source.spacing_zyx_mm).astype(int)
        assert source.organs["liver"][z, y, x]


def test_organ_too_small_for_a_lesion_gets_none() -> None:
    source = block()
    speck = np.zeros(source.hu.shape, bool)
    speck[15:17, 34:37, 34:37] = True
    small = Source(name="small", hu=source.hu, spacing_zyx_mm=source.spacing_zyx_mm, sites={}, organs={"liver": speck})
    one = PAPER.large.model_copy(update={"probability": 1.0, "count": (1, 1)})
    none = PAPER.tiny.model_copy(update={"probability": 0.0})
    settings = LifenetSettings(healthy_share=0.0, tiny=none, small=none, medium=none, large=one)
    assert not lifenet_lesions(small, np.random.default_rng(0), settings)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stable_share": 0.9, "growing_share": 0.3}, "stable_share .*: expected a sum of at most 1, not 1.3"),
        ({"contrast_hu": (80.0, 30.0)}, "contrast_hu: expected a range of numbers from 0 on, not 80 to 30"),
        ({"tiny": {**PAPER.tiny.model_dump(), "count": (8, 5)}}, "count: expected a range of numbers from 0 on"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        LifenetSettings.model_validate(changes)
