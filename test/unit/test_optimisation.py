import pytest
import torch

from longilesion.networks import build_network
from test.unit.builders import dual_encoder, model_settings, random_input
from training.optimisation import averaging, initialised, learning_rate
from training.recipe import OptimizerSettings


def test_average_forgets_the_first_steps_and_then_keeps_its_pace() -> None:
    update = averaging(0.9)
    average, weight = torch.zeros(1), torch.ones(1)
    update([average], [weight], torch.tensor(2))
    assert float(average) == pytest.approx(1 - 3 / 12)
    average.zero_()
    update([average], [weight], torch.tensor(1000))
    assert float(average) == pytest.approx(0.1)


def test_a_fresh_network_says_that_lesions_are_rare() -> None:
    settings = model_settings(network=dual_encoder(baseline_reconstruction=True))
    network = initialised(build_network(settings)).train()
    with torch.inference_mode():
        output = network(random_input(settings))
    assert output.baseline_logits is not None
    for logits in (*output.lesion_logits, *output.baseline_logits):
        assert float(logits.sigmoid().mean()) < 0.1


def test_learning_rate_falls_as_a_polynomial() -> None:
    settings = OptimizerSettings(learning_rate=0.01, decay_exponent=0.9)
    rates = [learning_rate(step, 10, settings) for step in range(10)]
    assert rates[0] == pytest.approx(0.01)
    assert rates[5] == pytest.approx(0.01 * 0.5**0.9)
    assert rates[9] == pytest.approx(0.01 * 0.1**0.9)
    assert rates == sorted(rates, reverse=True)


def test_warm_up_holds_a_fraction_of_the_rate() -> None:
    settings = OptimizerSettings(learning_rate=0.01, warmup_steps=3, warmup_factor=0.1)
    rates = [learning_rate(step, 10, settings) for step in range(5)]
    plain = [learning_rate(step, 10, OptimizerSettings(learning_rate=0.01)) for step in range(5)]
    ratios = [rate / full for rate, full in zip(rates, plain, strict=True)]
    assert ratios == pytest.approx([0.1, 0.1, 0.1, 1, 1])
