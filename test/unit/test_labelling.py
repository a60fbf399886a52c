from collections.abc import Sequence
from itertools import permutations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from longilesion.case import LesionPrediction
from longilesion.config import InferenceSettings
from longilesion.geometry import ZYX, Grid, Triple
from longilesion.labelling import LabelledScan, label_lesions
from test.unit.builders import ball, prompt

GRID = Grid.from_spacing((12, 20, 24), (1.0, 1.0, 1.0))
Box = tuple[slice, slice, slice]


def predicted(
    lesion_id: int,
    probability: NDArray,
    *,
    click_zyx: Triple,
    grid: Grid = GRID,
    presence: float = 0.9,
) -> LesionPrediction:
    """A prediction whose lattice is the scan's own grid."""
    return LesionPrediction(
        prompt=prompt(lesion_id, grid.world_xyz_mm(click_zyx)),
        probability=probability.astype(np.float32),
        presence=presence,
        grid=grid,
    )


def filled(*boxes: tuple[Box, float], grid: Grid = GRID) -> NDArray[np.float32]:
    """Probability 0 but for boxes of a constant."""
    probability = np.zeros(grid.shape_zyx, np.float32)
    for box, value in boxes:
        probability[box] = value
    return probability


def box(start_zyx: ZYX, stop_zyx: ZYX) -> Box:
    z, y, x = (slice(low, high) for low, high in zip(start_zyx, stop_zyx, strict=True))
    return z, y, x


def labelled(*predictions: LesionPrediction, grid: Grid = GRID, labels: str = "lesion_ids") -> LabelledScan:
    return label_lesions(predictions, grid, InferenceSettings(), labels=labels)


def found(result: LabelledScan) -> list[int]:
    return [int(label) for label in np.unique(result.lesions.ids) if label]


def mask_of(*boxes: Box, grid: Grid = GRID) -> NDArray[np.bool_]:
    return filled(*((part, 1.0) for part in boxes), grid=grid) > 0


# ------------------------------------------------------------------------------------------------------- one lesion


def test_lesion_is_written_where_its_probability_reaches_the_threshold() -> None:
    inner, rim = box((4, 6, 6), (8, 12, 12)), box((3, 5, 5), (9, 13, 13))
    result = labelled(predicted(7, filled((rim, 0.49), (inner, 0.8)), click_zyx=(6, 9, 9)))
    np.testing.assert_array_equal(result.lesions.ids, 7 * mask_of(inner))
    assert result.volumes_ml == {7: pytest.approx(4 * 6 * 6 / 1000)}
    assert result.probabilities == {7: pytest.approx(0.8)}
    assert not result.notes


def test_lesion_below_the_presence_threshold_gets_no_voxel_and_a_note() -> None:
    result = labelled(predicted(3, np.full(GRID.shape_zyx, 0.9), click_zyx=(6, 9, 9), presence=0.31))
    assert not result.lesions.ids.any()
    assert "0.31" in result.notes[3]
    assert 3 not in result.volumes_ml


def test_lesion_at_the_presence_threshold_is_present() -> None:
    result = labelled(predicted(3, filled((box((4, 6, 6), (8, 12, 12)), 0.5)), click_zyx=(6, 9, 9), presence=0.5))
    assert found(result) == [3]


def test_lesion_without_a_probable_voxel_has_a_note() -> None:
    result = labelled(predicted(3, np.full(GRID.shape_zyx, 0.4), click_zyx=(6, 9, 9)))
    assert not result.lesions.ids.any()
    assert "0.50" in result.notes[3]


def test_no_prediction_gives_an_empty_map() -> None:
    result = labelled()
    assert result.lesions.ids.shape == GRID.shape_zyx
    assert result.lesions.ids.dtype == np.uint16
    assert not result.lesions.ids.any()


def test_lesion_300_stays_300() -> None:
    result = labelled(predicted(300, filled((box((4, 6, 6), (8, 12, 12)), 0.9)), click_zyx=(6, 9, 9)))
    assert found(result) == [300]


def test_binary_labels_are_all_1() -> None:
    one, other = box((2, 2, 2), (6, 6, 6)), box((2, 12, 12), (6, 18, 18))
    result = labelled(
        predicted(300, filled((one, 0.9)), click_zyx=(4, 4, 4)),
        predicted(2, filled((other, 0.9)), click_zyx=(4, 15, 15)),
        labels="binary",
    )
    np.testing.assert_array_equal(result.lesions.ids, mask_of(one, other))
    assert result.volumes_ml.keys() == {300, 2}


# ------------------------------------------------------------------------------------------------------- components


def test_background_at_the_centre_keeps_the_nearest_component_only() -> None:
    near, far = box((4, 4, 4), (8, 8, 8)), box((4, 12, 14), (10, 19, 22))
    result = labelled(predicted(1, filled((near, 0.6), (far, 0.99)), click_zyx=(6, 10, 10)))
    np.testing.assert_array_equal(result.lesions.ids > 0, mask_of(near))


def test_nearest_component_is_nearest_in_millimetres_not_in_voxels() -> None:
    grid = Grid.from_spacing((12, 20, 24), (5.0, 1.0, 1.0))
    # Three slices above the click are 15 mm, six voxels beside it are 6 mm.
    above, beside = box((8, 8, 8), (10, 12, 12)), box((4, 8, 16), (6, 12, 20))
    result = labelled(
        predicted(1, filled((above, 0.9), (beside, 0.9), grid=grid), click_zyx=(5, 10, 10), grid=grid), grid=grid
    )
    np.testing.assert_array_equal(result.lesions.ids > 0, mask_of(beside, grid=grid))


def test_component_is_near_by_its_closest_voxel_not_by_its_middle() -> None:
    long, small = box((5, 10, 8), (7, 12, 24)), box((5, 3, 6), (7, 5, 8))
    result = labelled(predicted(1, filled((long, 0.9), (small, 0.9)), click_zyx=(5, 10, 6)))
    np.testing.assert_array_equal(result.lesions.ids > 0, mask_of(long))


def test_voxels_that_share_an_edge_are_one_component_and_those_that_share_a_corner_are_not() -> None:
    by_edge = filled((box((4, 4, 4), (6, 6, 6)), 0.9), (box((4, 6, 6), (6, 8, 8)), 0.9))
    by_corner = filled((box((4, 4, 4), (6, 6, 6)), 0.9), (box((6, 6, 6), (8, 8, 8)), 0.9))
    assert (labelled(predicted(1, by_edge, click_zyx=(4, 4, 4))).lesions.ids > 0).sum() == 16
    assert (labelled(predicted(1, by_corner, click_zyx=(4, 4, 4))).lesions.ids > 0).sum() == 8


# --------------------------------------------------------------------------------------------------------- overlaps


def test_overlap_goes_to_the_higher_probability_whatever_the_id() -> None:
    left, right = box((4, 6, 2), (8, 10, 12)), box((4, 6, 9), (8, 10, 20))
    for weak, strong in ((1, 2), (2, 1)):
        result = labelled(
            predicted(weak, filled((left, 0.7)), click_zyx=(6, 8, 5)),
            predicted(strong, filled((right, 0.8)), click_zyx=(6, 8, 15)),
        )
        np.testing.assert_array_equal(result.lesions.ids == strong, mask_of(right))
        np.testing.assert_array_equal(result.lesions.ids == weak, mask_of(left) & ~mask_of(right))


def test_equal_probability_goes_to_the_nearer_click_in_millimetres() -> None:
    grid = Grid.from_spacing((20, 8, 24), (4.0, 1.0, 1.0))
    # Both hold the voxels x = 8..12 of one slice; lesion 1's click is 2 slices (8 mm) away, lesion 2's 7 voxels (7 mm).
    above, beside = box((5, 2, 8), (11, 6, 13)), box((10, 2, 8), (11, 6, 22))
    result = labelled(
        predicted(1, filled((above, 0.7), grid=grid), click_zyx=(8.0, 4.0, 10.0), grid=grid),
        predicted(2, filled((beside, 0.7), grid=grid), click_zyx=(10.0, 4.0, 17.0), grid=grid),
        grid=grid,
    )
    shared = result.lesions.ids[10, 4, 8:13]
    # 17 - 8 = 9 mm is farther than sqrt(8^2 + 2^2) = 8.2 mm; the next voxel is nearer to lesion 2 (8 mm < 8.1 mm).
    np.testing.assert_array_equal(shared, [1, 2, 2, 2, 2])


def test_dropped_component_takes_nothing_from_a_neighbour() -> None:
    # Lesion 2 is a hook around lesion 1; what else it was given there is another component, and dropped.
    hook = [box((4, 4, 4), (8, 6, 20)), box((4, 4, 4), (8, 16, 6)), box((4, 14, 4), (8, 16, 20))]
    inside = box((4, 8, 10), (8, 12, 16))
    result = labelled(
        predicted(1, filled((inside, 0.7)), click_zyx=(6, 10, 13)),
        predicted(2, filled(*((part, 0.8) for part in hook), (inside, 0.99)), click_zyx=(6, 5, 5)),
    )
    np.testing.assert_array_equal(result.lesions.ids, mask_of(inside) + 2 * mask_of(*hook))


def test_lesion_whose_voxels_all_belong_to_another_has_a_note() -> None:
    # It shares less than half with each neighbour, so it is merged with none, yet together they cover it.
    covered = box((4, 6, 7), (8, 10, 17))
    left, wall, right = box((4, 6, 0), (8, 10, 10)), box((2, 2, 10), (10, 16, 14)), box((4, 6, 14), (8, 10, 24))
    result = labelled(
        predicted(1, filled((left, 0.9)), click_zyx=(6, 8, 5)),
        predicted(2, filled((covered, 0.6)), click_zyx=(6, 8, 12)),
        predicted(3, filled((wall, 0.9)), click_zyx=(6, 4, 12)),
        predicted(4, filled((right, 0.9)), click_zyx=(6, 8, 19)),
    )
    assert found(result) == [1, 3, 4]
    assert "higher probability" in result.notes[2]
    assert result.volumes_ml[2] == 0


def test_lesion_cut_in_two_by_an_overlap_leaves_no_crumbs() -> None:
    bar, wall = box((4, 8, 2), (8, 10, 22)), box((2, 2, 16), (10, 16, 18))
    result = labelled(
        predicted(1, filled((bar, 0.7)), click_zyx=(6, 9, 5)),
        predicted(2, filled((wall, 0.9)), click_zyx=(6, 4, 17)),
    )
    np.testing.assert_array_equal(result.lesions.ids == 1, mask_of(box((4, 8, 2), (8, 10, 16))))
    assert result.volumes_ml[1] == pytest.approx(4 * 2 * 14 / 1000)
    np.testing.assert_array_equal(result.lesions.ids == 2, mask_of(wall))


def test_touching_lesions_keep_two_labels_and_do_not_bleed() -> None:
    left, right = box((4, 6, 2), (8, 10, 12)), box((4, 6, 12), (8, 10, 20))
    result = labelled(
        predicted(1, filled((left, 0.9)), click_zyx=(6, 8, 6)),
        predicted(2, filled((right, 0.6)), click_zyx=(6, 8, 16)),
    )
    np.testing.assert_array_equal(result.lesions.ids, mask_of(left) + 2 * mask_of(right))
    assert not result.notes


# ---------------------------------------------------------------------------------------------------- merged lesions


def test_merged_lesions_get_one_label_and_the_other_says_so() -> None:
    blob = filled((box((4, 4, 4), (8, 12, 16)), 0.9))
    result = labelled(predicted(1, blob, click_zyx=(6, 5, 5)), predicted(2, blob, click_zyx=(6, 8, 10)))
    assert found(result) == [2]
    assert result.notes == {1: "merged with lesion 2"}
    assert result.volumes_ml == {2: pytest.approx(4 * 8 * 12 / 1000)}


def test_merged_outlines_are_united() -> None:
    left, right = box((4, 6, 4), (8, 10, 14)), box((4, 6, 7), (8, 10, 18))
    result = labelled(
        predicted(1, filled((left, 0.7)), click_zyx=(6, 8, 10)),
        predicted(2, filled((right, 0.8)), click_zyx=(6, 8, 17)),
    )
    np.testing.assert_array_equal(result.lesions.ids, 1 * mask_of(left, right))
    assert result.notes == {2: "merged with lesion 1"}


def test_chain_of_merged_lesions_is_one() -> None:
    parts = [box((4, 6, start), (8, 10, start + 8)) for start in (2, 6, 10, 14)]
    result = labelled(
        *(
            predicted(number, filled((part, 0.9)), click_zyx=(6.0, 8.0, part[2].start + 3.5))
            for number, part in enumerate(parts, start=1)
        )
    )
    assert len(found(result)) == 1
    assert len(result.notes) == 3
    np.testing.assert_array_equal(result.lesions.ids > 0, mask_of(*parts))


# --------------------------------------------------------------------------------------------------- order and geometry


def random_predictions(grid: Grid) -> list[LesionPrediction]:
    """Five blurred balls that overlap, touch and merge, some probabilities equal."""
    generator = np.random.default_rng(1)
    predictions = []
    for number in range(1, 6):
        centre = generator.uniform((4, 5, 5), (8, 15, 19))
        inside = ball(grid, grid.world_xyz_mm(centre), float(generator.uniform(3, 5)))
        value = float(generator.choice([0.6, 0.8]))
        click_zyx = tuple((centre + generator.normal(0, 1, 3)).tolist())
        predictions.append(predicted(number, inside * np.float32(value), click_zyx=click_zyx, grid=grid))
    return predictions


def test_order_of_the_predictions_does_not_matter() -> None:
    predictions = random_predictions(GRID)
    expected = labelled(*predictions)
    assert len(found(expected)) >= 2
    for order in list(permutations(predictions))[::7]:
        result = labelled(*order)
        np.testing.assert_array_equal(result.lesions.ids, expected.lesions.ids)
        assert result.notes == expected.notes


@pytest.mark.parametrize("shared_share", [0.3, 1.0], ids=["overlapping", "merged"])
def test_order_does_not_matter_even_where_all_is_equal(shared_share: float) -> None:
    width = round(10 * shared_share)
    left, right = box((4, 6, 2), (8, 10, 12)), box((4, 6, 12 - width), (8, 10, 22 - width))
    middle = (12 - width + 11) / 2
    predictions = [
        predicted(1, filled((left, 0.7)), click_zyx=(6.0, 8.0, middle - 2)),
        predicted(2, filled((right, 0.7)), click_zyx=(6.0, 8.0, middle + 2)),
    ]
    forward, backward = labelled(*predictions), labelled(*reversed(predictions))
    np.testing.assert_array_equal(forward.lesions.ids, backward.lesions.ids)
    assert forward.notes == backward.notes


@pytest.mark.parametrize(
    "direction",
    [
        np.diag([-1.0, -1.0, 1.0]),
        -np.eye(3),
        np.eye(3)[[1, 2, 0]],
        Rotation.from_euler("xyz", (10, -8, 12), True).as_matrix(),
    ],
    ids=["turned", "mirrored", "permuted", "oblique"],
)
def test_labels_lie_where_the_lesions_are_whatever_the_scans_axes(direction: NDArray[np.float64]) -> None:
    grid = Grid.from_spacing((14, 20, 16), (2.0, 1.0, 1.5), origin_xyz_mm=(-40.0, 30.0, 7.0), direction=direction)
    _, lps = grid.lps_view(np.empty(grid.shape_zyx, np.bool_))
    predictions = random_predictions(lps)
    result = labelled(*predictions, grid=grid)
    along_lps = labelled(*predictions, grid=lps)
    view, _ = grid.lps_view(result.lesions.ids)
    assert found(result) == found(along_lps) != []
    np.testing.assert_array_equal(view, along_lps.lesions.ids)
    assert result.lesions.grid is grid


def test_nothing_is_written_outside_the_lattice() -> None:
    lattice = GRID.lattice(start_zyx=(3.0, 5.0, 5.0), step_zyx=(1.0, 1.0, 1.0), shape_zyx=(6, 6, 6))
    prediction = LesionPrediction(
        prompt=prompt(4, GRID.world_xyz_mm((6, 8, 8))),
        probability=np.ones((6, 6, 6), np.float32),
        presence=1.0,
        grid=lattice,
    )
    np.testing.assert_array_equal(labelled(prediction).lesions.ids > 0, mask_of(box((3, 5, 5), (9, 11, 11))))


def test_lattice_beyond_the_scan_gives_a_note_and_no_voxel() -> None:
    lattice = GRID.lattice(start_zyx=(50.0, 5.0, 5.0), step_zyx=(1.0, 1.0, 1.0), shape_zyx=(6, 6, 6))
    prediction = LesionPrediction(
        prompt=prompt(4, GRID.world_xyz_mm((6, 8, 8))),
        probability=np.ones((6, 6, 6), np.float32),
        presence=1.0,
        grid=lattice,
    )
    result = labelled(prediction)
    assert not result.lesions.ids.any()
    assert result.notes[4]


def test_every_empty_lesion_has_a_note_and_no_other_has_one() -> None:
    predictions: Sequence[LesionPrediction] = random_predictions(GRID)
    result = labelled(*predictions, predicted(9, np.zeros(GRID.shape_zyx), click_zyx=(6, 9, 9)))
    assert set(result.notes) == {*range(1, 6), 9} - set(found(result))
    assert all(result.notes.values())
    assert set(result.probabilities) == set(found(result))
