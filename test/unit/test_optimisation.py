import pytest
import torch

from longilesion.config import EncodingSettings
from longilesion.networks import build_network
from longilesion.networks.interface import NetworkInput
from test.unit.builders import dual_encoder, model_settings, random_input
from training.batch import Batch
from training.optimisation import Objective, averaging, build_optimizer, initialised, learning_rate
from training.recipe import LossSettings, OptimizerSettings


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
    rates = [learning_rate(step, step / 10, settings) for step in range(10)]
    assert rates[0] == pytest.approx(0.01)
    assert rates[5] == pytest.approx(0.01 * 0.5**0.9)
    assert rates[9] == pytest.approx(0.01 * 0.1**0.9)
    assert rates == sorted(rates, reverse=True)


def test_warm_up_holds_a_fraction_of_the_rate() -> None:
    settings = OptimizerSettings(learning_rate=0.01, warmup_steps=3, warmup_factor=0.1)
    rates = [learning_rate(step, step / 10, settings) for step in range(5)]
    plain = [learning_rate(step, step / 10, OptimizerSettings(learning_rate=0.01)) for step in range(5)]
    ratios = [rate / full for rate, full in zip(rates, plain, strict=True)]
    assert ratios == pytest.approx([0.1, 0.1, 0.1, 1, 1])


@pytest.mark.parametrize(
    ("kind", "expected"), [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)]
)
def test_optimiser_is_the_named_one(kind: str, expected: type[torch.optim.Optimizer]) -> None:
    settings = OptimizerSettings(kind=kind, learning_rate=0.02, weight_decay=0.03)
    optimizer = build_optimizer(torch.nn.Linear(2, 1), settings)
    assert type(optimizer) is expected
    (group,) = optimizer.param_groups
    assert (group["lr"], group["weight_decay"]) == (0.02, 0.03)


def test_a_tiny_network_learns_as_it_did_before() -> None:
    """Changes of structure are to leave the losses of a run as they are."""
    encoding = EncodingSettings(
        followup_channels=("image", "click_heatmap"),
        baseline_channels=("image", "lesion_mask", "click_heatmap"),
        other_lesions_value=-1.0,
    )
    settings = model_settings(
        shape_zyx=(8, 16, 16), encoding=encoding, network=dual_encoder(features_per_stage=(4, 8, 8), stem_zyx=(1, 2, 2))
    )
    torch.manual_seed(0)
    objective = Objective(initialised(build_network(settings)), LossSettings(presence=0.5)).train()
    optimizer = build_optimizer(objective, OptimizerSettings(learning_rate=1e-2))
    batch, losses = three_lesions(), []
    for _ in range(5):
        parts = objective(batch.input.tensors(), batch.target, batch.present, {})
        optimizer.zero_grad()
        torch.stack(list(parts.values())).sum().backward()
        optimizer.step()
        losses.append(tuple(float(part.detach()) for part in parts.values()))
    expected = (
        (1.680135, 0.349399, 0.330082),
        (1.678765, 0.338982, 0.330011),
        (1.676654, 0.331312, 0.329902),
        (1.673729, 0.325813, 0.329676),
        (1.670041, 0.319669, 0.329351),
    )
    for found, wanted in zip(losses, expected, strict=True):
        assert found == pytest.approx(wanted, rel=1e-4)


def three_lesions() -> Batch:
    """One that persists, beside others, one that is gone and unmarked, one that is new and has no baseline."""
    generator = torch.Generator().manual_seed(1)
    followup = torch.rand((3, 2, 8, 16, 16), generator=generator)
    baseline = torch.rand((3, 3, 8, 16, 16), generator=generator)
    mask = torch.zeros(3, 1, 8, 16, 16)
    mask[0, :, 2:6, 4:12, 5:11] = 1
    mask[:, :, 0, 0, :2] = -1
    baseline[:, 1:2] = mask
    baseline[2], mask[2] = 0, 0
    target = torch.zeros(3, 1, 8, 16, 16)
    target[0, 0, 2:5, 4:12, 6:12] = 1
    target[2, 0, 3:6, 2:8, 2:8] = 1
    known = torch.tensor([True, True, False])
    return Batch(
        input=NetworkInput(followup=followup, baseline=baseline, has_baseline=known, prior_mask=mask.clamp(min=0)),
        target=target,
        present=torch.tensor([True, False, True]),
    )
