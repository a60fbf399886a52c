from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

from longilesion.case import LesionMap, lesion_regions
from longilesion.evaluation.measures import (
    Outline,
    centre_xyz_mm,
    hausdorff_95_mm,
    largest_axial_diameter_mm,
    surface_dice,
)
from longilesion.geometry import ZYX, Grid, Triple
from test.unit.builders import ball, flipped

Mask = NDArray[np.bool_]

# Areas of the surface through the middles of voxel edges, for voxels of 1 mm: a face, a stretch of edge (the hypotenuse
# over two halves), a corner (the triangle between three halves).
FACE, EDGE, CORNER = 1.0, np.sqrt(0.5), np.sqrt(3) / 8


def outline(ids: ArrayLike, grid: Grid, *labels: int) -> Outline:
    """The outline of some labels of a map, or of a mask."""
    lesions = LesionMap(ids=np.asarray(ids, np.uint16), grid=grid)
    regions = lesion_regions(lesions.ids)
    chosen = labels or tuple(regions)
    return Outline.of(lesions, chosen, [regions[label] for label in chosen])


def box(start_zyx: ZYX, stop_zyx: ZYX, *, shape: ZYX = (16, 32, 32), spacing: Triple = (1.0, 1.0, 1.0)) -> Outline:
    """A box of voxels in a scan."""
    mask = np.zeros(shape, np.bool_)
    mask[tuple(slice(low, high) for low, high in zip(start_zyx, stop_zyx, strict=True))] = True
    return outline(mask, Grid.from_spacing(shape, spacing))


def in_plane(rows: Sequence[str], spacing: Triple = (1.0, 1.0, 1.0)) -> Outline:
    """One axial slice, drawn."""
    mask = np.array([[[character == "#" for character in line] for line in rows]])
    return outline(mask, Grid.from_spacing(mask.shape, spacing))


def single_voxel(place_zyx: ZYX, grid: Grid) -> Outline:
    return Outline(mask=np.ones((1, 1, 1), np.bool_), start_zyx=place_zyx, grid=grid)


def stored(mask: Mask, grid: Grid, order: Sequence[int], signs: Sequence[int]) -> tuple[Mask, Grid]:
    """The same anatomy with its array axes in another order (the old axis of each new one), each flipped or not."""
    matrix = np.zeros((4, 4))
    matrix[3, 3] = 1.0
    for new, (old, sign) in enumerate(zip(order, signs, strict=True)):
        matrix[2 - old, 2 - new] = sign
        matrix[2 - old, 3] = 0 if sign > 0 else grid.shape_zyx[old] - 1
    turned = mask.transpose(order)[tuple(slice(None, None, sign) for sign in signs)]
    z, y, x = turned.shape
    return np.ascontiguousarray(turned), Grid(shape_zyx=(z, y, x), world_from_voxel=grid.world_from_voxel @ matrix)


# ---------------------------------------------------------------------------------------------------------- cutting out


def test_outline_is_cut_out_in_the_box_of_its_voxels() -> None:
    ids = np.zeros((6, 8, 10), np.uint16)
    ids[2:4, 3:7, 5:9] = 300
    ids[2, 3, 5] = 7
    found = outline(ids, Grid.from_spacing(ids.shape, (1, 1, 1)), 300)
    assert (found.start_zyx, found.stop_zyx) == ((2, 3, 5), (4, 7, 9))
    # The neighbour's voxel in its box is not its own.
    assert found.mask.sum() == 2 * 4 * 4 - 1
    assert not found.mask[0, 0, 0]


def test_outline_of_several_labels_is_their_union_in_one_box() -> None:
    ids = np.zeros((4, 4, 20), np.uint16)
    ids[0, 0, 2:5], ids[1, 2, 8:10], ids[1, 1, 6] = 1, 300, 5
    found = outline(ids, Grid.from_spacing(ids.shape, (1, 1, 1)), 300, 1)
    assert (found.start_zyx, found.stop_zyx) == ((0, 0, 2), (2, 3, 10))
    assert found.mask.sum() == 3 + 2


# --------------------------------------------------------------------------------------------------------- surface Dice


def test_same_outlines_have_surface_dice_1_at_any_tolerance() -> None:
    for lesion in (box((2, 3, 4), (6, 9, 9)), box((2, 3, 4), (3, 4, 5)), box((2, 3, 4), (3, 4, 20))):
        for tolerance in (0.0, 1.0, 5.0):
            assert surface_dice(lesion, lesion, tolerance_mm=tolerance) == 1.0


def test_box_moved_by_the_tolerance_has_surface_dice_1() -> None:
    truth, moved = box((4, 8, 4), (8, 12, 14)), box((4, 8, 6), (8, 12, 16))
    assert surface_dice(truth, moved, tolerance_mm=2.0) == 1.0
    assert surface_dice(truth, moved, tolerance_mm=1.9) < 1.0


def test_box_moved_along_x_loses_the_surface_that_lies_farther_than_the_tolerance() -> None:
    # A bar of 4 x 4 x 10 voxels, moved by 4 mm. Its surface, in layers x = 0..10 between the voxels: a layer in the
    # middle has 4 stretches of edge and 4 x 3 faces; one at an end has 4 corners, 4 x 3 edges and 3 x 3 faces.
    middle = 4 * EDGE + 12 * FACE
    end = 4 * CORNER + 12 * EDGE + 9 * FACE
    truth, moved = box((4, 8, 4), (8, 12, 14)), box((4, 8, 8), (8, 12, 18))
    # With a tolerance of 1 mm the true layers 3..9 are near (4..9 coincide, 3 is 1 mm off), and so is the end at
    # x = 10, which lies inside the other bar, but for its midmost face, 2 mm from every side. The same by symmetry.
    expected = 2 * (7 * middle + end - FACE) / (2 * (9 * middle + 2 * end))
    assert surface_dice(truth, moved, tolerance_mm=1.0) == pytest.approx(expected, rel=1e-5)
    assert surface_dice(moved, truth, tolerance_mm=1.0) == pytest.approx(expected, rel=1e-5)


def test_surface_is_weighted_by_area_in_mm_and_not_by_voxels() -> None:
    # A block of 4 x 4 x 4 voxels of 3 x 1 x 1 mm, moved by one slice, tolerance 2 mm. A face across z has 1 mm2, one
    # across y or x 3 mm2; a stretch of edge along z hypot(0.5, 0.5) * 3, along y or x hypot(1.5, 0.5) * 1; a corner is
    # the triangle of legs 1.5, 0.5, 0.5.
    along_z, in_slice = 3 * np.hypot(0.5, 0.5), np.hypot(1.5, 0.5)
    corner = np.sqrt((1.5 * 0.5) ** 2 + (1.5 * 0.5) ** 2 + (0.5 * 0.5) ** 2) / 2
    middle = 4 * along_z + 12 * 3.0
    end = 4 * corner + 12 * in_slice + 9 * 1.0
    # Layers z = 0..4. Layer 0 lies 3 mm from the moved block and is lost; 1, 2, 3 coincide with its surface (its own
    # end at 1 too, as far as it is a rim); of layer 4, inside the moved block, the rim coincides, the faces are 1 mm
    # or 2 mm from the sides.
    expected = (3 * middle + end) / (3 * middle + 2 * end)
    spacing = (3.0, 1.0, 1.0)
    truth, moved = (box((z, 8, 8), (z + 4, 12, 12), spacing=spacing) for z in (4, 5))
    assert surface_dice(truth, moved, tolerance_mm=2.0) == pytest.approx(expected, rel=1e-5)
    assert surface_dice(truth, moved, tolerance_mm=3.0) == 1.0


def test_two_slices_apart_is_farther_than_two_voxels_within_a_slice() -> None:
    # 10 mm against 2 mm.
    spacing = (5.0, 1.0, 1.0)
    truth = box((4, 8, 8), (8, 14, 14), spacing=spacing)
    assert surface_dice(truth, box((4, 8, 10), (8, 14, 16), spacing=spacing), tolerance_mm=2.0) == 1.0
    assert surface_dice(truth, box((6, 8, 8), (10, 14, 14), spacing=spacing), tolerance_mm=2.0) < 0.8


@pytest.mark.parametrize("axis", range(3))
def test_single_voxels_apart_share_no_surface_half_of_it_or_all(axis: int) -> None:
    # A voxel's surface lies at its corners, all of one size; two voxels k apart have nearer corners k - 1 from the
    # other voxel and farther ones k.
    shares = []
    for apart in range(6):
        place = [3, 3, 3]
        place[axis] += apart
        grid = Grid.from_spacing((12, 12, 12), (1.0, 1.0, 1.0))
        shares.append(surface_dice(single_voxel((3, 3, 3), grid), single_voxel(tuple(place), grid), tolerance_mm=2.0))
    assert shares == [1.0, 1.0, 1.0, 0.5, 0.0, 0.0]


def test_outlines_that_meet_at_a_corner_are_near_there_only() -> None:
    # Two voxels that share one corner point of eight; all others are at least 1 mm from the other voxel.
    grid = Grid.from_spacing((4, 4, 4), (1.0, 1.0, 1.0))
    assert surface_dice(single_voxel((0, 0, 0), grid), single_voxel((1, 1, 1), grid), tolerance_mm=0.5) == 1 / 8


def test_outline_inside_a_larger_one_is_as_far_as_its_surface() -> None:
    # Cubes of 4 and of 8 voxels with one centre: every point of the inner surface is 2 mm from the outer one, while the
    # outer one's corners are sqrt(12) mm away.
    inner, outer = box((4, 8, 8), (8, 12, 12)), box((2, 6, 6), (10, 14, 14))
    assert surface_dice(outer, inner, tolerance_mm=1.9) == 0.0
    assert surface_dice(outer, inner, tolerance_mm=3.47) == 1.0
    # At 2 mm all of the inner one counts, and the 5 x 5 points of each side of the outer one that face it.
    inner_area = 6 * 9 * FACE + 12 * 3 * EDGE + 8 * CORNER
    outer_area = 6 * 49 * FACE + 12 * 7 * EDGE + 8 * CORNER
    expected = (inner_area + 6 * 25 * FACE) / (inner_area + outer_area)
    assert surface_dice(outer, inner, tolerance_mm=2.0) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("corner", list(product((0, 1), repeat=3)))
def test_surfaces_at_the_border_of_the_scan_are_those_of_its_middle(corner: tuple[int, int, int]) -> None:
    def pair(start: NDArray[np.int64]) -> tuple[Outline, Outline]:
        z, y, x = start.tolist()
        return box((z, y, x), (z + 4, y + 6, x + 6)), box((z + 1, y + 1, x + 2), (z + 5, y + 7, x + 8))

    # Both boxes end at the scan's border on one side or the other of every axis.
    at_border, inside = pair(np.array(corner) * (11, 25, 24)), pair(np.array((5, 12, 12)))
    for tolerance in (0.5, 1.0, 1.5):
        share = surface_dice(*inside, tolerance_mm=tolerance)
        assert 0 < share < 1
        assert surface_dice(*at_border, tolerance_mm=tolerance) == share
    assert hausdorff_95_mm(*at_border) == hausdorff_95_mm(*inside) > 0


def test_whole_scan_is_an_outline_with_a_surface() -> None:
    everything = box((0, 0, 0), (16, 32, 32))
    assert surface_dice(everything, everything, tolerance_mm=0.0) == 1.0
    assert hausdorff_95_mm(everything, everything) == 0.0


# ------------------------------------------------------------------------------------------------------------ far apart


def test_outlines_far_apart_cost_no_more_than_near_ones() -> None:
    # Between these two voxels lie 5000 x 5000 x 5000 others.
    grid = Grid.from_spacing((6000, 6000, 6000), (3.0, 0.5, 0.7))
    one, other = single_voxel((10, 20, 30), grid), single_voxel((5010, 5020, 5030), grid)
    assert surface_dice(one, other, tolerance_mm=2.0) == surface_dice(other, one, tolerance_mm=2.0) == 0.0
    assert hausdorff_95_mm(one, other) == pytest.approx(5000 * np.sqrt(3.0**2 + 0.5**2 + 0.7**2))


@pytest.mark.parametrize("axis", range(3))
def test_outlines_far_apart_along_one_axis_have_nothing_in_common(axis: int) -> None:
    place = [0, 0, 0]
    place[axis] = 5000
    grid = Grid.from_spacing((6000, 6000, 6000), (3.0, 0.5, 0.7))
    one, other = single_voxel((0, 0, 0), grid), single_voxel((place[0], place[1], place[2]), grid)
    assert surface_dice(one, other, tolerance_mm=2.0) == 0.0
    assert hausdorff_95_mm(one, other) == pytest.approx(5000 * grid.spacing_zyx_mm[axis])


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells the peak of a moment")
def test_one_stray_voxel_far_away_does_not_cost_the_memory_of_all_that_lies_between() -> None:
    # The box of 4 million voxels is all that the stray adds; at 25 bytes for each, a scan of 512 x 512 x 600 voxels
    # that a label is strewn over would still take 4 GB.
    mask = np.zeros((100, 200, 200), np.bool_)
    mask[50:60, 100:120, 100:120] = True
    grid = Grid.from_spacing(mask.shape, (1.0, 1.0, 1.0))
    truth = outline(mask, grid)
    mask[0, 0, 0] = mask[-1, -1, -1] = True
    strewn = outline(mask, grid)
    before = peak_bytes(reset=True)
    assert 0.99 < surface_dice(truth, strewn, tolerance_mm=2.0) < 1
    assert peak_bytes() - before < 25 * mask.size


def peak_bytes(*, reset: bool = False) -> int:
    """The most memory that this process has held since the last reset."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def test_boxes_that_are_near_along_every_axis_but_far_apart_share_no_surface() -> None:
    # Each axis alone is within the tolerance of 2 mm: the corners are 2 voxels apart along all three, sqrt(12) mm.
    assert surface_dice(box((0, 0, 0), (2, 2, 2)), box((4, 4, 4), (6, 6, 6)), tolerance_mm=2.0) == 0.0
    # With a tolerance that reaches from corner to corner each has that corner alone.
    area = 6 * 1 * FACE + 12 * 1 * EDGE + 8 * CORNER
    found = surface_dice(box((0, 0, 0), (2, 2, 2)), box((4, 4, 4), (6, 6, 6)), tolerance_mm=3.47)
    assert found == pytest.approx(CORNER / area, rel=1e-5)


# --------------------------------------------------------------------------------------------------- Hausdorff distance


def test_same_outlines_are_0_mm_apart() -> None:
    for lesion in (box((2, 3, 4), (6, 9, 9)), box((2, 3, 4), (3, 4, 5))):
        assert hausdorff_95_mm(lesion, lesion) == 0.0


@pytest.mark.parametrize(("moved_zyx", "distance_mm"), [((2, 0, 0), 6.0), ((0, 3, 0), 1.5), ((0, 0, 4), 2.8)])
def test_single_voxels_are_as_far_apart_as_their_centres(moved_zyx: ZYX, distance_mm: float) -> None:
    grid = Grid.from_spacing((9, 9, 9), (3.0, 0.5, 0.7))
    z, y, x = np.add((1, 2, 3), moved_zyx).tolist()
    found = hausdorff_95_mm(single_voxel((1, 2, 3), grid), single_voxel((z, y, x), grid))
    assert found == pytest.approx(distance_mm)


def test_plate_moved_across_is_as_far_as_it_was_moved() -> None:
    # Every voxel of one slice is two slices of 3 mm from the other plate.
    spacing = (3.0, 1.0, 1.0)
    truth, moved = (box((z, 4, 4), (z + 1, 20, 20), spacing=spacing) for z in (5, 7))
    assert hausdorff_95_mm(truth, moved) == 6.0


def test_stray_voxels_count_once_they_are_more_than_a_twentieth_of_the_border() -> None:
    # A row of 100 voxels, all of them border, with strays in a column from 50 mm above its first voxel. With one, of
    # 101 sorted distances that at floor(100 * 0.95) = 95 is 0. With six, of 106, that at floor(105 * 0.95) = 99 is the
    # last 0; with seven, of 107, that at floor(106 * 0.95) = 100 is the nearest stray's.
    for strays, expected in ((1, 0.0), (6, 0.0), (7, 50.0)):
        mask = np.zeros((1, 61, 100), np.bool_)
        mask[0, 0] = True
        truth = outline(mask, Grid.from_spacing(mask.shape, (1, 1, 1)))
        mask[0, 50 : 50 + strays, 0] = True
        predicted = outline(mask, Grid.from_spacing(mask.shape, (1, 1, 1)))
        assert hausdorff_95_mm(truth, predicted) == hausdorff_95_mm(predicted, truth) == expected


def test_hausdorff_distance_looks_at_borders_not_at_what_is_inside() -> None:
    # A hollow and a solid cube have the same outer border; the hollow one's inner border lies inside.
    solid = np.zeros((13, 13, 13), np.bool_)
    solid[1:12, 1:12, 1:12] = True
    grid = Grid.from_spacing(solid.shape, (1.0, 1.0, 1.0))
    shell = solid.copy()
    shell[3:10, 3:10, 3:10] = False
    # The hole of 7 x 7 x 7 voxels is lined by 6 x 7 x 7 voxels that are 1 mm inside the outer border (the 602 voxels of
    # 11^3 - 9^3): of 896 distances the one at floor(895 * 0.95) = 850 is 1.
    assert hausdorff_95_mm(outline(solid, grid), outline(shell, grid)) == 1.0


# ----------------------------------------------------------------------------------------------- largest axial diameter


def test_single_voxel_is_as_long_as_its_longer_side() -> None:
    # Ends lie half a voxel outside the centre, along the rows and along the columns.
    for spacing, expected in (((3.0, 1.0, 1.0), 1.0), ((3.0, 0.5, 0.8), 0.8), ((3.0, 0.8, 0.5), 0.8)):
        grid = Grid.from_spacing((4, 4, 4), spacing)
        assert largest_axial_diameter_mm(single_voxel((1, 2, 3), grid)) == pytest.approx(expected)


def test_row_of_voxels_is_as_long_as_it_is() -> None:
    spacing = (3.0, 2.0, 0.5)
    assert largest_axial_diameter_mm(in_plane(["#" * 10], spacing)) == pytest.approx(5.0)
    assert largest_axial_diameter_mm(in_plane(["#"] * 10, spacing)) == pytest.approx(20.0)


def test_rectangle_is_measured_from_edge_to_edge_along_its_diagonal() -> None:
    # The contour's ends lie in the middle of voxel sides: 3 rows by 4 columns are measured from the outer side of the
    # first column to that of the last (4), between the middles of the first and last row (2).
    assert largest_axial_diameter_mm(in_plane(["####"] * 3)) == pytest.approx(np.hypot(4, 2))
    # With 2 mm between rows: from the top side to the bottom side (6), between the middles of the columns (3).
    assert largest_axial_diameter_mm(in_plane(["####"] * 3, (5.0, 2.0, 1.0))) == pytest.approx(np.hypot(6, 3))


def test_disc_ends_half_a_voxel_outside_its_outermost_voxels() -> None:
    # Voxel centres within 10 mm of one of them. A point of the contour is a centre c moved by half a voxel along an
    # axis, |c|^2 + |c_axis| + 1/4 <= 10.5^2 from the middle: 21 mm across, along the rows and columns, and less along
    # all other ways.
    y, x = np.ogrid[-12:13, -12:13]
    disc = (y**2 + x**2 <= 10**2)[None]
    grid = Grid.from_spacing(disc.shape, (3.0, 1.0, 1.0))
    assert largest_axial_diameter_mm(outline(disc, grid)) == pytest.approx(21.0)


@pytest.mark.parametrize("spacing", [(3.0, 1.0, 1.0), (3.0, 0.6, 0.9), (1.0, 1.5, 0.7)])
@pytest.mark.parametrize("radius_mm", [6.0, 12.3, 17.0])
def test_ball_is_as_long_as_its_diameter_to_within_a_voxel(spacing: Triple, radius_mm: float) -> None:
    grid = Grid.from_spacing((40, 64, 64), spacing)
    centre = grid.centre_xyz_mm
    # Two voxel centres are at most 2 r apart, and the contour is at most half a voxel outside either.
    found = largest_axial_diameter_mm(outline(ball(grid, centre, radius_mm), grid))
    assert found == pytest.approx(2 * radius_mm, abs=max(spacing[1:]))


def test_lesion_that_is_longest_across_slices_is_measured_within_one() -> None:
    # A rod of 12 slices of 3 mm, 36 mm, is 4 x 2 voxels in each: hypot(4, 1).
    assert largest_axial_diameter_mm(box((2, 8, 8), (14, 10, 12), spacing=(3.0, 1.0, 1.0))) == pytest.approx(
        np.hypot(4, 1)
    )


def test_slanted_rod_is_no_longer_than_its_widest_slice() -> None:
    # One voxel a slice, moving by a voxel: long in space, 1 mm in every slice.
    ids = np.zeros((12, 12, 12), np.uint16)
    ids[np.arange(12), np.arange(12), np.arange(12)] = 1
    assert largest_axial_diameter_mm(outline(ids, Grid.from_spacing(ids.shape, (1, 1, 1)))) == pytest.approx(1.0)


def test_widest_slice_decides_whichever_it_is() -> None:
    for widest in range(5):
        ids = np.zeros((5, 30, 30), np.uint16)
        for z in range(5):
            ids[z, 10, 5 : 5 + (20 if z == widest else 6)] = 1
        found = largest_axial_diameter_mm(outline(ids, Grid.from_spacing(ids.shape, (3, 1, 1))))
        assert found == pytest.approx(20.0)


def test_slice_with_the_larger_rectangle_is_not_always_the_longer_lesion() -> None:
    # A cross of 15 x 15 voxels has a rectangle of diagonal 21.2, but is 15 long; the bar of the next slice is 18.
    ids = np.zeros((2, 20, 20), np.uint16)
    ids[0, 7, :15], ids[0, :15, 7] = 1, 1
    ids[1, 3, :18] = 1
    assert largest_axial_diameter_mm(outline(ids, Grid.from_spacing(ids.shape, (3, 1, 1)))) == pytest.approx(18.0)


def test_diameter_of_a_lesion_with_a_hole_or_a_bay_is_that_of_its_hull() -> None:
    ring = ["#####", "#...#", "#...#", "#####"]
    bay = ["#####", "#....", "#....", "#####"]
    full = ["#####"] * 4
    for rows in (ring, bay, full):
        # From side to side (5), between the first and the last row (3).
        assert largest_axial_diameter_mm(in_plane(rows)) == pytest.approx(np.hypot(5, 3))


def test_diameter_at_the_border_of_the_scan_is_that_of_its_middle() -> None:
    for start in ((0, 0, 0), (5, 10, 10), (13, 27, 22)):
        z, y, x = start
        assert largest_axial_diameter_mm(box(start, (z + 3, y + 5, x + 10))) == pytest.approx(np.hypot(10, 4))


def test_scan_stored_the_other_way_round_has_the_same_measures() -> None:
    # An L in one slice, a bar in the next: nothing about it is symmetric.
    mask = np.zeros((4, 12, 14), np.bool_)
    mask[1, 2:9, 3], mask[1, 8, 3:12], mask[2, 4, 5:8] = True, True, True
    grid = Grid.from_spacing(mask.shape, (3.0, 0.8, 0.7), origin_xyz_mm=(-20.0, 40.0, 300.0))
    turned = outline(*flipped(mask, grid))
    there = outline(mask, grid)
    assert largest_axial_diameter_mm(turned) == pytest.approx(largest_axial_diameter_mm(there))
    assert centre_xyz_mm(turned) == pytest.approx(centre_xyz_mm(there))


@pytest.mark.parametrize("tilt_deg", [0.0, 15.0])
@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_axial_is_closest_to_axial_in_the_patient_whatever_the_array(order: tuple[int, ...], tilt_deg: float) -> None:
    # 8 x 4 voxels of 0.7 x 0.8 mm in each of 10 slices of 3 mm: hypot(8 * 0.7, 3 * 0.8) in a slice, where the longest
    # way is 30 mm across slices.
    mask = np.zeros((12, 10, 14), np.bool_)
    mask[1:11, 3:7, 4:12] = True
    tilt = Rotation.from_rotvec(np.radians(tilt_deg) * np.array([0.6, 0.0, 0.8])).as_matrix()
    grid = Grid.from_spacing(mask.shape, (3.0, 0.8, 0.7), origin_xyz_mm=(-20.0, 40.0, 300.0), direction=tilt)
    expected = np.hypot(8 * 0.7, 3 * 0.8)
    for signs in product((1, -1), repeat=3):
        turned = outline(*stored(mask, grid, order, signs))
        assert largest_axial_diameter_mm(turned) == pytest.approx(expected)
        assert centre_xyz_mm(turned) == pytest.approx(grid.world_xyz_mm((5.5, 4.5, 7.5)))


def test_sagittal_series_is_measured_across_its_slices() -> None:
    # Slices along x: array axis 0 is left, axis 1 superior, axis 2 posterior. A lesion that is 6 of them thick (4 mm)
    # and a voxel wide in each (1 mm) is 24 mm from left to right.
    direction = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    grid = Grid.from_spacing((10, 8, 8), (4.0, 1.0, 1.0), direction=direction)
    mask = np.zeros(grid.shape_zyx, np.bool_)
    mask[2:8, 3, 4] = True
    assert largest_axial_diameter_mm(outline(mask, grid)) == pytest.approx(24.0)


# ---------------------------------------------------------------------------------------------------- centre of gravity


def test_centre_of_a_box_is_its_middle_in_the_patient() -> None:
    # Voxels 2..5, 4..8, 6..9 along z, y, x: the middle is (3.5, 6, 7.5), times 3, 0.8, 0.7 mm, from the origin.
    grid = Grid.from_spacing((8, 12, 12), (3.0, 0.8, 0.7), origin_xyz_mm=(-20.0, 40.0, 300.0))
    mask = np.zeros(grid.shape_zyx, np.bool_)
    mask[2:6, 4:9, 6:10] = True
    assert centre_xyz_mm(outline(mask, grid)) == pytest.approx((-20 + 7.5 * 0.7, 40 + 6 * 0.8, 300 + 3.5 * 3))


def test_centre_is_that_of_the_voxels_not_of_the_box() -> None:
    # Three voxels at x = 1 and one at x = 9: 3 on average, where the box's middle is 5.
    ids = np.zeros((2, 4, 12), np.uint16)
    ids[0, 1:4, 1], ids[0, 2, 9] = 1, 1
    x, y, z = centre_xyz_mm(outline(ids, Grid.from_spacing(ids.shape, (1, 1, 1))))
    assert (x, y, z) == pytest.approx((3.0, 2.0, 0.0))


def test_centre_of_a_ball_is_its_centre_on_an_oblique_grid() -> None:
    direction = Rotation.from_euler("xyz", (12.0, -8.0, 20.0), degrees=True).as_matrix()
    grid = Grid.from_spacing((20, 40, 40), (2.0, 1.0, 1.0), origin_xyz_mm=(5.0, -7.0, 90.0), direction=direction)
    centre = grid.world_xyz_mm((9.0, 20.0, 18.0))
    # No voxel centre is 8.9 mm away (79.21 is no sum of squares), so that rounding takes none from one side only.
    assert centre_xyz_mm(outline(ball(grid, centre, 8.9), grid)) == pytest.approx(centre)


def test_outlines_at_the_scans_first_voxels_where_tiny_numbers_count_as_zero() -> None:
    # As the commands of training have it. A box at the corner has many points of the same coordinate, 0, in each axis.
    grid = Grid.from_spacing((40, 40, 40), (1.5, 0.75, 0.75))
    box = Outline(mask=np.ones((12, 30, 30), np.bool_), start_zyx=(0, 0, 0), grid=grid)
    torch.set_flush_denormal(True)
    try:
        assert surface_dice(box, box, tolerance_mm=1.0) == pytest.approx(1.0)
        assert hausdorff_95_mm(box, box) == 0.0
    finally:
        torch.set_flush_denormal(False)
