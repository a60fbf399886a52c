"""The picture of a registration: two scans of a block with dense balls, and registrations made by hand."""

import io
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray

from longilesion.case import AIR_HU, PADDING_HU, OutsideLesion, Scan
from longilesion.geometry import Grid, Triple
from longilesion.registration.picture import _UNSEEN, draw_registration
from longilesion.registration.reduction import reduce_scan
from longilesion.registration.result import Registration, Stage
from test.unit.builders import ball, click, flipped, prompt

# 160 x 120 x 96 mm, the body of which is 130 x 90 mm wide.
GRID = Grid.from_spacing((32, 60, 80), (3.0, 2.0, 2.0), origin_xyz_mm=(40.0, -70.0, 500.0))
MOVED_XYZ_MM = (300.0, -50.0, -900.0)
# To the left, the front and the head of the middle.
CORNER: Triple = (155.0, -38.0, 575.0)
MIDDLE = GRID.centre_xyz_mm


def body(balls: Mapping[Triple, int] | None = None, grid: Grid = GRID) -> Scan:
    hu = np.full(grid.shape_zyx, AIR_HU, np.int16)
    hu[:, 8:-8, 8:-8] = 40
    for centre, value in (balls or {}).items():
        hu[ball(grid, centre, 10.0)] = value
    return Scan(hu=hu, grid=grid)


def moved(scan: Scan) -> Scan:
    """The same voxels elsewhere in the world."""
    matrix = scan.grid.world_from_voxel.copy()
    matrix[:3, 3] += MOVED_XYZ_MM
    return Scan(hu=scan.hu, grid=Grid(shape_zyx=scan.grid.shape_zyx, world_from_voxel=matrix))


def registered(
    baseline: Scan, followup: Scan, shift_xyz_mm: Triple = MOVED_XYZ_MM, stage: Stage = "shift"
) -> Registration:
    """The registration that says that everything has moved by a vector in the world."""
    before, after = reduce_scan(baseline, 5.0), reduce_scan(followup, 5.0)
    world = np.eye(4)
    world[:3, 3] = shift_xyz_mm
    return Registration(
        stage=stage,
        baseline=before,
        followup=after,
        motion=after.local_from_world @ world @ np.linalg.inv(before.local_from_world),
        deformation=None,
        similarity=np.zeros_like(before.hu),
        overall_similarity=0.5,
        shift_correlation=0.5,
    )


def panels(figure: Figure) -> list[list[Axes]]:
    axes = figure.axes
    assert len(axes) == 12
    return [axes[4 * row : 4 * row + 4] for row in range(3)]


def pixels(axes: Axes) -> NDArray[np.float64]:
    return np.asarray(axes.images[0].get_array(), np.float64)


def is_unseen(image: NDArray[np.float64]) -> NDArray[np.bool_]:
    return np.isclose(image, to_rgb(_UNSEEN), atol=1e-3).all(axis=-1)


def words(figure: Figure) -> str:
    return "\n".join(text.get_text() for text in figure.texts)


def rings(axes: Axes) -> list[str]:
    """The ids that stand in a panel, next to their rings."""
    written = [text.get_text() for text in axes.texts if text.get_text().isdigit()]
    assert len(axes.lines) == len(written)
    return written


def as_png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=20)
    return file.getvalue()


# ------------------------------------------------------------------------------------------------------------ planes


@pytest.mark.parametrize("is_flipped", [False, True])
def test_what_was_merely_moved_lies_in_its_place(is_flipped: bool) -> None:
    baseline = body({CORNER: 300, MIDDLE: 150})
    followup = moved(baseline)
    if is_flipped:
        hu, grid = flipped(followup.hu, followup.grid)
        followup = Scan(hu=hu, grid=grid)
    for before, after, checkerboard, overlay in panels(
        draw_registration(registered(baseline, followup), baseline, followup)
    ):
        assert np.ptp(pixels(before)) > 0.5
        for axes in (after, checkerboard, overlay):
            np.testing.assert_allclose(pixels(axes), pixels(before), atol=0.01)


def test_error_of_registration_shows() -> None:
    baseline = body({MIDDLE: 300})
    followup = moved(baseline)
    wrong = registered(baseline, followup, tuple(np.add(MOVED_XYZ_MM, (12.0, 0.0, 0.0)).tolist()))
    axial = panels(draw_registration(wrong, baseline, followup))[0]
    assert np.abs(pixels(axial[1]) - pixels(axial[0])).max() > 0.5
    red, _, blue = np.moveaxis(pixels(axial[3]), -1, 0)
    assert (red - blue).max() > 0.3
    assert (blue - red).max() > 0.3


def test_patients_left_front_and_head_lie_as_radiologists_see_them() -> None:
    baseline = body({CORNER: 300})
    followup = moved(baseline)
    mark = prompt(1, tuple(np.add(CORNER, MOVED_XYZ_MM).tolist()), CORNER)
    rows = panels(draw_registration(registered(baseline, followup), baseline, followup, [mark]))
    for row, (right, top) in zip(rows, ((True, True), (True, True), (False, True)), strict=True):
        bright = np.argwhere(pixels(row[0])[..., 0] > 0.95)
        height, width, _ = pixels(row[0]).shape
        assert (bright[:, 1].mean() > width / 2) == right
        assert (bright[:, 0].mean() < height / 2) == top
    letters = [{text.get_text() for text in row[0].texts if text.get_text().isalpha()} for row in rows]
    assert letters == [{"R", "L", "A", "P"}, {"R", "L", "H", "F"}, {"A", "P", "H", "F"}]


def without_the_lower_half(scan: Scan, *, padded: bool) -> Scan:
    """A scan that ends there, or one with padding there."""
    if not padded:
        return Scan(hu=scan.hu[16:], grid=GRID.window((16, 0, 0), GRID.shape_zyx))
    hu = scan.hu.copy()
    hu[:16] = PADDING_HU
    return Scan(hu=hu, grid=GRID)


@pytest.mark.parametrize("padded", [False, True])
def test_what_the_followup_does_not_show_is_no_air(padded: bool) -> None:
    baseline = body({MIDDLE: 150})
    followup = moved(without_the_lower_half(baseline, padded=padded))
    before, after, checkerboard, overlay = panels(
        draw_registration(registered(baseline, followup), baseline, followup)
    )[1]
    assert not is_unseen(pixels(before)).any()
    for axes in (after, checkerboard, overlay):
        unseen = is_unseen(pixels(axes)).all(axis=1)
        assert unseen.mean() == pytest.approx(0.5, abs=0.05)
        assert unseen[-1]
    assert not is_unseen(np.zeros((1, 1, 3))).any()


def test_planes_go_through_the_middle_of_what_both_scans_show() -> None:
    baseline = body()
    followup = moved(without_the_lower_half(baseline, padded=False))
    figure = draw_registration(registered(baseline, followup), baseline, followup)
    assert "the middle of what both scans show" in words(figure)
    assert not is_unseen(pixels(panels(figure)[0][1])).any()


def test_followup_of_another_part_of_the_body_says_so() -> None:
    baseline = body()
    followup = moved(baseline)
    figure = draw_registration(registered(baseline, followup, (0.0, 0.0, 0.0)), baseline, followup)
    assert "the follow-up shows none of it" in words(figure)
    assert is_unseen(pixels(panels(figure)[0][1])).all()


@pytest.mark.parametrize("slices", [1, 2])
def test_scan_of_one_slice_has_a_picture(slices: int) -> None:
    thin = Grid.from_spacing((slices, 60, 80), (5.0, 2.0, 2.0))
    baseline = body(grid=thin)
    figure = draw_registration(registered(baseline, baseline, (0.0, 0.0, 0.0)), baseline, baseline)
    assert pixels(panels(figure)[0][0]).max() > 0.5
    # There is no room for the head and the feet.
    assert {text.get_text() for text in panels(figure)[1][0].texts} == {"R", "L"}
    assert as_png(figure).startswith(b"\x89PNG")


def test_empty_scan_has_a_picture() -> None:
    empty = Scan(hu=np.full(GRID.shape_zyx, AIR_HU, np.int16), grid=GRID)
    figure = draw_registration(registered(empty, empty, (0.0, 0.0, 0.0), "body centres"), empty, empty)
    assert pixels(panels(figure)[0][0]).max() == 0.0
    assert "body centres" in words(figure)


# ----------------------------------------------------------------------------------------------------------- lesions


def test_planes_go_through_the_least_certain_lesion() -> None:
    baseline = body({CORNER: 300})
    followup = moved(baseline)
    lesions = [
        replace(prompt(number, MIDDLE, place, propagated=True), confidence=confidence)
        for number, place, confidence in ((4, MIDDLE, 0.9), (7, CORNER, 0.3), (8, MIDDLE, 0.6))
    ]
    figure = draw_registration(registered(baseline, followup), baseline, followup, lesions)
    assert "lesion 7, the least certain one (confidence 0.30)" in words(figure)
    for row in panels(figure):
        assert {tuple(rings(axes)) for axes in row} == {("7",)}


def test_only_lesions_near_a_plane_are_marked_in_it() -> None:
    baseline = body()
    followup = moved(baseline)
    x, y, z = MIDDLE
    lesions = [
        replace(prompt(1, MIDDLE, MIDDLE), confidence=0.2),
        prompt(2, MIDDLE, (x + 30.0, y, z + 3.0)),
        prompt(3, MIDDLE, (x, y, z + 20.0)),
    ]
    rows = panels(draw_registration(registered(baseline, followup), baseline, followup, lesions))
    assert [rings(row[0]) for row in rows] == [["1", "2"], ["1", "2", "3"], ["1", "3"]]
    low, high = rows[0][0].lines
    assert low.get_color() != high.get_color()


def test_lesion_outside_the_followup_is_marked_but_not_what_the_planes_go_through() -> None:
    baseline = body()
    followup = moved(baseline)
    x, y, z = MIDDLE
    outside = OutsideLesion(lesion_id=5, baseline=click((x, y, z + 30.0)), confidence=0.1)
    figure = draw_registration(
        registered(baseline, followup), baseline, followup, [outside, prompt(6, MIDDLE, MIDDLE, propagated=True)]
    )
    assert "Planes through lesion 6 (" in words(figure)
    assert [rings(row[1]) for row in panels(figure)] == [["6"], ["5", "6"], ["5", "6"]]


def test_lesion_beyond_the_body_is_in_the_picture() -> None:
    # In the corner of the scan, where only air is; the body's box ends before.
    baseline = body()
    hu = np.full((32, 60, 160), AIR_HU, np.int16)
    hu[:, :, :80] = baseline.hu
    baseline = Scan(hu=hu, grid=Grid(shape_zyx=hu.shape, world_from_voxel=GRID.world_from_voxel))
    place = baseline.grid.world_xyz_mm((16, 30, 158))
    figure = draw_registration(
        registered(baseline, baseline, (0.0, 0.0, 0.0)), baseline, baseline, [prompt(1, place, place)]
    )
    axial = panels(figure)[0][0]
    (ring,) = axial.lines
    left, right = axial.get_xlim()
    assert left < ring.get_xdata()[0] < right


def test_lesion_without_a_place_in_the_baseline_is_not_drawn() -> None:
    baseline = body()
    followup = moved(baseline)
    figure = draw_registration(registered(baseline, followup), baseline, followup, [prompt(1, MIDDLE)])
    assert [rings(row[0]) for row in panels(figure)] == [[], [], []]
    assert "the middle of what both scans show" in words(figure)
