"""The table of networks: what is counted, what is measured, and what is too large."""

from pathlib import Path

import pytest
import torch

from longilesion.networks import build_network
from test.unit.builders import dual_encoder, model_settings
from training.networks import PASSES, Arguments, Pass, count, measure, noise, show

TINY = Path(__file__).parents[2] / "training" / "recipes" / "tiny.toml"
CPU = torch.device("cpu")


def test_parameters_are_those_of_the_network() -> None:
    settings = model_settings()
    assert count(settings).parameters == sum(each.numel() for each in build_network(settings).parameters())


def test_every_further_prior_costs_an_encoder_and_a_fusion_where_it_is_seen() -> None:
    iterative = model_settings(network=dual_encoder(fusion="iterative"))
    first, second, third = (count(iterative, priors=priors).flops for priors in (1, 2, 3))
    assert third - second == second - first > 0
    pointwise = model_settings()
    assert count(pointwise, priors=3) == count(pointwise, priors=1)


def test_noise_has_as_many_time_points_as_asked_for() -> None:
    alone, pair, series = (noise(model_settings(), priors=priors, device=CPU) for priors in (0, 1, 3))
    assert [bool(batch.has_baseline.all()) for batch in (alone, pair, series)] == [False, True, True]
    assert [batch.times for batch in (alone, pair, series)] == [0, 0, 2]


@pytest.mark.parametrize("what", PASSES)
def test_pass_takes_time(what: Pass) -> None:
    settings = model_settings(network=dual_encoder(fusion="iterative"))
    assert measure(settings, what, CPU, priors=2, repeats=1).seconds > 0


def test_table_has_a_row_per_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    show(Arguments(recipes=(TINY,), device="cpu", passes=()))
    _, headings, _, row = capsys.readouterr().out.splitlines()
    assert headings == "| recipe | network | VOI | parameters, M | GFLOPs |"
    assert row.startswith("| tiny | dual_encoder | 24x32x32 | 0.")


@pytest.mark.slow
def test_network_that_needs_more_memory_than_it_may_has_no_figures(capsys: pytest.CaptureFixture[str]) -> None:
    longinet = TINY.with_name("longinet.toml")
    show(Arguments(recipes=(longinet,), device="cpu", passes=("inference",), memory_gb=0.8))
    assert capsys.readouterr().out.splitlines()[-1].endswith("| - | - |")
    show(Arguments(recipes=(TINY,), device="cpu", passes=("training",), repeats=1))
    seconds, size = capsys.readouterr().out.splitlines()[-1].removesuffix(" |").split(" | ")[-2:]
    assert float(seconds) > 0
    assert float(size) > 0.02
