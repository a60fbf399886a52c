"""Sharpness-aware steps against the two lines of their paper, on functions whose gradients are known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision import MixedPrecision
from torch import Tensor, nn

from longilesion.networks.interface import LesionNetwork
from test.unit.test_optimisation import three_lesions
from test.unit.training_runs import write_recipe
from training.learner import LesionLearner, Pass, Progress
from training.recipe import OptimizerSettings, read_recipe
from training.sharpness import sharpness_aware_gradients

RHO, RATE = 0.5, 0.1
# A quadratic w^T A w / 2, whose gradient is A w.
CURVATURE = torch.tensor([[3.0, 1.0], [1.0, 0.5]])
START = torch.tensor([0.7, -1.3])


class Quadratic(LesionNetwork):
    """Its weight is split in two tensors, over both of which the norm has to run; one more is not used."""

    description = "quadratic function"

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Parameter(START[:1].clone()), nn.Parameter(START[1:].clone())
        self.unused = nn.Parameter(torch.ones(3))

    @property
    def weight(self) -> Tensor:
        return torch.cat((self.first, self.second))

    def forward(self) -> Tensor:
        return self.weight @ CURVATURE @ self.weight / 2

    def output_layers(self) -> tuple[nn.Module, ...]:
        return ()


def by_the_paper(weight: Tensor) -> Tensor:
    """A descent step with the gradient at w + epsilon."""
    gradient = CURVATURE @ weight
    epsilon = RHO * gradient / gradient.norm()
    return weight - RATE * CURVATURE @ (weight + epsilon)


def one_pass(function: Quadratic, scale: Callable[[Tensor], Tensor] = lambda loss: loss) -> Callable[[], Tensor]:
    def run() -> Tensor:
        function.zero_grad()
        loss = function()
        scale(loss).backward()
        return loss.detach()

    return run


@pytest.mark.parametrize("scale", [1.0, 2.0**16, 2.0**-16])
def test_step_is_that_of_the_paper_whatever_the_gradients_scale(scale: float) -> None:
    function = Quadratic()
    loss = sharpness_aware_gradients(one_pass(function, lambda loss: loss * scale), function.parameters(), rho=RHO)
    # What is reported is the loss of the weights, and these are where they were, to the bit.
    assert float(loss) == float(START @ CURVATURE @ START / 2)
    assert torch.equal(function.weight, START)
    assert function.unused.grad is None
    assert function.first.grad is not None
    assert function.second.grad is not None
    gradient = torch.cat((function.first.grad, function.second.grad)) / scale
    torch.testing.assert_close(START - RATE * gradient, by_the_paper(START))


def test_without_sharpness_there_is_one_pass_with_the_plain_gradient() -> None:
    function, calls = Quadratic(), []

    def counted() -> Tensor:
        calls.append(1)
        return one_pass(function)()

    sharpness_aware_gradients(counted, function.parameters(), rho=0.0)
    assert len(calls) == 1
    torch.testing.assert_close(function.first.grad, (CURVATURE @ START)[:1])


def test_weights_move_by_rho_and_come_back_even_from_an_error() -> None:
    function, moved = Quadratic(), []

    def failing() -> Tensor:
        moved.append(float((function.weight.detach() - START).norm()))
        if len(moved) == 2:
            raise RuntimeError("in the second pass")
        return one_pass(function)()

    with pytest.raises(RuntimeError, match="in the second pass"):
        sharpness_aware_gradients(failing, function.parameters(), rho=RHO)
    assert moved == pytest.approx([0.0, RHO])
    assert torch.equal(function.weight, START)


def test_at_a_minimum_nothing_moves() -> None:
    function = Quadratic()
    with torch.no_grad():
        function.first.zero_()
        function.second.zero_()
    sharpness_aware_gradients(one_pass(function), function.parameters(), rho=RHO)
    assert torch.equal(function.weight, torch.zeros(2))
    assert torch.equal(function.first.grad, torch.zeros(1))


def test_gradient_that_is_no_number_is_left_and_nothing_moves() -> None:
    function, calls = Quadratic(), []

    def spoilt() -> Tensor:
        calls.append(1)
        return one_pass(function, lambda loss: loss * float("inf"))()

    sharpness_aware_gradients(spoilt, function.parameters(), rho=RHO)
    assert len(calls) == 1
    assert torch.equal(function.weight, START)
    assert not function.first.grad.isfinite()


def test_both_passes_draw_the_same() -> None:
    function, drawn = Quadratic(), []

    def drawing() -> Tensor:
        drawn.append(torch.rand(3))
        return one_pass(function)()

    torch.manual_seed(0)
    sharpness_aware_gradients(drawing, function.parameters(), rho=RHO)
    assert torch.equal(drawn[0], drawn[1])
    # The next step draws anew.
    assert not torch.equal(torch.rand(3), drawn[0])


# ---------------------------------------------------------------------------------------------------- a learner's step


def learner_of(fabric: Fabric, folder: Path) -> LesionLearner:
    recipe = read_recipe(write_recipe(folder / "tiny.toml"))
    optimizer = OptimizerSettings(momentum=1e-12, weight_decay=0.0, gradient_clip=100.0, sharpness=RHO)
    return LesionLearner.of(Quadratic(), recipe.model_copy(update={"optimizer": optimizer}), fabric)


def half_precision(scale: float) -> tuple[Fabric, torch.amp.GradScaler]:
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    plugin = MixedPrecision("16-mixed", device="cpu", scaler=scaler)
    return Fabric(accelerator="cpu", plugins=[plugin]), scaler


@pytest.fixture
def spoilt_calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The calls of the loss that give infinity instead, counted from 1; replaces the loss by the quadratic."""
    spoilt, calls = [], []

    def losses(learner: LesionLearner, batch: object) -> Pass:
        calls.append(1)
        loss = learner.network()
        return Pass(parts={"outline": loss * float("inf") if len(calls) in spoilt else loss})

    monkeypatch.setattr(LesionLearner, "_losses", losses)
    return spoilt


@pytest.mark.parametrize("precision", ["32-true", "16-mixed"])
@pytest.mark.usefixtures("spoilt_calls")
def test_learners_step_is_that_of_the_paper(precision: str, tmp_path: Path) -> None:
    fabric = half_precision(1024.0)[0] if precision == "16-mixed" else Fabric(accelerator="cpu")
    learner, done, expected = learner_of(fabric, tmp_path), Progress(), START
    for _ in range(3):
        # In half precision, the quadratic itself is rounded.
        with torch.autocast("cpu", enabled=False):
            learner.step(three_lesions(), done, rate=RATE)
        expected = by_the_paper(expected)
        torch.testing.assert_close(learner.network.weight, expected)
    assert (done.step, done.bad_steps) == (3, 0)


@pytest.mark.parametrize("spoilt", [1, 2])
def test_pass_without_numbers_skips_the_step_and_lowers_the_scale_once(
    spoilt_calls: list[int], spoilt: int, tmp_path: Path
) -> None:
    spoilt_calls.append(spoilt)
    fabric, scaler = half_precision(1024.0)
    learner, done = learner_of(fabric, tmp_path), Progress()
    learner.step(three_lesions(), done, rate=RATE)
    assert (done.step, done.bad_steps) == (1, 1)
    assert torch.equal(learner.network.weight, START)
    assert scaler.get_scale() == 512.0
    learner.step(three_lesions(), done, rate=RATE)
    torch.testing.assert_close(learner.network.weight, by_the_paper(START))
    assert scaler.get_scale() == 512.0


@pytest.mark.usefixtures("spoilt_calls")
def test_second_gradient_is_the_one_that_is_clipped(tmp_path: Path) -> None:
    learner, done = learner_of(Fabric(accelerator="cpu"), tmp_path), Progress()
    learner.step(three_lesions(), done, rate=RATE)
    gradient = (START - by_the_paper(START)) / RATE
    assert done.sums["gradient_norm"] == pytest.approx(float(gradient.norm()))
    assert done.sums["loss"] == pytest.approx(float(START @ CURVATURE @ START / 2))


def test_sharpness_is_off_unless_asked_for() -> None:
    assert OptimizerSettings().sharpness == 0
