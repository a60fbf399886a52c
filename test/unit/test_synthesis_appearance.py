from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from test.unit.synthetic import block
from test.unit.test_synthesis_lesions import drawn_lesions, left_half, lesion, painted, part, points
from training.synthesis.characters import Character, Core, Kind, Spicules, bone_kind, lung_kind, node_kind, soft_kind
from training.synthesis.host import at_border, host_of
from training.synthesis.lesions import Lesion, Tissue
from training.synthesis.noise import Noise, measured_noise
from training.synthesis.pairs import synthetic_pair
from training.synthesis.settings import BoneKinds, LungKinds, NodeKinds, SoftKinds, SynthesisSettings

AROUND_HU: dict[Tissue, float] = {"soft": 60.0, "lung": -850.0, "fat": -100.0, "bone": 250.0}
ALL_KINDS = SynthesisSettings(
    lung=LungKinds(spiculated=0.3, part_solid=0.3, ground_glass=0.2, cavitating=0.2, at_pleura=0.5),
    soft=SoftKinds(rim=0.4, necrotic=0.4, fuzzy=0.5, subcapsular=0.5),
    bone=BoneKinds(lytic=0.4, sclerotic=0.3, mixed=0.3),
    node=NodeKinds(hilum=1.0),
    node_share=0.5,
)


# ------------------------------------------------------------------------------------------------------ host tissue


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6), tissue=st.sampled_from(get_args(Tissue)), place_mm=st.floats(-12, 4))
def test_nothing_changes_outside_the_host_tissue_but_for_a_bulge(seed: int, tissue: Tissue, place_mm: float) -> None:
    site_settings = ALL_KINDS.model_copy(update={"node_share": 1.0})
    (drawn,) = drawn_lesions(1, tissue, site_settings, seed=seed)
    drawn = replace(drawn, centre_zyx_mm=np.array([0.0, 0.0, place_mm]))
    image, ids = painted(drawn, hu=AROUND_HU[tissue], host=left_half())
    outside = left_half().depth_mm(points()).numpy() < -1.6 - drawn.character.bulge_mm
    assert (image[outside] == AROUND_HU[tissue]).all()
    assert not ids[outside].any()


@pytest.mark.parametrize(
    ("tissue", "centre_zyx_mm", "low_hu", "high_hu"),
    [
        ("lung", (90.0, 48.0, 36.0), -1000, -400),
        ("bone", (90.0, 130.0, 92.0), 150, 1000),
        ("fat", (90.0, 9.0, 90.0), -190, -25),
    ],
)
def test_host_is_the_tissue_around_a_lesion(
    tissue: Tissue, centre_zyx_mm: tuple[float, float, float], low_hu: int, high_hu: int
) -> None:
    source = block()
    wide = (part(radius_mm=24.0),)
    placed = lesion(tissue=tissue, centre_zyx_mm=np.array(centre_zyx_mm), followup=wide)
    z, y, x = np.meshgrid(*(np.arange(-6, 7) * step for step in source.spacing_zyx_mm), indexing="ij")
    where = (
        np.stack((z, y, x), axis=-1) + np.round(np.array(centre_zyx_mm) / source.spacing_zyx_mm) * source.spacing_zyx_mm
    )
    where = where[(where >= 0).all(axis=-1)][:, None, None]
    depth = host_of(source, placed).depth_mm(torch.from_numpy(where.astype(np.float32)))[:, 0, 0].numpy()
    hu = source.hu[tuple(np.round(where[:, 0, 0] / source.spacing_zyx_mm).astype(int).T)]
    is_host = (hu > low_hu) & (hu < high_hu)
    assert is_host[depth > 1.5].all()
    assert not is_host[depth < -1.5].any()
    assert (depth > 1.5).sum() > 50


def test_organs_mask_is_the_host_of_its_lesions() -> None:
    mask = np.zeros(block().hu.shape, bool)
    mask[20:40, 55:80, 60:80] = True
    source = replace(block(), organs={"liver": mask})
    host = host_of(source, lesion(centre_zyx_mm=np.array([90.0, 112.0, 122.0]), followup=(part(radius_mm=24.0),)))
    inside, outside = torch.tensor([[[[90.0, 130.0, 140.0]]]]), torch.tensor([[[[90.0, 104.0, 122.0]]]])
    assert float(host.depth_mm(inside)) > 1
    assert float(host.depth_mm(outside)) < -1


@pytest.mark.parametrize("inset", [0.2, 0.7])
def test_lesion_at_the_pleura_lies_so_deep_below_it(inset: float) -> None:
    placed = at_border(block(), lesion(tissue="lung", centre_zyx_mm=np.array([90.0, 70.0, 55.0])), inset=inset)
    # The lung lies between 40 and 100 mm, and between 30 and 80 mm.
    _, y, x = placed.centre_zyx_mm
    depth = min(y - 39.0, 99.0 - y, x - 29.0, 79.0 - x)
    assert depth == pytest.approx(inset * 10.0, abs=2.0)


# ------------------------------------------------------------------------------------------------------------ noise


@pytest.mark.parametrize("tissue", get_args(Tissue))
@pytest.mark.parametrize(
    "noise", [Noise(deviation_hu=8.0, grain_zyx=(0.3, 0.3, 0.3)), Noise(deviation_hu=30.0, grain_zyx=(0.4, 0.9, 0.9))]
)
def test_lesion_has_the_noise_of_the_scan(tissue: Tissue, noise: Noise) -> None:
    image = noise.drawn((25, 25, 25), np.random.default_rng(1)) + AROUND_HU[tissue]
    big = lesion(tissue=tissue, followup=(part(radius_mm=20.0),), kept_structure=0.2)
    after, ids = painted(big, image=image, noise=noise)
    inside = points()[:, :, 2:].norm(dim=-1).numpy() < 15
    assert (ids[:, :, 2:][inside] == 5).all()
    for apart in (1, 2):
        change, before = (each[:, :, apart:] - each[:, :, :-apart] for each in (after, image.numpy()))
        assert change[:, :, 2 - apart :][inside].std() == pytest.approx(before.std(), rel=0.15)


@settings(max_examples=8, deadline=None)
@given(deviation_hu=st.floats(4, 60), across=st.floats(0.6, 1.5), along=st.floats(0.5, 1.0), seed=st.integers(0, 99))
def test_noise_is_measured_in_soft_tissue_as_it_was_drawn(
    deviation_hu: float, across: float, along: float, seed: int
) -> None:
    noise = Noise(deviation_hu=deviation_hu, grain_zyx=(along, across, across))
    image = noise.drawn((12, 70, 70), np.random.default_rng(seed)) + 60
    image[:, :, 40:] = image[:, :, 40:] * 5 - 850
    found = measured_noise(image)
    assert found.deviation_hu == pytest.approx(deviation_hu, rel=0.25)
    assert found.grain_zyx == pytest.approx((along, across, across), abs=0.2)


# ------------------------------------------------------------------------------------------------------------ kinds


def middle_line_hu(drawn: Lesion, around_hu: float) -> np.ndarray:
    return painted(drawn, hu=around_hu)[0][12, 12]


def kinds_of(draw: str, count: int = 12) -> list[Kind]:
    generator = np.random.default_rng(2)
    drawn = {
        "spiculated": lambda: lung_kind(generator, LungKinds(spiculated=1)),
        "part_solid": lambda: lung_kind(generator, LungKinds(part_solid=1)),
        "cavitating": lambda: lung_kind(generator, LungKinds(cavitating=1)),
        "rim": lambda: soft_kind(generator, SoftKinds(rim=1), radius_mm=20),
        "sclerotic": lambda: bone_kind(generator, BoneKinds(sclerotic=1)),
        "lytic": lambda: bone_kind(generator, BoneKinds(lytic=1)),
        "hilum": lambda: node_kind(generator, NodeKinds(hilum=1)),
    }[draw]
    found = [drawn() for _ in range(count)]
    assert None not in found
    return [kind for kind in found if kind is not None]


def of_kind(kind: Kind, **changes: object) -> Lesion:
    mean_hu = 30.0 if kind.mean_hu is None else kind.mean_hu
    plain = lesion(character=kind.character, followup=(part(radius_mm=12.0, mean_hu=mean_hu),), edge_mm=1.0)
    return replace(plain, **changes)


def test_part_solid_nodule_is_a_core_in_ground_glass_through_which_vessels_are_seen() -> None:
    core = Core(size=0.4, hu=20.0, edge_mm=1.0)
    nodule = lesion(tissue="lung", character=Character(core=core), followup=(part(radius_mm=16.0, mean_hu=-550.0),))
    image = torch.full((25, 25, 25), -850.0)
    image[:, 18, :] = 40.0
    after, ids = painted(nodule, image=image)
    assert after[12, 12, 12] == pytest.approx(20, abs=15)
    assert after[12, 12, 18] == pytest.approx(-550, abs=25)
    assert after[12, 18, 12] == pytest.approx(40, abs=20)
    # The outline includes the ground glass.
    assert ids[12, 12, 18] == 5


def test_kinds_are_drawn_in_their_ranges() -> None:
    for kind in kinds_of("part_solid"):
        assert kind.mean_hu is not None
        assert -700 <= kind.mean_hu <= -400
        assert kind.character.core is not None
        assert kind.character.core.hu > -60
    assert all(kind.mean_hu is not None and 300 <= kind.mean_hu <= 1200 for kind in kinds_of("sclerotic"))
    assert all(kind.mean_hu is not None and 0 < kind.mean_hu < 100 for kind in kinds_of("lytic"))
    rims = kinds_of("rim")
    assert all(kind.character.core is not None and kind.character.core.hu < 0 < (kind.mean_hu or 0) for kind in rims)


def test_cavity_holds_air_and_rim_encloses_a_dark_inside() -> None:
    for kind in kinds_of("cavitating", 3):
        assert painted(of_kind(kind, tissue="lung"), hu=-850.0)[0].min() < -800
        assert middle_line_hu(of_kind(kind, tissue="lung"), -850.0).max() > -150
    for kind in kinds_of("rim", 3):
        wide = of_kind(kind, followup=(part(radius_mm=20.0, mean_hu=kind.mean_hu),))
        line = middle_line_hu(wide, 100.0)
        assert line[12] < 85
        assert line.max() > 102


def test_fatty_hilum_is_darker_than_its_node() -> None:
    for kind in kinds_of("hilum", 3):
        assert painted(of_kind(kind, tissue="fat"), hu=-100.0)[0][points().norm(dim=-1).numpy() < 9].min() < 10


@pytest.mark.parametrize("radius_mm", [6.0, 9.0])
def test_strands_radiate_beyond_the_outline_and_grow_with_the_nodule(radius_mm: float) -> None:
    strand = Spicules(
        directions_zyx=np.array([[0.0, 0.0, 1.0]]),
        reaches=np.array([0.8]),
        widths_mm=np.array([1.2]),
        hu=0.0,
        pleural_tag=False,
    )
    nodule = lesion(tissue="lung", character=Character(spicules=strand), followup=(part(radius_mm=radius_mm),))
    image, ids = painted(nodule, hu=-850.0)
    reach = np.flatnonzero(image[12, 12] > -750).max() * 2.0 - 24.0
    assert reach == pytest.approx(1.8 * radius_mm, abs=2.1)
    assert np.flatnonzero(ids[12, 12]).max() * 2.0 - 24.0 < 1.3 * radius_mm
    assert np.flatnonzero(image[12, 12] > -750).min() * 2.0 - 24.0 > -1.3 * radius_mm


def test_strand_reaches_the_pleura() -> None:
    tagged = Spicules(
        directions_zyx=np.array([[1.0, 0.0, 0.0]]),
        reaches=np.array([0.1]),
        widths_mm=np.array([1.3]),
        hu=0.0,
        pleural_tag=True,
    )
    nodule = lesion(
        tissue="lung",
        character=Character(spicules=tagged),
        centre_zyx_mm=np.array([0.0, 0.0, -10.0]),
        followup=(part(radius_mm=7.0),),
    )
    image, _ = painted(nodule, hu=-850.0, host=left_half())
    assert (image[12, 12, 7:13] > -750).all()
    assert (image[12, 12, 16:] == -850).all()


def test_bulge_is_highest_in_the_middle_and_within_its_height() -> None:
    sphere = lesion(character=Character(bulge_mm=3.0), followup=(part(radius_mm=16.0, mean_hu=-40.0),))
    image, ids = painted(sphere, hu=60.0, host=left_half())
    flat, _ = painted(replace(sphere, character=Character()), hu=60.0, host=left_half())
    beyond = (ids > 0) & (left_half().depth_mm(points()).numpy() < -0.5)
    assert beyond.any()
    assert points()[..., 2].numpy()[beyond].max() <= 4.0 + 3.0
    assert np.abs(points()[..., 1].numpy()[beyond]).max() < 14
    assert image.min() < flat.max()


@pytest.mark.parametrize("tissue", get_args(Tissue))
def test_kinds_change_nothing_else_that_is_drawn(tissue: Tissue) -> None:
    plain_settings = SynthesisSettings(node_share=ALL_KINDS.node_share)
    for plain, kind in zip(drawn_lesions(8, tissue, plain_settings), drawn_lesions(8, tissue, ALL_KINDS), strict=True):
        assert [each.radius_mm for each in plain.followup] == [each.radius_mm for each in kind.followup]
        assert plain.lesion_type == kind.lesion_type
        assert (plain.rotation == kind.rotation).all()


def test_pairs_of_all_kinds_have_facts_that_fit_their_maps() -> None:
    drawn = synthetic_pair(block(), np.random.default_rng(0), shapes=[], settings=ALL_KINDS)
    prior = drawn.case.baselines["primary"].lesions
    assert prior is not None
    assert drawn.facts
    for lesion_id, fact in drawn.facts.items():
        assert (prior.ids == lesion_id).any() == (fact.fate != "new")


@pytest.mark.parametrize(
    ("kinds", "changes"),
    [(LungKinds, {"spiculated": 0.6, "part_solid": 0.6}), (BoneKinds, {"lytic": 1.0, "mixed": 0.1})],
)
def test_shares_above_one_are_refused(kinds: type[LungKinds] | type[BoneKinds], changes: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected a sum of at most 1"):
        kinds(**changes)
