"""Shapes and types are checked while the tests run, in the library as in training."""

from __future__ import annotations

import jaxtyping
import numpy as np
import pytest
import torch

from longilesion.evaluation.detection import curve, ranked
from training.synthesis.deformation import _outer_sum
from training.synthesis.room import Room


def test_wrong_shape_is_refused_in_the_library_and_in_training() -> None:
    with pytest.raises(jaxtyping.TypeCheckError):
        curve(ranked([], iou=0.1, over_mm=0.0), np.ones(3))
    axis = torch.ones(2)
    assert _outer_sum(axis, torch.ones(3), torch.ones(4)).shape == (2, 3, 4)
    with pytest.raises(jaxtyping.TypeCheckError):
        _outer_sum(axis, torch.ones(3), torch.ones(4, 1))
    room = Room(
        free=np.ones((4, 5, 6), np.bool_),
        tissue="soft",
        median_hu=40.0,
        first_zyx_mm=np.zeros(3),
        spacing_zyx_mm=np.ones(3),
        order=np.arange(120),
        depths_mm=np.ones(120),
    )
    with pytest.raises(jaxtyping.TypeCheckError):
        room.is_free(np.zeros((2, 2), int))
