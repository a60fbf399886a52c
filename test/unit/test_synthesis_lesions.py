from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from longilesion.evaluation.exam import FATES
from longilesion.geometry import Grid
from test.unit.builders import ball
from test.unit.synthetic import block_with_tumour
from training.synthesis.changes import Site, merging, random_lesion, splitting
from training.synthesis.deformation import lattice
from training.synthesis.host import Host
from training.synthesis.insertion import paint, paint_scar
from training.synthesis.lesions import UNMARKED, Appearance, Lesion, Tissue
from training.synthesis.noise import Noise
from training.synthesis.real_shapes import RealShapes
from training.synthesis.settings import ChangeShares, SynthesisSettings
from training.synthesis.shapes import REACH, Shape, blended, random_shape, shape_of_mask, signed_distance_mm


def points(step_mm: float = 2.0, half_mm: float = 24.0) -> torch.Tensor:
    axis = torch.arange(-half_mm, half_mm + 1, step_mm)
    return lattice((axis, axis, axis))


def round_shape() -> Shape:
    grid = Grid.from_spacing((40, 40, 40), (1.0, 1.0, 1.0))
    return shape_of_mask(ball(grid, (20.0, 20.0, 20.0), 12.0), np.ones(3, np.float32))


def part(**changes: object) -> Appearance:
    plain = Appearance(shape=round_shape(), radius_mm=10.0, mean_hu=60.0, core_hu=0.0, shift_zyx_mm=np.zeros(3))
    return replace(plain, **changes)


def lesion(**changes: object) -> Lesion:
    plain = Lesion(
        lesion_id=5,
        true_id=5,
        lesion_type="unclear",
        tissue="soft",
        centre_zyx_mm=np.zeros(3),
        rotation=np.eye(3),
        edge_mm=0.5,
        texture_hu=0.0,
        kept_structure=0.0,
        baseline=(part(),),
        followup=(part(),),
    )
    return replace(plain, **changes)


NO_NOISE = Noise(deviation_hu=0.0, grain_zyx=(0.3, 0.3, 0.3))


def everywhere() -> Host:
    return Host(depths_mm=torch.full((3, 3, 3), 8.0), middle_zyx_mm=np.zeros(3), spacing_zyx_mm=np.full(3, 100.0))


def left_half() -> Host:
    """Tissue up to x = 4 mm."""
    depths = (4.0 - torch.arange(-40.0, 41.0)).clamp(-8, 8).expand(3, 3, 81)
    return Host(depths_mm=depths, middle_zyx_mm=np.zeros(3), spacing_zyx_mm=np.array([100.0, 100.0, 1.0]))


def painted(
    drawn: Lesion,
    hu: float = 40.0,
    *,
    image: torch.Tensor | None = None,
    host: Host | None = None,
    noise: Noise = NO_NOISE,
) -> tuple[NDArray[np.float32], NDArray[np.uint16]]:
    where = points()
    image = torch.full(where.shape[:3], hu) if image is None else image.clone()
    ids = np.zeros(where.shape[:3], np.uint16)
    paint(
        image,
        ids,
        points_zyx_mm=where,
        host=everywhere() if host is None else host,
        noise=noise,
        lesion=drawn,
        parts=drawn.followup,
        label=drawn.lesion_id,
        generator=np.random.default_rng(0),
    )
    return image.numpy(), ids


def drawn_lesions(
    count: int, tissue: Tissue, settings: SynthesisSettings, *, seed: int = 0, **options: object
) -> list[Lesion]:
    generator = np.random.default_rng(seed)
    site = Site(tissue=tissue, lesion_type="unclear", centre_zyx_mm=np.zeros(3))
    chosen = {"lesion_id": 2, "fate": "persists", "real_shapes": RealShapes(), **options}
    return [random_lesion(generator, site, settings=settings, **chosen) for _ in range(count)]


# --------------------------------------------------------------------------------------------------------- painting


def test_painted_lesion_has_its_size_hu_and_outline() -> None:
    image, ids = painted(lesion())
    assert (ids == 5).sum() * 8 == pytest.approx(4 / 3 * np.pi * 10**3, rel=0.2)
    assert image[12, 12, 12] == pytest.approx(100, abs=1)
    assert image[12, 12, 0] == pytest.approx(40, abs=1)
    np.testing.assert_array_equal(ids > 0, image > 70)


@pytest.mark.parametrize(("tissue", "around_hu"), [("lung", -850.0), ("fat", -100.0), ("bone", 300.0)])
def test_lesion_has_hu_of_its_own_outside_soft_tissue(tissue: Tissue, around_hu: float) -> None:
    image, ids = painted(lesion(tissue=tissue), hu=around_hu)
    assert image[12, 12, 12] == pytest.approx(60, abs=1)
    assert ids[12, 12, 12] == 5


def test_shifted_part_is_painted_beside_the_centre() -> None:
    _, ids = painted(lesion(followup=(part(radius_mm=6.0, shift_zyx_mm=np.array([0.0, 0.0, 12.0])),)))
    assert ids[12, 12, 18] == 5
    assert ids[12, 12, 12] == 0


def test_parts_that_overlap_are_one_outline_without_a_seam() -> None:
    sides = [part(radius_mm=8.0, shift_zyx_mm=np.array([0.0, 0.0, shift])) for shift in (-7.0, 7.0)]
    image, ids = painted(lesion(followup=tuple(sides)))
    assert (ids[12, 12, 6:19] == 5).all()
    np.testing.assert_allclose(image[12, 12, 8:17], 100, atol=2)


def test_distractor_is_painted_but_not_outlined() -> None:
    image, ids = painted(lesion(lesion_id=UNMARKED))
    assert image[12, 12, 12] == pytest.approx(100, abs=1)
    assert not ids.any()


def test_false_outline_marks_tissue_that_stays_as_it_is() -> None:
    image, ids = painted(lesion(is_painted=False))
    assert (image == 40).all()
    assert ids[12, 12, 12] == 5


@pytest.mark.parametrize(("tissue", "around_hu"), [("soft", 900.0), ("bone", 40.0), ("fat", -900.0)])
def test_lesion_grows_into_no_tissue_that_is_not_its_own(tissue: Tissue, around_hu: float) -> None:
    image, ids = painted(lesion(tissue=tissue), hu=around_hu)
    assert (image == around_hu).all()
    assert not ids.any()


def test_lesion_elsewhere_leaves_the_image_alone() -> None:
    image, ids = painted(lesion(centre_zyx_mm=np.array([200.0, 0.0, 0.0])))
    assert (image == 40).all()
    assert not ids.any()


def test_scar_is_fainter_and_smaller_than_the_lesion_was() -> None:
    image = torch.full(points().shape[:3], 40.0)
    paint_scar(image, points_zyx_mm=points(), host=everywhere(), lesion=lesion(followup=(), scar_hu=8.0))
    assert float(image[12, 12, 12]) == pytest.approx(48, abs=0.5)
    # 3 mm inside the old border, it has faded.
    assert float(image[12, 12, 16]) < 44
    assert float(image[12, 12, 0]) == pytest.approx(40, abs=0.1)


# ---------------------------------------------------------------------------------------------------------- changes


def test_lesions_of_8_to_60_mm_stay_grow_and_shrink() -> None:
    drawn = drawn_lesions(60, "soft", SynthesisSettings())
    radii = np.array([[one.baseline[0].radius_mm, one.followup[0].radius_mm] for one in drawn])
    assert 3 <= radii[:, 0].min() < 5
    assert 20 < radii[:, 0].max() <= 30
    change = radii[:, 1] / radii[:, 0]
    assert (change < 0.9).sum() > 5
    assert (change > 1.1).sum() > 5
    assert (np.abs(change - 1) < 0.07).sum() > 5


def test_recipe_says_how_lesions_change() -> None:
    drawn = drawn_lesions(20, "lung", SynthesisSettings(changes=ChangeShares(stays=0, grows=1, shrinks=0)))
    assert all(one.followup[0].radius_mm > one.baseline[0].radius_mm for one in drawn)


@pytest.mark.parametrize(
    ("fate", "there"), [("persists", (True, True)), ("new", (False, True)), ("gone", (True, False))]
)
@pytest.mark.parametrize("tissue", get_args(Tissue))
def test_fate_says_where_a_lesion_is(tissue: Tissue, fate: str, there: tuple[bool, bool]) -> None:
    assert fate in FATES
    (drawn,) = drawn_lesions(1, tissue, SynthesisSettings(), fate=fate)
    assert (bool(drawn.baseline), bool(drawn.followup)) == there


def test_bone_lesions_are_lytic_or_sclerotic() -> None:
    levels_hu = np.array([one.baseline[0].mean_hu for one in drawn_lesions(60, "bone", SynthesisSettings())])
    lytic, sclerotic = levels_hu < 81, levels_hu > 399
    assert (lytic | sclerotic).all()
    assert 15 < lytic.sum() < 45
    assert levels_hu.min() >= 40
    assert levels_hu.max() <= 900


def test_lymph_nodes_are_smooth_and_small_and_of_soft_tissue() -> None:
    outlined = block_with_tumour().lesions
    drawn = drawn_lesions(40, "fat", SynthesisSettings(node_share=1.0), real_shapes=RealShapes(outlined=outlined))
    assert {one.lesion_type for one in drawn} == {"Lymph node"}
    parts = [one.baseline[0] for one in drawn]
    assert max(each.radius_mm for each in parts) <= 16
    assert 20 <= min(each.mean_hu for each in parts) < max(each.mean_hu for each in parts) <= 120


def test_lesions_below_the_skin_are_no_lymph_nodes() -> None:
    site = Site(tissue="fat", lesion_type="Soft tissue / Skin", centre_zyx_mm=np.zeros(3), is_deep=False)
    drawn = random_lesion(
        np.random.default_rng(0),
        site,
        lesion_id=1,
        fate="persists",
        real_shapes=RealShapes(),
        settings=SynthesisSettings(node_share=1.0),
    )
    assert drawn.lesion_type == "Soft tissue / Skin"


def test_some_ground_glass_has_a_solid_part() -> None:
    parts = [one.baseline[0] for one in drawn_lesions(70, "lung", SynthesisSettings())]
    hazy = [each for each in parts if each.mean_hu < -140]
    assert 3 < len(hazy) < 20
    solid = [each.mean_hu + each.core_hu == pytest.approx(30) for each in hazy]
    assert any(solid)
    assert not all(solid)


def test_gone_lesion_may_leave_a_scar_but_others_never_do() -> None:
    settings = SynthesisSettings(scar_share=1.0)
    assert all(one.scar_hu != 0 for one in drawn_lesions(5, "soft", settings, fate="gone"))
    assert all(one.scar_hu == 0 for one in drawn_lesions(5, "soft", settings))
    assert all(one.scar_hu == 0 for one in drawn_lesions(5, "soft", SynthesisSettings(), fate="gone"))


def test_merging_lesions_lie_apart_before_and_overlap_afterwards() -> None:
    generator = np.random.default_rng(0)
    for drawn in drawn_lesions(20, "soft", SynthesisSettings()):
        first, other = merging(drawn, generator, other_id=9)
        assert (first.lesion_id, first.true_id, other.lesion_id, other.true_id) == (2, 2, 9, 2)
        assert other.followup == ()
        apart = float(np.linalg.norm(other.centre_zyx_mm - first.centre_zyx_mm))
        assert apart > first.baseline[0].radius_mm + other.baseline[0].radius_mm
        one, two = first.followup
        later = float(np.linalg.norm(two.shift_zyx_mm - one.shift_zyx_mm))
        assert later < 0.81 * (one.radius_mm + two.radius_mm)


def test_small_lesion_does_not_fall_apart_and_a_large_one_leaves_a_gap() -> None:
    generator = np.random.default_rng(0)
    kept = lesion(baseline=(part(radius_mm=6.0),))
    assert splitting(kept, generator) is kept
    for _ in range(10):
        one, two = splitting(lesion(baseline=(part(radius_mm=20.0),)), generator).followup
        assert float(np.linalg.norm(two.shift_zyx_mm - one.shift_zyx_mm)) > one.radius_mm + two.radius_mm


# ----------------------------------------------------------------------------------------------------------- shapes


def test_shape_scales_with_its_radius_and_has_about_the_volume_of_its_sphere() -> None:
    offsets = points(step_mm=1.0)
    for shape, tolerance in ((round_shape(), 0.15), (random_shape(np.random.default_rng(3)), 0.35)):
        small, large = (
            float((signed_distance_mm(shape, offsets, radius_mm=radius, rotation=np.eye(3)) < 0).sum())
            for radius in (6.0, 9.0)
        )
        assert large == pytest.approx(4 / 3 * np.pi * 9.0**3, rel=tolerance)
        assert large / small == pytest.approx(1.5**3, rel=0.05)


def test_distance_to_a_ball_is_right_to_a_cell_of_its_cube() -> None:
    offsets = points(half_mm=16.0)
    distance = signed_distance_mm(round_shape(), offsets, radius_mm=8.0, rotation=np.eye(3))
    expected = offsets.norm(dim=-1) - 8.0
    near = expected.abs() < 6.0
    cell_mm = 8.0 * 2 * REACH / 31
    torch.testing.assert_close(distance[near], expected[near], atol=1.1 * cell_mm, rtol=0)
    far = offsets.abs().amax(-1) > 8.0 * REACH / 2
    assert float(distance[far].min()) > 0


def test_blending_goes_from_one_shape_to_the_other() -> None:
    first, second = (random_shape(np.random.default_rng(seed)) for seed in (1, 2))
    assert torch.equal(blended(first, second, 0.0).distance, first.distance)
    assert torch.equal(blended(first, second, 1.0).distance, second.distance)
