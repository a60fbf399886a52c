"""The pairs on which the confidence is fitted, and the measure of its calibration."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.registration_confidence import calibration_error, draw_diagram
from benchmarks.registration_pairs import registration_pair
from benchmarks.registration_visits import VISITS, Visits, kernel_twins, later_source
from longilesion.case import PADDING_HU
from longilesion.errors import InputError
from longilesion.geometry import Grid
from training.synthesis.sources import Source, source_of

SHAPE = (30, 60, 60)
GRID = Grid.from_spacing(SHAPE, (5.0, 4.0, 4.0))


def block(name: str = "block") -> Source:
    """A body with two lungs, fat under the skin, and texture."""
    generator = np.random.default_rng(3)
    hu = np.full(SHAPE, -1024.0)
    hu[:, 8:52, 8:52] = -100
    hu[:, 12:48, 12:48] = 40
    hu[8:, 18:42, 14:27] = -840
    hu[8:, 18:42, 33:46] = -840
    hu[:, 44:47, 28:32] = 500
    hu += generator.normal(0, 10, SHAPE)
    return source_of(name, np.clip(hu, -1024, 3000).astype(np.int16), GRID)


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=40), st.randoms(use_true_random=False))
def test_calibration_error_is_that_of_the_definition(confidences: list[float], random: object) -> None:
    truth = np.array([random.random() < 0.5 for _ in confidences])  # type: ignore[attr-defined]
    confidence = np.array(confidences)
    expected = 0.0
    for low in range(10):
        chosen = [
            (each, is_right)
            for each, is_right in zip(confidences, truth, strict=True)
            if low <= 10 * each < low + 1 or (low == 9 and each == 1.0)
        ]
        if chosen:
            means = np.mean(chosen, axis=0)
            expected += len(chosen) / len(confidences) * abs(means[0] - means[1])
    assert calibration_error(confidence, truth) == pytest.approx(expected)


def test_diagram_is_drawn(tmp_path: Path) -> None:
    draw_diagram(tmp_path / "diagram.png", np.array([0.05, 0.95, 0.9]), np.array([False, True, True]))
    assert (tmp_path / "diagram.png").stat().st_size > 5000


def test_volumes_of_two_kernels_belong_together() -> None:
    assert kernel_twins(["a_soft", "b", "a_sharp", "c_soft"]) == {"a_soft": "a_sharp", "a_sharp": "a_soft"}


def test_second_visit_changes_tissue_but_neither_bone_nor_air() -> None:
    source = block()
    later = later_source(source, np.random.default_rng(0), Visits(), twin=None)
    assert (later.hu[source.hu < -1000] < -950).all()
    np.testing.assert_array_equal(later.hu[source.hu > 300], source.hu[source.hu > 300])
    lung = (source.hu > -900) & (source.hu < -780)
    assert np.median(np.abs(later.hu[lung].astype(int) - source.hu[lung])) > 10
    assert later_source(source, np.random.default_rng(0), VISITS["moderate motion"], twin=None) is source


def test_twin_of_other_voxels_is_refused() -> None:
    other = replace(block("x_sharp"), hu=np.zeros((3, 4, 5), np.int16))
    with pytest.raises(InputError, match=r"x_sharp: \(3, 4, 5\) voxels; expected the \(30, 60, 60\) of x_soft"):
        later_source(block("x_soft"), np.random.default_rng(0), Visits(), twin=other)


@pytest.mark.parametrize("name", ["a part of the body", "round field of view"])
def test_points_of_a_smaller_field_of_view_are_those_that_its_voxels_show(name: str) -> None:
    generator = np.random.default_rng(5)
    pair = registration_pair(block(), generator, coverage="same", visits=VISITS[name])
    for place in pair.baseline_xyz_mm:
        index = tuple(np.rint(pair.baseline.grid.index_zyx(place)).astype(int))
        assert pair.baseline.hu[index] > PADDING_HU
    for place, is_shown in zip(pair.followup_xyz_mm, pair.is_shown, strict=True):
        index = tuple(np.rint(pair.followup.grid.index_zyx(place)).astype(int))
        inside = all(0 <= each < length for each, length in zip(index, pair.followup.hu.shape, strict=True))
        assert is_shown == (inside and pair.followup.hu[index] > PADDING_HU)
    if name == "round field of view":
        assert (pair.followup.hu == PADDING_HU).any()
    else:
        assert pair.followup.grid.shape_zyx[1] * pair.followup.grid.spacing_zyx_mm[1] < 245.0
