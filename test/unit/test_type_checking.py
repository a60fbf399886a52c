"""Shapes and types are checked while the tests run, in the library as in training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import jaxtyping
import numpy as np
import pytest
import torch
from jaxtyping import Float

from longilesion.evaluation.detection import curve, ranked
from test.type_checking import checked
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


Line: TypeAlias = Float[np.ndarray, "n"]


@checked
def sum_of(first: Line, second: Line, *, halves: bool = False) -> Line:
    # Each call has its own sizes, also the one within another.
    head = sum_of(first[:1], second[:1]) if len(first) > 1 else first[:1] + second[:1]
    return np.concatenate([head, first[1:] + second[1:]])[:: 2 if halves else 1]


@checked
def lines(first: Line, second: Line) -> Iterator[Line]:
    yield first + second


@checked
@dataclass(frozen=True, slots=True)
class Pair:
    first: Line
    second: Line
    other: Pair | None = None

    @classmethod
    @checked
    def of(cls, first: Line, second: Line) -> Pair:
        return cls(first, second)

    @staticmethod
    @checked
    def alike(first: Line, second: Line) -> bool:
        return bool((first == second).all())

    @property
    @checked
    def name(self) -> str:
        return len(self.first)  # type: ignore[return-value]


@checked
def read(of: NotThere, count: int) -> float:
    return count


ONE, THREE = np.ones(1), np.ones(3)


def test_right_calls_pass() -> None:
    assert sum_of(ONE[:0], second=ONE[:0], halves=True).size == 0
    assert [each.tolist() for each in lines(THREE, THREE)] == [[2, 2, 2]]
    assert Pair.of(THREE, THREE).other is None
    assert Pair(THREE, THREE, Pair(ONE, ONE)).other is not None
    assert Pair.alike(THREE, THREE)
    assert read("what only static checkers import", 3) == 3


def test_types_are_those_of_the_code_whatever_a_test_puts_in_their_place(monkeypatch: pytest.MonkeyPatch) -> None:
    @checked
    def length(of: Line) -> int:
        return len(of)

    monkeypatch.setitem(globals(), "Line", str)
    assert length(THREE) == 3
    with pytest.raises(jaxtyping.TypeCheckError):
        length("three")


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda: sum_of(THREE, ONE), id="sizes of two arguments"),
        pytest.param(lambda: sum_of(THREE, THREE, halves=True), id="sizes of argument and result"),
        pytest.param(lambda: sum_of(THREE, np.ones(3, int)), id="type of numbers"),
        pytest.param(lambda: sum_of(THREE, THREE, halves=1), id="keyword"),
        pytest.param(lambda: lines(THREE, ONE), id="generator before its first item"),
        pytest.param(lambda: Pair(THREE, ONE), id="dataclass"),
        pytest.param(lambda: Pair(THREE, THREE, 1), id="dataclass within itself"),
        pytest.param(lambda: Pair.of(THREE, ONE), id="class method"),
        pytest.param(lambda: Pair.alike(THREE, ONE), id="static method"),
        pytest.param(lambda: Pair(THREE, THREE).name, id="property"),
        pytest.param(lambda: read(None, 1.5), id="beside a name that is not there"),
    ],
)
def test_wrong_call_is_refused(call: Callable[[], object]) -> None:
    with pytest.raises(jaxtyping.TypeCheckError):
        call()
